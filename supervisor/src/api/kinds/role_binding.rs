//! `rbac.authorization.k8s.io/v1` RoleBinding: who has the rights of a role, in one namespace. What a binding may say is
//! here, for both kinds of bindings.

use serde_json::Value;

use super::pod::items;
use super::pod_fields::unsupported;
use super::role::GROUP;
use super::{
    AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, PATH_SEGMENT_RULE, is_dns_subdomain, is_path_segment,
    set_default, text,
};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: GROUP,
    version: "v1",
    kind: "RoleBinding",
    plural: "rolebindings",
    singular: "rolebinding",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults,
    validate: |binding| causes(binding, true),
    validate_update,
    columns: COLUMNS,
};

pub(super) const COLUMNS: &[Column] = &[
    NAME_COLUMN,
    Column { name: "Role", data_type: "string", priority: 0, cell: role_cell },
    AGE_COLUMN,
    Column { name: "Users", data_type: "string", priority: 1, cell: |binding| subjects_cell(binding, "User") },
    Column { name: "Groups", data_type: "string", priority: 1, cell: |binding| subjects_cell(binding, "Group") },
    Column {
        name: "ServiceAccounts",
        data_type: "string",
        priority: 1,
        cell: |binding| subjects_cell(binding, "ServiceAccount"),
    },
];

const FIELDS: &[&str] = &["apiVersion", "kind", "metadata.*", "roleRef.*", "subjects[].*"];

fn role_cell(binding: &Value) -> Value {
    format!("{}/{}", text(binding, "/roleRef/kind"), text(binding, "/roleRef/name")).into()
}

fn subjects_cell(binding: &Value, kind: &str) -> Value {
    let subjects = items(binding, "subjects").iter().filter(|subject| subject["kind"] == kind);
    let name = |subject: &Value| match kind {
        "ServiceAccount" => format!("{}/{}", text(subject, "/namespace"), text(subject, "/name")),
        _ => text(subject, "/name").to_owned(),
    };
    subjects.map(name).collect::<Vec<_>>().join(", ").into()
}

pub(super) fn set_defaults(binding: &mut Value) {
    if let Some(role) = binding.get_mut("roleRef")
        && text(role, "/apiGroup").is_empty()
    {
        role["apiGroup"] = GROUP.into();
    }
    for subject in binding.get_mut("subjects").and_then(Value::as_array_mut).into_iter().flatten() {
        if subject["kind"] != "ServiceAccount" {
            set_default(subject, "apiGroup", GROUP);
        }
    }
}

/// What is wrong with a binding, which is for its namespace or for the node as a whole.
pub(super) fn causes(binding: &Value, namespaced: bool) -> Vec<Cause> {
    let mut causes = unsupported(binding, "", FIELDS);
    causes.iter_mut().for_each(|cause| cause.field = cause.field.trim_start_matches('.').into());
    let kinds: &[&str] = if namespaced { &["ClusterRole", "Role"] } else { &["ClusterRole"] };
    one_of(binding, "roleRef.apiGroup", &[GROUP], &mut causes);
    one_of(binding, "roleRef.kind", kinds, &mut causes);
    let name = text(binding, "/roleRef/name");
    if name.is_empty() {
        causes.push(Cause::required("roleRef.name", "the role whose rights are given"));
    } else if !is_path_segment(name) {
        causes.push(Cause::invalid("roleRef.name", format_args!("{name:?}"), PATH_SEGMENT_RULE));
    }
    for (index, subject) in items(binding, "subjects").iter().enumerate() {
        subject_causes(subject, &format!("subjects[{index}]"), namespaced, &mut causes);
    }
    causes
}

fn subject_causes(subject: &Value, path: &str, namespaced: bool, causes: &mut Vec<Cause>) {
    let name = text(subject, "/name");
    if name.is_empty() {
        causes.push(Cause::required(format!("{path}.name"), "who has the rights"));
    }
    let (kind, group) = (text(subject, "/kind"), text(subject, "/apiGroup"));
    let expected = match kind {
        "ServiceAccount" => {
            if !name.is_empty() && !is_dns_subdomain(name) {
                let message = "must be a lowercase RFC 1123 subdomain";
                causes.push(Cause::invalid(format!("{path}.name"), format_args!("{name:?}"), message));
            }
            if !namespaced && text(subject, "/namespace").is_empty() {
                causes.push(Cause::required(format!("{path}.namespace"), "where the service account is"));
            }
            ""
        }
        "User" | "Group" => GROUP,
        _ => {
            let message = format!("{kind:?}: supported values: \"Group\", \"ServiceAccount\", \"User\"");
            return causes.push(Cause::unsupported(format!("{path}.kind"), &message));
        }
    };
    if group != expected {
        let message = format!("{group:?}: supported values: {expected:?}");
        causes.push(Cause::unsupported(format!("{path}.apiGroup"), &message));
    }
}

fn one_of(binding: &Value, field: &str, allowed: &[&str], causes: &mut Vec<Cause>) {
    let found = text(binding, &format!("/{}", field.replace('.', "/")));
    if !allowed.contains(&found) {
        let allowed: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
        causes.push(Cause::unsupported(field, &format!("{found:?}: supported values: {}", allowed.join(", "))));
    }
}

/// Who may write a binding may not turn it to another role: that would be another right to give.
pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    if old.get("roleRef") == new.get("roleRef") {
        return Vec::new();
    }
    vec![Cause::invalid("roleRef", &new["roleRef"], "cannot change roleRef")]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn binding(change: impl FnOnce(&mut Value)) -> Value {
        let mut binding = json!({
            "roleRef": {"kind": "Role", "name": "reader"},
            "subjects": [{"kind": "User", "name": "alice"}, {"kind": "ServiceAccount", "name": "robot"}],
        });
        change(&mut binding);
        set_defaults(&mut binding);
        binding
    }

    fn fields(binding: &Value, namespaced: bool) -> Vec<String> {
        causes(binding, namespaced).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn wrong_bindings_are_named_with_their_field() {
        assert!(fields(&binding(|_| ()), true).is_empty());
        assert_eq!(fields(&binding(|_| ()), false), ["roleRef.kind", "subjects[1].namespace"]);
        for (pointer, value, field) in [
            ("/roleRef/kind", "Group", "roleRef.kind"),
            ("/roleRef/name", "", "roleRef.name"),
            ("/roleRef/name", "a/b", "roleRef.name"),
            ("/roleRef/name", "..", "roleRef.name"),
            ("/subjects/0/kind", "user", "subjects[0].kind"),
            ("/subjects/0/name", "", "subjects[0].name"),
            ("/subjects/1/name", "A b", "subjects[1].name"),
        ] {
            let wrong = binding(|binding| *binding.pointer_mut(pointer).unwrap() = value.into());
            assert_eq!(fields(&wrong, true), [field]);
        }
        let grouped = binding(|binding| binding["subjects"][1]["apiGroup"] = GROUP.into());
        assert_eq!(fields(&grouped, true), ["subjects[1].apiGroup"]);
        let grouped = binding(|binding| binding["roleRef"]["apiGroup"] = "apps".into());
        assert_eq!(fields(&grouped, true), ["roleRef.apiGroup"]);
    }

    #[test]
    fn a_binding_stays_with_its_role() {
        let old = binding(|_| ());
        let mut new = old.clone();
        new["subjects"] = json!([]);
        assert_eq!(validate_update(&old, &new), []);
        new["roleRef"]["name"] = "admin".into();
        assert_eq!(validate_update(&old, &new)[0].field, "roleRef");
    }
}
