//! Why an archive is not loaded.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;
use crate::layer::LayerError;
use crate::manifest::{DocumentError, Platform};
use crate::one_line::OneLine;
use crate::reference::ReferenceError;
use crate::store::StoreError;
use crate::tar_stream::TarError;

/// Why an archive was not loaded. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    #[error("load {path}: {operation}")]
    Io {
        path: PathBuf,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
    #[error("load {path}")]
    Archive {
        path: PathBuf,
        #[source]
        source: TarError,
    },
    #[error("load {0}: is no image archive, it has neither index.json nor manifest.json")]
    NoImage(PathBuf),
    #[error("load {path}: has no image `{}`, it has {there}", OneLine(.name))]
    NotThere { path: PathBuf, name: String, there: String },
    #[error("load {path}: has several images, name one of {there}")]
    Several { path: PathBuf, there: String },
    #[error("load {path}: blob {digest} is damaged, it has the digest {found}")]
    Damaged { path: PathBuf, digest: Digest, found: Digest },
    #[error("load {path}: index {digest} leads to another index, expected an image")]
    NestedIndex { path: PathBuf, digest: Digest },
    #[error("load {path}: {} is named but not in the archive", OneLine(.member))]
    Missing { path: PathBuf, member: String },
    #[error("load {path}: {member} is no valid JSON document of its kind")]
    Json {
        path: PathBuf,
        member: String,
        #[source]
        source: serde_json::Error,
    },
    #[error("load {path}")]
    Document {
        path: PathBuf,
        #[source]
        source: Box<DocumentError>,
    },
    #[error("load {path}: has no image for {platform}, it has {offered}")]
    Platform { path: PathBuf, platform: Platform, offered: String },
    #[error("load {path}")]
    Reference {
        path: PathBuf,
        #[source]
        source: ReferenceError,
    },
    #[error("load {path}")]
    Layer {
        path: PathBuf,
        #[source]
        source: Box<LayerError>,
    },
    #[error("load {path}")]
    Store {
        path: PathBuf,
        #[source]
        source: Box<StoreError>,
    },
}
