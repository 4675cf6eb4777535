//! What a pod's owner does with one container.
//!
//! ```text
//! create_container ─► Created ─start_container─► Running ─(shim: Exited)─► Exited ─remove_container─► gone
//!                        └──────────── start failed: StartError ─────────────┘
//! ```

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;
use wharf_images::{OverlayMount, RootFs};
use wharf_specs::shim::{Answer, CreateContainer, Exit, Operation, PID_OF_VERSION, Rootfs};

use super::bundle::{self, Bundle};
use super::error::{PodError, Result};
use super::ids::new_id;
use super::node::{not_ready, now};
use super::record::{ContainerRecord, remove_tree, write_json};
use super::sandbox::{KILL_DEADLINE, Owner};
use super::session::SIGKILL;
use super::shim_client::ShimClient;
use super::shim_process::unexpected;
use super::spec::{ContainerConfig, Resources};
use super::status::{ContainerState, ContainerStatus, Event};

/// Exit code of a container whose process could not be started, as docker and containerd give it.
const START_ERROR_CODE: i32 = 128;

/// How long the event that goes with an answer is waited for.
const EVENT_DEADLINE: Duration = Duration::from_secs(1);

/// Exit code of a container whose end nobody saw, as containerd gives it.
const LOST_CODE: i32 = 255;

impl ContainerRecord {
    /// What is published of a container; `pid` is 0 unless it runs.
    pub(super) fn status(&self, id: &str, sandbox: &str, pid: u32) -> ContainerStatus {
        let mut status = ContainerStatus {
            id: id.into(),
            sandbox: sandbox.into(),
            config: self.config.clone(),
            image_id: self.image_id.clone(),
            state: if self.started_at == 0 { ContainerState::Created } else { ContainerState::Running },
            pid,
            created_at: self.created_at,
            started_at: self.started_at,
            finished_at: 0,
            exit_code: 0,
            reason: String::new(),
            message: String::new(),
            log_path: self.log_path.clone(),
            stop_signal: self.stop_signal,
            user: self.user.clone(),
        };
        if let Some(exit) = &self.exit {
            status.state = ContainerState::Exited;
            status.pid = 0;
            status.finished_at = exit.finished_at;
            status.exit_code = exit.code;
            status.reason = match (&self.end_reason, exit) {
                (Some((reason, _)), _) => reason.clone(),
                (None, Exit { oom_killed: true, .. }) => "OOMKilled".into(),
                (None, Exit { code: 0, .. }) => "Completed".into(),
                _ => "Error".into(),
            };
            status.message = self.end_reason.as_ref().map(|(_, message)| message.clone()).unwrap_or_default();
        }
        status
    }
}

impl Owner {
    pub(super) async fn create_container(&mut self, config: ContainerConfig) -> Result<String> {
        let Some(shim) = self.shim.clone() else {
            return Err(not_ready(&self.id));
        };
        let same_name =
            |record: &ContainerRecord| record.config.name == config.name && record.config.attempt == config.attempt;
        if let Some((id, record)) = self.records.iter().find(|(_, record)| same_name(record)) {
            // The retry of a create whose answer was lost.
            if record.config == config && record.started_at == 0 && record.exit.is_none() {
                return Ok(id.clone());
            }
            return Err(PodError::AlreadyExists {
                what: "container",
                name: format!("{} attempt {}", config.name, config.attempt),
                id: id.clone(),
            });
        }
        let id = new_id();
        self.inner.table_mut().unfinished.insert(id.clone());
        let made = self.make_container(&shim, &id, config).await;
        let made = self.created(&id, made).await;
        self.inner.table_mut().unfinished.remove(&id);
        made
    }

