//! Is the store sound: every blob has the content that its name says, and every image all of its parts.

mod unpacked;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};

use crate::digest::{Digest, Hasher};
use crate::manifest::Descriptor;
use crate::store::{Inner, Store, StoreError, at, repo_digest_target};

/// How much a check looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Depth {
    /// Every blob is read; of unpacked layers, whether they are there.
    #[default]
    Blobs,
    /// Every layer is unpacked once more beside the store, one after the other, and every file of it compared.
    Files,
}

/// What a check went through, and what it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    pub images: u64,
    pub blobs: u64,
    /// Of all blobs.
    pub bytes: u64,
    pub layers: u64,
    /// Empty if the store is sound.
    pub damages: Vec<Damage>,
}

/// Something of the store that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    #[error("blob {blob}: its content has the digest {found}")]
    Content { blob: Digest, found: Digest },
    #[error("blob {blob}: {reason}")]
    Unreadable { blob: Digest, reason: String },
    #[error("image {image}: blob {blob} is missing")]
    BlobMissing { image: Digest, blob: Digest },
    #[error("image {image}: blob {blob} has {found} bytes, its manifest says {expected}")]
    Size { image: Digest, blob: Digest, expected: u64, found: u64 },
    #[error("image {image}: layer {layer} is not unpacked")]
    LayerMissing { image: Digest, layer: Digest },
    #[error("layer {layer}: {reason}")]
    Layer { layer: Digest, reason: String },
    #[error("manifest {manifest}: {reason}")]
    Documents { manifest: Digest, reason: String },
}

impl Store {
    /// Reads everything in the store, whether an image names it or not. Nobody changes it meanwhile.
    ///
    /// # Errors
    /// The store cannot be read at all; what is wrong with a part of it is a [`Damage`].
    pub fn verify(&self, depth: Depth) -> Result<Verified, StoreError> {
        let layout = &self.inner.layout;
        let images = layout.images();
        let failed = at("verify", &images);
        let _lock = layout.lock_shared().map_err(&failed)?;
        let mut verified = Verified::default();
        for (blob, bytes) in layout.list_blobs().map_err(&failed)? {
            verified.blobs += 1;
            verified.bytes += bytes;
            match File::open(layout.blob(&blob)).and_then(digest_of) {
                Ok(found) if found == blob => {}
                Ok(found) => verified.damages.push(Damage::Content { blob, found }),
                Err(error) => verified.damages.push(Damage::Unreadable { blob, reason: error.to_string() }),
            }
        }
        for layer in layout.list_snapshots().map_err(&failed)? {
            verified.layers += 1;
            let record = layout.snapshot_record(&layer).map(drop);
            let root = layout.snapshot(&layer).join("fs").read_dir().map(drop);
            if let Err(error) = record.and(root) {
                verified.damages.push(Damage::Layer { layer, reason: error.to_string() });
            }
        }
        if depth == Depth::Files {
            self.verify_unpacked(&mut verified.damages).map_err(&failed)?;
        }
        let mut seen = BTreeSet::new();
        for entry in self.inner.entries()?.iter().filter(|entry| seen.insert(entry.digest)) {
            verified.images += 1;
            self.inner.verify_image(entry, &mut verified.damages);
        }
        Ok(verified)
    }
}

impl Inner {
    fn verify_image(&self, entry: &Descriptor, damages: &mut Vec<Damage>) {
        let documents = match self.documents(&entry.digest) {
            Ok(documents) => documents,
            Err(error) => {
                let reason =
                    std::error::Error::source(&error).map_or(error.to_string(), |cause| format!("{error}: {cause}"));
                return damages.push(Damage::Documents { manifest: entry.digest, reason });
            }
        };
        let image = documents.id;
        for part in documents.manifest.layers.iter().chain([&documents.manifest.config]) {
            match self.layout.blob(&part.digest).metadata() {
                Ok(metadata) if metadata.len() == part.size => {}
                Ok(metadata) => {
                    let (blob, expected, found) = (part.digest, part.size, metadata.len());
                    damages.push(Damage::Size { image, blob, expected, found });
                }
                Err(_) => damages.push(Damage::BlobMissing { image, blob: part.digest }),
            }
        }
        if let Some(blob) = repo_digest_target(entry).filter(|blob| !self.layout.blob(blob).exists()) {
            damages.push(Damage::BlobMissing { image, blob });
        }
        for layer in &documents.config.rootfs.diff_ids {
            if !self.layout.snapshot(layer).exists() {
                damages.push(Damage::LayerMissing { image, layer: *layer });
            }
        }
    }
}

pub(crate) fn digest_of(mut file: File) -> io::Result<Digest> {
    let mut hasher = Hasher::default();
    let mut buffer = vec![0; 1 << 17];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hasher.finish()),
            length => hasher.update(&buffer[..length]),
        }
    }
}
