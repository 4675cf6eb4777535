//! Mounts: the kernel's file systems, the pod's files, then what the request asks for.

use std::path::Path;

use serde_json::{Value, json};
use wharf_images::{ImageVolume, SnapshotError};

use super::Input;
use crate::pod::error::{PodError, Result, chain};
use crate::pod::sandbox_check::check_absolute;
use crate::pod::spec::{ImageMount, Mount, Propagation};

/// Refuses what no mount could be made of, and what only the node's own runtime does.
pub(super) fn check(mounts: &[Mount], runtime_handler: &str) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        let foreign = |field: &str, what: &str| {
            let reason = format!("{what} is not possible with the runtime handler {runtime_handler:?}");
            Err(PodError::invalid(format!("config.mounts[{index}].{field}"), reason))
        };
        // The shim of such a pod has a mount namespace of its own, out of which no mount reaches the node.
        if !runtime_handler.is_empty() && mount.propagation == Propagation::Bidirectional {
            return foreign("propagation", "BIDIRECTIONAL");
        }
        if !runtime_handler.is_empty() && mount.recursive_readonly {
            return foreign("recursive_read_only", "it");
        }
        check_absolute(&format!("config.mounts[{index}].container_path"), &mount.container_path)?;
        if mount.image.is_none() {
            check_absolute(&format!("config.mounts[{index}].host_path"), &mount.host_path)?;
        }
        if mount.container_path == Path::new("/") {
            return Err(PodError::invalid(format!("config.mounts[{index}].container_path"), "is the root itself"));
        }
    }
    Ok(())
}

pub(super) fn compile(input: &Input) -> Result<Vec<Value>> {
    let config = &input.config;
    let mut wanted: Vec<&Mount> = config.mounts.iter().collect();
    // A mount hides what was mounted below it before: parents go first.
    wanted.sort_by_key(|mount| mount.container_path.components().count());
    let covered = |path: &str| wanted.iter().any(|mount| mount.container_path == Path::new(path));
    let mut mounts: Vec<Value> = kernel_mounts(input).into_iter().chain(pod_files(input)).collect();
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(covered));
    for mount in wanted {
        if let Some(image) = &mount.image {
            mounts.push(image_mount(input, mount, image)?);
            continue;
        }
        if !mount.host_path.exists() {
            // As docker, containerd and CRI-O do: the request does not say what it should be.
            std::fs::create_dir_all(&mount.host_path).map_err(|error| {
                PodError::internal(format!("create {} for a mount", mount.host_path.display()), error)
            })?;
        }
        let propagation = match mount.propagation {
            Propagation::Private => "rprivate",
            Propagation::HostToContainer => "rslave",
            Propagation::Bidirectional => "rshared",
        };
        let access = match (mount.readonly, mount.recursive_readonly) {
            (true, true) => "rro",
            (true, false) => "ro",
            (false, _) => "rw",
        };
        let options: Vec<&str> =
            ["rbind", propagation, access].into_iter().chain(mount.denied.iter().map(|denial| denial.name())).collect();
        let mut entry = json!({
            "destination": mount.container_path, "source": mount.host_path, "type": "bind", "options": options,
        });
        if let Some(ids) = &mount.ids {
            entry["uidMappings"] = super::id_mappings(&ids.uids);
            entry["gidMappings"] = super::id_mappings(&ids.gids);
        }
        mounts.push(entry);
    }
    Ok(mounts)
}

/// Nothing in it can be written, be a device or give an id. Programs can be executed, as in every image.
const IMAGE_OPTIONS: [&str; 3] = ["ro", "nosuid", "nodev"];

/// A part of an image in one layer is bound; one that layers share is merged by an overlay.
fn image_mount(input: &Input, mount: &Mount, image: &ImageMount) -> Result<Value> {
    let refuse = |reason: String| PodError::Image { image: image.image.clone(), reason };
    let id = if image.id.is_empty() { &image.image } else { &image.id };
    let found = input.store.resolve(id).map_err(|error| refuse(chain(&error)))?;
    let found = found.ok_or_else(|| PodError::NotFound { what: "image", id: id.clone() })?;
    let volume = input.store.image_volume(&input.id, &found, &image.sub_path);
    let volume = volume.map_err(|error| match error {
        SnapshotError::SubPath { problem, .. } => {
            PodError::invalid("config.mounts.image_sub_path", format!("{:?} {problem}", image.sub_path))
        }
        error => refuse(chain(&error)),
    })?;
    let mut options: Vec<String> = IMAGE_OPTIONS.map(String::from).into();
    let (kind, source) = match volume {
        ImageVolume::Bind(path) => {
            options.extend(["bind".into(), "rprivate".into()]);
            ("bind", path)
        }
        ImageVolume::Overlay { .. } if input.sandbox.user_namespace.is_some() => {
            let reason = "is in several layers, which is not possible in a pod with a user namespace";
            return Err(PodError::invalid("config.mounts.image", format!("{:?} {reason}", image.image)));
        }
        ImageVolume::Overlay { lower } => {
            let lower: Vec<String> = lower.iter().map(|path| path.display().to_string()).collect();
            // The form that every runtime knows, and the one whose length is not bounded.
            if input.sandbox.runtime_handler.is_empty() {
                options.extend(lower.iter().map(|layer| format!("lowerdir+={layer}")));
            } else {
                options.push(format!("lowerdir={}", lower.join(":")));
            }
            ("overlay", "overlay".into())
        }
    };
    let mut entry = json!({"destination": mount.container_path, "source": source, "type": kind, "options": options});
    if let (Some(ids), "bind") = (&mount.ids, kind) {
        entry["uidMappings"] = super::id_mappings(&ids.uids);
        entry["gidMappings"] = super::id_mappings(&ids.gids);
    }
    Ok(entry)
}

fn kernel_mounts(input: &Input) -> Vec<Value> {
    let access = if input.config.security.privileged { "rw" } else { "ro" };
    let shm = if input.sandbox.host_ipc { "/dev/shm".into() } else { input.pod_directory.join("shm") };
    vec![
        json!({"destination": "/proc", "type": "proc", "source": "proc",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]}),
        json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]}),
        json!({"destination": "/dev/shm", "type": "bind", "source": shm,
            "options": ["bind", "rprivate", "nosuid", "noexec", "nodev"]}),
        json!({"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"]}),
        json!({"destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access]}),
        json!({"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access]}),
    ]
}

fn pod_files(input: &Input) -> Vec<Value> {
    let access = if input.config.security.readonly_rootfs { "ro" } else { "rw" };
    ["hosts", "hostname", "resolv.conf"]
        .into_iter()
        .map(|file| {
            json!({"destination": format!("/etc/{file}"), "type": "bind",
                "source": input.pod_directory.join(file), "options": ["rbind", "rprivate", access]})
        })
        .collect()
}
