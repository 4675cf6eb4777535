//! What a pod asks for of each resource, and what it may have of it, all its containers together.

use serde_json::Value;

use super::kinds::pod::{is_sidecar, items};
use super::kinds::text;
use super::quantity;

/// What a pod's containers ask for together, in thousandths. Without a request the limit is the request.
pub fn request_of(pod: &Value, resource: &str) -> i64 {
    let amount = |container: &Value| amount(container, "requests", resource).or(amount(container, "limits", resource));
    together(&pod["spec"], amount).unwrap_or(0)
}

/// What those of a pod's containers that have a limit may have together, in thousandths; `None` where none has.
pub fn limit_of(pod: &Value, resource: &str) -> Option<i64> {
    together(&pod["spec"], |container| amount(container, "limits", resource))
}

fn amount(container: &Value, kind: &str, resource: &str) -> Option<i64> {
    quantity::milli(text(container, &format!("/resources/{kind}/{resource}")))
}

/// What runs side by side, sidecars among it, or what there is before if that is more.
fn together(spec: &Value, amount: impl Fn(&Value) -> Option<i64>) -> Option<i64> {
    let (mut beside, mut most) = (0_i64, 0_i64);
    let mut any = false;
    let mut of = |container: &Value| {
        let own = amount(container);
        any |= own.is_some();
        own.unwrap_or(0)
    };
    for container in items(spec, "initContainers") {
        let own = of(container);
        most = most.max(beside.saturating_add(own));
        if is_sidecar(container) {
            beside = beside.saturating_add(own);
        }
    }
    let all = items(spec, "containers").iter().map(&mut of).fold(beside, i64::saturating_add);
    any.then_some(all.max(most))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn containers_add_up_and_those_before_them_do_not() {
        let container = |kind: &str, amount: &str| json!({"resources": {kind: {"memory": amount}}});
        let mut sidecar = container("requests", "2");
        sidecar["restartPolicy"] = "Always".into();
        let pod = |init: Value| {
            json!({"spec": {"initContainers": init,
                "containers": [container("requests", "1"), container("limits", "3"), {}]}})
        };
        assert_eq!(request_of(&pod(json!([])), "memory"), 4000);
        assert_eq!(request_of(&pod(json!([container("requests", "3")])), "memory"), 4000);
        assert_eq!(request_of(&pod(json!([container("requests", "9")])), "memory"), 9000);
        assert_eq!(request_of(&pod(json!([sidecar, container("requests", "3")])), "memory"), 6000);
        assert_eq!(request_of(&pod(json!([sidecar, container("requests", "5")])), "memory"), 7000);
        assert_eq!((request_of(&pod(json!([])), "cpu"), limit_of(&pod(json!([])), "cpu")), (0, None));
        assert_eq!(limit_of(&pod(json!([])), "memory"), Some(3000));
    }
}
