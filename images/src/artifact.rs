//! OCI artifacts (image-spec, "Guidelines for Artifact Usage"): their blobs are files, not layers. Here they are one
//! snapshot, named by the manifest, in which each blob is a file under its title.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::digest::Digest;
use crate::layout::{Session, SnapshotRecord};
use crate::manifest::{Descriptor, Manifest, OCI_CONFIG};
use crate::one_line::OneLine;

/// The file name of a blob (image-spec, "Pre-Defined Annotation Keys").
const TITLE: &str = "org.opencontainers.image.title";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// As the kernel's own limit.
const TITLE_MAX_BYTES: usize = 4096;

/// Why an artifact's blob cannot be a file under its title.
#[derive(Debug, thiserror::Error)]
pub enum ArtifactError {
    #[error("blob {blob}: title `{}`: {problem}", OneLine(.title))]
    Title { blob: Digest, title: String, problem: &'static str },
    #[error("blob {blob}: make its file")]
    Io {
        blob: Digest,
        #[source]
        source: io::Error,
    },
}

impl Manifest {
    /// Whether it describes files rather than a root file system.
    pub(crate) fn is_artifact(&self) -> bool {
        let is_config = matches!(self.config.media_type.as_str(), "" | OCI_CONFIG | DOCKER_CONFIG);
        let is_layer = |blob: &Descriptor| {
            blob.media_type.starts_with("application/vnd.oci.image.layer.")
                || blob.media_type.starts_with("application/vnd.docker.image.rootfs.")
        };
        !is_config && !self.layers.iter().any(is_layer)
    }
}

/// Makes the snapshot of the artifact `manifest`, whose digest is `digest`, out of blobs that are in the session or in
/// the store. No byte is copied.
pub(crate) fn make_snapshot(session: &Session, digest: &Digest, manifest: &Manifest) -> Result<(), ArtifactError> {
    let mut record = SnapshotRecord { inodes: 1, ..SnapshotRecord::default() };
    let failed = |blob| move |source| ArtifactError::Io { blob, source };
    let root = session.create_snapshot(digest).map_err(failed(*digest))?;
    let mut titles = BTreeSet::new();
    for blob in &manifest.layers {
        let given = blob.annotations.as_ref().and_then(|all| all.get(TITLE));
        let title = given.cloned().unwrap_or_else(|| blob.digest.hex());
        let refused = |problem| ArtifactError::Title { blob: blob.digest, title: title.clone(), problem };
        let parts: Vec<&str> = title.split('/').collect();
        if title.len() > TITLE_MAX_BYTES
            || title.contains('\0')
            || parts.iter().any(|part| matches!(*part, "" | "." | ".."))
        {
            return Err(refused("expected a relative path without `.` and `..`"));
        }
        if !titles.insert(title.clone()) {
            return Err(refused("another blob has it too"));
        }
        let io = failed(blob.digest);
        let (name, folders) = parts.split_last().map_or((title.as_str(), &[][..]), |(name, folders)| (*name, folders));
        let folder = open_folders(&root, folders, &mut record).map_err(|error| match error.kind() {
            io::ErrorKind::NotADirectory => refused("a part of it is another blob's file"),
            _ => io(error),
        })?;
        let file = session.blob_path(&blob.digest);
        rustix::fs::linkat(rustix::fs::CWD, &file, &folder, name, AtFlags::empty()).map_err(|error| match error {
            Errno::EXIST => refused("is a directory of other blobs"),
            error => failed(blob.digest)(error.into()),
        })?;
    }
    session.record_snapshot(digest, &record).map_err(failed(*digest))
}

/// Opens the directory at `path`, making what is missing.
fn open_folders(root: &OwnedFd, path: &[&str], record: &mut SnapshotRecord) -> io::Result<OwnedFd> {
    let mut here: OwnedFd = File::from(root.try_clone()?).into();
    for part in path {
        match rustix::fs::mkdirat(&here, *part, Mode::from_raw_mode(0o755)) {
            Ok(()) => record.inodes += 1,
            Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        here =
            rustix::fs::openat2(&here, *part, flags, Mode::empty(), ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)?;
    }
    Ok(here)
}
