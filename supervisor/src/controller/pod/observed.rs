//! From what the engine runs to the status of a Pod object.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, PodSpec};
use serde_json::{Value, json};

use super::condition::conditions;
use super::eviction::EVICTED;
use super::phase::phase;
use super::resize::Resize;
use crate::api::kinds::pod_disruption::{BY_NODE, disrupt};
use crate::api::kinds::pod_qos::QosClass;
use crate::api::kinds::{pod, text};
use crate::api::objects::time_text;
use crate::pod::status::{ContainerState, ContainerStatus};

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Role {
    /// An init container: runs to its end before what comes after it begins.
    Step,
    /// An init container that runs beside all that comes after it.
    Sidecar,
    #[default]
    Main,
    /// Added to a pod that runs, to look into it; begun once.
    Ephemeral,
}

/// The containers of a pod, in the order in which they begin.
pub(super) fn declared(spec: &PodSpec) -> impl Iterator<Item = (Role, &Container)> {
    let init = spec.init_containers.iter().flatten().map(|container| match container.restart_policy.as_deref() {
        Some("Always") => (Role::Sidecar, container),
        _ => (Role::Step, container),
    });
    init.chain(spec.containers.iter().map(|container| (Role::Main, container)))
}

/// The ephemeral containers of a pod, in the form of the others.
pub(super) fn ephemeral(spec: &PodSpec) -> Vec<Container> {
    let all = spec.ephemeral_containers.iter().flatten();
    // Their fields are those of containers, and one more.
    all.filter_map(|container| serde_json::from_value(serde_json::to_value(container).ok()?).ok()).collect()
}

/// One container of the pod as its worker knows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Observed {
    /// The newest attempt.
    pub(super) current: Option<ContainerStatus>,
    pub(super) previous: Option<ContainerStatus>,
    /// Why nothing runs: reason and message.
    pub(super) waiting: Option<(String, String)>,
    pub(super) role: Role,
    /// What its probes say while it runs.
    pub(super) started: bool,
    pub(super) ready: bool,
    /// The newest attempt is of another image than the pod wants by now: it is followed by one of that image.
    pub(super) outdated: bool,
}

impl Observed {
    pub(super) fn is_sidecar(&self) -> bool {
        self.role == Role::Sidecar
    }

    pub(super) fn is_running(&self) -> bool {
        self.current.as_ref().is_some_and(|c| c.state == ContainerState::Running)
    }

    /// Whether it runs, or will again as soon as it can.
    pub(super) fn goes_on(&self) -> bool {
        self.is_running() || self.outdated
    }

    /// Of one that has ended for good, as far as it is up to itself.
    pub(super) fn exit_code(&self) -> Option<i32> {
        let current = self.current.as_ref().filter(|_| !self.outdated)?;
        matches!(current.state, ContainerState::Exited | ContainerState::Unknown).then_some(current.exit_code)
    }

    pub(super) fn has_succeeded(&self) -> bool {
        self.exit_code() == Some(0)
    }

    pub(super) fn has_failed(&self) -> bool {
        self.exit_code().is_some_and(|code| code != 0)
    }
}

/// What else the status says.
pub(super) struct PodFacts {
    pub(super) addresses: Vec<IpAddr>,
    pub(super) host_ips: Vec<IpAddr>,
    pub(super) ephemeral: Vec<Observed>,
    /// Set when the pod failed as a whole.
    pub(super) failure: Option<(String, String)>,
    pub(super) resize: Resize,
    /// What containers run with now, by name.
    pub(super) resources: BTreeMap<String, Value>,
}

