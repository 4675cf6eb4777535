//! `pods/NAME/why`: one answer that explains a pod, also for a while after it has gone. A sub-resource of our own.

use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};

use super::kinds::{pod, text};
use super::pod_log::log_tail;
use super::server::Api;
use super::status::ApiError;
use crate::journal::Entry;
use crate::pod::stats::figures::Stall;
use crate::pod::stats::{Detail, Figures};
use crate::pod::status::{ContainerState, ContainerStatus};

pub(super) const GROUP: &str = "wharf";
pub(super) const VERSION: &str = "v1";
pub(super) const KIND: &str = "PodExplanation";

/// What is shown of the log of a container.
const LOG_LINES: usize = 20;
const LOG_BYTES: usize = 4096;

pub(super) async fn serve(api: &Api, namespace: &str, name: &str) -> Result<Response, ApiError> {
    let answer = match api.objects.get(&pod::KIND, namespace, name) {
        Ok(pod) => explain(api, &pod).await?,
        Err(missing) => {
            let (journal, found) = (api.journal.clone(), (namespace.to_owned(), name.to_owned()));
            let found = beside(move || journal.find(&found.0, &found.1)).await?;
            let (owner, entries) = found.ok_or(missing)?;
            explanation(json!({"namespace": owner.namespace, "name": owner.name, "uid": owner.uid}), "Gone", entries)
        }
    };
    Ok(axum::Json(answer).into_response())
}

fn explanation(metadata: Value, phase: &str, entries: Vec<Entry>) -> Value {
    json!({
        "apiVersion": format!("{GROUP}/{VERSION}"), "kind": KIND, "metadata": metadata, "phase": phase,
        "entries": entries,
    })
}

async fn explain(api: &Api, object: &Value) -> Result<Value, ApiError> {
    let uid = text(object, "/metadata/uid").to_owned();
    let journal = api.journal.clone();
    let of = uid.clone();
    let entries = beside(move || journal.read(&of)).await?;
    let metadata = &object["metadata"];
    let metadata = json!({"namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"],
        "creationTimestamp": metadata["creationTimestamp"]});
    let mut answer = explanation(metadata, text(object, "/status/phase"), entries);
    for field in ["reason", "message"] {
        if let Some(value) = object["status"].get(field) {
            answer[field] = value.clone();
        }
    }
    let failing = |condition: &&Value| {
        let is_bad = text(condition, "/type").starts_with("PodResize");
        (condition["status"] == "False") != is_bad && !text(condition, "/reason").is_empty()
    };
    let conditions = pod::items(&object["status"], "conditions").iter().filter(failing);
    answer["conditions"] = conditions.cloned().collect();
    let sandbox = api.node.sandboxes_of(&uid).pop();
    let containers = sandbox.as_ref().map(|sandbox| api.node.containers_of(&sandbox.id)).unwrap_or_default();
    if let Some(sandbox) = &sandbox {
        let stats = api.node.sandbox_stats(std::slice::from_ref(sandbox), Detail::All).await;
        let stats = stats.map_err(|error| ApiError::Internal(error.to_string()))?;
        let group = api.node.sandbox_group(sandbox);
        answer["group"] = group.into();
        answer["figures"] = stats.first().and_then(|stats| stats.figures.as_ref()).map(figures).unwrap_or_default();
    }
    let mut shown = Vec::new();
    for list in ["initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses"] {
        for status in pod::items(&object["status"], list) {
            shown.push(container(api, status, &containers).await?);
        }
    }
    answer["containers"] = shown.into();
    Ok(answer)
}

/// A container as it is: state, restarts, what it uses and wrote.
async fn container(api: &Api, status: &Value, all: &[ContainerStatus]) -> Result<Value, ApiError> {
    let name = text(status, "/name");
    let mut shown = json!({
        "name": name, "image": status["image"], "imageID": status["imageID"], "restartCount": status["restartCount"],
        "ready": status["ready"], "state": status["state"],
    });
    for field in ["lastState", "resources"] {
        if let Some(value) = status.get(field) {
            shown[field] = value.clone();
        }
    }
    let newest = all.iter().filter(|known| known.config.name == name).max_by_key(|known| known.config.attempt);
    let Some(newest) = newest else { return Ok(shown) };
    if newest.state == ContainerState::Running {
        let stats = api.node.container_stats(std::slice::from_ref(newest), Detail::All).await;
        let stats = stats.map_err(|error| ApiError::Internal(error.to_string()))?;
        shown["group"] = api.node.container_group(newest).into();
        shown["figures"] = stats.first().and_then(|stats| stats.figures.as_ref()).map(figures).unwrap_or_default();
    }
    if let Some(path) = newest.log_path.clone() {
        let log = beside(move || log_tail(&path, LOG_LINES, LOG_BYTES)).await?;
        shown["log"] = log.map(|log| String::from_utf8_lossy(&log).into_owned()).unwrap_or_default().into();
    }
    Ok(shown)
}

/// Throttling, pressure and memory; nanoseconds and bytes, pressure in percent of the time.
fn figures(figures: &Figures) -> Value {
    let pressure = |stall: &Option<Stall>| {
        let shown = |stall: &Stall| {
            let of = |time: crate::pod::stats::figures::StallTime| json!({"avg10": time.avg10, "avg60": time.avg60, "avg300": time.avg300});
            json!({"some": of(stall.some), "full": of(stall.full)})
        };
        stall.as_ref().map(shown).unwrap_or_default()
    };
    json!({
        "cpu": {
            "usage": figures.cpu.usage, "periods": figures.cpu.periods,
            "throttledPeriods": figures.cpu.throttled_periods, "throttled": figures.cpu.throttled,
            "pressure": pressure(&figures.cpu.pressure),
        },
        "memory": {
            "workingSet": figures.memory.working_set, "peak": figures.memory.max_usage, "limit": figures.memory.limit,
            "limitHits": figures.memory.limit_hits, "pressure": pressure(&figures.memory.pressure),
        },
        "io": {"pressure": pressure(&figures.io.pressure)},
        "oomKills": figures.oom_kills,
    })
}

/// Work that waits for the disk.
async fn beside<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| ApiError::Internal(error.to_string()))
}
