//! Pods that were created while the node was cordoned or not one that they want, a claim of theirs was not ready, or others
//! had what they ask for or were not to be beside them: they get the node as soon as it takes them. For one that matters more,
//! pods that have the node end.

use std::sync::Arc;

use serde_json::{Value, json};

use super::changes::{Changes, differs};
use super::event::{EventType, Recorder};
use crate::api::deletion::DeleteOptions;
use crate::api::kinds::pod_disruption::disrupt;
use crate::api::kinds::{integer, namespace, node, persistent_volume_claim, pod, text};
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::Objects;
use crate::api::scheduling;
use crate::api::status::ApiError;

/// Looks at pods without a node, when another pod comes, goes or changes, the node does, a claim or a namespace.
pub async fn run(objects: Objects, recorder: Recorder) {
    let mut changes = Changes::new(objects.store());
    loop {
        scheduling::keep_up(&objects);
        let mut waiting = objects.list(&pod::KIND, None).0;
        waiting.retain(|pod| waits(pod));
        waiting.sort_by_cached_key(turn);
        for pod in &waiting {
            match schedule(&objects, &recorder, pod).await {
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(pod = text(pod, "/metadata/name"), %error, "schedule"),
            }
        }
        while changes.next().await.is_some_and(|changes| !changes.iter().any(matters)) {
            scheduling::keep_up(&objects);
        }
    }
}

/// What matters most goes first, and of that what came first.
fn turn(pod: &Arc<Value>) -> (i64, String) {
    (-integer(pod, "/spec/priority"), text(pod, "/metadata/creationTimestamp").to_owned())
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
            let differ = |before: &Arc<Value>| node::pressures(before) != node::pressures(&change.object);
            let relieved = change.previous.as_ref().is_some_and(differ);
            relieved || ["/metadata/labels", "/spec", "/status/allocatable"].iter().any(|part| differs(change, part))
        }
        _ => false,
    }
}

async fn schedule(objects: &Objects, recorder: &Recorder, pod: &Value) -> Result<(), ApiError> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let Some(message) = scheduling::obstacle(objects, pod) else {
        return objects.bind_waiting(namespace, name, text(pod, "/metadata/uid")).await;
    };
    let victims = scheduling::victims(objects, pod);
    let promised = victims.as_ref().map_or("", |_| objects.node_name());
    let conditions = pod::items(&pod["status"], "conditions");
    let is_said =
        conditions.iter().any(|condition| condition["reason"] == "Unschedulable" && condition["message"] == message);
    if !is_said || text(pod, "/status/nominatedNodeName") != promised {
        let mut status = json!({"phase": "Pending", "conditions": [scheduling::unschedulable(&message)]});
        if !promised.is_empty() {
            status["nominatedNodeName"] = promised.into();
        }
        objects.set_status(&pod::KIND, namespace, name, text(pod, "/metadata/uid"), status).await?;
    }
    // The promise comes first: who is made in the place of a victim does not take what it leaves.
    for victim in victims.into_iter().flatten() {
        end(objects, recorder, pod, &victim).await?;
    }
    Ok(())
}

/// Ends a pod, with all its grace, for one that matters more.
async fn end(objects: &Objects, recorder: &Recorder, preemptor: &Value, victim: &Value) -> Result<(), ApiError> {
    let (namespace, name) = (text(victim, "/metadata/namespace"), text(victim, "/metadata/name"));
    let uid = text(victim, "/metadata/uid");
    let change = |pod: &Value| {
        let mut status = pod["status"].clone();
        let message = "default-scheduler: preempting to accommodate a higher priority pod";
        disrupt(&mut status, "PreemptionByScheduler", message);
        status
    };
    let options = DeleteOptions { uid: Some(uid.to_owned()), ..DeleteOptions::default() };
    let ended = match objects.change_status(&pod::KIND, namespace, name, uid, change).await {
        Ok(()) => objects.delete_for(&pod::KIND, namespace, name, &options).await.map(drop),
        refused => refused,
    };
    match ended {
        // Somebody else has ended it.
        Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            let (by, node) = (text(preemptor, "/metadata/uid"), objects.node_name());
            let message = format!("Preempted by pod {by} on node {node}");
            recorder.tell(&pod::KIND, victim, EventType::Normal, "Preempted", message);
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_matters_most_has_its_turn_first() {
        let pod = |name: &str, priority: Value, created: &str| {
            let metadata = json!({"name": name, "creationTimestamp": created});
            Arc::new(json!({"metadata": metadata, "spec": {"priority": priority}}))
        };
        let mut pods = [
            pod("new", json!(0), "2026-01-01T00:00:02Z"),
            pod("old", Value::Null, "2026-01-01T00:00:01Z"),
            pod("low", json!(-1), "2026-01-01T00:00:00Z"),
            pod("high", json!(1), "2026-01-01T00:00:03Z"),
        ];
        pods.sort_by_cached_key(turn);
        let names: Vec<&str> = pods.iter().map(|pod| text(pod, "/metadata/name")).collect();
        assert_eq!(names, ["high", "old", "new", "low"]);
    }
}
