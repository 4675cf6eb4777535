//! `v1` ServiceAccount: a name that pods run under. Nobody is given tokens for it.

use serde_json::Value;

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, pod};
use crate::api::status::Cause;

/// What every namespace has.
pub const DEFAULT_NAME: &str = "default";

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ServiceAccount",
    plural: "serviceaccounts",
    singular: "serviceaccount",
    short_names: &["sa"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate,
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column { name: "Secrets", data_type: "integer", priority: 0, cell: |o| pod::items(o, "secrets").len().into() },
        AGE_COLUMN,
    ],
};

/// Secrets are listed for people; nothing is done with them.
fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if !pod::items(object, "imagePullSecrets").is_empty() {
        causes.push(Cause::unsupported("imagePullSecrets", "images are pulled with the node's logins"));
    }
    if object.get("automountServiceAccountToken") == Some(&Value::Bool(true)) {
        causes.push(Cause::unsupported("automountServiceAccountToken", "true: pods are given no tokens"));
    }
    causes
}
