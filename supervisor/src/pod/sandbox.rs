//! The owner task of one pod: the only writer of its state.
//!
//! ```text
//! run ──start──► serve ◄── commands (node), events (shim), timers (stops)
//!                  └── Remove ──► torn down, unpublished, task ends
//! ```
//!
//! Nothing here waits for another pod. A stop with a grace period does not hold the owner: its callers wait in
//! `stops` while timers and the shim's events come in as everything else does.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use wharf_specs::shim::{self, Event as ShimEvent, Exit, Operation, PodNamespace, SandboxSetup};

use super::create::Creates;
use super::error::{PodError, Result};
use super::limits::LimitChanges;
use super::node::Inner;
use super::placement::Placement;
use super::record::{ContainerRecord, PodDirectory, PodPhase, PodRecord, write_json};
use super::requests::Requests;
use super::shim_client::{FromPodShim, ShimClient};
use super::shim_process;
use super::spec::{ContainerConfig, IdMapping, PidMode, PodLimits, Resources, SandboxConfig, UserNamespace};
use super::status::{Event, SandboxState};
use super::{files, node};

pub(crate) use super::sandbox_check::validate;

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// In the state directory: it goes with a reboot, and with it filters that a newer library would make otherwise.
const SECCOMP_CACHE: &str = "seccomp";

/// How long a killed container may take to end before its cgroup is killed, and then again.
pub(super) const KILL_DEADLINE: Duration = Duration::from_secs(10);

/// What the owner of a pod is asked to do.
pub(crate) enum Command {
    Stop {
        reply: Reply<()>,
    },
    Remove {
        reply: Reply<()>,
    },
    Update {
        limits: Box<PodLimits>,
        reply: Reply<()>,
    },
    CreateContainer {
        config: Box<ContainerConfig>,
        reply: Reply<String>,
    },
    StartContainer {
        container: String,
        reply: Reply<()>,
    },
    StopContainer {
        container: String,
        grace: Duration,
        reply: Reply<()>,
    },
    RemoveContainer {
        container: String,
        reply: Reply<()>,
    },
    UpdateContainer {
        container: String,
        resources: Box<Resources>,
        reply: Reply<()>,
    },
    /// The grace period of a stop is over.
    GraceOver {
        container: String,
    },
    /// So is the time after the kill.
    KillOver {
        container: String,
    },
    /// The container's first process has ended; how, where that could be seen.
    EndSeen {
        container: String,
        exit: Option<Exit>,
    },
}

/// One pod and everything that is known of it beyond what is published.
pub(super) struct Owner {
    pub(super) inner: Arc<Inner>,
    pub(super) id: String,
    pub(super) config: SandboxConfig,
    pub(super) directory: PodDirectory,
    pub(super) created_at: i64,
    pub(super) addresses: Vec<IpAddr>,
    /// Its network has been given back.
    pub(super) is_disconnected: bool,
    pub(super) shim: Option<ShimClient>,
    pub(super) shim_pid: u32,
    pub(super) from_shim: mpsc::UnboundedReceiver<FromPodShim>,
    /// For timers; weak, so that a removed pod's owner ends.
    pub(super) to_self: mpsc::WeakSender<Box<Command>>,
    pub(super) records: BTreeMap<String, Box<ContainerRecord>>,
    pub(super) creates: Creates,
    pub(super) requests: Requests,
    pub(super) limit_changes: LimitChanges,
    /// Who waits for a container to end.
    pub(super) stops: HashMap<String, Vec<Reply<()>>>,
}

