//! OpenAPI documents of the kinds served: what `kubectl explain` shows and clients check manifests with.

use std::collections::BTreeSet;

use axum::response::{IntoResponse, Response};
use http::header;
use http::request::Parts;
use serde_json::{Map, Value, json};
use wharf_specs::schema;

use super::kinds::{self, Kind, REVIEWS};
use super::patch::MEDIA_TYPES;
use super::route::Document;
use super::status::ApiError;

const V3_PREFIX: &str = "#/components/schemas/";
const V2_PREFIX: &str = "#/definitions/";
const LIST_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ListMeta";
const DELETE_OPTIONS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.DeleteOptions";
/// As clients ask for it, with `@` or `.` before the version that follows.
const V2_PROTOBUF_PREFIX: &str = "application/com.github.proto-openapi.spec.v2";
const V2_PROTOBUF_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";
const STATUS: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.Status";

/// The document itself, made anew: it is large, and clients keep it.
pub(super) fn answer(parts: &Parts, document: Document<'_>) -> Result<Response, ApiError> {
    let json = match document {
        Document::V3Index => index(),
        Document::V3 { group, version } => {
            let kinds: Vec<&Kind> =
                served().into_iter().filter(|kind| kind.group == group && kind.version == version).collect();
            if kinds.is_empty() {
                return Err(ApiError::NoSuchPath { path: format!("/openapi/v3: {group}/{version}") });
            }
            json!({
                "openapi": "3.0.0", "info": info(), "paths": paths(&kinds, true),
                "components": {"schemas": schemas(&kinds)},
            })
        }
        Document::V2 if wants_protobuf(parts) => {
            return Ok(([(header::CONTENT_TYPE, V2_PROTOBUF_TYPE)], v2_head()).into_response());
        }
        Document::V2 => {
            let document = json!({
                "swagger": "2.0", "info": info(), "paths": paths(&served(), false), "definitions": schemas(&served()),
            });
            let text = document.to_string().replace(V3_PREFIX, V2_PREFIX);
            return Ok(([(header::CONTENT_TYPE, "application/json")], text).into_response());
        }
    };
    Ok(axum::Json(json).into_response())
}

/// kubectl reads no other form of it, whatever the answer says it is.
fn wants_protobuf(parts: &Parts) -> bool {
    let accepted = parts.headers.get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|kind| kind.trim().starts_with(V2_PROTOBUF_PREFIX))
}

/// The document in protobuf: what it is, and nothing of the kinds, which clients find in version 3. They look here for
/// those that they have not found there, and so learn that there are none.
fn v2_head() -> Vec<u8> {
    let field = |number: u8, content: &[u8]| [&[number << 3 | 2, content.len() as u8], content].concat();
    let text = |value: &Value| value.as_str().unwrap_or_default().as_bytes().to_vec();
    let info = info();
    let info = [field(1, &text(&info["title"])), field(2, &text(&info["version"]))].concat();
    [field(1, b"2.0"), field(2, &info)].concat()
}

/// Kinds that are kept, and questions.
fn served() -> Vec<&'static Kind> {
    kinds::served().chain(REVIEWS.iter().copied()).collect()
}

fn info() -> Value {
    json!({"title": "Kubernetes", "version": super::discovery::version()["gitVersion"]})
}

/// The documents of the groups. Clients keep each until its hash changes, which it does with the program.
fn index() -> Value {
    let hash = format!("{}-{}", env!("CARGO_PKG_VERSION"), served().len());
    let mut index = Map::new();
    for kind in served() {
        let path = root(kind);
        index.insert(path.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{path}?hash={hash}")}));
    }
    json!({ "paths": index })
}

/// `api/v1`, `apis/apps/v1`.
fn root(kind: &Kind) -> String {
    match kind.group {
        "" => format!("api/{}", kind.version),
        group => format!("apis/{group}/{}", kind.version),
    }
}

fn reference(name: &str) -> Value {
    json!({"$ref": format!("{V3_PREFIX}{name}")})
}

fn gvk(kind: &Kind) -> Value {
    json!({"group": kind.group, "version": kind.version, "kind": kind.kind})
}

/// Definitions of the kinds, their lists, and all that these refer to.
fn schemas(kinds: &[&Kind]) -> Map<String, Value> {
    let mut all = schema::definitions();
    let mut found = Map::new();
    let mut wanted: Vec<String> = vec![LIST_META.into(), DELETE_OPTIONS.into(), STATUS.into()];
    for kind in kinds {
        let name = schema::definition_name(&kind.api_version(), kind.kind);
        if let Some(definition) = all.get_mut(&name) {
            definition["x-kubernetes-group-version-kind"] = json!([gvk(kind)]);
        }
        let mut list_kind = gvk(kind);
        list_kind["kind"] = format!("{}List", kind.kind).into();
        let list = json!({
            "description": format!("A list of {} objects.", kind.kind), "type": "object", "required": ["items"],
            "properties": {
                "apiVersion": {"type": "string"}, "kind": {"type": "string"}, "metadata": reference(LIST_META),
                "items": {"type": "array", "items": reference(&name)},
            },
            "x-kubernetes-group-version-kind": [list_kind],
        });
        found.insert(format!("{name}List"), list);
        wanted.push(name);
    }
    let mut seen = BTreeSet::new();
    while let Some(name) = wanted.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let Some(mut definition) = all.remove(&name) else { continue };
        typed_scalars(&mut definition);
        collect_references(&definition, &mut wanted);
        found.insert(name, definition);
    }
    found
}

