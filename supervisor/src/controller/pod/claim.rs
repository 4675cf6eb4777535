//! Where the volumes of a pod's claims lie.

use std::collections::BTreeMap;
use std::path::PathBuf;

use k8s_openapi::api::core::v1::{HostPathVolumeSource, PersistentVolume, Pod};
use serde_json::Value;

use super::volume::check_host_path;
use crate::api::kinds::volume_fields::pod_claims;
use crate::api::kinds::{persistent_volume, persistent_volume_claim, pod, text};
use crate::api::objects::is_owned_by;
use crate::api::scheduling::exclusive_user;
use crate::controller::Context;

/// A claim's volume on this node.
pub(super) struct ClaimVolume {
    pub(super) path: PathBuf,
    pub(super) read_only: bool,
    /// Whether the pod's group gets it: not a directory of the host, which others use too.
    pub(super) takes_group: bool,
    /// What is expected at the path.
    source: HostPathVolumeSource,
}

/// By the name of the pod's volume.
pub(super) type Claims = BTreeMap<String, ClaimVolume>;

/// The volumes of all claims of a pod. The error says which one is not there yet, and why.
pub(super) fn of(context: &Context, pod: &Pod) -> Result<Claims, String> {
    let uses_none = |volume: &k8s_openapi::api::core::v1::Volume| {
        volume.persistent_volume_claim.is_none() && volume.ephemeral.is_none()
    };
    // Most pods: their object need not be made again.
    if pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()).all(uses_none) {
        return Ok(Claims::new());
    }
    let object = serde_json::to_value(pod).map_err(|error| error.to_string())?;
    let volumes = pod::items(&object["spec"], "volumes");
    let mut claims = Claims::new();
    for used in pod_claims(&object) {
        let volume = volumes.iter().find(|volume| volume["name"] == used.volume).unwrap_or(&Value::Null);
        let failed = |message: String| format!("volume {}: {message}", used.volume);
        let mut found = find(context, &object, &used.claim, used.ephemeral).map_err(failed)?;
        found.read_only = volume.pointer("/persistentVolumeClaim/readOnly") == Some(&Value::Bool(true));
        claims.insert(used.volume, found);
    }
    Ok(claims)
}

fn find(context: &Context, pod: &Value, name: &str, ephemeral: bool) -> Result<ClaimVolume, String> {
    let objects = &context.objects;
    let namespace = text(pod, "/metadata/namespace");
    let claim = objects.get(&persistent_volume_claim::KIND, namespace, name);
    let claim = claim.map_err(|_| format!("persistentvolumeclaim {name:?} not found"))?;
    if ephemeral && !is_owned_by(&claim, text(pod, "/metadata/uid")) {
        return Err(format!("PVC {namespace}/{name} was not created for this pod (pod is not owner)"));
    }
    if text(&claim, "/status/phase") != "Bound" {
        return Err(format!(
            "persistentvolumeclaim {name:?} is not bound: its phase is {}",
            text(&claim, "/status/phase")
        ));
    }
    if let Some(other) = exclusive_user(objects, &claim, pod) {
        return Err(format!("persistentvolumeclaim {name:?} is ReadWriteOncePod, and pod {other:?} uses it"));
    }
    let volume_name = text(&claim, "/spec/volumeName");
    let volume = objects.get(&persistent_volume::KIND, "", volume_name);
    let volume = volume.map_err(|_| format!("persistentvolume {volume_name:?} not found"))?;
    let typed: PersistentVolume = serde_json::from_value(Value::clone(&volume)).map_err(|error| error.to_string())?;
    let spec = typed.spec.unwrap_or_default();
    let is_ours =
        spec.host_path.as_ref().is_some_and(|host| context.volumes.join(volume_name).to_str() == Some(&host.path));
    let takes_group = spec.local.is_some() || is_ours;
    let source = match (spec.host_path, spec.local) {
        (Some(host), _) => host,
        (None, Some(local)) => HostPathVolumeSource { path: local.path, type_: Some("Directory".into()) },
        (None, None) => return Err(format!("persistentvolume {volume_name:?} has no source")),
    };
    Ok(ClaimVolume { path: source.path.clone().into(), read_only: false, takes_group, source })
}

impl ClaimVolume {
    /// Whether what is at the path is what the volume says.
    pub(super) fn check(&self) -> Result<(), String> {
        check_host_path(&self.source, &self.path)
    }
}
