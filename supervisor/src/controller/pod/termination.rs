//! The end of a whole pod: why it comes before anybody deletes it, and how its containers are ended.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodSpec};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::observed::{Observed, Role, declared, ephemeral};
use super::phase;
use super::stopping::{self, Ending};
use super::worker::Worker;
use crate::api::kinds::pod::DEFAULT_GRACE_SECONDS;
use crate::pod::PodError;
use crate::pod::status::{ContainerState, ContainerStatus};

/// Containers that are being ended.
pub(super) struct Termination {
    until: Instant,
    task: AbortOnDropHandle<Result<(), PodError>>,
}

/// Why nothing of a pod is started any more.
pub(super) enum Over {
    /// Its containers have done what they had to, or failed for good.
    Done,
    /// It fails as a whole: reason and message.
    Failed(String, String),
}

/// How long the containers of a pod have to end.
pub(super) fn grace(spec: &PodSpec) -> Duration {
    let seconds = spec.termination_grace_period_seconds.unwrap_or(DEFAULT_GRACE_SECONDS);
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// How long a pod may still be active; `None` where nothing bounds that.
pub(super) fn time_left(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let limit = pod.spec.as_ref()?.active_deadline_seconds?;
    let since = pod.status.as_ref()?.start_time.as_ref()?.0;
    let end = since.checked_add(jiff::SignedDuration::from_secs(limit)).ok()?;
    Some(Duration::try_from(end.duration_since(now)).unwrap_or(Duration::ZERO))
}

/// Whether a pod has come to its end.
pub(super) fn over(pod: &Pod, init: &[Observed], containers: &[Observed], now: Timestamp) -> Option<Over> {
    let policy = pod.spec.as_ref().and_then(|spec| spec.restart_policy.as_deref()).unwrap_or("Always");
    if phase::is_over(policy, init, containers) {
        return Some(Over::Done);
    }
    let message = "Pod was active on the node longer than the specified deadline";
    let expired = time_left(pod, now).is_some_and(|left| left.is_zero());
    expired.then(|| Over::Failed("DeadlineExceeded".into(), message.into()))
}

impl Worker {
    /// Containers of the pod that run.
    pub(super) fn running(&self) -> Vec<ContainerStatus> {
        let sandboxes = self.sandboxes();
        let all = sandboxes.iter().flat_map(|sandbox| self.context.node.containers_of(&sandbox.id));
        all.filter(|container| container.state == ContainerState::Running).collect()
    }

    /// Has Services send nothing more to the pod before its containers hear of its end. Connections there are go on. Who
    /// leaves it no time means at once.
    pub(super) async fn leave_services(&mut self, grace: u64) {
        if !self.unserved && grace > 0 && !self.running().is_empty() {
            self.context.services.follows(self.context.objects.store()).await;
        }
        self.unserved = true;
    }

    /// Has all of them end; true once they have. The second and any further call looks how far it has come, or makes it
    /// quicker.
    pub(super) async fn ended(&mut self, pod: &Pod, grace: Duration) -> Result<bool, PodError> {
        let running = self.running();
        if running.is_empty() {
            self.termination = None;
            return Ok(true);
        }
        let until = Instant::now() + grace;
        let mut first = true;
        if let Some(under_way) = &mut self.termination {
            first = false;
            if under_way.task.is_finished() {
                let result = (&mut under_way.task).await;
                self.termination = None;
                result.map_err(|error| PodError::internal("end containers", error))??;
            } else if under_way.until <= until {
                return Ok(false);
            }
        }
        // Those that are ended one by one are ended with the others now.
        self.stops.clear();
        let endings = self.endings(pod, &running, first);
        let wake = self.wake.clone();
        let task = tokio::spawn(async move {
            let result = stopping::end_all(endings, grace).await;
            wake.notify_one();
            result
        });
        self.termination = Some(Termination { until, task: AbortOnDropHandle::new(task) });
        Ok(false)
    }

    fn endings(&self, pod: &Pod, running: &[ContainerStatus], first: bool) -> Vec<Ending> {
        let spec = pod.spec.clone().unwrap_or_default();
        let sidecars = declared(&spec).filter(|(role, _)| *role == Role::Sidecar).count();
        let mut endings = Vec::new();
        let mut sidecar = 0;
        let ephemeral = ephemeral(&spec);
        let ephemeral = ephemeral.iter().map(|container| (Role::Ephemeral, container));
        for (role, container) in declared(&spec).chain(ephemeral) {
            // The last one to begin is the first to end, after all that it served.
            let turn = match role {
                Role::Sidecar => sidecars - sidecar,
                Role::Step | Role::Main | Role::Ephemeral => 0,
            };
            sidecar += usize::from(role == Role::Sidecar);
            for status in running.iter().filter(|status| status.config.name == container.name) {
                let mut ending = self.ending(role, container, status, turn);
                // A hook that was begun before has run, or is given up.
                ending.hook = ending.hook.filter(|_| first);
                endings.push(ending);
            }
        }
        endings
    }
}

#[cfg(test)]
mod tests {
    use super::super::observed::tests::container;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_pod_is_over_when_its_deadline_has_passed() {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"containers": [], "activeDeadlineSeconds": 10},
            "status": {"startTime": "2026-01-01T00:00:00Z"},
        }))
        .unwrap();
        let at = |time: &str| time.parse::<Timestamp>().unwrap();
        assert_eq!(time_left(&pod, at("2026-01-01T00:00:04Z")), Some(Duration::from_secs(6)));
        let running = [container(ContainerState::Running, 0)];
        assert!(over(&pod, &[], &running, at("2026-01-01T00:00:09Z")).is_none());
        let over = over(&pod, &[], &running, at("2026-01-01T00:00:10Z"));
        assert!(matches!(over, Some(Over::Failed(reason, _)) if reason == "DeadlineExceeded"));
    }
}