/// Makes the sandbox, reports to `outcome`, and serves its commands until it is removed.
pub(crate) async fn run(
    inner: Arc<Inner>,
    id: String,
    config: SandboxConfig,
    inbox: mpsc::Receiver<Box<Command>>,
    commands: mpsc::Sender<Box<Command>>,
    outcome: watch::Sender<Option<Result<()>>>,
) {
    let to_self = commands.downgrade();
    drop(commands);
    let directory = inner.pod_dir(&id);
    let (_, from_shim) = mpsc::unbounded_channel();
    let mut owner = Owner {
        inner,
        id,
        config,
        directory,
        created_at: node::now(),
        addresses: Vec::new(),
        is_disconnected: false,
        shim: None,
        shim_pid: 0,
        from_shim,
        to_self,
        records: BTreeMap::new(),
        creates: Creates::default(),
        requests: Requests::default(),
        limit_changes: LimitChanges::default(),
        stops: HashMap::new(),
    };
    // What each step needs is allocated for as long as it takes: the owner of a pod that rests is small.
    match Box::pin(owner.start()).await {
        Ok(()) => {
            tracing::info!(pod = %owner.id, name = %owner.config.name.name, "pod sandbox ready");
            owner.publish(SandboxState::Ready);
            let _ = outcome.send(Some(Ok(())));
            owner.inner.emit(Event::SandboxReady { sandbox: owner.id.clone() });
            owner.serve(inbox).await;
        }
        Err(error) => {
            for failure in Box::pin(owner.tear_down()).await {
                tracing::warn!(pod = %owner.id, %failure, "clear away a pod sandbox that failed to start");
            }
            owner.unpublish();
            let _ = outcome.send(Some(Err(error)));
        }
    }
}

