//! Mount targets: found in the root, or made there, one component at a time.

use crate::handshake::{At, Failure, Step};
use crate::plan::Mount;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use wharf_sys::{errno, fs};

/// Mode of directories made for mounts.
const DIRECTORY_MODE: u32 = 0o755;
/// Mode of files made for mounts.
const FILE_MODE: u32 = 0o644;

/// Opens `path` in the root, made if it is missing, as a place to mount a directory or a file on.
pub(crate) fn prepare(root: BorrowedFd<'_>, path: &CStr, directory: bool) -> Result<OwnedFd, Failure> {
    let open = || -> io::Result<OwnedFd> {
        let found = match fs::open_in_root(root, path, fs::O_PATH, 0) {
            Err(error) if error.raw_os_error() == Some(errno::ENOENT) => make_last(root, path, directory)?,
            other => other?,
        };
        // The kernel would say EINVAL to either.
        match (fs::status(found.as_fd())?.is(fs::S_IFDIR), directory) {
            (true, false) => Err(errno::error(errno::EISDIR)),
            (false, true) => Err(errno::error(errno::ENOTDIR)),
            _ => Ok(found),
        }
    };
    open().at(Step::MountTarget, shown(path))
}

/// The place of a mount of the configuration.
pub(crate) fn prepare_for(root: BorrowedFd<'_>, mount: &Mount, directory: bool) -> Result<OwnedFd, Failure> {
    let path = mount.destination.as_c_str();
    if !mount.destination_nofollow {
        return prepare(root, path, directory);
    }
    let open = || {
        let (parent, name) = parent(root, path)?;
        let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_MAGICLINKS;
        match fs::open_at(Some(parent.as_fd()), &name, fs::O_PATH | fs::O_NOFOLLOW, 0, resolve) {
            Err(error) if error.raw_os_error() == Some(errno::ENOENT) => make_one(parent.as_fd(), &name, directory),
            result => result,
        }
    };
    open().at(Step::MountTarget, shown(path))
}

/// Opens the parent of `path` in the root, made if it is missing, and the name in it.
pub(crate) fn parent(root: BorrowedFd<'_>, path: &CStr) -> io::Result<(OwnedFd, CString)> {
    let (parent, name) = split(path);
    let directory = match fs::open_in_root(root, &parent, fs::O_PATH | fs::O_DIRECTORY, 0) {
        Err(error) if error.raw_os_error() == Some(errno::ENOENT) => make(root, &parent, true, 0)?,
        other => other?,
    };
    Ok((directory, name))
}

/// Makes what is missing of a path, which most often is its last component alone.
fn make_last(root: BorrowedFd<'_>, path: &CStr, directory: bool) -> io::Result<OwnedFd> {
    let (parent, name) = split(path);
    if let Ok(parent) = fs::open_in_root(root, &parent, fs::O_PATH | fs::O_DIRECTORY, 0)
        && !matches!(name.to_bytes(), b"" | b"." | b"..")
        && fs::read_link_at(Some(parent.as_fd()), &name).is_err_and(|error| error.raw_os_error() == Some(errno::ENOENT))
    {
        return make_one(parent.as_fd(), &name, directory);
    }
    make(root, path, directory, 0)
}

