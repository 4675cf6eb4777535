//! What creating, changing and deleting an object means, whatever its kind: the API server and the controllers
//! both come through here.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use super::kinds::pod::DEFAULT_GRACE_SECONDS;
use super::kinds::{Kind, integer, is_dns_subdomain, namespace, pod, text};
use super::object_store::{Key, ObjectStore, StoreError};
use super::status::{ApiError, Cause};
use wharf_specs::manifest::{self, ShapeError};

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

/// The objects of this node.
#[derive(Clone)]
pub struct Objects {
    store: ObjectStore,
}

impl Objects {
    /// Takes the store over and makes sure that the namespaces every cluster has are there.
    pub async fn open(store: ObjectStore) -> Result<Self, ApiError> {
        let objects = Self { store };
        for name in ["default", "kube-system"] {
            if objects.get(&namespace::KIND, "", name).is_err() {
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                objects.create(&namespace::KIND, "", object).await?;
            }
        }
        Ok(objects)
    }

    pub fn store(&self) -> &ObjectStore {
        &self.store
    }

    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let key = Key::new(&kind.resource(), namespace, name);
        self.store.get(&key).ok_or_else(|| not_found(kind, name))
    }

    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        self.store.list(&kind.resource(), namespace)
    }

    /// Adds an object. `metadata.generateName` gets a suffix where there is no name.
    pub async fn create(&self, kind: &Kind, namespace: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        let object = self.prepare_create(kind, namespace, object)?;
        let name = text(&object, "/metadata/name").to_owned();
        let key = Key::new(&kind.resource(), namespace, &name);
        self.store.create(key, object).await.map_err(|error| api_error(kind, &name, error))
    }

    /// As [`Objects::create`], up to the point where it would be written.
    pub fn prepare_create(&self, kind: &Kind, namespace: &str, object: Value) -> Result<Value, ApiError> {
        let mut object = typed(kind, object)?;
        let metadata = metadata_of(&mut object)?;
        if metadata.get("resourceVersion").is_some_and(|version| version != "") {
            return Err(ApiError::BadRequest("resourceVersion should not be set on objects to be created".into()));
        }
        let name = match (metadata.get("name").and_then(Value::as_str), metadata.get("generateName")) {
            (Some(name), _) if !name.is_empty() => name.to_owned(),
            (_, Some(Value::String(prefix))) => format!("{prefix}{}", random_suffix()),
            _ => {
                return Err(invalid(
                    kind,
                    "",
                    vec![Cause::required("metadata.name", "name or generateName is required")],
                ));
            }
        };
        if !is_dns_subdomain(&name) {
            let cause =
                Cause::invalid("metadata.name", format_args!("{name:?}"), "must be a lowercase RFC 1123 subdomain");
            return Err(invalid(kind, &name, vec![cause]));
        }
        if kind.namespaced {
            self.check_namespace(metadata, namespace)?;
            metadata.insert("namespace".into(), namespace.into());
        }
        metadata.insert("name".into(), name.clone().into());
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), now().into());
        metadata.insert("generation".into(), 1.into());
        metadata.remove("deletionTimestamp");
        metadata.remove("selfLink");
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        (kind.set_defaults)(&mut object);
        match (kind.validate)(&object) {
            causes if causes.is_empty() => Ok(object),
            causes => Err(invalid(kind, &name, causes)),
        }
    }

    fn check_namespace(&self, metadata: &Map<String, Value>, namespace: &str) -> Result<(), ApiError> {
        if let Some(written) = metadata.get("namespace").and_then(Value::as_str)
            && written != namespace
        {
            let message =
                format!("the namespace of the object ({written}) does not match that of the request ({namespace})");
            return Err(ApiError::BadRequest(message));
        }
        let object = self.get(&namespace::KIND, "", namespace)?;
        if text(&object, "/metadata/deletionTimestamp").is_empty() {
            return Ok(());
        }
        let message = format!("namespace {namespace} is being terminated");
        Err(ApiError::Conflict { resource: "namespaces".into(), name: namespace.into(), message })
    }

    /// Changes an object by `change`, applied to its newest state; `status` tells which half may change.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        half: Half,
        change: impl FnOnce(Value) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Arc<Value>, ApiError> {
        let key = Key::new(&kind.resource(), namespace, name);
        let updated = self.store.update(key.clone(), move |current| {
            let wanted = change(current.clone())?;
            *current = merge_update(kind, current, wanted, half)?;
            Ok(())
        });
        let object = updated.await.map_err(|error| api_error(kind, name, error))??;
        if is_finished(&object) {
            return self.store.remove(key).await.map_err(|error| api_error(kind, name, error));
        }
        Ok(object)
    }

    /// Writes the status of an object, without any check: controllers know what they say.
    pub async fn set_status(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        uid: &str,
        status: Value,
    ) -> Result<(), ApiError> {
        let uid = uid.to_owned();
        let key = Key::new(&kind.resource(), namespace, name);
        let updated = self.store.update(key, move |current| {
            if text(current, "/metadata/uid") == uid {
                current["status"] = status;
            }
            Ok::<(), ApiError>(())
        });
        updated.await.map_err(|error| api_error(kind, name, error))?.map(drop)
    }

    /// Deletes an object: at once, or as soon as what must happen before has happened.
    pub async fn delete(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        propagation: Propagation,
        grace_seconds: Option<i64>,
    ) -> Result<Arc<Value>, ApiError> {
        let current = self.get(kind, namespace, name)?;
        if propagation == Propagation::Orphan {
            self.orphan_dependents(namespace, text(&current, "/metadata/uid")).await?;
        }
        let is_pod = std::ptr::eq(kind, &pod::KIND);
        let waits = is_pod || std::ptr::eq(kind, &namespace::KIND);
        let foreground = propagation == Propagation::Foreground && !waits;
        if !waits && !foreground && pod::items(&current["metadata"], "finalizers").is_empty() {
            let key = Key::new(&kind.resource(), namespace, name);
            return self.store.remove(key).await.map_err(|error| api_error(kind, name, error));
        }
        let key = Key::new(&kind.resource(), namespace, name);
        let marked = self.store.update(key, move |object| {
            mark_deleted(object, is_pod, foreground, grace_seconds);
            Ok::<(), ApiError>(())
        });
        marked.await.map_err(|error| api_error(kind, name, error))?
    }

    /// Removes an object for good, if it is still the one with `uid`.
    pub async fn remove(&self, kind: &Kind, namespace: &str, name: &str, uid: &str) -> Result<(), ApiError> {
        match self.get(kind, namespace, name) {
            Ok(object) if text(&object, "/metadata/uid") == uid => {
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

/// The half of an object that an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Desired,
    Status,
}

/// Whether one of the owners has `uid`.
pub fn is_owned_by(object: &Value, uid: &str) -> bool {
    pod::items(&object["metadata"], "ownerReferences").iter().any(|owner| owner["uid"] == uid)
}

/// The reference that a controller puts into what it makes.
pub fn owner_reference(kind: &Kind, owner: &Value) -> Value {
    json!({
        "apiVersion": kind.api_version(), "kind": kind.kind, "name": text(owner, "/metadata/name"),
        "uid": text(owner, "/metadata/uid"), "controller": true, "blockOwnerDeletion": true,
    })
}

/// The present time as API objects carry it: UTC, whole seconds.
pub fn now() -> String {
    time_text(Timestamp::now())
}

pub fn time_text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Five characters that are easy to tell apart, as Kubernetes appends them.
pub fn random_suffix() -> String {
    const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    uuid::Uuid::new_v4().as_bytes()[..5].iter().map(|&b| ALPHABET[usize::from(b) % ALPHABET.len()] as char).collect()
}

/// Checks the object's type and reduces it to the fields of its kind.
fn typed(kind: &Kind, mut object: Value) -> Result<Value, ApiError> {
    if !object.is_object() {
        return Err(ApiError::BadRequest(format!("{} must be an object", kind.kind)));
    }
    for (field, expected) in [("apiVersion", kind.api_version()), ("kind", kind.kind.to_owned())] {
        match text(&object, &format!("/{field}")) {
            "" => object[field] = expected.into(),
            found if found == expected => {}
            found => {
                let message =
                    format!("the {field} in the data ({found}) does not match the expected {field} ({expected})");
                return Err(ApiError::BadRequest(message));
            }
        }
    }
    match manifest::check(&kind.api_version(), kind.kind, &object) {
        Ok(checked) => Ok(checked.object),
        Err(ShapeError::Type { field, message }) => Err(ApiError::BadRequest(format!(
            "{} in version {:?} cannot be handled: {field}: {message}",
            kind.kind, kind.version
        ))),
        Err(error) => Err(ApiError::BadRequest(error.to_string())),
    }
}

/// `wanted` with everything of `current` that a client may not change.
fn merge_update(kind: &Kind, current: &Value, wanted: Value, half: Half) -> Result<Value, ApiError> {
    let name = text(current, "/metadata/name");
    let wanted_version = text(&wanted, "/metadata/resourceVersion");
    if !wanted_version.is_empty() && wanted_version != text(current, "/metadata/resourceVersion") {
        let message = "the object has been modified; please apply your changes to the latest version and try again";
        return Err(ApiError::Conflict { resource: kind.resource(), name: name.into(), message: message.into() });
    }
    if text(&wanted, "/metadata/name") != name {
        let message = format!(
            "the name of the object ({}) does not match the name in the request ({name})",
            text(&wanted, "/metadata/name")
        );
        return Err(ApiError::BadRequest(message));
    }
    let wanted_uid = text(&wanted, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != text(current, "/metadata/uid") {
        let message = "Precondition failed: the UID in the object differs from the one stored".to_owned();
        return Err(ApiError::Conflict { resource: kind.resource(), name: name.into(), message });
    }
    let mut object = typed(kind, wanted)?;
    if half == Half::Status {
        let mut kept = current.clone();
        kept["status"] = object["status"].take();
        return Ok(kept);
    }
    let metadata = metadata_of(&mut object)?;
    for field in [
        "uid",
        "creationTimestamp",
        "namespace",
        "generation",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
        "resourceVersion",
    ] {
        match current["metadata"].get(field) {
            Some(value) => metadata.insert(field.into(), value.clone()),
            None => metadata.remove(field),
        };
    }
    object["status"] = current["status"].clone();
    (kind.set_defaults)(&mut object);
    if object.get("spec") != current.get("spec") {
        object["metadata"]["generation"] = (integer(current, "/metadata/generation") + 1).into();
    }
    let mut causes = (kind.validate_update)(current, &object);
    causes.extend((kind.validate)(&object));
    if causes.is_empty() { Ok(object) } else { Err(invalid(kind, name, causes)) }
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

/// Deleted, and nothing holds it any more; pods and namespaces are removed by their controllers.
fn is_finished(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
        && pod::items(&object["metadata"], "finalizers").is_empty()
        && object["kind"] != "Pod"
        && object["kind"] != "Namespace"
}

fn metadata_of(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    if object["metadata"].is_null() {
        object["metadata"] = json!({});
    }
    object["metadata"].as_object_mut().ok_or_else(|| ApiError::BadRequest("metadata must be an object".into()))
}

fn not_found(kind: &Kind, name: &str) -> ApiError {
    ApiError::NotFound { resource: kind.resource(), name: name.into() }
}

fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
    let kind = if kind.group.is_empty() { kind.kind.into() } else { format!("{}.{}", kind.kind, kind.group) };
    ApiError::Invalid { kind, name: name.into(), causes }
}

/// The API's answer to a failure of the store.
pub fn api_error(kind: &Kind, name: &str, error: StoreError) -> ApiError {
    match error {
        StoreError::Exists(_) => ApiError::AlreadyExists { resource: kind.resource(), name: name.into() },
        StoreError::Missing(_) => not_found(kind, name),
        StoreError::Expired { requested, oldest } => ApiError::Expired { requested, oldest },
        other => ApiError::Internal(other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::deployment;

    async fn objects() -> (tempfile::TempDir, Objects) {
        let folder = tempfile::tempdir().unwrap();
        let store = ObjectStore::open(&folder.path().join("o.redb")).unwrap();
        (folder, Objects::open(store).await.unwrap())
    }

    fn web() -> Value {
        json!({
            "metadata": {"name": "web"},
            "spec": {
                "selector": {"matchLabels": {"app": "web"}},
                "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": "i:1"}]}},
            },
        })
    }

    #[tokio::test]
    async fn a_created_object_has_identity_and_defaults() {
        let (_folder, objects) = objects().await;
        let object = objects.create(&deployment::KIND, "default", web()).await.unwrap();
        assert_eq!((integer(&object, "/spec/replicas"), integer(&object, "/metadata/generation")), (1, 1));
        assert_eq!(text(&object, "/metadata/uid").len(), 36);
        let again = objects.create(&deployment::KIND, "default", web()).await;
        assert!(matches!(again, Err(ApiError::AlreadyExists { .. })));
        let elsewhere = objects.create(&deployment::KIND, "nowhere", web()).await;
        assert!(matches!(elsewhere, Err(ApiError::NotFound { .. })));
    }

    #[tokio::test]
    async fn an_update_from_an_old_version_is_a_conflict() {
        let (_folder, objects) = objects().await;
        let object = objects.create(&deployment::KIND, "default", web()).await.unwrap();
        let change = |replicas: i64, base: Value| {
            move |_| {
                let mut wanted = base;
                wanted["spec"]["replicas"] = replicas.into();
                Ok(wanted)
            }
        };
        let base = Value::clone(&object);
        let first =
            objects.update(&deployment::KIND, "default", "web", Half::Desired, change(2, base.clone())).await.unwrap();
        assert_eq!(integer(&first, "/metadata/generation"), 2);
        let second = objects.update(&deployment::KIND, "default", "web", Half::Desired, change(3, base)).await;
        assert!(matches!(second, Err(ApiError::Conflict { .. })), "{second:?}");
    }

    #[tokio::test]
    async fn status_and_desired_state_do_not_touch_each_other() {
        let (_folder, objects) = objects().await;
        objects.create(&deployment::KIND, "default", web()).await.unwrap();
        let change = |mut object: Value| {
            object["spec"]["replicas"] = 9.into();
            object["status"] = json!({"replicas": 4});
            Ok(object)
        };
        let object = objects.update(&deployment::KIND, "default", "web", Half::Status, change).await.unwrap();
        assert_eq!((integer(&object, "/spec/replicas"), integer(&object, "/status/replicas")), (1, 4));
    }

    #[tokio::test]
    async fn foreground_deletion_keeps_the_owner_until_its_finalizer_goes() {
        let (_folder, objects) = objects().await;
        objects.create(&deployment::KIND, "default", web()).await.unwrap();
        objects.delete(&deployment::KIND, "default", "web", Propagation::Foreground, None).await.unwrap();
        let object = objects.get(&deployment::KIND, "default", "web").unwrap();
        assert!(!text(&object, "/metadata/deletionTimestamp").is_empty());
        let release = |mut object: Value| {
            object["metadata"]["finalizers"] = json!([]);
            Ok(object)
        };
        objects.update(&deployment::KIND, "default", "web", Half::Desired, release).await.unwrap();
        assert!(objects.get(&deployment::KIND, "default", "web").is_err());
    }
}
