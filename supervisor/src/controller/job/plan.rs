//! What a Job needs now: more pods, fewer, or a verdict.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;

use super::index::{self, Failures};
use super::ledger::{Ledger, has_ended, is_leaving, is_over};
use super::verdict::{Verdict, time_left};
use super::wanted;
use crate::api::kinds::{integer, pod, text};

/// How long a failed pod's successor waits: this, doubled with each failure, up to the limit. Kubernetes' own.
const FIRST_WAIT: Duration = Duration::from_secs(10);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// A pod to be made.
#[derive(Debug, Default, PartialEq)]
pub(super) struct NewPod {
    /// Of an indexed Job.
    pub(super) index: Option<i64>,
    /// Those of its index, where they count by themselves.
    pub(super) failures: Option<Failures>,
}

#[derive(Debug, Default, PartialEq)]
pub(super) struct Plan {
    pub(super) missing: Vec<NewPod>,
    pub(super) surplus: Vec<Arc<Value>>,
    pub(super) verdict: Option<Verdict>,
    /// When something is due that no change tells of.
    pub(super) again: Option<Duration>,
}

/// The pods of a Job that is neither over nor suspended.
struct Present<'a> {
    job: &'a Value,
    ledger: &'a Ledger,
    all: &'a [Arc<Value>],
    /// Those that have not ended and are not on their way out.
    running: Vec<&'a Arc<Value>>,
    now: Timestamp,
}

impl Plan {
    /// From what was counted, and the pods that there are; `verdict` is that which has been reached before.
    pub(super) fn of(
        job: &Value,
        ledger: &Ledger,
        pods: &[Arc<Value>],
        verdict: Option<Verdict>,
        now: Timestamp,
    ) -> Self {
        let running: Vec<&Arc<Value>> = pods.iter().filter(|pod| !is_over(pod) && !is_leaving(pod)).collect();
        let everything = || running.iter().map(|pod| Arc::clone(pod)).collect();
        let values: Vec<&Value> = running.iter().map(|pod| &***pod).collect();
        if let Some(verdict) = verdict.or_else(|| Verdict::of(job, ledger, &values, now)) {
            return Self { surplus: everything(), verdict: Some(verdict), ..Self::default() };
        }
        if job.pointer("/spec/suspend") == Some(&Value::Bool(true)) {
            return Self { surplus: everything(), ..Self::default() };
        }
        let present = Present { job, ledger, all: pods, running, now };
        let mut plan = if index::is_indexed(job) { present.plan_indexes() } else { present.plan() };
        plan.again = plan.again.into_iter().chain(time_left(job, now)).min();
        plan
    }
}

