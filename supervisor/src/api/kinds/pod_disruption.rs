//! The condition of a pod that somebody else ends: `DisruptionTarget`, by which a Job tells such an end from a failure.

use serde_json::{Value, json};

use super::{pod, text};
use crate::api::objects::now;

const CONDITION: &str = "DisruptionTarget";

/// Puts it among the conditions of a pod's status. One that is there stays as it is.
pub fn disrupt(status: &mut Value, reason: &str, message: &str) {
    if pod::items(status, "conditions").iter().any(|condition| text(condition, "/type") == CONDITION) {
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
        disrupt(&mut status, "TerminationByKubelet", "second");
        let conditions = pod::items(&status, "conditions");
        assert_eq!((conditions.len(), text(&conditions[0], "/reason")), (1, "EvictionByEvictionAPI"));
    }
}
