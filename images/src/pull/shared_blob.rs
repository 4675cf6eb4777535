//! Blobs that several pulls want at the same time: one brings them, the others take them from it.
//!
//! A pull waits for its turn at one blob only, and never while it has another's, so pulls cannot wait for each other
//! in a circle.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use crate::digest::Digest;
use crate::layout::Session;

/// Blobs that some pull of this store wants now.
#[derive(Default)]
pub(crate) struct SharedBlobs(Mutex<HashMap<Digest, Weak<SharedBlob>>>);

/// One such blob. Whoever has the turn brings it, unless it is there by then.
#[derive(Default)]
pub(super) struct SharedBlob {
    turn: tokio::sync::Mutex<()>,
    made: Mutex<Made>,
}

/// What the last turn came to.
#[derive(Default)]
enum Made {
    #[default]
    Nothing,
    /// A document, verified.
    Bytes(Arc<Vec<u8>>),
    /// A layer, verified, in another pull's session.
    Session(Weak<Session>),
}

impl SharedBlobs {
    /// To be kept until the pull's own end: what it has brought is in its session until then.
    pub(super) fn want(&self, digest: Digest) -> Arc<SharedBlob> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, blob| blob.strong_count() > 0);
        if let Some(blob) = all.get(&digest).and_then(Weak::upgrade) {
            return blob;
        }
        let blob = Arc::new(SharedBlob::default());
        all.insert(digest, Arc::downgrade(&blob));
        blob
    }
}

impl SharedBlob {
    /// Waits until nobody else is bringing it.
    pub(super) async fn turn(&self) -> tokio::sync::MutexGuard<'_, ()> {
        self.turn.lock().await
    }

    pub(super) fn made_document(&self, bytes: &[u8]) {
        self.made(Made::Bytes(Arc::new(bytes.to_vec())));
    }

    pub(super) fn made_layer(&self, session: &Arc<Session>) {
        self.made(Made::Session(Arc::downgrade(session)));
    }

    pub(super) fn document(&self) -> Option<Vec<u8>> {
        match &*self.made.lock().unwrap_or_else(PoisonError::into_inner) {
            Made::Bytes(bytes) => Some(bytes.to_vec()),
            _ => None,
        }
    }

    /// The session that has the layer, if it still does.
    pub(super) fn layer(&self) -> Option<Arc<Session>> {
        match &*self.made.lock().unwrap_or_else(PoisonError::into_inner) {
            Made::Session(session) => session.upgrade(),
            _ => None,
        }
    }

    fn made(&self, made: Made) {
        *self.made.lock().unwrap_or_else(PoisonError::into_inner) = made;
    }
}
