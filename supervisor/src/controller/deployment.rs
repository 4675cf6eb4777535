//! Deployments: one ReplicaSet for each version of the template, replicas moved from the old to the new.

mod paused;
mod progress;
pub(super) mod revision;

use std::sync::Arc;

use serde_json::{Value, json};

use super::changes::{self, Again};
use super::event::{EventType, Recorder};
use super::replica_set::condition;
use crate::api::kinds::deployment::count_or_percentage;
use crate::api::kinds::{deployment, integer, replica_set, text};
use crate::api::objects::{Half, Objects, Propagation, is_owned_by, owner_reference};
use crate::api::status::ApiError;

const HASH_LABEL: &str = "pod-template-hash";
const MIN_READY: &str = "/spec/minReadySeconds";

/// Keeps every Deployment rolled out.
pub async fn run(objects: Objects, recorder: Recorder) {
    changes::run(objects, recorder, &deployment::KIND, &replica_set::KIND, reconcile).await;
}

async fn reconcile(objects: &Objects, recorder: &Recorder, namespace: &str, name: &str) -> Result<Again, ApiError> {
    let deployment = match objects.get(&deployment::KIND, namespace, name) {
        Ok(deployment) => deployment,
        Err(ApiError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    if !text(&deployment, "/metadata/deletionTimestamp").is_empty() {
        return Ok(None);
    }
    let sets = owned_sets(objects, namespace, &deployment);
    if is_paused(&deployment) {
        for (name, replicas) in paused::plan(&deployment, &sets) {
            scale(objects, recorder, &deployment, &name, replicas).await?;
        }
        let hash = template_hash(&deployment);
        let current = sets.iter().find(|set| text(set, &format!("/metadata/labels/{HASH_LABEL}")) == hash);
        let current = current.map(|set| text(set, "/metadata/uid").to_owned()).unwrap_or_default();
        return write_status(objects, namespace, name, &deployment, &current).await;
    }
    let revision = sets.iter().map(|set| revision::of(set)).max().unwrap_or(0);
    let hash = template_hash(&deployment);
    let current = sets.iter().find(|set| text(set, &format!("/metadata/labels/{HASH_LABEL}")) == hash).cloned();
    let current = match current {
        Some(current) => current,
        None => objects.create(&replica_set::KIND, namespace, new_set(&deployment, &hash, revision + 1)).await?,
    };
    // An older version that is wanted again becomes the newest.
    let revision = match revision::of(&current) {
        own if own >= revision => own.max(1),
        _ => revision + 1,
    };
    revision::tell(objects, &deployment, &current, revision).await?;
    let min_ready = integer(&deployment, MIN_READY);
    if integer(&current, MIN_READY) != min_ready {
        let change = move |mut set: Value| {
            set["spec"]["minReadySeconds"] = min_ready.into();
            Ok(set)
        };
        let name = text(&current, "/metadata/name");
        objects.update(&replica_set::KIND, namespace, name, Half::Desired, change).await?;
    }
    let sets = owned_sets(objects, namespace, &deployment);
    let (new, old): (Vec<_>, Vec<_>) =
        sets.iter().cloned().partition(|set| set["metadata"]["uid"] == current["metadata"]["uid"]);
    if let Some(new) = new.first() {
        for (name, replicas) in plan(&deployment, new, &old) {
            scale(objects, recorder, &deployment, &name, replicas).await?;
        }
    }
    prune(objects, namespace, &deployment, &old).await?;
    write_status(objects, namespace, name, &deployment, text(&current, "/metadata/uid")).await
}

fn is_paused(deployment: &Value) -> bool {
    deployment.pointer("/spec/paused") == Some(&Value::Bool(true))
}

fn owned_sets(objects: &Objects, namespace: &str, deployment: &Value) -> Vec<Arc<Value>> {
    let uid = text(deployment, "/metadata/uid");
    let (mut sets, _) = objects.list(&replica_set::KIND, Some(namespace));
    sets.retain(|set| is_owned_by(set, uid));
    sets.sort_by_key(|set| revision::of(set));
    sets
}

/// Ten characters that differ when the template does: 64-bit FNV-1a over its canonical JSON.
pub(super) fn template_hash(deployment: &Value) -> String {
    // serde_json keeps the keys of an object sorted, so equal templates have equal text.
    let template = deployment.pointer("/spec/template").map(Value::to_string).unwrap_or_default();
    let hash = template
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    format!("{:010x}", hash & 0xff_ffff_ffff)
}

fn new_set(deployment: &Value, hash: &str, revision: i64) -> Value {
    let name = text(deployment, "/metadata/name");
    let mut spec = json!({
        "replicas": 0,
        "selector": deployment["spec"]["selector"],
        "template": deployment["spec"]["template"],
    });
    spec["selector"]["matchLabels"][HASH_LABEL] = hash.into();
    spec["template"]["metadata"]["labels"][HASH_LABEL] = hash.into();
    if integer(deployment, MIN_READY) != 0 {
        spec["minReadySeconds"] = integer(deployment, MIN_READY).into();
    }
    json!({
        "metadata": {
            "name": format!("{name}-{hash}"), "labels": spec["template"]["metadata"]["labels"],
            "annotations": revision::annotations(deployment, revision),
            "ownerReferences": [owner_reference(&deployment::KIND, deployment)],
        },
        "spec": spec,
    })
}

/// The counts to set now: as far as the strategy allows with what is available at this moment.
fn plan(deployment: &Value, new: &Value, old: &[Arc<Value>]) -> Vec<(String, i64)> {
    let desired = integer(deployment, "/spec/replicas");
    let spec = |set: &Value| integer(set, "/spec/replicas");
    let name = |set: &Value| text(set, "/metadata/name").to_owned();
    let old_total: i64 = old.iter().map(|set| spec(set)).sum();
    if text(deployment, "/spec/strategy/type") == "Recreate" {
        let old_pods: i64 = old.iter().map(|set| integer(set, "/status/replicas")).sum();
        let mut steps: Vec<_> = old.iter().filter(|set| spec(set) > 0).map(|set| (name(set), 0)).collect();
        if old_total == 0 && old_pods == 0 && spec(new) != desired {
            steps.push((name(new), desired));
        }
        return steps;
    }
    let max_surge = bound(deployment, "maxSurge", true);
    // Both bounds may round to nothing: then one pod at a time is taken down.
    let max_unavailable = match bound(deployment, "maxUnavailable", false) {
        0 if max_surge == 0 => 1,
        count => count,
    };
    let mut steps = Vec::new();
    let room = desired + max_surge - old_total - spec(new);
    let new_count = match spec(new) {
        now if now > desired || old_total == 0 => desired,
        now => (now + room.max(0)).min(desired),
    };
    if new_count != spec(new) {
        steps.push((name(new), new_count));
    }
    let new_unavailable = (spec(new) - integer(new, "/status/availableReplicas")).max(0);
    let mut removable = old_total + spec(new) - (desired - max_unavailable) - new_unavailable;
    for set in old.iter().filter(|set| spec(set) > 0) {
        // What is not available serves nobody and may always go.
        let idle = (spec(set) - integer(set, "/status/availableReplicas")).clamp(0, spec(set));
        let taken = removable.clamp(0, spec(set)).max(idle);
        removable -= taken - idle;
        if taken > 0 {
            steps.push((name(set), spec(set) - taken));
        }
    }
    steps
}

/// A bound of the rolling update as a count; 0 where the strategy is another.
fn bound(deployment: &Value, field: &str, round_up: bool) -> i64 {
    let value = deployment.pointer(&format!("/spec/strategy/rollingUpdate/{field}")).cloned().unwrap_or_default();
    count_or_percentage(&value, integer(deployment, "/spec/replicas"), round_up).unwrap_or(0)
}

/// Sets the count of one of the Deployment's ReplicaSets.
async fn scale(
    objects: &Objects,
    recorder: &Recorder,
    deployment: &Value,
    name: &str,
    replicas: i64,
) -> Result<(), ApiError> {
    let namespace = text(deployment, "/metadata/namespace");
    let before = integer(&*objects.get(&replica_set::KIND, namespace, name)?, "/spec/replicas");
    let change = move |mut set: Value| {
        set["spec"]["replicas"] = replicas.into();
        Ok(set)
    };
    objects.update(&replica_set::KIND, namespace, name, Half::Desired, change).await?;
    let direction = if replicas > before { "up" } else { "down" };
    let message = format!("Scaled {direction} replica set {name} from {before} to {replicas}");
    recorder.tell(&deployment::KIND, deployment, EventType::Normal, "ScalingReplicaSet", message);
    Ok(())
}

/// Forgets the oldest versions beyond the history limit.
async fn prune(objects: &Objects, namespace: &str, deployment: &Value, old: &[Arc<Value>]) -> Result<(), ApiError> {
    let limit = usize::try_from(integer(deployment, "/spec/revisionHistoryLimit")).unwrap_or(0);
    let unused: Vec<_> =
        old.iter().filter(|set| integer(set, "/spec/replicas") == 0 && integer(set, "/status/replicas") == 0).collect();
    for set in unused.iter().take(unused.len().saturating_sub(limit)) {
        let name = text(set, "/metadata/name");
        objects.delete(&replica_set::KIND, namespace, name, Propagation::Background, None).await?;
    }
    Ok(())
}

/// Gives back when the rollout will have taken too long.
async fn write_status(
    objects: &Objects,
    namespace: &str,
    name: &str,
    deployment: &Value,
    current: &str,
) -> Result<Again, ApiError> {
    let sets = owned_sets(objects, namespace, deployment);
    let sum = |field: &str| -> i64 { sets.iter().map(|set| integer(set, &format!("/status/{field}"))).sum() };
    let updated = sets.iter().find(|set| text(set, "/metadata/uid") == current);
    let desired = integer(deployment, "/spec/replicas");
    let available = sum("availableReplicas");
    let unavailable_allowed =
        deployment.pointer("/spec/strategy/rollingUpdate/maxUnavailable").cloned().unwrap_or(json!(0));
    let allowed = count_or_percentage(&unavailable_allowed, desired, false).unwrap_or(0);
    let is_available = available >= desired - allowed;
    let old = &deployment["status"];
    let (reason, message) = match is_available {
        true => ("MinimumReplicasAvailable", "Deployment has minimum availability."),
        false => ("MinimumReplicasUnavailable", "Deployment does not have minimum availability."),
    };
    let mut status = json!({
        "observedGeneration": integer(deployment, "/metadata/generation"),
        "replicas": sum("replicas"), "readyReplicas": sum("readyReplicas"), "availableReplicas": available,
        "unavailableReplicas": (desired - available).max(0),
        "updatedReplicas": updated.map_or(0, |set| integer(set, "/status/replicas")),
    });
    let progress = progress::condition(deployment, &status, updated.map(|set| &**set));
    let again = progress::time_left(deployment, &progress);
    status["conditions"] = json!([condition(old, "Available", is_available, reason, message), progress]);
    match objects.set_status(&deployment::KIND, namespace, name, text(deployment, "/metadata/uid"), status).await {
        Err(ApiError::NotFound { .. }) => Ok(None),
        other => other.map(|()| again),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(name: &str, replicas: i64, available: i64) -> Arc<Value> {
        Arc::new(json!({
            "metadata": {"name": name}, "spec": {"replicas": replicas},
            "status": {"replicas": replicas, "availableReplicas": available},
        }))
    }

    fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Value {
        json!({"spec": {"replicas": replicas, "strategy": {
            "type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}}})
    }

    #[test]
    fn without_old_replicas_the_new_set_gets_all() {
        let wanted = deployment(3, json!("25%"), json!("25%"));
        assert_eq!(plan(&wanted, &set("new", 0, 0), &[]), [("new".into(), 3)]);
        assert_eq!(plan(&wanted, &set("new", 5, 5), &[]), [("new".into(), 3)]);
        assert_eq!(plan(&wanted, &set("new", 3, 3), &[]), []);
    }

    #[test]
    fn a_rollout_keeps_to_surge_and_availability() {
        let wanted = deployment(4, json!(1), json!(0));
        let old = [set("old", 4, 4)];
        assert_eq!(plan(&wanted, &set("new", 0, 0), &old), [("new".into(), 1)]);
        assert_eq!(plan(&wanted, &set("new", 1, 0), &old), []);
        assert_eq!(plan(&wanted, &set("new", 1, 1), &old), [("old".into(), 3)]);
    }

    #[test]
    fn old_pods_that_serve_nobody_go_at_once() {
        let wanted = deployment(4, json!(1), json!(0));
        assert_eq!(plan(&wanted, &set("new", 1, 0), &[set("old", 4, 1)]), [("old".into(), 1)]);
    }

    #[test]
    fn recreate_waits_for_the_old_pods_to_go() {
        let mut wanted = deployment(2, json!(1), json!(1));
        wanted["spec"]["strategy"] = json!({"type": "Recreate"});
        assert_eq!(plan(&wanted, &set("new", 0, 0), &[set("old", 2, 2)]), [("old".into(), 0)]);
        let mut going = Value::clone(&set("old", 0, 0));
        going["status"]["replicas"] = json!(1);
        assert_eq!(plan(&wanted, &set("new", 0, 0), &[Arc::new(going)]), []);
        assert_eq!(plan(&wanted, &set("new", 0, 0), &[set("old", 0, 0)]), [("new".into(), 2)]);
    }

    #[test]
    fn the_hash_follows_the_template_alone() {
        let with = |image: &str, replicas: i64| json!({"spec": {"replicas": replicas, "template": {"spec": {"image": image}}}});
        assert_eq!(template_hash(&with("a", 1)), template_hash(&with("a", 2)));
        assert_ne!(template_hash(&with("a", 1)), template_hash(&with("b", 1)));
    }
}
