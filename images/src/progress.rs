//! Progress of a pull, push or load, per layer.

use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::Digest;

/// One step of one layer. Steps of one layer come in order; steps of several layers interleave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerProgress {
    /// The layer's blob (for archives without manifests, its diff id).
    pub layer: Digest,
    pub state: LayerState,
    /// Compressed bytes received or sent so far.
    pub done: u64,
    /// Compressed bytes altogether, as the manifest says.
    pub total: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerState {
    /// Known, not begun.
    Waiting,
    /// Being received and unpacked at once, or sent.
    Transferring,
    /// Was there already.
    Present,
    /// Taken from another repository of the registry.
    Mounted,
    /// Verified and unpacked; of a push, at the registry.
    Complete,
}

/// Receives progress; called from several threads, so it should be quick.
pub type ProgressFn = Arc<dyn Fn(LayerProgress) + Send + Sync>;

/// Fans progress out to everyone who joined a pull.
#[derive(Clone, Default)]
pub(crate) struct ProgressHub(Arc<Mutex<Vec<ProgressFn>>>);

impl ProgressHub {
    pub(crate) fn add(&self, listener: Option<ProgressFn>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(listener);
    }

    pub(crate) fn report(&self, layer: Digest, state: LayerState, done: u64, total: u64) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for listener in all.iter() {
            listener(LayerProgress { layer, state, done, total });
        }
    }
}
