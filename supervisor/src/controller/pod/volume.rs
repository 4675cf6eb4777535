//! A pod's volumes on the node.

use std::os::unix::fs::{DirBuilderExt, FileTypeExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{HostPathVolumeSource, Pod, PodSpec, Volume};

use super::claim::{self, Claims};
use super::event::Subject;
use super::fs_group::FsGroup;
use super::observed::declared;
use super::source::{Facts, Sources};
use super::worker::Worker;
use super::{own_mounts, projected_folder, projection};
use crate::api::quantity;
use crate::pod::status::SandboxStatus;
use crate::removal::remove_tree;

impl Worker {
    /// Makes the volumes of the pod ready; gives back when a token in them is to be replaced.
    pub(super) fn prepare_volumes(&self, pod: &Pod, sandbox: &SandboxStatus) -> Result<Option<Timestamp>, String> {
        let claims = claim::of(&self.context, pod)?;
        let begun = !self.context.node.containers_of(&sandbox.id).is_empty();
        let group = FsGroup::of(pod, begun);
        let prepare = || prepare(pod, &self.folder(), &claims, group.as_ref(), &self.sources(), &self.facts(sandbox));
        // To walk through a volume takes its time.
        if group.is_some() && !begun { tokio::task::block_in_place(prepare) } else { prepare() }
    }

    /// Has the status say which volume keeps containers from being begun. What runs already keeps what it has.
    pub(super) fn not_mounted(&mut self, spec: &PodSpec, message: &str) {
        tracing::warn!(pod = self.name, namespace = self.namespace, message, "prepare volumes");
        for (role, container) in declared(spec) {
            let running = self.observe(role, container).is_running();
            let record = self.records.entry(container.name.clone()).or_default();
            if !running {
                record.waiting = Some(("ContainerCreating".into(), message.to_owned()));
            }
        }
        let message = format!("MountVolume.SetUp failed for {message}");
        self.recorder.warning(&Subject::pod(self.identity()), "FailedMount", message);
    }
}

/// Makes the volumes of a pod ready, and brings those made of objects up to date. `folder` is the pod's own; `group` the
/// one that has its volumes, if any.
fn prepare(
    pod: &Pod,
    folder: &Path,
    claims: &Claims,
    group: Option<&FsGroup>,
    sources: &Sources<'_>,
    facts: &Facts<'_>,
) -> Result<Option<Timestamp>, String> {
    let mut renewal: Option<Timestamp> = None;
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if volume.image.is_some() {
            continue;
        }
        let path = host_path(volume, folder, claims).ok_or_else(|| format!("volume {}: no source", volume.name))?;
        let error = |error: std::io::Error| format!("volume {}: {}: {error}", volume.name, path.display());
        let files = projection::files(volume, pod, sources, facts, &path);
        if let Some((files, good_until)) = files.map_err(|message| format!("volume {}: {message}", volume.name))? {
            let files = group.map_or(files.clone(), |group| group.readable(files));
            projected_folder::write(&path, &files, group.map(|group| group.id)).map_err(error)?;
            renewal = [renewal, good_until].into_iter().flatten().min();
            continue;
        }
        if let Some(claim) = claims.get(&volume.name) {
            claim.check().map_err(|message| format!("volume {}: {message}", volume.name))?;
            if let Some(group) = group.filter(|_| claim.takes_group) {
                group.give(&path, claim.read_only).map_err(error)?;
            }
            continue;
        }
        match &volume.host_path {
            // Every user of the pod may write there, as Kubernetes has it.
            None => {
                make_directory(&path, 0o777).map_err(error)?;
                if let Some(bytes) = memory_bytes(volume, facts) {
                    own_mounts::mount_memory(&path, bytes).map_err(error)?;
                }
                if let Some(group) = group {
                    group.give(&path, false).map_err(error)?;
                }
            }
            Some(source) => {
                check_host_path(source, &path).map_err(|message| format!("volume {}: {message}", volume.name))?
            }
        }
    }
    Ok(renewal)
}

/// How large an emptyDir in memory may get: as its author says, never more than the node has. `None` for one on disk.
fn memory_bytes(volume: &Volume, facts: &Facts<'_>) -> Option<i64> {
    let empty = volume.empty_dir.as_ref().filter(|empty| empty.medium.as_deref() == Some("Memory"))?;
    let limit = empty.size_limit.as_ref().and_then(|limit| quantity::whole(&limit.0)).filter(|limit| *limit > 0);
    Some(limit.unwrap_or(i64::MAX).min(facts.capacity.memory_bytes))
}

/// Where a volume lies on the node; nowhere in the case of an image.
pub(super) fn host_path(volume: &Volume, folder: &Path, claims: &Claims) -> Option<PathBuf> {
    if let Some(claim) = claims.get(&volume.name) {
        return Some(claim.path.clone());
    }
    match (volume.empty_dir.is_some() || is_projected(volume), &volume.host_path) {
        (true, None) => Some(folder.join("volumes").join(&volume.name)),
        (false, Some(source)) => Some(PathBuf::from(&source.path)),
        _ => None,
    }
}

/// Whether the volume is made of objects.
pub(super) fn is_projected(volume: &Volume) -> bool {
    volume.config_map.is_some()
        || volume.secret.is_some()
        || volume.downward_api.is_some()
        || volume.projected.is_some()
}

/// Removes what [`prepare`] made.
pub(super) fn remove(folder: &Path) -> std::io::Result<()> {
    remove_tree(folder)
}

fn make_directory(path: &Path, mode: u32) -> std::io::Result<()> {
    if let Some(parent) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
    }
    match std::fs::create_dir(path) {
        Ok(()) => std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
    }
}

/// Holds the path against the type that the pod's author expects.
pub(super) fn check_host_path(source: &HostPathVolumeSource, path: &Path) -> Result<(), String> {
    let expected = source.type_.as_deref().unwrap_or_default();
    match expected {
        "DirectoryOrCreate" if !path.exists() => {
            std::fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(|error| error.to_string())?;
        }
        "FileOrCreate" if !path.exists() => {
            std::fs::File::create_new(path).map_err(|error| error.to_string())?;
        }
        _ => {}
    }
    if expected.is_empty() {
        return Ok(());
    }
    let metadata = std::fs::metadata(path).map_err(|error| format!("hostPath {}: {error}", path.display()))?;
    let found = metadata.file_type();
    let fits = match expected {
        "Directory" | "DirectoryOrCreate" => found.is_dir(),
        "File" | "FileOrCreate" => found.is_file(),
        "Socket" => found.is_socket(),
        "CharDevice" => found.is_char_device(),
        "BlockDevice" => found.is_block_device(),
        _ => true,
    };
    if fits { Ok(()) } else { Err(format!("hostPath {} is not a {expected}", path.display())) }
}
