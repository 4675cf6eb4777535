//! Devices of the Container Device Interface: found in vendors' files, added to `config.json`.
//!
//! The files are read anew for each container that asks for such a device: vendors' agents write them at any time.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use wharf_specs::cdi::{self, DeviceNode, Edits, Spec};

use super::devices;
use crate::pod::error::{PodError, Result};

/// Most files of one folder that are looked at.
const FILES_MAX: usize = 1024;

const FIELD: &str = "config.CDI_devices";

/// What `names` add to a container, in order: each device, then what its file adds once.
pub(super) fn edits(names: &[String], folders: &[PathBuf]) -> Result<Vec<Edits>> {
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let (files, broken) = read(folders);
    let mut chosen = Vec::new();
    let mut used: Vec<&File> = Vec::new();
    for (index, name) in names.iter().enumerate() {
        let refuse = |reason: String| PodError::invalid(format!("{FIELD}[{index}].name"), reason);
        let (kind, device) =
            cdi::parse_device(name).ok_or_else(|| refuse(format!("{name:?} is not VENDOR/CLASS=NAME")))?;
        let (file, edits) = find(&files, kind, device).map_err(&refuse)?.ok_or_else(|| {
            let shown: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
            let but = broken.iter().map(|error| format!("; {error}")).collect::<String>();
            refuse(format!("{name:?} is in no file of {}{but}", shown.join(", ")))
        })?;
        chosen.push(edits.clone());
        if !used.iter().any(|known| std::ptr::eq(*known, file)) {
            used.push(file);
        }
    }
    chosen.extend(used.into_iter().map(|file| file.spec.container_edits.clone()));
    Ok(chosen)
}

struct File {
    path: PathBuf,
    /// Its place among the folders: a later one goes first.
    rank: usize,
    spec: Spec,
}

/// Every file of use, and why the others are of none.
fn read(folders: &[PathBuf]) -> (Vec<File>, Vec<String>) {
    let (mut files, mut broken) = (Vec::new(), Vec::new());
    for (rank, folder) in folders.iter().enumerate() {
        // A folder that is not there has no devices.
        let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut paths: Vec<PathBuf> = entries.filter(|path| form(path).is_some()).take(FILES_MAX).collect();
        paths.sort();
        for path in paths {
            match read_file(&path) {
                Ok(spec) => files.push(File { path, rank, spec }),
                Err(error) => broken.push(format!("{}: {error}", path.display())),
            }
        }
    }
    (files, broken)
}

/// Whether a file is YAML, by its name; `None` for one that is no vendor's.
fn form(path: &Path) -> Option<bool> {
    match path.extension()?.to_str()? {
        "json" => Some(false),
        "yaml" => Some(true),
        _ => None,
    }
}

fn read_file(path: &Path) -> std::result::Result<Spec, String> {
    let mut bytes = Vec::new();
    let file = fs::File::open(path).map_err(|error| error.to_string())?;
    let most = cdi::FILE_BYTES_MAX as u64 + 1;
    file.take(most).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    Spec::parse(&bytes, form(path).unwrap_or(false)).map_err(|error| error.to_string())
}

fn find<'a>(files: &'a [File], kind: &str, device: &str) -> std::result::Result<Option<(&'a File, &'a Edits)>, String> {
    let of_kind = files.iter().filter(|file| file.spec.kind == kind);
    let mut found: Vec<(&File, &Edits)> = of_kind
        .filter_map(|file| {
            let device = file.spec.devices.iter().find(|candidate| candidate.name == device)?;
            Some((file, &device.container_edits))
        })
        .collect();
    let rank = found.iter().map(|(file, _)| file.rank).max();
    found.retain(|(file, _)| Some(file.rank) == rank);
    match found.as_slice() {
        [] => Ok(None),
        [one] => Ok(Some(*one)),
        [(one, _), (other, _), ..] => {
            Err(format!("{kind}={device} is both in {} and in {}", one.path.display(), other.path.display()))
        }
    }
}

/// Adds `edits` to a `config.json`.
pub(super) fn apply(edits: &Edits, spec: &mut Value) -> Result<()> {
    for entry in &edits.env {
        let name = entry.split('=').next().unwrap_or_default();
        let list = list(spec, "/process/env");
        list.retain(|known| known.as_str().and_then(|known| known.split('=').next()) != Some(name));
        list.push(json!(entry));
    }
    for node in &edits.device_nodes {
        let (node, rule) = device(node, &spec["process"]["user"])?;
        let nodes = list(spec, "/linux/devices");
        nodes.retain(|known| known["path"] != node["path"]);
        nodes.push(node);
        list(spec, "/linux/resources/devices").push(rule);
    }
    for device in &edits.net_devices {
        spec["linux"]["netDevices"][&device.host_interface_name] = json!({"name": device.name});
    }
    for mount in &edits.mounts {
        let mut options = mount.options.clone();
        let kind = mount.kind.as_deref().filter(|kind| !kind.is_empty());
        if kind.is_none() && !options.iter().any(|option| option == "bind" || option == "rbind") {
            options.push("rbind".into());
        }
        list(spec, "/mounts").push(json!({
            "destination": mount.container_path, "source": mount.host_path, "type": kind.unwrap_or("bind"),
            "options": options,
        }));
    }
    for hook in &edits.hooks {
        let mut entry = json!({"path": hook.path});
        if !hook.args.is_empty() {
            entry["args"] = json!(hook.args);
        }
        if !hook.env.is_empty() {
            entry["env"] = json!(hook.env);
        }
        if let Some(timeout) = hook.timeout {
            entry["timeout"] = json!(timeout);
        }
        list(spec, &format!("/hooks/{}", hook.hook_name.as_str())).push(entry);
    }
    for gid in edits.additional_gids.iter().filter(|gid| **gid != 0) {
        let groups = list(spec, "/process/user/additionalGids");
        if !groups.contains(&json!(gid)) {
            groups.push(json!(gid));
        }
    }
    if let Some(rdt) = &edits.intel_rdt {
        spec["linux"]["intelRdt"] = rdt.clone();
    }
    Ok(())
}