    /// Publishes the container, or takes away what there is of it.
    async fn created(&mut self, id: &str, made: Result<(ContainerRecord, u32)>) -> Result<String> {
        let id = id.to_string();
        match made {
            Ok((record, pid)) => {
                let status = record.status(&id, &self.id, pid);
                self.records.insert(id.clone(), record);
                {
                    let mut table = self.inner.table_mut();
                    table.containers.insert(id.clone(), self.id.clone());
                    if let Some(entry) = table.pods.get_mut(&self.id) {
                        entry.containers.insert(id.clone(), status);
                    }
                }
                tracing::info!(pod = %self.id, container = %id, "container created");
                let (sandbox, container) = (self.id.clone(), id.clone());
                self.inner.emit(Event::ContainerCreated { sandbox, container });
                Ok(id)
            }
            Err(error) => {
                if let Err(left) = self.discard(&id).await {
                    tracing::warn!(pod = %self.id, container = %id, %left, "clear away a failed create");
                }
                Err(error)
            }
        }
    }

    async fn make_container(
        &self,
        shim: &ShimClient,
        id: &str,
        config: ContainerConfig,
    ) -> Result<(ContainerRecord, u32)> {
        let log_path = self.log_path(&config)?;
        let pid_of = config.pid_of.as_deref().map(|target| self.pid_target(shim, target)).transpose()?;
        let input = bundle::Input {
            id: id.into(),
            sandbox: self.config.clone(),
            pod_directory: self.directory.path.clone(),
            cgroups_path: self.placement().path_of(id),
            store: self.inner.options.store.clone(),
            cdi_folders: self.inner.options.cdi_folders.clone(),
            config: config.clone(),
        };
        let Bundle { spec, rootfs, image_id, user, stop_signal } = bundle::build(input).await?;
        let directory = self.directory.container(id);
        let on_disk =
            |error: std::io::Error| PodError::internal(format!("write bundle {}", directory.display()), error);
        std::fs::create_dir_all(&directory).map_err(on_disk)?;
        write_json(&directory.join("config.json"), &spec).map_err(on_disk)?;
        if let Some(parent) = log_path.as_deref().and_then(std::path::Path::parent) {
            tokio::fs::create_dir_all(parent)
                .await
                .map_err(|error| PodError::internal(format!("create log directory {}", parent.display()), error))?;
        }
        let record = ContainerRecord {
            config,
            image_id,
            log_path,
            stop_signal,
            user,
            created_at: now(),
            started_at: 0,
            end_reason: None,
            exit: None,
        };
        self.directory.write_container(id, &record).map_err(on_disk)?;
        let create = CreateContainer {
            id: id.into(),
            bundle: directory.clone(),
            rootfs: match rootfs {
                RootFs::Overlay(OverlayMount { lower, upper, work }) => Rootfs::Overlay { lower, upper, work },
                RootFs::Copy { .. } => Rootfs::Bundle,
            },
            log: record.log_path.clone(),
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            join: self.namespaces(),
            pid_of,
        };
        match shim.request("create container", id, Operation::Create(create), Vec::new()).await? {
            (Answer::Created { pid }, _) => Ok((record, pid)),
            _ => Err(unexpected("create container", id)),
        }
    }

    /// The container of this pod whose PID namespace is asked for, by id or what an id begins with.
    fn pid_target(&self, shim: &ShimClient, target: &str) -> Result<String> {
        const FIELD: &str = "config.linux.security_context.namespace_options.target_id";
        let id = self.inner.resolve_container(target).ok().filter(|id| self.records.contains_key(id));
        let id = id.ok_or_else(|| PodError::invalid(FIELD, format!("{target:?} is no container of this pod")))?;
        if !self.is_alive(&id) {
            return Err(PodError::invalid(FIELD, format!("container {id} has ended")));
        }
        if shim.protocol() < PID_OF_VERSION {
            let reason = "the pod's shim is older than this wharfd and cannot do it: make the pod anew";
            return Err(PodError::invalid(FIELD, reason));
        }
        Ok(id)
    }

    fn log_path(&self, config: &ContainerConfig) -> Result<Option<PathBuf>> {
        match (&self.config.log_directory, &config.log_path) {
            (Some(directory), Some(path)) => {
                let plain = |c: std::path::Component<'_>| matches!(c, std::path::Component::Normal(_));
                if path.as_os_str().is_empty() || !path.components().all(plain) {
                    let reason = format!("{} is no relative path without ..", path.display());
                    return Err(PodError::invalid("config.log_path", reason));
                }
                Ok(Some(directory.join(path)))
            }
            _ => Ok(None),
        }
    }

