//! `scheduling.k8s.io/v1` PriorityClass: how much pods matter beside others, by name.

use serde_json::{Value, json};

use super::pod::one_of;
use super::pod_fields::unsupported;
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, is_dns_subdomain, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "scheduling.k8s.io",
    version: "v1",
    kind: "PriorityClass",
    plural: "priorityclasses",
    singular: "priorityclass",
    short_names: &["pc"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |object| {
        set_default(object, "value", 0);
        set_default(object, "preemptionPolicy", PREEMPTING);
    },
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Value", data_type: "integer", priority: 0, cell: |o| integer(o, "/value").into() },
        Column { name: "Global-Default", data_type: "boolean", priority: 0, cell: |o| is_default(o).into() },
        AGE_COLUMN,
        Column {
            name: "PreemptionPolicy",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/preemptionPolicy").into(),
        },
    ],
};

/// Pods of such a class may have others ended for them.
pub const PREEMPTING: &str = "PreemptLowerPriority";
/// And those of such a class may not.
pub const NEVER: &str = "Never";
/// Of the names of the classes that every node has, and of no other's.
const SYSTEM_PREFIX: &str = "system-";
const HIGHEST_OF_USERS: i64 = 1_000_000_000;
/// Pods of such a priority and above are not ended when the node is short of something.
pub const LEAST_CRITICAL: i64 = 2 * HIGHEST_OF_USERS;
/// Of pods without which the node is of no use.
pub const NODE_CRITICAL: &str = "system-node-critical";
/// Name, value and description of the classes that every node has.
const BUILT_IN: [(&str, i64, &str); 2] = [
    (
        "system-cluster-critical",
        LEAST_CRITICAL,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
    (
        NODE_CRITICAL,
        LEAST_CRITICAL + 1000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
];

const FIELDS: &[&str] =
    &["apiVersion", "description", "globalDefault", "kind", "metadata.*", "preemptionPolicy", "value"];

/// The classes that every node has, as they are made.
pub fn built_in() -> impl Iterator<Item = Value> {
    BUILT_IN.into_iter().map(|(name, value, description)| {
        json!({
            "apiVersion": KIND.api_version(), "kind": KIND.kind, "metadata": {"name": name}, "value": value,
            "description": description,
        })
    })
}

/// Whether a class is one that every node has, by its name.
pub fn is_built_in(name: &str) -> bool {
    BUILT_IN.iter().any(|(known, ..)| *known == name)
}

/// Whether pods that name no class are of this one.
pub fn is_default(class: &Value) -> bool {
    class.get("globalDefault") == Some(&Value::Bool(true))
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = unsupported(object, "", FIELDS);
    causes.iter_mut().for_each(|cause| cause.field = cause.field.trim_start_matches('.').into());
    let (name, value) = (text(object, "/metadata/name"), integer(object, "/value"));
    if name.starts_with(SYSTEM_PREFIX) {
        let error = match BUILT_IN.iter().find(|(known, ..)| *known == name) {
            None => Some(format!("{name} is not a known system priority class")),
            Some((_, expected, _)) if value != *expected => {
                Some(format!("value of {name} PriorityClass must be {expected}"))
            }
            Some(_) if is_default(object) => Some(format!("globalDefault of {name} PriorityClass must be false")),
            Some(_) => None,
        };
        if let Some(error) = error {
            let rule = "priority class names with 'system-' prefix are reserved for system use only";
            causes.push(Cause::forbidden("metadata.name", &format!("{rule}. error: {error}")));
        }
    } else if value > HIGHEST_OF_USERS {
        let message = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
        causes.push(Cause::forbidden("value", &message));
    }
    policy_causes(object, "", &mut causes);
    causes
}

/// What is wrong with what a pod's specification at `path` says of its priority.
pub(super) fn priority_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    policy_causes(spec, path, causes);
    let class = text(spec, "/priorityClassName");
    if !class.is_empty() && !is_dns_subdomain(class) {
        let message = "must be a lowercase RFC 1123 subdomain";
        causes.push(Cause::invalid(format!("{path}.priorityClassName"), format_args!("{class:?}"), message));
    }
}

fn policy_causes(object: &Value, path: &str, causes: &mut Vec<Cause>) {
    if object.get("preemptionPolicy").is_some_and(|policy| !policy.is_null()) {
        let before = causes.len();
        one_of(object, path, "preemptionPolicy", &[NEVER, PREEMPTING], causes);
        causes[before..].iter_mut().for_each(|cause| cause.field = cause.field.trim_start_matches('.').into());
    }
}

/// What pods were given by it stays.
fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if integer(old, "/value") != integer(new, "/value") {
        causes.push(Cause::forbidden("value", "may not be changed in an update."));
    }
    if old.get("preemptionPolicy") != new.get("preemptionPolicy") {
        causes.push(Cause::invalid("preemptionPolicy", &new["preemptionPolicy"], "field is immutable"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(causes: Vec<Cause>) -> Vec<String> {
        causes.into_iter().map(|cause| cause.field).collect()
    }

    fn class(name: &str, value: i64) -> Value {
        let mut class = json!({"metadata": {"name": name}, "value": value});
        (KIND.set_defaults)(&mut class);
        class
    }

    #[test]
    fn wrong_classes_are_named_with_their_field() {
        for good in built_in().chain([class("high", HIGHEST_OF_USERS), class("low", -2_147_483_648)]) {
            assert_eq!(validate(&good), [], "{good}");
        }
        assert_eq!(fields(validate(&class("high", HIGHEST_OF_USERS + 1))), ["value"]);
        assert_eq!(fields(validate(&class("system-mine", 1))), ["metadata.name"]);
        assert_eq!(fields(validate(&class("system-node-critical", 1))), ["metadata.name"]);
        let mut default = class("system-node-critical", 2_000_001_000);
        default["globalDefault"] = true.into();
        assert_eq!(fields(validate(&default)), ["metadata.name"]);
        let mut odd = class("odd", 1);
        odd["preemptionPolicy"] = "Sometimes".into();
        assert_eq!(fields(validate(&odd)), ["preemptionPolicy"]);
        let pod = |spec: Value| {
            let mut causes = Vec::new();
            priority_causes(&spec, "spec", &mut causes);
            fields(causes)
        };
        assert_eq!(pod(json!({"priorityClassName": "high", "preemptionPolicy": "Never"})), [""; 0]);
        assert_eq!(pod(json!({"priorityClassName": "High"})), ["spec.priorityClassName"]);
        assert_eq!(pod(json!({"preemptionPolicy": "Sometimes"})), ["spec.preemptionPolicy"]);
    }

    #[test]
    fn what_pods_were_given_stays() {
        let old = class("a", 1);
        let mut new = old.clone();
        new["description"] = "other".into();
        new["globalDefault"] = true.into();
        assert_eq!(validate_update(&old, &new), []);
        new["value"] = 2.into();
        new["preemptionPolicy"] = NEVER.into();
        assert_eq!(fields(validate_update(&old, &new)), ["value", "preemptionPolicy"]);
    }
}
