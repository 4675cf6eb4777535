//! The documents of an image as they travel: OCI image-spec 1.1 and Docker v2.2 manifests and indexes.
//!
//! Our own types rather than oci-spec's: digests are checked while parsing (they become file names), `null`
//! is taken where Docker writes it, and fields nobody reads are not demanded.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
pub(crate) const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
pub(crate) const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// No manifest, index or config may be larger (the bound that registries themselves apply).
pub(crate) const DOCUMENT_MAX_BYTES: u64 = 4 << 20;
/// More layers than overlayfs can stack are refused before anything is transferred.
pub(crate) const LAYERS_MAX: usize = 500;

/// Manifests and indexes below one index: more platforms than there are, with an attestation each.
pub(crate) const TREE_DOCUMENTS_MAX: usize = 1000;

/// Image-spec, "Descriptor".
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub media_type: String,
    pub digest: Digest,
    pub size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<BTreeMap<String, String>>,
    /// Kept as they came when an index is written again (urls, data, artifactType).
    #[serde(flatten)]
    pub other: BTreeMap<String, serde_json::Value>,
}

/// A platform as an index, a config and `--platform` name it: `linux/arm64/v8`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    pub os: String,
    pub architecture: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

/// Image-spec, "Image Manifest"; Docker's v2.2 manifest has the same fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Manifest {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub config: Descriptor,
    pub layers: Vec<Descriptor>,
}

/// Image-spec, "Image Index"; Docker's manifest list has the same fields.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Index {
    pub schema_version: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    pub manifests: Vec<Descriptor>,
}

/// What a reference points at.
pub(crate) enum Document {
    Manifest(Manifest),
    Index(Index),
}

/// A document that cannot be used, with the digest it was fetched by.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    #[error("manifest {digest}: is no valid JSON document of its kind")]
    Json {
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
    #[error("manifest {digest}: schema version {found} is not supported, expected 2")]
    Schema { digest: Digest, found: u64 },
    #[error("manifest {digest}: has `layers` and `manifests`, expected one of them")]
    Both { digest: Digest },
    #[error("manifest {digest}: has neither `layers` nor `manifests`")]
    Unknown { digest: Digest },
    #[error("manifest {digest}: has {found} layers, at most {LAYERS_MAX} can be stacked")]
    TooManyLayers { digest: Digest, found: usize },
    #[error("index {digest}: leads to {found} manifests, at most {TREE_DOCUMENTS_MAX} are taken")]
    TooManyManifests { digest: Digest, found: usize },
    #[error("manifest {digest}: config names {diff_ids} diff ids for {layers} layers")]
    LayerCount { digest: Digest, layers: usize, diff_ids: usize },
}

impl Document {
    /// Parses `bytes`, whose digest is already known to be `digest`.
    pub(crate) fn parse(bytes: &[u8], digest: Digest) -> Result<Self, DocumentError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Probe {
            #[serde(default)]
            schema_version: u64,
            layers: Option<serde::de::IgnoredAny>,
            manifests: Option<serde::de::IgnoredAny>,
        }
        let json = |source| DocumentError::Json { digest, source };
        let probe: Probe = from_object(bytes).map_err(json)?;
        if probe.schema_version != 2 {
            return Err(DocumentError::Schema { digest, found: probe.schema_version });
        }
        // By content, not by the mediaType that a server claims: one document must never be read in two ways.
        match (probe.layers, probe.manifests) {
            (Some(_), None) => {
                let manifest: Manifest = serde_json::from_slice(bytes).map_err(json)?;
                match manifest.layers.len() {
                    0..=LAYERS_MAX => Ok(Self::Manifest(manifest)),
                    found => Err(DocumentError::TooManyLayers { digest, found }),
                }
            }
            (None, Some(_)) => Ok(Self::Index(serde_json::from_slice(bytes).map_err(json)?)),
            (Some(_), Some(_)) => Err(DocumentError::Both { digest }),
            (None, None) => Err(DocumentError::Unknown { digest }),
        }
    }
}

/// Parses a JSON object. A list of the fields' values, which serde takes for a struct too, is none.
pub(crate) fn from_object<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> serde_json::Result<T> {
    match bytes.trim_ascii_start().first() {
        Some(b'{') => serde_json::from_slice(bytes),
        _ => Err(serde::de::Error::custom("expected an object")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(text: &str) -> String {
        match Document::parse(text.as_bytes(), Digest::of(b"")) {
            Ok(_) => panic!("{text} was taken"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn documents_of_another_kind_are_refused() {
        assert!(refusal("<html>").contains("no valid JSON"));
        assert!(refusal("{}").contains("schema version 0"));
        assert!(refusal(r#"{"schemaVersion":1}"#).contains("schema version 1"));
        assert!(refusal(r#"{"schemaVersion":2}"#).contains("neither"));
        // A manifest that is an index too could be read differently by two readers.
        assert!(refusal(r#"{"schemaVersion":2,"layers":[],"manifests":[]}"#).contains("expected one of them"));
        assert!(
            refusal(r#"{"schemaVersion":2,"manifests":[{"digest":"sha256:../x","size":1}]}"#).contains("no valid JSON")
        );
    }
}
