//! How a Job has ended.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::failure_policy::{Action, judge};
use super::ledger::Ledger;
use super::{has_condition, index, wanted};
use crate::api::kinds::job_index::Indexes;
use crate::api::kinds::{integer, pod, text};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verdict {
    pub(super) succeeded: bool,
    /// Of the condition, as is the message; both are Kubernetes' own.
    pub(super) reason: &'static str,
    pub(super) message: String,
}

const COMPLETED: &str = "CompletionsReached";
const POLICY_MET: &str = "SuccessPolicy";
const BACKOFF: &str = "BackoffLimitExceeded";
const DEADLINE: &str = "DeadlineExceeded";
const POD_FAILED: &str = "PodFailurePolicy";
const TOO_MANY_INDEXES: &str = "MaxFailedIndexesExceeded";
const INDEXES_FAILED: &str = "FailedIndexes";

impl Verdict {
    fn success(reason: &'static str, message: impl Into<String>) -> Self {
        Self { succeeded: true, reason, message: message.into() }
    }

    fn failure(reason: &'static str, message: impl Into<String>) -> Self {
        Self { succeeded: false, reason, message: message.into() }
    }

    /// That which is in the status: it stays, while the pods go.
    pub(super) fn told(job: &Value) -> Option<Self> {
        let found = |kind: &str| {
            let told = has_condition(job, kind);
            let mut conditions = pod::items(&job["status"], "conditions").iter();
            conditions.find(|condition| told && condition["type"] == kind)
        };
        let known = |condition: &Value, reasons: &[&'static str]| {
            let reason = text(condition, "/reason");
            (
                reasons.iter().copied().find(|known| *known == reason).unwrap_or(reasons[0]),
                text(condition, "/message").to_owned(),
            )
        };
        if let Some(condition) = found("FailureTarget") {
            let reasons = [BACKOFF, DEADLINE, POD_FAILED, TOO_MANY_INDEXES, INDEXES_FAILED];
            let (reason, message) = known(condition, &reasons);
            return Some(Self::failure(reason, message));
        }
        let (reason, message) = known(found("SuccessCriteriaMet")?, &[COMPLETED, POLICY_MET]);
        Some(Self::success(reason, message))
    }

    /// That of the first pod whose failure is the Job's.
    pub(super) fn by_policy<'a>(job: &Value, mut failed: impl Iterator<Item = &'a Value>) -> Option<Self> {
        failed.find_map(|pod| match judge(job, pod) {
            (Action::FailJob, message) => Some(Self::failure(POD_FAILED, message)),
            _ => None,
        })
    }

    /// From what was counted, and the pods that run.
    pub(super) fn of(job: &Value, ledger: &Ledger, running: &[&Value], now: Timestamp) -> Option<Self> {
        let limit = integer(job, "/spec/backoffLimit");
        let restarts: i64 = running.iter().map(|pod| restarts(pod)).sum();
        let restarts_count = text(job, "/spec/template/spec/restartPolicy") == "OnFailure" && restarts > 0;
        if ledger.failed > limit || restarts_count && restarts >= limit.max(1) {
            return Some(Self::failure(BACKOFF, "Job has reached the specified backoff limit"));
        }
        if index::is_indexed(job)
            && let Some(verdict) = of_indexes(job, ledger)
        {
            return Some(verdict);
        }
        let is_done = match wanted(job, "completions") {
            Some(completions) => ledger.succeeded >= completions,
            None => ledger.succeeded > 0 && running.is_empty(),
        };
        if is_done {
            return Some(Self::success(COMPLETED, "Reached expected number of succeeded pods"));
        }
        let is_late = time_left(job, now).is_some_and(|left| left.is_zero());
        is_late.then(|| Self::failure(DEADLINE, "Job was active longer than specified deadline"))
    }
}