impl Present<'_> {
    /// Pods on their way out that hold their place.
    fn leaving(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.all.iter().filter(|pod| is_leaving(pod) && !has_ended(self.job, pod))
    }

    fn plan(&self) -> Plan {
        let parallelism = integer(self.job, "/spec/parallelism");
        let count = self.running.len() as i64;
        // Without a number of completions, one success means that there is nothing left to be done.
        let target = match wanted(self.job, "completions") {
            Some(completions) => parallelism.min(completions - self.ledger.succeeded),
            None if self.ledger.succeeded > 0 => count.min(parallelism),
            None => parallelism,
        };
        let missing = (target - count - self.leaving().count() as i64).max(0);
        match self.wait_after_failures().filter(|_| missing > 0) {
            Some(wait) => Plan { again: Some(wait), ..Plan::default() },
            None => {
                let surplus = usize::try_from(count - target).unwrap_or(0);
                let surplus = self.running.iter().rev().take(surplus).map(|pod| Arc::clone(pod)).collect();
                Plan { missing: (0..missing).map(|_| NewPod::default()).collect(), surplus, ..Plan::default() }
            }
        }
    }

    /// The least indexes that nobody is at work on; one pod for each.
    fn plan_indexes(&self) -> Plan {
        let completions = wanted(self.job, "completions").unwrap_or(0);
        let done = self.ledger.completed.union(&self.ledger.failed_indexes);
        let places = integer(self.job, "/spec/parallelism").min(completions - done.count()).max(0);
        let mut taken = done;
        let of = |pod: &Value| index::of(pod).filter(|index| *index < completions);
        let (mut kept, mut surplus) = (Vec::new(), Vec::new());
        for pod in &self.running {
            match of(pod) {
                Some(index) if taken.insert(index) => kept.push((index, *pod)),
                _ => surplus.push(Arc::clone(pod)),
            }
        }
        // Those of the greatest indexes go first.
        kept.sort_by_key(|(index, _)| *index);
        let left = kept.split_off(usize::try_from(places).unwrap_or(0).min(kept.len()));
        surplus.extend(left.into_iter().map(|(_, pod)| Arc::clone(pod)));
        let leaving = self.leaving().filter_map(|pod| of(pod)).filter(|index| taken.insert(*index)).count();
        let missing = usize::try_from(places).unwrap_or(0).saturating_sub(kept.len() + leaving);
        let (missing, again) = match wanted(self.job, "backoffLimitPerIndex") {
            Some(_) => self.next_tries(taken.gaps(completions), missing),
            None => match self.wait_after_failures().filter(|_| missing > 0) {
                Some(wait) => (Vec::new(), Some(wait)),
                None => {
                    let new = |index| NewPod { index: Some(index), failures: None };
                    (taken.gaps(completions).take(missing).map(new).collect(), None)
                }
            },
        };
        Plan { missing, surplus, verdict: None, again }
    }

    /// Each index waits by its own failures; one that does is passed over.
    fn next_tries(&self, indexes: impl Iterator<Item = i64>, missing: usize) -> (Vec<NewPod>, Option<Duration>) {
        let mut last: BTreeMap<i64, &Value> = BTreeMap::new();
        for pod in self.all {
            if let Some(index) = index::of(pod) {
                let known = last.entry(index).or_insert(pod);
                if index::order(pod) > index::order(known) {
                    *known = pod;
                }
            }
        }
        let (mut tries, mut again) = (Vec::new(), None);
        for index in indexes {
            if tries.len() == missing {
                break;
            }
            let failed = last.get(&index).filter(|pod| has_ended(self.job, pod));
            let failures = failed.map(|pod| Failures::with(self.job, pod)).unwrap_or_default();
            let ended = failed.and_then(|pod| ended_at(pod));
            match ended.and_then(|ended| wait(failures.all(), ended, self.now)) {
                Some(wait) => again = again.into_iter().chain([wait]).min(),
                None => tries.push(NewPod { index: Some(index), failures: Some(failures) }),
            }
        }
        (tries, again)
    }

    /// How long the next pod has to wait, because the last ones have failed.
    fn wait_after_failures(&self) -> Option<Duration> {
        let last = |phase: &str| {
            let ended = self.all.iter().filter(|pod| text(pod, "/status/phase") == phase);
            ended.filter_map(|pod| ended_at(pod)).max()
        };
        let failure = last("Failed").filter(|failure| last("Succeeded").is_none_or(|success| success <= *failure))?;
        wait(self.ledger.failed, failure, self.now)
    }
}

