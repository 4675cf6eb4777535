//! The node: every pod's published state, and the way to its owner task.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use tokio::sync::{broadcast, mpsc, oneshot, watch};

use super::error::{PodError, Result};
use super::ids::new_id;
use super::observer::{Observer, Observers};
use super::placement::{CgroupOptions, Placement};
use super::qos::{QosClass, Weights};
use super::record::PodDirectory;
use super::sandbox::{self, Command};
use super::session::{AttachSession, ExecOutput, ExecSession};
use super::spec::{ContainerConfig, ExecConfig, PodLimits, Resources, SandboxConfig};
use super::stats::sampler::{self, Sampler};
use super::status::{ContainerStatus, Event, SandboxState, SandboxStatus};
use super::table::{PodEntry, Table};
use super::{checkpoint, exec, recovery};
use crate::network::Network;

/// Events a subscriber may fall behind before it loses some.
const EVENT_BACKLOG: usize = 4096;

/// Commands that may wait for one pod's owner.
pub(crate) const COMMAND_BACKLOG: usize = 256;

/// What a node is made of.
pub struct NodeOptions {
    /// What survives a reboot: `/var/lib/wharf`.
    pub root: PathBuf,
    /// What does not: `/run/wharf`.
    pub state: PathBuf,
    /// The program `wharf-shim`.
    pub shim: PathBuf,
    pub network: crate::network::NetworkConfig,
    pub store: wharf_images::Store,
    pub cgroups: CgroupOptions,
    /// Files of the Container Device Interface; a later folder goes before an earlier one.
    pub cdi_folders: Vec<PathBuf>,
    pub checkpoint: wharf_specs::config::Checkpoint,
    /// Runtime handlers besides the one with the empty name: command of an OCI runtime by handler name.
    pub runtimes: BTreeMap<String, PathBuf>,
}

/// The pods of this node. Clones share them.
#[derive(Clone)]
pub struct Node {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) options: NodeOptions,
    pub(crate) network: Network,
    pub(crate) sampler: Sampler,
    table: RwLock<Table>,
    /// What the groups of classes of service weigh.
    pub(super) weights: Mutex<Weights>,
    /// Containers of which a checkpoint is being written.
    pub(crate) checkpoints: Mutex<HashSet<String>>,
    events: broadcast::Sender<Event>,
    pub(crate) observers: Observers,
}

impl Inner {
    pub(crate) fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn emit(&self, event: Event) {
        self.observers.tell(&event, || self.published(event.sandbox()));
        // Nobody needs to listen.
        let _ = self.events.send(event);
    }

    /// The end of a pod that is published no more; `sandbox` is what was.
    pub(crate) fn emit_removed(&self, sandbox: SandboxStatus) {
        let event = Event::SandboxRemoved { sandbox: sandbox.id.clone() };
        self.observers.tell(&event, || Some((sandbox, Vec::new())));
        let _ = self.events.send(event);
    }

    /// A pod and its containers as lists show them.
    pub(crate) fn published(&self, sandbox: &str) -> Option<(SandboxStatus, Vec<ContainerStatus>)> {
        let table = self.table();
        let entry = table.pods.get(sandbox)?;
        Some((entry.status.clone(), entry.containers.values().map(|status| (**status).clone()).collect()))
    }

    /// Has what pods that are gone left of CNI's networks taken back. On a task of its own: plugins take their time.
    pub(crate) fn sweep_networks(self: &Arc<Self>) {
        let inner = self.clone();
        tokio::spawn(async move {
            inner.network.sweep(|id| inner.table().pods.contains_key(id)).await;
        });
    }

    pub(crate) fn pods_dir(&self) -> PathBuf {
        self.options.state.join("pods")
    }

    pub(crate) fn pod_dir(&self, sandbox: &str) -> PodDirectory {
        PodDirectory::new(self.pods_dir().join(sandbox))
    }
}

impl Node {
    /// Opens the node: reconnects to the shims in `RUN/pods/*`, reads exit records and clears away what a
    /// daemon that died mid-way left: half-made pods, dead shims' processes, snapshots and leases.
    pub async fn open(options: NodeOptions) -> Result<Self> {
        let network = Network::open(&options.network, &options.root, &options.state)
            .await
            .map_err(|error| PodError::internal("open network", error))?;
        let (events, _) = broadcast::channel(EVENT_BACKLOG);
        let inner = Arc::new(Inner {
            options,
            network,
            sampler: Sampler::new(),
            table: RwLock::default(),
            weights: Mutex::default(),
            checkpoints: Mutex::default(),
            events,
            observers: Observers::default(),
        });
        recovery::recover(&inner).await?;
        tokio::spawn(sampler::run(Arc::downgrade(&inner)));
        tokio::spawn(super::network::keep_tables(Arc::downgrade(&inner)));
        Ok(Self { inner })
    }

