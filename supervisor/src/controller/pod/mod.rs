//! Pods: one worker for each, woken by changes of its object and by what happens to its containers.

mod back_off;
mod claim;
mod condition;
mod desired;
mod disk_usage;
mod environment;
mod event;
pub(super) mod eviction;
mod fs_group;
mod history;
mod hook;
mod image;
mod mounts;
mod observed;
pub(super) mod own_mounts;
mod phase;
mod probe;
mod projected_folder;
mod projection;
mod pull_secret;
mod resize;
mod resolver;
mod resource_field;
mod service_links;
mod source;
mod starting;
mod stopping;
mod sub_path;
mod termination;
mod termination_message;
mod volume;
mod worker;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::{Notify, broadcast};
use tokio::task::JoinSet;

use super::Context;
use super::changes::Changes;
use super::event as controller_event;
use crate::api::kinds::volume_fields::uses_claim;
use crate::api::kinds::{Kind, config_map, persistent_volume_claim, pod, secret, text};
use crate::api::object_store::Change;
use crate::pod::status::Event;
use event::Recorder;
use worker::Worker;

/// The workers, by the uid of their pod.
struct Workers {
    context: Context,
    wakes: HashMap<String, Arc<Notify>>,
    running: JoinSet<String>,
    /// Which pod a sandbox belongs to.
    sandboxes: HashMap<String, String>,
    recorder: Recorder,
    /// Of probes and hooks.
    http: reqwest::Client,
}

/// Keeps a worker for every pod.
pub async fn run(context: Context, recorder: controller_event::Recorder) {
    let mut events = context.node.subscribe();
    let mut changes = Changes::new(context.objects.store());
    let http = match probe::http::client() {
        Ok(client) => client,
        Err(error) => return tracing::error!(%error, "make the client of probes: no pod is looked after"),
    };
    let mut workers = Workers {
        recorder: Recorder::new(recorder, context.journal.clone()),
        context,
        wakes: HashMap::new(),
        running: JoinSet::new(),
        sandboxes: HashMap::new(),
        http,
    };
    let (context, (pods, _)) = (&workers.context, workers.context.objects.list(&pod::KIND, None));
    resolver::resume(&pods, &context.dns, context.node.network()).await;
    workers.wake_all();
    workers.remove_strangers().await;
    loop {
        tokio::select! {
            batch = changes.next() => match batch {
                Some(batch) => {
                    batch.iter().for_each(|change| workers.changed(change));
                }
                None => workers.wake_all(),
            },
            event = events.recv() => match event {
                Ok(event) => workers.event(&event),
                Err(broadcast::error::RecvError::Lagged(_)) => workers.wake_all(),
                Err(broadcast::error::RecvError::Closed) => return,
            },
            Some(finished) = workers.running.join_next(), if !workers.running.is_empty() => {
                if let Ok(uid) = finished {
                    workers.wakes.remove(&uid);
                    workers.sandboxes.retain(|_, owner| *owner != uid);
                }
            }
        }
    }
}

impl Workers {
    /// Wakes whom a change concerns: the pod itself, or those that use what has changed.
    fn changed(&mut self, change: &Change) {
        let is_of = |kind: &Kind| change.key.resource == kind.resource();
        if is_of(&pod::KIND) {
            history::note_change(&self.context.journal, change);
            self.wake(&change.object);
            return;
        }
        if is_of(&persistent_volume_claim::KIND) {
            for object in self.context.objects.list(&pod::KIND, Some(&change.key.namespace)).0 {
                if uses_claim(&object, &change.key.name) {
                    self.wake(&object);
                }
            }
            return;
        }
        let field = match (is_of(&config_map::KIND), is_of(&secret::KIND)) {
            (true, _) => "configMap",
            (_, true) => "secret",
            _ => return,
        };
        for object in self.context.objects.list(&pod::KIND, Some(&change.key.namespace)).0 {
            if uses(&object["spec"], field, &change.key.name) {
                history::note_source_change(&self.context.journal, &object, change);
                self.wake(&object);
            }
        }
    }

