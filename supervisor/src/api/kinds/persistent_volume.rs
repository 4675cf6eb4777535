//! `v1` PersistentVolume: a directory of this node, made for a claim or by whoever looks after the node.

use serde_json::{Value, json};

use super::persistent_volume_claim::phase_cell;
use super::pod::{items, one_of};
use super::pod_fields::unsupported;
use super::pod_source::host_path_causes;
use super::volume_fields::{
    access_mode_causes, class_name_causes, or_unset, shown_modes, storage_causes, volume_mode_causes,
};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, node_affinity, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "PersistentVolume",
    plural: "persistentvolumes",
    singular: "persistentvolume",
    short_names: &["pv"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &["status"],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column {
            name: "Capacity",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/spec/capacity/storage").into(),
        },
        Column {
            name: "Access Modes",
            data_type: "string",
            priority: 0,
            cell: |o| o.get("spec").map(|spec| shown_modes(items(spec, "accessModes"))).into(),
        },
        Column {
            name: "Reclaim Policy",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/spec/persistentVolumeReclaimPolicy").into(),
        },
        Column { name: "Status", data_type: "string", priority: 0, cell: |o| phase_cell(o).into() },
        Column { name: "Claim", data_type: "string", priority: 0, cell: claim_cell },
        Column {
            name: "StorageClass",
            data_type: "string",
            priority: 0,
            cell: |o| text(o, "/spec/storageClassName").into(),
        },
        Column { name: "VolumeAttributesClass", data_type: "string", priority: 0, cell: |_| or_unset("") },
        Column { name: "Reason", data_type: "string", priority: 0, cell: |o| text(o, "/status/reason").into() },
        AGE_COLUMN,
        Column { name: "VolumeMode", data_type: "string", priority: 1, cell: |o| text(o, "/spec/volumeMode").into() },
    ],
};

/// Keeps a volume while it is bound to a claim.
pub const PROTECTION: &str = "kubernetes.io/pv-protection";

/// Fields of a volume's specification that are carried out.
const FIELDS: &[&str] = &[
    "accessModes",
    "capacity.*",
    "claimRef.*",
    "hostPath.path",
    "hostPath.type",
    "local.path",
    "nodeAffinity.required.nodeSelectorTerms[].*",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeMode",
];

const SOURCES: [&str; 2] = ["hostPath", "local"];

fn claim_cell(volume: &Value) -> Value {
    match text(volume, "/spec/claimRef/name") {
        "" => "".into(),
        name => format!("{}/{name}", text(volume, "/spec/claimRef/namespace")).into(),
    }
}

