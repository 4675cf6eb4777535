//! One container brought to run: image, environment, creation, start, hook; tried again as its back-off says.

use std::net::IpAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use k8s_openapi::api::core::v1::{Container, Pod};
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use super::back_off::BackOff;
use super::event::Subject;
use super::image::{self, ImageFailure, Images};
use super::observed::Role;
use super::probe::{Probes, Target, Verdict};
use super::pull_secret::PullSecrets;
use super::stopping::{self, Ending};
use super::worker::Worker;
use super::{claim, desired, environment, hook, mounts, termination, termination_message};
use crate::api::kinds::text;
use crate::pod::PodError;
use crate::pod::spec::PidMode;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxStatus};

/// What is remembered of a container between passes.
#[derive(Default)]
pub(super) struct Record {
    pub(super) crashes: BackOff,
    pub(super) images: BackOff,
    /// Why it does not run: reason and message.
    pub(super) waiting: Option<(String, String)>,
    /// Nothing is tried before.
    pub(super) not_before: Option<Instant>,
    /// The attempt whose end the back-off has taken into account.
    pub(super) counted: Option<u32>,
    /// Which image all that is about: with another one it begins anew.
    image: Option<String>,
}

impl Worker {
    /// Makes sure that a container runs, unless its back-off says to wait; gives back until when.
    pub(super) async fn ensure_container(
        &mut self,
        pod: &Pod,
        (role, container): (Role, &Container),
        sandbox: &SandboxStatus,
    ) -> Option<Instant> {
        let record = self.records.entry(container.name.clone()).or_default();
        if record.image != container.image {
            let is_first = record.image.is_none();
            let earlier = std::mem::take(record);
            *record = Record { image: container.image.clone(), ..if is_first { earlier } else { Record::default() } };
        }
        let attempts = self.attempts(&container.name);
        let last = attempts.last();
        if let Some(running) = last.filter(|last| last.state == ContainerState::Running) {
            self.records.entry(container.name.clone()).or_default().waiting = None;
            self.look_after(pod, (role, container), running, sandbox);
            return None;
        }
        if let Some(at) = self.back_off(&container.name, last) {
            return Some(at);
        }
        let attempt = match last {
            Some(last) if last.state == ContainerState::Created => last.config.attempt,
            Some(last) => last.config.attempt + 1,
            None => 0,
        };
        match self.start(pod, (role, container), sandbox, attempt, last).await {
            Ok(()) => {
                let record = self.records.entry(container.name.clone()).or_default();
                record.waiting = None;
                record.not_before = None;
                record.images = BackOff::default();
                if last.is_some() {
                    // A start after an end counts against the back-off.
                    record.crashes.tried();
                }
                self.forget_old_attempts(&attempts).await;
                if let Some(running) = self.attempts(&container.name).last() {
                    self.look_after(pod, (role, container), running, sandbox);
                }
                None
            }
            Err(failure) => Some(self.failed(&container.name, failure)),
        }
    }

    /// Takes a new end into account; gives back until when nothing is tried.
    fn back_off(&mut self, container: &str, last: Option<&ContainerStatus>) -> Option<Instant> {
        let record = self.records.entry(container.to_owned()).or_default();
        if let Some(last) = last.filter(|last| last.state != ContainerState::Created)
            && record.counted != Some(last.config.attempt)
        {
            record.counted = Some(last.config.attempt);
            let wait = record.crashes.wait_after(nanoseconds_between(last.started_at, last.finished_at));
            record.not_before = Some(Instant::now() + wait.saturating_sub(since(last.finished_at)));
            if !wait.is_zero() {
                let message = format!("back-off {}s restarting failed container={container}", wait.as_secs());
                record.waiting = Some(("CrashLoopBackOff".into(), message));
            }
        }
        record.not_before.filter(|at| *at > Instant::now())
    }