    pub(super) async fn start_container(&mut self, id: &str) -> Result<()> {
        let state = self.inner.container(id)?.state;
        if state != ContainerState::Created {
            return Err(wrong_state(id, state, "a created one"));
        }
        let shim = self.shim.clone().ok_or_else(|| wrong_state(id, state, "one of a ready pod sandbox"))?;
        let start = Operation::Start { container: id.into() };
        match shim.done("start container", id, start).await {
            Ok(()) => {
                // The shim's own word is on its way with the answer, and has the exact time.
                let deadline = Instant::now() + EVENT_DEADLINE;
                while self.records.get(id).is_some_and(|record| record.started_at == 0) {
                    match tokio::time::timeout_at(deadline, self.from_shim.recv()).await {
                        Ok(Some(message)) => Box::pin(self.on_shim(message)).await,
                        _ => break,
                    }
                }
                if self.records.get(id).is_some_and(|record| record.started_at == 0) {
                    self.container_started(id, 0, now());
                }
                Ok(())
            }
            Err(error) => {
                let kill = Operation::Kill { container: id.into(), signal: SIGKILL, all: true };
                let _ = shim.done("kill container", id, kill).await;
                let exit = Exit { code: START_ERROR_CODE, signal: None, oom_killed: false, finished_at: now() };
                self.container_ended(id, exit, Some(("StartError".into(), error.to_string())));
                Err(error)
            }
        }
    }

    /// By the shim's event, which knows time and pid best, or until that comes by its answer.
    pub(super) fn container_started(&mut self, id: &str, pid: u32, at: i64) {
        let Some(record) = self.records.get_mut(id) else { return };
        if record.started_at == at || record.exit.is_some() {
            return;
        }
        let first = record.started_at == 0;
        record.started_at = at;
        self.save(id);
        self.publish_container(id, |status| {
            status.state = ContainerState::Running;
            status.started_at = at;
            if pid != 0 {
                status.pid = pid;
            }
        });
        // Here, where its end cannot have been told yet.
        if first {
            tracing::info!(pod = %self.id, container = %id, "container started");
            self.inner.emit(Event::ContainerStarted { sandbox: self.id.clone(), container: id.into() });
        }
    }

    pub(super) fn container_exited(&mut self, id: &str, exit: Exit) {
        self.container_ended(id, exit, None);
    }

    /// The end of a container whose shim died: from the record the shim left, or unknown.
    pub(super) fn container_lost(&mut self, id: &str, ended: bool) {
        if let Some(exit) = self.directory.read_exit(id) {
            return self.container_ended(id, exit, None);
        }
        if ended {
            let exit = Exit { code: LOST_CODE, signal: None, oom_killed: false, finished_at: now() };
            let message = "the pod's shim, which alone had the exit code, is dead or does not answer".to_string();
            return self.container_ended(id, exit, Some(("Unknown".into(), message)));
        }
        self.publish_container(id, |status| status.state = ContainerState::Unknown);
    }

    fn container_ended(&mut self, id: &str, exit: Exit, reason: Option<(String, String)>) {
        let Some(record) = self.records.get_mut(id) else { return };
        if record.exit.is_some() {
            return;
        }
        tracing::info!(pod = %self.id, container = %id, code = exit.code, "container exited");
        record.exit = Some(exit);
        record.end_reason = reason;
        let ended = record.status(id, &self.id, 0);
        self.save(id);
        self.publish_container(id, |status| *status = ended);
        for waiting in self.stops.remove(id).unwrap_or_default() {
            let _ = waiting.send(Ok(()));
        }
        self.inner.emit(Event::ContainerExited { sandbox: self.id.clone(), container: id.into() });
    }

    fn save(&self, id: &str) {
        if let Some(record) = self.records.get(id)
            && let Err(error) = self.directory.write_container(id, record)
        {
            tracing::error!(pod = %self.id, container = %id, %error, "write container record");
        }
    }

