//! What the calls for stats and metrics have in common: which pods and containers are meant, and reading their figures.

use std::collections::HashMap;

use wharf_specs::cri;

use super::{container, metrics, stats};
use crate::pod::stats::Detail;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxState, SandboxStatus};
use crate::pod::{Node, PodError, Result};

/// Of containers in any state; of one that does not run, its writable layer alone.
pub(super) async fn of_containers(node: &Node, containers: &[ContainerStatus]) -> Result<Vec<cri::ContainerStats>> {
    let figures = node.container_stats(containers, Detail::Summary).await?;
    let mountpoint = node.options().root.display().to_string();
    Ok(containers
        .iter()
        .zip(&figures)
        .map(|(status, figures)| stats::container(status, figures, &mountpoint))
        .collect())
}

pub(super) async fn of_sandboxes(node: &Node, sandboxes: &[SandboxStatus]) -> Result<Vec<cri::PodSandboxStats>> {
    let containers: Vec<_> = sandboxes.iter().flat_map(|status| running(node, &status.id)).collect();
    let mut by_pod: HashMap<String, Vec<cri::ContainerStats>> = HashMap::new();
    for (status, stats) in containers.iter().zip(of_containers(node, &containers).await?) {
        by_pod.entry(status.sandbox.clone()).or_default().push(stats);
    }
    let figures = node.sandbox_stats(sandboxes, Detail::Summary).await?;
    let pods = sandboxes.iter().zip(&figures);
    Ok(pods
        .map(|(status, figures)| stats::sandbox(status, figures, by_pod.remove(&status.id).unwrap_or_default()))
        .collect())
}

/// Of every pod that is ready.
pub(super) async fn metrics(node: &Node) -> Result<Vec<cri::PodSandboxMetrics>> {
    let sandboxes = ready(node, &cri::PodSandboxStatsFilter::default());
    let containers: Vec<_> = sandboxes.iter().flat_map(|status| running(node, &status.id)).collect();
    let of_containers = node.container_stats(&containers, Detail::All).await?;
    let of_sandboxes = node.sandbox_stats(&sandboxes, Detail::All).await?;
    let root = node.options().root.clone();
    let file_system = tokio::task::spawn_blocking(move || file_system(&root))
        .await
        .map_err(|error| PodError::internal("measure the file system", error))?;
    let mut read: HashMap<&str, Vec<_>> = HashMap::new();
    for pair in containers.iter().zip(&of_containers) {
        read.entry(&pair.0.sandbox).or_default().push(pair);
    }
    let node = node.clone();
    let made = sandboxes.iter().zip(&of_sandboxes).map(|(pod, figures)| {
        let own = read.remove(pod.id.as_str()).unwrap_or_default().into_iter();
        let own = own.map(|(status, figures)| {
            metrics::container(pod, status, node.container_group(status), figures, &file_system)
        });
        metrics::sandbox(pod, node.sandbox_group(pod), figures, own.collect())
    });
    Ok(made.collect())
}

pub(super) fn ready(node: &Node, filter: &cri::PodSandboxStatsFilter) -> Vec<SandboxStatus> {
    node.pick_sandboxes(|status| {
        let is_meant = status.state == SandboxState::Ready && stats::matches(status, filter);
        is_meant.then(|| status.clone())
    })
}

/// The containers that run and match.
pub(super) fn listed(node: &Node, filter: Option<cri::ContainerStatsFilter>) -> Vec<ContainerStatus> {
    let filter = filter.unwrap_or_default();
    let filter = cri::ContainerFilter {
        id: filter.id,
        state: Some(cri::ContainerStateValue { state: cri::ContainerState::ContainerRunning.into() }),
        pod_sandbox_id: filter.pod_sandbox_id,
        label_selector: filter.label_selector,
    };
    node.pick_containers(|status| container::matches(status, &filter).then(|| status.clone()))
}

fn running(node: &Node, sandbox: &str) -> Vec<ContainerStatus> {
    let mut containers = node.containers_of(sandbox);
    containers.retain(|status| status.state == ContainerState::Running);
    containers
}

/// The one that writable layers are on; without a size where it does not say.
fn file_system(root: &std::path::Path) -> metrics::FileSystem {
    use std::os::unix::fs::MetadataExt;
    let Ok(figures) = rustix::fs::statvfs(root) else { return metrics::FileSystem::default() };
    let number = std::fs::metadata(root).map(|metadata| metadata.dev()).unwrap_or(0);
    metrics::FileSystem {
        device: metrics::device_path(rustix::fs::major(number).into(), rustix::fs::minor(number).into()),
        bytes: figures.f_blocks.saturating_mul(figures.f_frsize),
        inodes: figures.f_files,
        inodes_free: figures.f_ffree,
    }
}
