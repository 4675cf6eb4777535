//! Lists: selected by labels and fields, whole or in parts, at a version.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::accept::Form;
use super::field_labels;
use super::kinds::{Kind, text};
use super::objects::{Objects, api_error};
use super::query::Query;
use super::selector::Selector;
use super::status::ApiError;

/// Which objects of a collection are meant.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    labels: Selector,
    fields: Selector,
}

impl Filter {
    /// For objects of `kind`, if they are stored.
    pub(super) fn from_query(query: &Query, kind: Option<&Kind>) -> Result<Self, ApiError> {
        let text = |name: &str| query.get(name).unwrap_or_default();
        let bad = |name: &str, error: String| ApiError::BadRequest(format!("{name}: {error}"));
        let labels = Selector::parse_labels(text("labelSelector")).map_err(|error| bad("labelSelector", error))?;
        let fields = field_labels::parse(text("fieldSelector"), kind).map_err(|error| bad("fieldSelector", error))?;
        Ok(Self { labels, fields })
    }

    pub(super) fn matches(&self, object: &Value) -> bool {
        let labels = object.pointer("/metadata/labels").unwrap_or(&Value::Null);
        self.labels.matches(labels) && self.fields.matches_fields(object)
    }

    /// The only name that an object may have.
    pub(super) fn name(&self) -> Option<&str> {
        self.fields.exact("metadata.name")
    }

    fn is_empty(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }
}

/// Where the next part of a list begins: the version of the first part, and the last object of the one before.
struct Continue {
    version: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn parse(token: &str) -> Result<Self, ApiError> {
        let read = || {
            let json: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
            let text = |field: &str| json.get(field).and_then(Value::as_str).map(str::to_owned);
            Some(Self { version: json.get("rv")?.as_u64()?, namespace: text("namespace")?, name: text("name")? })
        };
        read().ok_or_else(|| ApiError::BadRequest("continue: not a token that this server gave".into()))
    }

    fn to_token(&self) -> String {
        let json = json!({"rv": self.version, "namespace": self.namespace, "name": self.name});
        URL_SAFE_NO_PAD.encode(json.to_string())
    }
}

/// Objects and the version at which they are the truth.
type Snapshot = (Vec<Arc<Value>>, u64);

/// The list a query asks for.
pub(super) fn list(
    objects: &Objects,
    kind: &'static Kind,
    namespace: Option<&str>,
    query: &Query,
    form: Form,
) -> Result<Response, ApiError> {
    let filter = Filter::from_query(query, Some(kind))?;
    let limit = query.number::<usize>("limit")?.unwrap_or(0);
    let from = query.get("continue").filter(|token| !token.is_empty()).map(Continue::parse).transpose()?;
    let (mut found, version) = match &from {
        Some(from) => {
            if query.number::<u64>("resourceVersion")?.is_some_and(|version| version != 0) {
                let message = "specifying resource version is not allowed when using continue";
                return Err(ApiError::BadRequest(message.into()));
            }
            let (mut found, version) = snapshot(objects, kind, namespace, from.version)?;
            let last = (from.namespace.as_str(), from.name.as_str());
            found.retain(|object| (text(object, "/metadata/namespace"), text(object, "/metadata/name")) > last);
            (found, version)
        }
        None => at_version(objects, kind, namespace, query)?,
    };
    found.retain(|object| filter.matches(object));
    let rest = if limit == 0 { 0 } else { found.len().saturating_sub(limit) };
    found.truncate(found.len() - rest);
    let continued = found.last().filter(|_| rest > 0).map(|last| {
        let (namespace, name) = (text(last, "/metadata/namespace").into(), text(last, "/metadata/name").into());
        (Continue { version, namespace, name }.to_token(), filter.is_empty().then_some(rest))
    });
    Ok(axum::Json(form.list(kind, &found, version, continued)).into_response())
}

/// The newest state, or that of `resourceVersion` where the query insists.
fn at_version(
    objects: &Objects,
    kind: &'static Kind,
    namespace: Option<&str>,
    query: &Query,
) -> Result<Snapshot, ApiError> {
    let version = query.number::<u64>("resourceVersion")?;
    let wanted = version.unwrap_or(0);
    objects.check_version(wanted)?;
    match (query.get("resourceVersionMatch"), version) {
        (Some(""), _) | (None, _) => Ok(objects.list(kind, namespace)),
        (Some("NotOlderThan"), Some(_)) => Ok(objects.list(kind, namespace)),
        (Some("Exact"), Some(1..)) => snapshot(objects, kind, namespace, wanted),
        (Some("Exact"), Some(_)) => {
            Err(ApiError::BadRequest("resourceVersionMatch: \"Exact\" needs a resourceVersion greater than 0".into()))
        }
        (Some("NotOlderThan" | "Exact"), None) => {
            Err(ApiError::BadRequest("resourceVersionMatch: it needs a resourceVersion".into()))
        }
        (Some(other), _) => {
            Err(ApiError::BadRequest(format!("resourceVersionMatch: {other:?} is not NotOlderThan or Exact")))
        }
    }
}

fn snapshot(
    objects: &Objects,
    kind: &'static Kind,
    namespace: Option<&str>,
    version: u64,
) -> Result<Snapshot, ApiError> {
    let found = objects.store().list_at(&kind.resource(), namespace, version);
    let shown = |objects: Vec<_>| objects.into_iter().map(|object| kind.show(object)).collect();
    found.map(|objects| (shown(objects), version)).map_err(|error| api_error(kind, "", error))
}
