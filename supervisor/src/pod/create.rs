//! Making a container, beside all else that the pod's owner does: what hangs in it delays no stop.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use futures_util::FutureExt;
use tokio::task::JoinSet;
use wharf_images::{OverlayMount, RootFs};
use wharf_specs::shim::{Answer, CreateContainer, Exit, Operation, PID_OF_VERSION, PodNamespace, Rootfs};

use super::bundle::{self, Bundle};
use super::error::{PodError, Result};
use super::ids::new_id;
use super::node::{Inner, not_ready, now};
use super::record::{ContainerRecord, PodDirectory, write_json};
use super::sandbox::{Owner, Reply};
use super::shim_client::ShimClient;
use super::shim_process::unexpected;
use super::spec::{ContainerConfig, SandboxConfig};
use super::status::Event;

/// The record and the pid of a new container; the pid is 0 where it waits for its restore.
type Made = Result<(ContainerRecord, u32)>;

/// Containers of one pod that are being made.
#[derive(Default)]
pub(super) struct Creates {
    tasks: JoinSet<(String, Made)>,
    waiting: HashMap<String, Box<Waiting>>,
}

struct Waiting {
    config: ContainerConfig,
    /// The first client, and those whose retries have joined it.
    replies: Vec<Reply<String>>,
    /// It has ended before its making was known here.
    exit: Option<Exit>,
}

/// What there is under a container's name.
enum Alike {
    Made(String),
    Waiting(String),
    None,
}

impl Creates {
    fn join(&mut self, id: &str, reply: Reply<String>) {
        if let Some(waiting) = self.waiting.get_mut(id) {
            waiting.replies.push(reply);
        }
    }

    /// The next one that is made or has failed, or `None` where there is none.
    pub(super) async fn next(&mut self) -> Option<(String, Made)> {
        // No task is aborted, and none panics.
        self.tasks.join_next().await?.ok()
    }

    /// Keeps the end of one that is being made; gives it back if there is no such container.
    pub(super) fn ended(&mut self, id: &str, exit: Exit) -> Option<Exit> {
        match self.waiting.get_mut(id) {
            Some(waiting) => {
                waiting.exit = Some(exit);
                None
            }
            None => Some(exit),
        }
    }
}

/// All that is needed to make a container, and nothing that the owner changes.
#[derive(Clone)]
pub(super) struct Maker {
    pub(super) inner: Arc<Inner>,
    pub(super) pod: String,
    pub(super) config: SandboxConfig,
    pub(super) directory: PodDirectory,
    pub(super) shim: ShimClient,
    namespaces: Vec<PodNamespace>,
}

impl Owner {
    /// Answers once the container is made. A second request with the same configuration gets the same container.
    pub(super) fn create_container(&mut self, config: ContainerConfig, reply: Reply<String>) {
        let id = match self.named_alike(&config) {
            Ok(Alike::Made(id)) => return drop(reply.send(Ok(id))),
            Ok(Alike::Waiting(id)) => Ok(id),
            Ok(Alike::None) => self.begin_create(config),
            Err(error) => Err(error),
        };
        match id {
            Ok(id) => self.creates.join(&id, reply),
            Err(error) => drop(reply.send(Err(error))),
        }
    }

    /// What there is under the name of a container that is asked for.
    ///
    /// # Errors
    /// If that is another container.
    fn named_alike(&self, config: &ContainerConfig) -> Result<Alike> {
        let in_use = |id: &str| {
            let name = format!("{} attempt {}", config.name, config.attempt);
            Err(PodError::AlreadyExists { what: "container", name, id: id.into() })
        };
        let same_name = |other: &ContainerConfig| other.name == config.name && other.attempt == config.attempt;
        if let Some((id, record)) = self.records.iter().find(|(_, record)| same_name(&record.config)) {
            // The retry of a create whose answer was lost.
            let unused = record.started_at == 0 && record.exit.is_none();
            return if record.config == *config && unused { Ok(Alike::Made(id.clone())) } else { in_use(id) };
        }
        match self.creates.waiting.iter().find(|(_, waiting)| same_name(&waiting.config)) {
            Some((id, waiting)) if waiting.config == *config => Ok(Alike::Waiting(id.clone())),
            Some((id, _)) => in_use(id),
            None => Ok(Alike::None),
        }
    }

    /// The id of a container that is being made from now on.
    fn begin_create(&mut self, config: ContainerConfig) -> Result<String> {
        let maker = self.maker().ok_or_else(|| not_ready(&self.id))?;
        let pid_of = config.pid_of.as_deref().map(|target| self.pid_target(&maker.shim, target)).transpose()?;
        let id = new_id();
        self.inner.table_mut().unfinished.insert(id.clone());
        let waiting = Waiting { config: config.clone(), replies: Vec::new(), exit: None };
        self.creates.waiting.insert(id.clone(), Box::new(waiting));
        let task = id.clone();
        self.creates.tasks.spawn(async move {
            let made = AssertUnwindSafe(maker.make(&task, config, pid_of)).catch_unwind().await;
            let broken = |_| Err(PodError::internal(format!("create container {task}"), "a fault of wharfd's own"));
            let made = made.unwrap_or_else(broken);
            (task, made)
        });
        Ok(id)
    }

