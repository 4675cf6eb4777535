//! The owner of one pod: brings the engine to what the object says, and the object's status to what the engine runs.
//!
//! ```text
//! object ──▶ sandbox ──▶ init containers, one by one ──▶ containers, each restarted by policy and back-off
//!    └─ deleted ──▶ stop with grace ──▶ remove sandbox, volumes, logs ──▶ remove the object
//! ```
//!
//! Every pass looks at both sides anew, so that it does not matter what happened before it, a crash included.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};
use reqwest::Client;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::desired::{self, Identity};
use super::event::Recorder;
use super::eviction::{EVICTED, EVICTION_GRACE, Eviction};
use super::observed::{self, Observed, PodFacts, Role, declared, ephemeral};
use super::probe::Probes;
use super::resize::{self, Resize};
use super::resource_field::Capacity;
use super::source::{Facts, Sources};
use super::starting::Record;
use super::termination::{self, Over, Termination, grace};
use super::{own_mounts, resolver, volume};
use crate::api::kinds::pod_disruption::cause_by_node;
use crate::api::kinds::{integer, pod, text};
use crate::api::pod_log::pod_log_folder;
use crate::api::status::ApiError;
use crate::controller::Context;
use crate::pod::PodError;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};

/// What a worker tries again after an error that says nothing about when it will be gone.
const RETRY: Duration = Duration::from_secs(10);

pub(super) struct Worker {
    pub(super) context: Context,
    pub(super) namespace: String,
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) wake: Arc<Notify>,
    pub(super) recorder: Recorder,
    /// Of probes and hooks.
    pub(super) http: Client,
    pub(super) records: HashMap<String, Record>,
    /// Of the containers that run, by name.
    pub(super) probes: HashMap<String, Probes>,
    /// The containers that are ended one by one, by id.
    pub(super) stops: HashMap<String, AbortOnDropHandle<()>>,
    /// The end of all of them.
    pub(super) termination: Option<Termination>,
    /// Nothing new is sent to the pod by any Service.
    pub(super) unserved: bool,
    /// What containers that have ended left to be said of them, by id.
    pub(super) last_words: HashMap<String, String>,
    pub(super) resize: Resize,
    pub(super) eviction: Eviction,
    /// Starts (true) and ends of containers that are in the journal, by id.
    pub(super) journaled: HashSet<(String, bool)>,
}

/// The end of a worker, or when it wants to look again.
enum Next {
    Finished,
    Wait(Option<Instant>),
}

