//! The conditions of a pod: those that its worker derives, and those that others have set for its readiness gates.

use serde_json::{Value, json};

use super::observed::Observed;
use super::resize::Resize;
use crate::api::kinds::{pod, text};
use crate::api::objects::now;

/// The types that are the worker's own.
const OWN: [&str; 7] = [
    "ContainersReady",
    "Initialized",
    "PodReadyToStartContainers",
    "PodResizeInProgress",
    "PodResizePending",
    "PodScheduled",
    "Ready",
];

/// What a condition says.
struct State {
    holds: bool,
    reason: &'static str,
    message: String,
}

impl State {
    fn holds() -> Self {
        Self { holds: true, reason: "", message: String::new() }
    }

    fn fails(reason: &'static str, message: String) -> Self {
        Self { holds: false, reason, message }
    }
}

/// All conditions of `object`, which is in `phase`; `has_network` once its sandbox is ready.
pub(super) fn conditions(
    object: &Value,
    phase: &str,
    (init, containers): (&[Observed], &[Observed]),
    has_network: bool,
    resize: &Resize,
) -> Vec<Value> {
    let initialized = initialized(object, phase, init, containers);
    let containers_ready = containers_ready(object, phase, init, containers);
    let ready = ready(object, &containers_ready);
    let network = if has_network { State::holds() } else { State::fails("", String::new()) };
    let old = &object["status"];
    let mut conditions = vec![
        condition(old, "PodReadyToStartContainers", network),
        condition(old, "Initialized", initialized),
        condition(old, "Ready", ready),
        condition(old, "ContainersReady", containers_ready),
        condition(old, "PodScheduled", State::holds()),
    ];
    for (kind, state) in [("PodResizePending", &resize.pending), ("PodResizeInProgress", &resize.in_progress)] {
        if let Some((reason, message)) = state.clone() {
            conditions.push(condition(old, kind, State { holds: true, reason, message }));
        }
    }
    let others = pod::items(old, "conditions").iter().filter(|condition| !OWN.contains(&text(condition, "/type")));
    conditions.extend(others.cloned());
    conditions
}

/// Keeps its time while its status stays.
fn condition(old: &Value, condition_type: &str, state: State) -> Value {
    let status = if state.holds { "True" } else { "False" };
    let earlier = pod::items(old, "conditions").iter().find(|c| c["type"] == condition_type && c["status"] == status);
    let since = earlier.map_or_else(now, |condition| text(condition, "/lastTransitionTime").to_owned());
    let mut condition = json!({"type": condition_type, "status": status, "lastTransitionTime": since});
    if !state.reason.is_empty() {
        condition["reason"] = state.reason.into();
    }
    if !state.message.is_empty() {
        condition["message"] = state.message.into();
    }
    condition
}

/// Names of those in a list of the specification for which `holds` does not.
fn names(object: &Value, list: &str, observed: &[Observed], holds: impl Fn(&Observed) -> bool) -> Vec<String> {
    let declared = object.get("spec").map_or(&[][..], |spec| pod::items(spec, list));
    let others = declared.iter().zip(observed).filter(|(_, observed)| !holds(observed));
    others.map(|(container, _)| text(container, "/name").to_owned()).collect()
}

fn initialized(object: &Value, phase: &str, init: &[Observed], containers: &[Observed]) -> State {
    // Once the others have begun, a sidecar that starts anew changes nothing.
    let begun = containers.iter().any(|observed| observed.current.is_some());
    let done = |observed: &Observed| match observed.is_sidecar() {
        true => begun || observed.started,
        false => observed.has_succeeded(),
    };
    let waiting = names(object, "initContainers", init, done);
    match phase {
        "Succeeded" => State { reason: "PodCompleted", ..State::holds() },
        _ if waiting.is_empty() => State::holds(),
        _ => State::fails(
            "ContainersNotInitialized",
            format!("containers with incomplete status: [{}]", waiting.join(" ")),
        ),
    }
}

