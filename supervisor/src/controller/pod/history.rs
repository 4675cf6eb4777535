//! What goes into a pod's journal: starts and ends of its containers, what could not be started, and what was changed.

use std::collections::BTreeSet;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::Value;

use super::observed::{declared, ephemeral};
use super::worker::Worker;
use crate::api::kinds::pod::items;
use crate::api::kinds::text;
use crate::api::object_store::{Change, ChangeType};
use crate::api::objects::{now, time_text};
use crate::api::pod_log::log_tail;
use crate::journal::{Journal, OutOfMemory, Owner, What};
use crate::pod::status::ContainerStatus;

/// What is kept of a container's log when it ends.
const LOG_LINES: usize = 20;
const LOG_BYTES: usize = 2048;

pub(super) fn owner(pod: &Value) -> Owner {
    let field = |pointer| text(pod, pointer).to_owned();
    Owner { namespace: field("/metadata/namespace"), name: field("/metadata/name"), uid: field("/metadata/uid") }
}

/// Of a change that somebody made to a pod.
pub(super) fn note_change(journal: &Journal, change: &Change) {
    if change.change_type == ChangeType::Deleted {
        return;
    }
    let Some(before) = &change.previous else { return };
    for message in differences(before, &change.object) {
        journal.note(owner(&change.object), now(), What::Changed { message });
    }
}

fn differences(before: &Value, after: &Value) -> Vec<String> {
    let mut messages = Vec::new();
    for list in ["initContainers", "containers", "ephemeralContainers"] {
        for container in items(&after["spec"], list) {
            let name = text(container, "/name");
            let Some(earlier) = items(&before["spec"], list).iter().find(|earlier| earlier["name"] == name) else {
                messages.push(format!("container {name} was added"));
                continue;
            };
            for field in ["image", "resources"] {
                let shown = |container: &Value| container.get(field).map(Value::to_string).unwrap_or_default();
                if shown(earlier) != shown(container) {
                    messages.push(format!("{field} of container {name}: {} → {}", shown(earlier), shown(container)));
                }
            }
        }
    }
    for field in ["labels", "annotations"] {
        if before["metadata"][field] != after["metadata"][field] {
            let keys = changed_keys(&before["metadata"][field], &after["metadata"][field]);
            messages.push(format!("{field}: {}", keys.join(", ")));
        }
    }
    let is_deleted = |pod: &Value| !text(pod, "/metadata/deletionTimestamp").is_empty();
    if is_deleted(after) && !is_deleted(before) {
        messages.push("the pod was deleted".into());
    }
    messages
}

/// Of a change of a ConfigMap or Secret that a pod uses: which keys, never what they say.
pub(super) fn note_source_change(journal: &Journal, pod: &Value, change: &Change) {
    let none = Value::Null;
    let before = change.previous.as_deref().unwrap_or(&none);
    let mut keys = changed_keys(&before["data"], &change.object["data"]);
    keys.extend(changed_keys(&before["binaryData"], &change.object["binaryData"]));
    let kind = text(&change.object, "/kind").to_lowercase();
    let name = &change.key.name;
    let message = match (change.change_type, keys.is_empty()) {
        (ChangeType::Deleted, _) => format!("{kind} {name}, which it uses, was deleted"),
        (_, true) => return,
        (ChangeType::Added, false) => format!("{kind} {name}, which it uses, was made: {}", keys.join(", ")),
        (_, false) => format!("{kind} {name}, which it uses, was changed: {}", keys.join(", ")),
    };
    journal.note(owner(pod), now(), What::Changed { message });
}

fn changed_keys(before: &Value, after: &Value) -> Vec<String> {
    let keys = |map: &Value| -> BTreeSet<String> {
        map.as_object().into_iter().flatten().map(|(key, _)| key.clone()).collect()
    };
    keys(before).union(&keys(after)).filter(|key| before.get(key) != after.get(key)).cloned().collect()
}

