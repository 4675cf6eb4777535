//! `v1` Secret.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::config_map::{data_causes, entries, immutable_causes};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Secret",
    plural: "secrets",
    singular: "secret",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Type", data_type: "string", priority: 0, cell: |o| text(o, "/type").into() },
        Column { name: "Data", data_type: "integer", priority: 0, cell: |o| entries(o, "data").into() },
        AGE_COLUMN,
    ],
};

/// Types that are read by somebody, and the keys that these look for.
const REQUIRED_KEYS: &[(&str, &[&str])] = &[
    ("kubernetes.io/dockercfg", &[".dockercfg"]),
    ("kubernetes.io/dockerconfigjson", &[".dockerconfigjson"]),
    ("kubernetes.io/ssh-auth", &["ssh-privatekey"]),
    ("kubernetes.io/tls", &["tls.crt", "tls.key"]),
];

/// `stringData` is written, never read back: it becomes part of `data`.
fn set_defaults(object: &mut Value) {
    set_default(object, "type", "Opaque");
    let Some(Value::Object(texts)) = object.as_object_mut().and_then(|fields| fields.remove("stringData")) else {
        return;
    };
    if object.get("data").is_none_or(Value::is_null) {
        object["data"] = json!({});
    }
    for (key, value) in texts {
        object["data"][key] = STANDARD.encode(value.as_str().unwrap_or_default()).into();
    }
}

fn validate(object: &Value) -> Vec<Cause> {
    let mut causes = data_causes(object, &["data"]);
    let required = REQUIRED_KEYS.iter().find(|(secret_type, _)| *secret_type == text(object, "/type"));
    for key in required.into_iter().flat_map(|(_, keys)| *keys) {
        if object["data"].get(key).is_none() {
            causes.push(Cause::required(format!("data[{key}]"), "this type of secret has it"));
        }
    }
    for key in
        [".dockerconfigjson", ".dockercfg"].iter().filter(|key| required.is_some_and(|(_, keys)| keys.contains(key)))
    {
        let bytes = object["data"][key].as_str().and_then(|text| STANDARD.decode(text).ok());
        if bytes.is_some_and(|bytes| !serde_json::from_slice::<Value>(&bytes).is_ok_and(|logins| logins.is_object())) {
            let shown = format_args!("<secret contents redacted>");
            causes.push(Cause::invalid(format!("data[{key}]"), shown, "must be a JSON object"));
        }
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = immutable_causes(old, new, &["data"]);
    if old.get("type") != new.get("type") {
        causes.push(Cause::invalid("type", format_args!("{:?}", text(new, "/type")), "field is immutable"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_become_data() {
        let mut secret = json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "3"}});
        set_defaults(&mut secret);
        assert_eq!(secret, json!({"type": "Opaque", "data": {"a": "Mg==", "b": "Mw=="}}));
    }

    #[test]
    fn a_type_wants_its_keys_and_stays() {
        let tls = json!({"type": "kubernetes.io/tls", "data": {"tls.crt": ""}});
        assert_eq!(validate(&tls)[0].field, "data[tls.key]");
        let login = |text: &str| json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": STANDARD.encode(text)}});
        assert_eq!(validate(&login(r#"{"auths": {}}"#)).len(), 0);
        assert_eq!(validate(&login("hush"))[0].field, "data[.dockerconfigjson]");
        assert!(!format!("{:?}", validate(&login("hush"))).contains("hush"));
        assert_eq!(validate_update(&tls, &json!({"type": "Opaque"}))[0].field, "type");
    }
}
