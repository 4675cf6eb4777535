//! What claims, volumes and classes of storage have in common: access modes, capacities, names of classes; and which
//! claims a pod uses.

use serde_json::{Map, Value};

use super::pod::items;
use super::{is_dns_subdomain, text};
use crate::api::quantity;
use crate::api::status::Cause;

/// Access modes with the short forms that tables show.
const ACCESS_MODES: [(&str, &str); 4] =
    [("ReadWriteOnce", "RWO"), ("ReadOnlyMany", "ROX"), ("ReadWriteMany", "RWX"), ("ReadWriteOncePod", "RWOP")];
/// For one pod alone.
pub const ONE_POD: &str = "ReadWriteOncePod";

/// A claim of a pod: the name of its volume, that of the claim, and whether the claim is made for the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodClaim {
    pub volume: String,
    pub claim: String,
    pub ephemeral: bool,
}

/// The claims that a pod uses.
pub fn pod_claims(pod: &Value) -> Vec<PodClaim> {
    let volumes = pod.get("spec").map_or(&[][..], |spec| items(spec, "volumes"));
    let claim = |volume: &Value| {
        let name = text(volume, "/name").to_owned();
        if volume.get("ephemeral").is_some_and(Value::is_object) {
            let claim = format!("{}-{name}", text(pod, "/metadata/name"));
            return Some(PodClaim { volume: name, claim, ephemeral: true });
        }
        let claim = text(volume, "/persistentVolumeClaim/claimName");
        (!claim.is_empty()).then(|| PodClaim { volume: name, claim: claim.into(), ephemeral: false })
    };
    volumes.iter().filter_map(claim).collect()
}

/// Whether a pod uses the claim of that name, which is in its namespace.
pub fn uses_claim(pod: &Value, claim: &str) -> bool {
    pod_claims(pod).iter().any(|used| used.claim == claim)
}

pub(super) fn access_mode_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let path = format!("{path}.accessModes");
    let modes = items(spec, "accessModes");
    if modes.is_empty() {
        causes.push(Cause::required(&path, "at least 1 access mode is required"));
    }
    for mode in modes {
        if !ACCESS_MODES.iter().any(|(known, _)| mode == known) {
            let known: Vec<String> = ACCESS_MODES.iter().map(|(known, _)| format!("{known:?}")).collect();
            causes.push(Cause::unsupported(&path, &format!("{mode}: supported values: {}", known.join(", "))));
        }
    }
    if modes.len() > 1 && modes.iter().any(|mode| mode == ONE_POD) {
        let message = "may not use ReadWriteOncePod with other access modes";
        causes.push(Cause::forbidden(&path, message));
    }
}

/// `amounts` may name `storage` alone, and has to.
pub(super) fn storage_causes(amounts: Option<&Value>, path: &str, causes: &mut Vec<Cause>) {
    let none = Map::new();
    let amounts = amounts.and_then(Value::as_object).unwrap_or(&none);
    for other in amounts.keys().filter(|name| *name != "storage") {
        causes
            .push(Cause::unsupported(format!("{path}[{other}]"), &format!("{other:?}: supported values: \"storage\"")));
    }
    let path = format!("{path}[storage]");
    let Some(amount) = amounts.get("storage") else {
        return causes.push(Cause::required(path, "how large it is"));
    };
    match quantity::parse(amount.as_str().unwrap_or_default()) {
        Some(bytes) if bytes > 0.0 => {}
        Some(_) => causes.push(Cause::invalid(path, amount, "must be greater than zero")),
        None => causes.push(Cause::invalid(path, amount, "must be a quantity such as 500Mi, 2Gi")),
    }
}

pub(super) fn class_name_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let class = text(spec, "/storageClassName");
    if !class.is_empty() && !is_dns_subdomain(class) {
        let message = "must be a lowercase RFC 1123 subdomain";
        causes.push(Cause::invalid(format!("{path}.storageClassName"), format_args!("{class:?}"), message));
    }
}

/// There are directories here, and no block devices.
pub(super) fn volume_mode_causes(spec: &Value, path: &str, causes: &mut Vec<Cause>) {
    let mode = text(spec, "/volumeMode");
    if !matches!(mode, "" | "Filesystem") {
        let message = format!("{mode:?}: supported values: \"Filesystem\"");
        causes.push(Cause::unsupported(format!("{path}.volumeMode"), &message));
    }
}

/// Access modes as tables show them: `RWO,ROX`.
pub(super) fn shown_modes(modes: &[Value]) -> String {
    let short = ACCESS_MODES.iter().filter(|(mode, _)| modes.iter().any(|wanted| wanted == mode));
    short.map(|(_, short)| *short).collect::<Vec<_>>().join(",")
}

pub(super) fn or_unset(text: &str) -> Value {
    if text.is_empty() { "<unset>".into() } else { text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_of_a_pod_are_named_or_made_for_it() {
        let pod = json!({"metadata": {"name": "web"}, "spec": {"volumes": [
            {"name": "a", "persistentVolumeClaim": {"claimName": "data"}},
            {"name": "b", "ephemeral": {"volumeClaimTemplate": {}}},
            {"name": "c", "emptyDir": {}},
        ]}});
        let names: Vec<String> =
            pod_claims(&pod).into_iter().map(|used| format!("{} {}", used.volume, used.claim)).collect();
        assert_eq!(names, ["a data", "b web-b"]);
        assert!(uses_claim(&pod, "web-b") && !uses_claim(&pod, "b"));
    }

    #[test]
    fn modes_are_shown_in_their_order() {
        assert_eq!(shown_modes(&[json!("ReadOnlyMany"), json!("ReadWriteOnce")]), "RWO,ROX");
    }
}
