//! What a Job needs now: more pods, fewer, or a verdict.

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::ledger::{Ledger, has_ended};
use super::wanted;
use crate::api::kinds::{integer, pod, text};

/// How long a failed pod's successor waits: this, doubled with each failure, up to the limit. Kubernetes' own.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How the Job has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) succeeded: bool,
    pub(super) reason: &'static str,
    pub(super) message: &'static str,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) missing: i64,
    pub(super) surplus: Vec<Arc<Value>>,
    pub(super) verdict: Option<Verdict>,
    /// When something is due that no change tells of.
    pub(super) again: Option<Duration>,
}

impl Plan {
    /// From what was counted, and the pods that there are.
    pub(super) fn of(job: &Value, ledger: &Ledger, pods: &[Arc<Value>], now: Timestamp) -> Self {
        let running: Vec<&Arc<Value>> =
            pods.iter().filter(|pod| !has_ended(pod) && text(pod, "/metadata/deletionTimestamp").is_empty()).collect();
        let everything = || running.iter().map(|pod| Arc::clone(pod)).collect();
        if let Some(verdict) = verdict(job, ledger, &running, now) {
            return Self { surplus: everything(), verdict: Some(verdict), ..Self::default() };
        }
        if job.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
            return Self { surplus: everything(), ..Self::default() };
        }
        let parallelism = integer(job, "/spec/parallelism");
        let count = running.len() as i64;
        // Without a number of completions, one success means that there is nothing left to be done.
        let target = match wanted(job, "completions") {
            Some(completions) => parallelism.min(completions - ledger.succeeded),
            None if ledger.succeeded > 0 => count.min(parallelism),
            None => parallelism,
        };
        let deadline = time_left(job, now);
        // What is on its way out still holds its place.
        let leaving = pods.iter().filter(|pod| !has_ended(pod)).count() as i64 - count;
        let missing = (target - count - leaving).max(0);
        match wait_after_failures(ledger, pods, now).filter(|_| missing > 0) {
            Some(wait) => Self { again: Some(deadline.map_or(wait, |deadline| deadline.min(wait))), ..Self::default() },
            None => {
                let surplus = usize::try_from(count - target).unwrap_or(0);
                let surplus = running.iter().rev().take(surplus).map(|pod| Arc::clone(pod)).collect();
                Self { missing, surplus, verdict: None, again: deadline }
            }
        }
    }
}

fn verdict(job: &Value, ledger: &Ledger, running: &[&Arc<Value>], now: Timestamp) -> Option<Verdict> {
    let failed = |reason, message| Some(Verdict { succeeded: false, reason, message });
    let limit = integer(job, "/spec/backoffLimit");
    let restarts: i64 = running.iter().map(|pod| restarts(pod)).sum();
    let restarts_count = text(job, "/spec/template/spec/restartPolicy") == "OnFailure" && restarts > 0;
    // A verdict that is told already stays, while its pods go.
    let earlier = |condition: &str| super::has_condition(job, condition);
    if earlier("FailureTarget") {
        let told = pod::items(&job["status"], "conditions").iter().find(|c| c["type"] == "FailureTarget");
        return match told.map(|condition| text(condition, "/reason")) {
            Some("DeadlineExceeded") => failed("DeadlineExceeded", DEADLINE),
            _ => failed("BackoffLimitExceeded", BACKOFF),
        };
    }
    if ledger.failed > limit || restarts_count && restarts >= limit.max(1) {
        return failed("BackoffLimitExceeded", BACKOFF);
    }
    let is_done = match wanted(job, "completions") {
        Some(completions) => ledger.succeeded >= completions,
        None => ledger.succeeded > 0 && running.is_empty(),
    };
    if is_done {
        let message = "Reached expected number of succeeded pods";
        return Some(Verdict { succeeded: true, reason: "CompletionsReached", message });
    }
    match time_left(job, now) {
        Some(left) if left.is_zero() => failed("DeadlineExceeded", DEADLINE),
        _ => None,
    }
}

const BACKOFF: &str = "Job has reached the specified backoff limit";
const DEADLINE: &str = "Job was active longer than specified deadline";

fn restarts(pod: &Value) -> i64 {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().flat_map(|list| pod::items(&pod["status"], list));
    statuses.map(|status| integer(status, "/restartCount")).sum()
}

