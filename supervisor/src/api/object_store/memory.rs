//! The objects as reads see them, and the latest changes of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use serde_json::Value;

use super::{Change, ChangeType, Key, StoreError};

/// How many changes a watcher may be behind.
const HISTORY_CHANGES: usize = 4096;

#[derive(Default)]
pub(super) struct Memory {
    pub(super) objects: BTreeMap<Key, Arc<Value>>,
    pub(super) version: u64,
    /// By version. Of the renewals of an object only the last is in it.
    history: VecDeque<Change>,
    /// All changes after this version are in the history.
    oldest: u64,
}

impl Memory {
    /// As it is when a store is opened: nothing is known of what was before.
    pub(super) fn at(version: u64) -> Self {
        Self { version, oldest: version, ..Self::default() }
    }

    pub(super) fn list<'a>(
        &'a self,
        resource: &'a str,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = (&'a Key, &'a Arc<Value>)> {
        let first = Key::new(resource, namespace.unwrap_or_default(), "");
        self.objects
            .range(first..)
            .take_while(move |(key, _)| key.resource == resource && namespace.is_none_or(|n| key.namespace == n))
    }

    pub(super) fn list_at(
        &self,
        resource: &str,
        namespace: Option<&str>,
        version: u64,
    ) -> Result<Vec<Arc<Value>>, StoreError> {
        let present = self.list(resource, namespace);
        let mut objects: BTreeMap<&Key, Arc<Value>> = present.map(|(key, object)| (key, object.clone())).collect();
        for change in self.changes_since(version)?.rev() {
            let is_here = change.key.resource == resource && namespace.is_none_or(|n| change.key.namespace == n);
            match (&change.previous, is_here) {
                (_, false) => {}
                (Some(previous), true) => drop(objects.insert(&change.key, previous.clone())),
                (None, true) => drop(objects.remove(&change.key)),
            }
        }
        Ok(objects.into_values().collect())
    }

    /// Oldest first.
    pub(super) fn changes_since(&self, version: u64) -> Result<impl DoubleEndedIterator<Item = &Change>, StoreError> {
        if version < self.oldest {
            return Err(StoreError::Expired { requested: version, oldest: self.oldest });
        }
        let first = self.history.partition_point(|change| change.version <= version);
        Ok(self.history.range(first..))
    }

    /// Takes a change over; gives back the object, or what it was.
    pub(super) fn change(&mut self, version: u64, key: Key, object: Option<Arc<Value>>) -> Arc<Value> {
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
        self.push(Change { version, change_type, key, object: shown.clone(), previous, renews: false });
        shown
    }

    /// As [`Memory::change`], in the place of the renewal before: whoever has not seen that one misses nothing.
    pub(super) fn renew(&mut self, version: u64, key: Key, object: Arc<Value>) {
        let before = self.history.iter().rposition(|change| change.renews && change.key == key);
        if let Some(before) = before {
            self.history.remove(before);
        }
        let previous = self.objects.insert(key.clone(), object.clone());
        self.version = version;
        self.push(Change { version, change_type: ChangeType::Modified, key, object, previous, renews: true });
    }

    fn push(&mut self, change: Change) {
        if self.history.len() == HISTORY_CHANGES
            && let Some(forgotten) = self.history.pop_front()
        {
            self.oldest = forgotten.version;
        }
        self.history.push_back(change);
    }
}
