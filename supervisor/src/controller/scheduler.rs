//! Pods that were created while the node was cordoned or not one that they want, a claim of theirs was not ready, or others
//! had what they ask for or were not to be beside them: they get the node as soon as it takes them.

use serde_json::{Value, json};

use super::changes::{Changes, differs};
use crate::api::kinds::{namespace, node, persistent_volume_claim, pod, text};
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::Objects;
use crate::api::scheduling;
use crate::api::status::ApiError;

/// Looks at pods without a node, when another pod comes, goes or changes, the node does, a claim or a namespace.
pub async fn run(objects: Objects) {
    let mut changes = Changes::new(objects.store());
    loop {
        for pod in objects.list(&pod::KIND, None).0.iter().filter(|pod| waits(pod)) {
            match schedule(&objects, pod).await {
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(pod = text(pod, "/metadata/name"), %error, "schedule"),
            }
        }
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {}
    }
}

fn waits(pod: &Value) -> bool {
    text(pod, "/spec/nodeName").is_empty() && text(pod, "/metadata/deletionTimestamp").is_empty()
}

fn matters(change: &Change) -> bool {
    match change.key.resource.as_str() {
        resource if resource == pod::KIND.plural => {
            // One that ends leaves what it had; so does one that asks for less. Others may want to be beside a new one, or one
            // of other labels, and those that are leaving count less.
            let ends = matches!(text(&change.object, "/status/phase"), "Succeeded" | "Failed");
            let parts = ["/spec", "/metadata/labels", "/metadata/deletionTimestamp", "/status/nominatedNodeName"];
            ends || change.change_type == ChangeType::Deleted || parts.iter().any(|part| differs(change, part))
        }
        resource if resource == persistent_volume_claim::KIND.plural => true,
        resource if resource == namespace::KIND.plural => differs(change, "/metadata/labels"),
        // The rest of its status changes often, and means nothing here.
        resource if resource == node::KIND.plural => {
            ["/metadata/labels", "/spec", "/status/allocatable"].iter().any(|part| differs(change, part))
        }
        _ => false,
    }
}

async fn schedule(objects: &Objects, pod: &Value) -> Result<(), ApiError> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let Some(message) = scheduling::obstacle(objects, pod) else {
        return objects.bind_waiting(namespace, name, text(pod, "/metadata/uid")).await;
    };
    let conditions = pod::items(&pod["status"], "conditions");
    if conditions.iter().any(|condition| condition["reason"] == "Unschedulable" && condition["message"] == message) {
        return Ok(());
    }
    let status = json!({"phase": "Pending", "conditions": [scheduling::unschedulable(&message)]});
    objects.set_status(&pod::KIND, namespace, name, text(pod, "/metadata/uid"), status).await
}
