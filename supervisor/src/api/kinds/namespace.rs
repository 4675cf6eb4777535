//! `v1` Namespace.

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, is_dns_label, text};
use crate::api::status::Cause;
use serde_json::{Value, json};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Namespace",
    plural: "namespaces",
    singular: "namespace",
    short_names: &["ns"],
    categories: &[],
    namespaced: false,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |object| {
        let phase = if text(object, "/metadata/deletionTimestamp").is_empty() { "Active" } else { "Terminating" };
        object["status"] = json!({"phase": phase});
        let name = object["metadata"]["name"].clone();
        object["metadata"]["labels"][NAME_LABEL] = name;
    },
    validate,
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column { name: "Status", data_type: "string", priority: 0, cell: |o| text(o, "/status/phase").into() },
        AGE_COLUMN,
    ],
};

/// By which namespaces are selected; each has it.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Those that every node has, and keeps.
pub const KEPT: [&str; 3] = ["default", "kube-node-lease", "kube-system"];

fn validate(object: &Value) -> Vec<Cause> {
    let name = text(object, "/metadata/name");
    if is_dns_label(name) {
        return Vec::new();
    }
    vec![Cause::invalid("metadata.name", format_args!("{name:?}"), "must be a lowercase RFC 1123 label")]
}
