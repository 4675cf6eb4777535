//! Whether unpacked layers are what their blobs say: each is unpacked once more, and both trees are walked side by side.

use std::error::Error;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};

use super::Damage;
use crate::diff::same_bytes;
use crate::digest::Digest;
use crate::merged::{joined, names_in};
use crate::one_line::one_line;
use crate::repair::RepairError;
use crate::store::Store;
use crate::whiteout;
use crate::xattrs::xattrs;

impl Store {
    /// Compares every layer that is there with its blob. Nothing of what it makes stays.
    pub(super) fn verify_unpacked(&self, damages: &mut Vec<Damage>) -> io::Result<()> {
        let layout = &self.inner.layout;
        for layer in layout.list_snapshots()? {
            if damages.iter().any(|damage| matches!(damage, Damage::Layer { layer: known, .. } if *known == layer)) {
                continue;
            }
            let session = layout.session()?;
            let reason = match self.make_layer(&session, &layer) {
                Ok(()) => {
                    let implied = session.snapshot_record(&layer)?.implied;
                    let documents = self.inner.documents(&layer);
                    let is_artifact = documents.is_ok_and(|documents| documents.manifest.is_artifact());
                    // An artifact's folders are only implied by its files' names.
                    let is_described = |path: &[u8]| !is_artifact && !implied.contains(path);
                    let made = File::open(session.snapshot_root(&layer))?;
                    let found = File::open(layout.snapshot(&layer).join("fs"))?;
                    difference(made.as_fd(), found.as_fd(), is_described)
                        .unwrap_or_else(|error| Some(format!("cannot be read: {error}")))
                }
                // No image has it any more: nothing says what it should be.
                Err(RepairError::NoBlob) => None,
                Err(error) => match self.is_told(&layer, damages) {
                    true => None,
                    false => {
                        let cause = error.source().map_or_else(String::new, |cause| format!(": {cause}"));
                        Some(format!("cannot be compared: {error}{cause}"))
                    }
                },
            };
            damages.extend(reason.map(|reason| Damage::Layer { layer, reason }));
        }
        Ok(())
    }

    /// Whether the blob is damaged, and that is known: then nothing is known of the layer.
    fn is_told(&self, layer: &Digest, damages: &[Damage]) -> bool {
        let Some(of) = self.layer_blob(layer) else { return false };
        !self.inner.layout.blob(&of).exists()
            || damages.iter().any(|damage| match damage {
                Damage::Content { blob, .. } | Damage::Unreadable { blob, .. } => *blob == of,
                _ => false,
            })
    }
}

/// The first path in which `found` is other than `made`, as a sentence.
fn difference(
    made: BorrowedFd<'_>,
    found: BorrowedFd<'_>,
    is_described: impl Fn(&[u8]) -> bool,
) -> io::Result<Option<String>> {
    // With an explicit stack: how deep a tree is, a layer decides.
    let mut pending: Vec<(Vec<u8>, OwnedFd, OwnedFd)> =
        vec![(Vec::new(), made.try_clone_to_owned()?, found.try_clone_to_owned()?)];
    while let Some((path, made, found)) = pending.pop() {
        let told = |path: &[u8], what: &str| Ok(Some(format!("`/{}`: {what}", one_line(path))));
        // Whose directory it is, other layers say; a layer shared by several images keeps the first one's.
        if is_described(&path)
            && let Some(what) = other_attributes(&fs::fstat(&made)?, &fs::fstat(&found)?, true)
        {
            return told(&path, what);
        }
        if xattrs(&made)? != xattrs(&found)? {
            return told(&path, "has other extended attributes than in its archive");
        }
        let (wanted, present) = (names_in(&made)?, names_in(&found)?);
        if let Some(name) = wanted.symmetric_difference(&present).next() {
            let what = if wanted.contains(name) { "is missing" } else { "is not in its archive" };
            return told(&joined(&path, name), what);
        }
        for name in wanted {
            let path = joined(&path, &name);
            let (Some(expected), Some(stat)) = (entry(&made, &name)?, entry(&found, &name)?) else {
                return told(&path, "went away meanwhile");
            };
            let kind = FileType::from_raw_mode(expected.st_mode);
            if kind != FileType::from_raw_mode(stat.st_mode) {
                return told(&path, "is of another kind than in its archive");
            }
            if kind == FileType::Directory {
                pending.push((path, open(&made, &name, OFlags::DIRECTORY)?, open(&found, &name, OFlags::DIRECTORY)?));
                continue;
            }
            // A whiteout has the time of its making.
            let is_timed = !whiteout::is_whiteout(made.as_fd(), &name, &expected)?;
            if let Some(what) = other_attributes(&expected, &stat, is_timed) {
                return told(&path, what);
            }
            let is_same = match kind {
                FileType::RegularFile => {
                    let (made, found) = (open(&made, &name, OFlags::NONBLOCK)?, open(&found, &name, OFlags::NONBLOCK)?);
                    if xattrs(&made)? != xattrs(&found)? {
                        return told(&path, "has other extended attributes than in its archive");
                    }
                    same_bytes(made.into(), found.into())?
                }
                FileType::Symlink => target(&made, &name)? == target(&found, &name)?,
                _ => expected.st_rdev == stat.st_rdev,
            };
            if !is_same {
                return told(&path, "has another content than in its archive");
            }
        }
    }
    Ok(None)
}

fn other_attributes(made: &Stat, found: &Stat, is_timed: bool) -> Option<&'static str> {
    if (made.st_uid, made.st_gid) != (found.st_uid, found.st_gid) {
        return Some("has another owner than in its archive");
    }
    if made.st_mode != found.st_mode {
        return Some("has another mode than in its archive");
    }
    let is_directory = FileType::from_raw_mode(made.st_mode) == FileType::Directory;
    if !is_directory && made.st_size != found.st_size {
        return Some("has another size than in its archive");
    }
    let time = |stat: &Stat| (stat.st_mtime, stat.st_mtime_nsec);
    (is_timed && time(made) != time(found)).then_some("has another time than in its archive")
}

fn entry(directory: &OwnedFd, name: &[u8]) -> io::Result<Option<Stat>> {
    Ok(whiteout::entry(directory.as_fd(), name)?)
}

fn open(directory: &OwnedFd, name: &[u8], more: OFlags) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | more;
    Ok(fs::openat(directory, name, flags, Mode::empty())?)
}

fn target(directory: &OwnedFd, name: &[u8]) -> io::Result<Vec<u8>> {
    Ok(fs::readlinkat(directory, name, Vec::new())?.into_bytes())
}
