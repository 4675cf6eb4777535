//! What is known of an image beyond its identity: its documents, its layers, and its images for other platforms.

use std::io;

use crate::digest::Digest;
use crate::image::Image;
use crate::manifest::{Descriptor, Document, Platform};
use crate::platform;
use crate::store::{Inner, Store, StoreError, Usage, at, image, index_of};

/// One layer of an image, base first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layer {
    pub diff_id: Digest,
    /// As it travels.
    pub blob: Digest,
    /// Bytes of the blob.
    pub size: u64,
    /// What it takes on disk; `None` if it is not unpacked here, as those of other platforms.
    pub unpacked: Option<Usage>,
}

impl Store {
    /// The image called `name` (as in [`Store::resolve`]); of a multi-platform one that for `platform`, if that was
    /// pulled too.
    pub fn image_for(&self, name: &str, wanted: Option<&Platform>) -> Result<Image, StoreError> {
        let not_found = || StoreError::NotFound(name.into());
        let found = self.resolve(name)?.ok_or_else(not_found)?;
        let Some(wanted) = wanted else {
            return Ok(found);
        };
        let entries = self.inner.entries()?;
        let entry = self.inner.entry_of(&entries, name, &found).ok_or_else(not_found)?;
        let digest = self.inner.manifest_for(name, index_of(entry), wanted, (entry.digest, &found.platform))?;
        if digest == found.manifest_digest {
            return Ok(found);
        }
        let documents = self.inner.documents(&digest)?;
        let mut other = image(&Descriptor { digest, ..entry.clone() }, &documents);
        other.repo_tags = found.repo_tags;
        other.repo_digests = found.repo_digests;
        Ok(other)
    }

    /// The image's configuration document, as it came (image-spec, "Image Configuration").
    pub fn config_document(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        let documents = self.inner.documents(&image.manifest_digest)?;
        self.blob_bytes(&documents.manifest.config.digest)
    }

    /// The image's manifest, as it came.
    pub fn manifest_document(&self, image: &Image) -> Result<Vec<u8>, StoreError> {
        self.blob_bytes(&image.manifest_digest)
    }

    /// The image's layers, base first.
    pub fn layers_of(&self, image: &Image) -> Result<Vec<Layer>, StoreError> {
        let documents = self.inner.documents(&image.manifest_digest)?;
        let layers = documents.manifest.layers.iter().zip(&image.diff_ids).map(|(layer, diff_id)| {
            let record = self.inner.layout.snapshot_record(diff_id).ok();
            let unpacked = record.map(|record| Usage { bytes: record.bytes, inodes: record.inodes });
            Layer { diff_id: *diff_id, blob: layer.digest, size: layer.size, unpacked }
        });
        Ok(layers.collect())
    }

    fn blob_bytes(&self, digest: &Digest) -> Result<Vec<u8>, StoreError> {
        let path = self.inner.layout.blob(digest);
        self.inner.layout.read_blob(digest).map_err(at("read", &path))
    }
}

impl Inner {
    /// The manifest for `wanted` out of `index`; without an index, the `only` one if it is for it.
    pub(crate) fn manifest_for(
        &self,
        name: &str,
        index: Option<Digest>,
        wanted: &Platform,
        (only, its): (Digest, &Platform),
    ) -> Result<Digest, StoreError> {
        let other = |offered| StoreError::Platform { name: name.into(), platform: wanted.clone(), offered };
        let Some(root) = index else {
            let fits = wanted.os == its.os && wanted.architecture == its.architecture;
            return if fits { Ok(only) } else { Err(other(its.to_string())) };
        };
        let path = self.layout.blob(&root);
        let failed = at("read", &path);
        let document = Document::parse(&self.layout.read_blob(&root).map_err(&failed)?, root);
        match document.map_err(|error| failed(io::Error::other(error)))? {
            Document::Index(index) => match platform::choose(&index, wanted) {
                Some(chosen) => Ok(chosen.digest),
                None => Err(other(platform::offered(&index))),
            },
            Document::Manifest(_) => Ok(root),
        }
    }
}
