//! `spec`: the configuration to start from.

use crate::Fault;
use crate::cli::SpecOptions;
use serde_json::{Value, json};
use std::fs::File;
use std::io::Write;
use std::path::Path;
use wharf_runtime::cgroup::Layout;
use wharf_sys::credential;

pub(crate) fn run(options: &SpecOptions) -> Result<u8, Fault> {
    let directory = options.bundle.as_deref().unwrap_or(Path::new("."));
    let path = directory.join("config.json");
    let text = match options.rootless {
        false => default(),
        true => {
            let mut spec: Value = serde_json::from_str(&default())?;
            make_rootless(&mut spec);
            serde_json::to_string_pretty(&spec)? + "\n"
        }
    };
    let fail = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::new(format!("file {} exists. Remove it first", path.display())),
        _ => Fault::new(format!("write {}: {error}", path.display())),
    };
    File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(fail)?;
    Ok(0)
}

/// runc's default: a shell on a terminal, three capabilities, six namespaces; the fields in the specification's order.
const DEFAULT: &str = include_str!("default_config.json");

/// The default for this host: the cgroup namespace is only of use where the hierarchy is unified.
fn default() -> String {
    if legacy() { without_cgroup_namespace(DEFAULT) } else { DEFAULT.to_owned() }
}

fn legacy() -> bool {
    Layout::detect().is_ok_and(|layout| !layout.legacy.is_empty())
}

fn without_cgroup_namespace(text: &str) -> String {
    let Some(at) = text.find("\"cgroup\"\n") else { return text.to_owned() };
    let (Some(start), Some(end)) = (text[..at].rfind(','), text[at..].find('}')) else { return text.to_owned() };
    format!("{}{}", &text[..start], &text[at + end + 1..])
}

/// A user namespace that maps the caller, the host's network, and no limits, which need delegation.
fn make_rootless(spec: &mut Value) {
    let mapping = |id: u32| json!([{ "containerID": 0, "hostID": id, "size": 1 }]);
    let linux = &mut spec["linux"];
    linux["uidMappings"] = mapping(credential::effective_user());
    linux["gidMappings"] = mapping(credential::effective_group());
    if let Some(linux) = linux.as_object_mut() {
        linux.remove("resources");
    }
    if let Some(namespaces) = linux["namespaces"].as_array_mut() {
        namespaces.retain(|namespace| namespace["type"] != "network");
        namespaces.push(json!({ "type": "user" }));
    }
    if let Some(mounts) = spec["mounts"].as_array_mut() {
        // A hierarchy of v1 cannot be mounted in a user namespace.
        if legacy() {
            mounts.retain(|mount| mount["destination"] != "/sys/fs/cgroup");
        }
        for mount in mounts {
            if mount["destination"] == "/dev/pts"
                && let Some(options) = mount["options"].as_array_mut()
            {
                options.retain(|option| option != "gid=5");
            }
            if mount["destination"] == "/sys" {
                // A new sysfs needs a network namespace of one's own.
                *mount = json!({"destination": "/sys", "type": "none", "source": "/sys",
                    "options": ["rbind", "nosuid", "noexec", "nodev", "ro"]});
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_names_the_version_that_is_implemented() {
        let spec: Value = serde_json::from_str(DEFAULT).unwrap();
        assert_eq!(spec["ociVersion"], wharf_runtime::state::OCI_VERSION);
        assert!(wharf_specs::oci::parse_config(DEFAULT.as_bytes()).is_ok());
    }
}
