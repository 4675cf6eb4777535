//! The API's verbs over HTTP.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderValue, Method, StatusCode, header};
use serde_json::Value;
use tokio::net::UnixListener;

use super::accept::{self, Form};
use super::access::{self, Attributes, Caller, User, review};
use super::apply::{MAX_MANAGER_BYTES, Writer};
use super::body::{FieldValidation, content_type, parse_value, read_body, read_object, read_yaml};
use super::deletion::DeleteOptions;
use super::health::DatabaseCheck;
use super::identity;
use super::kinds::{Kind, PROXY, text};
use super::list::{self, Filter};
use super::metrics::NodeUsage;
use super::objects::{Half, Objects, WriteOptions, metadata_of};
use super::patch::{self, Patch};
use super::proxy::Places;
use super::query::Query;
use super::request_count::{RequestCount, Subject};
use super::route::{self, Route};
use super::status::ApiError;
use super::tls::TokenKey;
use super::update::{Apply, check_type, check_uid_of_none};
use super::{discovery, exposition, health, metrics, openapi, proxy, subresource, watch};
use crate::journal::Journal;
use crate::pod::Node;

/// Media type of a server-side apply.
pub(super) const APPLY_TYPE: &str = "application/apply-patch+yaml";

/// What every request may use.
#[derive(Clone)]
pub struct Api {
    pub objects: Objects,
    pub node: Node,
    /// Holds the logs of pods: `NAMESPACE_NAME_UID/CONTAINER/ATTEMPT.log`.
    pub pod_logs: Arc<std::path::Path>,
    pub usage: Arc<Usage>,
    /// What happened to pods.
    pub journal: Journal,
    /// What tokens are signed with, where they are given: with the API over TLS.
    pub tokens: Option<Arc<TokenKey>>,
}

/// What the API knows of the node and of itself.
pub struct Usage {
    pub(super) node: NodeUsage,
    pub(super) requests: RequestCount,
    pub(super) database: DatabaseCheck,
    pub(super) started: SystemTime,
    pub(super) proxied: Places,
}

impl Default for Usage {
    fn default() -> Self {
        let (node, requests, database, proxied) = Default::default();
        Self { node, requests, database, started: SystemTime::now(), proxied }
    }
}

/// Serves the API until the listener fails.
pub async fn serve(listener: UnixListener, api: Api) -> std::io::Result<()> {
    let root = Arc::new(User::root());
    let handle = move |State(api): State<Api>, request: Request| {
        let root = root.clone();
        async move { answer(api, root, request).await }
    };
    axum::serve(listener, Router::new().fallback(handle).with_state(api)).await
}

/// Answers `user`, as far as they have rights, and counts it.
pub(super) async fn answer(api: Api, user: Arc<User>, request: Request) -> Response {
    let (began, usage) = (Instant::now(), api.usage.clone());
    let mut subject = Subject::unknown();
    let answer = dispatch(api, user, request, &mut subject).await.unwrap_or_else(IntoResponse::into_response);
    usage.requests.answered(subject, answer.status(), began.elapsed());
    answer
}