/// The list at a pointer of objects, made where it is missing.
fn list<'a>(spec: &'a mut Value, pointer: &str) -> &'a mut Vec<Value> {
    let place = pointer.split('/').skip(1).fold(spec, |value, key| &mut value[key]);
    if !place.is_array() {
        *place = json!([]);
    }
    match place {
        Value::Array(list) => list,
        _ => unreachable!("it was made a list"),
    }
}

/// A node and the rule that allows it. What the file does not say is as on the node; an ordinary user's container has
/// the node as its user's own.
fn device(node: &DeviceNode, user: &Value) -> Result<(Value, Value)> {
    let host = node.host_path.as_deref().unwrap_or(&node.path);
    let numbers = node.major.zip(node.minor).zip(node.kind.clone().filter(|kind| !kind.is_empty()));
    let mut entry = match numbers {
        Some(((major, minor), kind)) => json!({"path": node.path, "type": kind, "major": major, "minor": minor}),
        None => {
            let refuse = |reason: String| PodError::invalid(FIELD, format!("device {}: {reason}", host.display()));
            let metadata = fs::metadata(host).map_err(|error| refuse(error.to_string()))?;
            devices::node(&node.path, &metadata).ok_or_else(|| refuse("is no device".into()))?
        }
    };
    if let Some(mode) = node.file_mode {
        entry["fileMode"] = json!(mode);
    }
    for (field, asked) in [("uid", node.uid), ("gid", node.gid)] {
        let own = user[field].as_u64().filter(|id| *id != 0).map(|id| json!(id));
        if let Some(id) = asked.map(|id| json!(id)).or(own) {
            entry[field] = id;
        }
    }
    let access = node.permissions.as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
    let kind = if entry["type"] == "u" { json!("c") } else { entry["type"].clone() };
    let rule = json!({
        "allow": true, "type": kind, "major": entry["major"], "minor": entry["minor"], "access": access,
    });
    Ok((entry, rule))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folders(files: &[(&str, &str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let folders = ["static", "dynamic"].map(|name| dir.path().join(name));
        for (folder, name, text) in files {
            fs::create_dir_all(dir.path().join(folder)).unwrap();
            fs::write(dir.path().join(folder).join(name), text).unwrap();
        }
        (dir, folders.into())
    }

    fn spec(env: &str) -> String {
        json!({
            "cdiVersion": "0.5.0", "kind": "v.example/net",
            "devices": [{"name": "a", "containerEdits": {"env": [format!("WHO={env}")]}}, {"name": "b"}],
            "containerEdits": {"env": ["ONCE=1"]},
        })
        .to_string()
    }

    #[test]
    fn a_later_folder_overrules_and_each_file_adds_its_own_once() {
        let (_dir, folders) =
            folders(&[("static", "a.json", &spec("static")), ("dynamic", "b.json", &spec("dynamic"))]);
        let names = ["v.example/net=a".to_string(), "v.example/net=b".to_string()];
        let found: Vec<Vec<String>> = edits(&names, &folders).unwrap().into_iter().map(|edits| edits.env).collect();
        assert_eq!(found, [vec!["WHO=dynamic".to_string()], vec![], vec!["ONCE=1".to_string()]]);
    }

    #[test]
    fn devices_that_are_nowhere_twice_or_misnamed_are_refused() {
        let (dir, folders) = folders(&[
            ("static", "a.json", &spec("x")),
            ("static", "b.json", &spec("y")),
            ("static", "c.yaml", "kind: ["),
            ("static", "readme.txt", "no spec"),
        ]);
        let refused = |name: &str| edits(&[name.to_string()], &folders).unwrap_err().to_string();
        let twice = refused("v.example/net=a");
        assert!(twice.contains("is both in") && twice.contains("static/a.json"), "{twice}");
        let nowhere = refused("v.example/net=z");
        let broken = dir.path().join("static/c.yaml").display().to_string();
        assert!(nowhere.contains("is in no file of") && nowhere.contains(&broken), "{nowhere}");
        assert!(!nowhere.contains("readme"));
        assert_eq!(refused("gpu"), "config.CDI_devices[0].name: \"gpu\" is not VENDOR/CLASS=NAME");
    }

    #[test]
    fn edits_are_added_in_their_places() {
        let text = include_str!("../../../../fuzz/seeds/cdi/gpu.json");
        let edits = Spec::parse(text.as_bytes(), false).unwrap().devices.remove(0).container_edits;
        let mut spec = json!({
            "process": {"env": ["A=1", "GPU=7"], "user": {"uid": 1000, "gid": 0}}, "mounts": [],
            "linux": {"devices": [], "resources": {"devices": []}},
        });
        apply(&edits, &mut spec).unwrap();
        assert_eq!(spec["process"]["env"], json!(["A=1", "GPU=0"]));
        assert_eq!(spec["process"]["user"]["additionalGids"], json!([44]));
        let node = &spec["linux"]["devices"][0];
        assert_eq!((&node["path"], &node["major"], &node["uid"]), (&json!("/dev/gpu0"), &json!(1), &json!(1000)));
        assert_eq!(spec["linux"]["resources"]["devices"][0]["access"], "rw");
        assert_eq!(spec["hooks"]["createRuntime"][0]["args"], json!(["true"]));
        assert_eq!(spec["mounts"][0]["options"], json!(["ro", "bind"]));
    }
}
