//! The API's verbs over HTTP.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::{Value, json};
use tokio::net::UnixListener;
use wharf_specs::manifest;

use super::kinds::{Kind, integer, pod, text};
use super::objects::{Half, Objects, Propagation};
use super::query::Query;
use super::route::Route;
use super::selector::Selector;
use super::status::ApiError;
use super::{discovery, pod_log, pod_stream, table, watch};
use crate::pod::Node;

/// Largest request body, in bytes; Kubernetes' own limit.
const MAX_BODY_BYTES: usize = 3 << 20;

const TABLE_ACCEPT: &str = "as=Table";

/// What every request may use.
#[derive(Clone)]
pub struct Api {
    pub objects: Objects,
    pub node: Node,
    /// Holds the logs of pods: `NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
    pub pod_logs: Arc<std::path::Path>,
}

/// Serves the API until the listener fails.
pub async fn serve(listener: UnixListener, api: Api) -> std::io::Result<()> {
    axum::serve(listener, Router::new().fallback(handle).with_state(api)).await
}

async fn handle(State(api): State<Api>, request: Request) -> Response {
    answer(api, request).await.unwrap_or_else(IntoResponse::into_response)
}

async fn answer(api: Api, request: Request) -> Result<Response, ApiError> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let only_get = |value: Value| match parts.method {
        Method::GET => Ok(axum::Json(value).into_response()),
        _ => Err(method_not_allowed(&parts)),
    };
    match Route::parse(&path)? {
        Route::Health => Ok("ok".into_response()),
        Route::Version => only_get(discovery::version()),
        Route::CoreVersions => only_get(discovery::core_versions()),
        Route::Groups => only_get(discovery::groups()),
        Route::Group { group } => only_get(discovery::group(group)?),
        Route::Resources { group, version } => only_get(discovery::resources(group, version)?),
        Route::Collection { kind, namespace } => collection(api, parts, body, query, kind, namespace).await,
        Route::Object { kind, namespace, name, subresource: None } => {
            object(api, parts, body, query, Target { kind, namespace, name }).await
        }
        Route::Object { kind, namespace, name, subresource: Some(subresource) } => {
            let target = Target { kind, namespace, name };
            sub_resource(api, parts, body, query, target, subresource).await
        }
    }
}

/// The object a request is about.
#[derive(Clone, Copy)]
pub(super) struct Target<'a> {
    pub(super) kind: &'static Kind,
    pub(super) namespace: &'a str,
    pub(super) name: &'a str,
}

async fn collection(
    api: Api,
    parts: Parts,
    body: Body,
    query: Query,
    kind: &'static Kind,
    namespace: Option<&str>,
) -> Result<Response, ApiError> {
    let filter = Filter::from_query(&query)?;
    match parts.method {
        Method::GET if query.flag("watch") => {
            watch::stream(&api.objects, kind, namespace, &query, filter, wants_table(&parts))
        }
        Method::GET => {
            let (mut objects, version) = api.objects.list(kind, namespace);
            objects.retain(|object| filter.matches(object));
            let list = match wants_table(&parts) {
                true => table::table(kind, &objects, version),
                false => list_object(kind, &objects, version),
            };
            Ok(axum::Json(list).into_response())
        }
        Method::POST => {
            let (object, warnings) = read_object(&parts, body, kind, &query).await?;
            let written = text(&object, "/metadata/namespace").to_owned();
            let namespace = match namespace {
                Some(namespace) => namespace.to_owned(),
                None if kind.namespaced && written.is_empty() => "default".into(),
                None => written,
            };
            let created = match query.dry_run()? {
                true => Arc::new(api.objects.prepare_create(kind, &namespace, object)?),
                false => api.objects.create(kind, &namespace, object).await?,
            };
            Ok(respond(&parts, kind, created, StatusCode::CREATED, warnings))
        }
        Method::DELETE => {
            let (propagation, grace, _) = delete_options(&parts, body, &query).await?;
            let (mut objects, version) = api.objects.list(kind, namespace);
            objects.retain(|object| filter.matches(object));
            for object in &objects {
                let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
                match api.objects.delete(kind, namespace, name, propagation, grace).await {
                    Err(ApiError::NotFound { .. }) => {}
                    other => drop(other?),
                }
            }
            Ok(axum::Json(list_object(kind, &objects, version)).into_response())
        }
        _ => Err(method_not_allowed(&parts)),
    }
}

fn list_object(kind: &Kind, objects: &[Arc<Value>], version: u64) -> Value {
    json!({
        "kind": format!("{}List", kind.kind), "apiVersion": kind.api_version(),
        "metadata": {"resourceVersion": version.to_string()}, "items": objects.iter().map(|object| &**object).collect::<Vec<_>>(),
    })
}

