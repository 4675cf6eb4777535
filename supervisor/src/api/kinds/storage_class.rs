//! `storage.k8s.io/v1` StorageClass: how volumes come to claims that no volume is there for.

use serde_json::{Value, json};

use super::pod::one_of;
use super::pod_fields::unsupported;
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "storage.k8s.io",
    version: "v1",
    kind: "StorageClass",
    plural: "storageclasses",
    singular: "storageclass",
    short_names: &["sc"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |object| {
        set_default(object, "reclaimPolicy", "Delete");
        set_default(object, "volumeBindingMode", "Immediate");
    },
    validate,
    validate_update,
    columns: &[
        Column { name: "Name", data_type: "string", priority: 0, cell: name_cell },
        Column { name: "Provisioner", data_type: "string", priority: 0, cell: |o| text(o, "/provisioner").into() },
        Column { name: "ReclaimPolicy", data_type: "string", priority: 0, cell: |o| text(o, "/reclaimPolicy").into() },
        Column {
            name: "VolumeBindingMode",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/volumeBindingMode").into(),
        },
        Column {
            name: "AllowVolumeExpansion",
            data_type: "boolean",
            priority: 0,
            cell: |o| o.get("allowVolumeExpansion").cloned().unwrap_or(Value::Bool(false)),
        },
        AGE_COLUMN,
    ],
};

/// Makes directories of this node.
pub const LOCAL_PATH: &str = "wharf/local-path";
/// Makes nothing: volumes of such a class are made by people.
pub const NO_PROVISIONER: &str = "kubernetes.io/no-provisioner";
/// The class that every node has.
pub const LOCAL_PATH_CLASS: &str = "local-path";
const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";

/// Fields that are carried out; `metadata` and the type are every kind's.
const FIELDS: &[&str] = &[
    "allowVolumeExpansion",
    "apiVersion",
    "kind",
    "metadata.*",
    "parameters.*",
    "provisioner",
    "reclaimPolicy",
    "volumeBindingMode",
];

/// The class that every node has, as it is made.
pub fn local_path() -> Value {
    json!({
        "apiVersion": KIND.api_version(), "kind": KIND.kind,
        "metadata": {"name": LOCAL_PATH_CLASS, "annotations": {DEFAULT_CLASS: "true"}},
        "provisioner": LOCAL_PATH, "reclaimPolicy": "Delete", "volumeBindingMode": "WaitForFirstConsumer",
    })
}

/// Whether claims that name no class get this one.
pub fn is_default(class: &Value) -> bool {
    class["metadata"]["annotations"][DEFAULT_CLASS] == "true"
}

/// Whether claims get no volume before a pod wants it.
pub fn waits_for_consumer(class: &Value) -> bool {
    text(class, "/volumeBindingMode") == "WaitForFirstConsumer"
}

fn name_cell(class: &Value) -> Value {
    let name = text(class, "/metadata/name");
    if is_default(class) { format!("{name} (default)").into() } else { name.into() }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = unsupported(object, "", FIELDS);
    let provisioner = text(object, "/provisioner");
    if provisioner.is_empty() {
        causes.push(Cause::required("provisioner", "who makes the volumes, such as wharf/local-path"));
    } else if !super::is_qualified_name(provisioner) {
        let message = "must be a qualified name: an optional DNS subdomain and /, then letters, digits, -, _ and .";
        causes.push(Cause::invalid("provisioner", format_args!("{provisioner:?}"), message));
    }
    one_of(object, "", "reclaimPolicy", &["Delete", "Retain"], &mut causes);
    one_of(object, "", "volumeBindingMode", &["Immediate", "WaitForFirstConsumer"], &mut causes);
    causes.iter_mut().for_each(|cause| cause.field = cause.field.trim_start_matches('.').into());
    if provisioner == LOCAL_PATH {
        for parameter in object.get("parameters").and_then(Value::as_object).into_iter().flatten() {
            let message = format!("{:?}: {LOCAL_PATH} has no parameters", parameter.0);
            causes.push(Cause::unsupported("parameters", &message));
        }
        if object.get("allowVolumeExpansion") == Some(&Value::Bool(true)) {
            causes.push(Cause::unsupported("allowVolumeExpansion", "true: volumes do not grow here"));
        }
    }
    causes
}

/// What volumes were made by does not change under them.
fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let changed = |field: &&&str| old.get(**field) != new.get(**field);
    let fixed = ["parameters", "provisioner", "reclaimPolicy", "volumeBindingMode"];
    let message = |field: &str| format!("updates to {field} are forbidden.");
    fixed.iter().filter(changed).map(|field| Cause::forbidden(*field, &message(field))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_classes_are_named_with_their_field() {
        let mut valid = local_path();
        (KIND.set_defaults)(&mut valid);
        assert_eq!(validate(&valid), []);
        assert_eq!(name_cell(&valid), "local-path (default)");
        for (field, value) in [
            ("provisioner", json!("")),
            ("provisioner", json!("a b")),
            ("reclaimPolicy", json!("Recycle")),
            ("volumeBindingMode", json!("Later")),
            ("parameters", json!({"path": "/srv"})),
            ("allowVolumeExpansion", json!(true)),
            ("mountOptions", json!(["ro"])),
        ] {
            let mut class = valid.clone();
            class[field] = value;
            let fields: Vec<String> = validate(&class).into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [field]);
        }
    }

    #[test]
    fn what_volumes_were_made_by_stays() {
        let old = local_path();
        let mut new = old.clone();
        new["metadata"]["annotations"] = json!({});
        assert_eq!(validate_update(&old, &new), []);
        new["reclaimPolicy"] = "Retain".into();
        assert_eq!(validate_update(&old, &new)[0].field, "reclaimPolicy");
    }
}