fn containers_ready(object: &Value, phase: &str, init: &[Observed], containers: &[Observed]) -> State {
    let mut unready = names(object, "initContainers", init, |observed| !observed.is_sidecar() || observed.ready);
    unready.extend(names(object, "containers", containers, |observed| observed.ready));
    match phase {
        "Succeeded" => State::fails("PodCompleted", String::new()),
        "Failed" => State::fails("PodFailed", String::new()),
        _ if unready.is_empty() => State::holds(),
        _ => State::fails("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))),
    }
}

/// The containers are, and every readiness gate is open.
fn ready(object: &Value, containers: &State) -> State {
    if !containers.holds {
        return State::fails(containers.reason, containers.message.clone());
    }
    let conditions = pod::items(&object["status"], "conditions");
    let gates = object.get("spec").map_or(&[][..], |spec| pod::items(spec, "readinessGates"));
    let closed: Vec<String> = gates
        .iter()
        .map(|gate| text(gate, "/conditionType"))
        .filter_map(|gate| match conditions.iter().find(|condition| condition["type"] == gate) {
            None => Some(format!("corresponding condition of pod readiness gate {gate:?} does not exist.")),
            Some(condition) if condition["status"] != "True" => {
                let found = text(condition, "/status");
                Some(format!("the status of pod readiness gate {gate:?} is not \"True\", but {found}"))
            }
            Some(_) => None,
        })
        .collect();
    if closed.is_empty() { State::holds() } else { State::fails("ReadinessGatesNotReady", closed.join(", ")) }
}

#[cfg(test)]
mod tests {
    use super::super::observed::tests::{container, sidecar};
    use super::*;
    use crate::pod::status::ContainerState::{Exited, Running};

    fn ready(mut observed: Observed) -> Observed {
        (observed.started, observed.ready) = (true, true);
        observed
    }

    fn shown(object: &Value, phase: &str, init: &[Observed], containers: &[Observed]) -> Vec<String> {
        let shown = conditions(object, phase, (init, containers), true, &Resize::default());
        let failing = shown.iter().filter(|condition| condition["status"] == "False");
        failing.map(|c| format!("{}: {} {}", text(c, "/type"), text(c, "/reason"), text(c, "/message"))).collect()
    }

    #[test]
    fn conditions_say_which_containers_they_wait_for() {
        let object = json!({"spec": {"initContainers": [{"name": "i"}, {"name": "s"}], "containers": [{"name": "c"}]}});
        let init = [container(Exited, 0), sidecar(container(Running, 0))];
        let expected = [
            "Initialized: ContainersNotInitialized containers with incomplete status: [s]",
            "Ready: ContainersNotReady containers with unready status: [s c]",
            "ContainersReady: ContainersNotReady containers with unready status: [s c]",
        ];
        assert_eq!(shown(&object, "Pending", &init, &[Observed::default()]), expected);
        let init = [container(Exited, 0), sidecar(ready(container(Running, 0)))];
        assert_eq!(shown(&object, "Running", &init, &[ready(container(Running, 0))]), Vec::<String>::new());
        let ended = [container(Exited, 0)];
        let expected = ["Ready: PodCompleted ", "ContainersReady: PodCompleted "];
        assert_eq!(shown(&object, "Succeeded", &[], &ended), expected);
    }

    #[test]
    fn readiness_gates_hold_a_pod_back_until_others_open_them() {
        let mut object = json!({
            "spec": {"containers": [{"name": "c"}], "readinessGates": [{"conditionType": "x/a"}, {"conditionType": "b"}]},
            "status": {"conditions": [{"type": "b", "status": "False"}]},
        });
        let containers = [ready(container(Running, 0))];
        assert_eq!(
            shown(&object, "Running", &[], &containers)[0],
            "Ready: ReadinessGatesNotReady corresponding condition of pod readiness gate \"x/a\" does not exist., \
             the status of pod readiness gate \"b\" is not \"True\", but False"
        );
        object["status"]["conditions"] = json!([{"type": "b", "status": "True"}, {"type": "x/a", "status": "True"}]);
        let all = conditions(&object, "Running", (&[], &containers), true, &Resize::default());
        assert!(all.iter().all(|condition| condition["status"] == "True"));
        assert_eq!(all.len(), 7, "those of others are kept");
    }

    #[test]
    fn a_condition_keeps_its_time_while_it_stays() {
        let old = json!({"conditions": [{"type": "Ready", "status": "True", "lastTransitionTime": "then"}]});
        assert_eq!(condition(&old, "Ready", State::holds())["lastTransitionTime"], "then");
        assert_ne!(condition(&old, "Ready", State::fails("", String::new()))["lastTransitionTime"], "then");
    }
}
