//! Whether the claims of a pod are ready for it.

use serde_json::Value;

use crate::api::kinds::volume_fields::{ONE_POD, pod_claims, uses_claim};
use crate::api::kinds::{persistent_volume, persistent_volume_claim, pod, storage_class, text};
use crate::api::objects::{Objects, is_owned_by};

/// What the pod's claims have against it.
pub(super) fn obstacle(objects: &Objects, pod: &Value, node: &Value) -> Option<String> {
    let namespace = text(pod, "/metadata/namespace");
    let mut unbound = false;
    for used in pod_claims(pod) {
        let name = &used.claim;
        let claim = match objects.get(&persistent_volume_claim::KIND, namespace, name) {
            Ok(claim) => claim,
            Err(_) if used.ephemeral => {
                let message = "waiting for ephemeral volume controller to create the persistentvolumeclaim";
                return Some(format!("{message} {name:?}"));
            }
            Err(_) => return Some(format!("persistentvolumeclaim {name:?} not found")),
        };
        if used.ephemeral && !is_owned_by(&claim, text(pod, "/metadata/uid")) {
            let shown = format!("{namespace}/{}", text(pod, "/metadata/name"));
            return Some(format!("PVC {namespace}/{name} was not created for pod {shown} (pod is not owner)"));
        }
        if !text(&claim, "/metadata/deletionTimestamp").is_empty() {
            return Some(format!("persistentvolumeclaim {name:?} is being deleted"));
        }
        let volume = text(&claim, "/spec/volumeName");
        if text(&claim, "/status/phase") == "Lost" {
            return Some(format!("persistentvolumeclaim {name:?} bound to non-existent persistentvolume {volume:?}"));
        }
        if text(&claim, "/status/phase") != "Bound" {
            let class = objects.get(&storage_class::KIND, "", text(&claim, "/spec/storageClassName"));
            unbound |= !class.is_ok_and(|class| storage_class::waits_for_consumer(&class));
        } else if let Ok(volume) = objects.get(&persistent_volume::KIND, "", volume)
            && !persistent_volume::is_reachable_from(&volume, node)
        {
            return Some("1 node(s) had volume node affinity conflict".into());
        }
        if exclusive_user(objects, &claim, pod).is_some() {
            let message =
                "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
            return Some(format!("1 {message}"));
        }
    }
    unbound.then(|| "pod has unbound immediate PersistentVolumeClaims".into())
}

/// The pod that another one has to wait for, where the claim is for one pod alone: of two that have the node, the one
/// that came first.
pub fn exclusive_user(objects: &Objects, claim: &Value, pod: &Value) -> Option<String> {
    if !pod::items(&claim["spec"], "accessModes").iter().any(|mode| mode == ONE_POD) {
        return None;
    }
    let age = |pod: &Value| [text(pod, "/metadata/creationTimestamp"), text(pod, "/metadata/uid")].map(str::to_owned);
    let waits = text(pod, "/spec/nodeName").is_empty();
    let uses = |other: &Value| {
        let is_over = matches!(text(other, "/status/phase"), "Succeeded" | "Failed");
        let is_other = text(other, "/metadata/uid") != text(pod, "/metadata/uid");
        let has_node = !text(other, "/spec/nodeName").is_empty();
        let goes_first = waits || age(other) < age(pod);
        is_other && has_node && !is_over && goes_first && uses_claim(other, text(claim, "/metadata/name"))
    };
    let (pods, _) = objects.list(&pod::KIND, Some(text(claim, "/metadata/namespace")));
    pods.iter().find(|other| uses(other)).map(|other| text(other, "/metadata/name").to_owned())
}
