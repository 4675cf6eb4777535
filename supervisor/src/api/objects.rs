//! What creating, changing and deleting an object means, whatever its kind: the API server and the controllers
//! both come through here.

use std::sync::Arc;

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use wharf_specs::config::Network as NetworkConfig;

use super::access::{User, built_in, escalation};
use super::apply::{Writer, record_update};
use super::generation;
use super::identity;
use super::kinds::pod_affinity::merge_label_keys;
use super::kinds::{Kind, cluster_role, namespace, pod, priority_class, service, storage_class, text};
use super::metadata;
use super::object_store::{Key, ObjectStore, StoreError};
use super::scheduling::{self, Ledger};
use super::service_address::{self, ServiceRanges};
use super::status::{ApiError, Cause};
use super::update::typed;

pub use super::deletion::{FOREGROUND_FINALIZER, Propagation};
pub use super::update::Half;

/// How a write is done.
#[derive(Debug, Clone, Default)]
pub struct WriteOptions {
    /// Whose fields the changed ones are from then on; the node's own writes have none.
    pub writer: Option<Writer>,
    /// Everything is checked and answered, nothing is written.
    pub dry_run: bool,
    /// Who writes, and gives no right that they do not have; nobody for the node itself.
    pub author: Option<Arc<User>>,
}

/// The objects of this node.
#[derive(Clone)]
pub struct Objects {
    pub(super) store: ObjectStore,
    node_name: Arc<str>,
    service_ranges: Arc<ServiceRanges>,
    /// Pods reach the API, and are given tokens for it.
    tokens_for_pods: bool,
    ledger: Arc<Ledger>,
}

impl Objects {
    /// Takes the store over and makes sure that the namespaces and classes that every node has are there.
    pub async fn open(store: ObjectStore, node_name: &str) -> Result<Self, ApiError> {
        let ranges = ServiceRanges::of_config(&NetworkConfig::default());
        let ranges = ranges.map_err(|error| ApiError::Internal(error.to_string()))?;
        let objects = Self {
            store,
            node_name: node_name.into(),
            service_ranges: Arc::new(ranges),
            tokens_for_pods: false,
            ledger: Arc::default(),
        };
        for name in namespace::KEPT {
            if objects.get(&namespace::KIND, "", name).is_err() {
                let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
                objects.create(&namespace::KIND, "", object).await?;
            }
        }
        if objects.get(&storage_class::KIND, "", storage_class::LOCAL_PATH_CLASS).is_err() {
            objects.create(&storage_class::KIND, "", storage_class::local_path()).await?;
        }
        objects.make_built_in().await?;
        Ok(objects)
    }

    /// All in one write: the first start of a node waits for the disk once.
    async fn make_built_in(&self) -> Result<(), ApiError> {
        let mut missing = Vec::new();
        let classes = priority_class::built_in().map(|class| (&priority_class::KIND, class));
        for (kind, object) in built_in::objects().into_iter().chain(classes) {
            let name = text(&object, "/metadata/name").to_owned();
            if self.get(kind, "", &name).is_err() {
                missing.push((Key::new(&kind.resource(), "", &name), self.prepare_create(kind, "", object)?));
            }
        }
        let made = self.store.create_all(missing).await;
        made.map_err(|error| api_error(&cluster_role::KIND, "", error))
    }

    /// Services get their addresses and ports from these, in place of the default ones.
    pub fn with_service_ranges(self, ranges: ServiceRanges) -> Self {
        Self { service_ranges: Arc::new(ranges), ..self }
    }

    /// Pods to come are given tokens of their service accounts.
    pub fn with_tokens_for_pods(self) -> Self {
        Self { tokens_for_pods: true, ..self }
    }

    /// Who has the node.
    pub(super) fn ledger(&self) -> &Ledger {
        &self.ledger
    }

    pub(super) fn gives_tokens_to_pods(&self) -> bool {
        self.tokens_for_pods
    }

    /// Which Services are given only where they ask for it.
    pub fn first_service_address(&self) -> String {
        self.service_ranges.subnets.four.host(0).to_string()
    }

    pub(super) fn service_ranges(&self) -> &ServiceRanges {
        &self.service_ranges
    }

    pub fn store(&self) -> &ObjectStore {
        &self.store
    }

    /// As pods see it in `spec.nodeName`, and the name of the Node object.
    pub fn node_name(&self) -> &str {
        &self.node_name
    }

    pub fn get(&self, kind: &Kind, namespace: &str, name: &str) -> Result<Arc<Value>, ApiError> {
        let key = Key::new(&kind.resource(), namespace, name);
        self.store.get(&key).map(|object| kind.show(object)).ok_or_else(|| not_found(kind, name))
    }

    pub fn list(&self, kind: &Kind, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        let (objects, version) = self.store.list(&kind.resource(), namespace);
        (objects.into_iter().map(|object| kind.show(object)).collect(), version)
    }

    /// Refuses a version that this server has not reached yet.
    pub fn check_version(&self, requested: u64) -> Result<(), ApiError> {
        match self.store.version() {
            current if requested > current => Err(ApiError::FutureVersion { requested, current }),
            _ => Ok(()),
        }
    }

    /// Adds an object of the node's own.
    pub async fn create(&self, kind: &'static Kind, namespace: &str, object: Value) -> Result<Arc<Value>, ApiError> {
        self.create_for(kind, namespace, object, &WriteOptions::default()).await
    }

