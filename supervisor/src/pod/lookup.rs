//! Pods and containers as they are published: by id, by the beginning of one, and all that somebody picks.

use super::error::{PodError, Result};
use super::ids::resolve;
use super::node::{Node, not_ready};
use super::status::{ContainerStatus, SandboxState, SandboxStatus};

impl Node {
    /// Shows every sandbox; the node's table is locked meanwhile.
    pub fn visit_sandboxes(&self, visit: impl FnMut(&SandboxStatus)) {
        let table = self.inner.table();
        table.pods.values().filter(|entry| entry.is_listed()).map(|entry| &entry.status).for_each(visit);
    }

    /// Of every sandbox what `pick` makes of it; the node's table is locked meanwhile.
    pub fn pick_sandboxes<T>(&self, mut pick: impl FnMut(&SandboxStatus) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.visit_sandboxes(|status| picked.extend(pick(status)));
        picked
    }

    /// By id or unique prefix.
    pub fn sandbox(&self, id: &str) -> Result<SandboxStatus> {
        let id = self.resolve_sandbox(id)?;
        let table = self.inner.table();
        table.pods.get(&id).map(|entry| entry.status.clone()).ok_or_else(|| PodError::sandbox_not_found(&id))
    }

    /// Those of the pod with this uid, by attempt.
    pub fn sandboxes_of(&self, uid: &str) -> Vec<SandboxStatus> {
        let mut found = self.pick_sandboxes(|status| (status.config.name.uid == uid).then(|| status.clone()));
        found.sort_by_key(|status| status.config.name.attempt);
        found
    }

    /// Shows every container; the node's table is locked meanwhile.
    pub fn visit_containers(&self, mut visit: impl FnMut(&ContainerStatus)) {
        let table = self.inner.table();
        table.pods.values().flat_map(|entry| entry.containers.values()).for_each(|status| visit(status));
    }

    /// Of every container what `pick` makes of it; the node's table is locked meanwhile.
    pub fn pick_containers<T>(&self, mut pick: impl FnMut(&ContainerStatus) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.visit_containers(|status| picked.extend(pick(status)));
        picked
    }

    pub fn containers_of(&self, sandbox: &str) -> Vec<ContainerStatus> {
        let table = self.inner.table();
        let containers = table.pods.get(sandbox).into_iter().flat_map(|entry| entry.containers.values());
        containers.map(|status| (**status).clone()).collect()
    }

    /// By id or unique prefix.
    pub fn container(&self, id: &str) -> Result<ContainerStatus> {
        let id = self.resolve_container(id)?;
        self.inner.container(&id)
    }

    /// The full id of a sandbox that is ready.
    pub fn ready_sandbox(&self, id: &str) -> Result<String> {
        let status = self.sandbox(id)?;
        if status.state == SandboxState::Ready { Ok(status.id) } else { Err(not_ready(&status.id)) }
    }

    /// The full id of the sandbox that `id` is or uniquely begins.
    pub fn resolve_sandbox(&self, id: &str) -> Result<String> {
        let table = self.inner.table();
        let ids = table.pods.iter().filter(|(_, entry)| entry.is_listed()).map(|(id, _)| id);
        resolve("pod sandbox", id, table.pods.get(id).is_some_and(|entry| entry.is_listed()), ids)
    }

    /// The full id of the container that `id` is or uniquely begins.
    pub fn resolve_container(&self, id: &str) -> Result<String> {
        self.inner.resolve_container(id)
    }
}
