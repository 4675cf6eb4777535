//! Taking back the pods that an earlier daemon left, and clearing away what it had not finished.
//!
//! | found in `RUN/pods/<id>` | becomes |
//! |---|---|
//! | no readable `pod.json`, or phase `starting` | nobody was told of it: torn down |
//! | phase `ready`, shim answers | Ready; containers as the shim says |
//! | phase `ready`, shim silent | NotReady; its processes killed, exits from the records that the shim left |
//! | phase `stopped` | NotReady |
//!
//! A shim that is stuck holds up nobody: after a while the node serves, with that pod as its record has it, and the pod's
//! owner goes on waiting.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};
use wharf_specs::shim::{ContainerPhase, Operation};

use super::checkpoint::STAGING;
use super::create::Creates;
use super::error::{PodError, Result};
use super::limits::LimitChanges;
use super::node::{COMMAND_BACKLOG, Inner, now};
use super::placement::Placement;
use super::qos::QosClass;
use super::record::{PodDirectory, PodPhase, PodRecord};
use super::requests::Requests;
use super::sandbox::{Command, Owner};
use super::session::SIGKILL;
use super::shim_process;
use super::spec::{Dns, PidMode, SandboxConfig, SandboxName};
use super::status::{Event, SandboxState, SandboxStatus};
use super::table::PodEntry;
use crate::removal::remove_tree;

/// How long the node waits for all of its shims before it serves.
const PATIENCE: Duration = Duration::from_secs(10);

/// Reads `RUN/pods/*`; every pod is taken back on its own, and one that fails stops no other.
pub(crate) async fn recover(inner: &Arc<Inner>) -> Result<()> {
    let pods = inner.pods_dir();
    let on_disk = |error: std::io::Error| PodError::internal(format!("read {}", pods.display()), error);
    std::fs::create_dir_all(&pods).map_err(on_disk)?;
    let mut answered = Vec::new();
    for entry in std::fs::read_dir(&pods).map_err(on_disk)?.flatten() {
        if let Ok(id) = entry.file_name().into_string() {
            answered.push(take_back(inner, id));
        }
    }
    if tokio::time::timeout(PATIENCE, futures_util::future::join_all(answered)).await.is_err() {
        tracing::warn!("not every pod's shim answers: the node serves, and goes on waiting for them");
    }
    let known = |id: &str| inner.table().pods.contains_key(id);
    for class in QosClass::GROUPED {
        if Placement::of_class(&inner.options.cgroups, Some(class)).group().exists() {
            inner.weigh(Some(class)).await;
        }
    }
    inner.network.retain(known).await.map_err(|error| PodError::internal("give back addresses", error))?;
    inner.sweep_networks();
    drop_orphaned_snapshots(inner).await
}

/// Publishes the pod as its record has it, and has its owner ask the shim; resolves when that has answered or is given up.
fn take_back(inner: &Arc<Inner>, id: String) -> oneshot::Receiver<()> {
    let directory = inner.pod_dir(&id);
    let record = directory.read_pod();
    let unfinished = !matches!(&record, Ok(PodRecord { phase: PodPhase::Ready | PodPhase::Stopped, .. }));
    let record = record.unwrap_or_else(|_| {
        let mut unknown = unknown_pod();
        unknown.config.qos_class = Placement::class_of(&inner.options.cgroups, &id);
        unknown
    });
    let phase = record.phase;
    let (mut owner, inbox, commands) = owner_of(inner.clone(), id, record, directory);
    if !unfinished {
        owner.read_records();
        publish(&owner, commands.clone(), &HashMap::new());
        owner.publish(if phase == PodPhase::Ready { SandboxState::Ready } else { SandboxState::NotReady });
    }
    let (done, answered) = oneshot::channel();
    tokio::spawn(async move {
        let serves = Box::pin(take_up(&mut owner, phase, unfinished, commands)).await;
        let _ = done.send(());
        if serves {
            Box::pin(owner.verify_network()).await;
            owner.serve(inbox).await;
        }
    });
    answered
}

