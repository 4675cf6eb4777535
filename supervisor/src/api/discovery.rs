//! What the API serves, for clients that ask: `/api`, `/apis`, `/version`.

use axum::response::{IntoResponse, Response};
use http::header;
use http::request::Parts;
use serde_json::{Value, json};

use super::accept;
use super::health;
use super::kinds::{self, Kind, REVIEWS};
use super::metrics;
use super::status::ApiError;
use super::subresource;

/// The Kubernetes version whose API this is, with our own beside it.
pub fn version() -> Value {
    let own = env!("CARGO_PKG_VERSION");
    json!({
        "major": "1", "minor": "36", "gitVersion": format!("v1.36.0+wharf-{own}"), "platform": "linux/amd64",
        "gitCommit": "", "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "rustc",
    })
}

/// Media type of the aggregated form: everything in one answer.
const AGGREGATED_TYPE: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

/// The answer of `/api` (the core group) or `/apis`, aggregated where the client can read that.
pub fn answer(parts: &Parts, core: bool) -> Result<Response, ApiError> {
    if accept::prefers(parts, "APIGroupDiscoveryList", "apidiscovery.k8s.io", "v2")? {
        return Ok(([(header::CONTENT_TYPE, AGGREGATED_TYPE)], aggregated(core).to_string()).into_response());
    }
    Ok(axum::Json(if core { core_versions() } else { groups() }).into_response())
}

/// Kinds that are kept, and questions.
pub(super) fn served() -> impl Iterator<Item = &'static Kind> {
    kinds::served().chain(REVIEWS.iter().copied())
}

fn group_names(core: bool) -> Vec<&'static str> {
    let mut names: Vec<&str> = served().map(|kind| kind.group).filter(|name| name.is_empty() == core).collect();
    if !core {
        names.push(metrics::GROUP);
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn aggregated(core: bool) -> Value {
    let group = |name: &'static str| {
        if name == metrics::GROUP {
            return metrics::aggregated();
        }
        let kinds: Vec<&Kind> = served().filter(|kind| kind.group == name).collect();
        let mut versions: Vec<&str> = kinds.iter().map(|kind| kind.version).collect();
        versions.dedup();
        let version = |version: &str| {
            let served = kinds.iter().filter(|kind| kind.version == version);
            json!({"version": version, "freshness": "Current", "resources": served.map(|kind| aggregated_kind(kind)).collect::<Vec<_>>()})
        };
        json!({"metadata": {"name": name}, "versions": versions.into_iter().map(version).collect::<Vec<_>>()})
    };
    json!({
        "kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {},
        "items": group_names(core).into_iter().map(group).collect::<Vec<_>>(),
    })
}

fn aggregated_kind(kind: &'static Kind) -> Value {
    let subresources = kind.parts().map(|name| {
        let (group, version, spoken, verbs) = subresource::description(kind, name);
        let spoken = json!({"group": group, "version": version, "kind": spoken});
        json!({"subresource": name, "responseKind": spoken, "verbs": verbs})
    });
    json!({
        "resource": kind.plural, "singularResource": kind.singular, "verbs": kind.verbs,
        "responseKind": {"group": kind.group, "version": kind.version, "kind": kind.kind},
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "shortNames": kind.short_names, "categories": kind.categories,
        "subresources": subresources.collect::<Vec<_>>(),
    })
}

/// The answer of `/`: where there is something to ask for.
pub fn paths() -> Value {
    let mut paths: Vec<String> =
        ["/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3", "/version"].map(str::to_owned).into();
    for path in ["/healthz", "/livez", "/readyz"] {
        paths.push(path.into());
        paths.extend(health::CHECKS.map(|check| format!("{path}/{check}")));
    }
    paths.extend([format!("/apis/{}", metrics::GROUP), format!("/apis/{}/{}", metrics::GROUP, metrics::VERSION)]);
    for kind in served() {
        match kind.group {
            "" => paths.push(format!("/api/{}", kind.version)),
            group => paths.extend([format!("/apis/{group}"), format!("/apis/{group}/{}", kind.version)]),
        }
    }
    paths.sort();
    paths.dedup();
    json!({"paths": paths})
}

fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn groups() -> Value {
    let groups: Vec<Value> = group_names(false).into_iter().map(group_object).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub fn group(name: &str) -> Result<Value, ApiError> {
    if name != metrics::GROUP && !served().any(|kind| kind.group == name) {
        return Err(ApiError::NoSuchPath { path: format!("/apis/{name}") });
    }
    let mut object = group_object(name);
    object["kind"] = "APIGroup".into();
    object["apiVersion"] = "v1".into();
    Ok(object)
}

fn group_object(name: &str) -> Value {
    let version = served().find(|kind| kind.group == name).map_or(metrics::VERSION, |kind| kind.version);
    let served = json!({"groupVersion": format!("{name}/{version}"), "version": version});
    json!({"name": name, "versions": [served], "preferredVersion": served})
}

pub fn resources(group: &str, version: &str) -> Result<Value, ApiError> {
    if (group, version) == (metrics::GROUP, metrics::VERSION) {
        return Ok(metrics::resources());
    }
    let served: Vec<&Kind> = served().filter(|k| k.group == group && k.version == version).collect();
    let Some(first) = served.first() else {
        return Err(ApiError::NoSuchPath { path: format!("{group}/{version}") });
    };
    let mut resources = Vec::new();
    for kind in &served {
        resources.push(json!({
            "name": kind.plural, "singularName": kind.singular, "namespaced": kind.namespaced, "kind": kind.kind,
            "shortNames": kind.short_names, "verbs": kind.verbs, "categories": kind.categories,
        }));
        for name in kind.parts() {
            let (group, version, spoken, verbs) = subresource::description(kind, name);
            let mut resource = json!({
                "name": format!("{}/{name}", kind.plural), "singularName": "", "namespaced": kind.namespaced,
                "kind": spoken, "verbs": verbs,
            });
            if (group, version) != (kind.group, kind.version) {
                resource["group"] = group.into();
                resource["version"] = version.into();
            }
            resources.push(resource);
        }
    }
    let group_version = first.api_version();
    Ok(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}
