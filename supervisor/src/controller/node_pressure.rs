//! Pods that end because the node runs out of memory, of room on the disk or of process ids: one after the other, first those
//! that take more than they asked for, then those that matter least, as a kubelet has it.

use std::path::PathBuf;
use std::sync::Arc;

use serde_json::Value;

use super::Context;
use super::pod::eviction::bytes_in;
use crate::api::kinds::pod_disruption::{BY_NODE, cause_by_node, disrupt, is_disrupted};
use crate::api::kinds::{integer, node, pod, priority_class, text};
use crate::api::pod_log::pod_log_folder;
use crate::api::quantity;
use crate::api::requests::request_of;
use crate::api::status::ApiError;
use crate::pod::stats::Detail;
use crate::pod::status::{ContainerState, ContainerStatus};

/// What a node can run out of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resource {
    Memory,
    Disk,
    ProcessIds,
}

/// In the order in which something is done about them.
pub(super) const RESOURCES: [Resource; 3] = [Resource::Memory, Resource::Disk, Resource::ProcessIds];

impl Resource {
    /// The condition of a node that is short of it.
    pub(super) fn condition(self) -> &'static str {
        match self {
            Self::Memory => node::MEMORY_PRESSURE,
            Self::Disk => node::DISK_PRESSURE,
            Self::ProcessIds => node::PID_PRESSURE,
        }
    }

    /// As requests and messages name it.
    fn name(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::Disk => "ephemeral-storage",
            Self::ProcessIds => "pids",
        }
    }

    fn shown(self, amount: u64) -> String {
        match self {
            Self::ProcessIds => amount.to_string(),
            Self::Memory | Self::Disk => {
                quantity::bytes_text(i64::try_from(amount / 1024 * 1024).unwrap_or(i64::MAX), true)
            }
        }
    }
}

/// How much of something the node has left, and how much it should have. In bytes, or in process ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Level {
    pub(super) resource: Resource,
    pub(super) available: u64,
    pub(super) threshold: u64,
}

impl Level {
    pub(super) fn is_short(&self) -> bool {
        self.available < self.threshold
    }
}

/// A pod that could be ended, with what it takes: bytes, or processes.
#[derive(Debug)]
struct Candidate {
    pod: Arc<Value>,
    resource: Resource,
    /// By the name of each container; of those that run, but for what they have on the disk.
    used: Vec<(String, u64)>,
    /// What is the pod's, and no container's.
    shared: u64,
}

impl Candidate {
    fn excess(&self) -> i64 {
        let used = self.used.iter().map(|(_, used)| used).sum::<u64>().saturating_add(self.shared);
        i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(request_of(&self.pod, self.resource.name()) / 1000)
    }

    /// Less is ended sooner.
    fn turn(&self) -> (bool, i64, i64) {
        (self.excess() <= 0, integer(&self.pod, "/spec/priority"), -self.excess())
    }

    /// Why it is ended.
    fn message(&self, level: &Level) -> String {
        let (name, shown) = (self.resource.name(), |amount| self.resource.shown(amount));
        let mut message = format!(
            "The node was low on resource: {name}. Threshold quantity: {}, available: {}.",
            shown(level.threshold),
            shown(level.available)
        );
        // Nobody asks for process ids.
        let containers = match self.resource {
            Resource::ProcessIds => &[],
            Resource::Memory | Resource::Disk => pod::items(&self.pod["spec"], "containers"),
        };
        for container in containers {
            let request = match text(container, &format!("/resources/requests/{name}")) {
                "" => "0",
                request => request,
            };
            let container = text(container, "/name");
            let used = self.used.iter().find(|(used, _)| used == container).map_or(0, |(_, used)| *used);
            let wanted = quantity::whole(request).and_then(|wanted| u64::try_from(wanted).ok()).unwrap_or(0);
            if used > wanted {
                let used = shown(used);
                message += &format!(
                    " Container {container} was using {used}, request is {request}, has larger consumption of {name}."
                );
            }
        }
        message
    }
}

