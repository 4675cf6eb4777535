//! Mending the store: what is damaged is fetched again from where its image came from, and nothing else; layers are
//! unpacked again from their blobs.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use crate::adopt;
use crate::artifact::{self, ArtifactError};
use crate::content::{Content, ContentError};
use crate::digest::Digest;
use crate::layer::{LayerError, LayerJob, ingest};
use crate::layout::Session;
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::registries::ReachError;
use crate::registry::{self, Purpose};
use crate::store::{REF_NAME, REPO_DIGEST, Store, StoreError, annotation, at, index_of};
use crate::tree::Tree;
use crate::verify::{Damage, Depth};

/// A manifest is mended before the blobs it names are known, an index before its manifests.
const ROUNDS_MAX: usize = 4;

/// What came of [`Store::repair`].
#[derive(Debug, Default)]
pub struct Repaired {
    /// Blobs that were fetched again.
    pub fetched: Vec<Digest>,
    /// Layers that were unpacked again, by diff id.
    pub unpacked: Vec<Digest>,
    /// What could not be mended, and why.
    pub failures: Vec<(Digest, RepairError)>,
    /// What is damaged still.
    pub left: Vec<Damage>,
}

/// Why something could not be mended.
#[derive(Debug, thiserror::Error)]
pub enum RepairError {
    #[error("no image here that needs it came from a registry; load it again")]
    NoSource,
    #[error(transparent)]
    Reach(#[from] ReachError),
    #[error(transparent)]
    Content(#[from] ContentError),
    #[error(transparent)]
    Layer(#[from] LayerError),
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    #[error("no manifest has a layer with this diff id")]
    NoBlob,
    #[error("write it to the store")]
    Io(#[from] io::Error),
}

impl Store {
    /// Reads the store as [`Store::verify`] does, and mends what is damaged. `plain_http` is for registries that are not
    /// on this machine.
    ///
    /// # Errors
    /// The store cannot be read at all; what cannot be mended is told in the outcome.
    pub async fn repair(&self, depth: Depth, plain_http: bool) -> Result<Repaired, StoreError> {
        let mut repaired = Repaired::default();
        for _ in 0..ROUNDS_MAX {
            repaired.left = self.check_again(depth).await?;
            let (mut blobs, mut layers) = (BTreeSet::new(), BTreeSet::new());
            for damage in &repaired.left {
                match damage {
                    Damage::Content { blob, .. }
                    | Damage::Unreadable { blob, .. }
                    | Damage::BlobMissing { blob, .. }
                    | Damage::Size { blob, .. } => blobs.insert(*blob),
                    // What is wrong inside of it is told of the blob itself.
                    Damage::Documents { manifest, .. } => {
                        !self.inner.layout.blob(manifest).exists() && blobs.insert(*manifest)
                    }
                    Damage::LayerMissing { layer, .. } | Damage::Layer { layer, .. } => layers.insert(*layer),
                };
            }
            let failed: Vec<Digest> = repaired.failures.iter().map(|(digest, _)| *digest).collect();
            blobs.retain(|digest| !failed.contains(digest));
            layers.retain(|digest| !failed.contains(digest));
            if blobs.is_empty() && layers.is_empty() {
                break;
            }
            // Layers come out of blobs: those first.
            let is_about_blobs = !blobs.is_empty();
            let (before, mut unknown) = (repaired.fetched.len() + repaired.unpacked.len(), Vec::new());
            for digest in if is_about_blobs { blobs } else { layers } {
                let mended = match is_about_blobs {
                    true => self.fetch_again(digest, plain_http).await,
                    false => self.unpack_again(digest).await,
                };
                match mended {
                    Ok(()) if is_about_blobs => repaired.fetched.push(digest),
                    Ok(()) => repaired.unpacked.push(digest),
                    // What needs it may not be readable yet.
                    Err(RepairError::NoSource) => unknown.push(digest),
                    Err(error) => repaired.failures.push((digest, error)),
                }
            }
            if repaired.fetched.len() + repaired.unpacked.len() == before {
                repaired.failures.extend(unknown.into_iter().map(|digest| (digest, RepairError::NoSource)));
            }
        }
        repaired.left = self.check_again(depth).await?;
        Ok(repaired)
    }

    async fn check_again(&self, depth: Depth) -> Result<Vec<Damage>, StoreError> {
        let store = self.clone();
        let checked = tokio::task::spawn_blocking(move || store.verify(depth)).await;
        let lost = |error| at("verify", &self.inner.layout.images())(io::Error::other(error));
        checked.map_err(lost)?.map(|verified| verified.damages)
    }

    async fn fetch_again(&self, digest: Digest, plain_http: bool) -> Result<(), RepairError> {
        let mut refusal = RepairError::NoSource;
        let inner = &self.inner;
        let session = Arc::new(inner.layout.session()?);
        for (reference, blob) in self.sources(&digest) {
            let opened = registry::Session::open(
                &inner.registry,
                &reference,
                &Purpose::Pull,
                (&inner.registries, plain_http),
                (&inner.keychain, None),
            );
            let remote = match opened {
                Ok(remote) => remote,
                Err(error) => {
                    refusal = error.into();
                    continue;
                }
            };
            let fetched = match blob {
                Some(blob) => Content::Registry(remote, session.clone()).file(&blob).await.map(drop),
                None => match remote.manifest(&digest.to_string()).await {
                    Ok(served) => {
                        session.write_blob(&digest, &served.bytes)?;
                        Ok(())
                    }
                    Err(error) => Err(error.into()),
                },
            };
            match fetched {
                Ok(()) => return Ok(self.replace(&session, Some(digest), None).await?),
                Err(error) => refusal = error.into(),
            }
        }
        Err(refusal)
    }

    /// Who has it: references of the images that need it; with its descriptor unless it is a manifest or an index.
    fn sources(&self, digest: &Digest) -> Vec<(Reference, Option<Descriptor>)> {
        let mut sources = Vec::new();
        for entry in self.inner.entries().iter().flat_map(|entries| entries.iter()) {
            let index = index_of(entry);
            let roots = index.into_iter().chain([entry.digest]);
            let trees: Vec<_> = roots.clone().map(|root| self.sound_tree(root)).collect();
            let blob = trees.iter().flat_map(|tree| tree.blobs()).find(|blob| blob.digest == *digest).cloned();
            let is_document = roots.into_iter().any(|root| root == *digest)
                || trees.iter().any(|tree| tree.names(digest) && blob.is_none());
            if blob.is_none() && !is_document {
                continue;
            }
            let names = [annotation(entry, REPO_DIGEST), annotation(entry, REF_NAME)];
            let named = names.into_iter().flatten().find_map(|name| name.parse::<Reference>().ok());
            if let Some(reference) = named.filter(|new| !sources.iter().any(|(known, _)| known == new)) {
                sources.push((reference, blob));
            }
        }
        sources
    }

    /// What of `root` is known from documents that are sound; what the others name is mended in another round.
    fn sound_tree(&self, root: Digest) -> Tree {
        let mut tree = Tree::of(root);
        while let Some(digest) = tree.next() {
            let bytes = self.inner.layout.read_blob(&digest).ok().filter(|bytes| Digest::of(bytes) == digest);
            if let Some(Err(error)) = bytes.map(|bytes| tree.add(digest, bytes)) {
                tracing::debug!(%digest, %error, "document is no image's");
            }
        }
        tree
    }

    async fn unpack_again(&self, diff_id: Digest) -> Result<(), RepairError> {
        let session = Arc::new(self.inner.layout.session()?);
        let (store, making) = (self.clone(), session.clone());
        let made = tokio::task::spawn_blocking(move || store.make_layer(&making, &diff_id)).await;
        made.map_err(io::Error::other)??;
        Ok(self.replace(&session, None, Some(diff_id)).await?)
    }

    /// Makes a layer's snapshot in `session`, from the blob in the store.
    pub(crate) fn make_layer(&self, session: &Session, diff_id: &Digest) -> Result<(), RepairError> {
        if let Some(documents) = self.inner.documents(diff_id).ok().filter(|found| found.manifest.is_artifact()) {
            return Ok(artifact::make_snapshot(session, diff_id, &documents.manifest)?);
        }
        let (job, diff_ids) = self.layer_job(diff_id).ok_or(RepairError::NoBlob)?;
        ingest(session.open_blob(&job.blob)?, &job, session, self.inner.limits)?;
        let until = diff_ids.iter().position(|other| other == diff_id).unwrap_or(0);
        Ok(adopt::implied_directories(session, &diff_ids[..=until])?)
    }

    /// The blob of which a layer is unpacked.
    pub(crate) fn layer_blob(&self, diff_id: &Digest) -> Option<Digest> {
        self.layer_job(diff_id).map(|(job, _)| job.blob)
    }

    /// The layer's blob, and all diff ids of an image that has it.
    fn layer_job(&self, diff_id: &Digest) -> Option<(LayerJob, Vec<Digest>)> {
        let entries = self.inner.entries().ok()?;
        entries.iter().find_map(|entry| {
            let documents = self.inner.documents(&entry.digest).ok()?;
            let diff_ids = documents.config.rootfs.diff_ids.clone();
            let at = diff_ids.iter().position(|other| other == diff_id)?;
            let layer = documents.manifest.layers.get(at)?;
            let (blob, size) = (layer.digest, layer.size);
            Some((LayerJob { blob, size, diff_id: Some(*diff_id), keep_blob: false, unpack: true }, diff_ids))
        })
    }

    async fn replace(&self, session: &Arc<Session>, blob: Option<Digest>, layer: Option<Digest>) -> io::Result<()> {
        let session = session.clone();
        let replaced = tokio::task::spawn_blocking(move || session.replace(blob.as_ref(), layer.as_ref())).await;
        replaced.map_err(io::Error::other)?
    }
}