async fn object(api: Api, parts: Parts, body: Body, query: Query, target: Target<'_>) -> Result<Response, ApiError> {
    let Target { kind, namespace, name } = target;
    match parts.method {
        Method::GET => {
            let object = api.objects.get(kind, namespace, name)?;
            Ok(respond(&parts, kind, object, StatusCode::OK, Vec::new()))
        }
        Method::PUT => {
            let (object, warnings) = read_object(&parts, body, kind, &query).await?;
            query.refuse_dry_run()?;
            let updated = api.objects.update(kind, namespace, name, Half::Desired, move |_| Ok(object)).await?;
            Ok(respond(&parts, kind, updated, StatusCode::OK, warnings))
        }
        Method::PATCH => {
            query.refuse_dry_run()?;
            let patch = Patch::read(&parts, body).await?;
            let change = move |object| patch.apply(object);
            let updated = api.objects.update(kind, namespace, name, Half::Desired, change).await?;
            Ok(respond(&parts, kind, updated, StatusCode::OK, Vec::new()))
        }
        Method::DELETE => {
            let (propagation, grace, uid) = delete_options(&parts, body, &query).await?;
            let current = api.objects.get(kind, namespace, name)?;
            if uid.is_some_and(|uid| uid != text(&current, "/metadata/uid")) {
                let message = "Precondition failed: the UID in the request differs from the one stored".into();
                return Err(ApiError::Conflict { resource: kind.resource(), name: name.into(), message });
            }
            let deleted = api.objects.delete(kind, namespace, name, propagation, grace).await?;
            Ok(respond(&parts, kind, deleted, StatusCode::OK, Vec::new()))
        }
        _ => Err(method_not_allowed(&parts)),
    }
}

async fn sub_resource(
    api: Api,
    mut parts: Parts,
    body: Body,
    query: Query,
    target: Target<'_>,
    subresource: &str,
) -> Result<Response, ApiError> {
    let Target { kind, namespace, name } = target;
    match (subresource, &parts.method) {
        ("log", &Method::GET) => pod_log::serve(&api, namespace, name, &query).await,
        ("exec" | "attach" | "portforward", &Method::GET | &Method::POST) => {
            pod_stream::serve(&api, namespace, name, subresource, &query, &mut parts).await
        }
        ("status" | "scale", &Method::GET) => {
            let object = api.objects.get(kind, namespace, name)?;
            let shown = if subresource == "scale" { scale_of(&object) } else { Value::clone(&object) };
            Ok(axum::Json(shown).into_response())
        }
        ("status", &Method::PUT | &Method::PATCH) => {
            let patch = Patch::read_or_object(&parts, body).await?;
            let updated =
                api.objects.update(kind, namespace, name, Half::Status, move |object| patch.apply(object)).await?;
            Ok(axum::Json(&*updated).into_response())
        }
        ("scale", &Method::PUT | &Method::PATCH) => {
            let patch = Patch::read_or_object(&parts, body).await?;
            let change = move |mut object: Value| {
                let scale = patch.apply(scale_of(&object))?;
                let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(Value::from(0));
                if replicas.as_i64().is_none() {
                    return Err(ApiError::BadRequest(format!("spec.replicas: {replicas} is not a number")));
                }
                object["spec"]["replicas"] = replicas;
                Ok(object)
            };
            let updated = api.objects.update(kind, namespace, name, Half::Desired, change).await?;
            Ok(axum::Json(scale_of(&updated)).into_response())
        }
        _ => Err(method_not_allowed(&parts)),
    }
}

/// The `autoscaling/v1` Scale of an object that has replicas.
fn scale_of(object: &Value) -> Value {
    let selector = object.pointer("/spec/selector/matchLabels").and_then(Value::as_object);
    let selector: Vec<String> = selector
        .into_iter()
        .flatten()
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    let metadata = &object["metadata"];
    json!({
        "kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": integer(object, "/spec/replicas")},
        "status": {"replicas": integer(object, "/status/replicas"), "selector": selector.join(",")},
    })
}

/// Which objects of a collection are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    labels: Selector,
    fields: Selector,
}

impl Filter {
    fn from_query(query: &Query) -> Result<Self, ApiError> {
        let parse = |name: &str| {
            let text = query.get(name).unwrap_or_default();
            Selector::parse(text).map_err(|error| ApiError::BadRequest(format!("{name}: {error}")))
        };
        Ok(Self { labels: parse("labelSelector")?, fields: parse("fieldSelector")? })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels").unwrap_or(&Value::Null);
        self.labels.matches(labels) && self.fields.matches_fields(object)
    }
}

fn wants_table(parts: &Parts) -> bool {
    let accept = parts.headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    accept.split(',').next().is_some_and(|first| first.contains(TABLE_ACCEPT))
}