fn set_defaults(object: &mut Value) {
    if let Some(spec) = object.get_mut("spec") {
        set_default(spec, "persistentVolumeReclaimPolicy", "Retain");
        set_default(spec, "volumeMode", "Filesystem");
        if let Some(host) = spec.get_mut("hostPath").filter(|host| host.is_object()) {
            set_default(host, "type", "");
        }
        if let Some(claim) = spec.get_mut("claimRef").filter(|claim| claim.is_object()) {
            set_default(claim, "kind", "PersistentVolumeClaim");
            set_default(claim, "apiVersion", "v1");
        }
    }
    if object.pointer("/status/phase").is_none() {
        object["status"] = json!({"phase": "Pending"});
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let spec = object.get("spec").unwrap_or(&Value::Null);
    let mut causes = unsupported(spec, "spec", FIELDS);
    access_mode_causes(spec, "spec", &mut causes);
    storage_causes(spec.get("capacity"), "spec.capacity", &mut causes);
    class_name_causes(spec, "spec", &mut causes);
    volume_mode_causes(spec, "spec", &mut causes);
    one_of(spec, "spec", "persistentVolumeReclaimPolicy", &["Delete", "Retain"], &mut causes);
    let given = SOURCES.iter().filter(|source| spec.get(**source).is_some_and(|value| !value.is_null()));
    match given.collect::<Vec<_>>().as_slice() {
        // Another one was named as not supported.
        [] if causes.iter().any(|cause| cause.reason == "FieldValueNotSupported") => {}
        [] => causes.push(Cause::required("spec", "must specify a volume type: one of hostPath, local")),
        [_] => {}
        _ => causes.push(Cause::forbidden("spec.local", "may not specify more than 1 volume type")),
    }
    if let Some(host) = spec.get("hostPath").filter(|host| host.is_object()) {
        host_path_causes(host, "spec.hostPath", &mut causes);
    }
    if let Some(local) = spec.get("local").filter(|local| local.is_object()) {
        let path = text(local, "/path");
        if !path.starts_with('/') || path.split('/').any(|part| part == "..") {
            let message = "must be an absolute path without ..";
            causes.push(Cause::invalid("spec.local.path", format_args!("{path:?}"), message));
        }
        if items(&spec["nodeAffinity"]["required"], "nodeSelectorTerms").is_empty() {
            causes.push(Cause::required("spec.nodeAffinity", "Local volume requires node affinity"));
        }
    }
    if let Some(claim) = spec.get("claimRef").filter(|claim| claim.is_object()) {
        for field in ["namespace", "name"].iter().filter(|field| text(claim, &format!("/{field}")).is_empty()) {
            causes.push(Cause::required(format!("spec.claimRef.{field}"), "the claim that it is for"));
        }
    }
    let affinity = &spec["nodeAffinity"];
    match &affinity["required"] {
        Value::Null if !affinity.is_null() => {
            causes.push(Cause::required("spec.nodeAffinity.required", "must specify required node constraints"));
        }
        Value::Null => {}
        required => node_affinity::selector_causes(required, "spec.nodeAffinity.required", &mut causes),
    }
    causes
}

/// Whether `node` is one that the volume can be reached from.
pub fn is_reachable_from(volume: &Value, node: &Value) -> bool {
    let required = &volume["spec"]["nodeAffinity"]["required"];
    required.is_null() || node_affinity::selects(required, node)
}

/// Where a volume is stays; so does what it is.
fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let changed = |field: &str| old["spec"].get(field) != new["spec"].get(field);
    let mut causes = Vec::new();
    if SOURCES.into_iter().any(changed) {
        let message = "spec.persistentvolumesource is immutable after creation";
        causes.push(Cause::forbidden("spec.persistentvolumesource", message));
    }
    if changed("nodeAffinity") && !old["spec"]["nodeAffinity"].is_null() {
        causes.push(Cause::invalid("spec.nodeAffinity", &new["spec"]["nodeAffinity"], "field is immutable"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn volume(spec: Value) -> Value {
        let mut object = json!({"metadata": {"name": "v"}, "spec": spec});
        set_defaults(&mut object);
        object
    }

    fn valid() -> Value {
        json!({"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}, "hostPath": {"path": "/srv/v"}})
    }

    #[test]
    fn wrong_volumes_are_named_with_their_path() {
        assert_eq!(validate(&volume(valid())), []);
        let terms = |terms: Value| json!({"required": {"nodeSelectorTerms": terms}});
        for (field, value, expected) in [
            ("capacity", json!({}), "spec.capacity[storage]"),
            ("hostPath", json!({"path": "srv"}), "spec.hostPath.path"),
            ("hostPath", Value::Null, "spec"),
            ("nfs", json!({"server": "x", "path": "/"}), "spec.nfs"),
            ("persistentVolumeReclaimPolicy", json!("Recycle"), "spec.persistentVolumeReclaimPolicy"),
            ("mountOptions", json!(["ro"]), "spec.mountOptions"),
            ("claimRef", json!({"name": "data"}), "spec.claimRef.namespace"),
            ("nodeAffinity", json!({}), "spec.nodeAffinity.required"),
            (
                "nodeAffinity",
                terms(json!([{"matchExpressions": [{"key": "a", "operator": "Near", "values": ["1"]}]}])),
                "spec.nodeAffinity.required.nodeSelectorTerms[0].matchExpressions[0].operator",
            ),
        ] {
            let mut spec = valid();
            spec[field] = value;
            let fields: Vec<String> = validate(&volume(spec)).into_iter().map(|cause| cause.field).collect();
            assert_eq!(fields, [expected], "{field}");
        }
        let mut local = valid();
        local["hostPath"] = Value::Null;
        local["local"] = json!({"path": "/../x"});
        let fields: Vec<String> = validate(&volume(local)).into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["spec.local.path", "spec.nodeAffinity"]);
    }

    #[test]
    fn where_a_volume_is_stays() {
        let old = volume(valid());
        let mut new = old.clone();
        new["spec"]["persistentVolumeReclaimPolicy"] = "Delete".into();
        assert_eq!(validate_update(&old, &new), []);
        new["spec"]["hostPath"]["path"] = "/etc".into();
        assert_eq!(validate_update(&old, &new)[0].field, "spec.persistentvolumesource");
    }

    #[test]
    fn nodes_are_selected_by_labels_and_name() {
        let node = json!({"metadata": {"name": "n", "labels": {"kubernetes.io/hostname": "n"}}});
        let reachable = |terms: Value| {
            let mut spec = valid();
            spec["nodeAffinity"] = json!({"required": {"nodeSelectorTerms": terms}});
            is_reachable_from(&volume(spec), &node)
        };
        let label = |value: &str| json!([{"key": "kubernetes.io/hostname", "operator": "In", "values": [value]}]);
        assert!(is_reachable_from(&volume(valid()), &node));
        assert!(reachable(json!([{"matchExpressions": label("n")}])));
        assert!(reachable(json!([{"matchExpressions": label("m")}, {"matchExpressions": label("n")}])));
        assert!(!reachable(json!([{"matchExpressions": label("m")}])));
        assert!(!reachable(json!([{}])));
        let name = |value: &str| json!([{"key": "metadata.name", "operator": "In", "values": [value]}]);
        assert!(reachable(json!([{"matchFields": name("n")}])) && !reachable(json!([{"matchFields": name("m")}])));
    }
}
