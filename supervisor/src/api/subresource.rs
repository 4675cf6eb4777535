//! Sub-resources: a part of an object under a path of its own, or an action on it.

use std::sync::Arc;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use super::access::service_account_token;
use super::body::{FieldValidation, read_body, read_value};
use super::deletion::DeleteOptions;
use super::identity;
use super::kinds::pod_disruption::disrupt;
use super::kinds::{Kind, integer, pod, review, text};
use super::objects::{Half, metadata_of};
use super::patch::Patch;
use super::query::Query;
use super::server::{
    APPLY_TYPE, Api, Target, apply_request, method_not_allowed, read_patch, with_warnings, write_options,
};
use super::status::{ApiError, Cause};
use super::update::{check_type, check_version};
use super::{accept, body, pod_log, pod_stream, pod_why};

pub(super) async fn serve(
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
        ("eviction", &Method::POST) => evict(&api, &parts, body, &query, namespace, name).await,
        ("ephemeralcontainers" | "resize" | "status", &Method::GET) => {
            let form = accept::form(&parts, &query)?;
            Ok(axum::Json(form.show(kind, &api.objects.get(kind, namespace, name)?, 0)).into_response())
        }
        ("status", &Method::PUT | &Method::PATCH) => {
            write_half(&api, &parts, body, &query, target, (Half::Status, "status")).await
        }
        ("ephemeralcontainers", &Method::PUT | &Method::PATCH) => {
            let half = (Half::EphemeralContainers, "ephemeralcontainers");
            write_half(&api, &parts, body, &query, target, half).await
        }
        ("resize", &Method::PUT | &Method::PATCH) => {
            write_half(&api, &parts, body, &query, target, (Half::Resize, "resize")).await
        }
        ("token", &Method::POST) => service_account_token::serve(&api, &parts, body, &query, target).await,
        ("why", &Method::GET) => pod_why::serve(&api, namespace, name).await,
        ("scale", &Method::GET) => {
            let form = accept::form(&parts, &query)?;
            let scale = Arc::new(scale_of(&*api.objects.get(kind, namespace, name)?));
            Ok(axum::Json(form.show(&review::SCALE, &scale, 0)).into_response())
        }
        ("scale", &Method::PUT | &Method::PATCH) => write_scale(&api, &parts, body, &query, target).await,
        _ => Err(method_not_allowed(&parts)),
    }
}

/// What a write of `kind`, a part of the object that is meant, does to it: a patch for PATCH, the whole of it for PUT.
struct Change {
    patch: Patch,
    validation: FieldValidation,
    odd_fields: Vec<String>,
    api_version: String,
    kind: &'static str,
}

