//! Why a pull fails.

use std::io;

use crate::artifact::ArtifactError;
use crate::digest::Digest;
use crate::layer::LayerError;
use crate::manifest::{DocumentError, Platform};
use crate::registries::ReachError;
use crate::registry::{RegistryError, RegistryFailure};
use crate::store::StoreError;

/// Why a pull failed. The store is as it was before; but where the connection was at fault, layers that were complete
/// are kept for the next try.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A configuration or a login file is broken.
    #[error("pull {reference}")]
    Setup {
        reference: String,
        #[source]
        source: Box<ReachError>,
    },
    #[error("pull {reference}")]
    Document {
        reference: String,
        #[source]
        source: Box<DocumentError>,
    },
    #[error("pull {reference}: config {digest} cannot be read")]
    Config {
        reference: String,
        digest: Digest,
        #[source]
        source: serde_json::Error,
    },
    #[error("pull {reference}: has no image for {platform}, it has {offered}")]
    Platform { reference: String, platform: Platform, offered: String },
    #[error("pull {reference}: index {digest} leads to another index, expected an image")]
    NestedIndex { reference: String, digest: Digest },
    #[error("pull {reference}")]
    Layer {
        reference: String,
        #[source]
        source: Box<LayerError>,
    },
    #[error("pull {reference}")]
    Artifact {
        reference: String,
        #[source]
        source: Box<ArtifactError>,
    },
    #[error("pull {reference}: {operation}")]
    Io {
        reference: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("pull {reference}: parts of it are being removed again and again")]
    Removed { reference: String },
    #[error("pull {reference}")]
    Store {
        reference: String,
        #[source]
        source: Box<StoreError>,
    },
}

impl PullError {
    /// Whether somebody else might be shown the image: with some registries one that is not theirs is not there.
    pub fn is_refusal(&self) -> bool {
        let Self::Registry(error) = self else { return false };
        matches!(&*error.failure, RegistryFailure::Status { status: 401 | 403 | 404, .. })
    }
}

impl PullError {
    /// Whether the pull could have gone on with a better connection: then what is complete is worth keeping.
    pub(super) fn is_interruption(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_passing() || error.is_unconnected())
    }
}