    /// Adds an object. `metadata.generateName` gets a suffix where there is no name.
    pub async fn create_for(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
        options: &WriteOptions,
    ) -> Result<Arc<Value>, ApiError> {
        let mut object = self.prepare_create(kind, namespace, object)?;
        self.check_rights(options.author.as_deref(), kind, &Value::Null, &object)?;
        if let Some(writer) = &options.writer {
            record_update(&kind.stored().api_version(), kind.kind, &Value::Null, &mut object, writer);
        }
        self.add(kind, namespace, object, options.dry_run).await.map(|object| kind.show(object))
    }

    /// Refuses what would give away rights that its author does not have.
    pub(super) fn check_rights(
        &self,
        author: Option<&User>,
        kind: &Kind,
        old: &Value,
        new: &Value,
    ) -> Result<(), ApiError> {
        author.map_or(Ok(()), |author| escalation::check(self, author, kind, old, new))
    }

    /// Adds an object that [`Objects::prepare_create`] has made, and gives it back as it is stored.
    pub(super) async fn add(
        &self,
        kind: &'static Kind,
        namespace: &str,
        object: Value,
        dry_run: bool,
    ) -> Result<Arc<Value>, ApiError> {
        let name = text(&object, "/metadata/name").to_owned();
        let key = Key::new(&kind.resource(), namespace, &name);
        let mut object = object;
        if dry_run {
            return match self.store.get(&key) {
                Some(_) => Err(ApiError::AlreadyExists { resource: kind.resource(), name }),
                None => self.complete_new(kind, &mut object).map(|()| Arc::new(object)),
            };
        }
        let objects = self.clone();
        let make = move || objects.complete_new(kind, &mut object).map(|()| object);
        self.store.create_by(key, make).await.map_err(|error| api_error(kind, &name, error))?
    }

    /// As [`Objects::complete`], and gives a pod its node.
    fn complete_new(&self, kind: &Kind, object: &mut Value) -> Result<(), ApiError> {
        if std::ptr::eq(kind, &pod::KIND) {
            scheduling::place(self, object);
        }
        self.complete(kind, None, object)
    }

    /// Adds what depends on the other objects, which nobody changes meanwhile; `before` is what the object was.
    pub(super) fn complete(&self, kind: &Kind, before: Option<&Value>, object: &mut Value) -> Result<(), ApiError> {
        self.check_default_class(kind, object)?;
        if !std::ptr::eq(kind, &service::KIND) {
            return Ok(());
        }
        match service_address::assign(self, before, object) {
            causes if causes.is_empty() => Ok(()),
            causes => Err(invalid(kind, text(object, "/metadata/name"), causes)),
        }
    }

    /// As [`Objects::create`], up to the point where it would be written: the object as it would be stored.
    pub(super) fn prepare_create(&self, kind: &Kind, namespace: &str, object: Value) -> Result<Value, ApiError> {
        let mut object = typed(kind, object)?;
        identity::check_namespace(&object, namespace)?;
        if kind.namespaced {
            self.check_takes_objects(namespace)?;
        }
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
        if let Some(rule) = kind.broken_name_rule(&name) {
            let cause = Cause::invalid("metadata.name", format_args!("{name:?}"), rule);
            return Err(invalid(kind, &name, vec![cause]));
        }
        match kind.namespaced {
            true => metadata.insert("namespace".into(), namespace.into()),
            false => metadata.remove("namespace"),
        };
        metadata.insert("name".into(), name.clone().into());
        metadata.insert("uid".into(), uuid::Uuid::new_v4().to_string().into());
        metadata.insert("creationTimestamp".into(), now().into());
        for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
            metadata.remove(field);
        }
        generation::begin(kind, &mut object);
        if let Some(fields) = object.as_object_mut() {
            fields.remove("status");
        }
        self.admit_storage(kind, &mut object);
        if std::ptr::eq(kind, &pod::KIND) {
            self.admit_account(&name, namespace, &mut object)?;
            self.admit_pull_secrets(namespace, &mut object);
            self.admit_priority(&name, &mut object)?;
            merge_label_keys(&mut object);
        }
        (kind.set_defaults)(&mut object);
        if kind.subresources.contains(&"status") && object.get("status").is_none() {
            // Clients read in it before a controller has written anything.
            object["status"] = Value::Object(Map::new());
        }
        let mut causes = metadata::causes(&Value::Null, &object);
        causes.extend(kind.new_causes(&object));
        if causes.is_empty() { Ok(object) } else { Err(invalid(kind, &name, causes)) }
    }

    /// Refuses a namespace that is not there, or on its way out.
    fn check_takes_objects(&self, namespace: &str) -> Result<(), ApiError> {
        let object = self.get(&namespace::KIND, "", namespace)?;
        if text(&object, "/metadata/deletionTimestamp").is_empty() {
            return Ok(());
        }
        let message = format!("namespace {namespace} is being terminated");
        Err(ApiError::Conflict { resource: "namespaces".into(), name: namespace.into(), message })
    }
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

/// The metadata of what a client sends, which may be anything.
pub(super) fn metadata_of(object: &mut Value) -> Result<&mut Map<String, Value>, ApiError> {
    let wrong = |what: &str| ApiError::BadRequest(format!("{what} must be an object"));
    let fields = object.as_object_mut().ok_or_else(|| wrong("what is sent"))?;
    let metadata = fields.entry("metadata").or_insert(Value::Null);
    if metadata.is_null() {
        *metadata = json!({});
    }
    metadata.as_object_mut().ok_or_else(|| wrong("metadata"))
}

pub(super) fn not_found(kind: &Kind, name: &str) -> ApiError {
    ApiError::NotFound { resource: kind.resource(), name: name.into() }
}

pub(super) fn invalid(kind: &Kind, name: &str, causes: Vec<Cause>) -> ApiError {
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
mod tests;
