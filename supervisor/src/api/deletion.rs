//! Deletion: at once or when finalizers are gone, with or without what an object owns.

use std::sync::Arc;

use serde_json::{Value, json};

use super::generation::count_deletion;
use super::kinds::pod::DEFAULT_GRACE_SECONDS;
use super::kinds::{Kind, namespace, pod, priority_class, text};
use super::object_store::Key;
use super::objects::{Objects, api_error, is_owned_by, now};
use super::query::Query;
use super::status::ApiError;

/// Keeps an object until its dependents are gone.
pub const FOREGROUND_FINALIZER: &str = "foregroundDeletion";

/// What becomes of the objects that a deleted one owns.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Propagation {
    /// Deleted afterwards.
    #[default]
    Background,
    /// Deleted before their owner goes.
    Foreground,
    /// Kept, without the owner.
    Orphan,
}

/// What a client says about a deletion (`meta/v1` DeleteOptions).
#[derive(Debug, Clone, Default)]
pub struct DeleteOptions {
    pub propagation: Propagation,
    pub grace_seconds: Option<i64>,
    /// Only an object with this uid, and at this version, is meant.
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    pub dry_run: bool,
}

impl DeleteOptions {
    /// From the request's body (null where it has none) and its query.
    pub(super) fn read(body: &Value, query: &Query) -> Result<Self, ApiError> {
        let text = |pointer: &str| body.pointer(pointer).and_then(Value::as_str).map(str::to_owned);
        let policy = text("/propagationPolicy").or_else(|| query.get("propagationPolicy").map(str::to_owned));
        let propagation = match policy.as_deref() {
            None | Some("" | "Background") => Propagation::Background,
            Some("Foreground") => Propagation::Foreground,
            Some("Orphan") => Propagation::Orphan,
            Some(other) => {
                let message = format!("propagationPolicy: {other:?} is not Background, Foreground or Orphan");
                return Err(ApiError::BadRequest(message));
            }
        };
        let propagation = match body.get("orphanDependents").and_then(Value::as_bool) {
            Some(_) if policy.is_some() => {
                let message = "orphanDependents and propagationPolicy cannot both be set";
                return Err(ApiError::BadRequest(message.into()));
            }
            Some(true) => Propagation::Orphan,
            _ => propagation,
        };
        let grace_seconds = match body.get("gracePeriodSeconds").filter(|value| !value.is_null()) {
            Some(value) => Some(
                value
                    .as_i64()
                    .ok_or_else(|| ApiError::BadRequest(format!("gracePeriodSeconds: {value} is not a number")))?,
            ),
            None => query.number("gracePeriodSeconds")?,
        };
        if let Some(negative) = grace_seconds.filter(|seconds| *seconds < 0) {
            return Err(ApiError::BadRequest(format!("gracePeriodSeconds: {negative} must not be negative")));
        }
        let mut dry_run = query.dry_run()?;
        for wanted in pod::items(body, "dryRun") {
            if wanted != "All" {
                return Err(ApiError::BadRequest(format!("dryRun: {wanted} is not \"All\"")));
            }
            dry_run = true;
        }
        let (uid, resource_version) = (text("/preconditions/uid"), text("/preconditions/resourceVersion"));
        Ok(Self { propagation, grace_seconds, uid, resource_version, dry_run })
    }

    /// Holds the preconditions against an object.
    pub(super) fn check(&self, kind: &Kind, object: &Value) -> Result<(), ApiError> {
        let preconditions = [("UID", "uid", &self.uid), ("ResourceVersion", "resourceVersion", &self.resource_version)];
        for (shown, field, wanted) in preconditions {
            let found = text(object, &format!("/metadata/{field}"));
            if let Some(wanted) = wanted.as_ref().filter(|wanted| *wanted != found) {
                let message =
                    format!("Precondition failed: {shown} in precondition: {wanted}, {shown} in object meta: {found}");
                let name = text(object, "/metadata/name").into();
                return Err(ApiError::Conflict { resource: kind.resource(), name, message });
            }
        }
        Ok(())
    }
}