    /// Wakes the pod's worker, starting it if it has none.
    fn wake(&mut self, object: &Value) {
        let uid = text(object, "/metadata/uid");
        if let Some(wake) = self.wakes.get(uid) {
            wake.notify_one();
            return;
        }
        if self
            .context
            .objects
            .get(&pod::KIND, text(object, "/metadata/namespace"), text(object, "/metadata/name"))
            .is_err()
        {
            return;
        }
        let wake = Arc::new(Notify::new());
        let worker = Worker::new(self.context.clone(), object, wake.clone(), self.recorder.clone(), self.http.clone());
        let uid = worker.identity().uid;
        self.wakes.insert(uid.clone(), wake);
        self.running.spawn(async move {
            worker.run().await;
            uid
        });
    }

    fn wake_all(&mut self) {
        for object in self.context.objects.list(&pod::KIND, None).0 {
            self.wake(&object);
        }
        self.wakes.values().for_each(|wake| wake.notify_one());
    }

    fn event(&mut self, event: &Event) {
        let sandbox = event.sandbox();
        if !self.sandboxes.contains_key(sandbox)
            && let Ok(status) = self.context.node.sandbox(sandbox)
        {
            self.sandboxes.insert(sandbox.to_string(), status.config.name.uid);
        }
        if let Some(wake) = self.sandboxes.get(sandbox).and_then(|uid| self.wakes.get(uid)) {
            wake.notify_one();
        }
    }

    /// Ends sandboxes of pods that were deleted while nobody looked.
    async fn remove_strangers(&self) {
        let strangers = self.context.node.pick_sandboxes(|sandbox| {
            let owner = sandbox.config.annotations.get(desired::OWNER_ANNOTATION);
            let ours = owner.is_some_and(|owner| owner == desired::OWNER);
            (ours && !self.wakes.contains_key(&sandbox.config.name.uid)).then(|| sandbox.id.clone())
        });
        for sandbox in strangers {
            let stopped = self.context.node.stop_sandbox(&sandbox).await;
            if let Err(error) = stopped.and(self.context.node.remove_sandbox(&sandbox).await) {
                tracing::warn!(sandbox, %error, "remove the sandbox of a pod that is gone");
            }
        }
        // After the sandboxes: what these had mounted there is gone now.
        let (folder, known) = (self.context.pod_volumes.clone(), self.wakes.keys().cloned().collect());
        let swept = tokio::task::spawn_blocking(move || remove_strange_folders(&folder, &known)).await;
        if let Err(error) = swept {
            tracing::warn!(%error, "remove folders of pods that are gone");
        }
    }
}

/// Takes away the folders, by uid, of pods that were deleted while nobody looked.
fn remove_strange_folders(folder: &Path, known: &HashSet<String>) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_str().is_none_or(|uid| !known.contains(uid))) {
        let path = entry.path();
        match own_mounts::unmount_beneath(&path).and_then(|()| volume::remove(&path)) {
            Ok(()) => tracing::info!(folder = %path.display(), "removed the folder of a pod that is gone"),
            Err(error) => tracing::warn!(folder = %path.display(), %error, "remove the folder of a pod that is gone"),
        }
    }
}

/// Whether something in `value` refers to that ConfigMap or Secret: a field such as `configMap`, `configMapRef`,
/// `configMapKeyRef` with its name.
fn uses(value: &Value, field: &str, name: &str) -> bool {
    match value {
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            let refers = key.starts_with(field) && (text(value, "/name") == name || text(value, "/secretName") == name);
            refers || uses(value, field, name)
        }),
        Value::Array(items) => items.iter().any(|item| uses(item, field, name)),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::uses;
    use serde_json::json;

    #[test]
    fn uses_of_an_object_are_found_wherever_they_stand() {
        for (spec, expected) in [
            (json!({"volumes": [{"configMap": {"name": "x"}}]}), true),
            (json!({"volumes": [{"projected": {"sources": [{"configMap": {"name": "x"}}]}}]}), true),
            (json!({"containers": [{"envFrom": [{"configMapRef": {"name": "x"}}]}]}), true),
            (json!({"containers": [{"env": [{"valueFrom": {"configMapKeyRef": {"name": "x"}}}]}]}), true),
            (json!({"volumes": [{"configMap": {"name": "y"}}, {"secret": {"secretName": "x"}}]}), false),
        ] {
            assert_eq!(uses(&spec, "configMap", "x"), expected, "{spec}");
        }
        assert!(uses(&json!({"volumes": [{"secret": {"secretName": "x"}}]}), "secret", "x"));
    }
}
