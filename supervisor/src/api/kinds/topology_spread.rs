//! How evenly pods are to be spread over domains of nodes: `topologySpreadConstraints`. Of one node there is one domain.

use std::collections::BTreeSet;

use serde_json::Value;

use super::pod::items;
use super::pod_affinity::{label_key_causes, label_selector_causes, topology_key_causes};
use super::{integer, text};
use crate::api::status::Cause;

/// Everything wrong with the constraints of a pod's specification at `path`.
pub(super) fn spread_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut earlier = BTreeSet::new();
    for (index, constraint) in items(spec, "topologySpreadConstraints").iter().enumerate() {
        let path = format!("{path}.topologySpreadConstraints[{index}]");
        constraint_causes(constraint, &path, causes);
        let key = ["/topologyKey", "/whenUnsatisfiable"].map(|at| text(constraint, at));
        if !earlier.insert(key) {
            let shown = key.join(", ");
            causes.push(Cause {
                reason: "FieldValueDuplicate",
                field: format!("{path}.{{topologyKey, whenUnsatisfiable}}"),
                message: format!("Duplicate value: \"{{{shown}}}\""),
            });
        }
    }
}

fn constraint_causes(constraint: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mut positive = |field: &str| {
        let found = integer(constraint, &format!("/{field}"));
        if found <= 0 {
            causes.push(Cause::invalid(format!("{path}.{field}"), found, "must be greater than zero"));
        }
    };
    positive("maxSkew");
    let has_domains = !constraint["minDomains"].is_null();
    if has_domains {
        positive("minDomains");
    }
    topology_key_causes(constraint, path, causes);
    let mut one_of = |field: &str, allowed: [&str; 2]| {
        let found = text(constraint, &format!("/{field}"));
        if !allowed.contains(&found) {
            let [one, other] = allowed;
            let message = format!("{found:?}: supported values: {one:?}, {other:?}");
            causes.push(Cause::unsupported(format!("{path}.{field}"), &message));
        }
    };
    one_of("whenUnsatisfiable", ["DoNotSchedule", "ScheduleAnyway"]);
    for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
        if !constraint[policy].is_null() {
            one_of(policy, ["Honor", "Ignore"]);
        }
    }
    let unsatisfiable = text(constraint, "/whenUnsatisfiable");
    if has_domains && unsatisfiable != "DoNotSchedule" {
        let message = format!("can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {unsatisfiable}");
        causes.push(Cause::invalid(format!("{path}.minDomains"), integer(constraint, "/minDomains"), &message));
    }
    label_selector_causes(&constraint["labelSelector"], &format!("{path}.labelSelector"), causes);
    label_key_causes(constraint, "matchLabelKeys", path, causes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_constraints_are_named_with_their_path() {
        let fields = |constraints: Value| -> Vec<String> {
            let mut causes = Vec::new();
            spread_causes(&json!({"topologySpreadConstraints": constraints}), "spec", &mut causes);
            let prefix = "spec.topologySpreadConstraints";
            causes.into_iter().map(|cause| cause.field.strip_prefix(prefix).unwrap().to_owned()).collect()
        };
        let good = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "minDomains": 2,
            "labelSelector": {}, "matchLabelKeys": ["a"], "nodeAffinityPolicy": "Honor", "nodeTaintsPolicy": "Ignore"});
        assert_eq!(fields(json!([good])), [""; 0]);
        for (field, value) in [
            ("maxSkew", json!(0)),
            ("minDomains", json!(-1)),
            ("topologyKey", json!("")),
            ("whenUnsatisfiable", json!("Never")),
            ("nodeAffinityPolicy", json!("Maybe")),
            ("nodeTaintsPolicy", json!("Maybe")),
        ] {
            let mut wrong = good.clone();
            wrong[field] = value;
            assert_eq!(fields(json!([wrong]))[0], format!("[0].{field}"));
        }
        let mut anyway = good.clone();
        anyway["whenUnsatisfiable"] = "ScheduleAnyway".into();
        assert_eq!(fields(json!([anyway])), ["[0].minDomains"]);
        let mut unselected = good.clone();
        unselected["labelSelector"] = Value::Null;
        assert_eq!(fields(json!([unselected])), ["[0].matchLabelKeys"]);
        assert_eq!(fields(json!([good, good])), ["[1].{topologyKey, whenUnsatisfiable}"]);
    }
}