impl Change {
    async fn read(
        parts: &Parts,
        body: Body,
        query: &Query,
        target: Target<'_>,
        (api_version, kind): (String, &'static str),
    ) -> Result<Self, ApiError> {
        let validation = FieldValidation::of(query)?;
        let (patch, odd_fields) = match parts.method {
            Method::PUT => {
                let mut read = read_value(parts, body).await?;
                check_type(&mut read.value, &api_version, kind)?;
                identity::check(&read.value, target.namespace, target.name)?;
                (Patch::Replace(read.value), read.odd_fields)
            }
            _ => (read_patch(body::content_type(parts), &read_body(body).await?)?, Vec::new()),
        };
        Ok(Self { patch, validation, odd_fields, api_version, kind })
    }

    /// The object as it is wanted, and warnings about it.
    fn apply(&self, object: Value) -> Result<(Value, Vec<String>), ApiError> {
        let wanted = self.patch.apply(self.kind, &self.api_version, object)?;
        let warnings = self.validation.check(self.kind, &self.api_version, &wanted, &self.odd_fields)?;
        Ok((wanted, warnings))
    }
}

/// Writes the part of an object that is a sub-resource of its own.
async fn write_half(
    api: &Api,
    parts: &Parts,
    body: Body,
    query: &Query,
    target: Target<'_>,
    (half, subresource): (Half, &'static str),
) -> Result<Response, ApiError> {
    let Target { kind, namespace, name } = target;
    if body::content_type(parts) == APPLY_TYPE {
        let (wanted, apply, warnings) = apply_request(parts, body, query, target, subresource).await?;
        let (updated, _) = api.objects.apply(kind, namespace, name, half, wanted, apply).await?;
        return Ok(with_warnings(axum::Json(&*updated).into_response(), warnings));
    }
    let options = write_options(parts, query, subresource)?;
    let wanted = Change::read(parts, body, query, target, (kind.api_version(), kind.kind)).await?;
    let (warn, warned) = std::sync::mpsc::channel();
    let change = move |object| {
        let (wanted, warnings) = wanted.apply(object)?;
        let _ = warn.send(warnings);
        Ok(wanted)
    };
    let updated = api.objects.update_for(kind, namespace, name, half, options, change).await?;
    Ok(with_warnings(axum::Json(&*updated).into_response(), warned.try_iter().flatten().collect()))
}

async fn write_scale(
    api: &Api,
    parts: &Parts,
    body: Body,
    query: &Query,
    target: Target<'_>,
) -> Result<Response, ApiError> {
    let Target { kind, namespace, name } = target;
    let options = write_options(parts, query, "scale")?;
    let wanted = Change::read(parts, body, query, target, ("autoscaling/v1".into(), "Scale")).await?;
    let (warn, warned) = std::sync::mpsc::channel();
    let change = move |mut object: Value| {
        let current = scale_of(&object);
        let (mut scale, warnings) = wanted.apply(current.clone())?;
        let _ = warn.send(warnings);
        check_type(&mut scale, "autoscaling/v1", "Scale")?;
        identity::check(&scale, text(&object, "/metadata/namespace"), text(&object, "/metadata/name"))?;
        check_version(kind, &current, &scale)?;
        let replicas = scale.pointer("/spec/replicas").cloned().unwrap_or(Value::from(0));
        if replicas.as_i64().is_none_or(|count| !(0..=i64::from(i32::MAX)).contains(&count)) {
            let cause = Cause::invalid("spec.replicas", &replicas, "must be a number, at least 0");
            let name = text(&object, "/metadata/name").into();
            return Err(ApiError::Invalid { kind: "Scale.autoscaling".into(), name, causes: vec![cause] });
        }
        object["spec"]["replicas"] = replicas;
        Ok(object)
    };
    let updated = api.objects.update_for(kind, namespace, name, Half::Desired, options, change).await?;
    Ok(with_warnings(axum::Json(scale_of(&updated)).into_response(), warned.try_iter().flatten().collect()))
}

/// A pod's eviction (`policy/v1`): its deletion, which a disruption budget could refuse if there were any.
async fn evict(
    api: &Api,
    parts: &Parts,
    body: Body,
    query: &Query,
    namespace: &str,
    name: &str,
) -> Result<Response, ApiError> {
    let validation = FieldValidation::of(query)?;
    let read = read_value(parts, body).await?;
    let mut eviction = read.value;
    metadata_of(&mut eviction)?;
    check_type(&mut eviction, "policy/v1", "Eviction")?;
    identity::check(&eviction, namespace, name)?;
    let warnings = validation.check("Eviction", "policy/v1", &eviction, &read.odd_fields)?;
    let options = DeleteOptions::read(&eviction["deleteOptions"], query)?;
    let current = api.objects.get(&pod::KIND, namespace, name)?;
    options.check(&pod::KIND, &current)?;
    let uid = text(&current, "/metadata/uid");
    if !options.dry_run {
        let change = |pod: &Value| {
            let mut status = pod["status"].clone();
            disrupt(&mut status, "EvictionByEvictionAPI", "Eviction API: evicting");
            status
        };
        api.objects.change_status(&pod::KIND, namespace, name, uid, change).await?;
    }
    // Its version is another one by now.
    let options = DeleteOptions { resource_version: None, uid: Some(uid.to_owned()), ..options };
    api.objects.delete_for(&pod::KIND, namespace, name, &options).await?;
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(with_warnings((StatusCode::CREATED, axum::Json(status)).into_response(), warnings))
}

/// Streams to and from a pod: whoever asks for one acts, by whatever method.
pub(super) const CONNECTED: &[&str] = &["exec", "attach", "portforward"];

const PROXY_VERBS: &[&str] = &["create", "delete", "get", "patch", "update"];

/// Which kind and group a sub-resource speaks, and its verbs.
pub(super) fn description(
    kind: &Kind,
    subresource: &str,
) -> (&'static str, &'static str, &'static str, &'static [&'static str]) {
    match subresource {
        "scale" => ("autoscaling", "v1", "Scale", &["get", "patch", "update"]),
        "attach" => ("", "v1", "PodAttachOptions", &["create", "get"]),
        "exec" => ("", "v1", "PodExecOptions", &["create", "get"]),
        "portforward" => ("", "v1", "PodPortForwardOptions", &["create", "get"]),
        "proxy" if kind.plural == "pods" => ("", "v1", "PodProxyOptions", PROXY_VERBS),
        "proxy" => ("", "v1", "ServiceProxyOptions", PROXY_VERBS),
        "eviction" => ("policy", "v1", "Eviction", &["create"]),
        "log" => ("", "v1", "Pod", &["get"]),
        "token" => ("authentication.k8s.io", "v1", "TokenRequest", &["create"]),
        "why" => (pod_why::GROUP, pod_why::VERSION, pod_why::KIND, &["get"]),
        _ => (kind.group, kind.version, kind.kind, &["get", "patch", "update"]),
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
