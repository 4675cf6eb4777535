//! ReplicaSets: as many pods as asked for.

use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::changes;
use super::event::{EventType, Recorder};
use crate::api::kinds::{Kind, integer, pod, replica_set, text};
use crate::api::objects::{Objects, Propagation, is_owned_by, now, owner_reference};
use crate::api::scheduling::NODE_AFFINITY;
use crate::api::status::ApiError;

const REJECTED_BACK_OFF: SignedDuration = SignedDuration::from_secs(10);

/// Keeps every ReplicaSet at its count.
pub async fn run(objects: Objects, recorder: Recorder) {
    changes::run(objects, recorder, &replica_set::KIND, &pod::KIND, reconcile).await;
}

/// Gives back when the next pod may count as available, or be made.
async fn reconcile(
    objects: &Objects,
    recorder: &Recorder,
    namespace: &str,
    name: &str,
) -> Result<changes::Again, ApiError> {
    let set = match objects.get(&replica_set::KIND, namespace, name) {
        Ok(set) => set,
        Err(ApiError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut held = None;
    if text(&set, "/metadata/deletionTimestamp").is_empty() {
        let active = active_pods(objects, namespace, text(&set, "/metadata/uid"));
        let desired = usize::try_from(integer(&set, "/spec/replicas")).unwrap_or(0);
        let missing = desired.saturating_sub(active.len());
        let rejected = if missing > 0 { rejected_pods(objects, namespace, &set) } else { Vec::new() };
        held = held_for(&rejected, Timestamp::now());
        for _ in 0..if held.is_none() { missing } else { 0 } {
            let pod = pod_of(&replica_set::KIND, &set);
            let pod = create_pod(objects, recorder, &replica_set::KIND, &set, pod).await?;
            if is_rejected(&pod) {
                break;
            }
        }
        for earlier in rejected.iter().filter(|_| held.is_none()) {
            delete_pod(objects, recorder, &replica_set::KIND, &set, earlier).await?;
        }
        for surplus in surplus(active, desired) {
            delete_pod(objects, recorder, &replica_set::KIND, &set, &surplus).await?;
        }
    }
    let available = write_status(objects, namespace, name, &set).await?;
    Ok([held, available].into_iter().flatten().min())
}

/// Whether the node has turned the pod away that says it is for this node.
fn is_rejected(pod: &Value) -> bool {
    text(pod, "/status/phase") == "Failed" && text(pod, "/status/reason") == NODE_AFFINITY
}

fn rejected_pods(objects: &Objects, namespace: &str, set: &Value) -> Vec<Arc<Value>> {
    let (mut pods, _) = objects.list(&pod::KIND, Some(namespace));
    let is_leaving = |pod: &Value| !text(pod, "/metadata/deletionTimestamp").is_empty();
    pods.retain(|pod| is_rejected(pod) && is_owned_by(pod, text(set, "/metadata/uid")) && !is_leaving(pod));
    pods
}

/// How long no pod is made because one has just been turned away: the next would fare no better, and so on without end.
fn held_for(rejected: &[Arc<Value>], now: Timestamp) -> Option<Duration> {
    let made = rejected.iter().filter_map(|pod| text(pod, "/metadata/creationTimestamp").parse::<Timestamp>().ok());
    let left = REJECTED_BACK_OFF - now.duration_since(made.max()?);
    Duration::try_from(left).ok().filter(|left| !left.is_zero())
}

/// Makes a pod of `owner` and tells of it.
pub(super) async fn create_pod(
    objects: &Objects,
    recorder: &Recorder,
    kind: &Kind,
    owner: &Value,
    pod: Value,
) -> Result<Arc<Value>, ApiError> {
    match objects.create(&pod::KIND, text(owner, "/metadata/namespace"), pod).await {
        Ok(pod) => {
            let message = format!("Created pod: {}", text(&pod, "/metadata/name"));
            recorder.tell(kind, owner, EventType::Normal, "SuccessfulCreate", message);
            Ok(pod)
        }
        Err(error) => {
            recorder.tell(kind, owner, EventType::Warning, "FailedCreate", format!("Error creating: {error}"));
            Err(error)
        }
    }
}

/// Deletes a pod of `owner` and tells of it.
pub(super) async fn delete_pod(
    objects: &Objects,
    recorder: &Recorder,
    kind: &Kind,
    owner: &Value,
    pod: &Value,
) -> Result<(), ApiError> {
    let name = text(pod, "/metadata/name");
    let namespace = text(owner, "/metadata/namespace");
    match objects.delete(&pod::KIND, namespace, name, Propagation::Background, None).await {
        Err(ApiError::NotFound { .. }) => return Ok(()),
        other => drop(other?),
    }
    recorder.tell(kind, owner, EventType::Normal, "SuccessfulDelete", format!("Deleted pod: {name}"));
    Ok(())
}

/// Pods that count: neither on their way out nor finished.
fn active_pods(objects: &Objects, namespace: &str, uid: &str) -> Vec<Arc<Value>> {
    let (mut pods, _) = objects.list(&pod::KIND, Some(namespace));
    pods.retain(|pod| {
        is_owned_by(pod, uid)
            && text(pod, "/metadata/deletionTimestamp").is_empty()
            && !matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
    });
    pods
}

/// A pod after the template of its owner.
pub(super) fn pod_of(kind: &Kind, owner: &Value) -> Value {
    let template = owner.pointer("/spec/template").cloned().unwrap_or_default();
    let mut metadata = template.get("metadata").filter(|m| m.is_object()).cloned().unwrap_or_else(|| json!({}));
    metadata["generateName"] = format!("{}-", text(owner, "/metadata/name")).into();
    metadata["ownerReferences"] = json!([owner_reference(kind, owner)]);
    for field in ["name", "namespace", "creationTimestamp"] {
        metadata.as_object_mut().map(|metadata| metadata.remove(field));
    }
    json!({"metadata": metadata, "spec": template["spec"]})
}

/// The pods that go first when there are too many: those that serve least, then the newest.
fn surplus(mut pods: Vec<Arc<Value>>, desired: usize) -> Vec<Arc<Value>> {
    pods.sort_by_key(|pod| {
        let created = text(pod, "/metadata/creationTimestamp").to_owned();
        (is_ready(pod), text(pod, "/status/phase") == "Running", std::cmp::Reverse(created))
    });
    pods.truncate(pods.len().saturating_sub(desired));
    pods
}

/// Whether the pod's Ready condition is true.
pub(super) fn is_ready(pod: &Value) -> bool {
    pod::items(&pod["status"], "conditions").iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
}

/// How long a pod still has to be ready to count as available, nothing if it does; `None` for one that is not ready.
fn available_in(pod: &Value, min_ready_seconds: i64, now: Timestamp) -> Option<Duration> {
    let ready =
        pod::items(&pod["status"], "conditions").iter().find(|c| c["type"] == "Ready" && c["status"] == "True")?;
    let since: Timestamp = text(ready, "/lastTransitionTime").parse().unwrap_or(now);
    let left = SignedDuration::from_secs(min_ready_seconds) - now.duration_since(since);
    Some(Duration::try_from(left).unwrap_or(Duration::ZERO))
}

async fn write_status(
    objects: &Objects,
    namespace: &str,
    name: &str,
    set: &Value,
) -> Result<Option<Duration>, ApiError> {
    let active = active_pods(objects, namespace, text(set, "/metadata/uid"));
    let (min_ready, now) = (integer(set, "/spec/minReadySeconds"), Timestamp::now());
    let waits: Vec<Duration> = active.iter().filter_map(|pod| available_in(pod, min_ready, now)).collect();
    let available = waits.iter().filter(|wait| wait.is_zero()).count();
    let status = json!({
        "replicas": active.len(), "fullyLabeledReplicas": active.len(), "readyReplicas": waits.len(),
        "availableReplicas": available, "observedGeneration": integer(set, "/metadata/generation"),
    });
    match objects.set_status(&replica_set::KIND, namespace, name, text(set, "/metadata/uid"), status).await {
        Ok(()) | Err(ApiError::NotFound { .. }) => Ok(waits.into_iter().filter(|wait| !wait.is_zero()).min()),
        Err(error) => Err(error),
    }
}

/// A condition that keeps its transition time while its status stays.
pub(super) fn condition(old: &Value, condition_type: &str, status: bool, reason: &str, message: &str) -> Value {
    let status = if status { "True" } else { "False" };
    let earlier = pod::items(old, "conditions").iter().find(|c| c["type"] == condition_type && c["status"] == status);
    let since = earlier.map(|c| text(c, "/lastTransitionTime").to_owned()).unwrap_or_else(now);
    let mut condition = json!({"type": condition_type, "status": status, "lastTransitionTime": since});
    if !reason.is_empty() {
        condition["reason"] = reason.into();
    }
    if !message.is_empty() {
        condition["message"] = message.into();
    }
    condition
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_that_serve_least_go_first() {
        let pod = |name: &str, ready: bool, created: &str| {
            let status = if ready { "True" } else { "False" };
            Arc::new(json!({
                "metadata": {"name": name, "creationTimestamp": created},
                "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]},
            }))
        };
        let pods =
            vec![pod("old", true, "2026-01-01"), pod("new", true, "2026-01-02"), pod("sick", false, "2026-01-01")];
        let names: Vec<String> = surplus(pods, 1).iter().map(|p| text(p, "/metadata/name").to_owned()).collect();
        assert_eq!(names, ["sick", "new"]);
    }

    #[test]
    fn a_pod_is_available_once_it_has_been_ready_for_long_enough() {
        let pod = |status: &str| {
            json!({"status": {"conditions": [
                {"type": "Ready", "status": status, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}})
        };
        let now: Timestamp = "2026-01-01T00:00:04Z".parse().unwrap();
        assert_eq!(available_in(&pod("False"), 0, now), None);
        assert_eq!(available_in(&pod("True"), 0, now), Some(Duration::ZERO));
        assert_eq!(available_in(&pod("True"), 4, now), Some(Duration::ZERO));
        assert_eq!(available_in(&pod("True"), 10, now), Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_pod_that_was_turned_away_has_its_successor_later() {
        let rejected = |created: &str| {
            let status = json!({"phase": "Failed", "reason": NODE_AFFINITY});
            Arc::new(json!({"metadata": {"creationTimestamp": created}, "status": status}))
        };
        let now: Timestamp = "2026-01-01T00:00:14Z".parse().unwrap();
        assert_eq!(held_for(&[], now), None);
        assert_eq!(held_for(&[rejected("2026-01-01T00:00:04Z")], now), None);
        let two = [rejected("2026-01-01T00:00:10Z"), rejected("2026-01-01T00:00:00Z")];
        assert!(two.iter().all(|pod| is_rejected(pod)));
        assert_eq!(held_for(&two, now), Some(Duration::from_secs(6)));
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_stays() {
        let old = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "then"}]});
        assert_eq!(condition(&old, "Ready", true, "", "")["lastTransitionTime"], "then");
        assert_ne!(condition(&old, "Ready", false, "", "")["lastTransitionTime"], "then");
    }
}
