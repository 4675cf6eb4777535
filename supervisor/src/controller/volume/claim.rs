//! Claims: bound to a volume that is there, given one that is made for them, and let go when no pod uses them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::binding::{BIND_COMPLETED, BOUND_BY_CONTROLLER, Ownership, choose, mismatch, ownership, users};
use super::{Volumes, directory, is_leaving};
use crate::api::kinds::persistent_volume_claim::{KIND, PROTECTION};
use crate::api::kinds::{node, persistent_volume, pod, storage_class, text};
use crate::api::objects::Half;
use crate::api::status::ApiError;
use crate::controller::event::EventType;

impl Volumes {
    pub(super) async fn look_after_claim(&mut self, claim: &Value) -> Result<(), ApiError> {
        let (namespace, name) = (text(claim, "/metadata/namespace"), text(claim, "/metadata/name"));
        if is_leaving(claim) {
            let (pods, _) = self.objects.list(&pod::KIND, Some(namespace));
            return match users(name, &pods).next() {
                Some(_) => Ok(()),
                None => self.let_go(&KIND, claim, PROTECTION).await,
            };
        }
        match text(claim, "/spec/volumeName") {
            "" => self.find_volume(claim).await,
            volume => match self.objects.get(&persistent_volume::KIND, "", volume) {
                Ok(volume) => self.bind_named(claim, &volume).await,
                Err(_) if is_complete(claim) => {
                    let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!";
                    self.lose(claim, "ClaimLost", message).await
                }
                // It may still be made.
                Err(_) => Ok(()),
            },
        }
    }

    /// A claim that says which volume it wants, or has it.
    async fn bind_named(&self, claim: &Value, volume: &Arc<Value>) -> Result<(), ApiError> {
        match ownership(volume, claim) {
            Ownership::Own => self.bind(claim, volume).await,
            Ownership::Other if is_complete(claim) => {
                let message = "Two claims are bound to the same volume, this one is bound incorrectly";
                self.lose(claim, "ClaimMisbound", message).await
            }
            Ownership::Other => {
                self.warn(claim, "FailedBinding", "volume already bound to a different claim.".into());
                Ok(())
            }
            Ownership::Free | Ownership::Reserved => match mismatch(volume, claim) {
                Some(reason) => {
                    let name = text(volume, "/metadata/name");
                    self.warn(claim, "VolumeMismatch", format!("Cannot bind to requested volume {name:?}: {reason}"));
                    Ok(())
                }
                None => self.bind(claim, volume).await,
            },
        }
    }

    async fn lose(&self, claim: &Value, reason: &'static str, message: &str) -> Result<(), ApiError> {
        if text(claim, "/status/phase") != "Lost" {
            self.warn(claim, reason, message.into());
        }
        self.set_status(&KIND, claim, json!({"phase": "Lost"})).await
    }

    /// A claim that takes any volume that fits.
    async fn find_volume(&self, claim: &Value) -> Result<(), ApiError> {
        let (namespace, name) = (text(claim, "/metadata/namespace"), text(claim, "/metadata/name"));
        let class_name = text(claim, "/spec/storageClassName");
        let class = self.objects.get(&storage_class::KIND, "", class_name).ok();
        let (volumes, _) = self.objects.list(&persistent_volume::KIND, None);
        let is_kept = |volume: &&Arc<Value>| {
            matches!(ownership(volume, claim), Ownership::Own | Ownership::Reserved)
                && mismatch(volume, claim).is_none()
        };
        let kept = volumes.iter().find(is_kept);
        let (pods, _) = self.objects.list(&pod::KIND, Some(namespace));
        let is_wanted = users(name, &pods).any(|pod| !is_leaving(pod));
        let waits = class.as_deref().is_some_and(storage_class::waits_for_consumer);
        if waits && !is_wanted && kept.is_none() {
            let message = "waiting for first consumer to be created before binding";
            self.tell(claim, EventType::Normal, "WaitForFirstConsumer", message.into());
            return Ok(());
        }
        let node = self.objects.get(&node::KIND, "", self.objects.node_name()).ok();
        if let Some(volume) = choose(claim, &volumes, node.as_deref()) {
            return self.bind(claim, volume).await;
        }
        match class {
            Some(class) => self.provision(claim, &class).await,
            None if class_name.is_empty() => {
                let message = "no persistent volumes available for this claim and no storage class is set";
                self.tell(claim, EventType::Normal, "FailedBinding", message.into());
                Ok(())
            }
            None => {
                let message = format!("storageclass.storage.k8s.io {class_name:?} not found");
                self.warn(claim, "ProvisioningFailed", message);
                Ok(())
            }
        }
    }

