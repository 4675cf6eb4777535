//! The condition of a pod that somebody else ends: `DisruptionTarget`, by which a Job tells such an end from a failure.

use serde_json::{Value, json};

use super::{pod, text};
use crate::api::objects::now;

const CONDITION: &str = "DisruptionTarget";
/// The reason of the node's own, for want of room or memory.
pub const BY_NODE: &str = "TerminationByKubelet";

/// Whether somebody ends the pod already, or meant to.
pub fn is_disrupted(status: &Value) -> bool {
    pod::items(status, "conditions").iter().any(|condition| text(condition, "/type") == CONDITION)
}

/// Why the node ends the pod, where it does.
pub fn cause_by_node(pod: &Value) -> Option<&str> {
    let mut conditions = pod::items(&pod["status"], "conditions").iter();
    let found = conditions.find(|condition| text(condition, "/type") == CONDITION && condition["reason"] == BY_NODE)?;
    Some(text(found, "/message"))
}

/// Puts it among the conditions of a pod's status. One that is there stays as it is.
pub fn disrupt(status: &mut Value, reason: &str, message: &str) {
    if is_disrupted(status) {
        return;
    }
    let condition = json!({
        "type": CONDITION, "status": "True", "reason": reason, "message": message, "lastTransitionTime": now(),
    });
    match status["conditions"].as_array_mut() {
        Some(conditions) => conditions.push(condition),
        None => status["conditions"] = json!([condition]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_reason_stays() {
        let mut status = json!({});
        disrupt(&mut status, "EvictionByEvictionAPI", "first");
        disrupt(&mut status, BY_NODE, "second");
        let conditions = pod::items(&status, "conditions");
        assert_eq!((conditions.len(), text(&conditions[0], "/reason")), (1, "EvictionByEvictionAPI"));
        assert_eq!(cause_by_node(&json!({"status": status})), None);
        let mut status = json!({});
        disrupt(&mut status, BY_NODE, "memory");
        assert_eq!(cause_by_node(&json!({"status": status})), Some("memory"));
    }
}
