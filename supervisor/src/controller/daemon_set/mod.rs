//! DaemonSets: one pod, also on a node that is cordoned, replaced when the template changes.

mod history;

use std::sync::Arc;

use serde_json::{Value, json};

use super::changes::{self, Again};
use super::deployment::template_hash;
use super::event::Recorder;
use super::replica_set::{create_pod, delete_pod, is_ready, pod_of};
use crate::api::kinds::{daemon_set, integer, pod, text};
use crate::api::objects::{Objects, is_owned_by};
use crate::api::status::ApiError;

/// Label of a pod that says which template it was made of.
const HASH_LABEL: &str = "controller-revision-hash";
const HASH_POINTER: &str = "/metadata/labels/controller-revision-hash";

/// Keeps every DaemonSet's pod.
pub async fn run(objects: Objects, recorder: Recorder) {
    changes::run(objects, recorder, &daemon_set::KIND, &pod::KIND, reconcile).await;
}

/// What is to be done with the pods that there are.
#[derive(Debug, Default, PartialEq)]
struct Steps {
    create: bool,
    delete: Vec<Arc<Value>>,
}

async fn reconcile(objects: &Objects, recorder: &Recorder, namespace: &str, name: &str) -> Result<Again, ApiError> {
    let set = match objects.get(&daemon_set::KIND, namespace, name) {
        Ok(set) => set,
        Err(ApiError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let hash = template_hash(&set);
    if text(&set, "/metadata/deletionTimestamp").is_empty() {
        let pods = pods_of(objects, namespace, &set);
        let used: Vec<String> = pods.iter().map(|pod| text(pod, HASH_POINTER).to_owned()).collect();
        history::keep(objects, &set, &hash, &used).await?;
        let steps = steps(&set, &hash, &pods);
        for pod in &steps.delete {
            delete_pod(objects, recorder, &daemon_set::KIND, &set, pod).await?;
        }
        if steps.create {
            let mut pod = pod_of(&daemon_set::KIND, &set);
            pod["metadata"]["labels"][HASH_LABEL] = hash.as_str().into();
            pod["spec"]["nodeName"] = objects.node_name().into();
            create_pod(objects, recorder, &daemon_set::KIND, &set, pod).await?;
        }
    }
    write_status(objects, namespace, name, &set, &hash).await?;
    Ok(None)
}

fn pods_of(objects: &Objects, namespace: &str, set: &Value) -> Vec<Arc<Value>> {
    let (mut pods, _) = objects.list(&pod::KIND, Some(namespace));
    pods.retain(|pod| is_owned_by(pod, text(set, "/metadata/uid")));
    pods
}

fn is_leaving(pod: &Value) -> bool {
    !text(pod, "/metadata/deletionTimestamp").is_empty()
}

fn has_ended(pod: &Value) -> bool {
    matches!(text(pod, "/status/phase"), "Succeeded" | "Failed")
}

fn is_of(pod: &Value, hash: &str) -> bool {
    pod["metadata"]["labels"][HASH_LABEL] == hash
}

fn steps(set: &Value, hash: &str, pods: &[Arc<Value>]) -> Steps {
    let (ended, alive): (Vec<_>, Vec<_>) =
        pods.iter().filter(|pod| !is_leaving(pod)).cloned().partition(|pod| has_ended(pod));
    let (new, old): (Vec<_>, Vec<_>) = alive.into_iter().partition(|pod| is_of(pod, hash));
    let mut steps = Steps { create: false, delete: ended };
    let on_delete = text(set, "/spec/updateStrategy/type") == "OnDelete";
    let surges = daemon_set::surges(set) && !on_delete;
    // One that serves stays; of several, all but the first are too many.
    steps.delete.extend(new.iter().skip(1).cloned());
    let replaced = match new.first() {
        Some(new) if surges => is_ready(new),
        Some(_) => true,
        None => !on_delete && !surges,
    };
    // What serves nobody may always go.
    let goes = |pod: &Arc<Value>| replaced || surges && !is_ready(pod);
    steps.delete.extend(old.iter().filter(|pod| goes(pod)).cloned());
    let place_is_taken = match surges {
        true => !new.is_empty(),
        false => pods.iter().any(|pod| !has_ended(pod)),
    };
    steps.create = !place_is_taken;
    steps
}

async fn write_status(objects: &Objects, namespace: &str, name: &str, set: &Value, hash: &str) -> Result<(), ApiError> {
    let mut pods = pods_of(objects, namespace, set);
    pods.retain(|pod| !is_leaving(pod) && !has_ended(pod));
    let present = i64::from(!pods.is_empty());
    let ready = i64::from(pods.iter().any(|pod| is_ready(pod)));
    let mut status = json!({
        "desiredNumberScheduled": 1, "currentNumberScheduled": present, "numberMisscheduled": 0,
        "numberReady": ready, "numberAvailable": ready, "observedGeneration": integer(set, "/metadata/generation"),
        "updatedNumberScheduled": i64::from(pods.iter().any(|pod| is_of(pod, hash))),
    });
    if ready == 0 {
        status["numberUnavailable"] = 1.into();
    }
    match objects.set_status(&daemon_set::KIND, namespace, name, text(set, "/metadata/uid"), status).await {
        Err(ApiError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(strategy: Value) -> Value {
        json!({"spec": {"updateStrategy": strategy}})
    }

    fn pod(hash: &str, ready: bool) -> Arc<Value> {
        let status = if ready { "True" } else { "False" };
        Arc::new(json!({"metadata": {"labels": {HASH_LABEL: hash}},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": status}]}}))
    }

    fn names(set: &Value, pods: &[Arc<Value>]) -> (bool, usize) {
        let steps = steps(set, "new", pods);
        (steps.create, steps.delete.len())
    }

    #[test]
    fn there_is_one_pod() {
        let rolling = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
        assert_eq!(names(&rolling, &[]), (true, 0));
        assert_eq!(names(&rolling, &[pod("new", false)]), (false, 0));
        assert_eq!(names(&rolling, &[pod("new", true), pod("new", true)]), (false, 1));
        let mut failed = Value::clone(&pod("new", false));
        failed["status"]["phase"] = "Failed".into();
        assert_eq!(names(&rolling, &[Arc::new(failed)]), (true, 1));
    }

    #[test]
    fn an_old_pod_goes_first_or_last() {
        let rolling = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 1}}));
        assert_eq!(names(&rolling, &[pod("old", true)]), (false, 1));
        let mut leaving = Value::clone(&pod("old", true));
        leaving["metadata"]["deletionTimestamp"] = "now".into();
        assert_eq!(names(&rolling, &[Arc::new(leaving)]), (false, 0));
        let surging = set(json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}));
        assert_eq!(names(&surging, &[pod("old", true)]), (true, 0));
        assert_eq!(names(&surging, &[pod("old", true), pod("new", false)]), (false, 0));
        assert_eq!(names(&surging, &[pod("old", true), pod("new", true)]), (false, 1));
        assert_eq!(names(&set(json!({"type": "OnDelete"})), &[pod("old", true)]), (false, 0));
    }
}
