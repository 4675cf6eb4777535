//! Claims that pods carry with them (`volumes[].ephemeral`): made with the pod, owned by it, and so gone with it.

use serde_json::{Value, json};

use super::{Volumes, is_leaving};
use crate::api::kinds::volume_fields::pod_claims;
use crate::api::kinds::{persistent_volume_claim, pod, text};
use crate::api::objects::{is_owned_by, owner_reference};
use crate::api::status::ApiError;
use crate::controller::event::EventType;

impl Volumes {
    pub(super) async fn make_ephemeral(&self, pod: &Value) -> Result<(), ApiError> {
        if is_leaving(pod) || matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
            return Ok(());
        }
        let namespace = text(pod, "/metadata/namespace");
        for used in pod_claims(pod).into_iter().filter(|used| used.ephemeral) {
            if let Ok(claim) = self.objects.get(&persistent_volume_claim::KIND, namespace, &used.claim) {
                if !is_owned_by(&claim, text(pod, "/metadata/uid")) {
                    let shown = format!("{namespace}/{}", text(pod, "/metadata/name"));
                    let message =
                        format!("PVC {namespace}/{} was not created for pod {shown} (pod is not owner)", used.claim);
                    self.recorder.tell(&pod::KIND, pod, EventType::Warning, "FailedBinding", message);
                }
                continue;
            }
            let volumes = pod::items(&pod["spec"], "volumes");
            let Some(volume) = volumes.iter().find(|volume| volume["name"] == used.volume) else { continue };
            let template = &volume["ephemeral"]["volumeClaimTemplate"];
            let claim = json!({
                "apiVersion": "v1", "kind": "PersistentVolumeClaim",
                "metadata": {
                    "name": used.claim, "labels": template["metadata"]["labels"],
                    "annotations": template["metadata"]["annotations"],
                    "ownerReferences": [owner_reference(&pod::KIND, pod)],
                },
                "spec": template["spec"],
            });
            self.objects.create(&persistent_volume_claim::KIND, namespace, claim).await?;
        }
        Ok(())
    }
}
