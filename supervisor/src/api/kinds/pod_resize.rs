//! `pods/resize`: the requests and limits of containers that run.

use serde_json::{Value, json};

use super::pod::{is_sidecar, items, one_of};
use super::pod_qos::QosClass;
use super::text;
use crate::api::status::Cause;

const RESOURCES: [&str; 2] = ["cpu", "memory"];

/// `object`, with the resources of `wanted`'s containers; nothing else of it is taken.
pub(in crate::api) fn resized(mut object: Value, wanted: &Value) -> Value {
    for list in ["containers", "initContainers"] {
        for container in object["spec"].get_mut(list).and_then(Value::as_array_mut).into_iter().flatten() {
            let name = text(container, "/name").to_owned();
            let Some(other) = items(&wanted["spec"], list).iter().find(|other| text(other, "/name") == name) else {
                continue;
            };
            match (other.get("resources"), container.as_object_mut()) {
                (Some(resources), _) => container["resources"] = resources.clone(),
                (None, Some(fields)) => drop(fields.remove("resources")),
                (None, None) => {}
            }
        }
    }
    object
}

/// What may not become of the resources of a pod that runs.
pub(in crate::api) fn update_causes(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for list in ["containers", "initContainers"] {
        let pairs = items(&old["spec"], list).iter().zip(items(&new["spec"], list));
        for (index, (old, new)) in pairs.enumerate() {
            let path = format!("spec.{list}[{index}].resources");
            if list == "initContainers" && !is_sidecar(new) && old.get("resources") != new.get("resources") {
                causes.push(Cause::forbidden(&path, "only sidecar initContainers can be resized"));
            }
            for kind in ["limits", "requests"] {
                let others = |container: &Value| {
                    let mut amounts = container.pointer(&format!("/resources/{kind}")).cloned().unwrap_or_default();
                    let fields = amounts.as_object_mut().map(std::mem::take).unwrap_or_default();
                    fields.into_iter().filter(|(name, _)| !RESOURCES.contains(&name.as_str())).collect::<Vec<_>>()
                };
                if others(old) != others(new) {
                    let message = "only cpu and memory resources are mutable";
                    causes.push(Cause::forbidden(format!("{path}.{kind}"), message));
                }
                let has =
                    |container: &Value, name: &str| !text(container, &format!("/resources/{kind}/{name}")).is_empty();
                let removed = RESOURCES.iter().any(|name| has(old, name) && !has(new, name));
                if removed {
                    causes.push(Cause::forbidden(
                        format!("{path}.{kind}"),
                        &format!("resource {kind} cannot be removed"),
                    ));
                }
            }
        }
    }
    let class = QosClass::of(&old["spec"]);
    if QosClass::of(&new["spec"]) != class {
        let message = "Pod QOS Class may not change as a result of resizing";
        causes.push(Cause::invalid("spec", format_args!("{:?}", class.name()), message));
    }
    causes
}

/// What becomes of a resource of a container that has a request or a limit of it, where its author says nothing.
pub(super) fn policy_defaults(container: &mut Value) {
    let mut policies = items(container, "resizePolicy").to_vec();
    for name in RESOURCES {
        let amount = |kind: &str| container.pointer(&format!("/resources/{kind}/{name}")).is_some();
        let is_said = policies.iter().any(|policy| policy["resourceName"] == name);
        if !is_said && (amount("limits") || amount("requests")) {
            policies.push(json!({"resourceName": name, "restartPolicy": "NotRequired"}));
        }
    }
    if !policies.is_empty() {
        container["resizePolicy"] = policies.into();
    }
}

/// `resizePolicy` of a container: whether a resource is changed under it, or by its restart.
pub(super) fn policy_causes(container: &Value, path: &str, pod_restarts: &str, causes: &mut Vec<Cause>) {
    let mut seen = Vec::new();
    for (index, policy) in items(container, "resizePolicy").iter().enumerate() {
        let path = format!("{path}.resizePolicy[{index}]");
        one_of(policy, &path, "resourceName", &RESOURCES, causes);
        one_of(policy, &path, "restartPolicy", &["NotRequired", "RestartContainer"], causes);
        let name = text(policy, "/resourceName");
        if seen.contains(&name) {
            let duplicate = Cause::invalid(&path, format_args!("{name:?}"), "duplicate");
            causes.push(Cause { reason: "FieldValueDuplicate", ..duplicate });
        }
        seen.push(name);
        if pod_restarts == "Never" && text(policy, "/restartPolicy") == "RestartContainer" {
            let message = "must be 'NotRequired' when `restartPolicy` is 'Never'";
            causes.push(Cause::invalid(format!("{path}.restartPolicy"), "\"RestartContainer\"", message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(resources: Value) -> Value {
        json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": resources}]}})
    }

    #[test]
    fn only_amounts_change() {
        let old = pod(json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "500m"}}));
        let mut wanted = pod(json!({"limits": {"cpu": "2", "memory": "32Mi"}, "requests": {"cpu": "1"}}));
        wanted["spec"]["containers"][0]["image"] = "other".into();
        let new = resized(old.clone(), &wanted);
        assert_eq!((&new["spec"]["containers"][0]["image"], update_causes(&old, &new)), (&json!("i"), vec![]));
        for (resources, field) in [
            (json!({"limits": {"cpu": "2"}, "requests": {"cpu": "1"}}), "spec.containers[0].resources.limits"),
            (json!({"limits": {"cpu": "1", "memory": "64Mi"}, "requests": {"cpu": "1"}}), "spec"),
        ] {
            let causes = update_causes(&old, &resized(old.clone(), &pod(resources)));
            assert_eq!(causes.iter().map(|cause| cause.field.as_str()).collect::<Vec<_>>(), [field]);
        }
    }

    #[test]
    fn resources_are_changed_without_a_restart_where_nobody_says_otherwise() {
        let defaulted = |mut container: Value| {
            policy_defaults(&mut container);
            container.get("resizePolicy").cloned()
        };
        assert_eq!(defaulted(json!({"name": "c"})), None);
        let policy = |name: &str, restarts: &str| json!({"resourceName": name, "restartPolicy": restarts});
        let resources = json!({"requests": {"cpu": "1"}, "limits": {"memory": "1Mi"}});
        let both = json!([policy("cpu", "NotRequired"), policy("memory", "NotRequired")]);
        assert_eq!(defaulted(json!({"resources": resources})), Some(both));
        let said = json!([policy("memory", "RestartContainer")]);
        let expected = json!([policy("memory", "RestartContainer"), policy("cpu", "NotRequired")]);
        assert_eq!(defaulted(json!({"resources": resources, "resizePolicy": said})), Some(expected));
    }

    #[test]
    fn a_policy_is_of_one_resource_and_fits_the_pods() {
        let causes = |policies: Value, restarts: &str| {
            let mut causes = Vec::new();
            policy_causes(&json!({"resizePolicy": policies}), "c", restarts, &mut causes);
            causes.into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let restart = json!({"resourceName": "memory", "restartPolicy": "RestartContainer"});
        assert!(causes(json!([restart]), "Always").is_empty());
        assert_eq!(causes(json!([restart]), "Never"), ["c.resizePolicy[0].restartPolicy"]);
        assert_eq!(causes(json!([restart, restart]), "Always"), ["c.resizePolicy[1]"]);
        let wrong = json!({"resourceName": "disk", "restartPolicy": "Maybe"});
        assert_eq!(
            causes(json!([wrong]), "Always"),
            ["c.resizePolicy[0].resourceName", "c.resizePolicy[0].restartPolicy"]
        );
    }
}
