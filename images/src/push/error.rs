//! Why a push fails.

use std::io;

use crate::content::ContentError;
use crate::digest::Digest;
use crate::registries::ReachError;
use crate::registry::RegistryError;
use crate::store::StoreError;

/// Why a push failed. Blobs that are at the registry stay there; the reference leads where it led before.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A configuration or a login file is broken.
    #[error("push {reference}")]
    Setup {
        reference: String,
        #[source]
        source: Box<ReachError>,
    },
    #[error("push {reference}: the image has the digest {found}, expected {expected} as the reference says")]
    Digest { reference: String, expected: Digest, found: Digest },
    #[error("push {reference}")]
    Content {
        reference: String,
        #[source]
        source: Box<ContentError>,
    },
    #[error("push {reference}: {operation}")]
    Io {
        reference: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("push {reference}")]
    Store {
        reference: String,
        #[source]
        source: Box<StoreError>,
    },
}
