//! `podFailurePolicy` and `successPolicy` of a Job: what the end of a pod means, and when enough has been done.

use serde_json::{Value, json};

use super::job_index::Indexes;
use super::pod::{items, one_of};
use super::{integer, is_qualified_name, set_default, text};
use crate::api::status::Cause;

/// Kubernetes' own bounds.
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_INDEXES_TEXT: usize = 64 << 10;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

pub(super) fn set_defaults(spec: &mut Value) {
    let rules = spec.pointer_mut("/podFailurePolicy/rules").and_then(Value::as_array_mut);
    for rule in rules.into_iter().flatten() {
        for condition in rule.get_mut("onPodConditions").and_then(Value::as_array_mut).into_iter().flatten() {
            set_default(condition, "status", "True");
        }
    }
}

fn too_many(path: &str, found: usize, most: usize) -> Cause {
    Cause {
        reason: "FieldValueTooMany",
        field: path.into(),
        message: format!("Too many: {found}: must have at most {most} items"),
    }
}

/// What is wrong with the failure policy of a Job's specification.
pub(super) fn failure_causes(spec: &Value, causes: &mut Vec<Cause>) {
    let Some(policy) = spec.get("podFailurePolicy").filter(|policy| !policy.is_null()) else { return };
    let restarts = text(spec, "/template/spec/restartPolicy");
    if restarts != "Never" {
        let message = "only \"Never\" is supported when podFailurePolicy is specified";
        causes.push(Cause::invalid("spec.template.spec.restartPolicy", format_args!("{restarts:?}"), message));
    }
    let rules = items(policy, "rules");
    if rules.len() > MAX_RULES {
        causes.push(too_many("spec.podFailurePolicy.rules", rules.len(), MAX_RULES));
    }
    let template = spec.pointer("/template/spec").unwrap_or(&Value::Null);
    let containers = items(template, "containers").iter().chain(items(template, "initContainers"));
    let containers: Vec<&str> = containers.map(|container| text(container, "/name")).collect();
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("spec.podFailurePolicy.rules[{index}]");
        one_of(rule, &path, "action", &ACTIONS, causes);
        if text(rule, "/action") == "FailIndex" && spec.get("backoffLimitPerIndex").is_none_or(Value::is_null) {
            let message = "requires the backoffLimitPerIndex to be set";
            causes.push(Cause::invalid(format!("{path}.action"), "\"FailIndex\"", message));
        }
        let codes = rule.get("onExitCodes").filter(|codes| !codes.is_null());
        let conditions = items(rule, "onPodConditions");
        match (codes, conditions.is_empty()) {
            (Some(_), false) => {
                let message = "specifying both OnExitCodes and OnPodConditions is not supported";
                causes.push(Cause::invalid(&path, rule, message));
            }
            (None, true) => {
                let message = "specifying one of OnExitCodes and OnPodConditions is required";
                causes.push(Cause::invalid(&path, rule, message));
            }
            (Some(codes), true) => exit_code_causes(codes, &format!("{path}.onExitCodes"), &containers, causes),
            (None, false) => condition_causes(conditions, &format!("{path}.onPodConditions"), causes),
        }
    }
}

fn exit_code_causes(codes: &Value, path: &str, containers: &[&str], causes: &mut Vec<Cause>) {
    one_of(codes, path, "operator", &["In", "NotIn"], causes);
    let name = text(codes, "/containerName");
    if codes.get("containerName").is_some_and(|name| !name.is_null()) && !containers.contains(&name) {
        let message = "must be one of the container or initContainer names in the pod template";
        causes.push(Cause::invalid(format!("{path}.containerName"), format_args!("{name:?}"), message));
    }
    let path = format!("{path}.values");
    let values = items(codes, "values");
    if values.is_empty() {
        causes.push(Cause::invalid(&path, "[]", "at least one value is required"));
    }
    if values.len() > MAX_EXIT_CODES {
        causes.push(too_many(&path, values.len(), MAX_EXIT_CODES));
    }
    let numbers: Vec<i64> = values.iter().filter_map(Value::as_i64).collect();
    for (index, number) in numbers.iter().enumerate() {
        let path = format!("{path}[{index}]");
        if *number == 0 && text(codes, "/operator") == "In" {
            causes.push(Cause::invalid(&path, number, "must not be 0 for the In operator"));
        }
        if numbers[..index].contains(number) {
            causes.push(Cause { reason: "FieldValueDuplicate", ..Cause::invalid(&path, number, "duplicate") });
        }
    }
    if !numbers.is_sorted() {
        causes.push(Cause::invalid(&path, json!(numbers), "must be ordered"));
    }
}

fn condition_causes(conditions: &[Value], path: &str, causes: &mut Vec<Cause>) {
    if conditions.len() > MAX_RULES {
        causes.push(too_many(path, conditions.len(), MAX_RULES));
    }
    for (index, condition) in conditions.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let name = text(condition, "/type");
        if !is_qualified_name(name) {
            let message = "must be a qualified name: an optional DNS subdomain and /, then letters, digits, -, _ and .";
            causes.push(Cause::invalid(format!("{path}.type"), format_args!("{name:?}"), message));
        }
        one_of(condition, &path, "status", &["False", "True", "Unknown"], causes);
    }
}