/// Makes what is missing of a path. A dangling symbolic link is followed inside the root, and its target made.
fn make(root: BorrowedFd<'_>, path: &CStr, directory: bool, links: u32) -> io::Result<OwnedFd> {
    /// As many as the kernel follows in one path.
    const MAX_LINKS: u32 = 40;
    if links > MAX_LINKS {
        return Err(errno::error(errno::ELOOP));
    }
    let mut prefix = Vec::new();
    let mut current = fs::open_in_root(root, c"/", fs::O_PATH | fs::O_DIRECTORY, 0)?;
    let bytes = path.to_bytes();
    let components: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'/').filter(|part| !part.is_empty() && *part != b".").collect();
    for (index, component) in components.iter().enumerate() {
        let last = index + 1 == components.len();
        prefix.push(b'/');
        prefix.extend_from_slice(component);
        // Resolved from the root each time, so that symbolic links and `..` mean what they mean to the container.
        let here = CString::new(prefix.clone()).map_err(|_| errno::error(errno::EINVAL))?;
        match fs::open_in_root(root, &here, fs::O_PATH, 0) {
            Ok(next) => current = next,
            Err(error) if error.raw_os_error() == Some(errno::ENOENT) => {
                let name = CString::new(component.to_vec()).map_err(|_| errno::error(errno::EINVAL))?;
                if let Ok(target) = fs::read_link_at(Some(current.as_fd()), &name) {
                    prefix.truncate(prefix.len() - component.len());
                    if target.is_absolute() {
                        prefix.clear();
                    }
                    prefix.extend_from_slice(target.as_os_str().as_bytes());
                    for rest in &components[index + 1..] {
                        prefix.push(b'/');
                        prefix.extend_from_slice(rest);
                    }
                    let followed = CString::new(prefix).map_err(|_| errno::error(errno::EINVAL))?;
                    return match fs::open_in_root(root, &followed, fs::O_PATH, 0) {
                        Err(error) if error.raw_os_error() == Some(errno::ENOENT) => {
                            make(root, &followed, directory, links + 1)
                        }
                        other => other,
                    };
                }
                current = make_one(current.as_fd(), &name, directory || !last)?;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(current)
}

/// Makes one component that is missing and is no symbolic link.
fn make_one(parent: BorrowedFd<'_>, name: &CStr, directory: bool) -> io::Result<OwnedFd> {
    if !directory {
        return file(parent, name, FILE_MODE);
    }
    match fs::mkdir_at(parent, name, DIRECTORY_MODE) {
        Err(error) if error.raw_os_error() != Some(errno::EEXIST) => return Err(error),
        _ => {}
    }
    place(parent, name)
}

/// The place of a file to mount on, made if it is missing. It is not opened: what a container has put there may be a
/// pipe, which would wait for its other end, or a device.
pub(crate) fn file(parent: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<OwnedFd> {
    match fs::mknod_at(parent, name, fs::S_IFREG | mode, 0, 0) {
        Err(error) if error.raw_os_error() != Some(errno::EEXIST) => return Err(error),
        _ => {}
    }
    place(parent, name)
}

/// Opens `name` as a place; a symbolic link is refused with `ELOOP`.
fn place(parent: BorrowedFd<'_>, name: &CStr) -> io::Result<OwnedFd> {
    let flags = fs::O_PATH | fs::O_NOFOLLOW;
    let place = fs::open_at(Some(parent), name, flags, 0, fs::RESOLVE_BENEATH | fs::RESOLVE_NO_SYMLINKS)?;
    if fs::status(place.as_fd())?.is(fs::S_IFLNK) { Err(errno::error(errno::ELOOP)) } else { Ok(place) }
}

/// Parent directory and last component of an absolute path.
pub(crate) fn split(path: &CStr) -> (CString, CString) {
    let bytes = path.to_bytes();
    let end = bytes.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
    let bytes = &bytes[..end];
    let at = bytes.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let text = |bytes: &[u8]| CString::new(bytes).expect("a part of a C string has no NUL");
    let parent = if at == 0 { b"/" } else { &bytes[..at] };
    (text(parent), text(&bytes[(at + 1).min(bytes.len())..]))
}

/// A path as messages show it.
pub(crate) fn shown(path: &CStr) -> String {
    path.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_split_at_the_last_component() {
        for (path, parent, name) in [(c"/dev/null", c"/dev", c"null"), (c"/x", c"/", c"x"), (c"/a/b/", c"/a", c"b")] {
            assert_eq!(split(path), (parent.to_owned(), name.to_owned()));
        }
    }

    #[test]
    fn targets_are_made_inside_the_root_whatever_links_say() {
        let directory = tempfile::tempdir().expect("temp dir");
        std::os::unix::fs::symlink("/etc", directory.path().join("link")).expect("symlink");
        let root = OwnedFd::from(std::fs::File::open(directory.path()).expect("open"));
        std::fs::create_dir(directory.path().join("etc")).expect("mkdir");
        prepare(root.as_fd(), c"/link/wharf-made/file", false).expect("prepare");
        assert!(directory.path().join("etc/wharf-made/file").is_file());
        assert!(!std::path::Path::new("/etc/wharf-made").exists());
        std::os::unix::fs::symlink("/made/by/link", directory.path().join("dangling")).expect("symlink");
        prepare(root.as_fd(), c"/dangling/file", false).expect("prepare");
        assert!(directory.path().join("made/by/link/file").is_file());
        std::os::unix::fs::symlink("loop", directory.path().join("loop")).expect("symlink");
        assert!(prepare(root.as_fd(), c"/loop/x", true).is_err());
        prepare(root.as_fd(), c"/../../up/dir", true).expect("prepare");
        assert!(directory.path().join("up/dir").is_dir());
    }
}
