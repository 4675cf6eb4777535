//! What the node knows and where it is on the machine, for those who compare the two.

use super::node::Node;
use super::placement::Placement;
use super::qos::QosClass;
use super::status::{ContainerStatus, SandboxStatus};
use super::table::PodEntry;
use crate::leaks::{Known, KnownSandbox};

impl Node {
    /// Path of a container's control group from each hierarchy's root on.
    pub fn container_group(&self, container: &ContainerStatus) -> String {
        let group = self.inner.container_cgroup(&container.sandbox, &container.id);
        group.map(|group| format!("/{}", group.relative().display())).unwrap_or_default()
    }

    /// Of the group that a sandbox's containers are in.
    pub fn sandbox_group(&self, sandbox: &SandboxStatus) -> String {
        self.inner.placement(&sandbox.config, &sandbox.id).path().display().to_string()
    }

    /// Every sandbox and container that this node has something of, and where it keeps that.
    pub async fn known(&self) -> Known {
        let endpoints = self.network().service_endpoints().await;
        let options = self.options();
        let table = self.inner.table();
        let group = |entry: &PodEntry| self.inner.placement(&entry.status.config, &entry.status.id).path();
        Known {
            root: options.root.clone(),
            state: options.state.clone(),
            pid: std::process::id(),
            bridge: options.network.bridge.clone(),
            cgroup_parents: [None, Some(QosClass::Burstable), Some(QosClass::BestEffort)]
                .map(|class| Placement::of_class(&options.cgroups, class).path())
                .into(),
            sandboxes: table
                .pods
                .iter()
                .map(|(id, entry)| (id.clone(), KnownSandbox { cgroup: group(entry) }))
                .collect(),
            // Asked after the table was locked: a pod is in the one before it is out of the other.
            leaving: self.network().leaving().into_iter().collect(),
            containers: table.containers.keys().chain(&table.unfinished).cloned().collect(),
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            pods: Default::default(),
            volumes: Default::default(),
        }
    }
}