/// What is left of the wait after so many failures, the last one of them at that time.
fn wait(failures: i64, last: Timestamp, now: Timestamp) -> Option<Duration> {
    let doublings = u32::try_from(failures - 1).unwrap_or(0).min(10);
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
    use crate::api::kinds::job_index::Indexes;
    use serde_json::json;

    fn now() -> Timestamp {
        "2026-01-01T00:01:00Z".parse().unwrap()
    }

    fn pod(phase: &str) -> Arc<Value> {
        Arc::new(json!({"metadata": {"uid": phase}, "status": {"phase": phase, "containerStatuses": [
            {"restartCount": 0, "state": {"terminated": {"finishedAt": "2026-01-01T00:00:55Z"}}}]}}))
    }

    fn leaving() -> Arc<Value> {
        let mut leaving = Value::clone(&pod("Running"));
        leaving["metadata"]["deletionTimestamp"] = "now".into();
        Arc::new(leaving)
    }

    fn indexed(phase: &str, index: i64, failures: i64) -> Arc<Value> {
        let mut made = Value::clone(&pod(phase));
        index::give(&mut made, &Value::Null, index, Some(Failures { counted: failures, ignored: 0 }));
        Arc::new(made)
    }

    fn planned_with(spec: Value, ledger: &Ledger, pods: &[Arc<Value>]) -> Plan {
        let mut job = json!({"spec": {"parallelism": 2, "completions": 3, "backoffLimit": 2},
            "status": {"startTime": "2026-01-01T00:00:00Z"}});
        for (field, value) in spec.as_object().into_iter().flatten() {
            job["spec"][field] = value.clone();
        }
        Plan::of(&job, ledger, pods, None, now())
    }

    fn planned(spec: Value, sums: (i64, i64), pods: &[Arc<Value>]) -> Plan {
        planned_with(spec, &Ledger { succeeded: sums.0, failed: sums.1, ..Ledger::default() }, pods)
    }

    #[test]
    fn as_many_pods_run_as_are_needed() {
        let missing = |spec, sums, pods: &[Arc<Value>]| planned(spec, sums, pods).missing.len();
        assert_eq!(missing(json!({}), (0, 0), &[]), 2);
        assert_eq!(missing(json!({}), (2, 0), &[]), 1);
        assert_eq!(missing(json!({}), (1, 0), &[pod("Running"), pod("Running")]), 0);
        assert_eq!(planned(json!({"parallelism": 1}), (0, 0), &[pod("Running"), pod("Running")]).surplus.len(), 1);
        assert_eq!(planned(json!({"suspend": true}), (0, 0), &[pod("Running")]).surplus.len(), 1);
        assert_eq!(missing(json!({"completions": null}), (0, 0), &[]), 2);
        assert_eq!(missing(json!({"completions": null}), (1, 0), &[pod("Running")]), 0);
        // What is on its way out is replaced at once, or once it has failed.
        assert_eq!(missing(json!({}), (0, 0), &[pod("Running"), leaving()]), 1);
        assert_eq!(missing(json!({"podReplacementPolicy": "Failed"}), (0, 0), &[pod("Running"), leaving()]), 0);
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
        assert_eq!((plan.missing, plan.again), (vec![], Some(Duration::from_secs(5))));
        let plan = planned(json!({}), (0, 2), &[pod("Failed")]);
        assert_eq!((plan.missing, plan.again), (vec![], Some(Duration::from_secs(15))));
        assert_eq!(planned(json!({}), (1, 1), &[pod("Running"), pod("Running")]).again, None);
    }

    #[test]
    fn each_index_has_one_pod() {
        let spec =
            |parallelism: i64| json!({"completionMode": "Indexed", "completions": 6, "parallelism": parallelism});
        let ledger = Ledger { completed: Indexes::read("0,2", 6), ..Ledger::default() };
        let indexes = |plan: &Plan| plan.missing.iter().filter_map(|new| new.index).collect::<Vec<_>>();
        let surplus = |plan: &Plan| plan.surplus.iter().filter_map(|pod| index::of(pod)).collect::<Vec<_>>();
        let plan = planned_with(spec(3), &ledger, &[indexed("Running", 3, 0)]);
        assert_eq!((indexes(&plan), surplus(&plan)), (vec![1, 4], vec![]));
        let twice =
            [indexed("Running", 1, 0), indexed("Running", 1, 0), indexed("Running", 2, 0), indexed("Running", 9, 0)];
        let plan = planned_with(spec(1), &ledger, &twice);
        assert_eq!((indexes(&plan), surplus(&plan)), (vec![], vec![1, 2, 9]));
        let fewer = [indexed("Running", 5, 0), indexed("Running", 1, 0)];
        assert_eq!(surplus(&planned_with(spec(1), &ledger, &fewer)), [5]);
    }

    #[test]
    fn an_index_that_has_failed_waits_and_others_do_not() {
        let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 2, "backoffLimitPerIndex": 3,
            "backoffLimit": i32::MAX});
        let ledger = Ledger { failed: 5, ..Ledger::default() };
        let plan = planned_with(spec.clone(), &ledger, &[indexed("Failed", 0, 0)]);
        let new = |index| NewPod { index: Some(index), failures: Some(Failures::default()) };
        assert_eq!((plan.missing, plan.again), (vec![new(1), new(2)], Some(Duration::from_secs(5))));
        let busy = [indexed("Failed", 0, 0), indexed("Running", 1, 0), indexed("Failed", 2, 1)];
        let plan = planned_with(spec.clone(), &ledger, &busy);
        assert_eq!((plan.missing, plan.again), (vec![], Some(Duration::from_secs(5))));
        // The wait of the first is over by then, that of the other is longer.
        let job = json!({"spec": spec});
        let later = Plan::of(&job, &ledger, &busy, None, "2026-01-01T00:01:05Z".parse().unwrap());
        let again = NewPod { index: Some(0), failures: Some(Failures { counted: 1, ignored: 0 }) };
        assert_eq!(later.missing, [again]);
    }
}
