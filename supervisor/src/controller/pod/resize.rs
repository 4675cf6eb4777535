//! Requests and limits that change while a pod runs: whether the node takes them, and how they come to its containers.
//!
//! ```text
//! spec ──▶ accepted (PodResizePending: Infeasible, Deferred while not) ──▶ control groups (PodResizeInProgress while not)
//! ```
//!
//! What is accepted is in the status, as is what runs: a daemon that comes later goes on from there.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use serde_json::{Value, json};

use super::desired;
use super::observed::{Role, declared};
use super::resource_field::Capacity;
use super::termination;
use super::worker::{Worker, is_outdated};
use crate::api::kinds::pod::items;
use crate::api::kinds::text;
use crate::api::quantity;
use crate::api::requests::request_of;
use crate::pod::qos::cpu_shares;
use crate::pod::spec::{PodLimits, Resources};
use crate::pod::stats::Detail;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxStatus};

/// What the status says of a resize: reason and message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Resize {
    /// The node does not take it, or not now.
    pub(super) pending: Option<(&'static str, String)>,
    /// It is taken, and not carried out everywhere; the reason is empty or `Error`.
    pub(super) in_progress: Option<(&'static str, String)>,
}

/// Has a pod keep the resources it has, where the node does not take those that it wants; says why not.
pub(super) fn accept(
    pod: &mut Pod,
    object: &Value,
    others: impl FnOnce() -> Vec<Arc<Value>>,
    node: Capacity,
) -> Option<(&'static str, String)> {
    if !changes(object) {
        return None;
    }
    let refusal = judge(object, &others(), node)?;
    let statuses = |list: &str| items(&object["status"], list).iter();
    let accepted: BTreeMap<&str, ResourceRequirements> = statuses("containerStatuses")
        .chain(statuses("initContainerStatuses"))
        .filter_map(|status| {
            let resources = serde_json::from_value(status.get("resources")?.clone()).ok()?;
            Some((text(status, "/name"), resources))
        })
        .collect();
    let spec = pod.spec.get_or_insert_default();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = accepted.get(container.name.as_str()) {
            container.resources = Some(resources.clone());
        }
    }
    Some(refusal)
}

/// Whether a container that has begun wants other resources than it has.
fn changes(object: &Value) -> bool {
    [("containers", "containerStatuses"), ("initContainers", "initContainerStatuses")].iter().any(|(list, statuses)| {
        items(&object["status"], statuses).iter().any(|status| {
            let named = items(&object["spec"], list).iter().find(|container| container["name"] == status["name"]);
            let has = status.get("resources").filter(|resources| !resources.is_null());
            named.zip(has).is_some_and(|(container, has)| amounts(&container["resources"]) != amounts(has))
        })
    })
}

fn amounts(resources: &Value) -> Vec<Option<i64>> {
    let amount = |kind: &str, name: &str| {
        let written = text(resources, &format!("/{kind}/{name}"));
        quantity::milli(if written.is_empty() { text(resources, &format!("/limits/{name}")) } else { written })
    };
    let of = |kind| ["cpu", "memory"].into_iter().map(move |name| amount(kind, name));
    of("limits").chain(of("requests")).collect()
}

/// Whether the node has what a pod asks for, beside the other pods.
fn judge(object: &Value, others: &[Arc<Value>], node: Capacity) -> Option<(&'static str, String)> {
    let is_over = |pod: &Value| matches!(text(pod, "/status/phase"), "Succeeded" | "Failed");
    let others =
        || others.iter().filter(|other| other["metadata"]["uid"] != object["metadata"]["uid"] && !is_over(other));
    for (name, capacity) in [("cpu", node.milli_cpus), ("memory", node.memory_bytes.saturating_mul(1000))] {
        let shown = |milli: i64| if name == "cpu" { milli } else { milli / 1000 };
        let wanted = request_of(object, name);
        if wanted > capacity {
            let (wanted, capacity) = (shown(wanted), shown(capacity));
            let message =
                format!("Node didn't have enough capacity: {name}, requested: {wanted}, capacity: {capacity}");
            return Some(("Infeasible", message));
        }
        let used: i64 = others().map(|other| request_of(other, name)).sum();
        if wanted.saturating_add(used) > capacity {
            let (wanted, used, capacity) = (shown(wanted), shown(used), shown(capacity));
            let message = format!(
                "Node didn't have enough resource: {name}, requested: {wanted}, used: {used}, capacity: {capacity}"
            );
            return Some(("Deferred", message));
        }
    }
    None
}

