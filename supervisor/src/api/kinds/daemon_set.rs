//! `apps/v1` DaemonSet: one pod on each node that its template wants, and there is one node.

use serde_json::{Value, json};

use super::deployment::count_or_percentage;
use super::pod_fields::unsupported;
use super::template_columns::{CONTAINERS_COLUMN, IMAGES_COLUMN, SELECTOR_COLUMN};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, selector_causes, set_default, text};
use crate::api::status::Cause;

const fn count(name: &'static str, cell: fn(&Value) -> Value) -> Column {
    Column { name, data_type: "integer", priority: 0, cell }
}

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "DaemonSet",
    plural: "daemonsets",
    singular: "daemonset",
    short_names: &["ds"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["status"],
    set_defaults,
    validate,
    validate_update: super::selector_is_immutable,
    columns: &[
        NAME_COLUMN,
        count("Desired", |o| integer(o, "/status/desiredNumberScheduled").into()),
        count("Current", |o| integer(o, "/status/currentNumberScheduled").into()),
        count("Ready", |o| integer(o, "/status/numberReady").into()),
        count("Up-to-date", |o| integer(o, "/status/updatedNumberScheduled").into()),
        count("Available", |o| integer(o, "/status/numberAvailable").into()),
        Column { name: "Node Selector", data_type: "string", priority: 0, cell: node_selector_cell },
        AGE_COLUMN,
        CONTAINERS_COLUMN,
        IMAGES_COLUMN,
        SELECTOR_COLUMN,
    ],
};

fn node_selector_cell(set: &Value) -> Value {
    let labels = set.pointer("/spec/template/spec/nodeSelector").and_then(Value::as_object).into_iter().flatten();
    let shown: Vec<String> =
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    if shown.is_empty() { "<none>".into() } else { shown.join(",").into() }
}

/// Fields of the specification that are carried out.
const FIELDS: &[&str] = &["minReadySeconds", "revisionHistoryLimit", "selector.*", "template.*", "updateStrategy.*"];

fn set_defaults(object: &mut Value) {
    let Some(spec) = object.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    if let Some(template) = spec.pointer_mut("/template/spec") {
        super::pod::spec_defaults(template);
    }
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "updateStrategy", json!({}));
    set_default(&mut spec["updateStrategy"], "type", "RollingUpdate");
    if text(spec, "/updateStrategy/type") == "RollingUpdate" {
        set_default(&mut spec["updateStrategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxUnavailable", 1);
        set_default(&mut spec["updateStrategy"]["rollingUpdate"], "maxSurge", 0);
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = unsupported(object.get("spec").unwrap_or(&Value::Null), "spec", FIELDS);
    causes.extend(selector_causes(object));
    let kept = integer(object, "/spec/revisionHistoryLimit");
    if kept < 0 {
        causes.push(Cause::invalid("spec.revisionHistoryLimit", kept, "must be greater than or equal to 0"));
    }
    match text(object, "/spec/updateStrategy/type") {
        "RollingUpdate" => causes.extend(rolling_causes(object)),
        "OnDelete" => {}
        other => {
            let message = format!("{other:?}: supported values: \"OnDelete\", \"RollingUpdate\"");
            causes.push(Cause::unsupported("spec.updateStrategy.type", &message));
        }
    }
    causes
}

fn rolling_causes(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    for field in ["maxUnavailable", "maxSurge"] {
        if bound(object, field).is_none() {
            let value = object.pointer(&format!("/spec/updateStrategy/rollingUpdate/{field}")).cloned();
            let path = format!("spec.updateStrategy.rollingUpdate.{field}");
            let message = "must be a count or a percentage such as 25%";
            causes.push(Cause::invalid(path, value.unwrap_or_default(), message));
        }
    }
    match (bound(object, "maxUnavailable"), bound(object, "maxSurge")) {
        (Some(0), Some(0)) => {
            let message = "cannot be 0 when maxSurge is 0";
            causes.push(Cause::invalid("spec.updateStrategy.rollingUpdate.maxUnavailable", 0, message));
        }
        (Some(1..), Some(1..)) => {
            let message = "may not be set when maxUnavailable is non-zero";
            causes.push(Cause::invalid("spec.updateStrategy.rollingUpdate.maxSurge", 1, message));
        }
        _ => {}
    }
    causes
}

/// A bound of the rolling update on one node.
fn bound(object: &Value, field: &str) -> Option<i64> {
    let value = object.pointer(&format!("/spec/updateStrategy/rollingUpdate/{field}")).cloned().unwrap_or(json!(0));
    count_or_percentage(&value, 1, true)
}

/// Whether the new pod is made before the old one goes.
pub fn surges(object: &Value) -> bool {
    bound(object, "maxSurge").is_some_and(|surge| surge > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_update_needs_room_on_one_side() {
        let causes = |rolling: Value| {
            let mut object = json!({"spec": {
                "selector": {"matchLabels": {"app": "a"}}, "updateStrategy": {"rollingUpdate": rolling},
                "template": {"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
            }});
            set_defaults(&mut object);
            validate(&object).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        assert_eq!(causes(json!({})), Vec::<String>::new());
        assert_eq!(causes(json!({"maxUnavailable": 0, "maxSurge": "100%"})), Vec::<String>::new());
        let path = "spec.updateStrategy.rollingUpdate";
        assert_eq!(causes(json!({"maxUnavailable": 0})), [format!("{path}.maxUnavailable")]);
        assert_eq!(causes(json!({"maxSurge": 1})), [format!("{path}.maxSurge")]);
        assert_eq!(causes(json!({"maxUnavailable": "x"})), [format!("{path}.maxUnavailable")]);
    }
}
