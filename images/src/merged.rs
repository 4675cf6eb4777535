//! Looking something up in a root file system that is not mounted: the overlay's layers are merged while walking.
//!
//! Each step opens a single component without following it, in the descriptors of the directories that merge
//! here, so there is no path that could lead out. Symlinks are expanded by us, inside the merged tree.

use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::rc::Rc;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::whiteout;

/// As the kernel's own limit (path_resolution(7)).
const SYMLINKS_MAX: u32 = 40;

/// The directories that merge at one place, topmost first.
pub(crate) type Merged = Vec<Rc<Opened>>;

/// A file or directory of one layer. No component of `path` below the layer is a symlink.
pub(crate) struct Opened {
    pub(crate) fd: OwnedFd,
    pub(crate) path: PathBuf,
}

/// What overlayfs would show under one name.
pub(crate) enum Child {
    Directory(Merged),
    /// Anything else, with the directory of the layer it is in.
    Other(Rc<Opened>, Stat),
}

enum Entry {
    Directory(Merged),
    Symlink(Vec<u8>),
    File(Opened),
}

/// What a path leads to.
pub(crate) enum Found {
    /// The directories that merge here, topmost first; never empty.
    Directories(Vec<PathBuf>),
    /// A regular file.
    File(PathBuf),
}

/// Where in `layers` (topmost first) `path` is; `None` if it is nowhere, or neither directory nor regular file.
pub(crate) fn find(layers: &[PathBuf], path: &[u8]) -> io::Result<Option<Found>> {
    Ok(match walk(open(layers)?, path)? {
        Some(Entry::Directory(merged)) => {
            Some(Found::Directories(merged.iter().map(|directory| directory.path.clone()).collect()))
        }
        Some(Entry::File(file)) => Some(Found::File(file.path)),
        _ => None,
    })
}

/// The content of the regular file at `path` in `layers` (topmost first); `None` if there is none.
///
/// Fails with `FileTooLarge` if it is longer than `limit` bytes.
pub(crate) fn read<'a>(
    layers: impl IntoIterator<Item = &'a PathBuf>,
    path: &[u8],
    limit: u64,
) -> io::Result<Option<Vec<u8>>> {
    let Some(Entry::File(file)) = walk(open(layers)?, path)? else {
        return Ok(None);
    };
    let mut content = Vec::new();
    File::from(file.fd).take(limit + 1).read_to_end(&mut content)?;
    match content.len() as u64 > limit {
        true => Err(io::ErrorKind::FileTooLarge.into()),
        false => Ok(Some(content)),
    }
}

/// The roots of `layers`, topmost first.
pub(crate) fn open<'a>(layers: impl IntoIterator<Item = &'a PathBuf>) -> io::Result<Merged> {
    let open = |path: &PathBuf| Ok(Rc::new(Opened { fd: File::open(path)?.into(), path: path.clone() }));
    layers.into_iter().map(open).collect()
}

/// Follows `path`, every symlink in it included.
fn walk(root: Merged, path: &[u8]) -> io::Result<Option<Entry>> {
    let mut stack = vec![root];
    let mut rest = components(path);
    let mut symlinks = 0;
    while let Some(component) = rest.pop_front() {
        match &*component {
            b"." => continue,
            b".." => {
                // The root's parent is the root.
                stack.truncate((stack.len() - 1).max(1));
                continue;
            }
            _ => {}
        }
        let Some(here) = stack.last() else {
            return Ok(None);
        };
        match lookup(here, &component)? {
            None => return Ok(None),
            Some(Entry::Directory(directory)) => stack.push(directory),
            Some(file @ Entry::File(_)) => return Ok(rest.is_empty().then_some(file)),
            Some(Entry::Symlink(target)) => {
                symlinks += 1;
                if symlinks > SYMLINKS_MAX {
                    return Err(Errno::LOOP.into());
                }
                if target.starts_with(b"/") {
                    stack.truncate(1);
                }
                let mut expanded = components(&target);
                expanded.append(&mut rest);
                rest = expanded;
            }
        }
    }
    Ok(stack.pop().map(Entry::Directory))
}

fn components(path: &[u8]) -> VecDeque<Vec<u8>> {
    path.split(|byte| *byte == b'/').filter(|component| !component.is_empty()).map(<[u8]>::to_vec).collect()
}

/// Every name here that may be one in the overlay too; whiteouts are among them.
pub(crate) fn names(directories: &Merged) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for directory in directories {
        names.append(&mut names_in(&directory.fd)?);
    }
    Ok(names)
}

/// Every name in one directory.
pub(crate) fn names_in(directory: &OwnedFd) -> io::Result<BTreeSet<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.insert(name.to_vec());
        }
    }
    Ok(names)
}

/// A name in the directory `path`, which is empty for the root.
pub(crate) fn joined(path: &[u8], name: &[u8]) -> Vec<u8> {
    match path {
        b"" => name.to_vec(),
        path => [path, b"/", name].concat(),
    }
}

fn lookup(directories: &Merged, name: &[u8]) -> io::Result<Option<Entry>> {
    let (parent, stat) = match child(directories, name)? {
        Some(Child::Directory(merged)) => return Ok(Some(Entry::Directory(merged))),
        Some(Child::Other(parent, stat)) => (parent, stat),
        None => return Ok(None),
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => Ok(Some(Entry::Symlink(fs::readlinkat(&parent.fd, name, Vec::new())?.into_bytes()))),
        FileType::RegularFile => {
            let path = parent.path.join(OsStr::from_bytes(name));
            Ok(Some(Entry::File(Opened { fd: open_file(&parent, name)?, path })))
        }
        _ => Ok(None),
    }
}

/// Opens a file for reading. Not blocking, should it be a fifo by now.
pub(crate) fn open_file(parent: &Opened, name: &[u8]) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    Ok(fs::openat(&parent.fd, name, flags, Mode::empty())?)
}

/// What `name` is here, as overlayfs would show it.
pub(crate) fn child(directories: &Merged, name: &[u8]) -> io::Result<Option<Child>> {
    let mut merged = Merged::new();
    for directory in directories {
        let fd = &directory.fd;
        let Some(stat) = whiteout::entry(fd.as_fd(), name)? else {
            continue;
        };
        let opened = |fd| Opened { fd, path: directory.path.join(OsStr::from_bytes(name)) };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let below = fs::openat(fd, name, flags, Mode::empty())?;
                let opaque = whiteout::is_opaque(below.as_fd())?;
                merged.push(Rc::new(opened(below)));
                if opaque {
                    break;
                }
            }
            // Whatever is not a directory ends the merging, and is hidden itself by a directory above it.
            _ if !merged.is_empty() || whiteout::is_whiteout(fd.as_fd(), name, &stat)? => break,
            _ => return Ok(Some(Child::Other(directory.clone(), stat))),
        }
    }
    Ok((!merged.is_empty()).then_some(Child::Directory(merged)))
}
