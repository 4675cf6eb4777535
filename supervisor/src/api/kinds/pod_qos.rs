//! Quality of service: what becomes of a pod when its node runs short, from its requests and limits.

use serde_json::Value;

use super::{pod, text};
use crate::api::quantity;
pub use crate::pod::qos::QosClass;

/// The kernel's score of containers that are killed last, first, and in between (proc_pid_oom_score_adj(5)), as the
/// kubelet sets them.
const GUARANTEED_SCORE: i32 = -997;
const BEST_EFFORT_SCORE: i32 = 1000;
/// Nothing between them is as safe as a guaranteed container, or as unsafe as one of best effort.
const BURSTABLE_SCORES: (i64, i64) = (1000 + GUARANTEED_SCORE as i64, BEST_EFFORT_SCORE as i64 - 1);

impl QosClass {
    /// Of a pod's specification.
    pub fn of(spec: &Value) -> Self {
        let mut any = false;
        let mut guaranteed = true;
        for container in pod::items(spec, "containers").iter().chain(pod::items(spec, "initContainers")) {
            for name in ["cpu", "memory"] {
                let amount = |kind: &str| {
                    let text = text(container, &format!("/resources/{kind}/{name}"));
                    quantity::milli(text).filter(|amount| *amount > 0)
                };
                let (limit, request) = (amount("limits"), amount("requests"));
                any |= limit.is_some() || request.is_some();
                guaranteed &= limit.is_some() && request.is_none_or(|request| Some(request) == limit);
            }
        }
        match (any, guaranteed) {
            (false, _) => Self::BestEffort,
            (true, true) => Self::Guaranteed,
            (true, false) => Self::Burstable,
        }
    }

    /// The score of a container of such a pod: the more of the node's memory it has asked for, the safer.
    pub fn oom_score(self, memory_request: i64, node_memory: i64) -> i32 {
        match self {
            Self::Guaranteed => GUARANTEED_SCORE,
            Self::BestEffort => BEST_EFFORT_SCORE,
            Self::Burstable => {
                let share = i128::from(memory_request) * 1000 / i128::from(node_memory.max(1));
                let score = 1000 - i64::try_from(share).unwrap_or(i64::MAX);
                i32::try_from(score.clamp(BURSTABLE_SCORES.0, BURSTABLE_SCORES.1)).unwrap_or(BEST_EFFORT_SCORE)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn quality_of_service_follows_requests_and_limits() {
        for (resources, expected) in [
            (json!({}), "BestEffort"),
            (json!({"requests": {"cpu": "0"}}), "BestEffort"),
            (json!({"limits": {"cpu": "1", "memory": "1Mi"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1000m"}}), "Guaranteed"),
            (json!({"limits": {"cpu": "1"}}), "Burstable"),
            (json!({"requests": {"cpu": "1"}}), "Burstable"),
        ] {
            assert_eq!(
                QosClass::of(&json!({"containers": [{"resources": resources}]})).name(),
                expected,
                "{resources}"
            );
        }
        let init = json!({"containers": [{}], "initContainers": [{"resources": {"limits": {"cpu": "1"}}}]});
        assert_eq!(QosClass::of(&init), QosClass::Burstable);
    }

    #[test]
    fn who_asks_for_more_memory_is_killed_later() {
        for (class, request, expected) in [
            (QosClass::Guaranteed, 0, -997),
            (QosClass::BestEffort, 0, 1000),
            (QosClass::Burstable, 0, 999),
            (QosClass::Burstable, 4 << 30, 500),
            (QosClass::Burstable, 8 << 30, 3),
        ] {
            assert_eq!(class.oom_score(request, 8 << 30), expected, "{class:?} {request}");
        }
    }
}
