//! Where objects live: an embedded database for what must survive, a copy in memory for every read.
//!
//! A write is durable before it is visible. Each write gets the next resource version; the latest changes are kept
//! in memory, so that a watcher that asks for "everything since N" misses nothing or is told that N is too old.

mod disk;

use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use redb::Database;
use serde_json::Value;
use tokio::sync::watch;

use disk::{create, load, write_rows};

/// How many changes a watcher may be behind.
const HISTORY_CHANGES: usize = 4096;

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
}

#[derive(Default)]
struct Memory {
    objects: BTreeMap<Key, Arc<Value>>,
    version: u64,
    history: VecDeque<Change>,
}

impl ObjectStore {
    /// Opens the database at `path`, creating it if missing, and reads it whole.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let shown = path.display().to_string();
        let database = create(path).map_err(|error| StoreError::Open { path: shown.clone(), source: error.into() })?;
        let memory = load(&database, &shown)?;
        let version = watch::Sender::new(memory.version);
        let inner = Inner { database, writer: Mutex::new(()), memory: RwLock::new(memory), version };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Of these objects, as long as it lives; for what is tried without a disk.
    #[doc(hidden)]
    pub fn in_memory(objects: impl IntoIterator<Item = (Key, Value)>) -> Result<Self, StoreError> {
        let database = Database::builder().create_with_backend(redb::backends::InMemoryBackend::new());
        let database = database.map_err(redb::Error::from)?;
        let mut memory = load(&database, "in memory")?;
        memory.objects.extend(objects.into_iter().map(|(key, object)| (key, Arc::new(object))));
        let version = watch::Sender::new(memory.version);
        let inner = Inner { database, writer: Mutex::new(()), memory: RwLock::new(memory), version };
        Ok(Self { inner: Arc::new(inner) })
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
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        self.read(|memory| {
            let objects = memory
                .objects
                .range(first..)
                .take_while(|(key, _)| key.resource == resource && namespace.is_none_or(|n| key.namespace == n))
                .map(|(_, object)| object.clone())
                .collect();
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
        let is_here = |key: &Key| key.resource == resource && namespace.is_none_or(|n| key.namespace == n);
        self.read(|memory| {
            let oldest = memory.version - memory.history.len() as u64;
            if version < oldest {
                return Err(StoreError::Expired { requested: version, oldest });
            }
            let first = Key::new(resource, namespace.unwrap_or_default(), "");
            let present = memory.objects.range(first..).take_while(|(key, _)| is_here(key));
            let mut objects: BTreeMap<&Key, Arc<Value>> = present.map(|(key, object)| (key, object.clone())).collect();
            for change in memory.history.iter().rev().take_while(|change| change.version > version) {
                match (&change.previous, is_here(&change.key)) {
                    (_, false) => {}
                    (Some(previous), true) => drop(objects.insert(&change.key, previous.clone())),
                    (None, true) => drop(objects.remove(&change.key)),
                }
            }
            Ok(objects.into_values().collect())
        })
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
        self.read(|memory| {
            let oldest = memory.version - memory.history.len() as u64;
            if version < oldest {
                return Err(StoreError::Expired { requested: version, oldest });
            }
            Ok(memory.history.iter().skip((version - oldest) as usize).cloned().collect())
        })
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
    fn current(&self, key: &Key) -> Option<Arc<Value>> {
        self.memory.read().unwrap_or_else(PoisonError::into_inner).objects.get(key).cloned()
    }

    /// Makes the next version durable, then visible. `None` removes.
    fn commit(&self, key: Key, object: Option<Value>) -> Result<Arc<Value>, StoreError> {
        Ok(self.commit_all(vec![(key, object)])?.pop().unwrap_or_default())
    }

    /// As [`Inner::commit`], several at once.
    fn commit_all(&self, objects: Vec<(Key, Option<Value>)>) -> Result<Vec<Arc<Value>>, StoreError> {
        let first = self.memory.read().unwrap_or_else(PoisonError::into_inner).version + 1;
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
        write_rows(&self.database, rows, first + changed.len() as u64 - 1)?;
        let mut memory = self.memory.write().unwrap_or_else(PoisonError::into_inner);
        let shown =
            (first..).zip(changed).map(|(version, (key, object))| memory.change(version, key, object)).collect();
        let version = memory.version;
        drop(memory);
        self.version.send_replace(version);
        Ok(shown)
    }
}

impl Memory {
    /// Takes a change over; gives back the object, or what it was.
    fn change(&mut self, version: u64, key: Key, object: Option<Arc<Value>>) -> Arc<Value> {
        let previous = match &object {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        let change_type = match (&previous, &object) {
            (None, _) => ChangeType::Added,
            (Some(_), Some(_)) => ChangeType::Modified,
            (Some(_), None) => ChangeType::Deleted,
        };
        let shown = object.or_else(|| previous.clone()).unwrap_or_default();
        self.version = version;
        if self.history.len() == HISTORY_CHANGES {
            self.history.pop_front();
        }
        self.history.push_back(Change { version, change_type, key, object: shown.clone(), previous });
        shown
    }
}

#[cfg(test)]
mod tests;
