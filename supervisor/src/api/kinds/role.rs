//! `rbac.authorization.k8s.io/v1` Role: rights in one namespace. What a rule may say is here, for both kinds of roles.

use serde_json::Value;

use super::pod::items;
use super::pod_fields::unsupported;
use super::{ALL_VERBS, Column, Kind, NAME_COLUMN, text};
use crate::api::status::Cause;

pub const GROUP: &str = "rbac.authorization.k8s.io";

pub static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "Role",
    plural: "roles",
    singular: "role",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate: |role| causes(role, true),
    validate_update: |_, _| Vec::new(),
    columns: COLUMNS,
};

pub(super) const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column {
        name: "Created At",
        data_type: "date",
        priority: 0,
        cell: |role| text(role, "/metadata/creationTimestamp").into(),
    },
];

/// Fields that are carried out, of either kind of role.
const FIELDS: &[&str] = &[
    "apiVersion",
    "kind",
    "metadata.*",
    "rules[].apiGroups",
    "rules[].nonResourceURLs",
    "rules[].resourceNames",
    "rules[].resources",
    "rules[].verbs",
];

/// What is wrong with a role, whose rules are for one namespace or for the node as a whole.
pub(super) fn causes(role: &Value, namespaced: bool) -> Vec<Cause> {
    let mut causes = unsupported(role, "", FIELDS);
    causes.iter_mut().for_each(|cause| cause.field = cause.field.trim_start_matches('.').into());
    for (index, rule) in items(role, "rules").iter().enumerate() {
        rule_causes(rule, &format!("rules[{index}]"), namespaced, &mut causes);
    }
    causes
}

fn rule_causes(rule: &Value, path: &str, namespaced: bool, causes: &mut Vec<Cause>) {
    let is_set = |field: &str| !items(rule, field).is_empty();
    let mut required = |field: &str, message: &str| {
        if !is_set(field) {
            causes.push(Cause::required(format!("{path}.{field}"), message));
        }
    };
    required("verbs", "verbs must contain at least one value");
    if !is_set("nonResourceURLs") {
        required("apiGroups", "resource rules must supply at least one api group");
        required("resources", "resource rules must supply at least one resource");
        return;
    }
    let field = format!("{path}.nonResourceURLs");
    let urls = &rule["nonResourceURLs"];
    if namespaced {
        causes.push(Cause::invalid(&field, urls, "namespaced rules cannot apply to non-resource URLs"));
    }
    if ["apiGroups", "resources", "resourceNames"].into_iter().any(is_set) {
        let message = "rules cannot apply to both regular resources and non-resource URLs";
        causes.push(Cause::invalid(&field, urls, message));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_rules_are_named_with_their_field() {
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        assert_eq!(causes(&json!({"rules": [pods]}), true), []);
        assert_eq!(causes(&json!({}), true), []);
        for (rule, namespaced, field) in [
            (json!({"apiGroups": [""], "resources": ["pods"]}), true, "rules[0].verbs"),
            (json!({"apiGroups": [""], "verbs": ["get"]}), true, "rules[0].resources"),
            (json!({"resources": ["pods"], "verbs": ["get"]}), false, "rules[0].apiGroups"),
            (json!({"nonResourceURLs": ["/healthz"], "verbs": ["get"]}), true, "rules[0].nonResourceURLs"),
            (
                json!({"nonResourceURLs": ["/x"], "verbs": ["get"], "resources": ["pods"]}),
                false,
                "rules[0].nonResourceURLs",
            ),
        ] {
            let fields: Vec<String> =
                causes(&json!({"rules": [rule]}), namespaced).into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [field]);
        }
        let aggregated = causes(&json!({"aggregationRule": {"clusterRoleSelectors": []}, "rules": []}), false);
        assert!(aggregated.iter().all(|cause| cause.field.starts_with("aggregationRule")) && aggregated.len() == 1);
    }
}
