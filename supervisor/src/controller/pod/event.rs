//! What a worker tells of the containers of its pod, beside what changes of the object say by themselves
//! (`controller/event/pod.rs`).

use serde_json::{Value, json};

use super::desired::Identity;
use super::history::owner;
use crate::api::kinds::pod;
use crate::api::objects::now;
use crate::controller::event::{self, EventType};
use crate::journal::{Journal, What};

/// Tells what happens. Nobody waits for an Event to be written.
#[derive(Clone)]
pub(super) struct Recorder {
    events: event::Recorder,
    journal: Journal,
}

/// What an Event is about: a pod, or a container of it.
#[derive(Debug, Clone)]
pub(super) struct Subject {
    /// With its `metadata`.
    pod: Value,
    /// `spec.containers{NAME}`; empty for all of the pod.
    field: String,
}

impl Subject {
    /// A pod as a whole.
    pub(super) fn pod(pod: Identity) -> Self {
        Self { pod: of(pod), field: String::new() }
    }

    pub(super) fn container(pod: Identity, list: &str, container: &str) -> Self {
        Self { pod: of(pod), field: format!("spec.{list}{{{container}}}") }
    }
}

fn of(pod: Identity) -> Value {
    json!({"metadata": {"namespace": pod.namespace, "name": pod.name, "uid": pod.uid}})
}

impl Recorder {
    pub(super) fn new(events: event::Recorder, journal: Journal) -> Self {
        Self { events, journal }
    }

    pub(super) fn normal(&self, subject: &Subject, reason: &'static str, message: String) {
        self.tell(subject, EventType::Normal, reason, message);
    }

    /// As an Event alone: the journal has what comes of it by itself.
    pub(super) fn normal_alone(&self, subject: &Subject, reason: &'static str, message: String) {
        let Subject { pod, field } = subject;
        self.events.tell_of_part(&pod::KIND, pod, field, EventType::Normal, reason, message);
    }

    pub(super) fn warning(&self, subject: &Subject, reason: &'static str, message: String) {
        self.tell(subject, EventType::Warning, reason, message);
    }

    fn tell(&self, subject: &Subject, event_type: EventType, reason: &'static str, message: String) {
        let metadata = &subject.pod["metadata"];
        let (pod, namespace) = (metadata["name"].as_str(), metadata["namespace"].as_str());
        tracing::info!(pod, namespace, field = subject.field, reason, message);
        let container = subject.field.split_once('{').map_or("", |(_, name)| name.trim_end_matches('}'));
        let what = What::Told { container: container.into(), reason: reason.into(), message: message.clone() };
        self.journal.note(owner(&subject.pod), now(), what);
        self.events.tell_of_part(&pod::KIND, &subject.pod, &subject.field, event_type, reason, message);
    }
}
