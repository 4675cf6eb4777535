//! What happened to a pod, by the difference between its object before and after.

use serde_json::Value;

use super::{EventType, Recorder};
use crate::api::kinds::pod::{self, items};
use crate::api::kinds::text;
use crate::api::scheduling::NODE_AFFINITY;

pub(super) const RESOURCE: &str = "pods";

/// One thing that happened: to which part of the pod, and what.
type Happened = (String, EventType, &'static str, String);

/// Tells what a change means.
pub(super) fn tell(recorder: &Recorder, before: Option<&Value>, after: &Value) {
    for (part, event_type, reason, message) in happened(before.unwrap_or(&Value::Null), after) {
        recorder.tell_of_part(&pod::KIND, after, &part, event_type, reason, message);
    }
}

fn happened(before: &Value, after: &Value) -> Vec<Happened> {
    let mut events = Vec::new();
    let whole = |event_type, reason, message| (String::new(), event_type, reason, message);
    let (namespace, name) = (text(after, "/metadata/namespace"), text(after, "/metadata/name"));
    let node = text(after, "/spec/nodeName");
    if !node.is_empty() && text(before, "/spec/nodeName").is_empty() {
        let message = format!("Successfully assigned {namespace}/{name} to {node}");
        events.push(whole(EventType::Normal, "Scheduled", message));
    }
    let is_new = |pointer: &str| text(before, pointer) != text(after, pointer) && !text(after, pointer).is_empty();
    if let Some(message) = newly_unschedulable(before, after) {
        events.push(whole(EventType::Warning, "FailedScheduling", message));
    }
    if is_new("/status/phase") && text(after, "/status/phase") == "Failed" && is_new("/status/reason") {
        let message = text(after, "/status/message").to_owned();
        let reason = match text(after, "/status/reason") {
            "DeadlineExceeded" => "DeadlineExceeded",
            "Evicted" => "Evicted",
            NODE_AFFINITY => NODE_AFFINITY,
            _ => "Failed",
        };
        events.push(whole(EventType::Warning, reason, message));
    }
    let stops = is_new("/metadata/deletionTimestamp") && text(before, "/metadata/deletionTimestamp").is_empty();
    let lists = [("initContainers", "initContainerStatuses"), ("containers", "containerStatuses")];
    for (list, statuses) in lists {
        for status in items(&after["status"], statuses) {
            let container = text(status, "/name");
            let earlier = items(&before["status"], statuses).iter().find(|earlier| earlier["name"] == container);
            let part = format!("spec.{list}{{{container}}}");
            let pod = format!("{name}_{namespace}({})", text(after, "/metadata/uid"));
            for (event_type, reason, message) in of_container(earlier.unwrap_or(&Value::Null), status, &pod) {
                events.push((part.clone(), event_type, reason, message));
            }
            if stops && status["state"].get("running").is_some() {
                events.push((part, EventType::Normal, "Killing", format!("Stopping container {container}")));
            }
        }
    }
    events
}

fn newly_unschedulable(before: &Value, after: &Value) -> Option<String> {
    let waits = |pod: &Value| {
        let mut conditions = items(&pod["status"], "conditions").iter();
        let found = conditions.find(|c| c["type"] == "PodScheduled" && c["reason"] == "Unschedulable");
        found.map(|condition| text(condition, "/message").to_owned())
    };
    waits(after).filter(|message| waits(before).as_ref() != Some(message))
}

fn of_container(before: &Value, after: &Value, pod: &str) -> Vec<(EventType, &'static str, String)> {
    let name = text(after, "/name");
    let mut events = Vec::new();
    let id = text(after, "/containerID");
    let has_run = after["state"].get("running").is_some() || after["state"].get("terminated").is_some();
    if !id.is_empty() && has_run && id != text(before, "/containerID") {
        events.push((EventType::Normal, "Created", format!("Created container: {name}")));
        events.push((EventType::Normal, "Started", format!("Started container {name}")));
    }
    let reason = text(after, "/state/waiting/reason");
    let message = text(after, "/state/waiting/message");
    let is_same = reason == text(before, "/state/waiting/reason") && message == text(before, "/state/waiting/message");
    if is_same {
        return events;
    }
    let image = text(after, "/image");
    match reason {
        "" | "ContainerCreating" | "PodInitializing" => {}
        "CrashLoopBackOff" => {
            let message = format!("Back-off restarting failed container {name} in pod {pod}");
            events.push((EventType::Warning, "BackOff", message));
        }
        "ErrImagePull" => {
            events.push((EventType::Warning, "Failed", format!("Failed to pull image {image:?}: {message}")));
            events.push((EventType::Warning, "Failed", "Error: ErrImagePull".into()));
        }
        "ErrImageNeverPull" => {
            events.push((EventType::Warning, "ErrImageNeverPull", message.to_owned()));
            events.push((EventType::Warning, "Failed", "Error: ErrImageNeverPull".into()));
        }
        "ImagePullBackOff" => {
            events.push((EventType::Normal, "BackOff", format!("Back-off pulling image {image:?}: {message}")));
        }
        "CreatePodSandboxError" => {
            let message = format!("Failed to create pod sandbox: {message}");
            events.push((EventType::Warning, "FailedCreatePodSandBox", message));
        }
        _ => events.push((EventType::Warning, "Failed", format!("Error: {message}"))),
    }
    events
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn reasons(before: &Value, after: &Value) -> Vec<String> {
        let events = happened(before, after);
        events.iter().map(|(part, event_type, reason, _)| format!("{event_type:?} {reason} {part}")).collect()
    }

    fn pod(state: Value, id: &str) -> Value {
        json!({
            "metadata": {"name": "a", "namespace": "x", "uid": "u"}, "spec": {"nodeName": "n"},
            "status": {"containerStatuses": [{"name": "c", "image": "i", "containerID": id, "state": state}]},
        })
    }

    #[test]
    fn each_change_is_told_once() {
        let created = json!({"metadata": {"name": "a", "namespace": "x"}, "spec": {"nodeName": "n"}});
        assert_eq!(reasons(&Value::Null, &created), ["Normal Scheduled "]);
        let running = pod(json!({"running": {}}), "1");
        let part = "spec.containers{c}";
        assert_eq!(reasons(&created, &running), [format!("Normal Created {part}"), format!("Normal Started {part}")]);
        assert_eq!(reasons(&running, &running), Vec::<String>::new());
        let waiting = pod(json!({"waiting": {"reason": "CrashLoopBackOff", "message": "10s"}}), "1");
        assert_eq!(reasons(&running, &waiting), [format!("Warning BackOff {part}")]);
        let again = pod(json!({"running": {}}), "2");
        assert_eq!(reasons(&waiting, &again).len(), 2);
        let mut deleted = again.clone();
        deleted["metadata"]["deletionTimestamp"] = "now".into();
        assert_eq!(reasons(&again, &deleted), [format!("Normal Killing {part}")]);
        assert_eq!(reasons(&deleted, &deleted), Vec::<String>::new());
    }

    #[test]
    fn a_pod_without_a_node_says_why() {
        let created = json!({"metadata": {"name": "a"}, "spec": {}});
        let condition = crate::api::scheduling::unschedulable("0/1 nodes are available: a claim.");
        let mut waiting = created.clone();
        waiting["status"]["conditions"] = json!([condition]);
        assert_eq!(reasons(&created, &waiting), ["Warning FailedScheduling "]);
        assert_eq!(reasons(&waiting, &waiting), Vec::<String>::new());
    }
}
