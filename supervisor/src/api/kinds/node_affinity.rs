//! Which nodes a pod or a volume may be on, by their labels and names: `nodeSelector`, `nodeAffinity`, and the selector of
//! nodes (`core/v1` NodeSelector) that both of them use.

use serde_json::Value;

use super::pod::items;
use super::{integer, is_dns_subdomain, is_label_value, is_qualified_name, text};
use crate::api::metadata::{NAME_RULE, VALUE_RULE, label_causes};
use crate::api::status::Cause;

pub(super) const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
pub(super) const PREFERRED: &str = "preferredDuringSchedulingIgnoredDuringExecution";
/// The only field by which nodes are selected.
const NAME_FIELD: &str = "metadata.name";

/// Whether a pod of this specification may be on `node`. What it prefers does not matter: there is no other node.
pub fn fits(spec: &Value, node: &Value) -> bool {
    let labels = &node["metadata"]["labels"];
    let mut wanted = spec.get("nodeSelector").and_then(Value::as_object).into_iter().flatten();
    let required = &spec["affinity"]["nodeAffinity"][REQUIRED];
    wanted.all(|(key, value)| labels.get(key) == Some(value)) && (required.is_null() || selects(required, node))
}

/// Whether one of the terms of a selector of nodes selects `node`. A term without any requirement selects none.
pub fn selects(selector: &Value, node: &Value) -> bool {
    let label = |key: &str| node["metadata"]["labels"].get(key).and_then(Value::as_str);
    let field = |key: &str| (key == NAME_FIELD).then(|| text(node, "/metadata/name"));
    items(selector, "nodeSelectorTerms").iter().any(|term| {
        let (labels, fields) = (items(term, "matchExpressions"), items(term, "matchFields"));
        let is_empty = labels.is_empty() && fields.is_empty();
        !is_empty
            && labels.iter().all(|requirement| is_met(requirement, label(text(requirement, "/key"))))
            && fields.iter().all(|requirement| is_met(requirement, field(text(requirement, "/key"))))
    })
}

fn is_met(requirement: &Value, found: Option<&str>) -> bool {
    let mut values = items(requirement, "values").iter().filter_map(Value::as_str);
    let number = |text: &str| text.parse::<i64>().ok();
    match (text(requirement, "/operator"), found) {
        ("In", found) => found.is_some_and(|found| values.any(|value| value == found)),
        ("NotIn", found) => found.is_none_or(|found| values.all(|value| value != found)),
        ("Exists", found) => found.is_some(),
        ("DoesNotExist", found) => found.is_none(),
        // What is no number is neither greater nor less.
        (operator @ ("Gt" | "Lt"), found) => match (found.and_then(number), values.next().and_then(number)) {
            (Some(found), Some(bound)) => {
                if operator == "Gt" {
                    found > bound
                } else {
                    found < bound
                }
            }
            _ => false,
        },
        _ => false,
    }
}

/// Everything wrong with the selector and the affinity to nodes of a pod's specification at `path`.
pub(super) fn affinity_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(labels) = spec.get("nodeSelector").and_then(Value::as_object) {
        causes.extend(label_causes(labels, &format!("{path}.nodeSelector")));
    }
    let affinity = &spec["affinity"]["nodeAffinity"];
    let path = format!("{path}.affinity.nodeAffinity");
    if !affinity[REQUIRED].is_null() {
        selector_causes(&affinity[REQUIRED], &format!("{path}.{REQUIRED}"), causes);
    }
    for (index, term) in items(affinity, PREFERRED).iter().enumerate() {
        let path = format!("{path}.{PREFERRED}[{index}]");
        weight_causes(term, &path, causes);
        term_causes(&term["preference"], &format!("{path}.preference"), false, causes);
    }
}

/// How much a preference counts beside others.
pub(super) fn weight_causes(term: &Value, path: &str, causes: &mut Vec<Cause>) {
    let weight = integer(term, "/weight");
    if !(1..=100).contains(&weight) {
        causes.push(Cause::invalid(format!("{path}.weight"), weight, "must be in the range 1-100"));
    }
}

/// Everything wrong with a selector of nodes.
pub(super) fn selector_causes(selector: &Value, path: &str, causes: &mut Vec<Cause>) {
    let terms = items(selector, "nodeSelectorTerms");
    if terms.is_empty() {
        let path = format!("{path}.nodeSelectorTerms");
        causes.push(Cause::required(path, "must have at least one node selector term"));
    }
    for (index, term) in terms.iter().enumerate() {
        term_causes(term, &format!("{path}.nodeSelectorTerms[{index}]"), true, causes);
    }
}