/// A quantity, or a number that may be a text, is written as a text.
fn typed_scalars(definition: &mut Value) {
    if definition.get("x-kubernetes-int-or-string").is_some() {
        definition["type"] = "string".into();
        definition["format"] = "int-or-string".into();
    }
}

fn collect_references(value: &Value, names: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let reference = fields.get("$ref").and_then(Value::as_str);
            names.extend(reference.map(|name| name.trim_start_matches(V3_PREFIX).to_owned()));
            fields.values().for_each(|value| collect_references(value, names));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, names)),
        _ => {}
    }
}

fn paths(kinds: &[&Kind], v3: bool) -> Map<String, Value> {
    let mut paths = Map::new();
    for kind in kinds {
        let root = root(kind);
        let collection = match kind.namespaced {
            true => format!("/{root}/namespaces/{{namespace}}/{}", kind.plural),
            false => format!("/{root}/{}", kind.plural),
        };
        if !kind.verbs.contains(&"get") {
            paths.insert(collection, json!({"post": operation(kind, "post", v3)}));
            continue;
        }
        if kind.namespaced {
            let list = json!({"get": operation(kind, "list", v3)});
            paths.insert(format!("/{root}/{}", kind.plural), list);
        }
        paths.insert(
            collection.clone(),
            json!({
                "get": operation(kind, "list", v3), "post": operation(kind, "post", v3),
                "delete": operation(kind, "deletecollection", v3),
            }),
        );
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({
                "get": operation(kind, "get", v3), "put": operation(kind, "put", v3),
                "patch": operation(kind, "patch", v3), "delete": operation(kind, "delete", v3),
            }),
        );
    }
    paths
}

fn operation(kind: &Kind, action: &str, v3: bool) -> Value {
    let name = schema::definition_name(&kind.api_version(), kind.kind);
    let names: &[&str] = match action {
        "list" => &["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"],
        "post" | "put" => &["dryRun", "fieldManager", "fieldValidation"],
        "patch" => &["dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" | "deletecollection" => &["dryRun", "gracePeriodSeconds", "propagationPolicy"],
        _ => &[],
    };
    let parameter = |name: &&str| {
        let value_type = match *name {
            "limit" | "gracePeriodSeconds" => "integer",
            "watch" | "force" => "boolean",
            _ => "string",
        };
        match v3 {
            true => json!({"name": name, "in": "query", "schema": {"type": value_type, "uniqueItems": true}}),
            false => json!({"name": name, "in": "query", "type": value_type, "uniqueItems": true}),
        }
    };
    let mut parameters: Vec<Value> = names.iter().map(parameter).collect();
    let body = match action {
        "post" | "put" => Some((reference(&name), "application/json")),
        "patch" => Some((json!({"type": "object"}), MEDIA_TYPES)),
        "delete" | "deletecollection" => Some((reference(DELETE_OPTIONS), "application/json")),
        _ => None,
    };
    let answer = match action {
        "list" => reference(&format!("{name}List")),
        "deletecollection" => reference(STATUS),
        _ => reference(&name),
    };
    let mut operation = json!({"x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk(kind)});
    if let Some((schema, media_types)) = body {
        let media_types: Vec<&str> = media_types.split(',').map(str::trim).collect();
        if v3 {
            let content: Map<String, Value> =
                media_types.iter().map(|media_type| ((*media_type).to_owned(), json!({"schema": schema}))).collect();
            operation["requestBody"] = json!({ "content": content });
        } else {
            operation["consumes"] = media_types.into();
            parameters.push(json!({"name": "body", "in": "body", "schema": schema}));
        }
    }
    operation["parameters"] = parameters.into();
    operation["responses"] = match v3 {
        true => json!({"200": {"description": "OK", "content": {"application/json": {"schema": answer}}}}),
        false => json!({"200": {"description": "OK", "schema": answer}}),
    };
    operation
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_hold_all_that_they_refer_to() {
        for kind in served() {
            let found = schemas(&[kind]);
            let mut names = Vec::new();
            found.values().for_each(|definition| collect_references(definition, &mut names));
            paths(&[kind], true).values().for_each(|path| collect_references(path, &mut names));
            for name in names {
                assert!(found.contains_key(&name), "{}: {name}", kind.kind);
            }
            let name = schema::definition_name(&kind.api_version(), kind.kind);
            assert_eq!(found[&name]["x-kubernetes-group-version-kind"][0], gvk(kind));
        }
    }

    #[test]
    fn lists_say_how_they_are_merged() {
        let found = schemas(&served());
        let containers = &found["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
    }
}
