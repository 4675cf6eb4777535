//! What happens to a pod, told as Events: one object for equal happenings, with their count.

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::desired::Identity;
use crate::api::kinds::{Kind, integer};
use crate::api::objects::{Half, Objects, now};
use crate::api::status::ApiError;

/// Who tells, as `source.component` has it.
const COMPONENT: &str = "wharfd";
/// Longest message of an Event (`k8s.io/api/events`: 1 kB).
const LONGEST_MESSAGE: usize = 1024;

/// Happenings that wait to be written; what comes when as many wait is only logged.
const BACKLOG: usize = 1024;

/// Tells what happens. Nobody waits for an Event to be written.
#[derive(Clone)]
pub(super) struct Recorder {
    happenings: mpsc::Sender<Happening>,
}

struct Happening {
    subject: Subject,
    event_type: &'static str,
    reason: &'static str,
    message: String,
}

/// Writes Events, where the node serves them, one after the other.
struct Writer {
    objects: Objects,
    node_name: String,
}

/// What an Event is about: a container of a pod.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    namespace: String,
    name: String,
    uid: String,
    /// `spec.containers{NAME}`.
    field: String,
}

impl Subject {
    pub(super) fn container(pod: Identity, list: &str, container: &str) -> Self {
        let field = format!("spec.{list}{{{container}}}");
        Self { namespace: pod.namespace, name: pod.name, uid: pod.uid, field }
    }

    fn reference(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Pod", "namespace": self.namespace, "name": self.name, "uid": self.uid,
            "fieldPath": self.field,
        })
    }
}

impl Recorder {
    /// Writes until the last clone is dropped.
    pub(super) fn start(objects: Objects, node_name: &str) -> Self {
        let (happenings, mut inbox) = mpsc::channel(BACKLOG);
        let writer = Writer { objects, node_name: node_name.into() };
        tokio::spawn(async move {
            while let Some(happening) = inbox.recv().await {
                writer.write(happening).await;
            }
        });
        Self { happenings }
    }

    pub(super) fn normal(&self, subject: &Subject, reason: &'static str, message: String) {
        self.tell(subject, "Normal", reason, message);
    }

    pub(super) fn warning(&self, subject: &Subject, reason: &'static str, message: String) {
        self.tell(subject, "Warning", reason, message);
    }

    fn tell(&self, subject: &Subject, event_type: &'static str, reason: &'static str, message: String) {
        tracing::info!(pod = subject.name, namespace = subject.namespace, field = subject.field, reason, message);
        let _ = self.happenings.try_send(Happening { subject: subject.clone(), event_type, reason, message });
    }
}

impl Writer {
    async fn write(&self, happening: Happening) {
        let Some(kind) = Kind::find("", "v1", "events") else { return };
        let Happening { subject, reason, .. } = &happening;
        let event = self.event(&happening);
        let name = event["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let again = move |mut event: Value| {
            event["count"] = (integer(&event, "/count") + 1).into();
            event["lastTimestamp"] = now().into();
            Ok(event)
        };
        let written = match self.objects.update(kind, &subject.namespace, &name, Half::Desired, again).await {
            Err(ApiError::NotFound { .. }) => self.objects.create(kind, &subject.namespace, event).await,
            other => other,
        };
        match written {
            // Its namespace has gone, or is about to.
            Ok(_) | Err(ApiError::NotFound { .. } | ApiError::Conflict { .. }) => {}
            Err(error) => {
                tracing::warn!(pod = subject.name, namespace = subject.namespace, reason, %error, "write event")
            }
        }
    }

    /// Its name is the same for the same happening.
    fn event(&self, happening: &Happening) -> Value {
        let Happening { subject, event_type, reason, message } = happening;
        let message = shortened(message);
        let hash = fnv1a(&[&subject.uid, &subject.field, event_type, reason, message]);
        let time = now();
        json!({
            "metadata": {"name": format!("{}.{hash:016x}", subject.name), "namespace": subject.namespace},
            "involvedObject": subject.reference(), "type": event_type, "reason": reason, "message": message, "count": 1,
            "firstTimestamp": time, "lastTimestamp": time,
            "source": {"component": COMPONENT, "host": self.node_name},
            "reportingComponent": COMPONENT, "reportingInstance": self.node_name,
        })
    }
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].trim_end()
}

/// 64-bit FNV-1a of the texts with a zero byte after each.
fn fnv1a(texts: &[&str]) -> u64 {
    let bytes = texts.iter().flat_map(|text| text.bytes().chain([0]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_cut_between_characters() {
        assert_eq!(shortened("short \n"), "short");
        let long = "ä".repeat(LONGEST_MESSAGE);
        assert_eq!(shortened(&long).len(), LONGEST_MESSAGE);
        assert_eq!(shortened(&format!("x{long}")).len(), LONGEST_MESSAGE - 1);
    }

    #[test]
    fn texts_are_told_apart_where_they_are_joined() {
        assert_ne!(fnv1a(&["ab", "c"]), fnv1a(&["a", "bc"]));
    }
}