    /// Ends what the node holds beyond its pods (bridge, tables, parent cgroup) if it has no pods left.
    pub async fn close(&self) {
        let is_empty = self.inner.table().pods.is_empty();
        if let Err(error) = self.inner.network.close(is_empty).await {
            tracing::warn!(%error, "remove the embedded network");
        }
        if is_empty {
            let cgroups = &self.inner.options.cgroups;
            let mut parents = QosClass::GROUPED.map(|class| Placement::of_class(cgroups, Some(class))).to_vec();
            parents.push(Placement::of_node(cgroups));
            let remove = move || parents.iter().for_each(Placement::remove_if_empty);
            let _ = tokio::task::spawn_blocking(remove).await;
        }
    }

    pub fn options(&self) -> &NodeOptions {
        &self.inner.options
    }

    pub fn images(&self) -> &wharf_images::Store {
        &self.inner.options.store
    }

    pub fn network(&self) -> &Network {
        &self.inner.network
    }

    /// The directory with the container's `config.json`.
    pub fn bundle(&self, container: &ContainerStatus) -> PathBuf {
        self.inner.pod_dir(&container.sandbox).container(&container.id)
    }

    /// Every change of a pod or container from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<Event> {
        self.inner.events.subscribe()
    }

    /// The same, each with its pod as it was then.
    pub fn observe(&self) -> Observer {
        self.inner.observers.subscribe()
    }

    /// Makes a sandbox and returns its id once it is ready. A second request with the same configuration joins
    /// the first, be it in flight or done, as long as the sandbox has no containers.
    pub async fn run_sandbox(&self, config: SandboxConfig) -> Result<String> {
        sandbox::validate(&config, &self.inner.options)?;
        let (id, mut started) = {
            let mut table = self.inner.table_mut();
            match table.names.get(&config.name).and_then(|id| table.pods.get(id)) {
                Some(entry) if entry.status.config == config && entry.containers.is_empty() => {
                    if entry.is_listed() && entry.status.state != SandboxState::Ready {
                        return Err(sandbox_name_in_use(&entry.status));
                    }
                    (entry.status.id.clone(), entry.started.clone())
                }
                Some(entry) => return Err(sandbox_name_in_use(&entry.status)),
                None => self.reserve(&mut table, config),
            }
        };
        let outcome = started.wait_for(Option::is_some).await.map(|outcome| outcome.clone());
        match outcome {
            Ok(Some(Ok(()))) => Ok(id),
            Ok(Some(Err(error))) => Err(error),
            _ => Err(PodError::internal(format!("run pod sandbox {id}"), "its owner task ended")),
        }
    }

    fn reserve(&self, table: &mut Table, config: SandboxConfig) -> (String, watch::Receiver<Option<Result<()>>>) {
        let id = new_id();
        let (commands, inbox) = mpsc::channel(COMMAND_BACKLOG);
        let (outcome, started) = watch::channel(None);
        let status = SandboxStatus {
            id: id.clone(),
            config: config.clone(),
            state: SandboxState::NotReady,
            created_at: now(),
            addresses: Vec::new(),
            shim_pid: 0,
        };
        table.names.insert(config.name.clone(), id.clone());
        let entry = PodEntry {
            status,
            containers: BTreeMap::new(),
            commands: commands.clone(),
            shim: None,
            started: started.clone(),
        };
        table.pods.insert(id.clone(), Box::new(entry));
        // A task of its own: a caller that goes away takes nothing down with it.
        tokio::spawn(sandbox::run(self.inner.clone(), id.clone(), config, inbox, commands, outcome));
        (id, started)
    }

    /// Ends every container of the sandbox at once and gives back its network. Done already is done.
    pub async fn stop_sandbox(&self, id: &str) -> Result<()> {
        let Some(id) = known(self.resolve_sandbox(id))? else { return Ok(()) };
        self.hurry(&id);
        known(self.command(&id, |reply| Command::Stop { reply }).await).map(drop)
    }

    /// Stops the sandbox and removes it with its containers. Gone already is done.
    pub async fn remove_sandbox(&self, id: &str) -> Result<()> {
        let Some(id) = known(self.resolve_sandbox(id))? else { return Ok(()) };
        self.hurry(&id);
        known(self.command(&id, |reply| Command::Remove { reply }).await).map(drop)
    }

    /// The pod's owner may be waiting for a shim that is stuck; nobody who ends the pod waits for that.
    fn hurry(&self, sandbox: &str) {
        if let Some(shim) = self.inner.table().pods.get(sandbox).and_then(|entry| entry.shim.as_ref()) {
            shim.hurry();
        }
    }

    /// Makes a container. A second request with the same configuration gets the same container while it was
    /// not started.
    pub async fn create_container(&self, sandbox: &str, config: ContainerConfig) -> Result<String> {
        let sandbox = self.resolve_sandbox(sandbox)?;
        self.command(&sandbox, |reply| Command::CreateContainer { config: Box::new(config), reply }).await
    }

    pub async fn start_container(&self, id: &str) -> Result<()> {
        self.container_command(id, |container, reply| Command::StartContainer { container, reply }).await
    }

    /// Sends the stop signal, and after `grace` kills every process of the container. Returns when it ended.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        known(self.container_command(id, |container, reply| Command::StopContainer { container, grace, reply }).await)
            .map(drop)
    }

    /// Removes a container, ending it first if it runs. Gone already is done.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        known(self.container_command(id, |container, reply| Command::RemoveContainer { container, reply }).await)
            .map(drop)
    }

    /// Changes a container's limits; fields that are not set stay as they are.
    pub async fn update_container(&self, id: &str, resources: Resources) -> Result<()> {
        self.container_command(id, |container, reply| Command::UpdateContainer {
            container,
            resources: Box::new(resources),
            reply,
        })
        .await
    }

    /// Changes the limits of a pod as a whole; fields that are not set stay as they are.
    pub async fn update_sandbox(&self, id: &str, limits: PodLimits) -> Result<()> {
        let id = self.resolve_sandbox(id)?;
        self.command(&id, |reply| Command::Update { limits: Box::new(limits), reply }).await
    }

    /// Starts a process in a running container.
    pub async fn exec(&self, id: &str, config: ExecConfig) -> Result<ExecSession> {
        exec::start(&self.inner, &self.resolve_container(id)?, config).await
    }

    /// Runs a process to its end. When `timeout` passes, it and all it started are killed.
    pub async fn exec_sync(&self, id: &str, argv: Vec<String>, timeout: Option<Duration>) -> Result<ExecOutput> {
        exec::run_to_end(&self.inner, &self.resolve_container(id)?, argv, timeout).await
    }

    /// Connects to the streams of a container's own process.
    pub async fn attach(&self, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachSession> {
        exec::attach(&self.inner, &self.resolve_container(id)?, stdin, stdout, stderr).await
    }

    /// Sets the size of a container's terminal.
    pub async fn resize(&self, id: &str, rows: u16, columns: u16) -> Result<()> {
        exec::resize(&self.inner, &self.resolve_container(id)?, rows, columns).await
    }

    /// Opens the container's log anew, after the old file was moved away.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        exec::reopen_log(&self.inner, &self.resolve_container(id)?).await
    }

    /// Writes a checkpoint of a running container to the file `location`. What is not done within `timeout` is undone.
    pub async fn checkpoint_container(&self, id: &str, location: PathBuf, timeout: Duration) -> Result<()> {
        let id = self.resolve_container(id)?;
        checkpoint::write(self.inner.clone(), id, location, timeout).await
    }

    /// A descriptor of the sandbox's network namespace; `None` on the host network.
    pub async fn network_namespace(&self, id: &str) -> Result<Option<std::os::fd::OwnedFd>> {
        let id = self.resolve_sandbox(id)?;
        let shim = {
            let table = self.inner.table();
            let entry = table.pods.get(&id).ok_or_else(|| PodError::sandbox_not_found(&id))?;
            if entry.status.config.host_network {
                return Ok(None);
            }
            entry.shim.clone().ok_or_else(|| not_ready(&id))?
        };
        super::shim_process::network_namespace(&shim, &id).await
    }

    async fn container_command<T>(
        &self,
        id: &str,
        command: impl FnOnce(String, oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let id = self.resolve_container(id)?;
        let sandbox = self.inner.table().containers.get(&id).cloned();
        let sandbox = sandbox.ok_or_else(|| PodError::container_not_found(&id))?;
        self.command(&sandbox, |reply| command(id, reply)).await
    }

    async fn command<T>(
        &self,
        sandbox: &str,
        command: impl FnOnce(oneshot::Sender<Result<T>>) -> Command,
    ) -> Result<T> {
        let commands = self.inner.table().pods.get(sandbox).map(|entry| entry.commands.clone());
        let commands = commands.ok_or_else(|| PodError::sandbox_not_found(sandbox))?;
        let (reply, answer) = oneshot::channel();
        // An owner that is gone means a sandbox that was removed a moment ago.
        commands.send(Box::new(command(reply))).await.map_err(|_| PodError::sandbox_not_found(sandbox))?;
        answer.await.map_err(|_| PodError::sandbox_not_found(sandbox))?
    }
}

pub(super) fn not_ready(sandbox: &str) -> PodError {
    PodError::WrongState { what: "pod sandbox", id: sandbox.into(), state: "not ready".into(), wanted: "a ready one" }
}

fn sandbox_name_in_use(status: &SandboxStatus) -> PodError {
    let name = &status.config.name;
    PodError::AlreadyExists {
        what: "pod sandbox",
        name: format!("{}/{} uid {} attempt {}", name.namespace, name.name, name.uid, name.attempt),
        id: status.id.clone(),
    }
}

/// What is gone is done: stop and remove always converge.
fn known<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Unix time in nanoseconds.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}
