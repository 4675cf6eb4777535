//! What a container has changed of its image, or one image has other than another: the two trees are walked side by
//! side, layers merged as overlayfs would, and passed over where both stand on the same directories.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use rustix::fs::{FileType, Stat};

use crate::image::Image;
use crate::merged::{self, Child, Merged};
use crate::snapshot::{RootFs, SnapshotError};
use crate::store::Store;

/// One path that is not as it was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// From the root, `/etc/motd`; any bytes.
    pub path: Vec<u8>,
    pub kind: ChangeKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    Added,
    /// Its content or attributes; of a directory, something in it too.
    Changed,
    /// With everything in it, if it was a directory.
    Deleted,
}

#[derive(Debug, thiserror::Error)]
pub enum DiffError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error("container {0}: has no writable layer")]
    NoContainer(String),
    #[error("compare {object}")]
    Io {
        object: String,
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// What the container has written, by path. Blocking; a container at work may change it meanwhile.
    pub fn container_changes(&self, container_id: &str) -> Result<Vec<Change>, DiffError> {
        let root = self.snapshot(container_id)?.ok_or_else(|| DiffError::NoContainer(container_id.to_owned()))?;
        let failed = |source| DiffError::Io { object: format!("container {container_id} with its image"), source };
        let (old, new) = match &root {
            RootFs::Overlay(mount) => {
                let old = merged::open(&mount.lower).map_err(failed)?;
                let upper = merged::open([&mount.upper]).map_err(failed)?;
                let new: Merged = upper.into_iter().chain(old.iter().cloned()).collect();
                (old, new)
            }
            RootFs::Copy { root, of } => (merged::open(of).map_err(failed)?, merged::open([root]).map_err(failed)?),
        };
        changes(&old, &new).map_err(failed)
    }

    /// What `new` has other than `old`, by path. Both must be unpacked.
    pub fn image_changes(&self, old: &Image, new: &Image) -> Result<Vec<Change>, DiffError> {
        let failed = |source| DiffError::Io { object: format!("image {} with {}", old.id, new.id), source };
        let open = |image: &Image| merged::open(&self.layer_directories(image)).map_err(failed);
        changes(&open(old)?, &open(new)?).map_err(failed)
    }
}

fn changes(old: &Merged, new: &Merged) -> io::Result<Vec<Change>> {
    let mut changes = Vec::new();
    compare(old, new, b"", &mut changes)?;
    changes.sort();
    Ok(changes)
}

/// Whether anything below differs.
fn compare(old: &Merged, new: &Merged, path: &[u8], changes: &mut Vec<Change>) -> io::Result<bool> {
    if old.len() == new.len() && old.iter().zip(new).all(|(old, new)| old.path == new.path) {
        return Ok(false);
    }
    let before = changes.len();
    let names: BTreeSet<Vec<u8>> = merged::names(old)?.into_iter().chain(merged::names(new)?).collect();
    for name in names {
        let path = [path, b"/", &name].concat();
        let kind = match (merged::child(old, &name)?, merged::child(new, &name)?) {
            (None, None) => None,
            (Some(_), None) => Some(ChangeKind::Deleted),
            (None, Some(child)) => {
                add_all(&child, &path, changes)?;
                Some(ChangeKind::Added)
            }
            (Some(Child::Directory(old)), Some(Child::Directory(new))) => {
                let is_changed = compare(&old, &new, &path, changes)? || !same_directory(&old, &new)?;
                is_changed.then_some(ChangeKind::Changed)
            }
            (Some(Child::Other(old, old_stat)), Some(Child::Other(new, new_stat))) => {
                let is_same = (old.path == new.path)
                    || (same_attributes(&old_stat, &new_stat) && same_content(&old, &new, &name, &new_stat)?);
                (!is_same).then_some(ChangeKind::Changed)
            }
            // A directory in the place of something else, or the other way round.
            (Some(_), Some(child)) => {
                add_all(&child, &path, changes)?;
                Some(ChangeKind::Changed)
            }
        };
        changes.extend(kind.map(|kind| Change { path, kind }));
    }
    Ok(changes.len() > before)
}

/// Everything below a directory that is new.
fn add_all(child: &Child, path: &[u8], changes: &mut Vec<Change>) -> io::Result<()> {
    let Child::Directory(directory) = child else {
        return Ok(());
    };
    for name in merged::names(directory)? {
        if let Some(child) = merged::child(directory, &name)? {
            let path = [path, b"/", &name].concat();
            add_all(&child, &path, changes)?;
            changes.push(Change { path, kind: ChangeKind::Added });
        }
    }
    Ok(())
}

/// Of a directory the time says only that something in it came or went, which is seen there.
fn same_directory(old: &Merged, new: &Merged) -> io::Result<bool> {
    let (Some(old), Some(new)) = (old.first(), new.first()) else {
        return Ok(false);
    };
    let (old, new) = (rustix::fs::fstat(&old.fd)?, rustix::fs::fstat(&new.fd)?);
    Ok((old.st_mode, old.st_uid, old.st_gid) == (new.st_mode, new.st_uid, new.st_gid))
}

fn same_attributes(old: &Stat, new: &Stat) -> bool {
    let all = |stat: &Stat| {
        (stat.st_mode, stat.st_uid, stat.st_gid, stat.st_size, stat.st_rdev, stat.st_mtime, stat.st_mtime_nsec)
    };
    all(old) == all(new)
}

/// Of two with the same attributes: reproducible builds give every file the same time.
fn same_content(old: &merged::Opened, new: &merged::Opened, name: &[u8], stat: &Stat) -> io::Result<bool> {
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {
            let target = |parent: &merged::Opened| rustix::fs::readlinkat(&parent.fd, name, Vec::new());
            Ok(target(old)? == target(new)?)
        }
        FileType::RegularFile => {
            let open = |parent| merged::open_file(parent, name).map(File::from);
            same_bytes(open(old)?, open(new)?)
        }
        _ => Ok(true),
    }
}

pub(crate) fn same_bytes(mut old: File, mut new: File) -> io::Result<bool> {
    let mut pieces = [vec![0; 64 << 10], vec![0; 64 << 10]];
    loop {
        let length = old.read(&mut pieces[0])?;
        let (ours, theirs) = pieces.split_at_mut(1);
        match new.read_exact(&mut theirs[0][..length]) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        if ours[0][..length] != theirs[0][..length] {
            return Ok(false);
        }
        if length == 0 {
            return Ok(new.read(&mut theirs[0])? == 0);
        }
    }
}