impl Objects {
    /// Deletes an object: at once, or as soon as what must happen before has happened.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        propagation: Propagation,
        grace_seconds: Option<i64>,
    ) -> Result<Arc<Value>, ApiError> {
        let options = DeleteOptions { propagation, grace_seconds, ..DeleteOptions::default() };
        self.delete_for(kind, namespace, name, &options).await
    }

    /// As [`Objects::delete`], under the client's conditions.
    pub async fn delete_for(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        options: &DeleteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let DeleteOptions { propagation, grace_seconds, dry_run, .. } = *options;
        let current = self.get(kind, namespace, name)?;
        if std::ptr::eq(kind, &namespace::KIND) && namespace::KEPT.contains(&name) {
            let message = "this namespace may not be deleted".into();
            return Err(ApiError::Forbidden { resource: kind.resource(), name: name.into(), message });
        }
        if std::ptr::eq(kind, &priority_class::KIND) && priority_class::is_built_in(name) {
            let message = "this is a system priority class and cannot be deleted".into();
            return Err(ApiError::Forbidden { resource: kind.resource(), name: name.into(), message });
        }
        options.check(kind, &current)?;
        if dry_run {
            return Ok(current);
        }
        if propagation == Propagation::Orphan {
            self.orphan_dependents(namespace, text(&current, "/metadata/uid")).await?;
        }
        let is_pod = std::ptr::eq(kind, &pod::KIND);
        let waits = is_pod || std::ptr::eq(kind, &namespace::KIND);
        let foreground = propagation == Propagation::Foreground && !waits;
        if !waits && !foreground && pod::items(&current["metadata"], "finalizers").is_empty() {
            let key = Key::new(&kind.resource(), namespace, name);
            let removed = self.store.remove(key).await.map_err(|error| api_error(kind, name, error));
            return removed.map(|object| kind.show(object));
        }
        let key = Key::new(&kind.resource(), namespace, name);
        let marked = self.store.update(key, move |object| {
            mark_deleted(object, is_pod, foreground, grace_seconds);
            Ok::<(), ApiError>(())
        });
        marked.await.map_err(|error| api_error(kind, name, error))?.map(|object| kind.show(object))
    }

    /// Removes an object for good, if it is still the one with `uid`.
    pub async fn remove(&self, kind: &Kind, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        match self.get(kind, namespace, name) {
            Ok(object) if text(&object, "/metadata/uid") == uid => {
                if !pod::items(&object["metadata"], "finalizers").is_empty() {
                    // Done with on this side: goes with its last finalizer.
                    let done = |object: &mut Value| {
                        object["metadata"]["deletionGracePeriodSeconds"] = 0.into();
                        Ok::<(), ApiError>(())
                    };
                    let key = Key::new(&kind.resource(), namespace, name);
                    let marked = self.store.update(key, done).await;
                    return marked.map_err(|error| api_error(kind, name, error))?.map(drop);
                }
                let key = Key::new(&kind.resource(), namespace, name);
                self.store.remove(key).await.map(drop).map_err(|error| api_error(kind, name, error))
            }
            _ => Ok(()),
        }
    }

    async fn orphan_dependents(&self, namespace: &str, uid: &str) -> Result<(), ApiError> {
        for kind in super::kinds::KINDS {
            for object in self.list(kind, Some(namespace)).0 {
                if !is_owned_by(&object, uid) {
                    continue;
                }
                let uid = uid.to_owned();
                let key = Key::new(&kind.resource(), namespace, text(&object, "/metadata/name"));
                let updated = self.store.update(key, move |object| {
                    if let Some(owners) = object.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut)
                    {
                        owners.retain(|owner| owner["uid"] != uid.as_str());
                    }
                    Ok::<(), ApiError>(())
                });
                updated.await.map_err(|error| api_error(kind, "", error))??;
            }
        }
        Ok(())
    }
}

fn mark_deleted(object: &mut Value, is_pod: bool, foreground: bool, grace_seconds: Option<i64>) {
    if is_pod {
        let default = object.pointer("/spec/terminationGracePeriodSeconds").and_then(Value::as_i64);
        let wanted = grace_seconds.or(default).unwrap_or(DEFAULT_GRACE_SECONDS).max(0);
        // A second delete may only make it quicker.
        let grace = match object["metadata"].get("deletionGracePeriodSeconds").and_then(Value::as_i64) {
            Some(earlier) => earlier.min(wanted),
            None => wanted,
        };
        object["metadata"]["deletionGracePeriodSeconds"] = grace.into();
    }
    if text(object, "/metadata/deletionTimestamp").is_empty() {
        object["metadata"]["deletionTimestamp"] = now().into();
        count_deletion(object);
    }
    if object["kind"] == "Namespace" {
        object["status"]["phase"] = "Terminating".into();
    }
    if foreground && !pod::items(&object["metadata"], "finalizers").iter().any(|f| f == FOREGROUND_FINALIZER) {
        match object["metadata"]["finalizers"].as_array_mut() {
            Some(finalizers) => finalizers.push(FOREGROUND_FINALIZER.into()),
            None => object["metadata"]["finalizers"] = json!([FOREGROUND_FINALIZER]),
        }
    }
}

fn is_taken_down(pod: &Value) -> bool {
    pod["metadata"]["deletionGracePeriodSeconds"] == 0 && !pod::has_running_container(pod)
}

/// Deleted, and nothing holds it any more. Namespaces are removed by their controller, and pods, unless theirs has
/// done its part: their grace is over then, and nothing of them runs.
pub(super) fn is_finished(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
        && pod::items(&object["metadata"], "finalizers").is_empty()
        && (object["kind"] != "Pod" || is_taken_down(object))
        && object["kind"] != "Namespace"
}
