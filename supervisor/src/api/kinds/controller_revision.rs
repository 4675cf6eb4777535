//! `apps/v1` ControllerRevision: what an object was at one of its revisions.

use serde_json::Value;

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, pod, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "apps",
    version: "v1",
    kind: "ControllerRevision",
    plural: "controllerrevisions",
    singular: "controllerrevision",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Controller", data_type: "string", priority: 0, cell: controller_cell },
        Column { name: "Revision", data_type: "integer", priority: 0, cell: |o| integer(o, "/revision").into() },
        AGE_COLUMN,
    ],
};

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if object.get("data").is_none_or(Value::is_null) {
        causes.push(Cause::required("data", "data is mandatory"));
    }
    let revision = integer(object, "/revision");
    if revision < 0 {
        causes.push(Cause::invalid("revision", revision, "must be greater than or equal to 0"));
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    match old.get("data") == new.get("data") {
        true => Vec::new(),
        false => vec![Cause::invalid("data", &new["data"], "field is immutable")],
    }
}

/// `daemonset.apps/agent`.
fn controller_cell(object: &Value) -> Value {
    let mut owners = pod::items(&object["metadata"], "ownerReferences").iter();
    let Some(owner) = owners.find(|owner| owner["controller"] == true) else { return "<none>".into() };
    let kind = text(owner, "/kind").to_lowercase();
    let group = text(owner, "/apiVersion").rsplit_once('/').map(|(group, _)| format!(".{group}")).unwrap_or_default();
    format!("{kind}{group}/{}", text(owner, "/name")).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_was_stays() {
        let old = json!({"revision": 1, "data": {"a": 1}});
        let mut new = json!({"revision": 2, "data": {"a": 1}});
        assert_eq!((validate(&old), validate_update(&old, &new)), (vec![], vec![]));
        new["data"]["a"] = 2.into();
        assert_eq!(validate_update(&old, &new)[0].field, "data");
        let fields: Vec<String> = validate(&json!({"revision": -1})).into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["data", "revision"]);
    }

    #[test]
    fn a_table_names_the_controller() {
        let owner = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent", "controller": true});
        assert_eq!(controller_cell(&json!({"metadata": {"ownerReferences": [owner]}})), "daemonset.apps/agent");
        assert_eq!(controller_cell(&json!({"metadata": {}})), "<none>");
    }
}
