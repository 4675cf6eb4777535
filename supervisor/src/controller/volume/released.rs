//! Volumes: the phase they are in, and what becomes of those whose claim has gone.

use serde_json::{Value, json};

use super::binding::users;
use super::{Removal, Volumes, directory, is_leaving};
use crate::api::kinds::persistent_volume::{KIND, PROTECTION};
use crate::api::kinds::{persistent_volume_claim, pod, text};
use crate::api::objects::{Propagation, now};
use crate::api::status::ApiError;
use crate::controller::event::EventType;

impl Volumes {
    pub(super) async fn look_after_volume(&mut self, volume: &Value) -> Result<(), ApiError> {
        let reference = |field: &str| text(volume, &format!("/spec/claimRef/{field}"));
        if reference("uid").is_empty() {
            self.set_phase(volume, "Available", "").await?;
            return if is_leaving(volume) { self.forget(volume).await } else { Ok(()) };
        }
        let claim = self.objects.get(&persistent_volume_claim::KIND, reference("namespace"), reference("name"));
        if let Some(claim) = claim.ok().filter(|claim| text(claim, "/metadata/uid") == reference("uid")) {
            // Bound, or about to be, which is the claim's part.
            let elsewhere = text(&claim, "/spec/volumeName");
            if elsewhere.is_empty() || elsewhere == text(volume, "/metadata/name") {
                return Ok(());
            }
        }
        let failed = self.removed.get(text(volume, "/metadata/uid"));
        if !matches!(failed, Some(Removal::Failed(_))) && text(volume, "/status/phase") != "Failed" {
            self.set_phase(volume, "Released", "").await?;
        }
        match text(volume, "/spec/persistentVolumeReclaimPolicy") {
            "Delete" => self.delete(volume).await,
            _ if is_leaving(volume) => self.forget(volume).await,
            _ => Ok(()),
        }
    }

    /// Removes a volume's directory, then the volume.
    async fn delete(&mut self, volume: &Value) -> Result<(), ApiError> {
        let (namespace, claim) = (text(volume, "/spec/claimRef/namespace"), text(volume, "/spec/claimRef/name"));
        let (pods, _) = self.objects.list(&pod::KIND, Some(namespace));
        // Somebody has taken the claim's protection away.
        if users(claim, &pods).next().is_some() {
            return Ok(());
        }
        let Some(path) = directory::of(volume, &self.folder) else {
            if is_leaving(volume) {
                return self.forget(volume).await;
            }
            let message =
                "volumes that this node has not made are not deleted: take care of the directory, then delete this";
            return self.fail(volume, message).await;
        };
        let uid = text(volume, "/metadata/uid").to_owned();
        match self.removed.get(&uid) {
            None => {
                self.removed.insert(uid.clone(), Removal::UnderWay);
                self.removals.spawn_blocking(move || (uid, directory::remove(&path)));
                Ok(())
            }
            Some(Removal::UnderWay) => Ok(()),
            Some(Removal::Failed(error)) => {
                let message = format!("remove {}: {error}", path.display());
                self.fail(volume, &message).await
            }
            Some(Removal::Done) => {
                if !is_leaving(volume) {
                    let name = text(volume, "/metadata/name");
                    self.objects.delete(&KIND, "", name, Propagation::Background, None).await?;
                }
                self.removed.remove(&uid);
                self.forget(volume).await
            }
        }
    }

    async fn forget(&self, volume: &Value) -> Result<(), ApiError> {
        self.let_go(&KIND, volume, PROTECTION).await
    }

    async fn fail(&self, volume: &Value, message: &str) -> Result<(), ApiError> {
        if text(volume, "/status/message") != message {
            self.recorder.tell(&KIND, volume, EventType::Warning, "VolumeFailedDelete", message.into());
        }
        self.set_phase(volume, "Failed", message).await
    }

    pub(super) async fn set_phase(&self, volume: &Value, phase: &str, message: &str) -> Result<(), ApiError> {
        let status = &volume["status"];
        if status["phase"] == phase && text(status, "/message") == message {
            return Ok(());
        }
        let mut status = json!({"phase": phase, "lastPhaseTransitionTime": now()});
        if !message.is_empty() {
            status["message"] = message.into();
            status["reason"] = "VolumeFailedDelete".into();
        }
        self.set_status(&KIND, volume, status).await
    }
}
