//! What may change of a pod that exists: the images of its containers, and its deadline.

use serde_json::Value;

use super::pod::{items, own_defaults};
use crate::api::status::Cause;

pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let mut causes = deadline_causes(old, new);
    // All else has to be as it was, to which an older daemon may have added less.
    let mut before = old["spec"].clone();
    own_defaults(&mut before);
    let mut other = new["spec"].clone();
    for list in ["containers", "initContainers"] {
        let after = other.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten();
        for (container, before) in after.zip(items(&before, list)) {
            container["image"] = before["image"].clone();
        }
    }
    match (other.as_object_mut(), before.get(DEADLINE)) {
        (Some(fields), Some(deadline)) => drop(fields.insert(DEADLINE.into(), deadline.clone())),
        (Some(fields), None) => drop(fields.remove(DEADLINE)),
        (None, _) => {}
    }
    if other != before {
        let message = "pod updates may not change fields other than `spec.containers[*].image`, \
                       `spec.initContainers[*].image`, `spec.activeDeadlineSeconds`";
        causes.push(Cause::forbidden("spec", message));
    }
    causes
}

const DEADLINE: &str = "activeDeadlineSeconds";

/// A deadline comes nearer, or there is one for the first time.
fn deadline_causes(old: &Value, new: &Value) -> Vec<Cause> {
    let deadline = |pod: &Value| pod["spec"].get(DEADLINE).and_then(Value::as_i64);
    let invalid = |found: String, message| vec![Cause::invalid(format!("spec.{DEADLINE}"), found, message)];
    match (deadline(old), deadline(new)) {
        (Some(_), None) => invalid("null".into(), "must not update from a positive integer to nil value"),
        (Some(before), Some(after)) if after > before => {
            invalid(after.to_string(), "must be less than or equal to previous value")
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn images_change_and_deadlines_come_nearer() {
        let pod = |image: &str, deadline: Value| {
            let mut pod = json!({"spec": {"containers": [{"name": "c", "image": image}], "initContainers": [
                {"name": "i", "image": image}]}});
            if !deadline.is_null() {
                pod["spec"][DEADLINE] = deadline;
            }
            pod
        };
        let fields = |old: &Value, new: &Value| -> Vec<String> {
            validate_update(old, new).into_iter().map(|cause| cause.field).collect()
        };
        let old = pod("a", json!(10));
        assert_eq!(fields(&old, &pod("b", json!(9))), [""; 0]);
        let mut limited = old.clone();
        limited["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "1"}});
        let mut with_defaults = limited.clone();
        own_defaults(&mut with_defaults["spec"]);
        assert_eq!(fields(&limited, &with_defaults), [""; 0], "what an older daemon has stored");
        assert_eq!(fields(&pod("a", Value::Null), &old), [""; 0]);
        assert_eq!(fields(&old, &pod("a", json!(11))), ["spec.activeDeadlineSeconds"]);
        assert_eq!(fields(&old, &pod("a", Value::Null)), ["spec.activeDeadlineSeconds"]);
        for (pointer, value) in [
            ("/spec/containers/0/name", json!("d")),
            ("/spec/containers/0", json!({"name": "c", "image": "a", "command": ["x"]})),
            ("/spec/initContainers", json!([])),
            ("/spec", json!({})),
        ] {
            let mut new = pod("a", json!(10));
            *new.pointer_mut(pointer).unwrap() = value;
            assert!(fields(&old, &new).contains(&"spec".to_owned()), "{pointer}");
        }
    }
}
