//! The end of containers: hook, stop signal, kill, all within one grace period; sidecars after what they serve.
//!
//! ```text
//! containers  hook ─▶ signal … ended ┐
//! sidecar 2   hook ─▶ ── waits ──────┴▶ signal … ended ┐
//! sidecar 1   hook ─▶ ── waits ────────────────────────┴▶ signal … ended        grace over: all are killed
//! ```

use std::time::Duration;

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::LifecycleHandler;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::event::{Recorder, Subject};
use super::hook;
use super::probe::Target;
use crate::pod::PodError;

/// What is left after a hook that took all of the grace period, as the kubelet has it.
const LEAST_GRACE: Duration = Duration::from_secs(2);

/// One container to be ended.
pub(super) struct Ending {
    pub(super) target: Target,
    pub(super) hook: Option<LifecycleHandler>,
    pub(super) recorder: Recorder,
    pub(super) subject: Subject,
    /// Of those with equal numbers none waits for the others; 0 goes first.
    pub(super) turn: usize,
}

/// Ends all of them; fails with the first that cannot be ended.
pub(super) async fn end_all(endings: Vec<Ending>, grace: Duration) -> Result<(), PodError> {
    let deadline = Instant::now() + grace;
    let ended: Vec<(usize, CancellationToken)> =
        endings.iter().map(|ending| (ending.turn, CancellationToken::new())).collect();
    let ends = endings.into_iter().enumerate().map(|(index, ending)| {
        let before = ended.iter().filter(|(turn, _)| *turn < ending.turn).map(|(_, token)| token.clone()).collect();
        let done = ended[index].1.clone().drop_guard();
        async move {
            let result = ending.end(before, grace, deadline).await;
            drop(done);
            result
        }
    });
    match join_all(ends).await.into_iter().find(|result| matches!(result, Err(error) if !error.is_not_found())) {
        Some(failed) => failed,
        None => Ok(()),
    }
}

impl Ending {
    /// `before` are those that have to have ended first, if the grace period allows.
    async fn end(self, before: Vec<CancellationToken>, grace: Duration, deadline: Instant) -> Result<(), PodError> {
        if let Some(hook) = self.hook.as_ref().filter(|_| !grace.is_zero()) {
            let failed = match tokio::time::timeout_at(deadline, hook::run(hook, &self.target)).await {
                Ok(Ok(())) => None,
                Ok(Err(message)) => Some(message),
                Err(_) => Some(format!("not done within the grace period of {} s", grace.as_secs())),
            };
            if let Some(message) = failed {
                let message = format!("PreStopHook failed: {message}");
                self.recorder.warning(&self.subject, "FailedPreStopHook", message);
            }
        }
        let others = join_all(before.iter().map(CancellationToken::cancelled));
        let _ = tokio::time::timeout_at(deadline, others).await;
        let left = match grace.is_zero() {
            true => grace,
            false => deadline.saturating_duration_since(Instant::now()).max(LEAST_GRACE.min(grace)),
        };
        self.target.node.stop_container(&self.target.container, left).await
    }
}
