//! From what the engine runs to the status of a Pod object.

use std::net::IpAddr;

use jiff::Timestamp;
use serde_json::{Value, json};

use crate::api::kinds::{pod, text};
use crate::api::objects::time_text;
use crate::controller::replica_set::condition;
use crate::pod::status::{ContainerState, ContainerStatus};

/// One container of the pod as its worker knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// The newest attempt.
    pub(super) current: Option<ContainerStatus>,
    pub(super) previous: Option<ContainerStatus>,
    /// Why nothing runs: reason and message.
    pub(super) waiting: Option<(String, String)>,
}

impl Observed {
    pub(super) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|c| c.state == ContainerState::Running)
    }

    pub(super) fn exit_code(&self) -> Option<i32> {
        let current = self.current.as_ref()?;
        matches!(current.state, ContainerState::Exited | ContainerState::Unknown).then_some(current.exit_code)
    }
}

/// What else the status says.
pub(super) struct PodFacts {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_ip: Option<IpAddr>,
    /// Set when the pod failed as a whole.
    pub(super) failure: Option<(String, String)>,
}

/// The status of `object` now.
pub(super) fn status(object: &Value, init: &[Observed], containers: &[Observed], facts: &PodFacts) -> Value {
    let old = &object["status"];
    let initialized = init.iter().all(|observed| observed.exit_code() == Some(0));
    let phase = phase(text(object, "/spec/restartPolicy"), init, containers, facts.failure.is_some());
    let done = matches!(phase, "Succeeded" | "Failed");
    let all_ready = !containers.is_empty() && containers.iter().all(Observed::is_running);
    let unready = if done { "PodCompleted" } else { "ContainersNotReady" };
    let reason = if all_ready { "" } else { unready };
    let mut status = json!({
        "phase": phase,
        "startTime": text(old, "/startTime"),
        "qosClass": qos_class(object),
        "containerStatuses": container_statuses(object, "containers", containers, initialized),
        "conditions": [
            condition(old, "PodReadyToStartContainers", !facts.addresses.is_empty() || facts.host_ip.is_some(), "", ""),
            condition(old, "Initialized", initialized, "", ""),
            condition(old, "Ready", all_ready, reason, ""),
            condition(old, "ContainersReady", all_ready, reason, ""),
            condition(old, "PodScheduled", true, "", ""),
        ],
    });
    if text(&status, "/startTime").is_empty() {
        status["startTime"] = crate::api::objects::now().into();
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = container_statuses(object, "initContainers", init, true).into();
    }
    if let Some(address) = facts.addresses.first() {
        status["podIP"] = address.to_string().into();
        let all = facts.addresses.iter().map(|address| json!({"ip": address.to_string()}));
        status["podIPs"] = all.collect::<Vec<_>>().into();
    }
    if let Some(address) = facts.host_ip {
        status["hostIP"] = address.to_string().into();
    }
    if let Some((reason, message)) = &facts.failure {
        status["reason"] = reason.as_str().into();
        status["message"] = message.as_str().into();
    }
    status
}

/// The pod's phase, as the kubelet derives it.
fn phase(restart_policy: &str, init: &[Observed], containers: &[Observed], failed: bool) -> &'static str {
    if failed {
        return "Failed";
    }
    let init_failed = init.iter().any(|observed| observed.exit_code().is_some_and(|code| code != 0));
    if init_failed && restart_policy == "Never" {
        return "Failed";
    }
    if !init.iter().all(|observed| observed.exit_code() == Some(0)) {
        return "Pending";
    }
    let running = containers.iter().any(Observed::is_running);
    let stopped = containers.iter().filter(|observed| observed.exit_code().is_some()).count();
    let clean = containers.iter().filter(|observed| observed.exit_code() == Some(0)).count();
    match restart_policy {
        _ if stopped < containers.len() && !running && stopped == 0 => "Pending",
        _ if running || stopped < containers.len() || restart_policy == "Always" => "Running",
        _ if clean == containers.len() => "Succeeded",
        "Never" => "Failed",
        _ => "Running",
    }
}

fn container_statuses(object: &Value, list: &str, observed: &[Observed], initialized: bool) -> Vec<Value> {
    let declared = object.get("spec").map_or(&[][..], |spec| pod::items(spec, list));
    declared
        .iter()
        .zip(observed)
        .map(|(container, observed)| container_status(container, observed, initialized))
        .collect()
}

fn container_status(container: &Value, observed: &Observed, initialized: bool) -> Value {
    let current = observed.current.as_ref();
    let mut status = json!({
        "name": text(container, "/name"), "image": text(container, "/image"), "imageID": "",
        "restartCount": current.map_or(0, |c| c.config.attempt),
        "ready": observed.is_running(), "started": observed.is_running(),
    });
    let mut last = observed.previous.as_ref();
    status["state"] = match (&observed.waiting, current) {
        (Some((reason, message)), _) => {
            last = current.or(last);
            let mut waiting = json!({"reason": reason});
            if !message.is_empty() {
                waiting["message"] = message.as_str().into();
            }
            json!({"waiting": waiting})
        }
        (None, None) => {
            let reason = if initialized { "ContainerCreating" } else { "PodInitializing" };
            json!({"waiting": {"reason": reason}})
        }
        (None, Some(current)) => match current.state {
            ContainerState::Created => json!({"waiting": {"reason": "ContainerCreating"}}),
            ContainerState::Running => json!({"running": {"startedAt": time(current.started_at)}}),
            ContainerState::Exited | ContainerState::Unknown => json!({"terminated": terminated(current)}),
        },
    };
    if let Some(current) = current {
        status["containerID"] = format!("wharf://{}", current.id).into();
        status["imageID"] = current.image_id.as_str().into();
    }
    if let Some(last) = last.filter(|last| matches!(last.state, ContainerState::Exited | ContainerState::Unknown)) {
        status["lastState"] = json!({"terminated": terminated(last)});
    }
    status
}