/// Until `activeDeadlineSeconds` are over; `None` where there is no such time.
fn time_left(job: &Value, now: Timestamp) -> Option<Duration> {
    let seconds = wanted(job, "activeDeadlineSeconds")?;
    let start: Timestamp = text(job, "/status/startTime").parse().unwrap_or(now);
    Some(Duration::from_secs(u64::try_from(start.as_second() + seconds - now.as_second()).unwrap_or(0)))
}

/// How long the next pod has to wait, because the last ones have failed.
fn wait_after_failures(ledger: &Ledger, pods: &[Arc<Value>], now: Timestamp) -> Option<Duration> {
    let last =
        pods.iter().filter(|pod| text(pod, "/status/phase") == "Failed").filter_map(|pod| ended_at(pod)).max()?;
    let last_success =
        pods.iter().filter(|pod| text(pod, "/status/phase") == "Succeeded").filter_map(|pod| ended_at(pod));
    if last_success.max().is_some_and(|success| success > last) {
        return None;
    }
    let doublings = u32::try_from(ledger.failed - 1).unwrap_or(0).min(10);
    let wait = (FIRST_WAIT * 2_u32.pow(doublings)).min(LONGEST_WAIT);
    let passed = Duration::from_secs(u64::try_from(now.as_second() - last.as_second()).unwrap_or(0));
    wait.checked_sub(passed).filter(|left| !left.is_zero())
}

/// When the last of its containers ended.
fn ended_at(pod: &Value) -> Option<Timestamp> {
    let statuses = pod::items(&pod["status"], "containerStatuses").iter();
    statuses.filter_map(|status| text(status, "/state/terminated/finishedAt").parse().ok()).max()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn pod(phase: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {"uid": phase}, "status": {"phase": phase, "containerStatuses": [
            {"restartCount": 0, "state": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}}}]}}))
    }

    fn planned(spec: Value, sums: (i64, i64), pods: &[Arc<Value>]) -> Plan {
        let mut job = json!({"spec": {"parallelism": 2, "completions": 3, "backoffLimit": 2},
            "status": {"startTime": "2026-01-01T00:00:00Z"}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            job["spec"][field] = value.clone();
        }
        let ledger = Ledger { succeeded: sums.0, failed: sums.1, ..Ledger::default() };
        Plan::of(&job, &ledger, pods, now())
    }

    #[test]
    fn as_many_pods_run_as_are_needed() {
        assert_eq!(planned(json!({}), (0, 0), &[]).missing, 2);
        assert_eq!(planned(json!({}), (2, 0), &[]).missing, 1);
        assert_eq!(planned(json!({}), (1, 0), &[pod("Running"), pod("Running")]).missing, 0);
        assert_eq!(planned(json!({"parallelism": 1}), (0, 0), &[pod("Running"), pod("Running")]).surplus.len(), 1);
        assert_eq!(planned(json!({"suspend": true}), (0, 0), &[pod("Running")]).surplus.len(), 1);
        assert_eq!(planned(json!({"completions": null}), (0, 0), &[]).missing, 2);
        assert_eq!(planned(json!({"completions": null}), (1, 0), &[pod("Running")]).missing, 0);
    }

    #[test]
    fn enough_successes_and_too_many_failures_end_it() {
        let reason = |spec, sums, pods: &[Arc<Value>]| planned(spec, sums, pods).verdict.map(|verdict| verdict.reason);
        assert_eq!(reason(json!({}), (3, 0), &[]), Some("CompletionsReached"));
        assert_eq!(reason(json!({}), (2, 2), &[]), None);
        assert_eq!(reason(json!({}), (2, 3), &[]), Some("BackoffLimitExceeded"));
        assert_eq!(reason(json!({"activeDeadlineSeconds": 60}), (0, 0), &[]), Some("DeadlineExceeded"));
        let before = planned(json!({"activeDeadlineSeconds": 70}), (0, 0), &[]);
        assert_eq!((before.verdict, before.again), (None, Some(Duration::from_secs(10))));
    }

    #[test]
    fn a_successor_of_failures_waits() {
        let plan = planned(json!({}), (0, 1), &[pod("Failed")]);
        assert_eq!((plan.missing, plan.again), (0, Some(Duration::from_secs(5))));
        let plan = planned(json!({}), (0, 2), &[pod("Failed")]);
        assert_eq!((plan.missing, plan.again), (0, Some(Duration::from_secs(15))));
        assert_eq!(planned(json!({}), (1, 1), &[pod("Running"), pod("Running")]).again, None);
    }
}
