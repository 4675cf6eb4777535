//! Why a copy fails.

use std::io;
use std::sync::Arc;

use crate::archive::LoadError;
use crate::manifest::Platform;
use crate::pull::PullError;
use crate::registries::ReachError;

/// Why an image was not copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("copy {from}")]
    Load {
        from: String,
        #[source]
        source: Box<LoadError>,
    },
    #[error("copy to {to}")]
    Pull {
        to: String,
        #[source]
        source: Arc<PullError>,
    },
    /// A configuration or a login file is broken.
    #[error("reach {reference}")]
    Setup {
        reference: String,
        #[source]
        source: Box<ReachError>,
    },
    #[error("copy {from}: has no image for {platform}, it has {offered}")]
    Platform { from: String, platform: Platform, offered: String },
    /// One of the steps, which says what it was about.
    #[error("copy {from} to {to}")]
    Failed {
        from: String,
        to: String,
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    #[error("copy {from} to {to}: {operation}")]
    Io {
        from: String,
        to: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}