fn terminated(container: &ContainerStatus) -> Value {
    let mut terminated = json!({
        "exitCode": container.exit_code, "reason": container.reason, "startedAt": time(container.started_at),
        "finishedAt": time(container.finished_at), "containerID": format!("wharf://{}", container.id),
    });
    if !container.message.is_empty() {
        terminated["message"] = container.message.as_str().into();
    }
    terminated
}

fn time(nanoseconds: i64) -> String {
    Timestamp::from_nanosecond(i128::from(nanoseconds)).map(time_text).unwrap_or_default()
}

/// Quality of service, from requests and limits.
fn qos_class(object: &Value) -> &'static str {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let containers: Vec<&Value> =
        pod::items(spec, "containers").iter().chain(pod::items(spec, "initContainers")).collect();
    let value =
        |container: &Value, kind: &str, name: &str| container.pointer(&format!("/resources/{kind}/{name}")).cloned();
    let names = ["cpu", "memory"];
    let any =
        containers.iter().any(|c| names.iter().any(|n| value(c, "limits", n).or(value(c, "requests", n)).is_some()));
    let guaranteed = containers.iter().all(|c| {
        names.iter().all(|name| {
            let limit = value(c, "limits", name);
            limit.is_some() && value(c, "requests", name).is_none_or(|request| Some(request) == limit)
        })
    });
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::ContainerConfig;

    fn container(state: ContainerState, exit_code: i32) -> Observed {
        let config: ContainerConfig = serde_json::from_value(json!({
            "name": "c", "attempt": 2, "image": "i", "user_image": "i", "command": [], "args": [], "working_dir": "",
            "env": [], "mounts": [], "devices": [], "labels": {}, "annotations": {}, "log_path": null, "stdin": false,
            "stdin_once": false, "tty": false, "stop_signal": null,
            "resources": crate::pod::spec::Resources::default(), "security": crate::pod::spec::Security::default(),
        }))
        .unwrap();
        let status = ContainerStatus {
            id: "id".into(),
            sandbox: "s".into(),
            config,
            image_id: "sha256:0".into(),
            state,
            pid: 1,
            created_at: 1,
            started_at: 1,
            finished_at: 2,
            exit_code,
            reason: "Error".into(),
            message: String::new(),
            log_path: None,
            stop_signal: Default::default(),
            user: Default::default(),
        };
        Observed { current: Some(status), ..Observed::default() }
    }

    #[test]
    fn phases_follow_restart_policy_and_exits() {
        let running = || container(ContainerState::Running, 0);
        let ok = || container(ContainerState::Exited, 0);
        let bad = || container(ContainerState::Exited, 1);
        for (policy, init, containers, expected) in [
            ("Always", vec![], vec![Observed::default()], "Pending"),
            ("Always", vec![], vec![running(), Observed::default()], "Running"),
            ("Always", vec![], vec![bad()], "Running"),
            ("Never", vec![], vec![ok(), ok()], "Succeeded"),
            ("Never", vec![], vec![ok(), bad()], "Failed"),
            ("Never", vec![], vec![running(), bad()], "Running"),
            ("OnFailure", vec![], vec![ok()], "Succeeded"),
            ("OnFailure", vec![], vec![bad()], "Running"),
            ("Never", vec![bad()], vec![Observed::default()], "Failed"),
            ("Always", vec![bad()], vec![Observed::default()], "Pending"),
            ("Always", vec![ok()], vec![running()], "Running"),
        ] {
            assert_eq!(phase(policy, &init, &containers, false), expected, "{policy}");
        }
    }

    #[test]
    fn a_waiting_container_shows_how_it_ended_before() {
        let mut observed = container(ContainerState::Exited, 3);
        observed.waiting = Some(("CrashLoopBackOff".into(), "back-off 10s".into()));
        let status = container_status(&json!({"name": "c", "image": "i"}), &observed, true);
        assert_eq!(status["state"]["waiting"]["reason"], "CrashLoopBackOff");
        assert_eq!(status["lastState"]["terminated"]["exitCode"], 3);
        assert_eq!(status["restartCount"], 2);
    }

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        let class = |resources: Value| qos_class(&json!({"spec": {"containers": [{"resources": resources}]}}));
        assert_eq!(class(json!({})), "BestEffort");
        assert_eq!(class(json!({"limits": {"cpu": "1", "memory": "1Mi"}})), "Guaranteed");
        assert_eq!(class(json!({"requests": {"cpu": "1"}})), "Burstable");
    }
}