async fn dispatch(api: Api, user: Arc<User>, request: Request, subject: &mut Subject) -> Result<Response, ApiError> {
    let (mut parts, body) = request.into_parts();
    let uri = parts.uri.clone();
    let (path, rest) = route::split(uri.path())?;
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let route = Route::parse(&path)?;
    *subject = Subject::of(&route, &parts, &query);
    let user = access::impersonated(&api.objects, user, &parts.headers)?;
    if !user.may_all() {
        access::authorize(&api.objects, &user, &Attributes::of(&route, &path, &parts.method, &query))?;
    }
    parts.extensions.insert(Caller(user));
    let only_get = |value: Value| match parts.method {
        Method::GET => Ok(axum::Json(value).into_response()),
        _ => Err(method_not_allowed(&parts)),
    };
    match route {
        Route::Paths => only_get(discovery::paths()),
        Route::Health { path, check } => health::answer(&api, path, check, &query).await,
        Route::Exposition if parts.method == Method::GET => Ok(exposition::answer(&api)),
        Route::Exposition => Err(method_not_allowed(&parts)),
        Route::Version => only_get(discovery::version()),
        Route::CoreVersions | Route::Groups if parts.method != Method::GET => Err(method_not_allowed(&parts)),
        Route::CoreVersions => discovery::answer(&parts, true),
        Route::Groups => discovery::answer(&parts, false),
        Route::OpenApi(_) if parts.method != Method::GET => Err(method_not_allowed(&parts)),
        Route::OpenApi(document) => openapi::answer(&parts, document),
        Route::Group { group } => only_get(discovery::group(group)?),
        Route::Resources { group, version } => only_get(discovery::resources(group, version)?),
        Route::Metrics(wanted) if parts.method == Method::GET => metrics::answer(&api, &parts, wanted, &query).await,
        Route::Metrics(_) => Err(method_not_allowed(&parts)),
        Route::Collection { kind, namespace } => collection(api, parts, body, query, kind, namespace).await,
        Route::Review { kind, namespace } => review::serve(&api, &parts, body, &query, kind, namespace).await,
        Route::Object { kind, namespace, name, subresource: None } => {
            object(api, parts, body, query, Target { kind, namespace, name }).await
        }
        Route::Object { kind, namespace, name, subresource: Some(part) } => {
            let target = Target { kind, namespace, name };
            if part == PROXY {
                return proxy::serve(&api, parts, body, target, rest.unwrap_or_default()).await;
            }
            subresource::serve(api, parts, body, query, target, part).await
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
    check_verb(&parts, kind, &[(Method::POST, "create"), (Method::DELETE, "deletecollection")])?;
    match parts.method {
        Method::GET => {
            let form = accept::form(&parts, &query)?;
            match query.flag("watch") {
                true => {
                    let filter = Filter::from_query(&query, Some(kind))?;
                    let counted = api.usage.requests.watching(kind);
                    watch::stream(&api.objects, kind, namespace, &query, filter, form, counted)
                }
                false => list::list(&api.objects, kind, namespace, &query, form),
            }
        }
        Method::POST => {
            let form = accept::form(&parts, &query)?;
            let options = write_options(&parts, &query, "")?;
            let (object, warnings) = read_object(&parts, body, kind, &query).await?;
            let written = text(&object, "/metadata/namespace").to_owned();
            let namespace = match namespace {
                Some(namespace) => namespace.to_owned(),
                None if kind.namespaced && written.is_empty() => "default".into(),
                None => written,
            };
            let created = api.objects.create_for(kind, &namespace, object, &options).await?;
            Ok(respond(form, kind, &created, StatusCode::CREATED, warnings))
        }
        Method::DELETE => {
            let options = delete_options(&parts, body, &query).await?;
            let filter = Filter::from_query(&query, Some(kind))?;
            let (mut objects, version) = api.objects.list(kind, namespace);
            objects.retain(|object| filter.matches(object));
            for object in &objects {
                let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
                match api.objects.delete_for(kind, namespace, name, &options).await {
                    Err(ApiError::NotFound { .. }) => {}
                    other => drop(other?),
                }
            }
            Ok(axum::Json(Form::Object.list(kind, &objects, version, None)).into_response())
        }
        _ => Err(method_not_allowed(&parts)),
    }
}

async fn object(api: Api, parts: Parts, body: Body, query: Query, target: Target<'_>) -> Result<Response, ApiError> {
    let Target { kind, namespace, name } = target;
    check_verb(&parts, kind, &[(Method::DELETE, "delete")])?;
    let form = accept::form(&parts, &query)?;
    match parts.method {
        Method::GET => {
            api.objects.check_version(query.number("resourceVersion")?.unwrap_or(0))?;
            let object = api.objects.get(kind, namespace, name)?;
            Ok(respond(form, kind, &object, StatusCode::OK, Vec::new()))
        }
        Method::PUT => {
            let options = write_options(&parts, &query, "")?;
            let (mut object, warnings) = read_object(&parts, body, kind, &query).await?;
            check_type(&mut object, &kind.api_version(), kind.kind)?;
            identity::check(&object, namespace, name)?;
            if kind.is_made_by_put() && api.objects.get(kind, namespace, name).is_err() {
                match made_by_put(&api, &parts, target, &object, &options).await {
                    // Made by somebody else meanwhile: then it is there to be changed.
                    Err(ApiError::AlreadyExists { .. }) => {}
                    made => return Ok(respond(form, kind, &made?, StatusCode::CREATED, warnings)),
                }
            }
            let change = move |_| Ok(object);
            let updated = api.objects.update_for(kind, namespace, name, Half::Desired, options, change).await?;
            Ok(respond(form, kind, &updated, StatusCode::OK, warnings))
        }
        Method::PATCH if content_type(&parts) == APPLY_TYPE => {
            let (wanted, mut apply, warnings) = apply_request(&parts, body, &query, target, "").await?;
            let creates = Attributes::on(kind, "create".into(), namespace, name, "");
            apply.uncreatable = access::authorize(&api.objects, &*Caller::of(&parts)?, &creates).err();
            if !kind.verbs.contains(&"create") {
                api.objects.get(kind, namespace, name)?;
            }
            let applied = api.objects.apply(kind, namespace, name, Half::Desired, wanted, apply).await?;
            let code = if applied.1 { StatusCode::CREATED } else { StatusCode::OK };
            Ok(respond(form, kind, &applied.0, code, warnings))
        }
        Method::PATCH => {
            let options = write_options(&parts, &query, "")?;
            let validation = FieldValidation::of(&query)?;
            let patch = read_patch(content_type(&parts), &read_body(body).await?)?;
            let (warn, warned) = std::sync::mpsc::channel();
            let change = move |object| {
                let patched = patch.apply_to(kind, object)?;
                let _ = warn.send(validation.check(kind.kind, &kind.api_version(), &patched, &[])?);
                Ok(patched)
            };
            let updated = api.objects.update_for(kind, namespace, name, Half::Desired, options, change).await?;
            Ok(respond(form, kind, &updated, StatusCode::OK, warned.try_iter().flatten().collect()))
        }
        Method::DELETE => {
            let options = delete_options(&parts, body, &query).await?;
            let deleted = api.objects.delete_for(kind, namespace, name, &options).await?;
            Ok(respond(form, kind, &deleted, StatusCode::OK, Vec::new()))
        }
        _ => Err(method_not_allowed(&parts)),
    }
}

/// Makes the object that a PUT describes, where there is none. One that was there once stays away.
async fn made_by_put(
    api: &Api,
    parts: &Parts,
    target: Target<'_>,
    object: &Value,
    options: &WriteOptions,
) -> Result<Arc<Value>, ApiError> {
    let Target { kind, namespace, name } = target;
    if !text(object, "/metadata/resourceVersion").is_empty() {
        return api.objects.get(kind, namespace, name);
    }
    let creates = Attributes::on(kind, "create".into(), namespace, name, "");
    access::authorize(&api.objects, &*Caller::of(parts)?, &creates)?;
    check_uid_of_none(kind, name, object)?;
    api.objects.create_for(kind, namespace, object.clone(), options).await
}

/// Refuses what cannot be done to the kind. `verbs` are those that some kinds do not have.
fn check_verb(parts: &Parts, kind: &Kind, verbs: &[(Method, &str)]) -> Result<(), ApiError> {
    match verbs.iter().any(|(method, verb)| *method == parts.method && !kind.verbs.contains(verb)) {
        true => Err(method_not_allowed(parts)),
        false => Ok(()),
    }
}

fn respond(form: Form, kind: &Kind, object: &Arc<Value>, code: StatusCode, warnings: Vec<String>) -> Response {
    with_warnings((code, axum::Json(form.show(kind, object, 0))).into_response(), warnings)
}

/// Adds a `Warning` header for each (RFC 7234, section 5.5).
pub(super) fn with_warnings(mut response: Response, warnings: Vec<String>) -> Response {
    for warning in warnings {
        if let Ok(value) = HeaderValue::from_str(&format!("299 - {warning:?}")) {
            response.headers_mut().append(header::WARNING, value);
        }
    }
    response
}

pub(super) fn method_not_allowed(parts: &Parts) -> ApiError {
    ApiError::MethodNotAllowed { method: parts.method.to_string(), path: parts.uri.path().into() }
}

pub(super) fn read_patch(media_type: &str, body: &[u8]) -> Result<Patch, ApiError> {
    Patch::parse(media_type, body).unwrap_or_else(|| {
        Err(ApiError::UnsupportedMediaType { found: media_type.into(), accepted: patch::MEDIA_TYPES })
    })
}

/// On whose behalf a write is made, and whether it is only tried.
pub(super) fn write_options(parts: &Parts, query: &Query, subresource: &'static str) -> Result<WriteOptions, ApiError> {
    let manager = match query.get("fieldManager").filter(|manager| !manager.is_empty()) {
        Some(manager) => checked_manager(manager)?,
        None => {
            let agent = parts.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default();
            let name = agent.split('/').next().unwrap_or_default().trim();
            let name: String = name.chars().filter(char::is_ascii_graphic).take(MAX_MANAGER_BYTES).collect();
            if name.is_empty() { "unknown".into() } else { name }
        }
    };
    let writer = Some(Writer { manager, subresource });
    Ok(WriteOptions { writer, dry_run: query.dry_run()?, author: Some(Caller::of(parts)?) })
}

fn checked_manager(manager: &str) -> Result<String, ApiError> {
    if manager.len() > MAX_MANAGER_BYTES || manager.chars().any(char::is_control) {
        let message = format!("fieldManager: must be printable and have at most {MAX_MANAGER_BYTES} bytes");
        return Err(ApiError::BadRequest(message));
    }
    Ok(manager.into())
}

/// The fields that a server-side apply wants, how they are applied, and warnings about them.
pub(super) async fn apply_request(
    parts: &Parts,
    body: Body,
    query: &Query,
    target: Target<'_>,
    subresource: &'static str,
) -> Result<(Value, Apply, Vec<String>), ApiError> {
    let manager = query.get("fieldManager").filter(|manager| !manager.is_empty());
    let manager = manager.ok_or_else(|| ApiError::BadRequest("fieldManager: is required for apply patch".into()))?;
    let writer = Writer { manager: checked_manager(manager)?, subresource };
    let (force, dry_run, author) = (query.flag("force"), query.dry_run()?, Some(Caller::of(parts)?));
    let apply = Apply { writer, force, dry_run, author, uncreatable: None };
    let mut wanted = read_yaml(&read_body(body).await?)?.value;
    strip_nulls(&mut wanted);
    let Target { kind, namespace, name } = target;
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        let found = text(&wanted, &format!("/{field}"));
        if found != expected {
            return Err(ApiError::BadRequest(format!(
                "{field}: an apply patch must say {expected:?}, found {found:?}"
            )));
        }
    }
    metadata_of(&mut wanted)?.entry("name").or_insert_with(|| name.into());
    identity::check(&wanted, namespace, name)?;
    if wanted.pointer("/metadata/managedFields").is_some() {
        return Err(ApiError::BadRequest("metadata.managedFields must be nil".into()));
    }
    let kind_name = kind.kind;
    let warnings = FieldValidation::of(query)?.check(kind_name, &kind.api_version(), &wanted, &[])?;
    Ok((wanted, apply, warnings))
}

fn strip_nulls(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|_, value| !value.is_null());
            fields.values_mut().for_each(strip_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(strip_nulls),
        _ => {}
    }
}

/// What the body's DeleteOptions and the query say about a deletion.
async fn delete_options(parts: &Parts, body: Body, query: &Query) -> Result<DeleteOptions, ApiError> {
    let bytes = read_body(body).await?;
    let options = match bytes.is_empty() {
        true => Value::Null,
        false => parse_value(content_type(parts), &bytes)?.value,
    };
    let kind = text(&options, "/kind");
    if !(options.is_object() || options.is_null()) || !matches!(kind, "" | "DeleteOptions") {
        let message = format!("the kind in the data ({kind}) does not match the expected kind (DeleteOptions)");
        return Err(ApiError::BadRequest(message));
    }
    DeleteOptions::read(&options, query)
}