fn respond(parts: &Parts, kind: &Kind, object: Arc<Value>, code: StatusCode, warnings: Vec<String>) -> Response {
    let body = match wants_table(parts) && parts.method == Method::GET {
        true => table::table(kind, std::slice::from_ref(&object), 0),
        false => Value::clone(&object),
    };
    let mut response = (code, axum::Json(body)).into_response();
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

fn method_not_allowed(parts: &Parts) -> ApiError {
    ApiError::MethodNotAllowed { method: parts.method.to_string(), path: parts.uri.path().into() }
}

fn content_type(parts: &Parts) -> &str {
    let value = parts.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

async fn read_body(body: Body) -> Result<bytes::Bytes, ApiError> {
    axum::body::to_bytes(body, MAX_BODY_BYTES).await.map_err(|_| ApiError::TooLarge { limit: MAX_BODY_BYTES })
}

/// Reads JSON, or YAML where the request says so.
async fn read_value(parts: &Parts, body: Body) -> Result<Value, ApiError> {
    let bytes = read_body(body).await?;
    match content_type(parts) {
        "" | "application/json" => {
            serde_json::from_slice(&bytes).map_err(|error| ApiError::BadRequest(format!("body is not JSON: {error}")))
        }
        "application/yaml" => serde_yaml_ng::from_slice(&bytes)
            .map_err(|error| ApiError::BadRequest(format!("body is not YAML: {error}"))),
        other => {
            Err(ApiError::UnsupportedMediaType { found: other.into(), accepted: "application/json, application/yaml" })
        }
    }
}

/// Reads an object and names the fields that its kind does not have: refused or warned about, as the client asked.
async fn read_object(parts: &Parts, body: Body, kind: &Kind, query: &Query) -> Result<(Value, Vec<String>), ApiError> {
    let object = read_value(parts, body).await?;
    let unknown =
        manifest::check(&kind.api_version(), kind.kind, &object).map(|c| c.unknown_fields).unwrap_or_default();
    let named: Vec<String> = unknown.into_iter().map(|field| format!("unknown field \"{field}\"")).collect();
    match query.get("fieldValidation") {
        Some("Ignore") => Ok((object, Vec::new())),
        Some("Strict") if !named.is_empty() => {
            Err(ApiError::BadRequest(format!("strict decoding error: {}", named.join(", "))))
        }
        None | Some("" | "Strict" | "Warn") => Ok((object, named)),
        Some(other) => Err(ApiError::BadRequest(format!("fieldValidation: {other:?} is not Ignore, Warn or Strict"))),
    }
}

/// A change to an object, in one of the forms that clients send.
enum Patch {
    /// RFC 6902.
    Json(json_patch::Patch),
    /// RFC 7386.
    Merge(Value),
    Replace(Value),
}

impl Patch {
    async fn read(parts: &Parts, body: Body) -> Result<Self, ApiError> {
        let bad = |error: serde_json::Error| ApiError::BadRequest(format!("patch: {error}"));
        match content_type(parts) {
            "application/json-patch+json" => {
                serde_json::from_slice(&read_body(body).await?).map(Self::Json).map_err(bad)
            }
            "application/merge-patch+json" => {
                serde_json::from_slice(&read_body(body).await?).map(Self::Merge).map_err(bad)
            }
            other => Err(ApiError::UnsupportedMediaType {
                found: other.into(),
                accepted: "application/json-patch+json, application/merge-patch+json",
            }),
        }
    }

    /// A patch for PATCH, the whole object for PUT.
    async fn read_or_object(parts: &Parts, body: Body) -> Result<Self, ApiError> {
        match parts.method {
            Method::PUT => read_value(parts, body).await.map(Self::Replace),
            _ => Self::read(parts, body).await,
        }
    }

    fn apply(&self, mut object: Value) -> Result<Value, ApiError> {
        match self {
            Self::Json(patch) => {
                json_patch::patch(&mut object, patch)
                    .map_err(|error| ApiError::BadRequest(format!("patch: {error}")))?;
            }
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Replace(new) => return Ok(new.clone()),
        }
        Ok(object)
    }
}

/// Propagation, grace period and the uid asked for, from the body's DeleteOptions or the query.
async fn delete_options(
    parts: &Parts,
    body: Body,
    query: &Query,
) -> Result<(Propagation, Option<i64>, Option<String>), ApiError> {
    let bytes = read_body(body).await?;
    let options: Value = match content_type(parts) {
        _ if bytes.is_empty() => Value::Null,
        "application/yaml" => {
            serde_yaml_ng::from_slice(&bytes).map_err(|error| ApiError::BadRequest(error.to_string()))?
        }
        _ => serde_json::from_slice(&bytes).map_err(|error| ApiError::BadRequest(format!("DeleteOptions: {error}")))?,
    };
    if !pod::items(&options, "dryRun").is_empty() {
        return Err(ApiError::BadRequest("dryRun is not supported for delete".into()));
    }
    query.refuse_dry_run()?;
    let policy = options.get("propagationPolicy").and_then(Value::as_str).or(query.get("propagationPolicy"));
    let propagation = match policy {
        None | Some("Background") => Propagation::Background,
        Some("Foreground") => Propagation::Foreground,
        Some("Orphan") => Propagation::Orphan,
        Some(other) => return Err(ApiError::BadRequest(format!("propagationPolicy: {other:?} is not known"))),
    };
    let from_query = query.get("gracePeriodSeconds").map(str::parse).transpose();
    let from_query = from_query.map_err(|_| ApiError::BadRequest("gracePeriodSeconds is not a number".into()))?;
    let grace = options.get("gracePeriodSeconds").and_then(Value::as_i64).or(from_query);
    let uid = options.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned);
    Ok((propagation, grace, uid))
}
