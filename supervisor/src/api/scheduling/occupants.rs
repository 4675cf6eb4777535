//! The pods that have the node, and what they ask for together: brought up to date by the store's changes, so that a pod is
//! not held against all others each time that it is looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use crate::api::kinds::pod_affinity::{ANTI_AFFINITY, Term};
use crate::api::kinds::{integer, pod, text};
use crate::api::object_store::{ChangeType, ObjectStore};
use crate::api::requests::request_of;

/// Resources that pods ask for and a node has, in the order in which a shortage is told.
pub(super) const COUNTED: [&str; 3] = ["cpu", "ephemeral-storage", "memory"];

/// Pods beside each other, by uid.
#[derive(Debug, Clone, Default)]
pub(super) struct Occupants {
    pods: BTreeMap<String, Occupant>,
    /// In thousandths, as [`COUNTED`]. Wide enough for any number of requests, so that what is added can be taken away.
    sums: [i128; COUNTED.len()],
}

#[derive(Debug, Clone)]
pub(super) struct Occupant {
    pub(super) pod: Arc<Value>,
    priority: i64,
    requests: [i64; COUNTED.len()],
    /// Whom it does not want beside it.
    pub(super) shuns: Vec<Term>,
}

impl Occupants {
    pub(super) fn add(&mut self, pod: Arc<Value>) {
        let requests = COUNTED.map(|resource| request_of(&pod, resource));
        let uid = text(&pod, "/metadata/uid").to_owned();
        self.remove(&uid);
        self.sums.iter_mut().zip(requests).for_each(|(sum, request)| *sum += i128::from(request));
        let shuns = Term::required(&pod, ANTI_AFFINITY);
        let priority = priority(&pod);
        self.pods.insert(uid, Occupant { pod, priority, requests, shuns });
    }

    pub(super) fn remove(&mut self, uid: &str) -> Option<Arc<Value>> {
        let gone = self.pods.remove(uid)?;
        self.sums.iter_mut().zip(gone.requests).for_each(|(sum, request)| *sum -= i128::from(request));
        Some(gone.pod)
    }

    /// All but the one with `uid`.
    pub(super) fn beside<'a>(&'a self, uid: &'a str) -> impl Iterator<Item = &'a Occupant> {
        self.pods.iter().filter(move |(other, _)| *other != uid).map(|(_, occupant)| occupant)
    }

    /// How many there are but the one with `uid`.
    pub(super) fn count_beside(&self, uid: &str) -> usize {
        self.pods.len() - usize::from(self.pods.contains_key(uid))
    }

    /// What all but the one with `uid` ask for, in thousandths, as [`COUNTED`].
    pub(super) fn used_beside(&self, uid: &str) -> [i128; COUNTED.len()] {
        let own = self.pods.get(uid).map_or([0; COUNTED.len()], |occupant| occupant.requests);
        let mut used = self.sums;
        used.iter_mut().zip(own).for_each(|(sum, own)| *sum -= i128::from(own));
        used
    }

    /// Those of a lower priority than that.
    pub(super) fn below(&self, priority: i64) -> impl Iterator<Item = &Arc<Value>> {
        self.pods.values().filter(move |occupant| occupant.priority < priority).map(|occupant| &occupant.pod)
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &Arc<Value>> {
        self.pods.values().map(|occupant| &occupant.pod)
    }
}

impl FromIterator<Arc<Value>> for Occupants {
    fn from_iter<I: IntoIterator<Item = Arc<Value>>>(pods: I) -> Self {
        let mut occupants = Self::default();
        pods.into_iter().for_each(|pod| occupants.add(pod));
        occupants
    }
}

/// Keeps who has the node, and for whom room is being made on it.
#[derive(Default)]
pub(in crate::api) struct Ledger {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The version of the store that this is the truth of; `None` before it was looked at.
    seen: Option<u64>,
    present: Arc<Occupants>,
    nominated: Arc<Occupants>,
}

impl Ledger {
    /// Those that have `node`, and those that wait and were promised it.
    pub(super) fn occupants(&self, store: &ObjectStore, node: &str) -> (Arc<Occupants>, Arc<Occupants>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.catch_up(store, node);
        (state.present.clone(), state.nominated.clone())
    }
}

impl State {
    fn catch_up(&mut self, store: &ObjectStore, node: &str) {
        let resource = pod::KIND.resource();
        let Some(changes) = self.seen.and_then(|seen| store.changes_since(seen).ok()) else {
            let (pods, version) = store.list(&resource, None);
            *self = Self { seen: Some(version), ..Self::default() };
            pods.into_iter().for_each(|pod| self.note(pod, node));
            return;
        };
        for change in changes {
            self.seen = Some(change.version);
            if change.key.resource != resource {
                continue;
            }
            match change.change_type {
                ChangeType::Deleted => self.forget(text(&change.object, "/metadata/uid")),
                ChangeType::Added | ChangeType::Modified => self.note(change.object, node),
            }
        }
    }

