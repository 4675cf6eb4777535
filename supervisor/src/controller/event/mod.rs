//! Events: what happened to objects, told by the controllers.
//!
//! | file | job |
//! |---|---|
//! | `correlator.rs` | what happens again is counted, what happens too often is left out |
//! | `pod.rs` | what a change of a pod means |
//!
//! Whoever tells of something never waits for it to be written.

mod correlator;
mod pod;

use std::time::Duration;

use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::changes::Changes;
use crate::api::kinds::event::last_seen;
use crate::api::kinds::{Kind, event, integer, text};
use crate::api::object_store::ChangeType;
use crate::api::objects::{Half, Objects, now};
use crate::api::status::ApiError;
use correlator::{Correlator, Told};

/// How long an event is kept after it happened last; Kubernetes' own time.
const KEPT: Duration = Duration::from_secs(3600);
/// Events kept at most, of all namespaces together: the oldest go first.
const MAX_EVENTS: usize = 2000;
/// How often old ones are looked for.
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);
/// Longest message of an Event (`k8s.io/api/events`: 1 kB).
const LONGEST_MESSAGE: usize = 1024;
/// Events that wait to be written; what comes while so many wait is lost.
const QUEUE: usize = 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum EventType {
    Normal,
    Warning,
}

/// Something that happened to an object.
#[derive(Debug, Clone, PartialEq)]
struct Occurrence {
    /// Who tells it: `deployment-controller`.
    component: &'static str,
    event_type: EventType,
    reason: &'static str,
    message: String,
    /// `v1` ObjectReference.
    involved: Value,
}

/// Takes events for one component.
#[derive(Clone)]
pub struct Recorder {
    component: &'static str,
    queue: mpsc::Sender<Occurrence>,
}

/// Writes what the recorders take.
pub struct Writer {
    objects: Objects,
    queue: mpsc::Receiver<Occurrence>,
    recorder: Recorder,
}

/// A writer of events, and the recorder to take others from.
pub fn writer(objects: Objects) -> (Writer, Recorder) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let recorder = Recorder { component: "wharfd", queue: sender };
    (Writer { objects, queue, recorder: recorder.clone() }, recorder)
}

impl Recorder {
    /// One that speaks for `component`.
    pub fn of(&self, component: &'static str) -> Self {
        Self { component, queue: self.queue.clone() }
    }

    /// Tells what happened to `object`.
    pub fn tell(&self, kind: &Kind, object: &Value, event_type: EventType, reason: &'static str, message: String) {
        self.tell_of_part(kind, object, "", event_type, reason, message);
    }

    /// As [`Recorder::tell`], of a part of the object: `spec.containers{main}`.
    pub fn tell_of_part(
        &self,
        kind: &Kind,
        object: &Value,
        part: &str,
        event_type: EventType,
        reason: &'static str,
        message: String,
    ) {
        let metadata = &object["metadata"];
        let mut involved = json!({
            "apiVersion": kind.api_version(), "kind": kind.kind, "name": metadata["name"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"],
        });
        for (field, value) in [("namespace", text(object, "/metadata/namespace")), ("fieldPath", part)] {
            if !value.is_empty() {
                involved[field] = value.into();
            }
        }
        let message = shortened(&message).to_owned();
        let told = Occurrence { component: self.component, event_type, reason, message, involved };
        if self.queue.try_send(told).is_err() {
            tracing::debug!(reason, kind = kind.kind, "an event is lost: too many wait to be written");
        }
    }
}

impl Writer {
    /// Writes events, tells those of pods, and takes old ones away.
    pub async fn run(mut self) {
        let mut correlator = Correlator::default();
        let mut changes = Changes::new(self.objects.store());
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut written = 0;
        loop {
            tokio::select! {
                Some(occurrence) = self.queue.recv() => {
                    match correlator.take(occurrence, Instant::now()) {
                        None => continue,
                        Some(told) => self.write(told, &mut correlator).await,
                    }
                    written += 1;
                    // Between two sweeps there may be more than are kept.
                    if written % (MAX_EVENTS / 10) == 0 {
                        self.sweep().await;
                    }
                }
                batch = changes.next() => {
                    let pods = batch.iter().flatten().filter(|change| change.key.resource == pod::RESOURCE);
                    for change in pods.filter(|change| change.change_type != ChangeType::Deleted) {
                        pod::tell(&self.recorder, change.previous.as_deref(), &change.object);
                    }
                }
                _ = sweeps.tick() => {
                    correlator.forget(Instant::now());
                    self.sweep().await;
                }
            }
        }
    }

