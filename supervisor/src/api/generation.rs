//! `metadata.generation`: how often what is wanted of an object has changed. Which kinds have one, and what of them counts, is as
//! the strategies in Kubernetes' registry have it; those that are looked up, like ConfigMaps, Services and roles, have none.

use serde_json::Value;

use super::kinds::{Kind, daemon_set, deployment, endpoint_slice, integer, job, pod, priority_class, replica_set};

/// What is counted of a kind, beyond nothing at all.
fn is_changed(kind: &Kind, before: &Value, after: &Value) -> Option<bool> {
    let differs = |field: &str| before.get(field) != after.get(field);
    let in_metadata = |field: &str| entries(before, field) != entries(after, field);
    let is = |other: &Kind| std::ptr::eq(kind, other);
    if is(&endpoint_slice::KIND) {
        return Some(["addressType", "endpoints", "ports"].into_iter().any(differs) || in_metadata("labels"));
    }
    if is(&deployment::KIND) {
        return Some(differs("spec") || in_metadata("annotations"));
    }
    if is(&priority_class::KIND) {
        // One from the beginning, for what counts of it may not change.
        return Some(false);
    }
    let by_specification = [&daemon_set::KIND, &job::KIND, &pod::KIND, &replica_set::KIND];
    by_specification.into_iter().any(is).then(|| differs("spec"))
}

/// None and no entry are the same.
fn entries<'a>(object: &'a Value, field: &str) -> Option<&'a serde_json::Map<String, Value>> {
    object["metadata"].get(field)?.as_object().filter(|entries| !entries.is_empty())
}

/// Of a new object.
pub(super) fn begin(kind: &Kind, object: &mut Value) {
    set(object, is_changed(kind, &Value::Null, &Value::Null).map(|_| 1));
}

/// Of an object that is changed, whatever it says itself.
pub(super) fn count(kind: &Kind, before: &Value, object: &mut Value) {
    let was = integer(before, "/metadata/generation");
    set(object, is_changed(kind, before, object).map(|changed| was + i64::from(changed)));
}

/// Of an object that is to go, which is something else to be wanted of it.
pub(super) fn count_deletion(object: &mut Value) {
    let was = integer(object, "/metadata/generation");
    if was > 0 {
        object["metadata"]["generation"] = (was + 1).into();
    }
}

fn set(object: &mut Value, generation: Option<i64>) {
    match generation {
        Some(generation) => object["metadata"]["generation"] = generation.into(),
        None => drop(object["metadata"].as_object_mut().map(|metadata| metadata.remove("generation"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::kinds::{KINDS, service};
    use serde_json::json;

    #[test]
    fn kinds_have_a_generation_where_kubernetes_gives_them_one() {
        let has = |kind: &Kind| {
            let mut object = json!({"metadata": {"name": "a", "generation": 7}});
            begin(kind, &mut object);
            object["metadata"]["generation"] == 1
        };
        let counted: Vec<&str> = KINDS.iter().filter(|kind| has(kind)).map(|kind| kind.plural).collect();
        assert_eq!(
            counted,
            ["pods", "daemonsets", "deployments", "replicasets", "jobs", "endpointslices", "priorityclasses"]
        );
    }

    #[test]
    fn what_is_wanted_counts_and_what_is_said_of_it_does_not() {
        let before = json!({"metadata": {"generation": 3, "labels": {"a": "1"}}, "spec": {"x": 1}, "endpoints": []});
        let counted = |kind: &Kind, pointer: &str, value: Value| {
            let mut after = before.clone();
            after["metadata"]["annotations"] = json!({});
            *after.pointer_mut(pointer).unwrap() = value;
            count(kind, &before, &mut after);
            after["metadata"]["generation"].clone()
        };
        for (kind, pointer, value, generation) in [
            (&replica_set::KIND, "/spec/x", json!(2), json!(4)),
            (&replica_set::KIND, "/spec/x", json!(1), json!(3)),
            (&replica_set::KIND, "/metadata/labels", json!({"a": "2"}), json!(3)),
            (&replica_set::KIND, "/metadata/annotations", json!({"a": "2"}), json!(3)),
            (&replica_set::KIND, "/metadata/generation", json!(9), json!(3)),
            (&deployment::KIND, "/metadata/annotations", json!({"a": "2"}), json!(4)),
            (&deployment::KIND, "/metadata/annotations", json!({}), json!(3)),
            (&endpoint_slice::KIND, "/metadata/labels", json!({"a": "2"}), json!(4)),
            (&endpoint_slice::KIND, "/endpoints", json!([{}]), json!(4)),
            (&endpoint_slice::KIND, "/metadata/annotations", json!({"a": "2"}), json!(3)),
            (&priority_class::KIND, "/metadata/labels", json!({"a": "2"}), json!(3)),
            (&service::KIND, "/spec/x", json!(2), Value::Null),
        ] {
            assert_eq!(counted(kind, pointer, value), generation, "{} {pointer}", kind.plural);
        }
    }
}
