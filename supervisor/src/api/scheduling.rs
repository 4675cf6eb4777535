//! Which node a pod is for. There is one, so that is settled when the pod is created, unless the node is cordoned or not
//! one that the pod wants, a claim of the pod is not ready, or it asks for more than the other pods leave.

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::pod_tolerations::tolerates_cordon;
use super::kinds::volume_fields::{ONE_POD, pod_claims, uses_claim};
use super::kinds::{node, node_affinity, persistent_volume, persistent_volume_claim, pod, storage_class, text};
use super::object_store::Key;
use super::objects::{Objects, api_error, is_owned_by, now};
use super::quantity;
use super::requests::request_of;
use super::status::ApiError;

/// Why the node does not take a pod; `None` where it does.
pub fn obstacle(objects: &Objects, pod: &Value) -> Option<String> {
    // A node that has no object yet, at the very first start, cannot be cordoned.
    let node = objects.get(&node::KIND, "", objects.node_name()).ok();
    let cordoned = node.as_deref().is_some_and(node::is_cordoned) && !tolerates_cordon(pod);
    let reason = match cordoned {
        true => Some("1 node(s) were unschedulable".to_owned()),
        false if !node_affinity::fits(&pod["spec"], &node_view(objects)) => Some(format!("1 {NOT_WANTED}")),
        false => claims_obstacle(objects, pod, node.as_deref())
            .or_else(|| shortage(node.as_deref()?, pod, &objects.list(&pod::KIND, None).0)),
    };
    reason.map(|reason| format!("0/1 nodes are available: {reason}."))
}

/// Of a pod whose selector or affinity the node does not meet.
const NOT_WANTED: &str = "node(s) didn't match Pod's node affinity/selector";

/// The node as pods select it, also before it has an object.
pub fn node_view(objects: &Objects) -> Arc<Value> {
    let node = objects.get(&node::KIND, "", objects.node_name());
    node.unwrap_or_else(|_| Arc::new(node::new(objects.node_name())))
}

/// Resources that pods ask for and a node has, in the order in which a shortage is told.
const COUNTED: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// What the node has too little of, beside the pods that have it already.
fn shortage(node: &Value, pod: &Value, pods: &[Arc<Value>]) -> Option<String> {
    let has_room = |other: &&Arc<Value>| {
        let is_over = matches!(text(other, "/status/phase"), "Succeeded" | "Failed");
        let is_other = text(other, "/metadata/uid") != text(pod, "/metadata/uid");
        is_other && !is_over && text(other, "/spec/nodeName") == text(node, "/metadata/name")
    };
    let is_short = |resource: &&str| {
        let wanted = request_of(pod, resource);
        // A node that has not said yet what it has is not short of it.
        let all = quantity::milli(text(node, &format!("/status/allocatable/{resource}"))).unwrap_or(i64::MAX);
        let used = || pods.iter().filter(has_room).map(|other| request_of(other, resource));
        wanted > 0 && wanted.saturating_add(used().fold(0, i64::saturating_add)) > all
    };
    let short: Vec<String> =
        COUNTED.iter().copied().filter(is_short).map(|resource| format!("1 Insufficient {resource}")).collect();
    (!short.is_empty()).then(|| short.join(", "))
}

