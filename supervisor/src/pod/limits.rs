//! Limits of a pod as a whole, on the control group that its containers' groups are in.

use wharf_runtime::cgroup::{Cgroup, Layout, unit};

use super::bundle::linux_resources;
use super::error::{PodError, Result};
use super::node::not_ready;
use super::placement::Placement;
use super::record::PodPhase;
use super::sandbox::Owner;
use super::spec::{PodLimits, Resources};

impl Owner {
    /// Takes over every limit that `change` sets, and keeps it for a daemon that comes after this one.
    pub(super) async fn update_limits(&mut self, change: PodLimits) -> Result<()> {
        if self.shim.is_none() {
            return Err(not_ready(&self.id));
        }
        let mut config = self.config.clone();
        config.limits.resources.merge(&change.resources);
        config.limits.overhead.merge(&change.overhead);
        self.set_limits(&config.limits).await?;
        self.config = config;
        self.record(PodPhase::Ready)
            .map_err(|error| PodError::internal(format!("write record of pod sandbox {}", self.id), error))?;
        if let Some(entry) = self.inner.table_mut().pods.get_mut(&self.id) {
            entry.status.config.limits = self.config.limits.clone();
        }
        Ok(())
    }

    /// Writes them to the pod's group, unless that is the client's.
    pub(super) async fn set_limits(&self, limits: &PodLimits) -> Result<()> {
        let sum = limits.sum();
        if sum == Resources::default() || self.config.cgroup_parent.is_some() {
            return Ok(());
        }
        let resources = linux_resources(&sum)?;
        let placement = self.placement();
        let failed = format!("limit pod sandbox {}", self.id);
        let set = move || {
            if let Placement::Slice(slice) = &placement {
                return unit::limit_slice(slice, &resources);
            }
            let mut group = Cgroup::locate(&Layout::detect()?, Some(&placement.path()), "");
            // Made before the containers' own, which are below it; taken away with the pod.
            group.create(true)?.keep();
            group.update(&resources)
        };
        let done = tokio::task::spawn_blocking(set).await;
        done.map_err(|error| PodError::internal(&failed, error))?
            .map_err(|error: wharf_runtime::cgroup::Error| PodError::internal(&failed, error))
    }
}