/// False for a pod that is gone now.
async fn take_up(owner: &mut Owner, phase: PodPhase, unfinished: bool, commands: mpsc::Sender<Box<Command>>) -> bool {
    let id = owner.id.clone();
    if phase != PodPhase::Stopped
        && let Err(error) = owner.connect().await
    {
        tracing::warn!(pod = %id, %error, "no shim");
    }
    if unfinished {
        tracing::info!(pod = %id, "clear away a pod sandbox that was never ready");
        let failures = match owner.end_everything().await {
            Ok(()) => owner.tear_down().await,
            Err(error) => vec![error.to_string()],
        };
        for failure in failures {
            tracing::warn!(pod = %id, %failure, "clear away a pod sandbox that was never ready");
        }
        return false;
    }

    let (pids, ended) = owner.read_containers().await;
    publish(owner, commands, &pids);
    let up = owner.shim.is_some();
    owner.publish(if up { SandboxState::Ready } else { SandboxState::NotReady });
    owner.keep_ends(ended);
    if phase == PodPhase::Ready && !up {
        owner.shim_died().await;
    }
    tracing::info!(pod = %id, containers = owner.records.len(), ready = up, "pod sandbox taken back");
    true
}

fn owner_of(
    inner: Arc<Inner>,
    id: String,
    record: PodRecord,
    directory: PodDirectory,
) -> (Owner, mpsc::Receiver<Box<Command>>, mpsc::Sender<Box<Command>>) {
    let (commands, inbox) = mpsc::channel(COMMAND_BACKLOG);
    let (_, from_shim) = mpsc::unbounded_channel();
    let owner = Owner {
        inner,
        id,
        config: record.config,
        directory,
        created_at: record.created_at,
        addresses: record.addresses,
        is_disconnected: false,
        shim: None,
        shim_pid: record.shim_pid,
        from_shim,
        to_self: commands.downgrade(),
        records: BTreeMap::new(),
        creates: Creates::default(),
        requests: Requests::default(),
        limit_changes: LimitChanges::default(),
        stops: HashMap::new(),
    };
    (owner, inbox, commands)
}

fn publish(owner: &Owner, commands: mpsc::Sender<Box<Command>>, pids: &HashMap<String, u32>) {
    let (_, started) = watch::channel(Some(Ok(())));
    let containers = owner.records.iter().map(|(container, record)| {
        let pid = pids.get(container).copied().unwrap_or(0);
        (container.clone(), Box::new(record.status(container, &owner.id, pid)))
    });
    let status = SandboxStatus {
        id: owner.id.clone(),
        config: owner.config.clone(),
        state: SandboxState::NotReady,
        created_at: owner.created_at,
        addresses: owner.addresses.clone(),
        shim_pid: owner.shim_pid,
    };
    let entry = PodEntry { status, containers: containers.collect(), commands, shim: owner.shim.clone(), started };
    let mut table = owner.inner.table_mut();
    table.names.insert(owner.config.name.clone(), owner.id.clone());
    let added = entry.containers.keys().map(|container| (container.clone(), owner.id.clone())).collect::<Vec<_>>();
    let before = table.pods.insert(owner.id.clone(), Box::new(entry));
    for container in before.iter().flat_map(|entry| entry.containers.keys()) {
        table.containers.remove(container);
    }
    table.containers.extend(added);
}

impl Owner {
    /// What the last daemon wrote down.
    fn read_records(&mut self) {
        for id in self.directory.container_ids() {
            if let Ok(record) = self.directory.read_container(&id) {
                self.records.insert(id, Box::new(record));
            }
        }
    }

    /// Reads the containers' records and brings them up to what the shim says; returns the pids of those that
    /// live, and those that ended while no daemon was there. A container that the shim does not know was never handed
    /// out, and is cleared away, unless it waits for its restore.
    async fn read_containers(&mut self) -> (HashMap<String, u32>, Vec<String>) {
        let mut known = HashMap::new();
        if let Some(shim) = self.shim.clone() {
            match shim_process::containers(&shim, &self.id).await {
                Ok(states) => known.extend(states.into_iter().map(|state| (state.id.clone(), state))),
                Err(error) => {
                    tracing::warn!(pod = %self.id, %error, "shim does not answer");
                    self.shim = None;
                }
            }
        }
        let mut pids = HashMap::new();
        let mut ended = Vec::new();
        for id in self.directory.container_ids() {
            let record = self.directory.read_container(&id).ok();
            let record = record.filter(|record| {
                self.shim.is_none() || record.exit.is_some() || record.waits_for_restore() || known.contains_key(&id)
            });
            let Some(mut record) = record else {
                self.records.remove(&id);
                self.discard_unfinished(&id).await;
                continue;
            };
            let was_alive = record.exit.is_none();
            if let Some(state) = known.get(&id) {
                if state.started_at != 0 {
                    record.started_at = state.started_at;
                }
                if state.phase == ContainerPhase::Exited && record.exit.is_none() {
                    record.exit = state.exit.clone();
                }
                pids.insert(id.clone(), state.pid);
            }
            if record.exit.is_none() {
                record.exit = self.directory.read_exit(&id);
            }
            if was_alive && record.exit.is_some() {
                ended.push(id.clone());
            }
            if let Err(error) = self.directory.write_container(&id, &record) {
                tracing::warn!(pod = %self.id, container = %id, %error, "write container record");
            }
            self.records.insert(id, Box::new(record));
        }
        (pids, ended)
    }

