//! `v1` ConfigMap.

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN};
use crate::api::status::Cause;
use serde_json::Value;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "ConfigMap",
    plural: "configmaps",
    singular: "configmap",
    short_names: &["cm"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults: |_| {},
    validate: |object| data_causes(object, &["data", "binaryData"]),
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column {
            name: "Data",
            data_type: "integer",
            priority: 0,
            cell: |o| (entries(o, "data") + entries(o, "binaryData")).into(),
        },
        AGE_COLUMN,
    ],
};

/// Most that the values of a ConfigMap or Secret may have together, in bytes; Kubernetes' own limit.
const MAX_DATA_BYTES: usize = 1 << 20;
const MAX_KEY_BYTES: usize = 253;

pub(super) fn entries(object: &Value, field: &str) -> usize {
    object.get(field).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

/// Whether a text can be a key of `data`, and so the name of a file.
pub fn is_data_key(key: &str) -> bool {
    let is_inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    !key.is_empty() && key.len() <= MAX_KEY_BYTES && key.chars().all(is_inner) && key != "." && !key.starts_with("..")
}

/// Keys must be names of files, each in one of the fields, and all of it has a limit.
pub(super) fn data_causes(object: &Value, fields: &[&str]) -> Vec<Cause> {
    let mut causes = Vec::new();
    let mut size = 0;
    for (index, field) in fields.iter().enumerate() {
        for (key, value) in object.get(*field).and_then(Value::as_object).into_iter().flatten() {
            size += value.as_str().map_or(0, str::len);
            if !is_data_key(key) {
                let message = "a key consists of letters, digits, '-', '_' and '.', and does not start with \"..\"";
                causes.push(Cause::invalid(format!("{field}[{key}]"), format_args!("{key:?}"), message));
            }
            if fields[..index].iter().any(|earlier| object[*earlier].get(key).is_some()) {
                let message = format!("duplicate of key present in {}", fields[0]);
                causes.push(Cause::invalid(format!("{field}[{key}]"), format_args!("{key:?}"), &message));
            }
        }
    }
    if size > MAX_DATA_BYTES {
        let message = format!("Too long: may not be more than {MAX_DATA_BYTES} bytes");
        causes.push(Cause { reason: "FieldValueTooLong", field: String::new(), message });
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    immutable_causes(old, new, &["data", "binaryData"])
}

/// Once `immutable` is set, it stays, and so does the data.
pub(super) fn immutable_causes(old: &Value, new: &Value, fields: &[&str]) -> Vec<Cause> {
    if old.get("immutable") != Some(&Value::Bool(true)) {
        return Vec::new();
    }
    let message = "field is immutable when `immutable` is set";
    let changed = fields.iter().chain(&["immutable"]).filter(|field| old.get(**field) != new.get(**field));
    changed.map(|field| Cause::forbidden(*field, message)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn keys_are_names_of_files() {
        for key in ["a", "A-b_c.d", ".hidden", "a..b"] {
            assert!(is_data_key(key), "{key}");
        }
        for key in ["", ".", "..", "..data", "a/b", "a b", "é"] {
            assert!(!is_data_key(key), "{key}");
        }
        let object = json!({"data": {"a": "1", "x/y": "2"}, "binaryData": {"a": "MQ=="}});
        let fields: Vec<String> = (KIND.validate)(&object).into_iter().map(|cause| cause.field).collect();
        assert_eq!(fields, ["data[x/y]", "binaryData[a]"]);
        let large = json!({"data": {"a": "x".repeat(MAX_DATA_BYTES + 1)}});
        assert_eq!((KIND.validate)(&large)[0].reason, "FieldValueTooLong");
    }

    #[test]
    fn what_is_immutable_stays() {
        let old = json!({"data": {"a": "1"}, "immutable": true});
        assert_eq!(validate_update(&old, &old), []);
        assert_eq!(validate_update(&old, &json!({"data": {"a": "1"}})).len(), 1);
        assert_eq!(validate_update(&old, &json!({"data": {"a": "2"}, "immutable": true}))[0].field, "data");
    }
}