impl Owner {
    async fn start(&mut self) -> Result<()> {
        let id = self.id.clone();
        let on_disk = |what: &'static str| {
            let id = id.clone();
            move |error: io::Error| PodError::internal(format!("{what} of pod sandbox {id}"), error)
        };
        self.check_network()?;
        self.directory.create().map_err(on_disk("create directory"))?;
        self.record(PodPhase::Starting).map_err(on_disk("write record"))?;
        let setup = self.setup();
        write_json(&self.directory.path.join("sandbox.json"), &setup).map_err(on_disk("write sandbox.json"))?;
        if let Some(logs) = self.config.log_directory.clone() {
            tokio::fs::create_dir_all(&logs)
                .await
                .map_err(|error| PodError::internal(format!("create log directory {}", logs.display()), error))?;
        }
        shim_process::start(&self.inner.options.shim, &self.id, &self.directory).await?;
        self.connect().await?;
        self.inner.weigh(self.config.qos_class).await;
        self.set_limits(&self.config.limits).await?;
        self.connect_network().await?;
        files::write(&self.directory, &self.config, &self.addresses).map_err(on_disk("write files"))?;
        self.record(PodPhase::Ready).map_err(on_disk("write record"))
    }

    fn setup(&self) -> SandboxSetup {
        let namespaces = self.namespaces();
        let uts = namespaces.contains(&PodNamespace::Uts);
        let map = |of: fn(&UserNamespace) -> &[IdMapping]| {
            let map = self.config.user_namespace.as_ref().map(of).unwrap_or_default().iter();
            map.map(|one| shim::IdMapping { container: one.container, host: one.host, size: one.length }).collect()
        };
        SandboxSetup {
            id: self.id.clone(),
            uid_map: map(|users| &users.uids),
            gid_map: map(|users| &users.gids),
            hostname: if uts { files::hostname(&self.config) } else { String::new() },
            namespaces,
            sysctls: self.config.sysctls.clone(),
            cgroup_driver: self.inner.options.cgroups.driver,
            seccomp_cache: Some(self.inner.options.state.join(SECCOMP_CACHE)),
            oci_runtime: self.inner.options.runtimes.get(&self.config.runtime_handler).cloned(),
        }
    }

    /// Those the pod's containers share. The host name goes with the network, as Kubernetes has it.
    pub(super) fn namespaces(&self) -> Vec<PodNamespace> {
        [
            (PodNamespace::User, self.config.user_namespace.is_some()),
            (PodNamespace::Network, !self.config.host_network),
            (PodNamespace::Uts, !self.config.host_network),
            (PodNamespace::Ipc, !self.config.host_ipc),
            (PodNamespace::Pid, self.config.pid == PidMode::Pod),
        ]
        .into_iter()
        .filter_map(|(kind, own)| own.then_some(kind))
        .collect()
    }

    pub(super) fn placement(&self) -> Placement {
        self.inner.placement(&self.config, &self.id)
    }

    pub(super) async fn connect(&mut self) -> Result<()> {
        let (events, from_shim) = mpsc::unbounded_channel();
        let (shim, pid) = shim_process::connect(&self.id, &self.directory, events).await?;
        self.from_shim = from_shim;
        self.shim = Some(shim);
        self.shim_pid = pid;
        Ok(())
    }

    pub(super) fn record(&self, phase: PodPhase) -> io::Result<()> {
        self.directory.write_pod(&PodRecord {
            config: self.config.clone(),
            phase,
            created_at: self.created_at,
            addresses: self.addresses.clone(),
            shim_pid: self.shim_pid,
        })
    }

    pub(super) fn publish(&self, state: SandboxState) {
        if let Some(entry) = self.inner.table_mut().pods.get_mut(&self.id) {
            entry.status.state = state;
            entry.status.created_at = self.created_at;
            entry.status.addresses = self.addresses.clone();
            entry.status.shim_pid = self.shim_pid;
            entry.shim = self.shim.clone();
        }
    }

    fn unpublish(&self) {
        let mut table = self.inner.table_mut();
        let removed = table.pods.remove(&self.id);
        table.names.remove(&self.config.name);
        for container in removed.iter().flat_map(|entry| entry.containers.keys()) {
            table.containers.remove(container);
        }
    }

    pub(super) async fn serve(mut self, mut inbox: mpsc::Receiver<Box<Command>>) {
        loop {
            tokio::select! {
                biased;
                Some(message) = self.from_shim.recv() => Box::pin(self.on_shim(message)).await,
                Some(made) = self.creates.next() => Box::pin(self.created(made)).await,
                Some(answered) = self.requests.next() => Box::pin(self.answered(answered)).await,
                Some(written) = self.limit_changes.next() => self.limits_written(written),
                command = inbox.recv() => match command.map(|command| *command) {
                    Some(Command::Remove { reply }) => {
                        let outcome = Box::pin(self.remove()).await;
                        let removed = outcome.is_ok();
                        let _ = reply.send(outcome);
                        if removed {
                            return;
                        }
                    }
                    Some(command) => Box::pin(self.on_command(command)).await,
                    None => return,
                },
            }
        }
    }

    async fn on_command(&mut self, command: Command) {
        // A caller that went away needs no answer: the work is done all the same.
        match command {
            Command::Stop { reply } => drop(reply.send(self.stop().await)),
            Command::Remove { reply } => drop(reply.send(self.remove().await)),
            Command::Update { limits, reply } => self.update_limits(*limits, reply),
            Command::CreateContainer { config, reply } => self.create_container(*config, reply),
            Command::StartContainer { container, reply } => self.start_container(container, reply),
            Command::StopContainer { container, grace, reply } => self.stop_container(container, grace, reply).await,
            Command::RemoveContainer { container, reply } => {
                drop(reply.send(self.remove_container(&container).await));
            }
            Command::UpdateContainer { container, resources, reply } => {
                self.update_container(container, *resources, reply);
            }
            Command::GraceOver { container } => self.grace_over(container).await,
            Command::KillOver { container } => self.kill_over(&container).await,
            Command::EndSeen { container, exit } => self.end_seen(&container, exit).await,
        }
    }

    pub(super) async fn on_shim(&mut self, message: FromPodShim) {
        match message {
            FromPodShim::Event(event) => match *event {
                ShimEvent::Exited { container, exit } => self.exit_told(&container, exit),
                ShimEvent::Started { container, pid, at } => self.container_started(&container, pid, at),
                ShimEvent::Oom { container, .. } => tracing::info!(pod = %self.id, %container, "out of memory"),
                ShimEvent::ExecExited { .. } => {}
            },
            FromPodShim::Gone if self.shim.is_some() => {
                tracing::error!(pod = %self.id, "the pod's shim died: its containers are ended");
                self.shim_died().await;
            }
            FromPodShim::Gone => {}
        }
    }

    /// Without its shim nothing of the pod can be trusted to run on: what is left is killed and reported.
    pub(super) async fn shim_died(&mut self) {
        if let Some(shim) = self.shim.take() {
            shim.kill();
        }
        self.shim_pid = 0;
        for container in self.alive() {
            let ended = self.kill_cgroup(&container).await;
            self.container_lost(&container, ended);
        }
        for failure in self.release_all().await {
            tracing::warn!(pod = %self.id, %failure, "clear away after a dead shim");
        }
        if let Err(error) = self.record(PodPhase::Stopped) {
            tracing::warn!(pod = %self.id, %error, "write pod record");
        }
        self.publish(SandboxState::NotReady);
        self.inner.weigh(self.config.qos_class).await;
        self.inner.emit(Event::SandboxStopped { sandbox: self.id.clone() });
    }

    async fn stop(&mut self) -> Result<()> {
        self.finish_creates().await;
        self.finish_requests().await;
        if let Err(error) = self.end_all().await {
            if !self.shim.as_ref().is_some_and(ShimClient::is_gone) {
                return Err(error);
            }
            tracing::error!(pod = %self.id, %error, "the pod's shim does not answer: its containers are ended without it");
            self.shim_died().await;
        }
        let was_up = self.inner.published(&self.id).is_some_and(|(pod, _)| pod.state == SandboxState::Ready);
        if let Some(failure) = self.release_all().await.into_iter().next() {
            return Err(PodError::internal(format!("stop pod sandbox {}", self.id), failure));
        }
        self.record(PodPhase::Stopped)
            .map_err(|error| PodError::internal(format!("write record of pod sandbox {}", self.id), error))?;
        self.publish(SandboxState::NotReady);
        self.inner.weigh(self.config.qos_class).await;
        if was_up {
            tracing::info!(pod = %self.id, "pod sandbox stopped");
            self.inner.emit(Event::SandboxStopped { sandbox: self.id.clone() });
        }
        Ok(())
    }

    async fn remove(&mut self) -> Result<()> {
        self.stop().await?;
        let containers: Vec<String> = self.records.keys().cloned().collect();
        for container in containers {
            self.remove_container(&container).await?;
        }
        if let Some(failure) = self.tear_down().await.into_iter().next() {
            return Err(PodError::internal(format!("remove pod sandbox {}", self.id), failure));
        }
        let published = self.inner.published(&self.id);
        self.unpublish();
        self.inner.sweep_networks();
        tracing::info!(pod = %self.id, "pod sandbox removed");
        if let Some((sandbox, _)) = published {
            self.inner.emit_removed(sandbox);
        }
        Ok(())
    }

    /// Mirror of [`start`](Self::start), from any point of it; returns every failure.
    pub(super) async fn tear_down(&mut self) -> Vec<String> {
        let mut failures = self.release_all().await;
        // A pod's own cgroup; one that the client named is the client's.
        if self.config.cgroup_parent.is_none() {
            let placement = self.placement();
            let _ = tokio::task::spawn_blocking(move || {
                let cgroup = placement.group();
                cgroup.kill_all(KILL_DEADLINE);
                cgroup.remove_tree();
                placement.remove_if_empty();
            })
            .await;
        }
        if let Err(error) = self.directory.remove() {
            failures.push(format!("remove {}: {error}", self.directory.path.display()));
        }
        failures
    }

    /// Gives back address, interface, port mappings and shared memory, and ends the shim. The kernel lets an interface
    /// go as slowly as it lets namespaces go: both at once.
    async fn release_all(&mut self) -> Vec<String> {
        let network = self.disconnect_network();
        let (network, ()) = tokio::join!(network, self.shut_down_shim());
        self.is_disconnected |= network.is_ok();
        let shared_memory =
            files::unmount_shm(&self.directory).map_err(|error| format!("unmount shared memory: {error}"));
        [network, shared_memory].into_iter().filter_map(Result::err).collect()
    }

    async fn shut_down_shim(&mut self) {
        let Some(shim) = self.shim.take() else { return };
        if let Err(error) = shim.done("shut down shim of", &self.id, Operation::Shutdown).await {
            tracing::warn!(pod = %self.id, %error, "shim does not shut down, killing it");
        } else {
            self.shim_ended().await;
        }
        // One that ended already is fine.
        shim.kill();
        self.shim_pid = 0;
    }

    /// Waits until the shim closed the connection, so that its namespaces are gone when a stop returns.
    async fn shim_ended(&mut self) {
        let ended = async {
            while let Some(message) = self.from_shim.recv().await {
                if matches!(message, FromPodShim::Gone) {
                    break;
                }
            }
        };
        if tokio::time::timeout(KILL_DEADLINE, ended).await.is_err() {
            tracing::warn!(pod = %self.id, "shim still there after its shutdown");
        }
    }
}
