//! Volumes whose content is an image's, or a part of one: read-only, and copied only where overlayfs cannot be used.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use wharf_specs::id::ContainerId;

use super::{Record, SnapshotError, copy};
use crate::digest::Hasher;
use crate::image::Image;
use crate::layout::write_synced;
use crate::merged::{self, Found};
use crate::store::{Store, at};

/// The container's records of the images its volumes are of.
const RECORDS_FILE: &str = "volumes.json";

/// How to mount an image, or a part of one, read-only. No path leads through a symlink, and nobody writes there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageVolume {
    /// One directory or one regular file: to be bound, read-only.
    Bind(PathBuf),
    /// Directories to be merged by an overlay without an upper one, the topmost first; two at least.
    Overlay { lower: Vec<PathBuf> },
}

impl Store {
    /// What to mount where the container has a volume of `image`. Neither the image nor its layers are removed until
    /// [`Store::remove_snapshot`] of the container, which has to be [prepared](Store::prepare).
    ///
    /// `sub_path` names a directory or file in the image, relative and without `..`; empty for all of it. Symlinks on
    /// its way are followed inside the image.
    pub fn image_volume(
        &self,
        container_id: &str,
        image: &Image,
        sub_path: &str,
    ) -> Result<ImageVolume, SnapshotError> {
        let refused = |problem| SnapshotError::SubPath {
            container: container_id.into(),
            image: image.id,
            sub_path: sub_path.into(),
            problem,
        };
        if sub_path.starts_with('/') || sub_path.contains('\0') {
            return Err(refused("expected a relative path"));
        }
        if sub_path.split('/').any(|component| component == "..") {
            return Err(refused("expected a path without `..`"));
        }
        let dir = self.inner.layout.containers().join(ContainerId::parse(container_id)?);
        let failed = at("prepare image volume of", &dir);
        let record = Record { image: image.id, diff_ids: image.diff_ids.clone(), is_copy: false };
        let is_copy = self.must_copy(&image.diff_ids)?;
        {
            // Exclusive: another volume of the same container may be prepared at this moment.
            let _lock = self.inner.lock()?;
            if !dir.exists() {
                return Err(SnapshotError::NotPrepared(container_id.into()));
            }
            self.check_layers(container_id, &record)?;
            add_record(&dir, &record).map_err(&failed)?;
        }
        let layers = self.layers(&record.diff_ids);
        if layers.is_empty() {
            let empty = dir.join("empty-volume");
            fs::create_dir_all(&empty).map_err(&failed)?;
            return match sub_path.split('/').all(|component| matches!(component, "" | ".")) {
                true => Ok(ImageVolume::Bind(empty)),
                false => Err(refused("is not in the image")),
            };
        }
        match merged::find(&layers, sub_path.as_bytes()).map_err(&failed)? {
            Some(Found::File(file)) => Ok(ImageVolume::Bind(file)),
            Some(Found::Directories(mut lower)) => match lower.len() {
                1 => Ok(ImageVolume::Bind(lower.remove(0))),
                _ if is_copy => Ok(ImageVolume::Bind(merged_copy(&dir, &lower).map_err(&failed)?)),
                _ => Ok(ImageVolume::Overlay { lower }),
            },
            None => Err(refused("is no directory or regular file of the image")),
        }
    }
}

/// The directories `lower` as one, in a folder beside the container's root file system; the same twice is made once.
fn merged_copy(dir: &Path, lower: &[PathBuf]) -> io::Result<PathBuf> {
    let mut which = Hasher::default();
    for directory in lower {
        which.update(directory.as_os_str().as_bytes());
        which.update(b"\0");
    }
    let place = dir.join(format!("volume-{}", which.finish().hex()));
    match DirBuilder::new().mode(0o700).create(&place) {
        Ok(()) => copy::copy(lower, &place).map(|()| place),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(place),
        Err(error) => Err(error),
    }
}

fn add_record(dir: &Path, record: &Record) -> io::Result<()> {
    let mut records = read_records(dir)?;
    if records.iter().any(|other| other.image == record.image) {
        return Ok(());
    }
    records.push(record.clone());
    write_synced(&dir.join(RECORDS_FILE), &serde_json::to_vec(&records).map_err(io::Error::other)?)
}

/// What the container's volumes stand on.
pub(super) fn read_records(dir: &Path) -> io::Result<Vec<Record>> {
    match fs::read(dir.join(RECORDS_FILE)) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
