//! Root file systems for containers: the image's unpacked layers below, a writable layer on top.
//!
//! Nothing is mounted here. The container's own child mounts the overlay in its own mount namespace, so no mount
//! can be left behind by anyone. Where overlayfs cannot be used, the layers are copied.

mod copy;
mod overlay;
mod volume;

use std::collections::HashSet;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use wharf_specs::config::SnapshotMode;
use wharf_specs::id::{ContainerId, InvalidId};

use crate::digest::Digest;
use crate::image::Image;
use crate::one_line::OneLine;
use crate::store::{Store, StoreError, Usage, at};

pub use volume::ImageVolume;

/// The three parts of an overlay mount.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OverlayMount {
    /// Read-only directories, the topmost first; never empty.
    pub lower: Vec<PathBuf>,
    pub upper: PathBuf,
    pub work: PathBuf,
}

/// What a container finds at `/`, in one of two forms.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootFs {
    Overlay(OverlayMount),
    /// A directory of the container's own with all that the layers `of`, the topmost first, show together.
    Copy {
        root: PathBuf,
        of: Vec<PathBuf>,
    },
}

impl RootFs {
    /// What to mount, if it is not a directory already.
    pub fn overlay(&self) -> Option<&OverlayMount> {
        match self {
            Self::Overlay(mount) => Some(mount),
            Self::Copy { .. } => None,
        }
    }

    /// Where the container writes: nothing else is beside it but what belongs to the container.
    pub fn writable(&self) -> &Path {
        match self {
            Self::Overlay(mount) => &mount.upper,
            Self::Copy { root, .. } => root,
        }
    }

    /// The directories that together are what the container sees, the topmost first.
    pub(crate) fn layers(&self) -> impl Iterator<Item = &PathBuf> {
        let (top, below) = match self {
            Self::Overlay(mount) => (&mount.upper, &mount.lower[..]),
            Self::Copy { root, .. } => (root, &[][..]),
        };
        [top].into_iter().chain(below)
    }
}

