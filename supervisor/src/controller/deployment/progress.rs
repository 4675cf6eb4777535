//! The Progressing condition: whether the present version is rolled out, on its way, held up, or paused.

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::is_paused;
use crate::api::kinds::{integer, pod, text};
use crate::api::objects::now;

const COMPLETE: &str = "NewReplicaSetAvailable";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";

/// The condition with the counts of `status`, which is about to be written; `current` is the ReplicaSet of the template.
pub(super) fn condition(deployment: &Value, status: &Value, current: Option<&Value>) -> Value {
    let earlier = earlier(deployment);
    let name = current.map(|set| text(set, "/metadata/name")).unwrap_or_default();
    // What was said of another version says nothing of this one: a rollout that is taken back begins anew.
    let earlier_of_this = earlier.filter(|condition| !is_of_another(text(condition, "/message"), name));
    let was = |reason: &str| earlier_of_this.is_some_and(|condition| condition["reason"] == reason);
    let has_advanced = has_advanced(&deployment["status"], status);
    let (value, reason, message) = if is_paused(deployment) {
        ("Unknown", "DeploymentPaused", "Deployment is paused".to_owned())
    } else if current.is_none() {
        ("True", "NewReplicaSetCreated", "A new ReplicaSet is being made.".to_owned())
    } else if is_complete(deployment, status) {
        ("True", COMPLETE, format!("ReplicaSet {name:?} has successfully progressed."))
    } else if !has_advanced
        && (was(TIMED_OUT) || time_left_of(deployment, earlier_of_this).is_some_and(|left| left.is_zero()))
    {
        ("False", TIMED_OUT, format!("ReplicaSet {name:?} has timed out progressing."))
    } else {
        ("True", "ReplicaSetUpdated", format!("ReplicaSet {name:?} is progressing."))
    };
    let kept = |field: &str, same: bool| {
        let time = earlier.filter(|_| same).map(|condition| text(condition, field).to_owned());
        time.filter(|time| !time.is_empty()).unwrap_or_else(now)
    };
    let same_status = earlier.is_some_and(|condition| condition["status"] == value);
    let stays = same_status && earlier.is_some_and(|c| c["reason"] == reason && c["message"] == message);
    let moves = reason == "ReplicaSetUpdated" && has_advanced;
    json!({
        "type": "Progressing", "status": value, "reason": reason, "message": message,
        "lastTransitionTime": kept("/lastTransitionTime", same_status),
        "lastUpdateTime": kept("/lastUpdateTime", stays && !moves),
    })
}

/// Whether a condition's message is about another ReplicaSet than `name`.
fn is_of_another(message: &str, name: &str) -> bool {
    message.starts_with("ReplicaSet ") && !message.starts_with(&format!("ReplicaSet {name:?} "))
}

/// When the rollout will have taken too long, where it is on its way.
pub(super) fn time_left(deployment: &Value, condition: &Value) -> Option<Duration> {
    // A second later, so that the time is surely over then: times are whole seconds.
    time_left_of(deployment, Some(condition)).map(|left| left + Duration::from_secs(1))
}

fn earlier(deployment: &Value) -> Option<&Value> {
    pod::items(&deployment["status"], "conditions").iter().find(|condition| condition["type"] == "Progressing")
}

fn time_left_of(deployment: &Value, condition: Option<&Value>) -> Option<Duration> {
    let condition = condition.filter(|condition| condition["status"] == "True" && condition["reason"] != COMPLETE)?;
    let updated: Timestamp = text(condition, "/lastUpdateTime").parse().ok()?;
    let deadline = u64::try_from(integer(deployment, "/spec/progressDeadlineSeconds")).ok().filter(|d| *d > 0)?;
    let passed = Timestamp::now().as_second() - updated.as_second();
    Some(Duration::from_secs(deadline.saturating_sub(u64::try_from(passed).unwrap_or(0))))
}

fn is_complete(deployment: &Value, status: &Value) -> bool {
    let desired = integer(deployment, "/spec/replicas");
    ["/updatedReplicas", "/replicas", "/availableReplicas"].iter().all(|field| integer(status, field) == desired)
}

/// Whether there are more new pods, fewer old ones, or more that serve.
fn has_advanced(old: &Value, new: &Value) -> bool {
    let grew = |field: &str| integer(new, field) > integer(old, field);
    let outdated = |status: &Value| integer(status, "/replicas") - integer(status, "/updatedReplicas");
    grew("/updatedReplicas") || outdated(new) < outdated(old) || grew("/readyReplicas") || grew("/availableReplicas")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(replicas: i64, updated: i64, available: i64) -> Value {
        json!({"replicas": replicas, "updatedReplicas": updated, "readyReplicas": available,
            "availableReplicas": available})
    }

    fn deployment(status: &Value, reason: &str, updated: &str) -> Value {
        let mut deployment = json!({"spec": {"replicas": 2, "progressDeadlineSeconds": 10}, "status": status});
        let status = if reason == TIMED_OUT { "False" } else { "True" };
        deployment["status"]["conditions"] =
            json!([{"type": "Progressing", "status": status, "reason": reason, "lastUpdateTime": updated}]);
        deployment
    }

    #[test]
    fn a_rollout_that_stands_still_for_too_long_has_failed() {
        let (set, stuck) = (json!({"metadata": {"name": "s"}}), counts(2, 1, 1));
        let long_ago = "2026-01-01T00:00:00Z";
        let reason = |deployment: &Value, status: &Value| condition(deployment, status, Some(&set))["reason"].clone();
        let on_its_way = deployment(&stuck, "ReplicaSetUpdated", &now());
        assert_eq!(reason(&on_its_way, &stuck), "ReplicaSetUpdated");
        let left = time_left(&on_its_way, &condition(&on_its_way, &stuck, Some(&set))).unwrap();
        assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(11), "{left:?}");
        let late = deployment(&stuck, "ReplicaSetUpdated", long_ago);
        assert_eq!(reason(&late, &stuck), TIMED_OUT);
        assert_eq!(reason(&late, &counts(2, 2, 1)), "ReplicaSetUpdated");
        assert_eq!(reason(&late, &counts(2, 2, 2)), COMPLETE);
        let failed = deployment(&stuck, TIMED_OUT, long_ago);
        assert_eq!(reason(&failed, &stuck), TIMED_OUT);
        assert_eq!(time_left(&failed, &condition(&failed, &stuck, Some(&set))), None);
        assert_eq!(reason(&failed, &counts(2, 2, 2)), COMPLETE);
        let mut taken_back = failed;
        taken_back["status"]["conditions"][0]["message"] = "ReplicaSet \"other\" has timed out progressing.".into();
        assert_eq!(reason(&taken_back, &stuck), "ReplicaSetUpdated");
        let mut paused = late;
        paused["spec"]["paused"] = true.into();
        assert_eq!(reason(&paused, &stuck), "DeploymentPaused");
    }
}
