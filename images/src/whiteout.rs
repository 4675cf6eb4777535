//! Whiteouts: from the archive's file names (image-spec, "Whiteouts") to overlayfs' own form.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Mode, Stat, XattrFlags};
use rustix::io::Errno;

/// overlayfs reads "nothing of the lower directories shows here" from this attribute.
pub(crate) const OPAQUE_XATTR: &str = "trusted.overlay.opaque";

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

/// Makes overlayfs' whiteout, a character device 0:0.
pub(crate) fn create(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    rustix::fs::mknodat(parent, name, FileType::CharacterDevice, Mode::empty(), 0)
}

/// Makes `directory` hide what lies beneath it.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    rustix::fs::fsetxattr(directory, OPAQUE_XATTR, b"y", XattrFlags::empty())
}

/// Whether `directory` hides what lies beneath it.
pub(crate) fn is_opaque(directory: BorrowedFd<'_>) -> Result<bool, Errno> {
    let mut value = [0u8; 4];
    match rustix::fs::fgetxattr(directory, OPAQUE_XATTR, &mut value) {
        Ok(length) => Ok(&value[..length] == b"y"),
        Err(Errno::NODATA | Errno::OPNOTSUPP) => Ok(false),
        // A value too long for the buffer is not "y".
        Err(Errno::RANGE) => Ok(false),
        Err(error) => Err(error),
    }
}

pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// What `name` in `parent` is, without following it; `None` if there is nothing.
pub(crate) fn entry(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
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
