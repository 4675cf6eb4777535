//! The owner of one pod: brings the engine to what the object says, and the object's status to what the engine runs.
//!
//! ```text
//! object ──▶ sandbox ──▶ init containers, one by one ──▶ containers, each restarted by policy and back-off
//!    └─ deleted ──▶ stop with grace ──▶ remove sandbox, volumes, logs ──▶ remove the object
//! ```
//!
//! Every pass looks at both sides anew, so that it does not matter what happened before it, a crash included.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::future::join_all;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::back_off::BackOff;
use super::desired::{self, Identity};
use super::environment;
use super::image::{self, ImageFailure};
use super::observed::{self, Observed, PodFacts};
use super::source::{Facts, Sources};
use super::volume;
use crate::api::kinds::{integer, pod, text};
use crate::api::objects::Objects;
use crate::api::pod_log::pod_log_folder;
use crate::api::status::ApiError;
use crate::controller::Context;
use crate::pod::PodError;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};

/// What a worker tries again after an error that says nothing about when it will be gone.
const RETRY: Duration = Duration::from_secs(10);

pub(super) struct Worker {
    context: Context,
    namespace: String,
    name: String,
    uid: String,
    wake: Arc<Notify>,
    records: HashMap<String, Record>,
}

/// What is remembered of a container between passes.
#[derive(Default)]
struct Record {
    crashes: BackOff,
    images: BackOff,
    waiting: Option<(String, String)>,
    /// Nothing is tried before.
    not_before: Option<Instant>,
    /// The attempt whose end the back-off has taken into account.
    counted: Option<u32>,
}

/// The end of a worker, or when it wants to look again.
enum Next {
    Finished,
    Wait(Option<Instant>),
}

impl Worker {
    pub(super) fn new(context: Context, object: &Value, wake: Arc<Notify>) -> Self {
        let field = |pointer| text(object, pointer).to_owned();
        let (namespace, name, uid) = (field("/metadata/namespace"), field("/metadata/name"), field("/metadata/uid"));
        Self { context, namespace, name, uid, wake, records: HashMap::new() }
    }

    /// Works until the pod is gone.
    pub(super) async fn run(mut self) {
        loop {
            let next = match self.pass().await {
                Ok(Next::Finished) => return,
                Ok(Next::Wait(at)) => at,
                Err(error) => {
                    tracing::warn!(pod = self.name, namespace = self.namespace, %error, "pod");
                    Some(Instant::now() + RETRY)
                }
            };
            match next {
                Some(at) => {
                    let _ = tokio::time::timeout_at(at, self.wake.notified()).await;
                }
                None => self.wake.notified().await,
            }
        }
    }

    /// The object, if it is still the same one.
    fn object(&self) -> Option<Arc<Value>> {
        let object = self.context.objects.get(&pod::KIND, &self.namespace, &self.name).ok()?;
        (text(&object, "/metadata/uid") == self.uid).then_some(object)
    }

    fn sandboxes(&self) -> Vec<SandboxStatus> {
        let mut sandboxes = self.context.node.sandboxes();
        sandboxes.retain(|sandbox| sandbox.config.name.uid == self.uid);
        sandboxes.sort_by_key(|sandbox| sandbox.config.name.attempt);
        sandboxes
    }

    fn folder(&self) -> PathBuf {
        self.context.pod_volumes.join(&self.uid)
    }

    fn log_folder(&self) -> PathBuf {
        pod_log_folder(&self.context.pod_logs, &self.namespace, &self.name, &self.uid)
    }

    async fn pass(&mut self) -> Result<Next, PodError> {
        let Some(object) = self.object() else {
            self.tear_down(Duration::ZERO).await?;
            return Ok(Next::Finished);
        };
        if !text(&object, "/metadata/deletionTimestamp").is_empty() {
            let grace = u64::try_from(integer(&object, "/metadata/deletionGracePeriodSeconds")).unwrap_or(0);
            self.tear_down(Duration::from_secs(grace)).await?;
            let removed = self.context.objects.remove(&pod::KIND, &self.namespace, &self.name, &self.uid).await;
            return removed.map(|()| Next::Finished).map_err(|error| PodError::internal("remove pod object", error));
        }
        if text(&object, "/spec/nodeName") != &*self.context.node_name {
            // Not for this node, or for none yet.
            return Ok(Next::Wait(None));
        }
        let typed: Pod = serde_json::from_value(Value::clone(&object))
            .map_err(|error| PodError::internal("read pod object", error))?;
        if matches!(text(&object, "/status/phase"), "Succeeded" | "Failed") {
            // A finished pod keeps its containers for their logs and exit codes, and gives its network back.
            for sandbox in self.sandboxes().iter().filter(|s| s.state == SandboxState::Ready) {
                self.context.node.stop_sandbox(&sandbox.id).await?;
            }
            return Ok(Next::Wait(None));
        }
        let wake_at = self.advance(&typed).await;
        if let Err(error) = &wake_at {
            self.no_sandbox(&typed, error);
        }
        self.write_status(&object, &typed).await;
        wake_at.map(Next::Wait)
    }