    /// For the first observer, with the times at which they were.
    fn keep_ends(&self, ended: Vec<String>) {
        let Some((sandbox, containers)) = self.inner.published(&self.id) else { return };
        for container in ended {
            let at = self.records.get(&container).and_then(|record| record.exit.as_ref()).map_or(0, |e| e.finished_at);
            let event = Event::ContainerExited { sandbox: self.id.clone(), container };
            self.inner.observers.keep(event, at, sandbox.clone(), containers.clone());
        }
    }

    async fn discard_unfinished(&mut self, id: &str) {
        tracing::info!(pod = %self.id, container = %id, "clear away a container that was never created");
        if let Some(shim) = &self.shim {
            let kill = Operation::Kill { container: id.into(), signal: SIGKILL, all: true };
            let _ = shim.done("kill container", id, kill).await;
        }
        self.kill_cgroup(id).await;
        if let Err(error) = self.discard(id).await {
            tracing::warn!(pod = %self.id, container = %id, %error, "clear away a container");
        }
    }

    /// Of a pod that nobody knows: its containers are whatever directories there are.
    async fn end_everything(&mut self) -> Result<()> {
        for id in self.directory.container_ids() {
            self.discard_unfinished(&id).await;
        }
        Ok(())
    }
}

async fn drop_orphaned_snapshots(inner: &Arc<Inner>) -> Result<()> {
    let known: BTreeSet<String> = inner.table().containers.keys().cloned().collect();
    let store = inner.options.store.clone();
    tokio::task::spawn_blocking(move || {
        let snapshots = match store.snapshots() {
            Ok(snapshots) => snapshots,
            Err(error) => return tracing::warn!(%error, "list snapshots"),
        };
        // Of checkpoints that the last daemon was writing.
        for snapshot in &snapshots {
            if let Ok(Some(mount)) = store.snapshot(&snapshot.container_id)
                && let Err(error) = remove_tree(&mount.writable().with_file_name(STAGING))
            {
                tracing::warn!(container = %snapshot.container_id, %error, "remove an unfinished checkpoint");
            }
        }
        for orphan in snapshots.into_iter().filter(|snapshot| !known.contains(&snapshot.container_id)) {
            tracing::info!(container = %orphan.container_id, "remove the snapshot of a container that is gone");
            if let Err(error) = store.remove_snapshot(&orphan.container_id) {
                tracing::warn!(container = %orphan.container_id, %error, "remove snapshot");
            }
        }
    })
    .await
    .map_err(|error| PodError::internal("list snapshots", error))
}

/// Stands in for a record that cannot be read, for the time of the tear-down.
pub(super) fn unknown_pod() -> PodRecord {
    PodRecord {
        config: SandboxConfig {
            name: SandboxName { name: String::new(), namespace: String::new(), uid: String::new(), attempt: 0 },
            hostname: String::new(),
            log_directory: None,
            dns: Dns::default(),
            ports: Vec::new(),
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            host_aliases: Vec::new(),
            full_name: None,
            host_network: false,
            host_ipc: false,
            pid: PidMode::Container,
            user_namespace: None,
            sysctls: BTreeMap::new(),
            cgroup_parent: None,
            qos_class: None,
            runtime_handler: String::new(),
            privileged: false,
            limits: Default::default(),
        },
        phase: PodPhase::Starting,
        created_at: now(),
        addresses: Vec::new(),
        shim_pid: 0,
    }
}
