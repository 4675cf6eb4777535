//! Where objects live: an embedded database for what must survive, a copy in memory for every read.
//!
//! A write is durable before it is visible. Each write gets the next resource version; the latest changes are kept
//! in memory, so that a watcher that asks for "everything since N" misses nothing or is told that N is too old.
//! Renewals alone ([`ObjectStore::renew`]) are not durable; their versions are never given out again all the same.

mod disk;
mod memory;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::Database;
use serde_json::Value;
use tokio::sync::watch;

use disk::{create, load, read_version, write_rows};
use memory::Memory;

/// How many versions of renewals one write of the database covers.
const RESERVED_VERSIONS: u64 = 1024;

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("object database {path}: {source}")]
    Open { path: String, source: redb::Error },
    #[error(
        "object database {path} has format {found}, this program reads up to {}: use a newer one",
        disk::FORMAT_VERSION
    )]
    Newer { path: String, found: u64 },
    #[error("object database: {0}")]
    Database(#[from] redb::Error),
    #[error("object {key} in the database is not readable: {source}")]
    Corrupt { key: String, source: serde_json::Error },
    #[error("{0} already exists")]
    Exists(Key),
    #[error("{0} not found")]
    Missing(Key),
    #[error("changes since {requested} are no longer kept; the oldest is {oldest}")]
    Expired { requested: u64, oldest: u64 },
}

