//! Whether a pod finds what it asks for beside the others.

use serde_json::Value;

use super::occupants::{COUNTED, Occupants};
use crate::api::kinds::text;
use crate::api::quantity;
use crate::api::requests::request_of;

/// What the node has too little of, beside the pods that have it already.
pub(super) fn shortage(node: &Value, pod: &Value, others: &Occupants) -> Option<String> {
    let uid = text(pod, "/metadata/uid");
    let allocatable = |resource: &str| text(node, &format!("/status/allocatable/{resource}"));
    let is_short = |(resource, used): (&str, i128)| {
        let wanted = request_of(pod, resource);
        // A node that has not said yet what it has is not short of it.
        let all = quantity::milli(allocatable(resource)).unwrap_or(i64::MAX);
        wanted > 0 && used + i128::from(wanted) > i128::from(all)
    };
    let asked = COUNTED.into_iter().zip(others.used_beside(uid));
    let mut short: Vec<String> =
        asked.filter(|one| is_short(*one)).map(|(resource, _)| format!("1 Insufficient {resource}")).collect();
    let most = quantity::whole(allocatable("pods")).and_then(|most| usize::try_from(most).ok());
    if most.is_some_and(|most| others.count_beside(uid) >= most) {
        short.push("1 Too many pods".into());
    }
    (!short.is_empty()).then(|| short.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn pod(uid: &str, requests: Value) -> Arc<Value> {
        Arc::new(json!({"metadata": {"uid": uid}, "spec": {"containers": [{"resources": {"requests": requests}}]}}))
    }

    #[test]
    fn a_node_that_has_too_little_says_of_what() {
        let node = json!({"metadata": {"name": "n"}, "status": {"allocatable":
            {"cpu": "1", "memory": "64Mi", "ephemeral-storage": "1Gi", "pods": "2"}}});
        let half = || json!({"cpu": "500m", "memory": "32Mi", "ephemeral-storage": "512Mi"});
        let more = json!({"cpu": "501m", "memory": "33Mi", "ephemeral-storage": "513Mi"});
        let there: Occupants = [pod("a", half())].into_iter().collect();
        assert_eq!(shortage(&node, &pod("e", half()), &there), None);
        let all = "1 Insufficient cpu, 1 Insufficient ephemeral-storage, 1 Insufficient memory";
        assert_eq!(shortage(&node, &pod("e", more.clone()), &there).as_deref(), Some(all));
        assert_eq!(shortage(&node, &pod("a", more.clone()), &there), None, "it has that itself");
        let full: Occupants = [pod("a", json!({"cpu": "9"}))].into_iter().collect();
        assert_eq!(shortage(&node, &pod("e", json!({})), &full), None);
        assert_eq!(shortage(&json!({"metadata": {"name": "n"}}), &pod("e", more), &there), None);
        let two: Occupants = [pod("a", json!({"cpu": "1"})), pod("b", json!({}))].into_iter().collect();
        assert_eq!(shortage(&node, &pod("e", json!({})), &two).as_deref(), Some("1 Too many pods"));
        let both = "1 Insufficient cpu, 1 Too many pods";
        assert_eq!(shortage(&node, &pod("e", json!({"cpu": "1m"})), &two).as_deref(), Some(both));
        assert_eq!(shortage(&node, &pod("b", json!({})), &two), None, "it is one of them");
    }
}