    fn publish_container(&self, id: &str, change: impl FnOnce(&mut ContainerStatus)) {
        let mut table = self.inner.table_mut();
        if let Some(status) = table.pods.get_mut(&self.id).and_then(|entry| entry.containers.get_mut(id)) {
            change(status);
        }
    }

    pub(super) async fn remove_container(&mut self, id: &str) -> Result<()> {
        if !self.records.contains_key(id) {
            return Err(PodError::container_not_found(id));
        }
        if self.is_alive(id) {
            self.kill(id, SIGKILL, true).await?;
            self.wait_for_end(id).await?;
        }
        let deadline = Instant::now() + KILL_DEADLINE;
        // A shim that was stuck may be the last to learn that it ended: its word is waited for.
        while let Err(error) = self.discard(id).await {
            if !matches!(error, PodError::WrongState { .. }) {
                return Err(error);
            }
            match tokio::time::timeout_at(deadline, self.from_shim.recv()).await {
                Ok(Some(message)) => Box::pin(self.on_shim(message)).await,
                _ => return Err(error),
            }
        }
        self.records.remove(id);
        {
            let mut table = self.inner.table_mut();
            table.containers.remove(id);
            if let Some(entry) = table.pods.get_mut(&self.id) {
                entry.containers.remove(id);
            }
        }
        tracing::info!(pod = %self.id, container = %id, "container removed");
        self.inner.emit(Event::ContainerRemoved { sandbox: self.id.clone(), container: id.into() });
        Ok(())
    }

    /// Mirror of [`make_container`](Self::make_container), from any point of it.
    pub(super) async fn discard(&self, id: &str) -> Result<()> {
        if let Some(shim) = &self.shim {
            let delete = Operation::Delete { container: id.into() };
            match shim.done("delete container", id, delete).await {
                Ok(()) | Err(PodError::NotFound { .. }) => {}
                // A shim that is gone or stuck holds nothing that matters; what it made half is ended here.
                Err(_) if shim.is_gone() => drop(self.kill_cgroup(id).await),
                Err(error) => return Err(error),
            }
        }
        let cgroup = self.placement().group_of(id);
        let directory = self.directory.container(id);
        let store = self.inner.options.store.clone();
        let container = id.to_string();
        tokio::task::spawn_blocking(move || {
            cgroup.remove_tree();
            store
                .remove_snapshot(&container)
                .map_err(|error| PodError::internal(format!("remove snapshot of {container}"), error))?;
            remove_tree(&directory)
                .map_err(|error| PodError::internal(format!("remove {}", directory.display()), error))
        })
        .await
        .map_err(|error| PodError::internal(format!("remove container {id}"), error))?
    }

    pub(super) async fn update_container(&mut self, id: &str, resources: Resources) -> Result<()> {
        let state = self.inner.container(id)?.state;
        if !matches!(state, ContainerState::Created | ContainerState::Running) {
            return Err(wrong_state(id, state, "a created or running one"));
        }
        let Some(shim) = self.shim.clone() else { return Err(wrong_state(id, state, "one with a shim")) };
        let limits = bundle::linux_resources(&resources)?;
        let update = Operation::Update { container: id.into(), resources: Box::new(limits) };
        shim.done("update container", id, update).await?;
        if let Some(record) = self.records.get_mut(id) {
            record.config.resources.merge(&resources);
            let merged = record.config.resources.clone();
            self.save(id);
            self.publish_container(id, |status| status.config.resources = merged);
        }
        Ok(())
    }

    pub(super) fn is_alive(&self, id: &str) -> bool {
        self.records.get(id).is_some_and(|record| record.exit.is_none())
    }

    pub(super) fn alive(&self) -> Vec<String> {
        self.records.keys().filter(|id| self.is_alive(id)).cloned().collect()
    }
}

pub(crate) fn wrong_state(id: &str, state: ContainerState, wanted: &'static str) -> PodError {
    PodError::WrongState { what: "container", id: id.into(), state: format!("{state:?}").to_lowercase(), wanted }
}