/// Has one pod end, if none is about to.
pub(super) async fn relieve(context: &Context, level: &Level) -> Result<(), ApiError> {
    let mut pods = context.objects.list(&pod::KIND, None).0;
    pods.retain(|pod| {
        let is_over = matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
        !is_over && text(pod, "/spec/nodeName") == &*context.node_name
    });
    if pods.iter().any(|pod| cause_by_node(pod).is_some()) {
        return Ok(());
    }
    let mut candidates = Vec::new();
    for pod in pods.into_iter().filter(|pod| may_end(pod)) {
        candidates.extend(candidate(context, level.resource, pod).await?);
    }
    let Some(first) = candidates.into_iter().min_by_key(Candidate::turn) else {
        tracing::debug!(?level, "the node is short, and there is no pod to end");
        return Ok(());
    };
    let (namespace, name) = (text(&first.pod, "/metadata/namespace"), text(&first.pod, "/metadata/name"));
    let message = first.message(level);
    tracing::info!(pod = name, namespace, message, "evict");
    let change = move |pod: &Value| {
        let mut status = pod["status"].clone();
        disrupt(&mut status, BY_NODE, &message);
        status
    };
    let uid = text(&first.pod, "/metadata/uid");
    match context.objects.change_status(&pod::KIND, namespace, name, uid, change).await {
        Ok(()) | Err(ApiError::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What is critical stays, and what somebody has ended already is not ended again.
fn may_end(pod: &Value) -> bool {
    let critical = integer(pod, "/spec/priority") >= priority_class::LEAST_CRITICAL;
    !critical && text(pod, "/metadata/deletionTimestamp").is_empty() && !is_disrupted(&pod["status"])
}

/// `None` where the pod takes nothing of it.
async fn candidate(context: &Context, resource: Resource, pod: Arc<Value>) -> Result<Option<Candidate>, ApiError> {
    let sandboxes = context.node.sandboxes_of(text(&pod, "/metadata/uid"));
    let containers = sandboxes.iter().flat_map(|sandbox| context.node.containers_of(&sandbox.id)).collect();
    let (used, shared) = match resource {
        Resource::Memory | Resource::ProcessIds => (figures_of(context, resource, containers).await?, 0),
        Resource::Disk => disk_of(context, &pod, containers).await?,
    };
    let takes = shared > 0 || used.iter().any(|(_, used)| *used > 0);
    Ok(takes.then_some(Candidate { pod, resource, used, shared }))
}

/// Bytes that each running container has and cannot give back at once, or its processes and threads.
async fn figures_of(
    context: &Context,
    resource: Resource,
    mut containers: Vec<ContainerStatus>,
) -> Result<Vec<(String, u64)>, ApiError> {
    let detail = if resource == Resource::Memory { Detail::Summary } else { Detail::All };
    containers.retain(|container| container.state == ContainerState::Running);
    let stats = context.node.container_stats(&containers, detail).await;
    let stats = stats.map_err(|error| ApiError::Internal(error.to_string()))?;
    let used = containers.into_iter().zip(stats).filter_map(|(container, stats)| {
        let figures = stats.figures?;
        let used = match resource {
            Resource::Memory => figures.memory.working_set?,
            Resource::Disk | Resource::ProcessIds => figures.threads,
        };
        Some((container.config.name, used))
    });
    Ok(used.collect())
}

/// Bytes on the disk: of each container what it has written and logged, those that have ended too, and the pod's volumes.
async fn disk_of(
    context: &Context,
    pod: &Value,
    containers: Vec<ContainerStatus>,
) -> Result<(Vec<(String, u64)>, u64), ApiError> {
    let field = |pointer| text(pod, pointer);
    let (namespace, name, uid) = (field("/metadata/namespace"), field("/metadata/name"), field("/metadata/uid"));
    let logs = pod_log_folder(&context.pod_logs, namespace, name, uid);
    let own = context.pod_volumes.join(uid);
    let mut folders: Vec<(String, Vec<PathBuf>)> = Vec::new();
    for container in containers {
        let written = context.node.images().written_folders(&container.id).into_iter().flatten();
        let name = container.config.name;
        match folders.iter_mut().find(|(other, _)| *other == name) {
            Some((_, all)) => all.extend(written),
            None => folders.push((name.clone(), written.chain([logs.join(&name)]).collect())),
        }
    }
    // Somebody's million files are counted where nobody else waits.
    let measured = tokio::task::spawn_blocking(move || {
        let sum = |folders: Vec<PathBuf>| folders.iter().map(|folder| bytes_in(folder)).sum();
        let used: Vec<(String, u64)> = folders.into_iter().map(|(name, folders)| (name, sum(folders))).collect();
        (used, bytes_in(&own))
    });
    measured.await.map_err(|error| ApiError::Internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i64, request: &str, used: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "main", "resources": {"requests": {"memory": request}}}]}});
        Candidate { pod: Arc::new(pod), resource: Resource::Memory, used: vec![("main".into(), used)], shared: 0 }
    }

    fn level(resource: Resource, threshold: u64, available: u64) -> Level {
        Level { resource, available, threshold }
    }

    #[test]
    fn excess_comes_before_priority_and_priority_before_its_amount() {
        let mut all = [
            candidate("modest", -5, "64Mi", 32 << 20),
            candidate("important", 10, "16Mi", 512 << 20),
            candidate("greedy", 0, "16Mi", 128 << 20),
            candidate("greedier", 0, "16Mi", 256 << 20),
            candidate("frugal", -5, "64Mi", 1 << 20),
        ];
        all.sort_by_key(Candidate::turn);
        let names: Vec<&str> = all.iter().map(|candidate| text(&candidate.pod, "/metadata/name")).collect();
        assert_eq!(names, ["greedier", "greedy", "important", "modest", "frugal"]);
    }

    #[test]
    fn who_is_ended_is_told_why() {
        let message =
            candidate("greedy", 0, "16Mi", 128 << 20).message(&level(Resource::Memory, 100 << 20, (50 << 20) + 7));
        assert_eq!(
            message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was using 128Mi, \
             request is 16Mi, has larger consumption of memory."
        );
        let modest = candidate("modest", 0, "1Gi", 1 << 20).message(&level(Resource::Memory, 100 << 20, 0));
        assert_eq!(modest, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 0.");
    }

    #[test]
    fn volumes_count_towards_the_pod_and_processes_are_asked_for_by_nobody() {
        let pod = json!({"spec": {"containers": [
            {"name": "main", "resources": {"requests": {"ephemeral-storage": "1Mi"}}}, {"name": "side"}]}});
        let used = || vec![("main".into(), 512 << 10), ("side".into(), 8 << 10)];
        let of = |resource, shared| Candidate { pod: Arc::new(pod.clone()), resource, used: used(), shared };
        assert_eq!(of(Resource::Disk, 0).turn(), (true, 0, 504 << 10));
        assert_eq!(of(Resource::Disk, 1 << 20).turn(), (false, 0, -(520 << 10)));
        assert_eq!(
            of(Resource::Disk, 1 << 20).message(&level(Resource::Disk, 5 << 30, 1 << 30)),
            "The node was low on resource: ephemeral-storage. Threshold quantity: 5Gi, available: 1Gi. Container side was using \
             8Ki, request is 0, has larger consumption of ephemeral-storage."
        );
        assert_eq!(
            of(Resource::ProcessIds, 0).message(&level(Resource::ProcessIds, 1638, 7)),
            "The node was low on resource: pids. Threshold quantity: 1638, available: 7."
        );
    }

    #[test]
    fn what_is_critical_stays() {
        let pod = |priority: i64| json!({"metadata": {}, "spec": {"priority": priority}});
        assert!(may_end(&pod(1_000_000_000)) && may_end(&json!({"metadata": {}, "spec": {}})));
        assert!(!may_end(&pod(2_000_000_000)) && !may_end(&pod(2_000_001_000)));
        assert!(!may_end(&json!({"metadata": {"deletionTimestamp": "now"}, "spec": {}})));
        let disrupted = json!({"conditions": [{"type": "DisruptionTarget", "reason": "PreemptionByScheduler"}]});
        assert!(!may_end(&json!({"metadata": {}, "spec": {}, "status": disrupted})));
    }
}