/// `is_strict` also of the form of values, which preferences may leave.
fn term_causes(term: &Value, path: &str, is_strict: bool, causes: &mut Vec<Cause>) {
    for (index, requirement) in items(term, "matchExpressions").iter().enumerate() {
        requirement_causes(requirement, &format!("{path}.matchExpressions[{index}]"), &COMPARED, is_strict, causes);
    }
    for (index, requirement) in items(term, "matchFields").iter().enumerate() {
        field_requirement_causes(requirement, &format!("{path}.matchFields[{index}]"), causes);
    }
}

/// Operators that labels of nodes can be selected by, and those of nothing else.
const COMPARED: [&str; 2] = ["Gt", "Lt"];

/// What is wrong with what is required of a label, by one of the usual operators or one of `more`.
pub(super) fn requirement_causes(
    requirement: &Value,
    path: &str,
    more: &[&str],
    is_strict: bool,
    causes: &mut Vec<Cause>,
) {
    let (operator, values) = (text(requirement, "/operator"), items(requirement, "values"));
    let values_path = format!("{path}.values");
    match (operator, values.len()) {
        ("In" | "NotIn", 0) => {
            causes.push(Cause::required(values_path, "must be specified when `operator` is 'In' or 'NotIn'"));
        }
        ("Exists" | "DoesNotExist", 1..) => {
            let message = "may not be specified when `operator` is 'Exists' or 'DoesNotExist'";
            causes.push(Cause::forbidden(values_path, message));
        }
        ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
        (_, count) if more.contains(&operator) && count != 1 => {
            let message = "must be specified single value when `operator` is 'Lt' or 'Gt'";
            causes.push(Cause::required(values_path, message));
        }
        _ if more.contains(&operator) => {}
        _ => causes.push(wrong_operator(path, operator)),
    }
    for (index, value) in values.iter().enumerate().filter(|_| is_strict) {
        if !value.as_str().is_some_and(is_label_value) {
            causes.push(Cause::invalid(format!("{path}.values[{index}]"), value, VALUE_RULE));
        }
    }
    let key = text(requirement, "/key");
    if !is_qualified_name(key) {
        causes.push(Cause::invalid(format!("{path}.key"), format_args!("{key:?}"), NAME_RULE));
    }
}

fn field_requirement_causes(requirement: &Value, path: &str, causes: &mut Vec<Cause>) {
    let (operator, values) = (text(requirement, "/operator"), items(requirement, "values"));
    match operator {
        "In" | "NotIn" if values.len() != 1 => {
            let message = "must be only one value when `operator` is 'In' or 'NotIn' for node field selector";
            causes.push(Cause::required(format!("{path}.values"), message));
        }
        "In" | "NotIn" => {}
        _ => causes.push(wrong_operator(path, operator)),
    }
    let key = text(requirement, "/key");
    if key != NAME_FIELD {
        let message = "not a valid field selector key";
        causes.push(Cause::invalid(format!("{path}.key"), format_args!("{key:?}"), message));
        return;
    }
    for (index, value) in values.iter().enumerate() {
        if !value.as_str().is_some_and(is_dns_subdomain) {
            let message = "must be a lowercase RFC 1123 subdomain";
            causes.push(Cause::invalid(format!("{path}.values[{index}]"), value, message));
        }
    }
}

