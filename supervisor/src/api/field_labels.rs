//! Fields that objects of a kind are selected by (`fieldSelector`); Kubernetes' own choice.

use serde_json::Value;

use super::kinds::{Kind, text};
use super::selector::Selector;

/// Of every kind.
const COMMON: [&str; 2] = ["metadata.name", "metadata.namespace"];

fn others(kind: &Kind) -> &'static [&'static str] {
    match (kind.group, kind.plural) {
        ("", "events") => &[
            "involvedObject.apiVersion",
            "involvedObject.fieldPath",
            "involvedObject.kind",
            "involvedObject.name",
            "involvedObject.namespace",
            "involvedObject.resourceVersion",
            "involvedObject.uid",
            "reason",
            "reportingComponent",
            "source",
            "type",
        ],
        ("events.k8s.io", "events") => &[
            "reason",
            "regarding.apiVersion",
            "regarding.fieldPath",
            "regarding.kind",
            "regarding.name",
            "regarding.namespace",
            "regarding.resourceVersion",
            "regarding.uid",
            "reportingController",
            "type",
        ],
        ("", "namespaces") => &["status.phase"],
        ("", "nodes") => &["spec.unschedulable"],
        ("", "pods") => &[
            "spec.hostNetwork",
            "spec.nodeName",
            "spec.restartPolicy",
            "spec.schedulerName",
            "spec.serviceAccountName",
            "status.nominatedNodeName",
            "status.phase",
            "status.podIP",
        ],
        ("", "secrets") => &["type"],
        ("", "services") => &["spec.clusterIP", "spec.type"],
        ("apps", "replicasets") => &["status.replicas"],
        ("batch", "jobs") => &["status.successful"],
        _ => &[],
    }
}

/// Reads a field selector. Without a kind it may name what every object has.
pub(super) fn parse(selector: &str, kind: Option<&Kind>) -> Result<Selector, String> {
    let parsed = Selector::parse(selector)?;
    if selector.contains('(') || !parsed.compares_only() {
        return Err(format!("invalid selector: {selector:?}: fields are compared by =, == and != alone"));
    }
    let others = kind.map_or(&[][..], others);
    let unknown = parsed.keys().find(|key| !COMMON.contains(key) && !others.contains(key)).map(str::to_owned);
    match unknown {
        None => Ok(parsed),
        Some(key) if others.is_empty() => {
            let [name, namespace] = COMMON;
            Err(format!("{key:?} is not a known field selector: only {name:?}, {namespace:?}"))
        }
        Some(key) => Err(format!("field label not supported: {key}")),
    }
}

/// What an object has in the field.
pub(super) fn value(label: &str, object: &Value) -> String {
    let place = match label {
        "source" if text(object, "/source/component").is_empty() => "/reportingComponent".into(),
        "source" => "/source/component".into(),
        "status.successful" => "/status/succeeded".into(),
        _ => format!("/{}", label.replace('.', "/")),
    };
    match (object.pointer(&place), label) {
        (Some(Value::String(text)), _) => text.clone(),
        (Some(value), _) if !value.is_null() => value.to_string(),
        (_, "spec.hostNetwork" | "spec.unschedulable") => "false".into(),
        (_, "status.replicas" | "status.successful") => "0".into(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{config_map, event, node, pod};
    use serde_json::json;

    #[test]
    fn fields_are_looked_up_in_the_object() {
        for (kind, selector, object, expected) in [
            (&pod::KIND, "metadata.name=a,spec.nodeName!=m", json!({"metadata": {"name": "a"}}), true),
            (&pod::KIND, "status.phase=Running", json!({"status": {"phase": "Failed"}}), false),
            (&pod::KIND, "spec.hostNetwork==true", json!({"spec": {"hostNetwork": true}}), true),
            (&node::KIND, "spec.unschedulable=false", json!({"spec": {}}), true),
            (&event::KIND, "source=kubelet", json!({"reportingComponent": "kubelet"}), true),
            (
                &event::KIND,
                "source=kubelet",
                json!({"source": {"component": "c"}, "reportingComponent": "kubelet"}),
                false,
            ),
        ] {
            let parsed = parse(selector, Some(kind)).unwrap();
            assert_eq!(parsed.matches_fields(&object), expected, "{selector}");
        }
    }

    #[test]
    fn what_is_no_field_of_the_kind_is_refused() {
        assert_eq!(parse("status.reason=x", Some(&pod::KIND)).unwrap_err(), "field label not supported: status.reason");
        let only = "\"data\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"";
        assert_eq!(parse("data=x", Some(&config_map::KIND)).unwrap_err(), only);
        assert_eq!(parse("data=x", None).unwrap_err(), only);
        for wrong in ["metadata.name in (a)", "metadata.name", "!metadata.name"] {
            assert!(parse(wrong, Some(&pod::KIND)).unwrap_err().starts_with("invalid selector"), "{wrong}");
        }
    }
}
