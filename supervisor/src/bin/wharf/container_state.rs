//! What a pod's status says of one of its containers.

use serde_json::Value;
use wharf_supervisor::api::kinds::{integer, pod::items, text};

/// Reasons why a container that waits will not come up without somebody changing something.
const FAILURES: [&str; 9] = [
    "CreateContainerConfigError",
    "CreateContainerError",
    "CreatePodSandboxError",
    "ErrImageNeverPull",
    "ErrImagePull",
    "ImageInspectError",
    "ImagePullBackOff",
    "InvalidImageName",
    "RunContainerError",
];

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ContainerState {
    /// Not there yet, or between two attempts.
    Waiting {
        reason: String,
        message: String,
    },
    Running {
        started_at: String,
    },
    Exited {
        code: u8,
        finished_at: String,
    },
}

impl ContainerState {
    /// Of a status in `status.containerStatuses`.
    pub(crate) fn of(status: &Value) -> Self {
        let owned = |pointer| text(status, pointer).to_owned();
        if status.pointer("/state/running").is_some() {
            Self::Running { started_at: owned("/state/running/startedAt") }
        } else if status.pointer("/state/terminated").is_some() {
            let code = u8::try_from(integer(status, "/state/terminated/exitCode")).unwrap_or(u8::MAX);
            Self::Exited { code, finished_at: owned("/state/terminated/finishedAt") }
        } else {
            Self::Waiting { reason: owned("/state/waiting/reason"), message: owned("/state/waiting/message") }
        }
    }

    /// Of a pod's only container.
    pub(crate) fn of_pod(pod: &Value) -> Self {
        items(&pod["status"], "containerStatuses").first().map_or_else(|| Self::of(&Value::Null), Self::of)
    }

    /// Why it will not start, where it will not.
    pub(crate) fn failure(&self) -> Option<&str> {
        match self {
            Self::Waiting { reason, message } if FAILURES.contains(&reason.as_str()) => {
                Some(if message.is_empty() { reason } else { message })
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn states_are_read_from_a_status() {
        let of = |state| ContainerState::of(&json!({"state": state}));
        let exited = of(json!({"terminated": {"exitCode": 3, "finishedAt": "t"}}));
        assert_eq!(exited, ContainerState::Exited { code: 3, finished_at: "t".into() });
        assert_eq!(of(json!({"running": {"startedAt": "t"}})), ContainerState::Running { started_at: "t".into() });
        assert_eq!(of(json!({"waiting": {"reason": "ErrImagePull", "message": "down"}})).failure(), Some("down"));
        assert_eq!(of(json!({"waiting": {"reason": "ContainerCreating"}})).failure(), None);
        assert_eq!(ContainerState::of_pod(&json!({})).failure(), None);
    }
}
