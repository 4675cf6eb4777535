//! What a pod's owner does with one container.
//!
//! ```text
//! create_container ─► Created ─start_container─► Running ─(shim: Exited)─► Exited ─remove_container─► gone
//!                        └──────────── start failed: StartError ─────────────┘
//! ```

use std::time::Duration;

use tokio::time::Instant;
use wharf_specs::shim::{Exit, Operation};

use super::error::{PodError, Result};
use super::node::now;
use super::record::ContainerRecord;
use super::sandbox::{KILL_DEADLINE, Owner};
use super::session::SIGKILL;
use super::shim_client::ShimClient;
use super::spec::Resources;
use super::status::{ContainerState, ContainerStatus, Event};
use super::stop::unkillable;
use crate::removal::remove_tree;

/// Exit code of a container whose process could not be started, as docker and containerd give it.
pub(super) const START_ERROR_CODE: i32 = 128;

/// How long the event that goes with an answer is waited for.
pub(super) const EVENT_DEADLINE: Duration = Duration::from_secs(1);

/// How long a shim may take to give up a container that has ended.
const DELETE_DEADLINE: Duration = Duration::from_secs(5);

/// For what nobody waits for: a shim that is stuck for longer goes with its pod.
const ABANDONED_DEADLINE: Duration = Duration::from_secs(24 * 3600);

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
            oom_origin: None,
            log_path: self.log_path.clone(),
            stop_signal: self.stop_signal,
            user: self.user.clone(),
        };
        if let Some(exit) = &self.exit {
            status.state = ContainerState::Exited;
            status.pid = 0;
            status.finished_at = exit.finished_at;
            status.exit_code = exit.code;
            status.oom_origin = exit.oom_origin.clone();
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

    /// The shim tells of an end.
    pub(super) fn exit_told(&mut self, id: &str, exit: Exit) {
        let exit = if self.records.contains_key(id) { self.requests.keep_exit(id, exit) } else { Some(exit) };
        if let Some(exit) = exit {
            self.container_exited(id, exit);
        }
    }

    pub(super) fn container_exited(&mut self, id: &str, exit: Exit) {
        if self.records.contains_key(id) {
            return self.container_ended(id, exit, None);
        }
        if self.creates.ended(id, exit).is_some()
            && let Some(shim) = self.shim.clone()
        {
            // One that was taken away while the shim was stuck: now it can let go of it too.
            let id = id.to_string();
            tokio::spawn(async move {
                let delete = Operation::Delete { container: id.clone() };
                let _ = shim.request_beside(ABANDONED_DEADLINE, "delete container", &id, delete, Vec::new()).await;
            });
        }
    }

    /// The end of a container whose shim died: from the record the shim left, or unknown.
    pub(super) fn container_lost(&mut self, id: &str, ended: bool) {
        if let Some(exit) = self.directory.read_exit(id) {
            return self.container_ended(id, exit, None);
        }
        if ended {
            let exit = Exit { code: LOST_CODE, signal: None, oom_killed: false, oom_origin: None, finished_at: now() };
            let message = "the pod's shim, which alone had the exit code, is dead or does not answer".to_string();
            return self.container_ended(id, exit, Some(("Unknown".into(), message)));
        }
        self.publish_container(id, |status| status.state = ContainerState::Unknown);
    }

    pub(super) fn container_ended(&mut self, id: &str, exit: Exit, reason: Option<(String, String)>) {
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
            self.end(id).await?;
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
            match shim.done_within(DELETE_DEADLINE, "delete container", id, delete).await {
                Ok(()) | Err(PodError::NotFound { .. }) => {}
                // A shim that is gone or stuck holds nothing that matters; what it made half is ended here.
                Err(_) if shim.is_gone() => drop(self.kill_cgroup(id).await),
                Err(PodError::DeadlineExceeded { .. }) => self.discard_without_shim(shim.clone(), id).await?,
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

    /// Ends what there is of a container whose shim does not answer. Once the shim does, it ends what it makes of it by then.
    async fn discard_without_shim(&self, shim: ShimClient, id: &str) -> Result<()> {
        tracing::warn!(pod = %self.id, container = %id, "the pod's shim does not answer: removed without it");
        if !self.kill_cgroup(id).await {
            return Err(unkillable(id));
        }
        let id = id.to_string();
        tokio::spawn(async move {
            // Its end is told, and then it is deleted.
            let kill = Operation::Kill { container: id.clone(), signal: SIGKILL, all: true };
            let _ = shim.request_beside(ABANDONED_DEADLINE, "kill container", &id, kill, Vec::new()).await;
        });
        Ok(())
    }

    /// Records limits that the shim has set.
    pub(super) fn record_limits(&mut self, id: &str, resources: &Resources) {
        if let Some(record) = self.records.get_mut(id) {
            record.config.resources.merge(resources);
            let merged = record.config.resources.clone();
            self.save(id);
            self.publish_container(id, |status| status.config.resources = merged);
        }
    }

    /// The shim has it, and it has not ended.
    pub(super) fn is_alive(&self, id: &str) -> bool {
        let known_to_shim = |record: &ContainerRecord| !record.waits_for_restore() || self.requests.is_starting(id);
        self.records.get(id).is_some_and(|record| record.exit.is_none() && known_to_shim(record))
    }

    pub(super) fn alive(&self) -> Vec<String> {
        self.records.keys().filter(|id| self.is_alive(id)).cloned().collect()
    }
}

pub(crate) fn wrong_state(id: &str, state: ContainerState, wanted: &'static str) -> PodError {
    PodError::WrongState { what: "container", id: id.into(), state: format!("{state:?}").to_lowercase(), wanted }
}