/// A writable layer that exists, for the daemon to compare with the containers it knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prepared {
    pub container_id: String,
    /// The image it was prepared from; `None` if preparing it was cut short.
    pub image: Option<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    #[error(transparent)]
    Id(#[from] InvalidId),
    #[error("container {0}: has a writable layer already")]
    Exists(String),
    #[error("container {container}: layer {diff_id} of image {image} is not in the store, pull it again")]
    LayerMissing { container: String, image: Digest, diff_id: Digest },
    #[error("container {0}: has no writable layer")]
    NotPrepared(String),
    #[error("container {container}: sub-path `{}` of image {image}: {problem}", OneLine(.sub_path))]
    SubPath { container: String, image: Digest, sub_path: String, problem: &'static str },
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Written beside each writable layer: what it stands on. Its image volumes have such records too.
#[derive(Clone, Serialize, Deserialize)]
struct Record {
    image: Digest,
    diff_ids: Vec<Digest>,
    #[serde(default)]
    is_copy: bool,
}

impl Store {
    /// Makes the writable layer of a new container and tells how to mount it on the layers of `image`, which
    /// cannot be removed until [`Store::remove_snapshot`]. Copies them where overlayfs cannot be used.
    pub fn prepare(&self, container_id: &str, image: &Image) -> Result<RootFs, SnapshotError> {
        let id = ContainerId::parse(container_id)?;
        let dir = self.inner.layout.containers().join(&id);
        let failed = at("prepare", &dir);
        let is_copy = self.must_copy(&image.diff_ids)?;
        let lock = self.inner.layout.lock_shared().map_err(&failed)?;
        let record = Record { image: image.id, diff_ids: image.diff_ids.clone(), is_copy };
        let root = self.root_fs(&dir, &record);
        self.check_layers(container_id, &record)?;
        let mut private = DirBuilder::new();
        private.mode(0o700);
        match private.create(&dir) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(SnapshotError::Exists(container_id.into()));
            }
            other => other.map_err(&failed)?,
        }
        let made = (|| {
            // Not synced: after a power loss there is no container either.
            let write = || fs::write(dir.join("image.json"), serde_json::to_vec(&record).map_err(io::Error::other)?);
            if record.diff_ids.is_empty() {
                // overlayfs wants one lower directory at least.
                DirBuilder::new().mode(0o755).create(dir.join("empty"))?;
            }
            match &root {
                RootFs::Overlay(mount) => {
                    private.create(&mount.work)?;
                    private.create(&mount.upper)?;
                    // The merged root takes its owner and mode from the upper directory.
                    let root = fs::metadata(&mount.lower[0])?;
                    std::os::unix::fs::chown(&mount.upper, Some(root.uid()), Some(root.gid()))?;
                    fs::set_permissions(&mount.upper, fs::Permissions::from_mode(root.mode() & 0o7777))?;
                    write()
                }
                RootFs::Copy { root, of } => {
                    private.create(root)?;
                    // The record keeps the layers; others need not wait.
                    write()?;
                    drop(lock);
                    copy::copy(of, root)
                }
            }
        })();
        if let Err(error) = made {
            // The error at hand says more than a second one.
            let _ = fs::remove_dir_all(&dir);
            return Err(failed(error).into());
        }
        Ok(root)
    }

    /// What [`Store::prepare`] made; `None` if there is no such container.
    pub fn snapshot(&self, container_id: &str) -> Result<Option<RootFs>, SnapshotError> {
        let dir = self.inner.layout.containers().join(ContainerId::parse(container_id)?);
        Ok(read_record(&dir).map_err(at("read snapshot", &dir))?.map(|record| self.root_fs(&dir, &record)))
    }

    /// Removes a container's writable layer with all it holds. One that is not there is no error.
    pub fn remove_snapshot(&self, container_id: &str) -> Result<(), SnapshotError> {
        let dir = self.inner.layout.containers().join(ContainerId::parse(container_id)?);
        let failed = at("remove snapshot", &dir);
        let rubbish = {
            let _lock = self.inner.lock()?;
            let rubbish = self.inner.layout.rubbish_session().map_err(&failed)?;
            match rubbish.take(&dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other.map_err(&failed)?,
            }
            rubbish
        };
        drop(rubbish);
        Ok(())
    }

    /// Every writable layer there is.
    pub fn snapshots(&self) -> Result<Vec<Prepared>, StoreError> {
        let containers = self.inner.layout.containers();
        let failed = at("list", &containers);
        let mut all = Vec::new();
        for entry in fs::read_dir(&containers).map_err(&failed)? {
            let entry = entry.map_err(&failed)?;
            all.push(Prepared {
                container_id: entry.file_name().to_string_lossy().into_owned(),
                image: read_record(&entry.path()).map_err(&failed)?.map(|record| record.image),
            });
        }
        all.sort_by(|a, b| a.container_id.cmp(&b.container_id));
        Ok(all)
    }

    /// Where what a container writes lies: one of these is there.
    pub fn written_folders(&self, container_id: &str) -> Result<[PathBuf; 2], SnapshotError> {
        let dir = self.inner.layout.containers().join(ContainerId::parse(container_id)?);
        Ok(["upper", "root"].map(|name| dir.join(name)))
    }

    /// What a container has written, by walking its upper directory.
    pub fn snapshot_usage(&self, container_id: &str) -> Result<Usage, SnapshotError> {
        let mut usage = Usage::default();
        let mut pending = self.written_folders(container_id)?.to_vec();
        while let Some(directory) = pending.pop() {
            // A container at work removes files under our eyes.
            let Ok(entries) = fs::read_dir(&directory) else {
                continue;
            };
            for entry in entries.flatten() {
                let Ok(metadata) = entry.metadata() else {
                    continue;
                };
                usage.bytes += metadata.blocks() * 512;
                usage.inodes += 1;
                if metadata.is_dir() {
                    pending.push(entry.path());
                }
            }
        }
        Ok(usage)
    }

    /// What all containers have written.
    pub fn containers_usage(&self) -> Result<Usage, StoreError> {
        let mut sum = Usage::default();
        for prepared in self.snapshots()? {
            // A folder that is nobody's has no writable layer either.
            if let Ok(usage) = self.snapshot_usage(&prepared.container_id) {
                sum.bytes += usage.bytes;
                sum.inodes += usage.inodes;
            }
        }
        Ok(sum)
    }

    /// The containers that stand on the image or have a volume of it.
    pub(crate) fn containers_of(&self, image: &Digest) -> Result<Vec<String>, StoreError> {
        let uses = |(_, records): &(String, Vec<Record>)| records.iter().any(|record| record.image == *image);
        Ok(self.records()?.into_iter().filter(uses).map(|(container, _)| container).collect())
    }

    pub(crate) fn layers_in_use(&self) -> Result<HashSet<Digest>, StoreError> {
        let records = self.records()?.into_iter().flat_map(|(_, records)| records);
        Ok(records.flat_map(|record| record.diff_ids).collect())
    }

    /// What every container uses.
    fn records(&self) -> Result<Vec<(String, Vec<Record>)>, StoreError> {
        let containers = self.inner.layout.containers();
        let mut all = Vec::new();
        for prepared in self.snapshots()? {
            let dir = containers.join(&prepared.container_id);
            let failed = at("read snapshot", &dir);
            let mut records = volume::read_records(&dir).map_err(&failed)?;
            records.extend(read_record(&dir).map_err(&failed)?);
            all.push((prepared.container_id, records));
        }
        Ok(all)
    }

    fn check_layers(&self, container_id: &str, record: &Record) -> Result<(), SnapshotError> {
        let missing =
            distinct(&record.diff_ids).find(|diff_id| !self.inner.layout.snapshot(diff_id).join("fs").exists());
        let (container, image) = (container_id.to_owned(), record.image);
        missing.map_or(Ok(()), |diff_id| Err(SnapshotError::LayerMissing { container, image, diff_id }))
    }

    /// The unpacked layers of `image`, topmost first.
    pub fn layer_directories(&self, image: &Image) -> Vec<PathBuf> {
        self.layers(&image.diff_ids)
    }

    /// The unpacked layers, topmost first.
    fn layers(&self, diff_ids: &[Digest]) -> Vec<PathBuf> {
        distinct(diff_ids).map(|diff_id| self.inner.layout.snapshot(&diff_id).join("fs")).collect()
    }

    fn root_fs(&self, dir: &Path, record: &Record) -> RootFs {
        let mut lower = self.layers(&record.diff_ids);
        if lower.is_empty() {
            lower.push(dir.join("empty"));
        }
        match record.is_copy {
            true => RootFs::Copy { root: dir.join("root"), of: lower },
            false => RootFs::Overlay(OverlayMount { lower, upper: dir.join("upper"), work: dir.join("work") }),
        }
    }

    /// Whether layers can only be copied here: because all are, or because of what is in one of these.
    fn must_copy(&self, diff_ids: &[Digest]) -> Result<bool, SnapshotError> {
        let layout = &self.inner.layout;
        let obstacle = match self.inner.snapshots {
            SnapshotMode::Copy => return Ok(true),
            SnapshotMode::Overlay => None,
            SnapshotMode::Auto => self.overlay_obstacle()?,
        };
        Ok(obstacle.is_some() || diff_ids.iter().any(|diff_id| layout.has_own_marks(diff_id)))
    }

    /// Why overlayfs cannot be used for this store; looked at once.
    fn overlay_obstacle(&self) -> Result<Option<Errno>, SnapshotError> {
        if let Some(known) = self.inner.overlay_obstacle.get() {
            return Ok(*known);
        }
        let layout = &self.inner.layout;
        let failed = at("try an overlay in", layout.root());
        let session = layout.session().map_err(&failed)?;
        let found = overlay::obstacle(&session.scratch("overlay")).map_err(&failed)?;
        if let Some(errno) = found {
            let store = layout.root().display();
            tracing::warn!(%store, %errno, "overlayfs cannot be used here: every container gets a copy of its image");
        }
        Ok(*self.inner.overlay_obstacle.get_or_init(|| found))
    }
}

/// The layers from the top, each once: overlayfs refuses a directory that comes twice, and of a layer that does
/// only the topmost shows anything.
fn distinct(diff_ids: &[Digest]) -> impl Iterator<Item = Digest> {
    let mut seen = HashSet::new();
    diff_ids.iter().rev().copied().filter(move |diff_id| seen.insert(*diff_id))
}

fn read_record(dir: &Path) -> io::Result<Option<Record>> {
    match fs::read(dir.join("image.json")) {
        // Cut short in the middle of the write: as good as absent.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
