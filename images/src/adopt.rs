//! Directories that a layer implies but does not describe (`usr/bin/tool` without a member for `usr/bin`).
//!
//! In an overlay the topmost directory's owner, mode and times win, so such a directory would hide those of the
//! layer below: a `/tmp` of mode 0755. It is given the attributes of the next layer that has it. A layer shared by
//! images with different bases keeps those of the first.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::layout::Session;
use crate::unpack::ImpliedDirectories;

/// Completes the snapshots that `session` made; `diff_ids` are the image's layers, base first.
pub(crate) fn implied_directories(session: &Session, diff_ids: &[Digest]) -> io::Result<()> {
    for (at, diff_id) in diff_ids.iter().enumerate() {
        if !session.made_snapshot(diff_id) {
            continue;
        }
        let own = File::open(session.snapshot_root(diff_id))?;
        let below: Vec<File> = diff_ids[..at]
            .iter()
            .rev()
            .filter(|lower| *lower != diff_id)
            // One that is being removed at this moment makes publishing start again.
            .filter_map(|lower| File::open(session.snapshot_root(lower)).ok())
            .collect();
        from_below(&own, &below, session.snapshot_record(diff_id)?.implied)?;
    }
    Ok(())
}

/// Gives the `implied` directories of a layer the attributes that they have in those below it, topmost first.
pub(crate) fn from_below(own: &File, below: &[File], implied: ImpliedDirectories) -> io::Result<()> {
    for path in implied {
        if let Some(described) = find(below, &path)?
            && let Some(directory) = open(own, &path)?
        {
            copy_attributes(&described, &directory)?;
        }
    }
    Ok(())
}

/// The topmost of `layers` that has the directory, unless it is hidden on the way.
fn find(layers: &[File], path: &[u8]) -> io::Result<Option<OwnedFd>> {
    for layer in layers {
        match open(layer, path) {
            Ok(None) => {}
            Ok(found) => return Ok(found),
            // A whiteout or a file in its place.
            Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

fn open(layer: &File, path: &[u8]) -> io::Result<Option<OwnedFd>> {
    let path = if path.is_empty() { b"." } else { path };
    let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    match fs::openat2(layer, path, flags, Mode::empty(), resolve) {
        Ok(directory) => Ok(Some(directory)),
        Err(Errno::NOENT | Errno::LOOP) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let stat = fs::fstat(from)?;
    let to = to.as_fd();
    fs::fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    let time = Timespec { tv_sec: stat.st_mtime, tv_nsec: stat.st_mtime_nsec as i64 };
    Ok(fs::futimens(to, &Timestamps { last_access: time, last_modification: time })?)
}