fn of_indexes(job: &Value, ledger: &Ledger) -> Option<Verdict> {
    let failed = ledger.failed_indexes.count();
    if wanted(job, "maxFailedIndexes").is_some_and(|most| failed > most) {
        let message = "Job has exceeded the specified maximal number of failed indexes";
        return Some(Verdict::failure(TOO_MANY_INDEXES, message));
    }
    let completions = wanted(job, "completions").unwrap_or(0);
    let rules = job.pointer("/spec/successPolicy").map_or(&[][..], |policy| pod::items(policy, "rules"));
    let is_met = |rule: &Value| {
        let count = rule.get("succeededCount").and_then(Value::as_i64);
        match rule.get("succeededIndexes").and_then(Value::as_str) {
            Some(text) => {
                let indexes = Indexes::read(text, completions);
                ledger.completed.count_common(&indexes) >= count.unwrap_or(indexes.count())
            }
            None => count.is_some_and(|count| ledger.completed.count() >= count),
        }
    };
    if let Some(index) = rules.iter().position(is_met) {
        return Some(Verdict::success(POLICY_MET, format!("Matched rules at index {index}")));
    }
    let is_over = failed > 0 && failed + ledger.completed.count() >= completions;
    is_over.then(|| Verdict::failure(INDEXES_FAILED, "Job has failed indexes"))
}

fn restarts(pod: &Value) -> i64 {
    let lists = ["initContainerStatuses", "containerStatuses"];
    let statuses = lists.iter().flat_map(|list| pod::items(&pod["status"], list));
    statuses.map(|status| integer(status, "/restartCount")).sum()
}

/// Until `activeDeadlineSeconds` are over; `None` where there is no such time.
pub(super) fn time_left(job: &Value, now: Timestamp) -> Option<Duration> {
    let seconds = wanted(job, "activeDeadlineSeconds")?;
    let start: Timestamp = text(job, "/status/startTime").parse().unwrap_or(now);
    Some(Duration::from_secs(u64::try_from(start.as_second() + seconds - now.as_second()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn verdict(spec: Value, completed: &str, failed: &str) -> Option<(&'static str, String)> {
        let mut job = json!({"spec": {"completions": 5, "completionMode": "Indexed", "backoffLimit": i32::MAX}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            job["spec"][field] = value.clone();
        }
        let (completed, failed_indexes) = (Indexes::read(completed, 5), Indexes::read(failed, 5));
        let ledger = Ledger { succeeded: completed.count(), completed, failed_indexes, ..Ledger::default() };
        Verdict::of(&job, &ledger, &[], Timestamp::UNIX_EPOCH).map(|verdict| (verdict.reason, verdict.message))
    }

    #[test]
    fn each_index_has_its_end() {
        let reason = |spec, completed: &str, failed: &str| verdict(spec, completed, failed).map(|(reason, _)| reason);
        assert_eq!(reason(json!({}), "0-3", ""), None);
        assert_eq!(reason(json!({}), "0-4", ""), Some(COMPLETED));
        assert_eq!(reason(json!({}), "0-2", "3"), None);
        assert_eq!(reason(json!({}), "0-2,4", "3"), Some(INDEXES_FAILED));
        assert_eq!(reason(json!({"maxFailedIndexes": 1}), "0", "3"), None);
        assert_eq!(reason(json!({"maxFailedIndexes": 1}), "0", "2,3"), Some(TOO_MANY_INDEXES));
        assert_eq!(reason(json!({"maxFailedIndexes": 0}), "", "3"), Some(TOO_MANY_INDEXES));
    }

    #[test]
    fn a_success_policy_is_met_by_its_indexes_or_their_count() {
        let policy = json!({"successPolicy": {"rules": [
            {"succeededIndexes": "0,3-4", "succeededCount": 2}, {"succeededIndexes": "1"}, {"succeededCount": 3}]}});
        let message = |completed: &str| verdict(policy.clone(), completed, "").map(|(_, message)| message);
        assert_eq!(message("2,3"), None);
        assert_eq!(message("0,4").as_deref(), Some("Matched rules at index 0"));
        assert_eq!(message("1").as_deref(), Some("Matched rules at index 1"));
        assert_eq!(
            verdict(json!({"successPolicy": {"rules": [{"succeededCount": 2}]}}), "1,2", "").unwrap().0,
            POLICY_MET
        );
    }

    #[test]
    fn what_was_told_stays() {
        let job = |kind: &str, reason: &str| json!({"status": {"conditions": [{"type": kind, "status": "True", "reason": reason, "message": "m"}]}});
        let told = |kind: &str, reason: &str| Verdict::told(&job(kind, reason)).unwrap();
        assert_eq!(told("FailureTarget", POD_FAILED), Verdict::failure(POD_FAILED, "m"));
        assert_eq!(told("SuccessCriteriaMet", POLICY_MET), Verdict::success(POLICY_MET, "m"));
        assert_eq!(told("FailureTarget", "anything").reason, BACKOFF);
        assert_eq!(Verdict::told(&job("Suspended", "x")), None);
    }
}
