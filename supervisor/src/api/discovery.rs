//! What the API serves, for clients that ask: `/api`, `/apis`, `/version`.

use serde_json::{Value, json};

use super::kinds::{KINDS, Kind};
use super::status::ApiError;

const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

/// The Kubernetes version whose API this is, with our own beside it.
pub fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": "1", "minor": "36", "gitVersion": format!("v1.36.0+wharf-{own}"), "platform": "linux/amd64",
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
    })
}

pub fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

pub fn groups() -> Value {
    let mut names: Vec<&str> = KINDS.iter().map(|kind| kind.group).filter(|group| !group.is_empty()).collect();
    names.dedup();
    let groups: Vec<Value> = names.into_iter().map(group_object).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub fn group(name: &str) -> Result<Value, ApiError> {
    if !KINDS.iter().any(|kind| kind.group == name) {
        return Err(ApiError::NoSuchPath { path: format!("/apis/{name}") });
    }
    let mut object = group_object(name);
    object["kind"] = "APIGroup".into();
    object["apiVersion"] = "v1".into();
    Ok(object)
}

fn group_object(name: &str) -> Value {
    let version = KINDS.iter().find(|kind| kind.group == name).map_or("v1", |kind| kind.version);
    let served = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [served], "preferredVersion": served})
}

pub fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    let served: Vec<&Kind> = KINDS.iter().copied().filter(|k| k.group == group && k.version == version).collect();
    let Some(first) = served.first() else {
        return Err(ApiError::NoSuchPath { path: format!("{group}/{version}") });
    };
    let mut resources = Vec::new();
    for kind in &served {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "shortNames": kind.short_names, "verbs": VERBS, "categories": ["all"],
        }));
        for subresource in kind.subresources {
            let (served_kind, verbs): (&str, &[&str]) = match *subresource {
                "scale" => ("Scale", &["get", "patch", "update"]),
                "attach" | "exec" | "portforward" => ("Pod", &["create", "get"]),
                "log" => ("Pod", &["get"]),
                _ => (kind.kind, &["get", "patch", "update"]),
            };
            resources.push(json!({
                "name": format!("{}/{subresource}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": served_kind, "verbs": verbs,
            }));
        }
    }
    let group_version = first.api_version();
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}