/// Limits of a pod as a whole: as much as its containers may have at any time, where each of them has a limit; and its
/// weight, by what they ask for.
pub(super) fn pod_limits(spec: &PodSpec) -> PodLimits {
    let sums = |of: fn(&Container) -> Option<i64>| {
        let (mut together, mut most) = (Some(0_i64), Some(0_i64));
        for (role, container) in declared(spec) {
            let own = of(container);
            let beside = together.zip(own).map(|(all, own)| all.saturating_add(own));
            match role {
                Role::Step => most = most.zip(beside).map(|(most, beside)| most.max(beside)),
                _ => together = beside,
            }
        }
        together.zip(most).map(|(together, most)| together.max(most)).filter(|sum| *sum > 0)
    };
    let quota = sums(|container| desired::resources(container).cpu_quota_us);
    let resources = Resources {
        memory_limit_bytes: sums(|container| desired::resources(container).memory_limit_bytes),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| desired::CPU_PERIOD_US),
        cpu_shares: cpu_shares(sums(|container| Some(desired::milli_cpus(container))).unwrap_or(0)),
        ..Resources::default()
    };
    PodLimits { resources, overhead: Resources::default() }
}

/// The greater of each limit, so that no container is in its pod's way while both change.
fn widest(one: &Resources, other: &Resources) -> Resources {
    Resources {
        memory_limit_bytes: one.memory_limit_bytes.max(other.memory_limit_bytes),
        cpu_quota_us: one.cpu_quota_us.max(other.cpu_quota_us),
        cpu_shares: one.cpu_shares.max(other.cpu_shares),
        ..other.clone()
    }
}

/// The limits that `wanted` changes of `has`.
fn change(has: &Resources, wanted: &Resources) -> Resources {
    let quota = wanted.cpu_quota_us.filter(|quota| Some(*quota) != has.cpu_quota_us);
    let memory = wanted.memory_limit_bytes.filter(|limit| Some(*limit) != has.memory_limit_bytes);
    Resources {
        memory_limit_bytes: memory,
        memory_swap_limit_bytes: memory.and(wanted.memory_swap_limit_bytes),
        cpu_shares: wanted.cpu_shares.filter(|shares| Some(*shares) != has.cpu_shares),
        cpu_quota_us: quota,
        cpu_period_us: quota.and(wanted.cpu_period_us),
        ..Resources::default()
    }
}

/// Whether a container that runs has what its pod says.
pub(super) fn is_carried_out(container: &Container, running: &ContainerStatus) -> bool {
    change(&running.config.resources, &desired::resources(container)) == Resources::default()
}

fn restarts(container: &Container, resource: &str) -> bool {
    let mut policies = container.resize_policy.iter().flatten();
    policies.any(|policy| policy.resource_name == resource && policy.restart_policy == "RestartContainer")
}

