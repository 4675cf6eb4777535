//! Watches: a stream of changes that misses nothing, or says that it would.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures_util::stream;
use serde::Serialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::accept::{Form, Shown};
use super::kinds::Kind;
use super::list::Filter;
use super::object_store::{Change, ChangeType, ObjectStore};
use super::objects::{Objects, api_error};
use super::query::Query;
use super::request_count::OpenWatch;
use super::status::{ApiError, Cause};

/// How often a client that asked for bookmarks gets one.
const BOOKMARK_INTERVAL: Duration = Duration::from_secs(30);

struct Watch {
    store: ObjectStore,
    kind: &'static Kind,
    resource: String,
    namespace: Option<String>,
    filter: Filter,
    form: Form,
    /// Changes up to this version have been sent.
    version: u64,
    bookmarks: bool,
    /// A bookmark says where what was there ends (`sendInitialEvents`).
    marks_initial_end: bool,
    deadline: Option<Instant>,
    /// Sent before any change: what is there already.
    initial: Option<Vec<Arc<Value>>>,
    failed: bool,
    _counted: Option<OpenWatch>,
}

/// The answer to `?watch=true`: one JSON event a line.
pub(super) fn stream(
    objects: &Objects,
    kind: &'static Kind,
    namespace: Option<&str>,
    query: &Query,
    filter: Filter,
    form: Form,
    counted: Option<OpenWatch>,
) -> Result<Response, ApiError> {
    let from = query.number::<u64>("resourceVersion")?.unwrap_or(0);
    let timeout = query.number::<u64>("timeoutSeconds")?;
    let bookmarks = query.flag("allowWatchBookmarks");
    objects.check_version(from)?;
    let wants_initial = wants_initial(query, bookmarks)?;
    let (initial, version) = match wants_initial.unwrap_or(from == 0) {
        true => {
            let (mut objects, version) = objects.list(kind, namespace);
            objects.retain(|object| filter.matches(object));
            (Some(objects), version)
        }
        false if from == 0 => (None, objects.store().version()),
        false => {
            objects.store().changes_since(from).map_err(|error| api_error(kind, "", error))?;
            (None, from)
        }
    };
    let watch = Watch {
        store: objects.store().clone(),
        kind,
        resource: kind.resource(),
        namespace: namespace.map(str::to_owned),
        filter,
        form,
        version,
        bookmarks,
        marks_initial_end: wants_initial == Some(true),
        deadline: timeout.map(|seconds| Instant::now() + Duration::from_secs(seconds)),
        initial,
        failed: false,
        _counted: counted,
    };
    let events = stream::unfold(watch, |mut watch| async move {
        let lines = watch.next().await?;
        Some((Ok::<Bytes, Infallible>(lines.into()), watch))
    });
    Response::builder()
        .header(http::header::CONTENT_TYPE, "application/json")
        .body(Body::from_stream(events))
        .map_err(|error| ApiError::Internal(error.to_string()))
}

/// Whether the client wants what is there already sent first, and its end marked.
fn wants_initial(query: &Query, bookmarks: bool) -> Result<Option<bool>, ApiError> {
    let invalid = |field: &str, message: &str| {
        let causes = vec![Cause::forbidden(field, message)];
        Err(ApiError::Invalid { kind: "ListOptions.meta.k8s.io".into(), name: String::new(), causes })
    };
    let matching = query.get("resourceVersionMatch").filter(|value| !value.is_empty());
    let Some(wanted) = query.get("sendInitialEvents").filter(|value| !value.is_empty()) else {
        return match matching {
            None => Ok(None),
            Some(_) => invalid("resourceVersionMatch", "is forbidden for watch unless sendInitialEvents is provided"),
        };
    };
    if matching != Some("NotOlderThan") {
        return invalid(
            "resourceVersionMatch",
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        );
    }
    match wanted {
        "true" | "1" if !bookmarks => {
            invalid("sendInitialEvents", "allowWatchBookmarks must be set: its end is told by a bookmark")
        }
        other => Ok(Some(matches!(other, "true" | "1"))),
    }
}

/// `meta.k8s.io/v1` WatchEvent.
#[derive(Serialize)]
struct WatchEvent<'a> {
    r#type: &'a str,
    object: Shown<'a>,
}

impl Watch {
    /// The next events as lines, or the end.
    async fn next(&mut self) -> Option<String> {
        if let Some(initial) = self.initial.take()
            && (!initial.is_empty() || self.marks_initial_end)
        {
            let mut lines: String = initial.iter().map(|object| self.line("ADDED", object)).collect();
            if self.marks_initial_end {
                lines += &self.bookmark(json!({"k8s.io/initial-events-end": "true"}));
            }
            return Some(lines);
        }
        let mut versions = self.store.versions();
        let bookmark_at = Instant::now() + BOOKMARK_INTERVAL;
        loop {
            if self.failed {
                return None;
            }
            versions.mark_unchanged();
            let lines = self.new_lines();
            if !lines.is_empty() {
                return Some(lines);
            }
            let wake = self.deadline.map_or(bookmark_at, |deadline| deadline.min(bookmark_at));
            tokio::select! {
                changed = versions.changed() => changed.ok()?,
                () = tokio::time::sleep_until(wake) => {
                    if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
                        return None;
                    }
                    return Some(if self.bookmarks { self.bookmark(Value::Null) } else { String::new() });
                }
            }
        }
    }

    fn new_lines(&mut self) -> String {
        let changes = match self.store.changes_since(self.version) {
            Ok(changes) => changes,
            Err(error) => {
                self.failed = true;
                let status = api_error(self.kind, "", error).to_status();
                return json!({"type": "ERROR", "object": status}).to_string() + "\n";
            }
        };
        self.version = changes.last().map_or(self.version, |change| change.version);
        changes.iter().filter_map(|change| self.line_of(change)).collect()
    }

    /// What a change means for somebody who sees only what the filter lets through.
    fn line_of(&self, change: &Change) -> Option<String> {
        let here = change.key.resource == self.resource
            && self.namespace.as_ref().is_none_or(|namespace| *namespace == change.key.namespace);
        if !here {
            return None;
        }
        let (object, previous) = (self.kind.show(change.object.clone()), change.previous.clone());
        let was = previous.is_some_and(|previous| self.filter.matches(&self.kind.show(previous)));
        let is = change.change_type != ChangeType::Deleted && self.filter.matches(&object);
        match (was, is) {
            (false, true) => Some(self.line("ADDED", &object)),
            (true, true) => Some(self.line("MODIFIED", &object)),
            (true, false) => {
                // The last state carries the version of the deletion, so that a client can go on from there.
                let mut last = Value::clone(&object);
                last["metadata"]["resourceVersion"] = change.version.to_string().into();
                Some(self.line("DELETED", &Arc::new(last)))
            }
            (false, false) => None,
        }
    }

    fn line(&self, event_type: &str, object: &Arc<Value>) -> String {
        let event = WatchEvent { r#type: event_type, object: self.form.show(self.kind, object, self.version) };
        // Of strings, numbers and objects nothing fails to be written.
        serde_json::to_string(&event).unwrap_or_default() + "\n"
    }

    fn bookmark(&self, annotations: Value) -> String {
        let mut object = json!({
            "kind": self.kind.kind, "apiVersion": self.kind.api_version(),
            "metadata": {"resourceVersion": self.version.to_string()},
        });
        if annotations.is_object() {
            object["metadata"]["annotations"] = annotations;
        }
        json!({"type": "BOOKMARK", "object": object}).to_string() + "\n"
    }
}
