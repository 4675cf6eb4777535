//! A root file system where overlayfs cannot be used: the image's layers are merged by copying them.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, SeekFrom, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::merged::{self, Child, Merged, Opened, joined};
use crate::whiteout;
use crate::xattrs::{self, xattrs};

/// Copies what `layers` (topmost first) show together into the directory `to`, which must be empty. Contents are
/// shared with the layers where the file system can do it.
pub(super) fn copy(layers: &[PathBuf], to: &Path) -> io::Result<()> {
    let root: OwnedFd = File::open(to)?.into();
    let mut copy = Copy { root: root.try_clone()?, links: HashMap::new() };
    // With an explicit stack: how deep a tree is, a layer decides.
    let mut stack = vec![Directory::enter(merged::open(layers)?, root, Vec::new())?];
    while let Some(directory) = stack.last_mut() {
        let Some(name) = directory.names.next() else {
            directory.finish()?;
            stack.pop();
            continue;
        };
        match merged::child(&directory.from, &name)? {
            None => {}
            Some(Child::Directory(below)) => {
                fs::mkdirat(&directory.to, &*name, Mode::RWXU)?;
                let to = open_directory(directory.to.as_fd(), &name)?;
                let path = joined(&directory.path, &name);
                stack.push(Directory::enter(below, to, path)?);
            }
            Some(Child::Other(parent, stat)) => copy.other(&parent, &stat, directory, &name)?,
        }
    }
    Ok(())
}

/// One that is being filled. Its attributes come last: filling it changes its times.
struct Directory {
    from: Merged,
    to: OwnedFd,
    /// From the root; empty for the root itself.
    path: Vec<u8>,
    names: std::collections::btree_set::IntoIter<Vec<u8>>,
}

impl Directory {
    fn enter(from: Merged, to: OwnedFd, path: Vec<u8>) -> io::Result<Self> {
        Ok(Self { names: merged::names(&from)?.into_iter(), from, to, path })
    }

    /// As the topmost layer that has it.
    fn finish(&self) -> io::Result<()> {
        match self.from.first() {
            Some(top) => attributes(top.fd.as_fd(), self.to.as_fd(), &fs::fstat(&top.fd)?),
            None => Ok(()),
        }
    }
}

struct Copy {
    root: OwnedFd,
    /// Where files with several names have got their first: by device and inode of the layer's.
    links: HashMap<(u64, u64), Vec<u8>>,
}

impl Copy {
    fn other(&mut self, parent: &Rc<Opened>, stat: &Stat, directory: &Directory, name: &[u8]) -> io::Result<()> {
        let inode = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&inode) {
                return self.link(first, directory.to.as_fd(), name);
            }
            self.links.insert(inode, joined(&directory.path, name));
        }
        let to = directory.to.as_fd();
        let kind = FileType::from_raw_mode(stat.st_mode);
        match kind {
            FileType::RegularFile => {
                let from = merged::open_file(parent, name)?;
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let made = fs::openat(to, name, flags, Mode::RUSR | Mode::WUSR)?;
                let (from, made) = (File::from(from), File::from(made));
                content(&from, &made, stat.st_size as u64)?;
                return attributes(from.as_fd(), made.as_fd(), stat);
            }
            FileType::Symlink => {
                let target = fs::readlinkat(&parent.fd, name, Vec::new())?;
                fs::symlinkat(&target, to, name)?;
            }
            FileType::Socket => return Ok(()),
            kind => fs::mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
        }
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
        if kind != FileType::Symlink {
            // The node was made just now, in a directory that nobody else can reach: no link is followed.
            fs::chmodat(to, name, Mode::from_raw_mode(stat.st_mode), AtFlags::empty())?;
        }
        Ok(fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// A further name of what was copied already.
    fn link(&self, first: &[u8], to: BorrowedFd<'_>, name: &[u8]) -> io::Result<()> {
        let (parent, first) = match first.iter().rposition(|byte| *byte == b'/') {
            Some(at) => (&first[..at], &first[at + 1..]),
            None => (&b"."[..], first),
        };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let parent = fs::openat2(&self.root, parent, flags, Mode::empty(), resolve)?;
        Ok(fs::linkat(&parent, first, to, name, AtFlags::empty())?)
    }
}

/// Copies the `size` bytes of a file, its holes as holes.
fn content(from: &File, to: &File, size: u64) -> io::Result<()> {
    if size == 0 || fs::ioctl_ficlone(to, from).is_ok() {
        return Ok(());
    }
    fs::ftruncate(to, size)?;
    let mut at = 0;
    while at < size {
        let (start, end) = match fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => (start, fs::seek(from, SeekFrom::Hole(start))?),
            // Nothing but a hole to the end.
            Err(Errno::NXIO) => return Ok(()),
            // A file system that knows no holes.
            Err(Errno::INVAL) => (at, size),
            Err(errno) => return Err(errno.into()),
        };
        fs::seek(from, SeekFrom::Start(start))?;
        fs::seek(to, SeekFrom::Start(start))?;
        io::copy(&mut from.take(end - start), &mut &*to)?;
        at = end;
    }
    Ok(())
}

/// Owner before mode, because chown clears setuid; both clear file capabilities, which are extended attributes.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, stat: &Stat) -> io::Result<()> {
    fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    for (name, value) in xattrs(from)? {
        if !whiteout::is_mark(&name) {
            xattrs::set(to, &name, &value)?;
        }
    }
    Ok(fs::futimens(to, &times(stat))?)
}

fn times(stat: &Stat) -> Timestamps {
    let modified = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as _ };
    Timestamps { last_access: modified, last_modification: modified }
}

fn open_directory(parent: BorrowedFd<'_>, name: &[u8]) -> io::Result<OwnedFd> {
    Ok(fs::openat(parent, name, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}
