//! Pods that were created while the node was cordoned: they get it as soon as it takes pods again.

use serde_json::{Value, json};

use super::changes::Changes;
use crate::api::kinds::{node, pod, text};
use crate::api::object_store::Change;
use crate::api::objects::Objects;
use crate::api::scheduling;
use crate::api::status::ApiError;

/// Looks at pods without a node, when there is a new one or the node changes.
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
        resource if resource == pod::KIND.plural => waits(&change.object),
        // Its status changes often, and means nothing here.
        resource if resource == node::KIND.plural => {
            change.previous.as_ref().is_none_or(|previous| previous["spec"] != change.object["spec"])
        }
        _ => false,
    }
}

async fn schedule(objects: &Objects, pod: &Value) -> Result<(), ApiError> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    if scheduling::is_free(objects, pod) {
        return objects.bind_waiting(namespace, name, text(pod, "/metadata/uid")).await;
    }
    let conditions = pod::items(&pod["status"], "conditions");
    if conditions.iter().any(|condition| condition["reason"] == "Unschedulable") {
        return Ok(());
    }
    let status = json!({"phase": "Pending", "conditions": [scheduling::unschedulable()]});
    objects.set_status(&pod::KIND, namespace, name, text(pod, "/metadata/uid"), status).await
}
