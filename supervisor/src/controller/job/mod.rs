//! Jobs: pods until enough of them have succeeded, or too many have failed.
//!
//! | file | job |
//! |---|---|
//! | `ledger.rs` | pods that have ended, each counted once |
//! | `index.rs` | pods of an indexed Job |
//! | `failure_policy.rs` | what a pod's failure means |
//! | `verdict.rs` | how the Job has ended |
//! | `plan.rs` | what is to be done now |
//!
//! A pod of a Job has a finalizer: it stays until it has been counted, whoever deletes it.

mod failure_policy;
mod index;
mod ledger;
mod plan;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::changes::{self, Again};
use super::event::{EventType, Recorder};
use super::replica_set::{condition, create_pod, delete_pod, is_ready, pod_of};
use crate::api::kinds::job::{has_condition, is_managed_elsewhere};
use crate::api::kinds::{job, pod, text};
use crate::api::objects::{Half, Objects, Propagation, is_owned_by, now};
use crate::api::status::ApiError;
use ledger::Ledger;
use plan::{NewPod, Plan};
use verdict::Verdict;

/// Keeps a pod until it has been counted; Kubernetes' own name.
const FINALIZER: &str = "batch.kubernetes.io/job-tracking";

/// Brings every Job to its end.
pub async fn run(objects: Objects, recorder: Recorder) {
    changes::run(objects, recorder, &job::KIND, &pod::KIND, reconcile).await;
}

async fn reconcile(objects: &Objects, recorder: &Recorder, namespace: &str, name: &str) -> Result<Again, ApiError> {
    Controller { objects, recorder }.reconcile(namespace, name).await
}

struct Controller<'a> {
    objects: &'a Objects,
    recorder: &'a Recorder,
}

