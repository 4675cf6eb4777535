//! Changes of an object: which part of it a client may change, and what is checked before it is written.

use std::sync::Arc;

use serde_json::Value;
use wharf_specs::manifest::{self, ShapeError};

use super::access::User;
use super::apply::{self, Writer, record_update};
use super::deletion::is_finished;
use super::generation;
use super::identity;
use super::kinds::{Kind, pod, pod_ephemeral, pod_resize, service, text};
use super::metadata;
use super::object_store::Key;
use super::objects::{Objects, WriteOptions, api_error, invalid, metadata_of};
use super::priority_admission;
use super::service_address;
use super::status::{ApiError, Cause};

/// The half of an object that an update may change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Half {
    Desired,
    Status,
    /// The list of a pod's ephemeral containers alone.
    EphemeralContainers,
    /// The requests and limits of a pod's containers alone.
    Resize,
}

/// How an object is applied.
#[derive(Debug, Clone)]
pub struct Apply {
    pub writer: Writer,
    /// Takes fields from other managers.
    pub force: bool,
    pub dry_run: bool,
    /// As of [`WriteOptions`].
    pub author: Option<Arc<User>>,
    /// Why its author may not make the object where there is none.
    pub uncreatable: Option<ApiError>,
}

impl Objects {
    /// Changes an object by `change`, applied to its newest state; `half` tells which half may change.
    pub async fn update(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        half: Half,
        change: impl FnOnce(Value) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Arc<Value>, ApiError> {
        self.update_for(kind, namespace, name, half, WriteOptions::default(), change).await
    }

    /// As [`Objects::update`], on behalf of somebody.
    pub async fn update_for(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        half: Half,
        options: WriteOptions,
        change: impl FnOnce(Value) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Arc<Value>, ApiError> {
        let (writer, author, objects) = (options.writer, options.author, self.clone());
        let change = move |current: &Value| {
            let wanted = change(kind.of_stored(current.clone()))?;
            let mut object = merge_update(kind, current, wanted, half)?;
            objects.check_rights(author.as_deref(), kind, current, &object)?;
            let is_managed = current["metadata"].get("managedFields").is_some();
            // What nobody manages, the node changes without becoming a manager.
            if let Some(writer) = writer.or_else(|| is_managed.then(Writer::node)) {
                record_update(&kind.stored().api_version(), kind.kind, current, &mut object, &writer);
            }
            Ok(object)
        };
        self.write(kind, namespace, name, options.dry_run, change).await.map(|object| kind.show(object))
    }

    /// Has `writer` want the fields of `wanted`, in an object that is made if there is none. Tells whether it was.
    pub async fn apply(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        half: Half,
        wanted: Value,
        apply: Apply,
    ) -> Result<(Arc<Value>, bool), ApiError> {
        let Apply { writer, force, dry_run, author, uncreatable } = apply;
        let wanted = kind.to_stored(wanted);
        if half == Half::Desired && self.get(kind, namespace, name).is_err() {
            if let Some(refusal) = uncreatable {
                return Err(refusal);
            }
            check_uid_of_none(kind, name, &wanted)?;
            let object = apply::apply(kind.stored(), &Value::Null, &wanted, &writer, force)?;
            let mut created = self.prepare_create(kind, namespace, kind.of_stored(object.clone()))?;
            self.check_rights(author.as_deref(), kind, &Value::Null, &created)?;
            // Defaults are nobody's.
            created["metadata"]["managedFields"] = object["metadata"]["managedFields"].clone();
            match self.add(kind, namespace, created, dry_run).await {
                // Made by somebody else meanwhile: then it is there to be changed.
                Err(ApiError::AlreadyExists { .. }) => {}
                other => return other.map(|object| (kind.show(object), true)),
            }
        }
        let objects = self.clone();
        let change = move |current: &Value| {
            let applied = apply::apply(kind.stored(), current, &wanted, &writer, force)?;
            let object = merge_update(kind, current, kind.of_stored(applied), half)?;
            objects.check_rights(author.as_deref(), kind, current, &object)?;
            Ok(object)
        };
        self.write(kind, namespace, name, dry_run, change).await.map(|object| (kind.show(object), false))
    }

    /// Writes what `change` makes of the newest state, and removes what that finishes.
    async fn write(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        dry_run: bool,
        change: impl FnOnce(&Value) -> Result<Value, ApiError> + Send + 'static,
    ) -> Result<Arc<Value>, ApiError> {
        let key = Key::new(&kind.resource(), namespace, name);
        let objects = self.clone();
        let change = move |current: &mut Value| {
            let before = std::mem::take(current);
            *current = change(&before)?;
            objects.complete(kind, Some(&before), current)
        };
        if dry_run {
            return self.store.preview(&key, change).map_err(|error| api_error(kind, name, error))?;
        }
        let updated = self.store.update(key.clone(), change);
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
        self.change_status(kind, namespace, name, uid, |_| status).await
    }

    /// As [`Objects::set_status`], made from the object as it is when it is written.
    pub async fn change_status(
        &self,
        kind: &'static Kind,
        namespace: &str,
        name: &str,
        uid: &str,
        change: impl FnOnce(&Value) -> Value + Send + 'static,
    ) -> Result<(), ApiError> {
        let uid = uid.to_owned();
        let key = Key::new(&kind.resource(), namespace, name);
        let updated = self.store.update(key, move |current| {
            if text(current, "/metadata/uid") == uid {
                current["status"] = change(current);
            }
            Ok::<(), ApiError>(())
        });
        updated.await.map_err(|error| api_error(kind, name, error))?.map(drop)
    }
}

/// Checks the object's type and reduces it to the fields of its kind; gives it back as it is stored.
pub(super) fn typed(kind: &Kind, mut object: Value) -> Result<Value, ApiError> {
    check_type(&mut object, &kind.api_version(), kind.kind)?;
    match manifest::check(&kind.api_version(), kind.kind, &object) {
        Ok(checked) => Ok(kind.to_stored(checked.object)),
        Err(ShapeError::Type { field, message }) => Err(ApiError::BadRequest(format!(
            "{} in version {:?} cannot be handled: {field}: {message}",
            kind.kind, kind.version
        ))),
        Err(error) => Err(ApiError::BadRequest(error.to_string())),
    }
}

/// Refuses an object of another type; one that says nothing of it is of this one.
pub(super) fn check_type(object: &mut Value, api_version: &str, kind: &str) -> Result<(), ApiError> {
    if !object.is_object() {
        return Err(ApiError::BadRequest(format!("{kind} must be an object")));
    }
    for (field, expected) in [("apiVersion", api_version), ("kind", kind)] {
        match text(object, &format!("/{field}")) {
            "" => object[field] = expected.into(),
            found if found == expected => {}
            found => {
                let message =
                    format!("the {field} in the data ({found}) does not match the expected {field} ({expected})");
                return Err(ApiError::BadRequest(message));
            }
        }
    }
    Ok(())
}

/// Refuses an object that is to be made though it says whose place it takes.
pub(super) fn check_uid_of_none(kind: &Kind, name: &str, wanted: &Value) -> Result<(), ApiError> {
    let uid = text(wanted, "/metadata/uid");
    if uid.is_empty() {
        return Ok(());
    }
    let message = format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
    Err(ApiError::Conflict { resource: kind.resource(), name: name.into(), message })
}

/// Refuses a change of another version than the present one; a client may leave the version out.
pub(super) fn check_version(kind: &Kind, current: &Value, wanted: &Value) -> Result<(), ApiError> {
    let version = text(wanted, "/metadata/resourceVersion");
    if version.is_empty() || version == text(current, "/metadata/resourceVersion") {
        return Ok(());
    }
    let message = "the object has been modified; please apply your changes to the latest version and try again".into();
    Err(ApiError::Conflict { resource: kind.resource(), name: text(current, "/metadata/name").into(), message })
}

/// `wanted`, of that kind, with everything of `current` that a client may not change: as it is stored.
fn merge_update(kind: &Kind, current: &Value, mut wanted: Value, half: Half) -> Result<Value, ApiError> {
    let name = text(current, "/metadata/name");
    metadata_of(&mut wanted)?;
    identity::check(&wanted, text(current, "/metadata/namespace"), name)?;
    check_version(kind, current, &wanted)?;
    let wanted_uid = text(&wanted, "/metadata/uid");
    if !wanted_uid.is_empty() && wanted_uid != text(current, "/metadata/uid") {
        let message = "Precondition failed: the UID in the object differs from the one stored".to_owned();
        return Err(ApiError::Conflict { resource: kind.resource(), name: name.into(), message });
    }
    let mut object = typed(kind, wanted)?;
    if half == Half::Status {
        let mut kept = current.clone();
        kept["status"] = object["status"].take();
        match object["metadata"]["managedFields"].take() {
            Value::Null => {}
            managers => kept["metadata"]["managedFields"] = managers,
        }
        return Ok(kept);
    }
    if half == Half::EphemeralContainers {
        let mut kept = current.clone();
        match object["spec"]["ephemeralContainers"].take() {
            Value::Null => drop(kept["spec"].as_object_mut().map(|spec| spec.remove("ephemeralContainers"))),
            containers => kept["spec"]["ephemeralContainers"] = containers,
        }
        return checked(kind, current, kept, pod_ephemeral::update_causes);
    }
    if half == Half::Resize {
        return checked(kind, current, pod_resize::resized(current.clone(), &object), pod_resize::update_causes);
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
    // Not null where there is none: clients send back what they are shown, and no kind has such a field.
    match current.get("status").filter(|status| !status.is_null()) {
        Some(status) => object["status"] = status.clone(),
        None => drop(object.as_object_mut().map(|fields| fields.remove("status"))),
    }
    checked(kind, current, object, kind.validate_update)
}

/// `object` with its defaults and its generation, if it may come after `current`.
fn checked(
    kind: &Kind,
    current: &Value,
    mut object: Value,
    validate_update: fn(&Value, &Value) -> Vec<Cause>,
) -> Result<Value, ApiError> {
    if std::ptr::eq(kind, &service::KIND) {
        service_address::keep(current, &mut object);
    }
    if std::ptr::eq(kind, &pod::KIND) {
        priority_admission::keep(current, &mut object);
    }
    (kind.set_defaults)(&mut object);
    generation::count(kind, current, &mut object);
    let mut causes = metadata::causes(current, &object);
    causes.extend(validate_update(current, &object));
    causes.extend((kind.validate)(&object));
    if causes.is_empty() { Ok(object) } else { Err(invalid(kind, text(current, "/metadata/name"), causes)) }
}
