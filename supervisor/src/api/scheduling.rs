//! Which node a pod is for. There is one, so that is settled when the pod is created, unless the node is cordoned or not
//! one that the pod wants, a claim of the pod is not ready, it asks for more than the other pods leave, or it and they do not
//! want to be beside each other.

mod claims;
mod neighbours;
mod occupants;
mod preemption;
mod room;

use std::sync::Arc;

use serde_json::{Value, json};

use super::kinds::pod_tolerations::{tolerates_cordon, untolerated};
use super::kinds::{namespace, node, node_affinity, pod, text};
use super::object_store::Key;
use super::objects::{Objects, api_error, now};
use super::status::ApiError;
pub use claims::exclusive_user;
use occupants::{Occupants, priority};
pub use preemption::victims;

pub(super) use occupants::Ledger;

/// Why the node does not take a pod; `None` where it does.
pub fn obstacle(objects: &Objects, pod: &Value) -> Option<String> {
    let node = node_view(objects);
    let reason = own_obstacle(objects, pod, &node).or_else(|| {
        let (present, nominated) = objects.ledger().occupants(objects.store(), objects.node_name());
        let mut promised = before(pod, &nominated).peekable();
        if promised.peek().is_none() {
            return obstacle_beside(objects, pod, &node, &present);
        }
        let mut all = Occupants::clone(&present);
        promised.for_each(|other| all.add(other));
        // Those that were promised the node may be what the pod wants to be beside, and may not come.
        obstacle_beside(objects, pod, &node, &all).or_else(|| obstacle_beside(objects, pod, &node, &present))
    });
    reason.map(|reason| format!("0/1 nodes are available: {reason}."))
}

/// Those that wait and were promised the node, and that matter as much as the pod.
fn before(pod: &Value, nominated: &Occupants) -> impl Iterator<Item = Arc<Value>> {
    let matters = |other: &&Arc<Value>| {
        priority(other) >= priority(pod) && text(other, "/metadata/uid") != text(pod, "/metadata/uid")
    };
    nominated.pods().filter(matters).cloned()
}

/// Takes notice of the changes that there were. Otherwise who has the node is looked at with the next pod only, and all that
/// pods were until then is kept.
pub fn keep_up(objects: &Objects) {
    objects.ledger().occupants(objects.store(), objects.node_name());
}

/// What is in the way whoever else has the node.
fn own_obstacle(objects: &Objects, pod: &Value, node: &Value) -> Option<String> {
    if node::is_cordoned(node) && !tolerates_cordon(pod) {
        return Some("1 node(s) were unschedulable".to_owned());
    }
    if let Some(taint) = node::pressures(node).into_iter().find_map(|pressure| untolerated(pod, pressure)) {
        return Some(format!("1 node(s) had untolerated taint {{{taint}: }}"));
    }
    if !node_affinity::fits(&pod["spec"], node) {
        return Some(format!("1 {NOT_WANTED}"));
    }
    claims::obstacle(objects, pod, node)
}

/// What others that have the node leave too little of, or have against the pod.
fn obstacle_beside(objects: &Objects, pod: &Value, node: &Value, others: &Occupants) -> Option<String> {
    let labels_of = |name: &str| {
        let namespace = objects.get(&namespace::KIND, "", name);
        namespace.map(|namespace| namespace["metadata"]["labels"].clone()).unwrap_or_default()
    };
    room::shortage(node, pod, others)
        .or_else(|| neighbours::obstacle(pod, node, others, &labels_of).map(|reason| format!("1 {reason}")))
}

/// Of a pod whose selector or affinity the node does not meet.
const NOT_WANTED: &str = "node(s) didn't match Pod's node affinity/selector";

/// The node as pods select it, also before it has an object.
pub fn node_view(objects: &Objects) -> Arc<Value> {
    let node = objects.get(&node::KIND, "", objects.node_name());
    node.unwrap_or_else(|_| Arc::new(node::new(objects.node_name())))
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
    if let Some(status) = pod.get_mut("status").and_then(Value::as_object_mut) {
        status.remove("nominatedNodeName");
    }
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