/// What is wrong with the success policy of a Job's specification.
pub(super) fn success_causes(spec: &Value, causes: &mut Vec<Cause>) {
    let Some(policy) = spec.get("successPolicy").filter(|policy| !policy.is_null()) else { return };
    if text(spec, "/completionMode") != "Indexed" {
        causes.push(Cause::invalid("spec.successPolicy", policy, "requires indexed completion mode"));
        return;
    }
    let path = "spec.successPolicy.rules";
    let rules = items(policy, "rules");
    if rules.is_empty() {
        causes.push(Cause::required(path, "at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() > MAX_RULES {
        causes.push(too_many(path, rules.len(), MAX_RULES));
    }
    let completions = integer(spec, "/completions");
    for (index, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{index}]");
        let indexes = rule.get("succeededIndexes").and_then(Value::as_str);
        let count = rule.get("succeededCount").and_then(Value::as_i64);
        if indexes.is_none() && count.is_none() {
            causes.push(Cause::required(&path, "at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut most = (completions, "must be less than or equal to completions");
        if let Some(written) = indexes {
            let path = format!("{path}.succeededIndexes");
            if written.len() > MAX_INDEXES_TEXT {
                let message = format!("Too long: may not be more than {MAX_INDEXES_TEXT} bytes");
                causes.push(Cause { reason: "FieldValueTooLong", field: path, message });
                continue;
            }
            match Indexes::parse(written, completions) {
                Ok(indexes) => most = (indexes.count(), "must be less than or equal to the number of succeededIndexes"),
                Err(message) => {
                    let message = format!("error parsing succeededIndexes: {message}");
                    causes.push(Cause::invalid(path, format_args!("{written:?}"), &message));
                }
            }
        }
        if let Some(count) = count.filter(|count| !(0..=most.0).contains(count)) {
            let message = if count < 0 { "must be greater than or equal to 0" } else { most.1 };
            causes.push(Cause::invalid(format!("{path}.succeededCount"), count, message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(check: fn(&Value, &mut Vec<Cause>), spec: Value) -> Vec<String> {
        let mut spec = spec;
        set_defaults(&mut spec);
        let mut causes = Vec::new();
        check(&spec, &mut causes);
        causes.into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn wrong_rules_of_failures_are_named_with_their_path() {
        let causes = |rule: Value| {
            let template = json!({"spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}});
            fields(failure_causes, json!({"template": template, "podFailurePolicy": {"rules": [rule]}}))
        };
        let codes = |codes: Value| json!({"action": "FailJob", "onExitCodes": codes});
        assert!(causes(codes(json!({"operator": "In", "values": [1, 42]}))).is_empty());
        assert!(causes(json!({"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]})).is_empty());
        let path = "spec.podFailurePolicy.rules[0]";
        for (rule, field) in [
            (json!({"action": "Restart", "onPodConditions": [{"type": "A"}]}), ".action"),
            (json!({"action": "FailIndex", "onPodConditions": [{"type": "A"}]}), ".action"),
            (json!({"action": "Count"}), ""),
            (codes(json!({"operator": "Is", "values": [1]})), ".onExitCodes.operator"),
            (codes(json!({"operator": "In", "values": []})), ".onExitCodes.values"),
            (codes(json!({"operator": "In", "values": [0]})), ".onExitCodes.values[0]"),
            (codes(json!({"operator": "NotIn", "values": [1, 1]})), ".onExitCodes.values[1]"),
            (codes(json!({"operator": "In", "values": [2, 1]})), ".onExitCodes.values"),
            (codes(json!({"operator": "In", "values": [1], "containerName": "x"})), ".onExitCodes.containerName"),
            (json!({"action": "Count", "onPodConditions": [{"type": "a b"}]}), ".onPodConditions[0].type"),
            (
                json!({"action": "Count", "onPodConditions": [{"type": "A", "status": "Maybe"}]}),
                ".onPodConditions[0].status",
            ),
        ] {
            assert_eq!(causes(rule.clone()), [format!("{path}{field}")], "{rule}");
        }
        let restarts = json!({"template": {"spec": {"restartPolicy": "OnFailure"}}, "podFailurePolicy": {"rules": []}});
        assert_eq!(fields(failure_causes, restarts), ["spec.template.spec.restartPolicy"]);
    }

    #[test]
    fn wrong_rules_of_success_are_named_with_their_path() {
        let causes = |rules: Value| {
            let spec = json!({"completionMode": "Indexed", "completions": 10, "successPolicy": {"rules": rules}});
            fields(success_causes, spec)
        };
        assert!(causes(json!([{"succeededIndexes": "0,2-4", "succeededCount": 2}, {"succeededCount": 3}])).is_empty());
        let path = "spec.successPolicy.rules";
        assert_eq!(causes(json!([])), [path]);
        assert_eq!(causes(json!([{}])), [format!("{path}[0]")]);
        for indexes in ["", "10", "3,2"] {
            assert_eq!(causes(json!([{"succeededIndexes": indexes}])), [format!("{path}[0].succeededIndexes")]);
        }
        for rule in [json!({"succeededCount": 11}), json!({"succeededCount": 3, "succeededIndexes": "1,2"})] {
            assert_eq!(causes(json!([rule])), [format!("{path}[0].succeededCount")]);
        }
        let plain = json!({"completionMode": "NonIndexed", "successPolicy": {"rules": [{"succeededCount": 1}]}});
        assert_eq!(fields(success_causes, plain), ["spec.successPolicy"]);
    }
}
