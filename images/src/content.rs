//! The content of an image on its way elsewhere, blob by blob: in the store, in files, or still at a registry.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::mpsc;

use crate::digest::Digest;
use crate::layer::{LayerError, LayerJob};
use crate::layout::Session;
use crate::manifest::Descriptor;
use crate::pull::receive;
use crate::registry::{self, RegistryError};
use crate::unpack::Limits;
use crate::verify;

/// Where the content is.
pub(crate) enum Content<'c> {
    /// In the store, kept from going away by a session.
    Store(Arc<Session>),
    /// In files.
    Files(HashMap<Digest, PathBuf>),
    /// At a registry; fetched into a session.
    Registry(registry::Session<'c>, Arc<Session>),
}

/// Why a blob cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ContentError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(
        "blob {blob} is damaged, it has the digest {found}; of an image here, `wharf system repair` fetches it anew"
    )]
    Damaged { blob: Digest, found: Digest },
    #[error("read blob {blob}")]
    Io {
        blob: Digest,
        #[source]
        source: io::Error,
    },
}

impl Content<'_> {
    /// A file that has the blob, whole and right.
    pub(crate) async fn file(&self, blob: &Descriptor) -> Result<PathBuf, ContentError> {
        let digest = blob.digest;
        let failed = |source| ContentError::Io { blob: digest, source };
        let path = match self {
            Self::Store(session) => session.hold_blob(&digest).map_err(failed)?,
            Self::Files(files) => files.get(&digest).cloned().ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?,
            // Checked while it comes.
            Self::Registry(remote, session) => return fetch(remote, session, blob).await,
        };
        let checked = path.clone();
        let digested = tokio::task::spawn_blocking(move || verify::digest_of(File::open(checked)?)).await;
        match digested.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(failed)? {
            found if found == digest => Ok(path),
            found => Err(ContentError::Damaged { blob: digest, found }),
        }
    }

    /// Gives up the room of a blob that is not needed any more.
    pub(crate) fn release(&self, file: &PathBuf) {
        if let Self::Registry(..) = self {
            // It goes with its session at the latest.
            let _ = fs::remove_file(file);
        }
    }
}

/// Fetches a blob into the session, again if what came was not it.
async fn fetch(
    remote: &registry::Session<'_>,
    session: &Arc<Session>,
    blob: &Descriptor,
) -> Result<PathBuf, ContentError> {
    let job = LayerJob { blob: blob.digest, size: blob.size, diff_id: None, keep_blob: true, unpack: false };
    let mut download = remote.download(blob.digest, blob.size);
    let (running, _ended) = mpsc::channel::<()>(1);
    loop {
        let received = receive(&mut download, &job, session, Limits::default(), &running, &|_| {}).await;
        let lost = |error| ContentError::Io { blob: blob.digest, source: io::Error::other(error) };
        match received.map_err(lost)?? {
            Err(error) if error.is_transfers_fault() && download.distrust() => {}
            outcome => {
                outcome?;
                return Ok(session.own_blob(&blob.digest));
            }
        }
    }
}