/// The status of `object` now.
pub(super) fn status(object: &Value, init: &[Observed], containers: &[Observed], facts: &PodFacts) -> Value {
    let old = &object["status"];
    let initialized = init.iter().all(|observed| observed.is_sidecar() || observed.has_succeeded());
    let phase = phase(text(object, "/spec/restartPolicy"), init, containers, facts.failure.is_some());
    let has_network = !facts.addresses.is_empty();
    let mut status = json!({
        "phase": phase,
        "startTime": text(old, "/startTime"),
        "qosClass": QosClass::of(&object["spec"]).name(),
        "containerStatuses": container_statuses(object, "containers", containers, initialized),
        "conditions": conditions(object, phase, (init, containers), has_network, &facts.resize),
    });
    add_resources(&mut status["containerStatuses"], &old["containerStatuses"], &facts.resources);
    if text(&status, "/startTime").is_empty() {
        status["startTime"] = crate::api::objects::now().into();
    }
    if !init.is_empty() {
        status["initContainerStatuses"] = container_statuses(object, "initContainers", init, true).into();
        add_resources(&mut status["initContainerStatuses"], &old["initContainerStatuses"], &facts.resources);
    }
    if !facts.ephemeral.is_empty() {
        let statuses = container_statuses(object, "ephemeralContainers", &facts.ephemeral, true);
        status["ephemeralContainerStatuses"] = statuses.into();
    }
    for (one, all, addresses) in [("podIP", "podIPs", &facts.addresses), ("hostIP", "hostIPs", &facts.host_ips)] {
        if let Some(address) = addresses.first() {
            status[one] = address.to_string().into();
            let listed = addresses.iter().map(|address| json!({"ip": address.to_string()}));
            status[all] = listed.collect::<Vec<_>>().into();
        }
    }
    if let Some((reason, message)) = &facts.failure {
        status["reason"] = reason.as_str().into();
        status["message"] = message.as_str().into();
        if reason == EVICTED {
            disrupt(&mut status, BY_NODE, message);
        }
    }
    status
}

fn container_statuses(object: &Value, list: &str, observed: &[Observed], initialized: bool) -> Vec<Value> {
    let declared = object.get("spec").map_or(&[][..], |spec| pod::items(spec, list));
    declared
        .iter()
        .zip(observed)
        .map(|(container, observed)| container_status(container, observed, initialized))
        .collect()
}

/// What containers have, or had when they ran last.
fn add_resources(statuses: &mut Value, old: &Value, now: &BTreeMap<String, Value>) {
    for status in statuses.as_array_mut().into_iter().flatten() {
        let name = text(status, "/name");
        let earlier = old.as_array().into_iter().flatten().find(|earlier| earlier["name"] == name);
        let known = now.get(name).or_else(|| earlier?.get("resources")).cloned();
        if let Some(resources) = known.filter(|resources| resources.as_object().is_some_and(|all| !all.is_empty())) {
            if let Some(requests) = resources.get("requests") {
                status["allocatedResources"] = requests.clone();
            }
            status["resources"] = resources;
        }
    }
}

fn container_status(container: &Value, observed: &Observed, initialized: bool) -> Value {
    let current = observed.current.as_ref();
    let mut status = json!({
        "name": text(container, "/name"), "image": text(container, "/image"), "imageID": "",
        "restartCount": current.map_or(0, |c| c.config.attempt),
        "ready": is_ready(observed), "started": observed.is_running() && observed.started,
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

/// An init container is ready once it has done its work.
fn is_ready(observed: &Observed) -> bool {
    match observed.role {
        Role::Step => observed.has_succeeded(),
        Role::Sidecar | Role::Main => observed.is_running() && observed.ready,
        Role::Ephemeral => false,
    }
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::pod::spec::ContainerConfig;

    pub(in super::super) fn sidecar(observed: Observed) -> Observed {
        Observed { role: Role::Sidecar, ..observed }
    }

    pub(in super::super) fn container(state: ContainerState, exit_code: i32) -> Observed {
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
            oom_origin: None,
            log_path: None,
            stop_signal: Default::default(),
            user: Default::default(),
        };
        Observed { current: Some(status), ..Observed::default() }
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
}
