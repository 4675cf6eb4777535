//! `v1` PersistentVolumeClaim.

use serde_json::Value;

use super::pod::items;
use super::pod_fields::unsupported;
use super::volume_fields::{
    access_mode_causes, class_name_causes, or_unset, shown_modes, storage_causes, volume_mode_causes,
};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, set_default, text};
use crate::api::selector::Selector;
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolumeClaim",
    plural: "persistentvolumeclaims",
    singular: "persistentvolumeclaim",
    short_names: &["pvc"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["status"],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Status", data_type: "string", priority: 0, cell: |o| phase_cell(o).into() },
        Column { name: "Volume", data_type: "string", priority: 0, cell: |o| text(o, "/spec/volumeName").into() },
        Column {
            name: "Capacity",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/status/capacity/storage").into(),
        },
        Column {
            name: "Access Modes",
            data_type: "string",
            priority: 0,
            cell: |o| o.get("status").map(|status| shown_modes(items(status, "accessModes"))).into(),
        },
        Column {
            name: "StorageClass",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/spec/storageClassName").into(),
        },
        Column { name: "VolumeAttributesClass", data_type: "string", priority: 0, cell: |_| or_unset("") },
        AGE_COLUMN,
        Column { name: "VolumeMode", data_type: "string", priority: 1, cell: |o| text(o, "/spec/volumeMode").into() },
    ],
};

/// Keeps a claim while a pod uses it.
pub const PROTECTION: &str = "kubernetes.io/pvc-protection";

/// Fields of a claim's specification that are carried out.
const FIELDS: &[&str] =
    &["accessModes", "resources.requests.*", "selector.*", "storageClassName", "volumeMode", "volumeName"];

/// As tables show it: a phase, or that it goes.
pub(super) fn phase_cell(object: &Value) -> &str {
    match text(object, "/metadata/deletionTimestamp") {
        "" => text(object, "/status/phase"),
        _ => "Terminating",
    }
}

fn set_defaults(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        spec_defaults(spec);
    }
    if object.pointer("/status/phase").is_none() {
        object["status"] = serde_json::json!({"phase": "Pending"});
    }
}

pub(super) fn spec_defaults(spec: &mut Value) {
    set_default(spec, "volumeMode", "Filesystem");
}

fn validate(object: &Value) -> Vec<Cause> {
    spec_causes(object.get("spec").unwrap_or(&Value::Null), "spec")
}

/// Everything wrong with a claim's specification that stands at `path`.
pub(super) fn spec_causes(spec: &Value, path: &str) -> Vec<Cause> {
    let mut causes = unsupported(spec, path, FIELDS);
    access_mode_causes(spec, path, &mut causes);
    storage_causes(spec.pointer("/resources/requests"), &format!("{path}.resources.requests"), &mut causes);
    class_name_causes(spec, path, &mut causes);
    volume_mode_causes(spec, path, &mut causes);
    if let Some(selector) = spec.get("selector").filter(|selector| !selector.is_null())
        && let Err(message) = Selector::from_label_selector(selector)
    {
        causes.push(Cause::invalid(format!("{path}.selector"), selector, &message));
    }
    causes
}

/// What is claimed stays; which volume it is may be said once.
fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let fixed = |object: &Value| {
        let mut spec = object.get("spec").cloned().unwrap_or_default();
        if text(old, "/spec/volumeName").is_empty()
            && let Some(fields) = spec.as_object_mut()
        {
            fields.remove("volumeName");
        }
        spec
    };
    match fixed(old) == fixed(new) {
        true => Vec::new(),
        false => vec![Cause::forbidden("spec", "spec is immutable after creation: volumes do not grow here")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn claim(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "data"}, "spec": spec});
        set_defaults(&mut object);
        object
    }

    #[test]
    fn wrong_claims_are_named_with_their_path() {
        let valid = json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}});
        assert_eq!(validate(&claim(valid.clone())), []);
        for (field, value, expected) in [
            ("accessModes", json!([]), "spec.accessModes"),
            ("accessModes", json!(["Sometimes"]), "spec.accessModes"),
            ("accessModes", json!(["ReadWriteOncePod", "ReadWriteOnce"]), "spec.accessModes"),
            ("resources", json!({}), "spec.resources.requests[storage]"),
            ("resources", json!({"requests": {"storage": "0"}}), "spec.resources.requests[storage]"),
            ("resources", json!({"requests": {"storage": "1Gi", "cpu": "1"}}), "spec.resources.requests[cpu]"),
            (
                "resources",
                json!({"requests": {"storage": "1Gi"}, "limits": {"storage": "2Gi"}}),
                "spec.resources.limits",
            ),
            ("storageClassName", json!("A b"), "spec.storageClassName"),
            ("volumeMode", json!("Block"), "spec.volumeMode"),
            ("selector", json!({"matchExpressions": [{"key": "a", "operator": "In"}]}), "spec.selector"),
            ("dataSource", json!({"name": "x", "kind": "y"}), "spec.dataSource"),
        ] {
            let mut spec = valid.clone();
            spec[field] = value;
            let fields: Vec<String> = validate(&claim(spec)).into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [expected], "{field}");
        }
    }

    #[test]
    fn a_claim_stays_as_it_is_but_gets_its_volume() {
        let old = claim(json!({"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}));
        let mut new = old.clone();
        new["spec"]["volumeName"] = "v".into();
        assert_eq!(validate_update(&old, &new), []);
        assert_eq!(validate_update(&new, &old).len(), 1, "the volume stays");
        new["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
        assert_eq!(validate_update(&old, &new)[0].field, "spec");
    }
}
