//! `apps/v1` Deployment.

use super::template_columns::{CONTAINERS_COLUMN, IMAGES_COLUMN, SELECTOR_COLUMN};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, selector_causes, set_default, text};
use crate::api::status::Cause;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "Deployment",
    plural: "deployments",
    singular: "deployment",
    short_names: &["deploy"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["scale", "status"],
    set_defaults,
    validate,
    validate_update: super::selector_is_immutable,
    columns: &[
        NAME_COLUMN,
        Column {
            name: "Ready",
            data_type: "string",
            priority: 0,
            cell: |o| format!("{}/{}", integer(o, "/status/readyReplicas"), integer(o, "/spec/replicas")).into(),
        },
        Column {
            name: "Up-to-date",
            data_type: "integer",
            priority: 0,
            cell: |o| integer(o, "/status/updatedReplicas").into(),
        },
        Column {
            name: "Available",
            data_type: "integer",
            priority: 0,
            cell: |o| integer(o, "/status/availableReplicas").into(),
        },
        AGE_COLUMN,
        CONTAINERS_COLUMN,
        IMAGES_COLUMN,
        SELECTOR_COLUMN,
    ],
};

fn set_defaults(object: &mut Value) {
    super::template_defaults(object);
    let Some(spec) = object.get_mut("spec") else { return };
    set_default(spec, "revisionHistoryLimit", 10);
    set_default(spec, "progressDeadlineSeconds", 600);
    set_default(spec, "strategy", json!({}));
    set_default(&mut spec["strategy"], "type", "RollingUpdate");
    if text(spec, "/strategy/type") == "RollingUpdate" {
        set_default(&mut spec["strategy"], "rollingUpdate", json!({}));
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxSurge", "25%");
        set_default(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", "25%");
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = selector_causes(object);
    match text(object, "/spec/strategy/type") {
        "RollingUpdate" => causes.extend(rolling_causes(object)),
        "Recreate" => {}
        other => {
            let message = format!("{other:?}: supported values: \"Recreate\", \"RollingUpdate\"");
            causes.push(Cause::unsupported("spec.strategy.type", &message));
        }
    }
    let deadline = integer(object, "/spec/progressDeadlineSeconds");
    if deadline <= integer(object, "/spec/minReadySeconds") {
        let message = "must be greater than minReadySeconds";
        causes.push(Cause::invalid("spec.progressDeadlineSeconds", deadline, message));
    }
    causes
}

fn rolling_causes(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut bounds = [0; 2];
    for (bound, field) in bounds.iter_mut().zip(["maxSurge", "maxUnavailable"]) {
        let value = object.pointer(&format!("/spec/strategy/rollingUpdate/{field}")).cloned().unwrap_or_default();
        match count_or_percentage(&value, 100, false) {
            Some(count) => *bound = count,
            None => {
                let path = format!("spec.strategy.rollingUpdate.{field}");
                causes.push(Cause::invalid(path, value, "must be a count or a percentage such as 25%"));
            }
        }
    }
    if causes.is_empty() && bounds == [0, 0] {
        let message = "may not be 0 when `maxSurge` is 0";
        causes.push(Cause::invalid("spec.strategy.rollingUpdate.maxUnavailable", 0, message));
    }
    causes
}

/// A count as it is, or a percentage of `total`; rounded up for a surge, down otherwise.
pub fn count_or_percentage(value: &Value, total: i64, round_up: bool) -> Option<i64> {
    if let Some(count) = value.as_i64() {
        return (count >= 0).then_some(count);
    }
    let percent: i64 = value.as_str()?.strip_suffix('%')?.parse().ok().filter(|p| (0..=1000).contains(p))?;
    let exact = percent * total;
    Some(if round_up { (exact + 99) / 100 } else { exact / 100 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_round_as_rollouts_need() {
        assert_eq!(count_or_percentage(&json!("25%"), 3, true), Some(1));
        assert_eq!(count_or_percentage(&json!("25%"), 3, false), Some(0));
        assert_eq!(count_or_percentage(&json!(2), 3, false), Some(2));
        for wrong in [json!(-1), json!("25"), json!("x%"), json!(null), json!("-5%")] {
            assert_eq!(count_or_percentage(&wrong, 3, true), None, "{wrong}");
        }
    }

    #[test]
    fn a_selector_must_match_the_template() {
        let mut object = json!({"spec": {
            "selector": {"matchLabels": {"app": "a"}},
            "template": {"metadata": {"labels": {"app": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}},
        }});
        set_defaults(&mut object);
        let causes = validate(&object);
        assert_eq!(causes.len(), 1, "{causes:?}");
        assert_eq!(causes[0].field, "spec.template.metadata.labels");
        object["spec"]["template"]["metadata"]["labels"]["app"] = json!("a");
        assert_eq!(validate(&object), []);
    }
}
