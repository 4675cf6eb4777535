//! Device nodes and the rules for them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{major, minor};
use serde_json::{Value, json};

use crate::pod::error::{PodError, Result};
use crate::pod::spec::ContainerConfig;

pub(super) struct Devices {
    /// `linux.devices`.
    pub(super) nodes: Value,
    /// `linux.resources.devices`.
    pub(super) rules: Value,
}

/// null, zero, full, random, urandom, tty, ptmx.
const DEFAULT_CHARACTER_DEVICES: [(u32, u32); 7] = [(1, 3), (1, 5), (1, 7), (1, 8), (1, 9), (5, 0), (5, 2)];

/// Of the terminals below /dev/pts.
const PTS_MAJOR: u32 = 136;

/// What the container's own mounts provide, or what belongs to the node's session.
const NOT_FOR_PRIVILEGED: [&str; 6] = ["console", "fd", "mqueue", "pts", "shm", "ptmx"];

pub(super) fn compile(config: &ContainerConfig) -> Result<Devices> {
    if config.security.privileged {
        let mut nodes = Vec::new();
        host_devices(Path::new("/dev"), &mut nodes);
        return Ok(Devices { nodes: json!(nodes), rules: json!([{"allow": true, "access": "rwm"}]) });
    }
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    // Making nodes is harmless: using them is what the other rules are about.
    rules.push(json!({"allow": true, "type": "c", "access": "m"}));
    rules.push(json!({"allow": true, "type": "b", "access": "m"}));
    for (major, minor) in DEFAULT_CHARACTER_DEVICES {
        rules.push(json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"}));
    }
    rules.push(json!({"allow": true, "type": "c", "major": PTS_MAJOR, "access": "rwm"}));
    let mut nodes = Vec::new();
    for (index, device) in config.devices.iter().enumerate() {
        let refuse =
            |field: &str, reason: String| PodError::invalid(format!("config.devices[{index}].{field}"), reason);
        if device.permissions.is_empty() || !device.permissions.chars().all(|c| "rwm".contains(c)) {
            return Err(refuse("permissions", format!("{:?} is not made of r, w and m", device.permissions)));
        }
        if !device.container_path.is_absolute() {
            return Err(refuse("container_path", format!("{} is not absolute", device.container_path.display())));
        }
        let host = device.host_path.display();
        // Follows links, as /dev/disk/by-id/… are.
        let metadata =
            fs::metadata(&device.host_path).map_err(|error| refuse("host_path", format!("{host}: {error}")))?;
        let node = node(&device.container_path, &metadata)
            .ok_or_else(|| refuse("host_path", format!("{host} is no device")))?;
        rules.push(json!({
            "allow": true, "type": node["type"], "major": node["major"], "minor": node["minor"],
            "access": device.permissions,
        }));
        nodes.push(node);
    }
    Ok(Devices { nodes: json!(nodes), rules: json!(rules) })
}

pub(super) fn node(path: &Path, metadata: &fs::Metadata) -> Option<Value> {
    let kind = match metadata.file_type() {
        kind if kind.is_char_device() => "c",
        kind if kind.is_block_device() => "b",
        _ => return None,
    };
    Some(json!({
        "path": path, "type": kind, "major": major(metadata.rdev()), "minor": minor(metadata.rdev()),
        "fileMode": metadata.mode() & 0o7777, "uid": metadata.uid(), "gid": metadata.gid(),
    }))
}

fn host_devices(directory: &Path, nodes: &mut Vec<Value>) {
    let Ok(entries) = fs::read_dir(directory) else { return };
    for entry in entries.flatten() {
        let path: PathBuf = entry.path();
        let top = directory == Path::new("/dev");
        if top && NOT_FOR_PRIVILEGED.iter().any(|name| entry.file_name() == *name) {
            continue;
        }
        // Links are not followed: what they lead to is found by itself.
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.is_dir() {
            host_devices(&path, nodes);
        } else if let Some(node) = node(&path, &metadata) {
            nodes.push(node);
        }
    }
}
