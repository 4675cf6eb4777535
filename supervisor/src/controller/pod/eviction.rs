//! Pods that take more room on the disk than they may: they fail, as a kubelet has it.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use super::disk_usage::disk_usage;
use super::worker::Worker;
use crate::api::kinds::pod::items;
use crate::api::kinds::text;
use crate::api::quantity;
use crate::api::requests::limit_of;

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

/// Room that something of a pod may take.
#[derive(Debug, PartialEq)]
struct Bound {
    folders: Vec<PathBuf>,
    bytes: u64,
    /// Of a pod that takes more.
    message: String,
}

/// Where a pod writes on the disk.
struct Places {
    /// The pod's own, with its volumes.
    folder: PathBuf,
    logs: PathBuf,
    /// What containers write in their roots, by name.
    written: HashMap<String, Vec<PathBuf>>,
}

impl Worker {
    /// Looks how much the pod takes, where that is bounded, if it is time to; gives back when to look again.
    pub(super) async fn look_at_disk(&mut self, pod: &Value) -> Option<Instant> {
        if self.eviction.cause.is_some() || !is_bounded(pod) {
            return None;
        }
        if let Some(next) = self.eviction.next.filter(|next| *next > Instant::now()) {
            return Some(next);
        }
        let bounds = bounds(pod, &self.places(pod));
        match tokio::task::spawn_blocking(move || exceeded(&bounds)).await {
            Ok(cause) => self.eviction.cause = cause,
            Err(error) => tracing::warn!(pod = self.name, %error, "look at the disk"),
        }
        self.eviction.next = Some(Instant::now() + PERIOD);
        self.eviction.next
    }

    fn places(&self, pod: &Value) -> Places {
        let lists = ["initContainers", "containers", "ephemeralContainers"];
        let names = lists.iter().flat_map(|list| items(&pod["spec"], list)).map(|container| text(container, "/name"));
        let folders_of = |name: &str| -> Vec<PathBuf> {
            let attempts = self.attempts(name).into_iter();
            attempts
                .filter_map(|attempt| self.context.node.images().written_folders(&attempt.id).ok())
                .flatten()
                .collect()
        };
        let written = names.map(|name| (name.to_owned(), folders_of(name))).collect();
        Places { folder: self.folder(), logs: self.log_folder(), written }
    }
}

/// The limit of an emptyDir on the disk, as it was written and in bytes.
fn volume_limit(volume: &Value) -> Option<(&str, u64)> {
    let limit = text(volume, "/emptyDir/sizeLimit");
    let bytes = quantity::whole(limit).and_then(|bytes| u64::try_from(bytes).ok()).filter(|bytes| *bytes > 0)?;
    is_on_disk(volume).then_some((limit, bytes))
}

fn is_on_disk(volume: &Value) -> bool {
    volume["emptyDir"].is_object() && text(volume, "/emptyDir/medium").is_empty()
}

fn is_bounded(pod: &Value) -> bool {
    items(&pod["spec"], "volumes").iter().any(|volume| volume_limit(volume).is_some())
        || limit_of(pod, STORAGE).is_some()
}

const STORAGE: &str = "ephemeral-storage";

/// Whatever is bounded, in the kubelet's order: volumes, the pod as a whole, each container.
fn bounds(pod: &Value, places: &Places) -> Vec<Bound> {
    let spec = &pod["spec"];
    let folder = |volume: &Value| places.folder.join("volumes").join(text(volume, "/name"));
    let volumes = items(spec, "volumes").iter().filter_map(|volume| {
        let (shown, bytes) = volume_limit(volume)?;
        let message = format!("Usage of EmptyDir volume {:?} exceeds the limit {shown:?}.", text(volume, "/name"));
        Some(Bound { folders: vec![folder(volume)], bytes, message })
    });
    let whole = limit_of(pod, STORAGE).map(|limit| {
        let limit = limit / 1000;
        // As the sum of quantities is written: in the form of the first.
        let containers = items(spec, "containers").iter().chain(items(spec, "initContainers"));
        let first = containers.map(storage_limit).find(|limit| !limit.is_empty()).unwrap_or_default();
        let shown = quantity::bytes_text(limit, first.ends_with('i'));
        let volumes = items(spec, "volumes").iter().filter(|volume| is_on_disk(volume)).map(folder);
        Bound {
            folders: volumes.chain([places.logs.clone()]).chain(places.written.values().flatten().cloned()).collect(),
            bytes: u64::try_from(limit).unwrap_or(0),
            message: format!("Pod ephemeral local storage usage exceeds the total limit of containers {shown}."),
        }
    });
    let containers = items(spec, "containers").iter().filter_map(|container| {
        let (name, limit) = (text(container, "/name"), storage_limit(container));
        // Zero is no limit of one container, as the kubelet has it.
        let bytes = quantity::whole(limit).filter(|bytes| *bytes > 0)?;
        let shown = quantity::bytes_text(bytes, limit.ends_with('i'));
        let written = places.written.get(name).into_iter().flatten().cloned();
        Some(Bound {
            folders: written.chain([places.logs.join(name)]).collect(),
            bytes: u64::try_from(bytes).unwrap_or(0),
            message: format!("Container {name} exceeded its local ephemeral storage limit {shown:?}."),
        })
    });
    volumes.chain(whole).chain(containers).collect()
}