    fn note(&mut self, pod: Arc<Value>, node: &str) {
        self.forget(text(&pod, "/metadata/uid"));
        let is_over = matches!(text(&pod, "/status/phase"), "Succeeded" | "Failed");
        match (text(&pod, "/spec/nodeName"), text(&pod, "/status/nominatedNodeName")) {
            _ if is_over => {}
            (given, _) if given == node => Arc::make_mut(&mut self.present).add(pod),
            ("", promised) if promised == node && text(&pod, "/metadata/deletionTimestamp").is_empty() => {
                Arc::make_mut(&mut self.nominated).add(pod);
            }
            _ => {}
        }
    }

    fn forget(&mut self, uid: &str) {
        for occupants in [&mut self.present, &mut self.nominated] {
            if occupants.pods.contains_key(uid) {
                Arc::make_mut(occupants).remove(uid);
            }
        }
    }
}

/// What a pod's priority is; of one that an older daemon made, nothing is known.
pub(super) fn priority(pod: &Value) -> i64 {
    integer(pod, "/spec/priority")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::object_store::Key;
    use serde_json::json;

    fn pod(uid: &str, node: &str, cpu: &str) -> Value {
        json!({"metadata": {"name": uid, "namespace": "default", "uid": uid}, "status": {"phase": "Running"},
            "spec": {"nodeName": node, "containers": [{"resources": {"requests": {"cpu": cpu}}}]}})
    }

    #[tokio::test]
    async fn what_pods_ask_for_is_kept_as_they_come_and_go() {
        let key = |name: &str| Key::new("pods", "default", name);
        let store = ObjectStore::in_memory([(key("a"), pod("a", "n", "1")), (key("b"), pod("b", "m", "1"))]).unwrap();
        let ledger = Ledger::default();
        let used = || {
            let (present, nominated) = ledger.occupants(&store, "n");
            (present.used_beside("")[0], present.pods().count(), nominated.used_beside("")[0])
        };
        assert_eq!(used(), (1000, 1, 0));
        store.create(key("c"), pod("c", "n", "500m")).await.unwrap();
        store.create(key("d"), pod("d", "", "250m")).await.unwrap();
        assert_eq!(used(), (1500, 2, 0));
        let set = |name: &'static str, pointer: &'static str, value: Value| {
            store.update(key(name), move |pod| {
                *pod.pointer_mut(pointer).unwrap() = value;
                Ok::<(), ()>(())
            })
        };
        set("d", "/status", json!({"phase": "Pending", "nominatedNodeName": "n"})).await.unwrap().unwrap();
        assert_eq!(used(), (1500, 2, 250));
        set("d", "/spec/nodeName", json!("n")).await.unwrap().unwrap();
        set("c", "/spec/containers/0/resources/requests/cpu", json!("750m")).await.unwrap().unwrap();
        assert_eq!(used(), (2000, 3, 0));
        set("a", "/status/phase", json!("Succeeded")).await.unwrap().unwrap();
        store.remove(key("c")).await.unwrap();
        assert_eq!(used(), (250, 1, 0));
        let (present, _) = ledger.occupants(&store, "n");
        assert_eq!((present.used_beside("d")[0], present.beside("d").count()), (0, 0));
        assert_eq!((present.count_beside("d"), present.count_beside("other")), (0, 1));
    }

    #[test]
    fn requests_beyond_all_measure_are_taken_away_again() {
        let most = i64::MAX.to_string();
        let mut occupants: Occupants = ["a", "b"].map(|uid| Arc::new(pod(uid, "n", &most))).into_iter().collect();
        occupants.add(Arc::new(pod("c", "n", "1")));
        occupants.remove("a");
        occupants.remove("b");
        assert_eq!(occupants.used_beside("")[0], 1000);
    }
}
