//! Which node a pod is for. There is one, so that is settled when the pod is created, unless the node is cordoned.

use serde_json::{Value, json};

use super::kinds::{node, pod, text};
use super::object_store::Key;
use super::objects::{Objects, api_error, now};
use super::status::ApiError;

/// Whether the pod has no node yet and this one takes it.
pub fn is_free(objects: &Objects, pod: &Value) -> bool {
    // A node that has no object yet, at the very first start, cannot be cordoned.
    let cordoned = objects.get(&node::KIND, "", objects.node_name()).is_ok_and(|node| node::is_cordoned(&node));
    text(pod, "/spec/nodeName").is_empty() && !cordoned
}

/// Gives the pod to this node.
pub fn bind(objects: &Objects, pod: &mut Value) {
    pod["spec"]["nodeName"] = objects.node_name().into();
}

impl Objects {
    /// Gives the pod with `uid`, which has waited, to this node.
    pub async fn bind_waiting(&self, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        let (objects, uid) = (self.clone(), uid.to_owned());
        let change = move |current: &mut Value| {
            if text(current, "/metadata/uid") == uid && text(current, "/spec/nodeName").is_empty() {
                bind(&objects, current);
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
pub fn unschedulable() -> Value {
    json!({
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable", "lastTransitionTime": now(),
        "message": "0/1 nodes are available: 1 node(s) were unschedulable.",
    })
}