fn wrong_operator(path: &str, operator: &str) -> Cause {
    Cause::invalid(format!("{path}.operator"), format_args!("{operator:?}"), "not a valid selector operator")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Value {
        json!({"metadata": {"name": "n", "labels": {"disk": "ssd", "cores": "8", "word": "many"}}})
    }

    fn affine(terms: Value) -> Value {
        json!({"affinity": {"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn each_operator_means_what_it_means_in_kubernetes() {
        for (key, operator, values, expected) in [
            ("disk", "In", json!(["hdd", "ssd"]), true),
            ("disk", "In", json!(["hdd"]), false),
            ("none", "In", json!(["ssd"]), false),
            ("disk", "NotIn", json!(["ssd"]), false),
            ("none", "NotIn", json!(["ssd"]), true),
            ("disk", "Exists", json!([]), true),
            ("none", "Exists", json!([]), false),
            ("none", "DoesNotExist", Value::Null, true),
            ("disk", "DoesNotExist", Value::Null, false),
            ("cores", "Gt", json!(["7"]), true),
            ("cores", "Gt", json!(["8"]), false),
            ("cores", "Lt", json!(["9"]), true),
            ("cores", "Lt", json!(["8"]), false),
            ("cores", "Gt", json!(["-1"]), true),
            ("cores", "Gt", json!(["few"]), false),
            ("word", "Lt", json!(["9"]), false),
            ("none", "Lt", json!(["9"]), false),
            ("cores", "Lt", json!(["99999999999999999999"]), false),
        ] {
            let requirement = json!({"key": key, "operator": operator, "values": values});
            let spec = affine(json!([{"matchExpressions": [requirement]}]));
            assert_eq!(fits(&spec, &node()), expected, "{requirement}");
        }
    }

    #[test]
    fn one_term_is_enough_and_all_of_it_is_needed() {
        let label = |value: &str| json!({"key": "disk", "operator": "In", "values": [value]});
        let name = |value: &str| json!({"key": "metadata.name", "operator": "In", "values": [value]});
        for (terms, expected) in [
            (json!([{"matchExpressions": [label("hdd")]}, {"matchExpressions": [label("ssd")]}]), true),
            (json!([{"matchExpressions": [label("ssd"), label("hdd")]}]), false),
            (json!([{"matchFields": [name("n")]}]), true),
            (json!([{"matchFields": [name("m")]}]), false),
            (json!([{"matchFields": [{"key": "metadata.name", "operator": "NotIn", "values": ["n"]}]}]), false),
            (json!([{"matchExpressions": [label("hdd")], "matchFields": [name("n")]}]), false),
            (json!([{}]), false),
            (json!([]), false),
        ] {
            assert_eq!(fits(&affine(terms.clone()), &node()), expected, "{terms}");
        }
        let mut both = affine(json!([{"matchExpressions": [label("ssd")]}]));
        both["nodeSelector"] = json!({"cores": "8"});
        assert!(fits(&both, &node()));
        both["nodeSelector"] = json!({"cores": "8", "none": ""});
        assert!(!fits(&both, &node()));
        assert!(fits(&json!({}), &node()) && fits(&json!({"nodeSelector": {}}), &json!({"metadata": {"name": "n"}})));
    }

    #[test]
    fn wrong_selectors_of_nodes_are_named_with_their_path() {
        let fields = |spec: Value| -> Vec<String> {
            let mut causes = Vec::new();
            affinity_causes(&spec, "spec", &mut causes);
            causes.into_iter().map(|cause| cause.field).collect()
        };
        assert_eq!(fields(json!({"nodeSelector": {"a b": "x"}})), ["spec.nodeSelector"]);
        assert_eq!(fields(json!({"nodeSelector": {"a": "x y"}})), ["spec.nodeSelector"]);
        let path = format!("spec.affinity.nodeAffinity.{REQUIRED}.nodeSelectorTerms");
        assert_eq!(fields(affine(json!([]))), [path.as_str()]);
        let expression = |operator: &str, values: Value| json!({"key": "a", "operator": operator, "values": values});
        for (requirement, wrong) in [
            (expression("In", json!([])), "values"),
            (expression("Exists", json!(["x"])), "values"),
            (expression("Gt", json!(["1", "2"])), "values"),
            (expression("Lt", Value::Null), "values"),
            (expression("Near", json!([])), "operator"),
            (expression("", json!([])), "operator"),
            (expression("In", json!(["x", "x y"])), "values[1]"),
            (json!({"key": "", "operator": "Exists"}), "key"),
        ] {
            let found = fields(affine(json!([{"matchExpressions": [requirement]}])));
            assert_eq!(found, [format!("{path}[0].matchExpressions[0].{wrong}")], "{requirement}");
        }
        for (requirement, wrong) in [
            (json!({"key": "metadata.name", "operator": "In", "values": []}), "values"),
            (json!({"key": "metadata.name", "operator": "Exists"}), "operator"),
            (json!({"key": "metadata.namespace", "operator": "In", "values": ["x"]}), "key"),
            (json!({"key": "metadata.name", "operator": "In", "values": ["X Y"]}), "values[0]"),
        ] {
            let found = fields(affine(json!([{}, {"matchFields": [requirement]}])));
            assert_eq!(found, [format!("{path}[1].matchFields[0].{wrong}")], "{requirement}");
        }
        let preferring = |weight: i64, key: &str| {
            let preference = json!({"matchExpressions": [{"key": key, "operator": "In", "values": ["x y"]}]});
            json!({"affinity": {"nodeAffinity": {PREFERRED: [{"weight": weight, "preference": preference}]}}})
        };
        let path = format!("spec.affinity.nodeAffinity.{PREFERRED}[0]");
        assert_eq!(fields(preferring(100, "a")), [""; 0]);
        assert_eq!(fields(preferring(0, "a")), [format!("{path}.weight")]);
        assert_eq!(
            fields(preferring(101, "-")),
            [format!("{path}.weight"), format!("{path}.preference.matchExpressions[0].key")]
        );
    }
}
