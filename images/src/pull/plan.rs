//! What a pull brings, found out before the first layer comes: the manifest chosen from an index, its config, and the
//! parts of other platforms if they are wanted.

use super::{Pull, PullError};
use crate::digest::Digest;
use crate::image::ConfigDocument;
use crate::manifest::{Descriptor, Document, DocumentError, Manifest, OCI_MANIFEST, from_object};
use crate::platform;
use crate::registry;
use crate::tree::Tree;

/// Everything known before the first layer comes.
pub(super) struct Plan {
    /// What the reference led to, then the manifest if that was an index, then the config.
    pub(super) documents: Vec<(Digest, Vec<u8>)>,
    pub(super) manifest: Descriptor,
    pub(super) target: Digest,
    pub(super) layers: Vec<Descriptor>,
    pub(super) diff_ids: Vec<Digest>,
    /// Configs and layers of other platforms.
    pub(super) others: Vec<Descriptor>,
    /// Whose blobs become files, if it is an artifact.
    pub(super) artifact: Option<Manifest>,
}

impl Pull {
    pub(super) async fn plan(&self, remote: &registry::Session<'_>) -> Result<Plan, PullError> {
        let invalid = |source| PullError::Document { reference: self.reference.to_string(), source: Box::new(source) };
        let served = remote.manifest(&self.reference.manifest_key()).await?;
        let target = served.digest;
        let mut documents = Vec::new();
        let (descriptor, manifest) = match Document::parse(&served.bytes, target).map_err(invalid)? {
            Document::Manifest(manifest) => (descriptor_of(target, &served.bytes, &manifest), manifest),
            Document::Index(index) => {
                let chosen = platform::choose(&index, &self.platform)
                    .ok_or_else(|| PullError::Platform {
                        reference: self.reference.to_string(),
                        platform: self.platform.clone(),
                        offered: platform::offered(&index),
                    })?
                    .clone();
                documents.push((target, served.bytes));
                let inner = remote.manifest(&chosen.digest.to_string()).await?;
                match Document::parse(&inner.bytes, inner.digest).map_err(invalid)? {
                    Document::Manifest(manifest) => {
                        let descriptor = descriptor_of(inner.digest, &inner.bytes, &manifest);
                        documents.push((inner.digest, inner.bytes));
                        let descriptor = Descriptor { platform: chosen.platform, ..descriptor };
                        return self.finish_plan(remote, documents, descriptor, target, manifest).await;
                    }
                    Document::Index(_) => {
                        return Err(PullError::NestedIndex {
                            reference: self.reference.to_string(),
                            digest: chosen.digest,
                        });
                    }
                }
            }
        };
        documents.push((target, served.bytes));
        self.finish_plan(remote, documents, descriptor, target, manifest).await
    }

    async fn finish_plan(
        &self,
        remote: &registry::Session<'_>,
        mut documents: Vec<(Digest, Vec<u8>)>,
        descriptor: Descriptor,
        target: Digest,
        manifest: Manifest,
    ) -> Result<Plan, PullError> {
        let config = &manifest.config;
        let shared = self.want(config.digest);
        let turn = shared.turn().await;
        let bytes = match self.store.inner.layout.read_blob(&config.digest) {
            Ok(bytes) if Digest::of(&bytes) == config.digest => bytes,
            _ => match shared.document() {
                Some(bytes) => bytes,
                None => remote.document(config.digest, config.size).await?,
            },
        };
        shared.made_document(&bytes);
        drop(turn);
        if manifest.is_artifact() {
            documents.push((config.digest, bytes));
            let (layers, diff_ids) = (Vec::new(), vec![descriptor.digest]);
            let others = manifest.layers.clone();
            return Ok(Plan {
                documents,
                manifest: descriptor,
                target,
                layers,
                diff_ids,
                others,
                artifact: Some(manifest),
            });
        }
        let parsed: ConfigDocument = from_object(&bytes).map_err(|source| PullError::Config {
            reference: self.reference.to_string(),
            digest: config.digest,
            source,
        })?;
        let diff_ids = parsed.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(PullError::Document {
                reference: self.reference.to_string(),
                source: Box::new(DocumentError::LayerCount {
                    digest: descriptor.digest,
                    layers: manifest.layers.len(),
                    diff_ids: diff_ids.len(),
                }),
            });
        }
        documents.push((config.digest, bytes));
        Ok(Plan {
            documents,
            manifest: descriptor,
            target,
            layers: manifest.layers,
            diff_ids,
            others: Vec::new(),
            artifact: None,
        })
    }

    /// Brings the documents of all platforms.
    pub(super) async fn whole(&self, remote: &registry::Session<'_>, plan: &mut Plan) -> Result<(), PullError> {
        let mut tree = Tree::of(plan.target);
        while let Some(digest) = tree.next() {
            let known = plan.documents.iter().find(|(known, _)| *known == digest).map(|(_, bytes)| bytes.clone());
            let bytes = match known {
                Some(bytes) => bytes,
                None => {
                    let bytes = remote.manifest(&digest.to_string()).await?.bytes;
                    plan.documents.push((digest, bytes.clone()));
                    bytes
                }
            };
            tree.add(digest, bytes).map_err(|source| PullError::Document {
                reference: self.reference.to_string(),
                source: Box::new(source),
            })?;
        }
        let is_other = |blob: &&Descriptor| {
            !plan.layers.iter().any(|layer| layer.digest == blob.digest)
                && !plan.documents.iter().any(|(known, _)| *known == blob.digest)
        };
        let others: Vec<Descriptor> = tree.blobs().iter().filter(is_other).cloned().collect();
        plan.others = others;
        Ok(())
    }
}

fn descriptor_of(digest: Digest, bytes: &[u8], manifest: &Manifest) -> Descriptor {
    Descriptor {
        media_type: manifest.media_type.clone().unwrap_or_else(|| OCI_MANIFEST.into()),
        digest,
        size: bytes.len() as u64,
        platform: None,
        annotations: None,
        other: Default::default(),
    }
}