    /// Takes note of a container that could not be started.
    fn failed(&mut self, container: &str, failure: ImageFailure) -> Instant {
        tracing::warn!(pod = self.name, container, reason = failure.reason, message = failure.message, "container");
        self.note_failure(container, failure.reason, &failure.message);
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
        &mut self,
        pod: &Pod,
        (role, container): (Role, &Container),
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
        let (recorder, subject) = (self.recorder.clone(), self.subject(role, container));
        let secrets = PullSecrets::of(pod, &self.sources());
        let images = Images { store: node.images(), recorder, subject, secrets };
        let image = self.or_deleted(images.ensure(&image, &policy)).await?;
        let env = environment::resolve(pod, container, &self.sources(), &self.facts(sandbox))
            .map_err(|message| ImageFailure { reason: "CreateContainerConfigError", message })?;
        let folder = self.folder();
        let claims = claim::of(&self.context, pod);
        let claims = claims.map_err(|message| ImageFailure { reason: "CreateContainerConfigError", message })?;
        let mounts = mounts::prepare(pod, container, attempt, (&folder, &claims), &env, &images);
        let mounts = self.or_deleted(mounts).await?;
        let mut config = desired::container(pod, container, attempt, mounts, env);
        if desired::must_not_be_root(pod, container) {
            image::check_not_root(&image, config.security.run_as_user)?;
        }
        config.image = image.id.to_string();
        if role == Role::Ephemeral && sandbox.config.pid == PidMode::Container {
            config.pid_of = self.pid_target(pod, &container.name)?;
        }
        let id = node.create_container(&sandbox.id, config).await.map_err(failure("CreateContainerError"))?;
        if let Err(error) = node.start_container(&id).await {
            if let Err(error) = node.remove_container(&id).await {
                tracing::warn!(pod = self.name, container = id, %error, "remove what did not start");
            }
            return Err(failure("RunContainerError")(error));
        }
        if attempt > 0 {
            tracing::info!(pod = self.name, container = container.name, attempt, "container restarted");
        }
        if let Some(hook) = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.post_start.as_ref()) {
            let target = self.target(container, &id, self.facts(sandbox).pod_ip());
            let hook = async {
                let ran = hook::run(hook, &target).await;
                ran.map_err(|message| ImageFailure { reason: "PostStartHookError", message })
            };
            if let Err(failure) = self.or_deleted(hook).await {
                self.hook_failed(pod, (role, container), &id, failure).await;
            }
        }
        Ok(())
    }

    /// The container whose processes an ephemeral one sees beside its own, if it names one.
    fn pid_target(&self, pod: &Pod, ephemeral: &str) -> Result<Option<String>, ImageFailure> {
        let spec = pod.spec.as_ref();
        let mut all = spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
        let named = all.find(|container| container.name == ephemeral);
        let target = named.and_then(|container| container.target_container_name.as_deref());
        let Some(target) = target.filter(|target| !target.is_empty()) else { return Ok(None) };
        let running = self.attempts(target).pop().filter(|last| last.state == ContainerState::Running);
        let message = format!("targetContainerName: container {target:?} does not run");
        let failure = ImageFailure { reason: "CreateContainerConfigError", message };
        running.map(|running| Some(running.id)).ok_or(failure)
    }

    /// Ends a container that must not go on without its hook; what ends it is up to its back-off then.
    async fn hook_failed(&mut self, pod: &Pod, (role, container): (Role, &Container), id: &str, failure: ImageFailure) {
        if failure.reason != "PostStartHookError" {
            return;
        }
        let subject = self.subject(role, container);
        self.recorder.warning(&subject, "FailedPostStartHook", format!("PostStartHook failed: {}", failure.message));
        if let Ok(status) = self.context.node.container(id) {
            let message = "FailedPostStartHook".to_owned();
            self.recorder.normal(&subject, "Killing", message);
            let spec = pod.spec.clone().unwrap_or_default();
            self.end_one(self.ending(role, container, &status, 0), termination::grace(&spec));
        }
    }

    /// Keeps the probes of a container that runs, and ends it when they have failed.
    fn look_after(
        &mut self,
        pod: &Pod,
        (role, container): (Role, &Container),
        status: &ContainerStatus,
        sandbox: &SandboxStatus,
    ) {
        if status.state != ContainerState::Running || self.stops.contains_key(&status.id) {
            return;
        }
        let subject = self.subject(role, container);
        let known = self.probes.get(&container.name).filter(|probes| probes.container == status.id);
        let Some(verdict) = known.map(Probes::verdict) else {
            let target = self.target(container, &status.id, self.facts(sandbox).pod_ip());
            let before = self.verdict_before(pod, status);
            let told = (self.recorder.clone(), subject);
            let probes = Probes::begin(container, status, target, before, told, self.wake.clone());
            self.probes.insert(container.name.clone(), probes);
            return;
        };
        if let Some(failed) = verdict.failed {
            let message = format!("Container {} failed {} probe, will be restarted", container.name, failed.probe);
            self.recorder.normal(&subject, "Killing", message);
            let spec = pod.spec.clone().unwrap_or_default();
            let grace = failed.grace.unwrap_or_else(|| termination::grace(&spec));
            self.end_one(self.ending(role, container, status, 0), grace);
        }
    }

    /// What the object says of this very run of a container: a daemon that comes after another one goes on from there.
    fn verdict_before(&self, pod: &Pod, status: &ContainerStatus) -> Option<Verdict> {
        let known = pod.status.as_ref()?;
        let mut all = known.container_statuses.iter().chain(&known.init_container_statuses).flatten();
        let id = format!("wharf://{}", status.id);
        let found = all.find(|found| found.container_id.as_ref() == Some(&id) && found.started == Some(true))?;
        Some(Verdict { started: true, ready: found.ready, failed: None })
    }

    pub(super) fn end_one(&mut self, ending: Ending, grace: Duration) {
        let (id, wake) = (ending.target.container.clone(), self.wake.clone());
        let (name, namespace) = (self.name.clone(), self.namespace.clone());
        let task = tokio::spawn(async move {
            if let Err(error) = stopping::end_all(vec![ending], grace).await {
                tracing::warn!(pod = name, namespace, %error, "end a container");
            }
            wake.notify_one();
        });
        self.stops.insert(id, AbortOnDropHandle::new(task));
    }

    pub(super) fn subject(&self, role: Role, container: &Container) -> Subject {
        let list = match role {
            Role::Main => "containers",
            Role::Step | Role::Sidecar => "initContainers",
            Role::Ephemeral => "ephemeralContainers",
        };
        Subject::container(self.identity(), list, &container.name)
    }

    pub(super) fn ending(&self, role: Role, container: &Container, status: &ContainerStatus, turn: usize) -> Ending {
        let sandbox = self.context.node.sandbox(&status.sandbox).ok();
        let address = sandbox.and_then(|sandbox| self.facts(&sandbox).pod_ip());
        Ending {
            target: self.target(container, &status.id, address),
            hook: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.clone()),
            recorder: self.recorder.clone(),
            subject: self.subject(role, container),
            turn,
        }
    }

    fn target(&self, container: &Container, id: &str, address: Option<IpAddr>) -> Target {
        let variables = container.env.iter().flatten();
        let env = variables.filter_map(|variable| Some((variable.name.clone(), variable.value.clone()?)));
        Target {
            node: self.context.node.clone(),
            http: self.http.clone(),
            container: id.to_owned(),
            address,
            ports: container.ports.clone().unwrap_or_default(),
            env: env.collect(),
        }
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
    async fn forget_old_attempts(&mut self, attempts: &[ContainerStatus]) {
        let Some((_, older)) = attempts.split_last() else { return };
        for old in older {
            if let Err(error) = self.context.node.remove_container(&old.id).await {
                tracing::warn!(pod = self.name, container = old.id, %error, "remove an old attempt");
                continue;
            }
            if let Some(log) = &old.log_path {
                let _ = std::fs::remove_file(log);
            }
            let _ =
                std::fs::remove_file(termination_message::file(&self.folder(), &old.config.name, old.config.attempt));
            self.last_words.remove(&old.id);
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
