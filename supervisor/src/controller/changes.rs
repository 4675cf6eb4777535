//! The changes that a controller has not looked at yet.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;

use super::event::Recorder;
use crate::api::kinds::{Kind, pod, text};
use crate::api::object_store::{Change, ObjectStore};
use crate::api::objects::Objects;
use crate::api::status::ApiError;

/// Follows the store from its present state.
pub(super) struct Changes {
    store: ObjectStore,
    seen: u64,
    versions: watch::Receiver<u64>,
}

impl Changes {
    pub(super) fn new(store: &ObjectStore) -> Self {
        let versions = store.versions();
        Self { seen: store.version(), store: store.clone(), versions }
    }

    /// Waits for changes. `None` means that some were missed: everything must be looked at.
    pub(super) async fn next(&mut self) -> Option<Vec<Change>> {
        loop {
            self.versions.mark_unchanged();
            match self.store.changes_since(self.seen) {
                Ok(changes) if changes.is_empty() => {
                    // The sender lives in the store that is held here.
                    let _ = self.versions.changed().await;
                }
                Ok(changes) => {
                    self.seen = changes.last().map_or(self.seen, |change| change.version);
                    return Some(changes);
                }
                Err(_) => {
                    self.seen = self.store.version();
                    return None;
                }
            }
        }
    }
}

/// When what has failed is tried again, should nothing change before.
const RETRY: Duration = Duration::from_secs(10);

/// Namespace and name.
pub(super) type Name = (String, String);

/// Which objects of `owner` the changes concern: themselves, or as owners of what changed in `owned`.
pub(super) fn concerned(changes: &[Change], owner: &Kind, owned: &Kind) -> BTreeSet<Name> {
    let (owner_resource, owned_resource) = (owner.resource(), owned.resource());
    let mut names = BTreeSet::new();
    for change in changes {
        let namespace = change.key.namespace.clone();
        if change.key.resource == owner_resource {
            names.insert((namespace, change.key.name.clone()));
        } else if change.key.resource == owned_resource {
            let owners = pod::items(&change.object["metadata"], "ownerReferences").iter();
            let owners = owners.filter(|reference| reference["kind"] == owner.kind);
            names.extend(owners.map(|reference| (namespace.clone(), text(reference, "/name").to_owned())));
        }
    }
    names
}

/// Whether a change is one of that part of an object, or of whether there is one.
pub(super) fn differs(change: &Change, pointer: &str) -> bool {
    change.previous.as_ref().is_none_or(|before| before.pointer(pointer) != change.object.pointer(pointer))
}

/// Every object of a kind.
pub(super) fn all(objects: &Objects, kind: &Kind) -> BTreeSet<Name> {
    let name_of = |object: &Value| (text(object, "/metadata/namespace").into(), text(object, "/metadata/name").into());
    objects.list(kind, None).0.iter().map(|object| name_of(object)).collect()
}

/// When to look at an object again though nothing changes; `None` where there is no such time.
pub(super) type Again = Option<Duration>;

/// Runs `reconcile` for every object of `kind`, and again for each that a change concerns or whose time has come. What
/// fails is tried again with the next change of the object, of which a conflict is one, or some time later.
pub(super) async fn run<F>(
    objects: Objects,
    recorder: Recorder,
    kind: &'static Kind,
    owned: &'static Kind,
    reconcile: F,
) where
    F: AsyncFn(&Objects, &Recorder, &str, &str) -> Result<Again, ApiError>,
{
    run_also(objects, recorder, kind, owned, |_| false, reconcile).await;
}

/// As [`run`], and for every object once more with each change that `concerns_all`.
pub(super) async fn run_also<F>(
    objects: Objects,
    recorder: Recorder,
    kind: &'static Kind,
    owned: &'static Kind,
    concerns_all: fn(&Change) -> bool,
    reconcile: F,
) where
    F: AsyncFn(&Objects, &Recorder, &str, &str) -> Result<Again, ApiError>,
{
    let mut changes = Changes::new(objects.store());
    let mut names = all(&objects, kind);
    let mut due: BTreeMap<Name, Instant> = BTreeMap::new();
    loop {
        for name in &names {
            let again = reconcile(&objects, &recorder, &name.0, &name.1).await.unwrap_or_else(|error| {
                tracing::warn!(kind = kind.kind, namespace = name.0, name = name.1, %error, "reconcile");
                Some(RETRY)
            });
            match again {
                Some(wait) => drop(due.insert(name.clone(), Instant::now() + wait)),
                None => drop(due.remove(name)),
            }
        }
        let next = due.values().min().copied();
        names = tokio::select! {
            batch = changes.next() => match batch {
                Some(changes) if changes.iter().any(concerns_all) => all(&objects, kind),
                Some(changes) => concerned(&changes, kind, owned),
                None => all(&objects, kind),
            },
            () = until(next) => {
                let now = Instant::now();
                due.iter().filter(|(_, at)| **at <= now).map(|(name, _)| name.clone()).collect()
            }
        };
    }
}

async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