impl Worker {
    /// Has the control groups of a pod and of its containers be what is accepted.
    pub(super) async fn carry_out(&mut self, pod: &Pod, sandbox: &SandboxStatus) {
        let spec = pod.spec.clone().unwrap_or_default();
        let has = sandbox.config.limits.resources.clone();
        let wanted = pod_limits(&spec).resources;
        // A pod that an older daemon made has no limits of its own, and gets none.
        let is_limited = has != Resources::default();
        let mut outcome = Ok(());
        if is_limited {
            outcome = self.limit_pod(sandbox, &has, &widest(&has, &wanted)).await;
        }
        for (role, container) in declared(&spec) {
            let running = self.attempts(&container.name).pop().filter(|last| last.state == ContainerState::Running);
            let Some(running) = running.filter(|running| !self.stops.contains_key(&running.id)) else { continue };
            if role != Role::Step && is_outdated(container, &running) {
                self.restart(pod, (role, container), &running, "definition changed, will be restarted");
                continue;
            }
            outcome = outcome.and(self.resize_container(pod, (role, container), &running).await);
        }
        if is_limited && outcome.is_ok() {
            outcome = self.limit_pod(sandbox, &widest(&has, &wanted), &wanted).await;
        }
        self.resize.in_progress = outcome.err().map(|message| ("Error", message));
    }

    async fn limit_pod(&self, sandbox: &SandboxStatus, has: &Resources, wanted: &Resources) -> Result<(), String> {
        let change = change(has, wanted);
        if change == Resources::default() {
            return Ok(());
        }
        let limits = PodLimits { resources: change, overhead: Resources::default() };
        self.context.node.update_sandbox(&sandbox.id, limits).await.map_err(|error| error.to_string())
    }

    async fn resize_container(
        &mut self,
        pod: &Pod,
        (role, container): (Role, &Container),
        running: &ContainerStatus,
    ) -> Result<(), String> {
        let change = change(&running.config.resources, &desired::resources(container));
        if change == Resources::default() {
            return Ok(());
        }
        let cpu = change.cpu_shares.is_some() || change.cpu_quota_us.is_some();
        let memory = change.memory_limit_bytes.is_some();
        if (cpu && restarts(container, "cpu")) || (memory && restarts(container, "memory")) {
            self.restart(pod, (role, container), running, "resize requires restart");
            return Ok(());
        }
        if let Some(limit) = change.memory_limit_bytes {
            self.check_memory(running, limit)
                .await
                .map_err(|message| format!("container {}: {message}", container.name))?;
        }
        let updated = self.context.node.update_container(&running.id, change).await;
        updated.map_err(|error| format!("container {}: {error}", container.name))?;
        tracing::info!(pod = self.name, namespace = self.namespace, container = container.name, "resized");
        Ok(())
    }

    /// Ends a container, so that its next attempt is as the pod wants it.
    fn restart(&mut self, pod: &Pod, (role, container): (Role, &Container), running: &ContainerStatus, why: &str) {
        let message = format!("Container {} {why}", container.name);
        self.recorder.normal(&self.subject(role, container), "Killing", message);
        let grace = termination::grace(&pod.spec.clone().unwrap_or_default());
        self.end_one(self.ending(role, container, running, 0), grace);
    }

    /// A limit below what is in use would have the kernel kill the container at once.
    async fn check_memory(&self, running: &ContainerStatus, limit: i64) -> Result<(), String> {
        let stats = self.context.node.container_stats(std::slice::from_ref(running), Detail::Summary).await;
        let stats = stats.map_err(|error| error.to_string())?;
        let used = stats.first().and_then(|stats| stats.figures.as_ref()?.memory.working_set).unwrap_or(0);
        match i64::try_from(used).is_ok_and(|used| used <= limit) {
            true => Ok(()),
            false => Err(format!("memory limit {limit} is below the current usage, {used}")),
        }
    }

    /// By container, the resources that it runs with, as the status says them; those that are not there stay as they were.
    pub(super) fn resources_now(&self, spec: &PodSpec) -> BTreeMap<String, Value> {
        let now = declared(spec).filter_map(|(_, container)| {
            let wanted = container.resources.as_ref()?;
            let running = self.attempts(&container.name).pop().filter(|last| last.state == ContainerState::Running)?;
            is_carried_out(container, &running).then(|| (container.name.clone(), shown(wanted)))
        });
        now.collect()
    }
}