impl Controller<'_> {
    async fn reconcile(&self, namespace: &str, name: &str) -> Result<Again, ApiError> {
        let job = match self.objects.get(&job::KIND, namespace, name) {
            Ok(job) => job,
            Err(ApiError::NotFound { .. }) => return self.release_strangers(namespace).await,
            Err(error) => return Err(error),
        };
        if is_managed_elsewhere(&job) {
            // How long one that has ended is kept is nobody's but the node's.
            return if is_over(&job) { self.expire(&job).await } else { Ok(None) };
        }
        let (mut pods, _) = self.objects.list(&pod::KIND, Some(namespace));
        pods.retain(|pod| is_owned_by(pod, text(&job, "/metadata/uid")));
        if !text(&job, "/metadata/deletionTimestamp").is_empty() {
            return self.release(&pods).await;
        }
        if is_over(&job) {
            self.release(&pods).await?;
            return self.expire(&job).await;
        }
        let failed = pods.iter().map(|pod| &**pod).filter(|pod| text(pod, "/status/phase") == "Failed");
        let verdict = Verdict::told(&job).or_else(|| Verdict::by_policy(&job, failed));
        let ledger = self.count(&job, &pods, verdict.as_ref()).await?;
        let plan = Plan::of(&job, &ledger, &pods, verdict, Timestamp::now());
        self.carry_out(&job, &plan).await?;
        self.write_status(&job, &ledger, &plan).await?;
        Ok(plan.again)
    }

    /// Counts pods that have ended and are not counted yet: first they are noted in the status, then let go, then the
    /// note becomes part of the sum. Whatever interrupts this, none is counted twice. A verdict is told before the pod that
    /// it is by may go.
    async fn count(&self, job: &Value, pods: &[Arc<Value>], verdict: Option<&Verdict>) -> Result<Ledger, ApiError> {
        let mut ledger = Ledger::of(job);
        if ledger.note(job, pods) {
            let mut status = ledger.write_to(job);
            if let Some(verdict) = verdict {
                status["conditions"] = conditions(job, Some(verdict), false).into();
            }
            self.set_status(job, status).await?;
        }
        for pod in pods.iter().filter(|pod| ledger.is_noted(pod)) {
            self.let_go(pod).await?;
        }
        ledger.close();
        Ok(ledger)
    }

    async fn let_go(&self, pod: &Value) -> Result<(), ApiError> {
        if !ledger::is_tracked(pod) {
            return Ok(());
        }
        let change = |mut pod: Value| {
            if let Some(finalizers) = pod.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|finalizer| finalizer != FINALIZER);
            }
            Ok(pod)
        };
        let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
        match self.objects.update(&pod::KIND, namespace, name, Half::Desired, change).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn release(&self, pods: &[Arc<Value>]) -> Result<Again, ApiError> {
        for pod in pods {
            self.let_go(pod).await?;
        }
        Ok(None)
    }

    /// Pods whose Job is gone: nobody will count them.
    async fn release_strangers(&self, namespace: &str) -> Result<Again, ApiError> {
        let (mut pods, _) = self.objects.list(&pod::KIND, Some(namespace));
        let (jobs, _) = self.objects.list(&job::KIND, Some(namespace));
        pods.retain(|pod| !jobs.iter().any(|job| is_owned_by(pod, text(job, "/metadata/uid"))));
        self.release(&pods).await
    }

    /// Deletes a Job that has ended and is kept no longer.
    async fn expire(&self, job: &Value) -> Result<Again, ApiError> {
        let kept = job.pointer("/spec/ttlSecondsAfterFinished").and_then(Value::as_i64);
        let Some(kept) = kept else { return Ok(None) };
        let ended = pod::items(&job["status"], "conditions").iter().find(|condition| {
            matches!(text(condition, "/type"), "Complete" | "Failed") && condition["status"] == "True"
        });
        let ended: Option<Timestamp> = ended.and_then(|c| text(c, "/lastTransitionTime").parse().ok());
        let left = ended.map_or(0, |ended| ended.as_second() + kept - Timestamp::now().as_second());
        if let Ok(left @ 1..) = u64::try_from(left) {
            return Ok(Some(Duration::from_secs(left)));
        }
        let (namespace, name) = (text(job, "/metadata/namespace"), text(job, "/metadata/name"));
        match self.objects.delete(&job::KIND, namespace, name, Propagation::Background, None).await {
            Ok(_) | Err(ApiError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn carry_out(&self, job: &Value, plan: &Plan) -> Result<(), ApiError> {
        for pod in &plan.surplus {
            // Those of a Job that is not over have not failed.
            if plan.verdict.is_none() {
                self.let_go(pod).await?;
            }
            delete_pod(self.objects, self.recorder, &job::KIND, job, pod).await?;
        }
        for NewPod { index, failures } in &plan.missing {
            let mut pod = pod_of(&job::KIND, job);
            pod["metadata"]["finalizers"] = json!([FINALIZER]);
            if let Some(index) = index {
                index::give(&mut pod, job, *index, *failures);
            }
            create_pod(self.objects, self.recorder, &job::KIND, job, pod).await?;
        }
        Ok(())
    }

    async fn write_status(&self, job: &Value, ledger: &Ledger, plan: &Plan) -> Result<(), ApiError> {
        let old = &job["status"];
        let mut status = ledger.write_to(job);
        let (mut pods, _) = self.objects.list(&pod::KIND, Some(text(job, "/metadata/namespace")));
        pods.retain(|pod| is_owned_by(pod, text(job, "/metadata/uid")) && !ledger::is_over(pod));
        let (terminating, active): (Vec<_>, Vec<_>) = pods.iter().partition(|pod| ledger::is_leaving(pod));
        status["active"] = active.len().into();
        status["terminating"] = terminating.len().into();
        status["ready"] = active.iter().filter(|pod| is_ready(pod)).count().into();
        let suspended = job.pointer("/spec/suspend") == Some(&Value::Bool(true));
        match (suspended, text(old, "/startTime")) {
            (true, _) => drop(status.as_object_mut().map(|status| status.remove("startTime"))),
            (false, "") => status["startTime"] = now().into(),
            (false, _) => {}
        }
        // The end is told when no pod of it runs any more.
        let is_over = plan.verdict.is_some() && pods.is_empty();
        status["conditions"] = conditions(job, plan.verdict.as_ref(), is_over).into();
        if let Some(verdict) = plan.verdict.as_ref().filter(|_| is_over) {
            if verdict.succeeded {
                status["completionTime"] = now().into();
            }
            self.tell_end(job, verdict);
        }
        self.set_status(job, status).await
    }

    fn tell_end(&self, job: &Value, verdict: &Verdict) {
        let (event_type, reason, message) = match verdict.succeeded {
            true => (EventType::Normal, "Completed", "Job completed"),
            false => (EventType::Warning, verdict.reason, verdict.message.as_str()),
        };
        self.recorder.tell(&job::KIND, job, event_type, reason, message.into());
    }

    async fn set_status(&self, job: &Value, status: Value) -> Result<(), ApiError> {
        let field = |pointer| text(job, pointer);
        let (namespace, name) = (field("/metadata/namespace"), field("/metadata/name"));
        match self.objects.set_status(&job::KIND, namespace, name, field("/metadata/uid"), status).await {
            Err(ApiError::NotFound { .. }) => Ok(()),
            other => other,
        }
    }
}

/// Whether it has come to its end, and nothing of it runs any more.
fn is_over(job: &Value) -> bool {
    has_condition(job, "Complete") || has_condition(job, "Failed")
}

/// The conditions of a Job with this verdict, if there is one; `is_over` once it is carried out.
fn conditions(job: &Value, verdict: Option<&Verdict>, is_over: bool) -> Vec<Value> {
    let old = &job["status"];
    let mut conditions = Vec::new();
    let suspended = job.pointer("/spec/suspend") == Some(&Value::Bool(true));
    let was_suspended = pod::items(old, "conditions").iter().any(|condition| condition["type"] == "Suspended");
    if suspended || was_suspended {
        let (reason, message) =
            if suspended { ("JobSuspended", "Job suspended") } else { ("JobResumed", "Job resumed") };
        conditions.push(condition(old, "Suspended", suspended, reason, message));
    }
    if let Some(Verdict { succeeded, reason, message }) = verdict {
        let (target, last) = if *succeeded { ("SuccessCriteriaMet", "Complete") } else { ("FailureTarget", "Failed") };
        conditions.push(condition(old, target, true, reason, message));
        if is_over {
            conditions.push(condition(old, last, true, reason, message));
        }
    }
    conditions
}

/// A number of a Job's specification that may be left out.
fn wanted(job: &Value, field: &str) -> Option<i64> {
    job.pointer(&format!("/spec/{field}")).and_then(Value::as_i64)
}