    /// `None` without a shim.
    pub(super) fn maker(&self) -> Option<Maker> {
        Some(Maker {
            inner: self.inner.clone(),
            pod: self.id.clone(),
            config: self.config.clone(),
            directory: self.directory.clone(),
            shim: self.shim.clone()?,
            namespaces: self.namespaces(),
        })
    }

    /// Waits for all that are being made. Whoever ends the pod has hurried the shim before.
    pub(super) async fn finish_creates(&mut self) {
        while let Some(made) = self.creates.next().await {
            self.created(made).await;
        }
    }

    /// Publishes a container that is made, or takes away what there is of it.
    pub(super) async fn created(&mut self, (id, made): (String, Made)) {
        let waiting = self.creates.waiting.remove(&id);
        let answer = match made {
            Ok((record, pid)) => {
                self.publish_created(&id, record, pid);
                Ok(id.clone())
            }
            Err(error) => {
                if let Err(left) = self.discard(&id).await {
                    tracing::warn!(pod = %self.id, container = %id, %left, "clear away a failed create");
                }
                Err(error)
            }
        };
        self.inner.table_mut().unfinished.remove(&id);
        let Some(Waiting { replies, exit, .. }) = waiting.map(|waiting| *waiting) else { return };
        if let (Some(exit), Ok(_)) = (exit, &answer) {
            self.container_exited(&id, exit);
        }
        for reply in replies {
            let _ = reply.send(answer.clone());
        }
    }

    fn publish_created(&mut self, id: &str, record: ContainerRecord, pid: u32) {
        let status = record.status(id, &self.id, pid);
        self.records.insert(id.into(), Box::new(record));
        {
            let mut table = self.inner.table_mut();
            table.containers.insert(id.into(), self.id.clone());
            if let Some(entry) = table.pods.get_mut(&self.id) {
                entry.containers.insert(id.into(), Box::new(status));
            }
        }
        tracing::info!(pod = %self.id, container = %id, "container created");
        self.inner.emit(Event::ContainerCreated { sandbox: self.id.clone(), container: id.into() });
    }

    /// The container of this pod whose PID namespace is asked for, by id or what an id begins with.
    pub(super) fn pid_target(&self, shim: &ShimClient, target: &str) -> Result<String> {
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
}

impl Maker {
    async fn make(&self, id: &str, config: ContainerConfig, pid_of: Option<String>) -> Made {
        let log_path = self.log_path(&config)?;
        let checkpoint = self.find_checkpoint(&config.image).await?;
        let image = checkpoint.as_ref().map_or_else(|| config.image.clone(), |found| found.base.id.to_string());
        let input = bundle::Input {
            id: id.into(),
            sandbox: self.config.clone(),
            pod_directory: self.directory.path.clone(),
            cgroups_path: self.inner.placement(&self.config, &self.pod).path_of(id),
            store: self.inner.options.store.clone(),
            cdi_folders: self.inner.options.cdi_folders.clone(),
            config: ContainerConfig { image, ..config.clone() },
        };
        let Bundle { spec, rootfs, image_id, user, stop_signal } = bundle::build(input).await?;
        let restores = checkpoint.is_some();
        if let Some(checkpoint) = checkpoint {
            checkpoint.check_mounts(spec.mounts().iter().flatten().map(|mount| mount.destination().as_path()))?;
            self.unpack(checkpoint, id, rootfs.clone(), &spec).await?;
        }
        let directory = self.directory.container(id);
        let on_disk =
            |error: std::io::Error| PodError::internal(format!("write bundle {}", directory.display()), error);
        std::fs::create_dir_all(&directory).map_err(on_disk)?;
        write_json(&directory.join("config.json"), &spec).map_err(on_disk)?;
        if let Some(parent) = log_path.as_deref().and_then(Path::parent) {
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
            restores,
        };
        self.directory.write_container(id, &record).map_err(on_disk)?;
        if restores {
            return Ok((record, 0));
        }
        let create = self.shim_request(id, &record, rootfs, pid_of);
        match self.shim.request("create container", id, Operation::Create(create), Vec::new()).await? {
            (Answer::Created { pid }, _) => Ok((record, pid)),
            _ => Err(unexpected("create container", id)),
        }
    }

    /// What the shim is told of a container, to create or to restore it.
    pub(super) fn shim_request(
        &self,
        id: &str,
        record: &ContainerRecord,
        rootfs: RootFs,
        pid_of: Option<String>,
    ) -> CreateContainer {
        CreateContainer {
            id: id.into(),
            bundle: self.directory.container(id),
            rootfs: match rootfs {
                RootFs::Overlay(OverlayMount { lower, upper, work }) => Rootfs::Overlay { lower, upper, work },
                RootFs::Copy { .. } => Rootfs::Bundle,
            },
            log: record.log_path.clone(),
            stdin: record.config.stdin,
            stdin_once: record.config.stdin_once,
            join: self.namespaces.clone(),
            pid_of,
        }
    }

    fn log_path(&self, config: &ContainerConfig) -> Result<Option<PathBuf>> {
        match (&self.config.log_directory, &config.log_path) {
            (Some(directory), Some(path)) => {
                let plain = |c: Component<'_>| matches!(c, Component::Normal(_));
                if path.as_os_str().is_empty() || !path.components().all(plain) {
                    let reason = format!("{} is no relative path without ..", path.display());
                    return Err(PodError::invalid("config.log_path", reason));
                }
                Ok(Some(directory.join(path)))
            }
            _ => Ok(None),
        }
    }
}
