//! What the node knows of its pods, answered from memory: published by their owners, read by everybody.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio::sync::{mpsc, watch};

use super::cgroup::Cgroup;
use super::error::{PodError, Result};
use super::ids::resolve;
use super::node::{Inner, not_ready};
use super::placement::Placement;
use super::sandbox::Command;
use super::shim_client::ShimClient;
use super::spec::{SandboxConfig, SandboxName};
use super::status::{ContainerStatus, SandboxStatus};

/// What is answered from memory.
///
/// A node of a map of this kind has room for eleven values, whatever it holds: large ones are boxed.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) pods: BTreeMap<String, Box<PodEntry>>,
    /// Sandbox of each container.
    pub(crate) containers: BTreeMap<String, String>,
    pub(crate) names: HashMap<SandboxName, String>,
    /// Containers that are being made.
    pub(crate) unfinished: BTreeSet<String>,
}

pub(crate) struct PodEntry {
    pub(crate) status: SandboxStatus,
    pub(crate) containers: BTreeMap<String, Box<ContainerStatus>>,
    pub(crate) commands: mpsc::Sender<Box<Command>>,
    /// `None` before the shim was started and after it ended.
    pub(crate) shim: Option<ShimClient>,
    /// Holds the outcome of `run_sandbox` once it is known; lists leave out a pod without one.
    pub(crate) started: watch::Receiver<Option<Result<()>>>,
}

impl PodEntry {
    pub(super) fn is_listed(&self) -> bool {
        matches!(&*self.started.borrow(), Some(Ok(())))
    }
}

impl Inner {
    pub(crate) fn container_cgroup(&self, sandbox: &str, container: &str) -> Result<Cgroup> {
        let table = self.table();
        let entry = table.pods.get(sandbox).ok_or_else(|| PodError::sandbox_not_found(sandbox))?;
        Ok(self.placement(&entry.status.config, sandbox).group_of(container))
    }

    /// Where the control groups of a sandbox's containers are: below the one it names, or one of its own.
    pub(crate) fn placement(&self, config: &SandboxConfig, sandbox: &str) -> Placement {
        Placement::of(&self.options.cgroups, config.cgroup_parent.as_deref(), config.qos_class, sandbox)
    }

    pub(crate) fn resolve_container(&self, id: &str) -> Result<String> {
        let table = self.table();
        resolve("container", id, table.containers.contains_key(id), table.containers.keys())
    }

    pub(crate) fn container(&self, id: &str) -> Result<ContainerStatus> {
        let table = self.table();
        let sandbox = table.containers.get(id).ok_or_else(|| PodError::container_not_found(id))?;
        let entry = table.pods.get(sandbox).ok_or_else(|| PodError::sandbox_not_found(sandbox))?;
        entry.containers.get(id).map(|status| (**status).clone()).ok_or_else(|| PodError::container_not_found(id))
    }

    /// The shim that holds container `id`.
    pub(crate) fn shim_of(&self, container: &ContainerStatus) -> Result<ShimClient> {
        let shim = self.table().pods.get(&container.sandbox).and_then(|entry| entry.shim.clone());
        shim.ok_or_else(|| not_ready(&container.sandbox))
    }
}
