//! What pods and containers use: figures of their control groups, networks and writable layers.
//!
//! | file | job |
//! |---|---|
//! | [`figures`] | a control group's figures, on v1, hybrid and v2 alike |
//! | [`sampler`] | processor time over time, for rates; sizes of writable layers, measured now and then |
//! | [`interfaces`] | counters of a pod's network interfaces |
//! | [`tasks`] | processes, open files and limits of a control group |
//!
//! Figures are read when they are asked for; each has the time at which it was read.

pub mod figures;
pub mod interfaces;
pub(crate) mod sampler;
pub mod tasks;

use std::collections::HashMap;
use std::os::fd::OwnedFd;

use wharf_runtime::cgroup;

use super::error::{PodError, Result};
use super::node::{Node, now};
use super::shim_process;
use super::status::{ContainerState, ContainerStatus, SandboxStatus};
pub(crate) use figures::Detail;
pub use figures::Figures;
pub use interfaces::Interface;
pub use tasks::Tasks;

/// Of a container.
#[derive(Debug, Clone, Default)]
pub struct ContainerStats {
    /// `None` where its control group is gone or was never made.
    pub figures: Option<Figures>,
    /// `None` where it has none any more.
    pub layer: Option<LayerUsage>,
    /// Only where they were asked for.
    pub tasks: Option<Tasks>,
}

/// Of a pod: of the control group that its containers are in, and of its network.
#[derive(Debug, Clone, Default)]
pub struct SandboxStats {
    pub figures: Option<Figures>,
    pub processes: Option<u64>,
    /// `None` on the node's network, and of a pod that is not ready.
    pub network: Option<NetworkUsage>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUsage {
    pub timestamp: i64,
    pub interfaces: Vec<Interface>,
}

/// Size of a container's writable layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerUsage {
    /// When it was measured; unix time in nanoseconds, as all times here.
    pub timestamp: i64,
    pub usage: wharf_images::Usage,
}

impl Node {
    /// Figures of each of `containers`, in their order; tasks only with all details.
    pub(crate) async fn container_stats(
        &self,
        containers: &[ContainerStatus],
        detail: Detail,
    ) -> Result<Vec<ContainerStats>> {
        let groups: Vec<_> = containers
            .iter()
            .map(|status| {
                let running = status.state == ContainerState::Running;
                let group = self.inner.container_cgroup(&status.sandbox, &status.id).ok().filter(|_| running);
                (status.id.clone(), group, status.pid)
            })
            .collect();
        let (inner, store) = (self.inner.clone(), self.images().clone());
        let read = move |(id, group, pid): (String, Option<super::cgroup::Cgroup>, u32)| {
            let runtime_group = group.map(|group| inner.sampler.group(&group));
            ContainerStats {
                figures: runtime_group.as_ref().and_then(|group| inner.sampler.figures(&id, group, detail)),
                layer: inner.sampler.layer(&store, &id),
                tasks: runtime_group.filter(|_| detail == Detail::All).map(|group| tasks::read(&group, pid)),
            }
        };
        read_all(groups, read).await.map_err(|error| PodError::internal("read figures of containers", error))
    }

    /// Figures of each of `sandboxes`, in their order.
    pub(crate) async fn sandbox_stats(&self, sandboxes: &[SandboxStatus], detail: Detail) -> Result<Vec<SandboxStats>> {
        let mut networks = self.networks(sandboxes).await?;
        let groups: Vec<_> = sandboxes
            .iter()
            .map(|status| (status.id.clone(), self.inner.placement(&status.config, &status.id).group()))
            .collect();
        let inner = self.inner.clone();
        let read = move |(id, group): (String, super::cgroup::Cgroup)| {
            let group = inner.sampler.group(&group);
            let figures = inner.sampler.figures(&id, &group, detail);
            let processes = figures.as_ref().map(|_| tasks::process_count(&group));
            SandboxStats { figures, processes, network: None }
        };
        let mut stats =
            read_all(groups, read).await.map_err(|error| PodError::internal("read figures of pod sandboxes", error))?;
        for (stats, status) in stats.iter_mut().zip(sandboxes) {
            stats.network = networks.remove(&status.id);
        }
        Ok(stats)
    }

    /// The interfaces of those that have a network of their own, by sandbox.
    async fn networks(&self, sandboxes: &[SandboxStatus]) -> Result<HashMap<String, NetworkUsage>> {
        let shims: Vec<_> = {
            let table = self.inner.table();
            let own = sandboxes.iter().filter(|status| !status.config.host_network);
            own.filter_map(|status| Some((status.id.clone(), table.pods.get(&status.id)?.shim.clone()?))).collect()
        };
        let asked = shims.iter().map(|(id, shim)| shim_process::network_namespace(shim, id));
        let answers = futures_util::future::join_all(asked).await;
        let found = shims.iter().zip(answers).filter_map(|((id, _), answer)| match answer {
            Ok(namespace) => Some((id.clone(), namespace?)),
            // It may have gone since the list was made.
            Err(error) => {
                tracing::debug!(pod = %id, %error, "no network namespace to read");
                None
            }
        });
        let namespaces: Vec<(String, OwnedFd)> = found.collect();
        let read = interfaces::read_all(namespaces).await?;
        Ok(read.into_iter().map(|(id, interfaces)| (id, NetworkUsage { timestamp: now(), interfaces })).collect())
    }
}

/// Reads each of `groups`, in their order, on as many threads as there are processors: files of the kernel, and walks
/// through writable layers, which may wait.
async fn read_all<G, T, F>(groups: Vec<G>, read: F) -> Result<Vec<T>, tokio::task::JoinError>
where
    G: Send + 'static,
    T: Send + 'static,
    F: Fn(G) -> T + Clone + Send + 'static,
{
    /// Fewer are not worth another thread.
    const LEAST_PER_THREAD: usize = 16;
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = groups.len().div_ceil(threads).max(LEAST_PER_THREAD);
    let mut groups = groups.into_iter();
    let mut parts = Vec::new();
    loop {
        let part: Vec<G> = groups.by_ref().take(share).collect();
        if part.is_empty() {
            break;
        }
        let read = read.clone();
        parts.push(tokio::task::spawn_blocking(move || part.into_iter().map(read).collect::<Vec<T>>()));
    }
    Ok(futures_util::future::try_join_all(parts).await?.into_iter().flatten().collect())
}

/// For what a host counts or does not.
pub(crate) fn layout() -> cgroup::Layout {
    cgroup::Layout::detect().unwrap_or_default()
}
