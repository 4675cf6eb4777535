//! Pods that end because the node runs out of memory: one after the other, first those that take more than they asked for,
//! then those that matter least, as a kubelet has it.

use std::sync::Arc;

use serde_json::Value;

use super::Context;
use crate::api::kinds::pod_disruption::{BY_NODE, cause_by_node, disrupt, is_disrupted};
use crate::api::kinds::{integer, pod, priority_class, text};
use crate::api::quantity;
use crate::api::requests::request_of;
use crate::api::status::ApiError;
use crate::pod::stats::Detail;
use crate::pod::status::ContainerState;

/// A pod that could be ended, with what its containers use. Sizes in bytes.
#[derive(Debug)]
struct Candidate {
    pod: Arc<Value>,
    /// By the name of each container that runs.
    used: Vec<(String, u64)>,
}

impl Candidate {
    fn excess(&self) -> i64 {
        let used = self.used.iter().map(|(_, bytes)| bytes).sum::<u64>();
        i64::try_from(used).unwrap_or(i64::MAX).saturating_sub(request_of(&self.pod, "memory") / 1000)
    }

    /// Less is ended sooner.
    fn turn(&self) -> (bool, i64, i64) {
        (self.excess() <= 0, integer(&self.pod, "/spec/priority"), -self.excess())
    }

    /// Why it is ended.
    fn message(&self, threshold: u64, available: u64) -> String {
        let size = |bytes: u64| quantity::bytes_text(i64::try_from(bytes).unwrap_or(i64::MAX), true);
        let mut message = format!(
            "The node was low on resource: memory. Threshold quantity: {}, available: {}.",
            size(threshold),
            size(available / 1024 * 1024)
        );
        for container in pod::items(&self.pod["spec"], "containers") {
            let name = text(container, "/name");
            let request = match text(container, "/resources/requests/memory") {
                "" => "0",
                request => request,
            };
            let used = self.used.iter().find(|(used, _)| used == name).map_or(0, |(_, bytes)| *bytes);
            let wanted = quantity::whole(request).and_then(|wanted| u64::try_from(wanted).ok()).unwrap_or(0);
            if used > wanted {
                let used = size(used / 1024 * 1024);
                message += &format!(
                    " Container {name} was using {used}, request is {request}, has larger consumption of memory."
                );
            }
        }
        message
    }
}

/// Has one pod end, if none is about to; `threshold` and what is `available` in bytes.
pub(super) async fn relieve(context: &Context, threshold: u64, available: u64) -> Result<(), ApiError> {
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
        let used = memory_of(context, text(&pod, "/metadata/uid")).await?;
        if !used.is_empty() {
            candidates.push(Candidate { pod, used });
        }
    }
    let Some(first) = candidates.into_iter().min_by_key(Candidate::turn) else {
        tracing::debug!(available, threshold, "the node is short of memory, and there is no pod to end");
        return Ok(());
    };
    let (namespace, name) = (text(&first.pod, "/metadata/namespace"), text(&first.pod, "/metadata/name"));
    let message = first.message(threshold, available);
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

/// Bytes that each running container of a pod uses and cannot give back at once.
async fn memory_of(context: &Context, uid: &str) -> Result<Vec<(String, u64)>, ApiError> {
    let mut used = Vec::new();
    for sandbox in context.node.sandboxes_of(uid) {
        let mut containers = context.node.containers_of(&sandbox.id);
        containers.retain(|container| container.state == ContainerState::Running);
        let stats = context.node.container_stats(&containers, Detail::Summary).await;
        let stats = stats.map_err(|error| ApiError::Internal(error.to_string()))?;
        for (container, stats) in containers.iter().zip(stats) {
            let bytes = stats.figures.and_then(|figures| figures.memory.working_set);
            used.extend(bytes.map(|bytes| (container.config.name.clone(), bytes)));
        }
    }
    Ok(used)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn candidate(name: &str, priority: i64, request: &str, used: u64) -> Candidate {
        let pod = json!({"metadata": {"name": name}, "spec": {"priority": priority, "containers": [
            {"name": "main", "resources": {"requests": {"memory": request}}}]}});
        Candidate { pod: Arc::new(pod), used: vec![("main".into(), used)] }
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
        let message = candidate("greedy", 0, "16Mi", 128 << 20).message(100 << 20, (50 << 20) + 7);
        assert_eq!(
            message,
            "The node was low on resource: memory. Threshold quantity: 100Mi, available: 50Mi. Container main was using 128Mi, \
             request is 16Mi, has larger consumption of memory."
        );
        let modest = candidate("modest", 0, "1Gi", 1 << 20).message(100 << 20, 0);
        assert_eq!(modest, "The node was low on resource: memory. Threshold quantity: 100Mi, available: 0.");
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
