//! Pods of a Job that have ended, each counted once: `status.succeeded`, `status.failed`, and in between
//! `status.uncountedTerminatedPods`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::FINALIZER;
use crate::api::kinds::{integer, pod, text};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    /// Uids of pods that are in neither sum yet.
    pub(super) noted_succeeded: BTreeSet<String>,
    pub(super) noted_failed: BTreeSet<String>,
}

/// Whether the pod has still to be counted before it may go.
pub(super) fn is_tracked(pod: &Value) -> bool {
    pod::items(&pod["metadata"], "finalizers").iter().any(|finalizer| finalizer == FINALIZER)
}

/// Whether it runs no more, and never will: it succeeded, failed, or what was deleted has been taken down.
pub(super) fn has_ended(pod: &Value) -> bool {
    let is_taken_down = !text(pod, "/metadata/deletionTimestamp").is_empty()
        && pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) == Some(0)
        && is_tracked(pod);
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") || is_taken_down
}

impl Ledger {
    /// As the status has it.
    pub(super) fn of(status: &Value) -> Self {
        let noted = |field: &str| {
            let uids = pod::items(&status["uncountedTerminatedPods"], field).iter();
            uids.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            succeeded: integer(status, "/succeeded"),
            failed: integer(status, "/failed"),
            noted_succeeded: noted("succeeded"),
            noted_failed: noted("failed"),
        }
    }

    /// Notes pods that have ended; whether there were any. Of what was noted before and has been let go, the sums know.
    pub(super) fn note(&mut self, pods: &[Arc<Value>]) -> bool {
        let tracked: BTreeSet<&str> =
            pods.iter().filter(|pod| is_tracked(pod)).map(|pod| text(pod, "/metadata/uid")).collect();
        let before = self.clone();
        let (mut succeeded, mut failed) = (self.succeeded, self.failed);
        for (noted, sum) in [(&mut self.noted_succeeded, &mut succeeded), (&mut self.noted_failed, &mut failed)] {
            let all = noted.len();
            noted.retain(|uid| tracked.contains(uid.as_str()));
            *sum += (all - noted.len()) as i64;
        }
        (self.succeeded, self.failed) = (succeeded, failed);
        for pod in pods.iter().filter(|pod| is_tracked(pod) && has_ended(pod)) {
            let uid = text(pod, "/metadata/uid").to_owned();
            match text(pod, "/status/phase") {
                "Succeeded" => self.noted_succeeded.insert(uid),
                // Deleted before it came to an end of its own: it has not done what it was for.
                _ => self.noted_failed.insert(uid),
            };
        }
        *self != before
    }

    pub(super) fn is_noted(&self, pod: &Value) -> bool {
        let uid = text(pod, "/metadata/uid");
        self.noted_succeeded.contains(uid) || self.noted_failed.contains(uid)
    }

    /// Adds what is noted to the sums: the pods have been let go.
    pub(super) fn close(&mut self) {
        self.succeeded += std::mem::take(&mut self.noted_succeeded).len() as i64;
        self.failed += std::mem::take(&mut self.noted_failed).len() as i64;
    }

    /// The status with these numbers.
    pub(super) fn write_to(&self, status: &Value) -> Value {
        let mut status = if status.is_object() { status.clone() } else { json!({}) };
        for (field, sum) in [("succeeded", self.succeeded), ("failed", self.failed)] {
            if sum > 0 {
                status[field] = sum.into();
            }
        }
        let mut noted = json!({});
        for (field, uids) in [("succeeded", &self.noted_succeeded), ("failed", &self.noted_failed)] {
            if !uids.is_empty() {
                noted[field] = uids.iter().cloned().collect();
            }
        }
        status["uncountedTerminatedPods"] = noted;
        status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(uid: &str, phase: &str, tracked: bool) -> Arc<Value> {
        let finalizers = if tracked { json!([FINALIZER]) } else { json!([]) };
        Arc::new(json!({"metadata": {"uid": uid, "finalizers": finalizers}, "status": {"phase": phase}}))
    }

    #[test]
    fn a_pod_is_counted_once_whatever_interrupts() {
        let pods = [pod("a", "Succeeded", true), pod("b", "Failed", true), pod("c", "Running", true)];
        let mut ledger = Ledger::default();
        assert!(ledger.note(&pods));
        assert!(ledger.is_noted(&pods[0]) && !ledger.is_noted(&pods[2]));
        let status = ledger.write_to(&Value::Null);
        // Interrupted here: before they were let go.
        let mut again = Ledger::of(&status);
        assert!(!again.note(&pods));
        // Or after.
        let released = [pod("a", "Succeeded", false), pod("c", "Running", true)];
        let mut after = Ledger::of(&status);
        assert!(after.note(&released));
        assert_eq!((after.succeeded, after.failed), (1, 1));
        ledger.close();
        assert_eq!((ledger.succeeded, ledger.failed), (1, 1));
        assert!(!Ledger::of(&ledger.write_to(&status)).note(&released));
    }

    #[test]
    fn a_pod_that_somebody_took_down_has_failed() {
        let mut gone = Value::clone(&pod("a", "Running", true));
        gone["metadata"]["deletionTimestamp"] = "now".into();
        gone["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        let mut ledger = Ledger::default();
        assert!(!ledger.note(&[Arc::new(gone.clone())]));
        gone["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        assert!(ledger.note(&[Arc::new(gone)]));
        ledger.close();
        assert_eq!(ledger.failed, 1);
    }
}