/// Without a request the limit is the request.
fn shown(wanted: &ResourceRequirements) -> Value {
    let limits = wanted.limits.clone().unwrap_or_default();
    let mut requests = limits.clone();
    requests.extend(wanted.requests.clone().unwrap_or_default());
    let mut shown = json!({});
    for (field, amounts) in [("limits", limits), ("requests", requests)] {
        if !amounts.is_empty() {
            shown[field] = json!(amounts);
        }
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Capacity = Capacity { milli_cpus: 4000, memory_bytes: 1 << 30, storage_bytes: 1 << 30 };

    fn object(uid: &str, cpu: &str, has: &str) -> Value {
        json!({
            "metadata": {"uid": uid},
            "spec": {"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]},
            "status": {"containerStatuses": [{"name": "c", "resources": {"requests": {"cpu": has}}}]},
        })
    }

    #[test]
    fn the_node_takes_what_it_has() {
        let node = NODE;
        let other = [Arc::new(object("b", "3", "3"))];
        assert_eq!(judge(&object("a", "1", "500m"), &other, node), None);
        assert!(matches!(judge(&object("a", "2", "500m"), &other, node), Some(("Deferred", _))));
        let refusal = judge(&object("a", "5", "500m"), &other, node);
        let message = "Node didn't have enough capacity: cpu, requested: 5000, capacity: 4000";
        assert_eq!(refusal, Some(("Infeasible", message.into())));
    }

    #[test]
    fn what_is_not_taken_leaves_the_pod_as_it_is() {
        let wanted = object("a", "99999", "500m");
        let mut pod: Pod = serde_json::from_value(wanted.clone()).unwrap();
        assert!(accept(&mut pod, &wanted, Vec::new, NODE).is_some());
        let requests = pod.spec.unwrap().containers[0].resources.clone().unwrap().requests.unwrap();
        assert_eq!(requests["cpu"].0, "500m");
        let same = object("a", "0.5", "500m");
        assert_eq!(accept(&mut serde_json::from_value(same.clone()).unwrap(), &same, Vec::new, NODE), None);
    }

    #[test]
    fn a_pod_has_a_limit_where_each_of_its_containers_has() {
        let spec = |containers: Value, init: Value| -> PodSpec {
            serde_json::from_value(json!({"containers": containers, "initContainers": init})).unwrap()
        };
        let limited = |name: &str, memory: &str| json!({"name": name, "resources": {"limits": {"memory": memory}}});
        let two = json!([limited("a", "1Ki"), limited("b", "2Ki")]);
        let memory = |spec: &PodSpec| pod_limits(spec).resources.memory_limit_bytes;
        assert_eq!(memory(&spec(two.clone(), json!([]))), Some(3072));
        assert_eq!(memory(&spec(two.clone(), json!([limited("i", "9Ki")]))), Some(9216));
        assert_eq!(memory(&spec(two.clone(), json!([{"name": "i"}]))), None);
        assert_eq!(memory(&spec(json!([limited("a", "1Ki"), {"name": "b"}]), json!([]))), None);
        let none = Resources { cpu_shares: cpu_shares(0), ..Resources::default() };
        assert_eq!(pod_limits(&spec(json!([{"name": "b"}]), json!([]))).resources, none);
    }

    #[test]
    fn a_pod_weighs_what_its_containers_ask_for() {
        let asking = |name: &str, cpu: &str| json!({"name": name, "resources": {"requests": {"cpu": cpu}}});
        let limited = json!({"name": "l", "resources": {"limits": {"cpu": "250m"}}});
        let of = |containers: Value, init: Value| {
            pod_limits(&serde_json::from_value(json!({"containers": containers, "initContainers": init})).unwrap())
                .resources
                .cpu_shares
        };
        assert_eq!(of(json!([asking("a", "250m"), limited, {"name": "b"}]), json!([])), Some(512));
        assert_eq!(of(json!([asking("a", "250m")]), json!([asking("i", "1")])), Some(1024));
    }
}
