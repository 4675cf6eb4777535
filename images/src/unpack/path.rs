//! Members' names, and the directories they lead to.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// A member's place: its directory's path and its own name.
pub(super) struct Place {
    pub(super) parent: Vec<u8>,
    pub(super) name: Vec<u8>,
}

/// Opens a directory of the layer, symlinks in its path leading nowhere but into the layer.
pub(super) fn resolve(root: BorrowedFd<'_>, path: &[u8]) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    loop {
        let opened = fs::openat2(root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
        match opened {
            // The kernel could not rule out a rename race somewhere on the machine (openat2(2), EAGAIN).
            Err(Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Removes `.`, empty components and the leading slash; the result is relative to the layer's root.
pub(crate) fn clean(path: &[u8]) -> Result<Vec<u8>, &'static str> {
    const PATH_MAX_BYTES: usize = 4096;
    if path.is_empty() {
        return Err("has no name");
    }
    if path.contains(&0) {
        return Err("name has a NUL");
    }
    if path.len() >= PATH_MAX_BYTES {
        return Err("name is longer than 4095 bytes");
    }
    let mut cleaned = Vec::with_capacity(path.len());
    for component in path.split(|byte| *byte == b'/') {
        match component {
            b"" | b"." => continue,
            b".." => return Err("name has `..` in it"),
            _ if component.len() > 255 => return Err("name has a component longer than 255 bytes"),
            _ => {}
        }
        if !cleaned.is_empty() {
            cleaned.push(b'/');
        }
        cleaned.extend_from_slice(component);
    }
    Ok(cleaned)
}

pub(super) fn split(path: &[u8]) -> Option<Place> {
    if path.is_empty() {
        return None;
    }
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(at) => (&path[..at], &path[at + 1..]),
        None => (&b""[..], path),
    };
    Some(Place { parent: parent.to_vec(), name: name.to_vec() })
}
