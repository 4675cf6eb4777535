//! The Container Device Interface: what a vendor's file says a container needs beyond a device's node (CDI
//! specification, versions 0.3.0 to 1.1.0).

pub mod untrusted;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Longest file that is read, in bytes.
pub const FILE_BYTES_MAX: usize = 1 << 20;

/// Most devices of one file, and most entries of each of its lists.
const ENTRIES_MAX: usize = 4096;

const VERSIONS: [&str; 8] = ["0.3.0", "0.4.0", "0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"];

/// Why a file or a name is of no use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CdiError {
    #[error("has {0} bytes, at most {FILE_BYTES_MAX} are read")]
    TooLong(usize),
    #[error("{0}")]
    Syntax(String),
    #[error("{field}: {problem}")]
    Field { field: String, problem: String },
}

/// One file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Spec {
    pub cdi_version: String,
    /// `VENDOR/CLASS`.
    pub kind: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    pub devices: Vec<Device>,
    /// Once for each container that gets a device of this file.
    #[serde(default)]
    pub container_edits: Edits,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Device {
    pub name: String,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub container_edits: Edits,
}

/// What is added to a container's configuration.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Edits {
    /// `NAME=VALUE` each.
    #[serde(default)]
    pub env: Vec<String>,
    #[serde(default)]
    pub device_nodes: Vec<DeviceNode>,
    #[serde(default)]
    pub net_devices: Vec<NetDevice>,
    #[serde(default)]
    pub hooks: Vec<Hook>,
    #[serde(default)]
    pub mounts: Vec<Mount>,
    /// In the form of the runtime-spec.
    #[serde(default)]
    pub intel_rdt: Option<serde_json::Value>,
    #[serde(default, rename = "additionalGids")]
    pub additional_gids: Vec<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct DeviceNode {
    pub path: PathBuf,
    /// Where the node's own device is, if not at `path`.
    #[serde(default)]
    pub host_path: Option<PathBuf>,
    /// `b`, `c`, `u` or `p`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    #[serde(default)]
    pub major: Option<u32>,
    #[serde(default)]
    pub minor: Option<u32>,
    #[serde(default)]
    pub file_mode: Option<u32>,
    /// Of `rwm`.
    #[serde(default)]
    pub permissions: Option<String>,
    #[serde(default)]
    pub uid: Option<u32>,
    #[serde(default)]
    pub gid: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct NetDevice {
    pub host_interface_name: String,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Hook {
    pub hook_name: HookName,
    pub path: PathBuf,
    #[serde(default)]
    pub args: Vec<String>,
    #[serde(default)]
    pub env: Vec<String>,
    /// In seconds.
    #[serde(default)]
    pub timeout: Option<i64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum HookName {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl HookName {
    /// The list of the runtime-spec that it belongs to.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Mount {
    pub host_path: String,
    pub container_path: PathBuf,
    #[serde(default)]
    pub options: Vec<String>,
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
}

impl Spec {
    /// Reads a file, in JSON or, where `yaml`, in YAML.
    pub fn parse(bytes: &[u8], yaml: bool) -> Result<Self, CdiError> {
        if bytes.len() > FILE_BYTES_MAX {
            return Err(CdiError::TooLong(bytes.len()));
        }
        let one_line = |text: String| CdiError::Syntax(text.replace(char::is_control, " "));
        let spec: Self = if yaml {
            serde_yaml_ng::from_slice(bytes).map_err(|error| one_line(error.to_string()))?
        } else {
            serde_json::from_slice(bytes).map_err(|error| one_line(error.to_string()))?
        };
        spec.check()?;
        Ok(spec)
    }

    fn check(&self) -> Result<(), CdiError> {
        if !VERSIONS.contains(&self.cdi_version.as_str()) {
            return Err(refuse("cdiVersion", format!("{:?} is none of {}", self.cdi_version, VERSIONS.join(", "))));
        }
        if parse_kind(&self.kind).is_none() {
            return Err(refuse("kind", format!("{:?} is not VENDOR/CLASS", self.kind)));
        }
        bounded("devices", self.devices.len())?;
        for (index, device) in self.devices.iter().enumerate() {
            let field = format!("devices[{index}]");
            if !is_name(&device.name, "_-.:", char::is_ascii_alphanumeric) {
                return Err(refuse(format!("{field}.name"), format!("{:?} is no name of a device", device.name)));
            }
            if self.devices[..index].iter().any(|other| other.name == device.name) {
                return Err(refuse(format!("{field}.name"), format!("{:?} is there twice", device.name)));
            }
            device.container_edits.check(&format!("{field}.containerEdits"))?;
        }
        self.container_edits.check("containerEdits")
    }
}

impl Edits {
    fn check(&self, field: &str) -> Result<(), CdiError> {
        let at = |list: &str, index: usize, name: &str| format!("{field}.{list}[{index}]{name}");
        for (list, length) in [
            ("env", self.env.len()),
            ("deviceNodes", self.device_nodes.len()),
            ("netDevices", self.net_devices.len()),
            ("hooks", self.hooks.len()),
            ("mounts", self.mounts.len()),
            ("additionalGids", self.additional_gids.len()),
        ] {
            bounded(&format!("{field}.{list}"), length)?;
        }
        for (index, entry) in self.env.iter().enumerate() {
            if entry.split_once('=').is_none_or(|(name, _)| name.is_empty()) || entry.contains('\0') {
                return Err(refuse(at("env", index, ""), format!("{entry:?} is not NAME=VALUE")));
            }
        }
        let absolute = |field: String, path: &Path| match path.is_absolute() {
            true => Ok(()),
            false => Err(refuse(field, format!("{path:?} is not an absolute path"))),
        };
        for (index, node) in self.device_nodes.iter().enumerate() {
            absolute(at("deviceNodes", index, ".path"), &node.path)?;
            if let Some(path) = &node.host_path {
                absolute(at("deviceNodes", index, ".hostPath"), path)?;
            }
            if let Some(kind) = node.kind.as_deref().filter(|kind| !["", "b", "c", "u", "p"].contains(kind)) {
                return Err(refuse(at("deviceNodes", index, ".type"), format!("{kind:?} is not b, c, u or p")));
            }
            let permissions = node.permissions.as_deref().unwrap_or_default();
            if !permissions.chars().all(|c| "rwm".contains(c)) {
                let problem = format!("{permissions:?} is not made of r, w and m");
                return Err(refuse(at("deviceNodes", index, ".permissions"), problem));
            }
        }
        for (index, hook) in self.hooks.iter().enumerate() {
            absolute(at("hooks", index, ".path"), &hook.path)?;
        }
        for (index, mount) in self.mounts.iter().enumerate() {
            absolute(at("mounts", index, ".containerPath"), &mount.container_path)?;
            if mount.host_path.is_empty() {
                return Err(refuse(at("mounts", index, ".hostPath"), "is empty".into()));
            }
        }
        Ok(())
    }
}

fn refuse(field: impl Into<String>, problem: String) -> CdiError {
    CdiError::Field { field: field.into(), problem }
}

fn bounded(field: &str, length: usize) -> Result<(), CdiError> {
    if length > ENTRIES_MAX {
        return Err(refuse(field, format!("has {length} entries, at most {ENTRIES_MAX} are read")));
    }
    Ok(())
}

/// Begins as `first` says, ends in a letter or digit, and has letters, digits and `others` between.
fn is_name(name: &str, others: &str, first: impl Fn(&char) -> bool) -> bool {
    let ends = name.chars().next().is_some_and(|c| first(&c))
        && name.chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric());
    ends && name.chars().all(|c| c.is_ascii_alphanumeric() || others.contains(c))
}

/// `VENDOR/CLASS`.
fn parse_kind(kind: &str) -> Option<(&str, &str)> {
    let (vendor, class) = kind.split_once('/')?;
    let good = is_name(vendor, "_-.", char::is_ascii_alphabetic) && is_name(class, "_-", char::is_ascii_alphabetic);
    good.then_some((vendor, class))
}

/// A device's full name, `VENDOR/CLASS=NAME`: its kind and its name within that.
pub fn parse_device(name: &str) -> Option<(&str, &str)> {
    let (kind, device) = name.split_once('=')?;
    parse_kind(kind)?;
    is_name(device, "_-.:", char::is_ascii_alphanumeric).then_some((kind, device))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GPU: &[u8] = include_bytes!("../../../fuzz/seeds/cdi/gpu.json");

    #[test]
    fn json_and_yaml_say_the_same() {
        let json = Spec::parse(GPU, false).unwrap();
        assert_eq!(Spec::parse(include_bytes!("../../../fuzz/seeds/cdi/gpu.yaml"), true), Ok(json.clone()));
        assert_eq!((json.kind.as_str(), json.devices[0].name.as_str()), ("vendor.example/gpu", "0"));
        let edits = &json.devices[0].container_edits;
        assert_eq!(edits.device_nodes[0].host_path.as_deref(), Some(Path::new("/dev/null")));
        assert_eq!(edits.hooks[0].hook_name, HookName::CreateRuntime);
    }

    #[test]
    fn devices_have_a_kind_and_a_name() {
        assert_eq!(parse_device("vendor.example/gpu=0"), Some(("vendor.example/gpu", "0")));
        for name in ["gpu=0", "vendor/gpu", "vendor/gpu=", "1vendor/gpu=0", "vendor/g.pu=0", "vendor/gpu=a/b", "=", ""]
        {
            assert_eq!(parse_device(name), None, "{name}");
        }
    }

    #[test]
    fn errors_name_the_field() {
        let spec = |devices: &str, edits: &str| {
            let text =
                format!(r#"{{"cdiVersion":"1.0.0","kind":"v/c","devices":[{devices}],"containerEdits":{{{edits}}}}}"#);
            Spec::parse(text.as_bytes(), false).unwrap_err().to_string()
        };
        for (devices, edits, expected) in [
            (r#"{"name":"a/b"}"#, "", "devices[0].name: \"a/b\" is no name of a device"),
            (r#"{"name":"a"},{"name":"a"}"#, "", "devices[1].name: \"a\" is there twice"),
            ("", r#""env":["A"]"#, "containerEdits.env[0]: \"A\" is not NAME=VALUE"),
            (
                "",
                r#""deviceNodes":[{"path":"x"}]"#,
                "containerEdits.deviceNodes[0].path: \"x\" is not an absolute path",
            ),
            ("", r#""hooks":[{"hookName":"prestart","path":"x"}]"#, "containerEdits.hooks[0].path: \"x\" is not"),
            ("", r#""hooks":[{"hookName":"later","path":"/x"}]"#, "unknown variant `later`"),
            ("", r#""other":1"#, "unknown field `other`"),
        ] {
            let error = spec(devices, edits);
            assert!(error.starts_with(expected), "{error}");
        }
        let error = Spec::parse(br#"{"cdiVersion":"9","kind":"v/c","devices":[]}"#, false).unwrap_err().to_string();
        assert!(error.starts_with("cdiVersion: \"9\" is none of 0.3.0"), "{error}");
    }
}
