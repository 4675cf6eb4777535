//! Pods that are gone while the kernel still holds their interfaces: it waits until nobody can be using one, and for every
//! other that goes at the time. Such a pod's address is not given to another.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::network::Result;

/// How long is waited for them at most: the kernel waits without end for an interface that somebody holds.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Leaving {
    pods: Mutex<BTreeMap<String, Step>>,
    /// How many are under way.
    count: watch::Sender<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    UnderWay,
    Failed,
}

impl Leaving {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Step>> {
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// False where the pod is under way already, or failed to leave before: that is to be tried in the open.
    pub(super) fn begin(&self, pod: &str) -> bool {
        let mut pods = self.pods();
        if pods.contains_key(pod) {
            return false;
        }
        pods.insert(pod.to_string(), Step::UnderWay);
        self.publish(&pods);
        true
    }

    pub(super) fn end(&self, pod: &str, outcome: Result<()>) {
        let mut pods = self.pods();
        if let Err(error) = outcome {
            tracing::error!(%pod, %error, "give back the network of a pod sandbox");
            pods.insert(pod.to_string(), Step::Failed);
        } else {
            pods.remove(pod);
        }
        self.publish(&pods);
    }

    fn publish(&self, pods: &BTreeMap<String, Step>) {
        self.count.send_replace(pods.values().filter(|step| **step == Step::UnderWay).count());
    }

    /// Whether it is under way; one that failed is forgotten.
    pub(super) fn has(&self, pod: &str) -> bool {
        let mut pods = self.pods();
        match pods.get(pod) {
            Some(Step::UnderWay) => true,
            Some(Step::Failed) => {
                pods.remove(pod);
                false
            }
            None => false,
        }
    }

    pub(super) fn all(&self) -> Vec<String> {
        self.pods().iter().filter(|(_, step)| **step == Step::UnderWay).map(|(pod, _)| pod.clone()).collect()
    }

    /// Waits until nobody is under way.
    pub(super) async fn settled(&self) {
        let mut count = self.count.subscribe();
        if tokio::time::timeout(PATIENCE, count.wait_for(|count| *count == 0)).await.is_err() {
            tracing::warn!(pods = ?self.all(), "the kernel does not let go of interfaces");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::NetworkError;

    #[tokio::test]
    async fn a_pod_leaves_once_and_a_failure_is_tried_in_the_open() {
        let leaving = Leaving::default();
        leaving.settled().await;
        assert!(leaving.begin("a") && !leaving.begin("a") && leaving.has("a"));
        assert_eq!(leaving.all(), ["a"]);
        leaving.end("a", Ok(()));
        assert!(!leaving.has("a"));
        assert!(leaving.begin("a"));
        leaving.end("a", Err(NetworkError::kernel("delete interface a", "it is held")));
        leaving.settled().await;
        assert!(!leaving.begin("a") && !leaving.has("a"));
    }

    #[tokio::test]
    async fn who_waits_is_told_of_the_last_one() {
        let leaving = std::sync::Arc::new(Leaving::default());
        leaving.begin("a");
        leaving.begin("b");
        let waiting = tokio::spawn({
            let leaving = leaving.clone();
            async move { leaving.settled().await }
        });
        leaving.end("a", Ok(()));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        leaving.end("b", Ok(()));
        waiting.await.unwrap();
    }
}
