//! Pods of a Job that have ended, each counted once: `status.succeeded`, `status.failed`, and in between
//! `status.uncountedTerminatedPods`; of an indexed Job `status.completedIndexes` and `status.failedIndexes`.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::failure_policy::{Action, judge};
use super::index::{self, Failures};
use super::{FINALIZER, wanted};
use crate::api::kinds::job_index::Indexes;
use crate::api::kinds::{integer, pod, text};

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Ledger {
    pub(super) succeeded: i64,
    pub(super) failed: i64,
    /// Uids of pods that are in neither sum yet.
    pub(super) noted_succeeded: BTreeSet<String>,
    pub(super) noted_failed: BTreeSet<String>,
    /// Indexes of which a pod has succeeded, and those that are given up.
    pub(super) completed: Indexes,
    pub(super) failed_indexes: Indexes,
    /// Uids of pods that are counted by their index, or not at all.
    pub(super) settled: BTreeSet<String>,
}

/// Whether the pod has still to be counted before it may go.
pub(super) fn is_tracked(pod: &Value) -> bool {
    pod::items(&pod["metadata"], "finalizers").iter().any(|finalizer| finalizer == FINALIZER)
}

pub(super) fn is_leaving(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

/// Whether it runs no more, and never will: it succeeded, failed, or what was deleted has been taken down.
pub(super) fn is_over(pod: &Value) -> bool {
    // One that was given no time at all says so from the beginning, while its containers still end.
    let is_taken_down = is_leaving(pod)
        && pod.pointer("/metadata/deletionGracePeriodSeconds").and_then(Value::as_i64) == Some(0)
        && !pod::has_running_container(pod)
        && is_tracked(pod);
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") || is_taken_down
}

/// Whether it counts as having ended: one that was deleted does at once, unless only what has failed is replaced.
pub(super) fn has_ended(job: &Value, pod: &Value) -> bool {
    is_over(pod) || is_leaving(pod) && text(job, "/spec/podReplacementPolicy") != "Failed"
}

impl Ledger {
    /// As the status has it.
    pub(super) fn of(job: &Value) -> Self {
        let status = &job["status"];
        let indexes = |field: &str| Indexes::read(text(status, field), wanted(job, "completions").unwrap_or(0));
        let noted = |field: &str| {
            let uids = pod::items(&status["uncountedTerminatedPods"], field).iter();
            uids.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            succeeded: integer(status, "/succeeded"),
            failed: integer(status, "/failed"),
            noted_succeeded: noted("succeeded"),
            noted_failed: noted("failed"),
            completed: indexes("/completedIndexes"),
            failed_indexes: indexes("/failedIndexes"),
            settled: BTreeSet::new(),
        }
    }

    /// Notes pods that have ended; whether there were any. Of what was noted before and has been let go, the sums know.
    pub(super) fn note(&mut self, job: &Value, pods: &[Arc<Value>]) -> bool {
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
        for pod in pods.iter().filter(|pod| is_tracked(pod) && has_ended(job, pod)) {
            match text(pod, "/status/phase") {
                "Succeeded" => self.note_success(job, pod),
                // Deleted before it came to an end of its own: it has not done what it was for.
                _ => self.note_failure(job, pod, pods),
            }
        }
        if index::is_indexed(job) {
            self.succeeded = self.completed.count();
        }
        *self != before
    }

    fn note_success(&mut self, job: &Value, pod: &Value) {
        let uid = text(pod, "/metadata/uid").to_owned();
        if !index::is_indexed(job) {
            self.noted_succeeded.insert(uid);
            return;
        }
        let completions = wanted(job, "completions").unwrap_or(0);
        if let Some(index) = index::of(pod).filter(|index| *index < completions) {
            self.completed.insert(index);
        }
        self.settled.insert(uid);
    }

    /// Where failures count for each index, the last pod of it stays until it has a successor, which takes its number of
    /// failures over.
    fn note_failure(&mut self, job: &Value, failed: &Value, pods: &[Arc<Value>]) {
        let (action, _) = judge(job, failed);
        let limit = wanted(job, "backoffLimitPerIndex");
        if let Some((limit, index)) = limit.zip(index::of(failed)).filter(|(_, index)| !self.completed.contains(*index))
        {
            let is_last_try = action != Action::Ignore && Failures::before(failed).counted >= limit;
            let mut others = pods.iter().filter(|other| index::of(other) == Some(index));
            if action == Action::FailIndex || is_last_try {
                self.failed_indexes.insert(index);
            } else if !self.failed_indexes.contains(index) && others.all(|o| index::order(o) <= index::order(failed)) {
                return;
            }
        }
        let uid = text(failed, "/metadata/uid").to_owned();
        match action {
            Action::Ignore => self.settled.insert(uid),
            _ => self.noted_failed.insert(uid),
        };
    }

    /// Whether a pod may go: it is counted, or will not be.
    pub(super) fn is_noted(&self, pod: &Value) -> bool {
        let uid = text(pod, "/metadata/uid");
        [&self.noted_succeeded, &self.noted_failed, &self.settled].iter().any(|uids| uids.contains(uid))
    }

    /// Adds what is noted to the sums: the pods have been let go.
    pub(super) fn close(&mut self) {
        self.succeeded += std::mem::take(&mut self.noted_succeeded).len() as i64;
        self.failed += std::mem::take(&mut self.noted_failed).len() as i64;
    }

    /// The status of the Job with these numbers.
    pub(super) fn write_to(&self, job: &Value) -> Value {
        let mut status = if job["status"].is_object() { job["status"].clone() } else { json!({}) };
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
        if index::is_indexed(job) {
            status["completedIndexes"] = self.completed.to_string().into();
        }
        if wanted(job, "backoffLimitPerIndex").is_some() {
            status["failedIndexes"] = self.failed_indexes.to_string().into();
        }
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

    /// Of an index, with the failures before it.
    fn indexed(uid: &str, phase: &str, index: i64, failures: i64) -> Arc<Value> {
        let mut made = Value::clone(&pod(uid, phase, true));
        index::give(&mut made, &Value::Null, index, Some(Failures { counted: failures, ignored: 0 }));
        Arc::new(made)
    }

    fn with_status(job: &Value, status: Value) -> Value {
        let mut job = job.clone();
        job["status"] = status;
        job
    }

    #[test]
    fn a_pod_is_counted_once_whatever_interrupts() {
        let job = json!({});
        let pods = [pod("a", "Succeeded", true), pod("b", "Failed", true), pod("c", "Running", true)];
        let mut ledger = Ledger::default();
        assert!(ledger.note(&job, &pods));
        assert!(ledger.is_noted(&pods[0]) && !ledger.is_noted(&pods[2]));
        let written = with_status(&job, ledger.write_to(&job));
        // Interrupted here: before they were let go.
        let mut again = Ledger::of(&written);
        assert!(!again.note(&job, &pods));
        // Or after.
        let released = [pod("a", "Succeeded", false), pod("c", "Running", true)];
        let mut after = Ledger::of(&written);
        assert!(after.note(&job, &released));
        assert_eq!((after.succeeded, after.failed), (1, 1));
        ledger.close();
        assert_eq!((ledger.succeeded, ledger.failed), (1, 1));
        assert!(!Ledger::of(&with_status(&job, ledger.write_to(&written))).note(&job, &released));
    }

    #[test]
    fn a_pod_that_somebody_took_down_has_failed() {
        let job = json!({"spec": {"podReplacementPolicy": "Failed"}});
        let mut gone = Value::clone(&pod("a", "Running", true));
        gone["metadata"]["deletionTimestamp"] = "now".into();
        gone["metadata"]["deletionGracePeriodSeconds"] = 30.into();
        let mut ledger = Ledger::default();
        assert!(!ledger.note(&job, &[Arc::new(gone.clone())]));
        // Where it is replaced at once, it counts at once.
        assert!(ledger.clone().note(&json!({}), &[Arc::new(gone.clone())]));
        gone["metadata"]["deletionGracePeriodSeconds"] = 0.into();
        gone["status"]["containerStatuses"] = json!([{"state": {"running": {}}}]);
        assert!(!ledger.note(&job, &[Arc::new(gone.clone())]), "it was given no time, and has not ended yet");
        gone["status"]["containerStatuses"] = json!([{"state": {"terminated": {}}}]);
        assert!(ledger.note(&job, &[Arc::new(gone)]));
        ledger.close();
        assert_eq!(ledger.failed, 1);
    }

    #[test]
    fn an_index_is_completed_once() {
        let job = json!({"spec": {"completionMode": "Indexed", "completions": 3}});
        let pods = [
            indexed("a", "Succeeded", 0, 0),
            indexed("b", "Succeeded", 2, 0),
            indexed("c", "Succeeded", 2, 0),
            indexed("d", "Succeeded", 7, 0),
        ];
        let mut ledger = Ledger::default();
        assert!(ledger.note(&job, &pods) && pods.iter().all(|pod| ledger.is_noted(pod)));
        ledger.close();
        let status = ledger.write_to(&job);
        assert_eq!((ledger.succeeded, &status["completedIndexes"]), (2, &json!("0,2")));
        let again = Ledger::of(&with_status(&job, status));
        assert_eq!(again.completed, ledger.completed);
    }

    #[test]
    fn an_index_fails_after_its_own_failures() {
        let job = json!({"spec": {"completionMode": "Indexed", "completions": 3, "backoffLimitPerIndex": 1}});
        let first = indexed("a", "Failed", 0, 0);
        let mut ledger = Ledger::default();
        ledger.note(&job, std::slice::from_ref(&first));
        assert!(!ledger.is_noted(&first), "its successor has to know how often the index has failed");
        let second = indexed("b", "Running", 0, 1);
        ledger.note(&job, &[first.clone(), second]);
        assert!(ledger.is_noted(&first) && ledger.failed_indexes.count() == 0);
        let second = indexed("b", "Failed", 0, 1);
        ledger.note(&job, &[first, second.clone()]);
        assert!(ledger.is_noted(&second));
        assert_eq!(ledger.write_to(&job)["failedIndexes"], "0");
        ledger.close();
        assert_eq!(ledger.failed, 2);
    }

    #[test]
    fn a_failure_that_is_ignored_is_in_no_sum() {
        let rule = json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]});
        let job = json!({"spec": {"podFailurePolicy": {"rules": [rule]}}});
        let mut evicted = Value::clone(&pod("a", "Failed", true));
        evicted["status"]["conditions"] = json!([{"type": "DisruptionTarget", "status": "True"}]);
        let mut ledger = Ledger::default();
        ledger.note(&job, &[Arc::new(evicted.clone()), pod("b", "Failed", true)]);
        assert!(ledger.is_noted(&evicted));
        ledger.close();
        assert_eq!(ledger.failed, 1);
    }
}