    /// Makes a volume, if it is the node that makes those of the class. Its directory comes when it is bound.
    async fn provision(&self, claim: &Value, class: &Value) -> Result<(), ApiError> {
        match text(class, "/provisioner") {
            storage_class::LOCAL_PATH => {}
            storage_class::NO_PROVISIONER => {
                let message = "no persistent volumes available for this claim and no storage class is set";
                self.tell(claim, EventType::Normal, "FailedBinding", message.into());
                return Ok(());
            }
            other => {
                let message = format!(
                    "Waiting for a volume to be created either by the external provisioner '{other}' or manually by the \
                     system administrator. If volume creation is delayed, please verify that the provisioner is running \
                     and correctly registered."
                );
                self.tell(claim, EventType::Normal, "ExternalProvisioning", message);
                return Ok(());
            }
        }
        if !claim["spec"]["selector"].is_null() {
            self.warn(claim, "ProvisioningFailed", "claim.Spec.Selector is not supported".into());
            return Ok(());
        }
        let name = format!("pvc-{}", text(claim, "/metadata/uid"));
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name, "annotations": {directory::PROVISIONED_BY: storage_class::LOCAL_PATH}},
            "spec": {
                "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
                "accessModes": claim["spec"]["accessModes"], "claimRef": claim_reference(claim),
                "persistentVolumeReclaimPolicy": class["reclaimPolicy"],
                "storageClassName": class["metadata"]["name"],
                "hostPath": {"path": self.folder.join(&name), "type": "Directory"},
            },
        });
        let volume = self.objects.create(&persistent_volume::KIND, "", volume).await?;
        self.tell(claim, EventType::Normal, "ProvisioningSucceeded", format!("Successfully provisioned volume {name}"));
        self.bind(claim, &volume).await
    }

    /// Each step finds what an earlier try has done.
    async fn bind(&self, claim: &Value, volume: &Value) -> Result<(), ApiError> {
        let volume_name = text(volume, "/metadata/name").to_owned();
        if let Some(path) = directory::of(volume, &self.folder).filter(|_| !is_complete(claim)) {
            let made = tokio::task::spawn_blocking(move || directory::make(&path).map_err(|error| (path, error))).await;
            if let Err((path, error)) = made.map_err(|error| ApiError::Internal(error.to_string()))? {
                self.warn(claim, "ProvisioningFailed", format!("make {}: {error}", path.display()));
                return Err(ApiError::Internal(format!("make {}: {error}", path.display())));
            }
        }
        if ownership(volume, claim) != Ownership::Own {
            let reference = claim_reference(claim);
            let was_free = ownership(volume, claim) == Ownership::Free;
            let holder = claim.clone();
            let change = move |mut volume: Value| {
                if ownership(&volume, &holder) == Ownership::Other {
                    let (resource, name) = (persistent_volume::KIND.resource(), text(&volume, "/metadata/name").into());
                    return Err(ApiError::Conflict { resource, name, message: "bound to another claim".into() });
                }
                volume["spec"]["claimRef"] = reference;
                if was_free {
                    volume["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
                }
                Ok(volume)
            };
            self.objects.update(&persistent_volume::KIND, "", &volume_name, Half::Desired, change).await?;
        }
        self.set_phase(volume, "Bound", "").await?;
        let (namespace, name) = (text(claim, "/metadata/namespace"), text(claim, "/metadata/name"));
        if !is_complete(claim) || text(claim, "/spec/volumeName").is_empty() {
            let was_free = text(claim, "/spec/volumeName").is_empty();
            let uid = text(claim, "/metadata/uid").to_owned();
            let change = move |mut claim: Value| {
                if text(&claim, "/metadata/uid") == uid {
                    claim["spec"]["volumeName"] = volume_name.into();
                    claim["metadata"]["annotations"][BIND_COMPLETED] = "yes".into();
                    if was_free {
                        claim["metadata"]["annotations"][BOUND_BY_CONTROLLER] = "yes".into();
                    }
                }
                Ok(claim)
            };
            self.objects.update(&KIND, namespace, name, Half::Desired, change).await?;
        }
        let status = json!({
            "phase": "Bound", "accessModes": volume["spec"]["accessModes"], "capacity": volume["spec"]["capacity"],
        });
        self.set_status(&KIND, claim, status).await
    }

    fn warn(&self, claim: &Value, reason: &'static str, message: String) {
        self.tell(claim, EventType::Warning, reason, message);
    }

    fn tell(&self, claim: &Value, event_type: EventType, reason: &'static str, message: String) {
        self.recorder.tell(&KIND, claim, event_type, reason, message);
    }
}

fn is_complete(claim: &Value) -> bool {
    claim["metadata"]["annotations"][BIND_COMPLETED] == "yes"
}

fn claim_reference(claim: &Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "namespace": claim["metadata"]["namespace"],
        "name": claim["metadata"]["name"], "uid": claim["metadata"]["uid"],
        "resourceVersion": claim["metadata"]["resourceVersion"],
    })
}
