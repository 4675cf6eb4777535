//! DaemonSets: one pod where the node is one that its template wants, also while that is cordoned, replaced when the
//! template changes.

mod history;

use std::sync::Arc;

use serde_json::{Value, json};

use super::changes::{self, Again, differs};
use super::deployment::template_hash;
use super::event::Recorder;
use super::replica_set::{create_pod, delete_pod, is_ready, pod_of};
use crate::api::kinds::{daemon_set, integer, node, node_affinity, pod, text};
use crate::api::object_store::Change;
use crate::api::objects::{Objects, is_owned_by};
use crate::api::scheduling;
use crate::api::status::ApiError;

/// Label of a pod that says which template it was made of.
const HASH_LABEL: &str = "controller-revision-hash";
const HASH_POINTER: &str = "/metadata/labels/controller-revision-hash";

/// Keeps every DaemonSet's pod.
pub async fn run(objects: Objects, recorder: Recorder) {
    let labels = |change: &Change| change.key.resource == node::KIND.plural && differs(change, "/metadata/labels");
    changes::run_also(objects, recorder, &daemon_set::KIND, &pod::KIND, labels, reconcile).await;
}

/// Whether the node is one that the pods of a DaemonSet want.
fn is_wanted(set: &Value, node: &Value) -> bool {
    let spec = &set["spec"]["template"]["spec"];
    let named = text(spec, "/nodeName");
    (named.is_empty() || named == text(node, "/metadata/name")) && node_affinity::fits(spec, node)
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
    let is_wanted = is_wanted(&set, &scheduling::node_view(objects));
    if text(&set, "/metadata/deletionTimestamp").is_empty() {
        let pods = pods_of(objects, namespace, &set);
        let used: Vec<String> = pods.iter().map(|pod| text(pod, HASH_POINTER).to_owned()).collect();
        history::keep(objects, &set, &hash, &used).await?;
        let steps = if is_wanted { steps(&set, &hash, &pods) } else { end_of(&pods) };
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
    write_status(objects, namespace, name, &set, &hash, is_wanted).await?;
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

/// Where the node is not wanted, or no more.
fn end_of(pods: &[Arc<Value>]) -> Steps {
    Steps { create: false, delete: pods.iter().filter(|pod| !is_leaving(pod)).cloned().collect() }
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

async fn write_status(
    objects: &Objects,
    namespace: &str,
    name: &str,
    set: &Value,
    hash: &str,
    is_wanted: bool,
) -> Result<(), ApiError> {
    let status = status(set, hash, is_wanted, &pods_of(objects, namespace, set));
    match objects.set_status(&daemon_set::KIND, namespace, name, text(set, "/metadata/uid"), status).await {
        Err(ApiError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

fn status(set: &Value, hash: &str, is_wanted: bool, pods: &[Arc<Value>]) -> Value {
    let mut alive = pods.iter().filter(|pod| !has_ended(pod)).collect::<Vec<_>>();
    let misplaced = !is_wanted && !alive.is_empty();
    alive.retain(|pod| is_wanted && !is_leaving(pod));
    let ready = alive.iter().any(|pod| is_ready(pod));
    let mut status = json!({
        "desiredNumberScheduled": i64::from(is_wanted), "currentNumberScheduled": i64::from(!alive.is_empty()),
        "numberMisscheduled": i64::from(misplaced), "numberReady": i64::from(ready),
        "numberAvailable": i64::from(ready), "observedGeneration": integer(set, "/metadata/generation"),
        "updatedNumberScheduled": i64::from(alive.iter().any(|pod| is_of(pod, hash))),
    });
    if is_wanted && !ready {
        status["numberUnavailable"] = 1.into();
    }
    status
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

    #[test]
    fn a_node_that_is_not_wanted_has_no_pod() {
        let node = json!({"metadata": {"name": "n", "labels": {"disk": "ssd"}}});
        let wants = |spec: Value| is_wanted(&json!({"spec": {"template": {"spec": spec}}}), &node);
        assert!(wants(json!({})) && wants(json!({"nodeName": "n", "nodeSelector": {"disk": "ssd"}})));
        assert!(!wants(json!({"nodeName": "m"})) && !wants(json!({"nodeSelector": {"disk": "hdd"}})));
        let steps = end_of(&[pod("new", true), pod("old", false)]);
        assert_eq!((steps.create, steps.delete.len()), (false, 2));
        let counts = |is_wanted: bool, pods: &[Arc<Value>]| {
            let status = status(&json!({}), "new", is_wanted, pods);
            ["desiredNumberScheduled", "currentNumberScheduled", "numberMisscheduled", "numberUnavailable"]
                .map(|field| integer(&status, &format!("/{field}")))
        };
        assert_eq!(counts(true, &[pod("new", true)]), [1, 1, 0, 0]);
        assert_eq!(counts(true, &[]), [1, 0, 0, 1]);
        assert_eq!(counts(false, &[pod("new", true)]), [0, 0, 1, 0]);
        assert_eq!(counts(false, &[]), [0, 0, 0, 0]);
    }
}