/// What the pod's claims have against it.
fn claims_obstacle(objects: &Objects, pod: &Value, node: Option<&Value>) -> Option<String> {
    let namespace = text(pod, "/metadata/namespace");
    let mut unbound = false;
    for used in pod_claims(pod) {
        let name = &used.claim;
        let claim = match objects.get(&persistent_volume_claim::KIND, namespace, name) {
            Ok(claim) => claim,
            Err(_) if used.ephemeral => {
                let message = "waiting for ephemeral volume controller to create the persistentvolumeclaim";
                return Some(format!("{message} {name:?}"));
            }
            Err(_) => return Some(format!("persistentvolumeclaim {name:?} not found")),
        };
        if used.ephemeral && !is_owned_by(&claim, text(pod, "/metadata/uid")) {
            let shown = format!("{namespace}/{}", text(pod, "/metadata/name"));
            return Some(format!("PVC {namespace}/{name} was not created for pod {shown} (pod is not owner)"));
        }
        if !text(&claim, "/metadata/deletionTimestamp").is_empty() {
            return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let volume = text(&claim, "/spec/volumeName");
        if text(&claim, "/status/phase") == "Lost" {
            return Some(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
        }
        if text(&claim, "/status/phase") != "Bound" {
            let class = objects.get(&storage_class::KIND, "", text(&claim, "/spec/storageClassName"));
            unbound |= !class.is_ok_and(|class| storage_class::waits_for_consumer(&class));
        } else if let (Ok(volume), Some(node)) = (objects.get(&persistent_volume::KIND, "", volume), node)
            && !persistent_volume::is_reachable_from(&volume, node)
        {
            return Some("1 node(s) had volume node affinity conflict".into());
        }
        if exclusive_user(objects, &claim, pod).is_some() {
            let message =
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Some(format!("1 {message}"));
        }
    }
    unbound.then(|| "pod has unbound immediate PersistentVolumeClaims".into())
}

/// The pod that another one has to wait for, where the claim is for one pod alone: of two that have the node, the one
/// that came first.
pub fn exclusive_user(objects: &Objects, claim: &Value, pod: &Value) -> Option<String> {
    if !pod::items(&claim["spec"], "accessModes").iter().any(|mode| mode == ONE_POD) {
        return None;
    }
    let age = |pod: &Value| [text(pod, "/metadata/creationTimestamp"), text(pod, "/metadata/uid")].map(str::to_owned);
    let waits = text(pod, "/spec/nodeName").is_empty();
    let uses = |other: &Value| {
        let is_over = matches!(text(other, "/status/phase"), "Succeeded" | "Failed");
        let is_other = text(other, "/metadata/uid") != text(pod, "/metadata/uid");
        let has_node = !text(other, "/spec/nodeName").is_empty();
        let goes_first = waits || age(other) < age(pod);
        is_other && has_node && !is_over && goes_first && uses_claim(other, text(claim, "/metadata/name"))
    };
    let (pods, _) = objects.list(&pod::KIND, Some(text(claim, "/metadata/namespace")));
    pods.iter().find(|other| uses(other)).map(|other| text(other, "/metadata/name").to_owned())
}

/// Gives a new pod to this node, if it takes it. One that says itself that it is for this node fails if it does not want
/// what the node is, as a kubelet has it.
pub(super) fn place(objects: &Objects, pod: &mut Value) {
    let given = text(pod, "/spec/nodeName");
    if given.is_empty() {
        bind_if_taken(objects, pod);
    } else if given == objects.node_name() && !node_affinity::fits(&pod["spec"], &node_view(objects)) {
        let message = format!("Pod was rejected: Predicate {NODE_AFFINITY} failed: {NOT_WANTED}");
        pod["status"] = json!({"phase": "Failed", "reason": NODE_AFFINITY, "message": message, "startTime": now()});
    }
}

/// `status.reason` of a pod that was given to a node which it does not want.
pub const NODE_AFFINITY: &str = "NodeAffinity";

fn bind_if_taken(objects: &Objects, pod: &mut Value) {
    if text(pod, "/spec/nodeName").is_empty() && obstacle(objects, pod).is_none() {
        bind(objects, pod);
    }
}

/// Gives the pod to this node.
fn bind(objects: &Objects, pod: &mut Value) {
    pod["spec"]["nodeName"] = objects.node_name().into();
}

impl Objects {
    /// Gives the pod with `uid`, which has waited, to this node.
    pub async fn bind_waiting(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        let (objects, uid) = (self.clone(), uid.to_owned());
        let change = move |current: &mut Value| {
            // Others may have come meanwhile and taken what there was.
            if text(current, "/metadata/uid") == uid {
                bind_if_taken(&objects, current);
            }
            Ok::<(), ApiError>(())
        };
        let bound = self.store.update(Key::new(&pod::KIND.resource(), namespace, name), change).await;
        bound.map_err(|error| api_error(&pod::KIND, name, error))?.map(drop)
    }

    /// Takes over the pods of the node as which this one was known before its host was renamed. A pod that somebody has
    /// given to a node that never was here stays where it is.
    pub async fn take_over(&self) -> Result<(), ApiError> {
        for former in self.list(&node::KIND, None).0.iter() {
            let former_name = text(former, "/metadata/name").to_owned();
            if former_name == self.node_name() {
                continue;
            }
            for pod in self.list(&pod::KIND, None).0.iter().filter(|pod| text(pod, "/spec/nodeName") == former_name) {
                let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
                let objects = self.clone();
                let change = move |current: &mut Value| {
                    bind(&objects, current);
                    Ok::<(), ApiError>(())
                };
                let bound = self.store.update(Key::new(&pod::KIND.resource(), namespace, name), change).await;
                bound.map_err(|error| api_error(&pod::KIND, name, error))??;
            }
            self.remove(&node::KIND, "", &former_name, text(former, "/metadata/uid")).await?;
        }
        Ok(())
    }
}

/// The condition of a pod that waits for a node which takes it.
pub fn unschedulable(message: &str) -> Value {
    json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": now(),
        "message": message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_that_has_too_little_says_of_what() {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable":
            {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "1Gi"}}});
        let pod = |uid: &str, node: &str, phase: &str, requests: Value| {
            Arc::new(json!({"metadata": {"uid": uid}, "status": {"phase": phase},
                "spec": {"nodeName": node, "containers": [{"resources": {"requests": requests}}]}}))
        };
        let half = || json!({"cpu": "500m", "memory": "32Mi", "ephemeral-storage": "512Mi"});
        let more = json!({"cpu": "501m", "memory": "33Mi", "ephemeral-storage": "513Mi"});
        let there = [
            pod("a", "n", "Running", half()),
            pod("b", "n", "Succeeded", half()),
            pod("c", "", "Pending", half()),
            pod("d", "other", "Running", half()),
        ];
        assert_eq!(shortage(&node, &pod("e", "", "Pending", half()), &there), None);
        let all = "1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory";
        assert_eq!(shortage(&node, &pod("e", "", "Pending", more.clone()), &there).as_deref(), Some(all));
        assert_eq!(shortage(&node, &pod("a", "n", "Running", more.clone()), &there), None, "it has that itself");
        let asks_nothing = pod("e", "", "Pending", json!({}));
        let full = [pod("a", "n", "Running", json!({"cpu": "9"}))];
        assert_eq!(shortage(&node, &asks_nothing, &full), None);
        assert_eq!(shortage(&json!({"metadata": {"name": "n"}}), &pod("e", "", "Pending", more), &there), None);
    }
}
