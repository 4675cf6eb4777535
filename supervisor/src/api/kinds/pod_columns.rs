//! What `kubectl get pods` shows of a pod in few words.

use serde_json::Value;

use super::pod::{is_sidecar, items};
use super::{integer, text};

/// The containers that run side by side, sidecars among them, with their statuses.
fn side_by_side(pod: &Value) -> impl Iterator<Item = (&Value, Option<&Value>)> {
    let of = |list, statuses| {
        let statuses = items(&pod["status"], statuses);
        items(&pod["spec"], list).iter().enumerate().map(move |(index, container)| (container, statuses.get(index)))
    };
    let sidecars = of("initContainers", "initContainerStatuses").filter(|(container, _)| is_sidecar(container));
    sidecars.chain(of("containers", "containerStatuses"))
}

pub(super) fn ready_cell(pod: &Value) -> Value {
    let is_ready = |status: &Value| status["ready"] == true;
    let ready = side_by_side(pod).filter(|(_, status)| status.is_some_and(is_ready)).count();
    format!("{ready}/{}", side_by_side(pod).count()).into()
}

pub(super) fn restarts_cell(pod: &Value) -> Value {
    let statuses: Vec<&Value> = side_by_side(pod).filter_map(|(_, status)| status).collect();
    let restarts: i64 = statuses.iter().map(|status| integer(status, "/restartCount")).sum();
    let last = statuses.iter().map(|s| text(s, "/lastState/terminated/finishedAt")).max().unwrap_or_default();
    if restarts == 0 || last.is_empty() {
        return restarts.to_string().into();
    }
    format!("{restarts} ({} ago)", crate::api::table::age(last)).into()
}

/// How many of the conditions that others set are true.
pub(super) fn readiness_gates_cell(pod: &Value) -> Value {
    let gates = items(&pod["spec"], "readinessGates");
    if gates.is_empty() {
        return "<none>".into();
    }
    let is_true = |gate: &&Value| {
        let conditions = items(&pod["status"], "conditions");
        conditions.iter().any(|condition| condition["type"] == gate["conditionType"] && condition["status"] == "True")
    };
    format!("{}/{}", gates.iter().filter(is_true).count(), gates.len()).into()
}

/// What kubectl shows as STATUS: the most telling reason, the phase otherwise.
pub(super) fn displayed_status(pod: &Value) -> String {
    if !text(pod, "/metadata/deletionTimestamp").is_empty() {
        return "Terminating".into();
    }
    let init = items(&pod["spec"], "initContainers");
    for (index, status) in items(&pod["status"], "initContainerStatuses").iter().enumerate() {
        let exit_code = status.pointer("/state/terminated/exitCode").and_then(Value::as_i64);
        let runs_beside = init.get(index).is_some_and(is_sidecar) && status["started"] == true;
        if exit_code == Some(0) || runs_beside {
            continue;
        }
        return match (exit_code, text(status, "/state/waiting/reason")) {
            (Some(_), _) => format!("Init:{}", text(status, "/state/terminated/reason")),
            (None, "" | "PodInitializing") => format!("Init:{index}/{}", init.len()),
            (None, reason) => format!("Init:{reason}"),
        };
    }
    let statuses = items(&pod["status"], "containerStatuses");
    let reasons = statuses.iter().rev().find_map(|status| {
        let waiting = text(status, "/state/waiting/reason");
        let terminated = text(status, "/state/terminated/reason");
        [waiting, terminated].into_iter().find(|reason| !reason.is_empty()).map(str::to_owned)
    });
    let phase = text(pod, "/status/phase");
    let reason = text(pod, "/status/reason");
    match reasons {
        // One has done its work, another has not.
        Some(done) if done == "Completed" && statuses.iter().any(|status| status["state"]["running"].is_object()) => {
            let conditions = items(&pod["status"], "conditions");
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            if ready { "Running".into() } else { "NotReady".into() }
        }
        Some(reason) => reason,
        None if !reason.is_empty() => reason.into(),
        None => phase.into(),
    }
}

pub(super) fn or_none(text: &str) -> Value {
    if text.is_empty() { "<none>".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn sidecars_count_among_the_containers_and_not_as_steps() {
        let mut pod = json!({
            "spec": {"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "i"}],
                "containers": [{"name": "c"}]},
            "status": {"phase": "Pending", "containerStatuses": [{"ready": false}],
                "initContainerStatuses": [
                    {"started": true, "ready": true, "restartCount": 2, "state": {"running": {}}},
                    {"state": {"running": {}}, "restartCount": 3}]},
        });
        assert_eq!((ready_cell(&pod), restarts_cell(&pod)), (json!("1/2"), json!("2")));
        assert_eq!(displayed_status(&pod), "Init:1/2");
        pod["status"]["initContainerStatuses"][0]["started"] = json!(false);
        assert_eq!(displayed_status(&pod), "Init:0/2");
    }

    #[test]
    fn a_pod_that_is_partly_done_is_not_completed() {
        let mut pod = json!({"spec": {}, "status": {"phase": "Running", "containerStatuses": [
            {"state": {"terminated": {"reason": "Completed"}}}, {"state": {"running": {}}}]}});
        assert_eq!(displayed_status(&pod), "NotReady");
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        assert_eq!(displayed_status(&pod), "Running");
        pod["status"]["reason"] = json!("DeadlineExceeded");
        pod["status"]["containerStatuses"] = json!([]);
        assert_eq!(displayed_status(&pod), "DeadlineExceeded");
    }

    #[test]
    fn the_displayed_status_is_the_most_telling_reason() {
        let mut pod = json!({"status": {"phase": "Running", "containerStatuses": [
            {"state": {"waiting": {"reason": "CrashLoopBackOff"}}}]}});
        assert_eq!(displayed_status(&pod), "CrashLoopBackOff");
        pod["status"]["containerStatuses"] = json!([{"state": {"running": {}}}]);
        assert_eq!(displayed_status(&pod), "Running");
        pod["metadata"] = json!({"deletionTimestamp": "2026-01-01T00:00:00Z"});
        assert_eq!(displayed_status(&pod), "Terminating");
    }
}