impl Worker {
    pub(super) fn new(context: Context, object: &Value, wake: Arc<Notify>, recorder: Recorder, http: Client) -> Self {
        let field = |pointer| text(object, pointer).to_owned();
        Self {
            context,
            namespace: field("/metadata/namespace"),
            name: field("/metadata/name"),
            uid: field("/metadata/uid"),
            wake,
            recorder,
            http,
            records: HashMap::new(),
            probes: HashMap::new(),
            stops: HashMap::new(),
            termination: None,
            unserved: false,
            last_words: HashMap::new(),
            resize: Resize::default(),
            eviction: Eviction::default(),
            journaled: HashSet::new(),
        }
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
    pub(super) fn object(&self) -> Option<Arc<Value>> {
        let object = self.context.objects.get(&pod::KIND, &self.namespace, &self.name).ok()?;
        (text(&object, "/metadata/uid") == self.uid).then_some(object)
    }

    pub(super) fn sandboxes(&self) -> Vec<SandboxStatus> {
        self.context.node.sandboxes_of(&self.uid)
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.context.pod_volumes.join(&self.uid)
    }

    pub(super) fn log_folder(&self) -> PathBuf {
        pod_log_folder(&self.context.pod_logs, &self.namespace, &self.name, &self.uid)
    }

    async fn pass(&mut self) -> Result<Next, PodError> {
        let Some(object) = self.object() else {
            self.tear_down().await?;
            return Ok(Next::Finished);
        };
        let mut typed: Pod = serde_json::from_value(Value::clone(&object))
            .map_err(|error| PodError::internal("read pod object", error))?;
        let others = || self.context.objects.list(&pod::KIND, None).0;
        self.resize.pending = resize::accept(&mut typed, &object, others, self.capacity());
        self.forget_ended();
        self.hear_last_words(&typed);
        self.keep_history(&typed);
        if !text(&object, "/metadata/deletionTimestamp").is_empty() {
            let grace = u64::try_from(integer(&object, "/metadata/deletionGracePeriodSeconds")).unwrap_or(0);
            self.leave_services(grace).await;
            let ended = self.ended(&typed, Duration::from_secs(grace)).await?;
            self.write_status(&typed, None).await;
            if !ended {
                return Ok(Next::Wait(None));
            }
            self.tear_down().await?;
            let removed = self.context.objects.remove(&pod::KIND, &self.namespace, &self.name, &self.uid).await;
            return removed.map(|()| Next::Finished).map_err(|error| PodError::internal("remove pod object", error));
        }
        if text(&object, "/spec/nodeName") != &*self.context.node_name {
            // Not for this node, or for none yet.
            return Ok(Next::Wait(None));
        }
        if matches!(text(&object, "/status/phase"), "Succeeded" | "Failed") {
            // A finished pod keeps its containers for their logs and exit codes, and gives its network back.
            for sandbox in self.sandboxes().iter().filter(|s| s.state == SandboxState::Ready) {
                self.context.node.stop_sandbox(&sandbox.id).await?;
            }
            return Ok(Next::Wait(None));
        }
        let spec = typed.spec.clone().unwrap_or_default();
        let (init, containers) = self.observe_all(&spec);
        let look_again = self.look_at_disk(&object).await;
        let cause = self.eviction.cause.clone().or_else(|| cause_by_node(&object).map(str::to_owned));
        let evicted = cause.map(|cause| Over::Failed(EVICTED.into(), cause));
        let grace = if evicted.is_some() { EVICTION_GRACE } else { grace(&spec) };
        let over = evicted.or_else(|| termination::over(&typed, &init, &containers, Timestamp::now()));
        if let Some(over) = over {
            let ended = self.ended(&typed, grace).await?;
            let failure = match over {
                Over::Failed(reason, message) if ended => Some((reason, message)),
                _ => None,
            };
            self.write_status(&typed, failure).await;
            return Ok(Next::Wait(None));
        }
        let wake_at = self.advance(&typed).await;
        if let Err(error) = &wake_at {
            self.no_sandbox(&spec, error);
        }
        self.write_status(&typed, None).await;
        let deadline = termination::time_left(&typed, Timestamp::now()).map(|left| Instant::now() + left);
        let again = (self.resize != Resize::default()).then(|| Instant::now() + RETRY);
        Ok(Next::Wait([wake_at?, deadline, again, look_again].into_iter().flatten().min()))
    }

    /// Lets go of what belongs to containers that have ended.
    fn forget_ended(&mut self) {
        let running = self.running();
        let runs = |id: &str| running.iter().any(|container| container.id == id);
        self.probes.retain(|_, probes| runs(&probes.container));
        self.stops.retain(|id, _| runs(id));
    }

    /// Has the status say why no container can be begun.
    fn no_sandbox(&mut self, spec: &PodSpec, error: &PodError) {
        const REASON: &str = "CreatePodSandboxError";
        for container in &spec.containers {
            let running = self.observe(Role::Main, container).is_running();
            let record = self.records.entry(container.name.clone()).or_default();
            // The first message stays: each try has a sandbox id of its own in it, and a status that changes wakes
            // this worker at once, without end.
            if !running && record.waiting.as_ref().is_none_or(|(reason, _)| reason != REASON) {
                record.waiting = Some((REASON.to_owned(), error.to_string()));
            }
        }
    }

    pub(super) fn sources(&self) -> Sources<'_> {
        let api = self.context.pod_api.as_ref();
        Sources { objects: &self.context.objects, namespace: &self.namespace, api }
    }