fn storage_limit(container: &Value) -> &str {
    text(container, "/resources/limits/ephemeral-storage")
}

/// The message of the first that more is taken of.
fn exceeded(bounds: &[Bound]) -> Option<String> {
    // Most folders are part of several bounds.
    let mut measured: HashMap<&Path, u64> = HashMap::new();
    let mut usage = |folder| *measured.entry(folder).or_insert_with(|| bytes_in(folder));
    let exceeded = bounds
        .iter()
        .find(|bound| bound.folders.iter().map(|folder| usage(folder.as_path())).sum::<u64>() > bound.bytes);
    exceeded.map(|bound| bound.message.clone())
}

/// Bytes on the disk that a folder has with all beneath it.
pub(in crate::controller) fn bytes_in(folder: &Path) -> u64 {
    match disk_usage(folder) {
        Ok(bytes) => bytes,
        // Not made yet, or gone again.
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => {
            tracing::warn!(path = %folder.display(), %error, "measure what a pod takes");
            0
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn places(folder: &Path) -> Places {
        let written = [("a", "upper-a"), ("b", "upper-b"), ("i", "upper-i")];
        Places {
            folder: folder.to_owned(),
            logs: folder.join("logs"),
            written: written.map(|(name, upper)| (name.to_owned(), vec![folder.join(upper)])).into(),
        }
    }

    fn fill(folder: &Path, kib: usize) {
        std::fs::create_dir_all(folder).unwrap();
        std::fs::write(folder.join("large"), vec![7; kib << 10]).unwrap();
    }

    #[test]
    fn volumes_on_the_disk_are_held_against_their_limits() {
        let pod = json!({"spec": {"containers": [{"name": "a"}], "volumes": [
            {"name": "free", "emptyDir": {}},
            {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Ki"}},
            {"name": "zero", "emptyDir": {"sizeLimit": "0"}},
            {"name": "disk", "emptyDir": {"sizeLimit": "64Ki"}},
        ]}});
        let folder = tempfile::tempdir().unwrap();
        let found = bounds(&pod, &places(folder.path()));
        assert_eq!(found.iter().map(|bound| bound.bytes).collect::<Vec<_>>(), [64 << 10]);
        assert_eq!(exceeded(&found), None);
        let volume = folder.path().join("volumes/disk");
        std::fs::create_dir_all(&volume).unwrap();
        std::fs::write(volume.join("small"), "x").unwrap();
        assert_eq!(exceeded(&found), None);
        fill(&volume, 80);
        let message = "Usage of EmptyDir volume \"disk\" exceeds the limit \"64Ki\".";
        assert_eq!(exceeded(&found).as_deref(), Some(message));
    }

    #[test]
    fn a_pod_and_its_containers_have_what_they_write_and_log() {
        let limited =
            |name: &str, limit: &str| json!({"name": name, "resources": {"limits": {"ephemeral-storage": limit}}});
        let pod = json!({"spec": {
            "initContainers": [{"name": "i"}], "containers": [limited("a", "64Ki"), limited("b", "192Ki")],
            "volumes": [{"name": "data", "emptyDir": {}}, {"name": "memory", "emptyDir": {"medium": "Memory"}}],
        }});
        assert!(is_bounded(&pod) && !is_bounded(&json!({"spec": {"containers": [{"name": "a"}]}})));
        let unbounded = json!({"spec": {"containers": [limited("a", "0"), limited("b", "192Ki")]}});
        let found = bounds(&unbounded, &places(Path::new("/none")));
        assert_eq!(
            found.iter().map(|bound| bound.bytes).collect::<Vec<_>>(),
            [192 << 10, 192 << 10],
            "the pod's, and b's"
        );
        let of_container = "Container a exceeded its local ephemeral storage limit \"64Ki\".";
        let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 256Ki.";
        for (filled, expected) in [
            (&[("upper-a", 32), ("volumes/data", 96), ("upper-b", 64)][..], None),
            (&[("volumes/memory", 400)], None),
            (&[("upper-a", 80)], Some(of_container)),
            (&[("logs/a", 80)], Some(of_container)),
            (&[("upper-i", 80)], None),
            (&[("upper-i", 280)], Some(of_pod)),
            (&[("upper-b", 180), ("volumes/data", 96)], Some(of_pod)),
        ] {
            let folder = tempfile::tempdir().unwrap();
            for (name, kib) in filled {
                fill(&folder.path().join(name), *kib);
            }
            assert_eq!(exceeded(&bounds(&pod, &places(folder.path()))).as_deref(), expected, "{filled:?}");
        }
    }
}