impl Worker {
    /// Keeps starts and ends that are not in the journal yet.
    pub(super) fn keep_history(&mut self, pod: &Pod) {
        let spec = pod.spec.clone().unwrap_or_default();
        let ephemeral = ephemeral(&spec);
        let mut present = BTreeSet::new();
        for container in declared(&spec).map(|(_, container)| container).chain(&ephemeral) {
            for attempt in self.attempts(&container.name) {
                present.insert(attempt.id.clone());
                if attempt.started_at != 0 {
                    self.note_once(&attempt, true, attempt.started_at, started);
                }
                if attempt.finished_at != 0 {
                    let words = self.last_words.get(&attempt.id).cloned().unwrap_or_default();
                    self.note_once(&attempt, false, attempt.finished_at, |attempt| ended(attempt, words));
                }
            }
        }
        self.journaled.retain(|(id, _)| present.contains(id));
    }

    fn note_once(
        &mut self,
        attempt: &ContainerStatus,
        start: bool,
        at: i64,
        what: impl FnOnce(&ContainerStatus) -> What,
    ) {
        let key = (attempt.id.clone(), start);
        if !self.journaled.contains(&key) && self.context.journal.note(self.journal_owner(), time(at), what(attempt)) {
            self.journaled.insert(key);
        }
    }

    pub(super) fn note_failure(&self, container: &str, reason: &str, message: &str) {
        let what = What::Told { container: container.into(), reason: reason.into(), message: message.into() };
        self.context.journal.note(self.journal_owner(), now(), what);
    }

    fn journal_owner(&self) -> Owner {
        Owner { namespace: self.namespace.clone(), name: self.name.clone(), uid: self.uid.clone() }
    }
}

fn started(attempt: &ContainerStatus) -> What {
    What::Started {
        container: attempt.config.name.clone(),
        id: attempt.id.clone(),
        attempt: attempt.config.attempt,
        image: attempt.config.user_image.clone(),
        image_id: attempt.image_id.clone(),
    }
}

fn ended(attempt: &ContainerStatus, message: String) -> What {
    let log = attempt.log_path.as_deref().and_then(|path| log_tail(path, LOG_LINES, LOG_BYTES).ok());
    What::Ended {
        container: attempt.config.name.clone(),
        id: attempt.id.clone(),
        attempt: attempt.config.attempt,
        exit_code: attempt.exit_code,
        reason: attempt.reason.clone(),
        ran_seconds: (attempt.finished_at - attempt.started_at).max(0) / 1_000_000_000,
        oom: (attempt.reason == "OOMKilled").then(|| out_of_memory(attempt)),
        message,
        log: log.map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default(),
    }
}

fn out_of_memory(attempt: &ContainerStatus) -> OutOfMemory {
    let Some(origin) = &attempt.oom_origin else {
        return OutOfMemory { group: String::new(), level: "node".into(), limit_bytes: 0 };
    };
    // Groups are named after what they are of.
    let level = match origin.group.rsplit('/').next().unwrap_or_default() {
        last if last.contains(&attempt.id) => "container",
        last if last.contains(&attempt.sandbox) => "pod",
        _ => "ancestor",
    };
    OutOfMemory { group: origin.group.clone(), level: level.into(), limit_bytes: origin.limit_bytes }
}

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map(time_text).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn changes_are_named_without_values_of_secrets() {
        let pod = |memory: &str, label: &str| {
            json!({"metadata": {"labels": {"a": label}}, "spec": {"containers": [
                {"name": "c", "image": "i", "resources": {"limits": {"memory": memory}}}]}})
        };
        assert_eq!(differences(&pod("1Mi", "x"), &pod("1Mi", "x")), Vec::<String>::new());
        let changed = differences(&pod("1Mi", "x"), &pod("2Mi", "y"));
        let resources = r#"resources of container c: {"limits":{"memory":"1Mi"}} → {"limits":{"memory":"2Mi"}}"#;
        assert_eq!(changed, [resources, "labels: a"]);
        assert_eq!(
            changed_keys(&json!({"k": "1", "same": "2"}), &json!({"k": "3", "same": "2", "new": ""})),
            ["k", "new"]
        );
    }
}
