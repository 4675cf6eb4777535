//! Which pods have to go for one that matters more.

use std::sync::Arc;

use serde_json::Value;

use super::occupants::{Occupants, priority};
use super::{before, node_view, obstacle_beside, own_obstacle};
use crate::api::kinds::pod::items;
use crate::api::kinds::{daemon_set, job, priority_class, replica_set, text};
use crate::api::objects::Objects;

/// The pods of lower priority that have to be ended for `pod`, beside those that are leaving: the least important, and
/// none whose end changes nothing, or whose successor has the node at once. `None` where it would not have the node even
/// without all of them.
pub fn victims(objects: &Objects, pod: &Value) -> Option<Vec<Arc<Value>>> {
    let (present, nominated) = objects.ledger().occupants(objects.store(), objects.node_name());
    // Of most pods that wait, none that has the node is below them.
    present.below(priority(pod)).next()?;
    let node = node_view(objects);
    if text(pod, "/spec/preemptionPolicy") == priority_class::NEVER || own_obstacle(objects, pod, &node).is_some() {
        return None;
    }
    let mut others = Occupants::clone(&present);
    before(pod, &nominated).for_each(|promised| others.add(promised));
    let may_go = |other: &Value| !returns_at_once(objects, other);
    choose(pod, &mut others, may_go, |others| obstacle_beside(objects, pod, &node, others).is_none())
}

/// Whether who made a pod makes the next one for this node, which would have it again before anybody else.
fn returns_at_once(objects: &Objects, pod: &Value) -> bool {
    let mut owners = items(&pod["metadata"], "ownerReferences").iter().filter(|owner| owner["controller"] == true);
    owners.any(|owner| {
        let kind =
            [&daemon_set::KIND, &job::KIND, &replica_set::KIND].into_iter().find(|kind| owner["kind"] == kind.kind);
        let owner = |kind| objects.get(kind, text(pod, "/metadata/namespace"), text(owner, "/name")).ok();
        kind.is_some_and(|kind| {
            let names_node = |owner: Arc<Value>| !text(&owner, "/spec/template/spec/nodeName").is_empty();
            std::ptr::eq(kind, &daemon_set::KIND) || owner(kind).is_some_and(names_node)
        })
    })
}

fn choose(
    pod: &Value,
    others: &mut Occupants,
    may_go: impl Fn(&Value) -> bool,
    fits: impl Fn(&Occupants) -> bool,
) -> Option<Vec<Arc<Value>>> {
    let mut lower: Vec<Arc<Value>> = others.below(priority(pod)).filter(|other| may_go(other)).cloned().collect();
    if lower.is_empty() {
        return None;
    }
    for other in &lower {
        others.remove(text(other, "/metadata/uid"));
    }
    if !fits(others) {
        return None;
    }
    // The most important stays before others, and of the same importance who came first.
    let importance = |pod: &Arc<Value>| (-priority(pod), text(pod, "/metadata/creationTimestamp").to_owned());
    lower.sort_by_cached_key(importance);
    let mut victims = Vec::new();
    for other in lower.into_iter().filter(|other| text(other, "/metadata/deletionTimestamp").is_empty()) {
        others.add(other.clone());
        if !fits(others) {
            others.remove(text(&other, "/metadata/uid"));
            victims.push(other);
        }
    }
    Some(victims)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::object_store::ObjectStore;
    use serde_json::json;

    fn pod(name: &str, priority: i64, created: u32) -> Arc<Value> {
        let created = format!("2026-01-01T00:00:{created:02}Z");
        Arc::new(json!({"metadata": {"name": name, "uid": name, "creationTimestamp": created},
            "spec": {"priority": priority}}))
    }

    fn chosen(priority: i64, others: &[Arc<Value>], room: usize) -> Option<Vec<String>> {
        let mut others: Occupants = others.iter().cloned().collect();
        let victims = choose(
            &pod("x", priority, 0),
            &mut others,
            |other| text(other, "/metadata/name") != "fixed",
            |others| others.pods().count() <= room,
        )?;
        Some(victims.iter().map(|victim| text(victim, "/metadata/name").to_owned()).collect())
    }

    #[test]
    fn the_least_important_pods_go_and_no_more_than_have_to() {
        let others = [pod("high", 9, 0), pod("middle", 5, 0), pod("old", 1, 1), pod("new", 1, 2)];
        assert_eq!(chosen(8, &others, 3).unwrap(), ["new"]);
        assert_eq!(chosen(8, &others, 2).unwrap(), ["old", "new"]);
        assert_eq!(chosen(8, &others, 1).unwrap(), ["middle", "old", "new"]);
        assert_eq!(chosen(8, &others, 0), None, "one that matters more is in the way");
        assert_eq!(chosen(1, &others, 3), None, "those that matter as much stay");
        let mut leaving = Value::clone(&pod("leaving", 5, 0));
        leaving["metadata"]["deletionTimestamp"] = "now".into();
        let leaving = [Arc::new(leaving), pod("low", 1, 0)];
        assert_eq!(chosen(8, &leaving, 1).unwrap(), [""; 0], "one leaves already");
        assert_eq!(chosen(8, &leaving, 0).unwrap(), ["low"]);
        let fixed = [pod("fixed", 0, 9), pod("low", 1, 0)];
        assert_eq!((chosen(8, &fixed, 1).unwrap(), chosen(8, &fixed, 0)), (vec!["low".to_owned()], None));
    }

    #[tokio::test]
    async fn a_pod_that_would_be_made_anew_for_the_node_does_not_go() {
        let objects = Objects::open(ObjectStore::in_memory([]).unwrap(), "node").await.unwrap();
        let set = |name: &str, node: Value| {
            let labels = json!({"app": name});
            json!({"metadata": {"name": name}, "spec": {"selector": {"matchLabels": labels}, "template": {
                "metadata": {"labels": labels},
                "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i:1"}]}}}})
        };
        for (name, node) in [("free", Value::Null), ("fixed", json!("node"))] {
            objects.create(&replica_set::KIND, "default", set(name, node)).await.unwrap();
        }
        let owned = |kind: &str, name: &str| json!({"metadata": {"namespace": "default", "ownerReferences": [{"kind": kind, "name": name, "controller": true}]}});
        for (kind, name, expected) in [
            ("ReplicaSet", "free", false),
            ("ReplicaSet", "fixed", true),
            ("ReplicaSet", "gone", false),
            ("DaemonSet", "any", true),
            ("Other", "fixed", false),
        ] {
            assert_eq!(returns_at_once(&objects, &owned(kind, name)), expected, "{kind} {name}");
        }
        assert!(!returns_at_once(&objects, &json!({"metadata": {}})));
    }
}
