//! Services: which pods are behind them, and the rules that lead there.
//!
//! ```text
//! pods ──▶ slices.rs ──▶ EndpointSlices ──▶ proxy.rs ──▶ the node's rules
//!  └────▶ legacy.rs ──▶ Endpoints, and back into slices those that people make
//! ```
//!
//! A pod that is to end is ended once nothing new is sent to it: its worker waits for both to have seen that
//! ([`Progress`]), but not for long.

mod endpoints;
mod frontends;
mod health;
pub mod legacy;
pub mod proxy;
pub mod slices;
pub(crate) mod subsets;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::api::object_store::ObjectStore;

/// How long the end of a pod waits for rules at most: an `nft` that hangs must not keep pods from ending, but on a busy
/// machine one needs seconds.
const LONGEST_WAIT: Duration = Duration::from_secs(10);

/// How far Services have followed the objects: up to which version of the store.
#[derive(Clone)]
pub struct Progress {
    slices: Arc<watch::Sender<u64>>,
    rules: Arc<watch::Sender<u64>>,
}

impl Default for Progress {
    fn default() -> Self {
        Self { slices: Arc::new(watch::Sender::new(0)), rules: Arc::new(watch::Sender::new(0)) }
    }
}

impl Progress {
    /// Waits until what the store has now is in the rules, or it has taken too long.
    pub async fn follows(&self, store: &ObjectStore) {
        let both = async {
            let version = store.version();
            let _ = self.slices.subscribe().wait_for(|seen| *seen >= version).await;
            // What was made of it is in the store by now.
            let version = store.version();
            let _ = self.rules.subscribe().wait_for(|seen| *seen >= version).await;
        };
        if tokio::time::timeout(LONGEST_WAIT, both).await.is_err() {
            tracing::warn!("rules of Services are behind: a pod ends before nothing is sent to it any more");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_in_the_rules_waits_for_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
        let progress = Progress::default();
        let waiting = tokio::spawn({
            let (progress, store) = (progress.clone(), store.clone());
            async move { progress.follows(&store).await }
        });
        progress.slices.send_replace(store.version());
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        progress.rules.send_replace(store.version());
        waiting.await.unwrap();
    }
}