    async fn write(&self, told: Told, correlator: &mut Correlator) {
        let namespace = namespace_of(&told.occurrence).to_owned();
        let outcome = match &told.earlier {
            Some(name) => match self.count(&namespace, name, &told.occurrence).await {
                // Somebody has deleted it.
                Err(ApiError::NotFound { .. }) => self.create(&namespace, &told, correlator).await,
                other => other,
            },
            None => self.create(&namespace, &told, correlator).await,
        };
        if let Err(error) = outcome {
            tracing::debug!(%error, reason = told.occurrence.reason, "write an event");
        }
    }

    async fn create(&self, namespace: &str, told: &Told, correlator: &mut Correlator) -> Result<(), ApiError> {
        let Occurrence { component, event_type, reason, message, involved } = &told.occurrence;
        let unique = Timestamp::now().as_nanosecond();
        let name = format!("{}.{unique:x}", text(involved, "/name"));
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": name}, "involvedObject": involved,
            "type": format!("{event_type:?}"), "reason": reason, "message": message, "count": 1,
            "firstTimestamp": now(), "lastTimestamp": now(),
            "source": {"component": component, "host": self.objects.node_name()},
            "reportingComponent": component, "reportingInstance": self.objects.node_name(),
        });
        self.objects.create(&event::KIND, namespace, event).await?;
        correlator.written(&told.occurrence, name);
        Ok(())
    }

    /// Notes that it happened once more.
    async fn count(&self, namespace: &str, name: &str, occurrence: &Occurrence) -> Result<(), ApiError> {
        let message = occurrence.message.clone();
        let change = move |mut event: Value| {
            event["count"] = (integer(&event, "/count") + 1).into();
            event["lastTimestamp"] = now().into();
            event["message"] = message.into();
            Ok(event)
        };
        self.objects.update(&event::KIND, namespace, name, Half::Desired, change).await.map(drop)
    }

    /// Takes away what is too old or too much.
    async fn sweep(&self) {
        let (mut events, _) = self.objects.list(&event::KIND, None);
        events.sort_by(|one, other| last_seen(one).cmp(last_seen(other)));
        let oldest = Timestamp::now() - KEPT;
        let surplus = events.len().saturating_sub(MAX_EVENTS);
        let is_old = |event: &Value| last_seen(event).parse::<Timestamp>().is_ok_and(|time| time < oldest);
        for (_, event) in events.iter().enumerate().filter(|(index, event)| *index < surplus || is_old(event)) {
            let field = |pointer| text(event, pointer);
            let (namespace, name) = (field("/metadata/namespace"), field("/metadata/name"));
            match self.objects.remove(&event::KIND, namespace, name, field("/metadata/uid")).await {
                Ok(()) | Err(ApiError::NotFound { .. }) => {}
                Err(error) => tracing::warn!(%error, event = name, "remove an old event"),
            }
        }
    }
}

/// An event lies where its object does; that of an object without a namespace in `default`.
fn namespace_of(occurrence: &Occurrence) -> &str {
    match text(&occurrence.involved, "/namespace") {
        "" => "default",
        namespace => namespace,
    }
}

fn shortened(message: &str) -> &str {
    let mut end = message.len().min(LONGEST_MESSAGE);
    while !message.is_char_boundary(end) {
        end -= 1;
    }
    message[..end].trim_end()
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
}