/// Names one object. `resource` is `plural.group`, or `plural` of the core group.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    pub resource: String,
    /// Empty for kinds without namespaces.
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(resource: &str, namespace: &str, name: &str) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }

    fn to_row(&self) -> String {
        format!("{}\0{}\0{}", self.resource, self.namespace, self.name)
    }

    fn from_row(row: &str) -> Option<Self> {
        let mut parts = row.splitn(3, '\0');
        Some(Self::new(parts.next()?, parts.next()?, parts.next()?))
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.namespace.as_str() {
            "" => write!(f, "{} {:?}", self.resource, self.name),
            namespace => write!(f, "{} \"{namespace}/{}\"", self.resource, self.name),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeType {
    Added,
    Modified,
    Deleted,
}

/// One write, as watchers see it.
#[derive(Debug, Clone)]
pub struct Change {
    pub version: u64,
    pub change_type: ChangeType,
    pub key: Key,
    /// The object after the change; before it, where it was deleted.
    pub object: Arc<Value>,
    /// The object before a modification: a selector may match only one of the two.
    pub previous: Option<Arc<Value>>,
    /// It says no more than that somebody is still there, and is not on the disk.
    renews: bool,
}

#[derive(Clone)]
pub struct ObjectStore {
    inner: Arc<Inner>,
}

struct Inner {
    database: Database,
    /// Held over the commit: writes happen one after the other, reads never wait for them.
    writer: Mutex<()>,
    memory: RwLock<Memory>,
    version: watch::Sender<u64>,
    /// The version on the disk: a store that is opened again goes on from there. No one above it has been given out.
    reserved: AtomicU64,
}

impl ObjectStore {
    /// Opens the database at `path`, creating it if missing, and reads it whole.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let database = create(path).map_err(|error| StoreError::Open { path: shown.clone(), source: error.into() })?;
        let memory = load(&database, &shown)?;
        Ok(Self { inner: Arc::new(Inner::new(database, memory)) })
    }

    /// Of these objects, as long as it lives; for what is tried without a disk.
    #[doc(hidden)]
    pub fn in_memory(objects: impl IntoIterator<Item = (Key, Value)>) -> Result<Self, StoreError> {
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
        let database = database.map_err(redb::Error::from)?;
        let mut memory = load(&database, "in memory")?;
        memory.objects.extend(objects.into_iter().map(|(key, object)| (key, Arc::new(object))));
        Ok(Self { inner: Arc::new(Inner::new(database, memory)) })
    }

    /// Reads the whole database at `path`, which nobody has open, and compares it with its checksums. Returns the
    /// number of objects.
    pub fn check(path: &Path) -> Result<usize, StoreError> {
        let shown = path.display().to_string();
        let opened = |source: redb::Error| StoreError::Open { path: shown.clone(), source };
        let mut database = Database::open(path).map_err(|error| opened(error.into()))?;
        // False says that it was repaired: by the journal's rules, or the call would have failed.
        database.check_integrity().map_err(|error| opened(error.into()))?;
        Ok(load(&database, &shown)?.objects.len())
    }

    pub fn get(&self, key: &Key) -> Option<Arc<Value>> {
        self.read(|memory| memory.objects.get(key).cloned())
    }

    /// Objects of a resource, in one namespace or in all, and the version at which that is the truth.
    pub fn list(&self, resource: &str, namespace: Option<&str>) -> (Vec<Arc<Value>>, u64) {
        self.read(|memory| {
            let objects = memory.list(resource, namespace).map(|(_, object)| object.clone()).collect();
            (objects, memory.version)
        })
    }

    /// As [`ObjectStore::list`] was at `version`: the changes since then taken back.
    pub fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Value>>, StoreError> {
        self.read(|memory| memory.list_at(resource, namespace, version))
    }

    /// How many objects there are of each resource that has some.
    pub fn counts(&self) -> BTreeMap<String, usize> {
        self.read(|memory| {
            let mut counts = BTreeMap::new();
            for key in memory.objects.keys() {
                match counts.get_mut(&key.resource) {
                    Some(count) => *count += 1,
                    None => drop(counts.insert(key.resource.clone(), 1)),
                }
            }
            counts
        })
    }

    /// Whether the database answers, once all writes that were asked for before are done.
    pub async fn answers(&self) -> Result<(), StoreError> {
        self.write(|inner| Ok(read_version(&inner.database).map(drop)?)).await
    }

    pub fn version(&self) -> u64 {
        self.read(|memory| memory.version)
    }

    /// Adds an object that must not exist yet.
    pub async fn create(&self, key: Key, object: Value) -> Result<Arc<Value>, StoreError> {
        let created: Result<_, Infallible> = self.create_by(key, || Ok(object)).await?;
        created.map_err(|never| match never {})
    }

    /// As [`ObjectStore::create`]. Nobody else writes while `make` makes the object; what that refuses is not added.
    pub async fn create_by<E: Send + 'static>(
        &self,
        key: Key,
        make: impl FnOnce() -> Result<Value, E> + Send + 'static,
    ) -> Result<Result<Arc<Value>, E>, StoreError> {
        self.write(move |inner| {
            if inner.current(&key).is_some() {
                return Err(StoreError::Exists(key));
            }
            match make() {
                Ok(object) => inner.commit(key, Some(object)).map(|object| Ok(Ok(object))),
                Err(refusal) => Ok(Ok(Err(refusal))),
            }
        })
        .await?
    }

    /// Adds objects that must not exist yet, all of them or none.
    pub async fn create_all(&self, objects: Vec<(Key, Value)>) -> Result<(), StoreError> {
        if objects.is_empty() {
            return Ok(());
        }
        self.write(move |inner| match objects.iter().find(|(key, _)| inner.current(key).is_some()) {
            Some((key, _)) => Err(StoreError::Exists(key.clone())),
            None => inner.commit_all(objects.into_iter().map(|(key, object)| (key, Some(object))).collect()).map(drop),
        })
        .await
    }

    /// Changes an object by `change`, which sees the newest state; what it refuses changes nothing.
    /// An object left as it was is not written.
    pub async fn update<E: Send + 'static>(
        &self,
        key: Key,
        change: impl FnOnce(&mut Value) -> Result<(), E> + Send + 'static,
    ) -> Result<Result<Arc<Value>, E>, StoreError> {
        self.write(move |inner| {
            let Some(current) = inner.current(&key) else {
                return Err(StoreError::Missing(key));
            };
            let mut object = Value::clone(&current);
            if let Err(refusal) = change(&mut object) {
                return Ok(Ok(Err(refusal)));
            }
            if object == *current {
                return Ok(Ok(Ok(current)));
            }
            inner.commit(key, Some(object)).map(|object| Ok(Ok(object)))
        })
        .await?
    }

    /// As [`ObjectStore::update`], without writing anything.
    pub fn preview<E>(
        &self,
        key: &Key,
        change: impl FnOnce(&mut Value) -> Result<(), E>,
    ) -> Result<Result<Arc<Value>, E>, StoreError> {
        let current = self.get(key).ok_or_else(|| StoreError::Missing(key.clone()))?;
        let mut object = Value::clone(&current);
        Ok(change(&mut object).map(|()| Arc::new(object)))
    }

    /// Changes an object in memory alone, where the change says no more than that somebody is still there: watchers see
    /// it as any other. The disk has it with the object's next write; after a crash it has not been.
    pub async fn renew(&self, key: Key, change: impl FnOnce(&mut Value) + Send + 'static) -> Result<(), StoreError> {
        match self.renew_at_once(key, change) {
            Ok(renewed) => renewed,
            Err((key, change)) => self.write(move |inner| inner.renew(key, change)).await,
        }
    }

    /// As [`ObjectStore::renew`] where that waits for nobody, or what it was given.
    fn renew_at_once<F: FnOnce(&mut Value)>(&self, key: Key, change: F) -> Result<Result<(), StoreError>, (Key, F)> {
        match self.inner.writer.try_lock() {
            Ok(_writer) if self.version() < self.inner.reserved.load(Relaxed) => Ok(self.inner.renew(key, change)),
            _ => Err((key, change)),
        }
    }

    /// Gives versions back that are reserved for renewals, when the store is about to be closed: whoever has seen all
    /// changes has seen them still when it is opened again.
    pub async fn settle(&self) -> Result<(), StoreError> {
        self.write(|inner| inner.reserve(inner.version())).await
    }

    /// Removes an object for good and gives back its last state.
    pub async fn remove(&self, key: Key) -> Result<Arc<Value>, StoreError> {
        self.write(move |inner| {
            if inner.current(&key).is_none() {
                return Err(StoreError::Missing(key));
            }
            inner.commit(key, None).map(Ok)
        })
        .await?
    }

    /// Changes after `version`, oldest first.
    pub fn changes_since(&self, version: u64) -> Result<Vec<Change>, StoreError> {
        self.read(|memory| Ok(memory.changes_since(version)?.cloned().collect()))
    }

    /// Tells the newest version at each write.
    pub fn versions(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    fn read<T>(&self, look: impl FnOnce(&Memory) -> T) -> T {
        look(&self.inner.memory.read().unwrap_or_else(PoisonError::into_inner))
    }

    async fn write<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let inner = self.inner.clone();
        let written = tokio::task::spawn_blocking(move || {
            let _writer: MutexGuard<'_, ()> = inner.writer.lock().unwrap_or_else(PoisonError::into_inner);
            work(&inner)
        });
        match written.await {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
}

impl Inner {
    fn new(database: Database, memory: Memory) -> Self {
        let (version, reserved) = (watch::Sender::new(memory.version), memory.version.into());
        Self { database, writer: Mutex::new(()), memory: RwLock::new(memory), version, reserved }
    }

    fn version(&self) -> u64 {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).version
    }

    /// Has versions up to that one stay given out, whatever happens.
    fn reserve(&self, version: u64) -> Result<(), StoreError> {
        if version != self.reserved.load(Relaxed) {
            write_rows(&self.database, std::iter::empty(), version)?;
            self.reserved.store(version, Relaxed);
        }
        Ok(())
    }

    fn renew(&self, key: Key, change: impl FnOnce(&mut Value)) -> Result<(), StoreError> {
        let Some(current) = self.current(&key) else {
            return Err(StoreError::Missing(key));
        };
        let version = self.version() + 1;
        if version > self.reserved.load(Relaxed) {
            self.reserve(version + RESERVED_VERSIONS)?;
        }
        let mut object = Value::clone(&current);
        change(&mut object);
        object["metadata"]["resourceVersion"] = Value::String(version.to_string());
        self.memory.write().unwrap_or_else(PoisonError::into_inner).renew(version, key, Arc::new(object));
        self.version.send_replace(version);
        Ok(())
    }

    fn current(&self, key: &Key) -> Option<Arc<Value>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// Makes the next version durable, then visible. `None` removes.
    fn commit(&self, key: Key, object: Option<Value>) -> Result<Arc<Value>, StoreError> {
        Ok(self.commit_all(vec![(key, object)])?.pop().unwrap_or_default())
    }

    /// As [`Inner::commit`], several at once.
    fn commit_all(&self, objects: Vec<(Key, Option<Value>)>) -> Result<Vec<Arc<Value>>, StoreError> {
        let first = self.version() + 1;
        let changed: Vec<(Key, Option<Arc<Value>>)> = (first..)
            .zip(objects)
            .map(|(version, (key, object))| {
                let object = object.map(|mut object| {
                    object["metadata"]["resourceVersion"] = Value::String(version.to_string());
                    Arc::new(object)
                });
                (key, object)
            })
            .collect();
        let rows = changed.iter().map(|(key, object)| (key.to_row(), object.as_deref()));
        let reserved = self.reserved.load(Relaxed).max(first + changed.len() as u64 - 1);
        write_rows(&self.database, rows, reserved)?;
        self.reserved.store(reserved, Relaxed);
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        let shown =
            (first..).zip(changed).map(|(version, (key, object))| memory.change(version, key, object)).collect();
        let version = memory.version;
        drop(memory);
        self.version.send_replace(version);
        Ok(shown)
    }
}

#[cfg(test)]
mod tests;