    /// Has the status say why no container can be begun.
    fn no_sandbox(&mut self, pod: &Pod, error: &PodError) {
        const REASON: &str = "CreatePodSandboxError";
        for container in pod.spec.iter().flat_map(|spec| &spec.containers) {
            let running = self.observe(&container.name).is_running();
            let record = self.records.entry(container.name.clone()).or_default();
            // The first message stays: each try has a sandbox id of its own in it, and a status that changes wakes
            // this worker at once, without end.
            if !running && record.waiting.as_ref().is_none_or(|(reason, _)| reason != REASON) {
                record.waiting = Some((REASON.to_owned(), error.to_string()));
            }
        }
    }

    /// Has the status say which volume keeps containers from being begun. What runs already keeps what it has.
    fn not_mounted(&mut self, spec: &PodSpec, message: &str) {
        tracing::warn!(pod = self.name, namespace = self.namespace, message, "prepare volumes");
        for container in spec.init_containers.iter().flatten().chain(&spec.containers) {
            let running = self.observe(&container.name).is_running();
            let record = self.records.entry(container.name.clone()).or_default();
            if !running {
                record.waiting = Some(("ContainerCreating".into(), message.to_owned()));
            }
        }
    }

    fn sources(&self) -> Sources<'_> {
        Sources { objects: &self.context.objects, namespace: &self.namespace }
    }

    fn facts(&self, sandbox: &SandboxStatus) -> Facts<'_> {
        let host_ip = Some(self.context.host_ip);
        let pod_ip = match sandbox.config.host_network {
            true => host_ip,
            false => sandbox.addresses.first().copied(),
        };
        Facts { node_name: &self.context.node_name, pod_ip, host_ip }
    }

    /// Does what can be done now; gives back when the next thing may be due.
    async fn advance(&mut self, pod: &Pod) -> Result<Option<Instant>, PodError> {
        let spec = pod.spec.clone().unwrap_or_default();
        let sandbox = self.ensure_sandbox(pod).await?;
        let prepared = volume::prepare(pod, &self.folder(), &self.sources(), &self.facts(&sandbox));
        if let Err(message) = prepared {
            self.not_mounted(&spec, &message);
            return Ok(Some(Instant::now() + RETRY));
        }
        let policy = spec.restart_policy.clone().unwrap_or_default();
        for container in spec.init_containers.iter().flatten() {
            match self.observe(&container.name).exit_code() {
                Some(0) => continue,
                Some(_) if policy == "Never" => return Ok(None),
                _ => return Ok(self.ensure_container(pod, container, &sandbox, true).await),
            }
        }
        let mut wake_at: Option<Instant> = None;
        for container in &spec.containers {
            let restart = match self.observe(&container.name).exit_code() {
                None => true,
                Some(0) => policy == "Always",
                Some(_) => policy != "Never",
            };
            if restart && let Some(at) = self.ensure_container(pod, container, &sandbox, false).await {
                wake_at = Some(wake_at.map_or(at, |earlier| earlier.min(at)));
            }
        }
        Ok(wake_at)
    }

    /// The pod's ready sandbox, made anew if the last one has gone.
    async fn ensure_sandbox(&mut self, pod: &Pod) -> Result<SandboxStatus, PodError> {
        let sandboxes = self.sandboxes();
        if let Some(ready) = sandboxes.iter().rev().find(|sandbox| sandbox.state == SandboxState::Ready) {
            return Ok(ready.clone());
        }
        let attempt = sandboxes.last().map_or(0, |last| last.config.name.attempt + 1);
        for old in &sandboxes {
            self.context.node.stop_sandbox(&old.id).await?;
            self.context.node.remove_sandbox(&old.id).await?;
        }
        let id = self.context.node.run_sandbox(desired::sandbox(pod, attempt, self.log_folder())).await?;
        self.context.node.sandbox(&id)
    }

    /// Attempts of a container, oldest first.
    fn attempts(&self, container: &str) -> Vec<ContainerStatus> {
        let mut attempts: Vec<ContainerStatus> =
            self.sandboxes().iter().flat_map(|sandbox| self.context.node.containers_of(&sandbox.id)).collect();
        attempts.retain(|status| status.config.name == container);
        attempts.sort_by_key(|status| status.config.attempt);
        attempts
    }

    fn observe(&self, container: &str) -> Observed {
        let mut attempts = self.attempts(container);
        let current = attempts.pop();
        let waiting = self.records.get(container).and_then(|record| record.waiting.clone());
        Observed { current, previous: attempts.pop(), waiting }
    }

    /// Makes sure that a container runs, unless its back-off says to wait; gives back until when.
    async fn ensure_container(
        &mut self,
        pod: &Pod,
        container: &Container,
        sandbox: &SandboxStatus,
        init: bool,
    ) -> Option<Instant> {
        let attempts = self.attempts(&container.name);
        let record = self.records.entry(container.name.clone()).or_default();
        let last = attempts.last();
        if last.is_some_and(|last| last.state == ContainerState::Running) {
            record.waiting = None;
            return None;
        }
        if let Some(last) = last.filter(|last| last.state != ContainerState::Created)
            && record.counted != Some(last.config.attempt)
        {
            record.counted = Some(last.config.attempt);
            let wait = record.crashes.wait_after(nanoseconds_between(last.started_at, last.finished_at));
            record.not_before = Some(Instant::now() + wait.saturating_sub(since(last.finished_at)));
            if !wait.is_zero() {
                let message = format!("back-off {}s restarting failed container={}", wait.as_secs(), container.name);
                record.waiting = Some(("CrashLoopBackOff".into(), message));
            }
        }
        if let Some(at) = record.not_before.filter(|at| *at > Instant::now()) {
            return Some(at);
        }
        let attempt = match last {
            Some(last) if last.state == ContainerState::Created => last.config.attempt,
            Some(last) => last.config.attempt + 1,
            None => 0,
        };
        match self.start(pod, container, sandbox, attempt, last).await {
            Ok(()) => {
                let record = self.records.entry(container.name.clone()).or_default();
                record.waiting = None;
                record.not_before = None;
                record.images = BackOff::default();
                if attempt > 0 || init {
                    tracing::info!(pod = self.name, container = container.name, attempt, "container restarted");
                }
                record.crashes_if_restart(last.is_some());
                self.forget_old_attempts(&attempts).await;
                None
            }
            Err(failure) => Some(self.failed(&container.name, failure)),
        }
    }

    /// Takes note of a container that could not be started.
    fn failed(&mut self, container: &str, failure: ImageFailure) -> Instant {
        tracing::warn!(pod = self.name, container, reason = failure.reason, message = failure.message, "container");
        let record = self.records.entry(container.to_owned()).or_default();
        let first = record.images == BackOff::default();
        record.images.tried();
        let wait = record.images.wait_after(Duration::ZERO);
        let at = Instant::now() + wait;
        let reason = match failure.reason {
            "ErrImagePull" if !first => "ImagePullBackOff",
            reason => reason,
        };
        record.waiting = Some((reason.into(), failure.message));
        record.not_before = Some(at);
        at
    }

    async fn start(
        &self,
        pod: &Pod,
        container: &Container,
        sandbox: &SandboxStatus,
        attempt: u32,
        last: Option<&ContainerStatus>,
    ) -> Result<(), ImageFailure> {
        let node = &self.context.node;
        let failure = |reason| move |error: PodError| ImageFailure { reason, message: error.to_string() };
        if let Some(left) = last.filter(|last| last.state == ContainerState::Created) {
            // Made but never started: a daemon died in between.
            node.remove_container(&left.id).await.map_err(failure("CreateContainerError"))?;
        }
        let image = container.image.clone().unwrap_or_default();
        let policy = container.image_pull_policy.clone().unwrap_or_default();
        let image = self.or_deleted(image::ensure(node.images(), &image, &policy)).await?;
        let env = environment::resolve(pod, container, &self.sources(), &self.facts(sandbox))
            .map_err(|message| ImageFailure { reason: "CreateContainerConfigError", message })?;
        let mut config = desired::container(pod, container, attempt, &self.folder(), env);
        if desired::must_not_be_root(pod, container) {
            image::check_not_root(&image, config.security.run_as_user)?;
        }
        config.image = image.id.to_string();
        let id = node.create_container(&sandbox.id, config).await.map_err(failure("CreateContainerError"))?;
        if let Err(error) = node.start_container(&id).await {
            if let Err(error) = node.remove_container(&id).await {
                tracing::warn!(pod = self.name, container = id, %error, "remove what did not start");
            }
            return Err(failure("RunContainerError")(error));
        }
        Ok(())
    }

    /// Runs work that may take long, unless the pod is deleted meanwhile.
    async fn or_deleted<T>(&self, work: impl Future<Output = Result<T, ImageFailure>>) -> Result<T, ImageFailure> {
        let deleted = async {
            let mut versions = self.context.objects.store().versions();
            loop {
                versions.mark_unchanged();
                if self.object().is_none_or(|object| !text(&object, "/metadata/deletionTimestamp").is_empty()) {
                    return;
                }
                if versions.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            result = work => result,
            () = deleted => Err(ImageFailure { reason: "PodDeleted", message: "the pod is being deleted".into() }),
        }
    }

    /// Keeps the newest attempt that ended beside the one that runs; older ones go with their logs.
    async fn forget_old_attempts(&self, attempts: &[ContainerStatus]) {
        let Some((_, older)) = attempts.split_last() else { return };
        for old in older {
            if let Err(error) = self.context.node.remove_container(&old.id).await {
                tracing::warn!(pod = self.name, container = old.id, %error, "remove an old attempt");
                continue;
            }
            if let Some(log) = &old.log_path {
                let _ = std::fs::remove_file(log);
            }
        }
    }

    async fn write_status(&self, object: &Value, pod: &Pod) {
        let spec: PodSpec = pod.spec.clone().unwrap_or_default();
        let observe = |container: &Container| self.observe(&container.name);
        let init: Vec<Observed> = spec.init_containers.iter().flatten().map(observe).collect();
        let containers: Vec<Observed> = spec.containers.iter().map(observe).collect();
        let sandbox = self.sandboxes().into_iter().rev().find(|sandbox| sandbox.state == SandboxState::Ready);
        let host_ip = Some(self.context.host_ip);
        let addresses = match sandbox {
            Some(sandbox) if sandbox.config.host_network => host_ip.into_iter().collect(),
            Some(sandbox) => sandbox.addresses,
            None => Vec::new(),
        };
        let facts = PodFacts { addresses, host_ip, failure: None };
        let status = observed::status(object, &init, &containers, &facts);
        let objects: &Objects = &self.context.objects;
        match objects.set_status(&pod::KIND, &self.namespace, &self.name, &self.uid, status).await {
            Ok(()) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(pod = self.name, %error, "write pod status"),
        }
    }

    /// Ends everything of the pod on this node and leaves nothing.
    async fn tear_down(&self, grace: Duration) -> Result<(), PodError> {
        let node = &self.context.node;
        for sandbox in self.sandboxes() {
            let containers = node.containers_of(&sandbox.id);
            let stops = containers.iter().map(|container| node.stop_container(&container.id, grace));
            for stopped in join_all(stops).await {
                match stopped {
                    Err(error) if !error.is_not_found() => return Err(error),
                    _ => {}
                }
            }
            node.stop_sandbox(&sandbox.id).await?;
            node.remove_sandbox(&sandbox.id).await?;
        }
        let leftover = |error: std::io::Error| PodError::internal("remove pod folder", error);
        volume::remove(&self.folder()).map_err(leftover)?;
        volume::remove(&self.log_folder()).map_err(leftover)
    }

    /// The pod's name, for the manager's book.
    pub(super) fn identity(&self) -> Identity {
        Identity { name: self.name.clone(), namespace: self.namespace.clone(), uid: self.uid.clone() }
    }
}

impl Record {
    /// A start after an end counts against the back-off.
    fn crashes_if_restart(&mut self, restart: bool) {
        if restart {
            self.crashes.tried();
        }
    }
}

fn nanoseconds_between(start: i64, end: i64) -> Duration {
    Duration::from_nanos(u64::try_from(end - start).unwrap_or(0))
}

fn since(nanoseconds: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
}
