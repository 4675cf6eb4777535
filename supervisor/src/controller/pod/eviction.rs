//! Pods that take more room on the disk than they may: they fail, as a kubelet has it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Pod, Volume};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::time::Instant;

use super::disk_usage::disk_usage;
use super::worker::Worker;
use crate::api::quantity;

/// As often as the kubelet looks.
const PERIOD: Duration = Duration::from_secs(10);
/// How long the containers of an evicted pod have to end: the kubelet's own.
pub(super) const EVICTION_GRACE: Duration = Duration::from_secs(1);
/// `status.reason` of a pod that was evicted.
pub(super) const EVICTED: &str = "Evicted";

/// What is known of a pod's use of the disk.
#[derive(Default)]
pub(super) struct Eviction {
    /// Why the pod has to go; what it uses afterwards does not matter.
    pub(super) cause: Option<String>,
    next: Option<Instant>,
}

impl Worker {
    /// Looks how much the volumes on the disk have that are bounded, if it is time to; gives back when to look again.
    pub(super) async fn look_at_disk(&mut self, pod: &Pod) -> Option<Instant> {
        let bounded = bounded(pod, &self.folder());
        if bounded.is_empty() || self.eviction.cause.is_some() {
            return None;
        }
        if let Some(next) = self.eviction.next.filter(|next| *next > Instant::now()) {
            return Some(next);
        }
        let cause = tokio::task::spawn_blocking(move || {
            bounded.iter().find_map(|(volume, limit, path)| exceeds(volume, limit, path))
        });
        match cause.await {
            Ok(cause) => self.eviction.cause = cause,
            Err(error) => tracing::warn!(pod = self.name, %error, "look at volumes"),
        }
        self.eviction.next = Some(Instant::now() + PERIOD);
        self.eviction.next
    }
}

/// The emptyDirs on the disk that have a limit, with it and their folder.
fn bounded(pod: &Pod, folder: &Path) -> Vec<(Volume, Quantity, PathBuf)> {
    let volumes = pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten());
    let bounded = volumes.filter_map(|volume| {
        let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref().is_none_or(str::is_empty))?;
        let limit =
            empty.size_limit.clone().filter(|limit| quantity::whole(&limit.0).is_some_and(|limit| limit > 0))?;
        Some((volume.clone(), limit, folder.join("volumes").join(&volume.name)))
    });
    bounded.collect()
}

fn exceeds(volume: &Volume, limit: &Quantity, path: &Path) -> Option<String> {
    let used = match disk_usage(path) {
        Ok(used) => used,
        // Not made yet.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
        Err(error) => {
            tracing::warn!(path = %path.display(), %error, "measure an emptyDir");
            return None;
        }
    };
    let bytes = quantity::whole(&limit.0).and_then(|limit| u64::try_from(limit).ok())?;
    (used > bytes).then(|| format!("Usage of EmptyDir volume {:?} exceeds the limit {:?}.", volume.name, limit.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn volumes_on_the_disk_are_held_against_their_limits() {
        let pod: Pod = serde_json::from_value(json!({"spec": {"containers": [], "volumes": [
            {"name": "free", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}},
            {"name": "zero", "emptyDir": {"sizeLimit": "0"}},
            {"name": "disk", "emptyDir": {"sizeLimit": "64Ki"}},
        ]}}))
        .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let found = bounded(&pod, folder.path());
        assert_eq!(found.iter().map(|(volume, ..)| volume.name.as_str()).collect::<Vec<_>>(), ["disk"]);
        let (volume, limit, path) = &found[0];
        assert_eq!(exceeds(volume, limit, path), None);
        std::fs::create_dir_all(path).unwrap();
        std::fs::write(path.join("small"), "x").unwrap();
        assert_eq!(exceeds(volume, limit, path), None);
        std::fs::write(path.join("large"), vec![7; 80 << 10]).unwrap();
        let message = "Usage of EmptyDir volume \"disk\" exceeds the limit \"64Ki\".";
        assert_eq!(exceeds(volume, limit, path).as_deref(), Some(message));
    }
}
