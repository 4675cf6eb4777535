//! Which volume a claim gets.

use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::volume_fields::uses_claim;
use crate::api::kinds::{persistent_volume, pod, text};
use crate::api::quantity;
use crate::api::selector::Selector;

/// Set by Kubernetes' own controllers, and looked for by people's tools.
pub(super) const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub(super) const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";

/// What a volume's `claimRef` says of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ownership {
    /// The volume is nobody's.
    Free,
    /// It is kept for a claim of this name.
    Reserved,
    /// It is this very claim's.
    Own,
    /// It is another one's.
    Other,
}

pub(super) fn ownership(volume: &Value, claim: &Value) -> Ownership {
    let reference = &volume["spec"]["claimRef"];
    let names = |field: &str| text(reference, &format!("/{field}")) == text(claim, &format!("/metadata/{field}"));
    match (text(reference, "/name"), text(reference, "/uid")) {
        ("", _) => Ownership::Free,
        _ if !names("name") || !names("namespace") => Ownership::Other,
        (_, "") => Ownership::Reserved,
        (_, uid) if uid == text(claim, "/metadata/uid") => Ownership::Own,
        _ => Ownership::Other,
    }
}

/// Why a volume is not what a claim asks for.
pub(super) fn mismatch(volume: &Value, claim: &Value) -> Option<&'static str> {
    let bytes = |object: &Value, pointer: &str| quantity::whole(text(object, pointer)).unwrap_or(0);
    let modes = pod::items(&volume["spec"], "accessModes");
    if bytes(volume, "/spec/capacity/storage") < bytes(claim, "/spec/resources/requests/storage") {
        return Some("requested PV is too small");
    }
    if text(volume, "/spec/storageClassName") != text(claim, "/spec/storageClassName") {
        return Some("storageClassName does not match");
    }
    if text(volume, "/spec/volumeMode") != text(claim, "/spec/volumeMode") {
        return Some("incompatible volumeMode");
    }
    let offered = pod::items(&claim["spec"], "accessModes").iter().all(|mode| modes.contains(mode));
    if offered { None } else { Some("incompatible accessMode") }
}

/// The volume that is kept for the claim, or the smallest of those that are nobody's and fit.
pub(super) fn choose<'a>(claim: &Value, volumes: &'a [Arc<Value>], node: Option<&Value>) -> Option<&'a Arc<Value>> {
    let stays = |volume: &&Arc<Value>| text(volume, "/metadata/deletionTimestamp").is_empty();
    let fits = |volume: &&Arc<Value>| mismatch(volume, claim).is_none();
    let of = |wanted: Ownership| {
        volumes.iter().filter(stays).filter(move |volume| ownership(volume, claim) == wanted).filter(fits)
    };
    if let Some(kept) = of(Ownership::Own).chain(of(Ownership::Reserved)).next() {
        return Some(kept);
    }
    // What could not be read was refused when the claim was written.
    let selector = Selector::from_label_selector(&claim["spec"]["selector"]).unwrap_or_default();
    let free = of(Ownership::Free)
        .filter(|volume| selector.matches(&volume["metadata"]["labels"]))
        .filter(|volume| node.is_none_or(|node| persistent_volume::is_reachable_from(volume, node)));
    free.min_by_key(|volume| quantity::whole(text(volume, "/spec/capacity/storage")))
}

/// The pods of a node, whatever has become of them, that use a claim.
pub(super) fn users<'a>(claim: &str, pods: &'a [Arc<Value>]) -> impl Iterator<Item = &'a Arc<Value>> {
    pods.iter().filter(move |pod| !text(pod, "/spec/nodeName").is_empty() && uses_claim(pod, claim))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn volume(name: &str, size: &str, labels: Value) -> Arc<Value> {
        Arc::new(json!({
            "metadata": {"name": name, "labels": labels},
            "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce", "ReadOnlyMany"],
                "storageClassName": "slow", "volumeMode": "Filesystem"},
        }))
    }

    fn claim() -> Value {
        json!({
            "metadata": {"name": "data", "namespace": "default", "uid": "u"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
                "storageClassName": "slow", "volumeMode": "Filesystem"},
        })
    }

    fn kept_for(volume: &Arc<Value>, name: &str, uid: &str) -> Arc<Value> {
        let mut kept = Value::clone(volume);
        kept["spec"]["claimRef"] = json!({"name": name, "namespace": "default", "uid": uid});
        Arc::new(kept)
    }

    fn chosen(claim: &Value, volumes: &[Arc<Value>]) -> String {
        choose(claim, volumes, None).map(|volume| text(volume, "/metadata/name").to_owned()).unwrap_or_default()
    }

    #[test]
    fn the_smallest_that_fits_is_chosen() {
        let volumes = [
            volume("small", "512Mi", json!({})),
            volume("large", "9Gi", json!({})),
            volume("fit", "2Gi", json!({"a": "b"})),
        ];
        assert_eq!(chosen(&claim(), &volumes), "fit");
        assert_eq!(chosen(&claim(), &volumes[..2]), "large");
        let mut picky = claim();
        picky["spec"]["selector"] = json!({"matchLabels": {"a": "b"}});
        assert_eq!((chosen(&picky, &volumes), chosen(&picky, &volumes[..2])), ("fit".into(), String::new()));
        for (field, value) in [("storageClassName", json!("fast")), ("accessModes", json!(["ReadWriteMany"]))] {
            let mut other = claim();
            other["spec"][field] = value;
            assert_eq!(chosen(&other, &volumes), "", "{field}");
        }
    }

    #[test]
    fn what_is_kept_for_a_claim_is_nobody_elses() {
        let free = volume("free", "2Gi", json!({}));
        let kept = kept_for(&volume("kept", "9Gi", json!({})), "data", "");
        assert_eq!(chosen(&claim(), &[free.clone(), kept.clone()]), "kept");
        let others = kept_for(&volume("others", "1Gi", json!({})), "data", "earlier");
        assert_eq!(chosen(&claim(), &[others, free]), "free");
        assert_eq!(ownership(&kept_for(&kept, "data", "u"), &claim()), Ownership::Own);
        assert_eq!(ownership(&kept_for(&kept, "x", ""), &claim()), Ownership::Other);
    }
}
