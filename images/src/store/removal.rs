//! Removal of images, one by one or all that nobody uses, and of the content that goes with them.

use std::collections::HashSet;
use std::sync::PoisonError;

use super::names::{entry_is_named, index_of, is_named, is_pinned, names, repo_digest_target};
use super::{Inner, Store, StoreError, at};
use crate::digest::Digest;
use crate::layout::RubbishSession;
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// What [`Store::remove`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Names that are gone, tags and digests.
    pub untagged: Vec<String>,
    /// The image's id if nothing named it any more and its content went too.
    pub deleted: Option<Digest>,
}

/// What [`Store::prune`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    pub images: Vec<Removed>,
    /// Bytes on disk that are free again.
    pub bytes: u64,
}

impl Store {
    /// Removes a name, or by id (or its prefix) all names of an image. With the last name its manifests, blobs and
    /// snapshots go, as far as nobody else uses them.
    ///
    /// Fails with [`StoreError::InUse`], changing nothing, if the last name of an image would go that a prepared
    /// container uses, and with [`StoreError::Pinned`] if the name is pinned.
    pub fn remove(&self, name: &str) -> Result<Removed, StoreError> {
        let lock = self.inner.lock()?;
        let image = self.resolve(name)?.ok_or_else(|| StoreError::NotFound(name.into()))?;
        let by_name = name.parse::<Reference>().ok().filter(|reference| is_named(&image, reference));
        let entries = self.inner.entries()?;
        let (mut kept, mut removed) = (Vec::new(), Removed::default());
        let mut still_there = false;
        for entry in entries.iter() {
            let ours = self.inner.is_of(entry, &image);
            let wanted = by_name.as_ref().is_none_or(|reference| entry_is_named(entry, reference));
            if ours && wanted && is_pinned(entry) {
                return Err(StoreError::Pinned { name: name.into() });
            }
            if ours && wanted {
                let (tag, digest) = names(entry);
                removed.untagged.extend(tag.or(digest));
            } else {
                still_there |= ours;
                kept.push(entry.clone());
            }
        }
        if !still_there {
            let containers = self.containers_of(&image.id)?;
            if !containers.is_empty() {
                return Err(StoreError::InUse { name: name.into(), containers });
            }
            removed.deleted = Some(image.id);
        }
        self.inner.write_index(&kept)?;
        let rubbish = self.inner.set_rubbish_aside(&self.layers_in_use()?)?;
        // Deleting a large tree takes seconds: not under the lock.
        drop(lock);
        drop(rubbish);
        Ok(removed)
    }

    /// Removes the images that have no tag, or with `all` every image, but those that are pinned and those that a
    /// container uses; and content that no image names, as interrupted pulls leave. Pulls go on meanwhile.
    pub fn prune(&self, all: bool) -> Result<Pruned, StoreError> {
        let mut pruned = Pruned::default();
        let before = self.usage()?;
        let lock = self.inner.lock()?;
        let entries = self.inner.entries()?;
        let mut kept: Vec<Descriptor> = entries.to_vec();
        for image in self.images()? {
            let is_wanted = image.is_pinned || !(all || image.repo_tags.is_empty());
            if is_wanted || !self.containers_of(&image.id)?.is_empty() {
                continue;
            }
            let mut removed = Removed { untagged: Vec::new(), deleted: Some(image.id) };
            kept.retain(|entry| {
                let ours = self.inner.is_of(entry, &image);
                if ours {
                    let (tag, digest) = names(entry);
                    removed.untagged.extend(tag.or(digest));
                }
                !ours
            });
            pruned.images.push(removed);
        }
        if !pruned.images.is_empty() {
            self.inner.write_index(&kept)?;
        }
        let rubbish = self.inner.set_rubbish_aside(&self.layers_in_use()?)?;
        drop(lock);
        drop(rubbish);
        pruned.bytes = before.bytes.saturating_sub(self.usage()?.bytes);
        Ok(pruned)
    }
}

impl Inner {
    /// Moves out of sight what neither index.json nor `layers` names; it is deleted when the session is dropped.
    /// The exclusive lock must be held.
    fn set_rubbish_aside(&self, layers: &HashSet<Digest>) -> Result<RubbishSession, StoreError> {
        let images = self.layout.images();
        let (mut blobs, mut snapshots) = (HashSet::new(), layers.clone());
        for entry in self.entries()?.iter() {
            blobs.insert(entry.digest);
            blobs.extend(repo_digest_target(entry));
            let documents = match self.documents(&entry.digest) {
                Ok(documents) => documents,
                Err(error) => {
                    // What a damaged image uses is unknown: everything stays until it is removed or healed.
                    tracing::warn!(manifest = %entry.digest, %error, "nothing is cleaned up");
                    return self.layout.rubbish_session().map_err(at("collect garbage of", &images));
                }
            };
            blobs.insert(documents.manifest.config.digest);
            blobs.extend(documents.manifest.layers.iter().map(|layer| layer.digest));
            snapshots.extend(&documents.config.rootfs.diff_ids);
            match index_of(entry).map(|index| self.tree(index)).transpose() {
                Ok(tree) => {
                    for part in tree.iter() {
                        blobs.extend(part.documents().iter().map(|document| document.digest));
                        blobs.extend(part.blobs().iter().map(|blob| blob.digest));
                    }
                }
                Err(error) => {
                    tracing::warn!(manifest = %entry.digest, %error, "nothing is cleaned up");
                    return self.layout.rubbish_session().map_err(at("collect garbage of", &images));
                }
            }
        }
        let failed = at("collect garbage of", &images);
        let session = self.layout.rubbish_session().map_err(&failed)?;
        for (digest, _) in self.layout.list_blobs().map_err(&failed)? {
            if !blobs.contains(&digest) {
                session.take(&self.layout.blob(&digest)).map_err(&failed)?;
            }
        }
        for diff_id in self.layout.list_snapshots().map_err(&failed)? {
            if !snapshots.contains(&diff_id) {
                session.take(&self.layout.snapshot(&diff_id)).map_err(&failed)?;
            }
        }
        let mut documents = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        documents.retain(|manifest, _| blobs.contains(manifest));
        Ok(session)
    }
}
