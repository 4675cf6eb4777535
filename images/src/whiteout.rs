//! Whiteouts: from the archive's file names (image-spec, "Whiteouts") to overlayfs' own form.
//!
//! Some file systems do not take that form; overlayfs itself is one. There a whiteout is an empty file and an opaque
//! directory one like any other, both with an attribute of ours, and layers are not mounted but copied.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

/// overlayfs reads "nothing of the lower directories shows here" from this attribute.
const OPAQUE_XATTR: &str = "trusted.overlay.opaque";
/// The same in our own form.
const OWN_OPAQUE_XATTR: &str = "user.wharf.opaque";
/// What makes an empty file a whiteout in our own form.
const OWN_WHITEOUT_XATTR: &str = "user.wharf.whiteout";

const PREFIX: &[u8] = b".wh.";
const OPAQUE_NAME: &[u8] = b".wh..wh..opq";
/// aufs' own bookkeeping (`.wh..wh.plnk`, `.wh..wh.aufs`), which old images still carry.
const AUFS_PREFIX: &[u8] = b".wh..wh.";

/// What a member's file name means.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Name<'a> {
    Plain,
    /// Hides this name of the layers below.
    Whiteout(&'a [u8]),
    /// Hides everything in this directory that the layers below have.
    Opaque,
    /// Means nothing here.
    Skip,
    /// A whiteout of nothing, or of a directory's `.` or `..`.
    Invalid,
}

/// Reads a file name (one component).
pub(crate) fn parse(name: &[u8]) -> Name<'_> {
    match name.strip_prefix(PREFIX) {
        None => Name::Plain,
        Some(_) if name == OPAQUE_NAME => Name::Opaque,
        Some(_) if name.starts_with(AUFS_PREFIX) => Name::Skip,
        Some(b"" | b"." | b"..") => Name::Invalid,
        Some(hidden) => Name::Whiteout(hidden),
    }
}

/// In which form something hidden was written down.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Overlay,
    /// Which overlayfs would show as it is.
    Own,
}

/// Hides `name`, which is not in `parent`: by overlayfs' whiteout, a character device 0:0, where there can be one.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Form, Errno> {
    match fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0) {
        Ok(()) => return Ok(Form::Overlay),
        Err(Errno::PERM | Errno::OPNOTSUPP) => {}
        Err(errno) => return Err(errno),
    }
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let file = fs::openat(parent, name, flags, Mode::empty())?;
    fs::fsetxattr(&file, OWN_WHITEOUT_XATTR, b"y", XattrFlags::empty())?;
    Ok(Form::Own)
}

/// Makes `directory` hide what lies beneath it.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> Result<Form, Errno> {
    match fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty()) {
        Ok(()) => Ok(Form::Overlay),
        Err(Errno::PERM | Errno::OPNOTSUPP) => {
            fs::fsetxattr(directory, OWN_OPAQUE_XATTR, b"y", XattrFlags::empty())?;
            Ok(Form::Own)
        }
        Err(errno) => Err(errno),
    }
}

/// Whether `directory` hides what lies beneath it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(is_marked(directory, OPAQUE_XATTR)? || is_marked(directory, OWN_OPAQUE_XATTR)?)
}

fn is_marked(file: BorrowedFd<'_>, name: &str) -> Result<bool, Errno> {
    let mut value = [0u8; 4];
    match fs::fgetxattr(file, name, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        // A value too long for the buffer is not "y".
        Err(Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether `name` in `parent`, of which `stat` tells, is a whiteout.
pub(crate) fn is_whiteout(parent: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<bool, Errno> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::CharacterDevice => Ok(stat.st_rdev == 0),
        FileType::RegularFile if stat.st_size == 0 && stat.st_mode & 0o7777 == 0 => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            is_marked(fs::openat(parent, name, flags, Mode::empty())?.as_fd(), OWN_WHITEOUT_XATTR)
        }
        _ => Ok(false),
    }
}

/// Whether an extended attribute of this name means something to overlayfs or to us: no archive may bring one.
pub(crate) fn is_mark(name: &[u8]) -> bool {
    [&b"trusted.overlay."[..], b"user.overlay.", b"user.wharf."].iter().any(|prefix| name.starts_with(prefix))
}

/// What `name` in `parent` is, without following it; `None` if there is nothing.
pub(crate) fn entry(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_the_image_spec_says() {
        assert_eq!(parse(b"a.wh.b"), Name::Plain);
        assert_eq!(parse(b".wh.a"), Name::Whiteout(b"a"));
        assert_eq!(parse(b".wh..hidden"), Name::Whiteout(b".hidden"));
        assert_eq!(parse(b".wh..wh..opq"), Name::Opaque);
        assert_eq!(parse(b".wh..wh.plnk"), Name::Skip);
        for bad in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(parse(bad), Name::Invalid);
        }
    }
}
