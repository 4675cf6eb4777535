//! The API's errors, as Kubernetes `Status` objects: the one place that chooses code and reason.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use serde_json::{Value, json};

/// Why a request was refused.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ApiError {
    #[error("{resource} {name:?} not found")]
    NotFound { resource: String, name: String },
    #[error("the server could not find the requested resource: {path}")]
    NoSuchPath { path: String },
    #[error("{resource} {name:?} already exists")]
    AlreadyExists { resource: String, name: String },
    #[error("operation cannot be fulfilled on {resource} {name:?}: {message}")]
    Conflict { resource: String, name: String, message: String },
    /// Fields that another manager has set otherwise.
    #[error("{message}")]
    ApplyConflict { resource: String, name: String, message: String, causes: Vec<Cause> },
    #[error("{kind} {name:?} is invalid: {}", causes_text(.causes))]
    Invalid { kind: String, name: String, causes: Vec<Cause> },
    #[error("{0}")]
    BadRequest(String),
    #[error("Unauthorized")]
    Unauthorized,
    /// `resource` is empty where it is a path that was asked for, `name` where no object was named.
    #[error("{}", forbidden_text(.resource, .name, .message))]
    Forbidden { resource: String, name: String, message: String },
    #[error("{method} is not supported on {path}")]
    MethodNotAllowed { method: String, path: String },
    #[error("content type {found:?} is not supported; accepted: {accepted}")]
    UnsupportedMediaType { found: String, accepted: &'static str },
    #[error("only the following media types are accepted: {accepted}")]
    NotAcceptable { accepted: &'static str },
    #[error("too large resource version: {requested}, current: {current}")]
    FutureVersion { requested: u64, current: u64 },
    #[error("request body is larger than {limit} bytes")]
    TooLarge { limit: usize },
    #[error("too old resource version: {requested} (oldest kept: {oldest})")]
    Expired { requested: u64, oldest: u64 },
    /// What the request needs is not to be had now.
    #[error("{0}")]
    ServiceUnavailable(String),
    #[error("{0}")]
    Internal(String),
}

/// One wrong field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cause {
    /// `FieldValueRequired`, `FieldValueInvalid`, `FieldValueNotSupported`, … as Kubernetes names them.
    pub reason: &'static str,
    /// Path from the object's root: `spec.containers[0].image`.
    pub field: String,
    pub message: String,
}

impl Cause {
    pub fn required(field: impl Into<String>, message: &str) -> Self {
        Self { reason: "FieldValueRequired", field: field.into(), message: format!("Required value: {message}") }
    }

    pub fn invalid(field: impl Into<String>, value: impl std::fmt::Display, message: &str) -> Self {
        let message = format!("Invalid value: {value}: {message}");
        Self { reason: "FieldValueInvalid", field: field.into(), message }
    }

    pub fn unsupported(field: impl Into<String>, message: &str) -> Self {
        Self { reason: "FieldValueNotSupported", field: field.into(), message: format!("Unsupported value: {message}") }
    }

    pub fn too_long(field: impl Into<String>, most_bytes: usize) -> Self {
        let message = format!("Too long: may not be more than {most_bytes} bytes");
        Self { reason: "FieldValueTooLong", field: field.into(), message }
    }

    pub fn forbidden(field: impl Into<String>, message: &str) -> Self {
        Self { reason: "FieldValueForbidden", field: field.into(), message: format!("Forbidden: {message}") }
    }
}

fn causes_text(causes: &[Cause]) -> String {
    let texts: Vec<String> = causes.iter().map(|c| format!("{}: {}", c.field, c.message)).collect();
    match texts.as_slice() {
        [one] => one.clone(),
        many => format!("[{}]", many.join(", ")),
    }
}

/// `qualified` is a kind or resource, with its group behind a dot: `Deployment.apps`.
fn object_details(name: &str, qualified: &str) -> Value {
    match qualified.split_once('.') {
        Some((kind, group)) => json!({"name": name, "group": group, "kind": kind}),
        None => json!({"name": name, "kind": qualified}),
    }
}

fn forbidden_text(resource: &str, name: &str, message: &str) -> String {
    match (resource, name) {
        ("", _) => format!("forbidden: {message}"),
        (_, "") => format!("{resource} is forbidden: {message}"),
        _ => format!("{resource} {name:?} is forbidden: {message}"),
    }
}

impl ApiError {
    pub fn code(&self) -> StatusCode {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath { .. } => StatusCode::NOT_FOUND,
            Self::AlreadyExists { .. } | Self::Conflict { .. } | Self::ApplyConflict { .. } => StatusCode::CONFLICT,
            Self::Invalid { .. } => StatusCode::UNPROCESSABLE_ENTITY,
            Self::BadRequest(_) => StatusCode::BAD_REQUEST,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::Forbidden { .. } => StatusCode::FORBIDDEN,
            Self::MethodNotAllowed { .. } => StatusCode::METHOD_NOT_ALLOWED,
            Self::UnsupportedMediaType { .. } => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::NotAcceptable { .. } => StatusCode::NOT_ACCEPTABLE,
            Self::FutureVersion { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::TooLarge { .. } => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Expired { .. } => StatusCode::GONE,
            Self::ServiceUnavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn reason(&self) -> &'static str {
        match self {
            Self::NotFound { .. } | Self::NoSuchPath { .. } => "NotFound",
            Self::AlreadyExists { .. } => "AlreadyExists",
            Self::Conflict { .. } | Self::ApplyConflict { .. } => "Conflict",
            Self::Invalid { .. } => "Invalid",
            Self::BadRequest(_) => "BadRequest",
            Self::Unauthorized => "Unauthorized",
            Self::Forbidden { .. } => "Forbidden",
            Self::MethodNotAllowed { .. } => "MethodNotAllowed",
            Self::UnsupportedMediaType { .. } => "UnsupportedMediaType",
            Self::NotAcceptable { .. } => "NotAcceptable",
            Self::FutureVersion { .. } => "Timeout",
            Self::TooLarge { .. } => "RequestEntityTooLarge",
            Self::Expired { .. } => "Expired",
            Self::ServiceUnavailable(_) => "ServiceUnavailable",
            Self::Internal(_) => "InternalError",
        }
    }

    fn details(&self) -> Value {
        match self {
            Self::NotFound { resource, name }
            | Self::AlreadyExists { resource, name }
            | Self::Forbidden { resource, name, .. }
            | Self::Conflict { resource, name, .. } => object_details(name, resource),
            Self::FutureVersion { .. } => json!({
                "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
                "retryAfterSeconds": 1,
            }),
            Self::Invalid { kind, name, causes } | Self::ApplyConflict { resource: kind, name, causes, .. } => {
                let causes: Vec<Value> = causes
                    .iter()
                    .map(|c| json!({"reason": c.reason, "message": c.message, "field": c.field}))
                    .collect();
                let mut details = object_details(name, kind);
                details["causes"] = causes.into();
                details
            }
            _ => json!({}),
        }
    }

    /// The `meta/v1` Status object.
    pub fn to_status(&self) -> Value {
        json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.to_string(), "reason": self.reason(), "details": self.details(),
            "code": self.code().as_u16(),
        })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.code(), Json(self.to_status())).into_response()
    }
}
