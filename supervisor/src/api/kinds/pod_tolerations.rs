//! What a pod tolerates. The one node has no taints but that of being cordoned and those of being short of something, which are
//! taints to those that tolerate them.

use serde_json::Value;

use super::pod::items;
use super::pod_qos::QosClass;
use super::{is_label_value, is_qualified_name, node, text};
use crate::api::status::Cause;

/// What cordoning a node is, to tolerations; its effect is `NoSchedule`.
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

/// Whether a pod goes to a node though it is cordoned.
pub fn tolerates_cordon(pod: &Value) -> bool {
    tolerates(pod, UNSCHEDULABLE)
}

/// The taint of a node with the condition `pressure` that keeps a pod off it; `None` where it goes there nevertheless: it
/// says so, or, where memory is short, has asked for what it takes.
pub fn untolerated(pod: &Value, pressure: &str) -> Option<&'static str> {
    let taint = match pressure {
        node::MEMORY_PRESSURE if QosClass::of(&pod["spec"]) != QosClass::BestEffort => return None,
        node::MEMORY_PRESSURE => "node.kubernetes.io/memory-pressure",
        node::DISK_PRESSURE => "node.kubernetes.io/disk-pressure",
        node::PID_PRESSURE => "node.kubernetes.io/pid-pressure",
        _ => return None,
    };
    (!tolerates(pod, taint)).then_some(taint)
}

fn tolerates(pod: &Value, taint: &str) -> bool {
    items(&pod["spec"], "tolerations").iter().any(|toleration| {
        let field = |name: &str| text(toleration, &format!("/{name}"));
        let meets = matches!(field("operator"), "Exists") || field("value").is_empty();
        matches!(field("effect"), "" | "NoSchedule") && (field("key").is_empty() || field("key") == taint) && meets
    })
}

pub(super) fn toleration_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    for (index, toleration) in items(spec, "tolerations").iter().enumerate() {
        let path = format!("{path}.tolerations[{index}]");
        let field = |name: &str| text(toleration, &format!("/{name}"));
        let (key, operator, value, effect) = (field("key"), field("operator"), field("value"), field("effect"));
        let mut wrong = |name: &str, found: &str, message: &str| {
            causes.push(Cause::invalid(format!("{path}.{name}"), format_args!("{found:?}"), message));
        };
        if !key.is_empty() && !is_qualified_name(key) {
            wrong("key", key, "must be a qualified name: an optional DNS subdomain and /, then a name");
        }
        if key.is_empty() && operator != "Exists" {
            wrong("operator", operator, "operator must be Exists when `key` is empty, which means all keys and values");
        }
        if !toleration["tolerationSeconds"].is_null() && effect != "NoExecute" {
            wrong("effect", effect, "effect must be 'NoExecute' when `tolerationSeconds` is set");
        }
        match operator {
            "" | "Equal" if !is_label_value(value) => wrong("value", value, "must be what the value of a label can be"),
            "Exists" if !value.is_empty() => {
                wrong("operator", operator, "value must be empty when `operator` is 'Exists'");
            }
            "" | "Equal" | "Exists" => {}
            other => {
                let message = format!("{other:?}: supported values: \"Equal\", \"Exists\"");
                causes.push(Cause::unsupported(format!("{path}.operator"), &message));
            }
        }
        if !effect.is_empty() && !EFFECTS.contains(&effect) {
            let message = format!("{effect:?}: supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"");
            causes.push(Cause::unsupported(format!("{path}.effect"), &message));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_toleration_is_well_formed() {
        let fields = |toleration: Value| -> Vec<String> {
            let mut causes = Vec::new();
            toleration_causes(&json!({"tolerations": [toleration]}), "spec", &mut causes);
            causes.into_iter().map(|cause| cause.field.trim_start_matches("spec.tolerations[0].").to_owned()).collect()
        };
        for good in [
            json!({"operator": "Exists"}),
            json!({"key": "a.b/c", "value": "d", "effect": "NoSchedule"}),
            json!({"key": "a", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
        ] {
            assert_eq!(fields(good.clone()), [""; 0], "{good}");
        }
        for (wrong, field) in [
            (json!({"key": "a b", "operator": "Exists"}), "key"),
            (json!({"value": "x"}), "operator"),
            (json!({"key": "a", "operator": "Exists", "value": "x"}), "operator"),
            (json!({"key": "a", "operator": "Gt", "value": "1"}), "operator"),
            (json!({"key": "a", "value": "x y"}), "value"),
            (json!({"key": "a", "effect": "Never"}), "effect"),
            (json!({"key": "a", "effect": "NoSchedule", "tolerationSeconds": 1}), "effect"),
        ] {
            assert_eq!(fields(wrong.clone()), [field], "{wrong}");
        }
    }

    #[test]
    fn a_cordon_is_tolerated_as_the_taint_that_it_is_elsewhere() {
        let tolerates = |toleration: Value| tolerates_cordon(&json!({"spec": {"tolerations": [toleration]}}));
        assert!(tolerates(json!({"operator": "Exists"})));
        assert!(tolerates(json!({"key": UNSCHEDULABLE, "operator": "Exists", "effect": "NoSchedule"})));
        assert!(tolerates(json!({"key": UNSCHEDULABLE})));
        assert!(!tolerates(json!({"key": UNSCHEDULABLE, "value": "x"})));
        assert!(!tolerates(json!({"operator": "Exists", "effect": "NoExecute"})));
        assert!(!tolerates(json!({"key": "other", "operator": "Exists"})));
        assert!(!tolerates_cordon(&json!({"spec": {}})));
    }

    #[test]
    fn who_has_asked_for_memory_goes_where_it_is_short() {
        let asking = json!({"spec": {"containers": [{"resources": {"requests": {"memory": "1Mi"}}}]}});
        let careless = json!({"spec": {}});
        let memory = "node.kubernetes.io/memory-pressure";
        assert_eq!(untolerated(&asking, node::MEMORY_PRESSURE), None);
        assert_eq!(untolerated(&careless, node::MEMORY_PRESSURE), Some(memory));
        // Of the disk and of process ids everybody takes, whatever they ask for.
        assert_eq!(untolerated(&asking, node::DISK_PRESSURE), Some("node.kubernetes.io/disk-pressure"));
        assert_eq!(untolerated(&asking, node::PID_PRESSURE), Some("node.kubernetes.io/pid-pressure"));
        let tolerating = json!({"spec": {"tolerations": [{"key": memory, "operator": "Exists"}]}});
        assert_eq!(untolerated(&tolerating, node::MEMORY_PRESSURE), None);
        assert!(untolerated(&tolerating, node::DISK_PRESSURE).is_some() && !tolerates_cordon(&tolerating));
        assert_eq!(untolerated(&careless, "Ready"), None);
    }
}