    pub(super) fn facts(&self, sandbox: &SandboxStatus) -> Facts<'_> {
        let host_ips = &*self.context.host_ips;
        let pod_ips = match sandbox.config.host_network {
            true => host_ips.to_vec(),
            false => sandbox.addresses.clone(),
        };
        Facts { node_name: &self.context.node_name, pod_ips, host_ips, capacity: self.capacity() }
    }

    fn capacity(&self) -> Capacity {
        Capacity::of_node(&self.context.node.options().root)
    }

    /// Does what can be done now; gives back when the next thing may be due.
    async fn advance(&mut self, pod: &Pod) -> Result<Option<Instant>, PodError> {
        let spec = pod.spec.clone().unwrap_or_default();
        let sandbox = self.ensure_sandbox(pod).await?;
        let mut wake_at = match self.prepare_volumes(pod, &sandbox) {
            Ok(renewal) => renewal.map(|at| Instant::now() + time_until(at)),
            Err(message) => {
                self.not_mounted(&spec, &message);
                return Ok(Some(Instant::now() + RETRY));
            }
        };
        self.carry_out(pod, &sandbox).await;
        let policy = spec.restart_policy.clone().unwrap_or_default();
        for container in ephemeral(&spec) {
            if self.observe(Role::Ephemeral, &container).exit_code().is_none() {
                wake_at = earliest(wake_at, self.ensure_container(pod, (Role::Ephemeral, &container), &sandbox).await);
            }
        }
        let begun = spec.containers.iter().any(|container| !self.attempts(&container.name).is_empty());
        for (role, container) in declared(&spec) {
            let exit_code = self.observe(role, container).exit_code();
            let wanted = match (role, exit_code) {
                (Role::Step, Some(0)) => false,
                // What its work was for runs already.
                (Role::Step, _) => !begun,
                (Role::Sidecar, _) | (_, None) => true,
                (Role::Main, Some(0)) => policy == "Always",
                (Role::Main, Some(_)) => policy != "Never",
                (Role::Ephemeral, Some(_)) => false,
            };
            if !wanted {
                continue;
            }
            wake_at = earliest(wake_at, self.ensure_container(pod, (role, container), &sandbox).await);
            // What comes after an init container waits for it.
            let holds = match role {
                Role::Step => true,
                Role::Sidecar => !begun && !self.observe(role, container).started,
                Role::Main | Role::Ephemeral => false,
            };
            if holds {
                return Ok(wake_at);
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
        let (node, dns) = (&self.context.node, &self.context.dns);
        let resolver = resolver::of_pod(pod, dns, node.network(), &self.recorder).await;
        let id = node.run_sandbox(desired::sandbox(pod, attempt, self.log_folder(), resolver, dns.domain())).await?;
        self.context.node.sandbox(&id)
    }

    /// Attempts of a container, oldest first.
    pub(super) fn attempts(&self, container: &str) -> Vec<ContainerStatus> {
        let mut attempts: Vec<ContainerStatus> =
            self.sandboxes().iter().flat_map(|sandbox| self.context.node.containers_of(&sandbox.id)).collect();
        attempts.retain(|status| status.config.name == container);
        attempts.sort_by_key(|status| status.config.attempt);
        attempts
    }

    pub(super) fn observe(&self, role: Role, container: &Container) -> Observed {
        let mut attempts = self.attempts(&container.name);
        for attempt in attempts.iter_mut().filter(|attempt| attempt.finished_at != 0 && attempt.message.is_empty()) {
            attempt.message = self.last_words_of(container, attempt);
        }
        let current = attempts.pop();
        let waiting = self.records.get(&container.name).and_then(|record| record.waiting.clone());
        let outdated = role != Role::Step && current.as_ref().is_some_and(|current| is_outdated(container, current));
        let mut observed =
            Observed { current, previous: attempts.pop(), waiting, role, outdated, ..Observed::default() };
        if let Some(running) = observed.current.as_ref().filter(|current| current.state == ContainerState::Running)
            && let Some(probes) = self.probes.get(&container.name).filter(|probes| probes.container == running.id)
            && !self.stops.contains_key(&running.id)
        {
            let verdict = probes.verdict();
            (observed.started, observed.ready) = (verdict.started, verdict.ready);
        }
        observed
    }

    /// Init containers and the others.
    fn observe_all(&self, spec: &PodSpec) -> (Vec<Observed>, Vec<Observed>) {
        let all = declared(spec).map(|(role, container)| self.observe(role, container));
        all.partition(|observed| observed.role != Role::Main)
    }

    /// `failure` is set once the pod has failed as a whole.
    async fn write_status(&self, pod: &Pod, failure: Option<(String, String)>) {
        let spec = pod.spec.clone().unwrap_or_default();
        let (init, containers) = self.observe_all(&spec);
        let ephemeral = ephemeral(&spec).iter().map(|container| self.observe(Role::Ephemeral, container)).collect();
        let sandbox = self.sandboxes().into_iter().rev().find(|sandbox| sandbox.state == SandboxState::Ready);
        let host_ips = self.context.host_ips.to_vec();
        let addresses = match sandbox {
            Some(sandbox) if sandbox.config.host_network => host_ips.clone(),
            Some(sandbox) => sandbox.addresses,
            None => Vec::new(),
        };
        let facts = PodFacts {
            addresses,
            host_ips,
            ephemeral,
            failure,
            resize: self.resize.clone(),
            resources: self.resources_now(&spec),
        };
        // Others set conditions for readiness gates: those that stand there when this is written are kept.
        let status = move |object: &Value| observed::status(object, &init, &containers, &facts);
        let objects = &self.context.objects;
        match objects.change_status(&pod::KIND, &self.namespace, &self.name, &self.uid, status).await {
            Ok(()) | Err(ApiError::NotFound { .. }) => {}
            Err(error) => tracing::warn!(pod = self.name, %error, "write pod status"),
        }
    }

    /// Ends everything of the pod on this node at once and leaves nothing.
    async fn tear_down(&mut self) -> Result<(), PodError> {
        self.probes.clear();
        self.stops.clear();
        self.termination = None;
        let node = &self.context.node;
        for sandbox in self.sandboxes() {
            node.stop_sandbox(&sandbox.id).await?;
            node.remove_sandbox(&sandbox.id).await?;
        }
        let leftover = |error: std::io::Error| PodError::internal("remove pod folder", error);
        own_mounts::unmount_beneath(&self.folder()).map_err(leftover)?;
        volume::remove(&self.folder()).map_err(leftover)?;
        volume::remove(&self.log_folder()).map_err(leftover)
    }

    /// The pod's name, for the manager's book.
    pub(super) fn identity(&self) -> Identity {
        Identity { name: self.name.clone(), namespace: self.namespace.clone(), uid: self.uid.clone() }
    }
}

fn time_until(at: Timestamp) -> Duration {
    at.duration_since(Timestamp::now()).try_into().unwrap_or_default()
}

/// Whether an attempt was made of another image than its container has by now, as far as that is known.
pub(super) fn is_outdated(container: &Container, attempt: &ContainerStatus) -> bool {
    let made_of = &attempt.config.user_image;
    !made_of.is_empty() && container.image.as_ref().is_some_and(|image| image != made_of)
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}
