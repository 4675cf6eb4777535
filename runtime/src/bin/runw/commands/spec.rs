//! `spec`: the configuration to start from.

use crate::Fault;
use crate::cli::SpecOptions;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use wharf_runtime::cgroup::Layout;
use wharf_sys::credential;

pub(crate) fn run(options: &SpecOptions) -> Result<u8, Fault> {
    let directory = options.bundle.as_deref().unwrap_or(Path::new("."));
    let path = directory.join("config.json");
    let text = if options.rootless { rootless() } else { DEFAULT.to_owned() };
    // The cgroup namespace is only of use where the hierarchy is unified.
    let text = if legacy() { without_cgroup_namespace(&text) } else { text };
    let fail = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => Fault::new(format!("file {} exists. Remove it first", path.display())),
        _ => Fault::new(format!("write {}: {error}", path.display())),
    };
    File::create_new(&path).and_then(|mut file| file.write_all(text.as_bytes())).map_err(fail)?;
    Ok(0)
}

/// runc's default: a shell on a terminal, three capabilities, six namespaces; the fields in the specification's order.
const DEFAULT: &str = include_str!("default_config.json");

/// The same for an ordinary user: a user namespace that maps the caller, the host's network, and no limits, which need
/// delegation.
const ROOTLESS: &str = include_str!("rootless_config.json");

fn rootless() -> String {
    let (user, group) = (credential::effective_user(), credential::effective_group());
    ROOTLESS.replace("@USER@", &user.to_string()).replace("@GROUP@", &group.to_string())
}

fn legacy() -> bool {
    Layout::detect().is_ok_and(|layout| !layout.legacy.is_empty())
}

fn without_cgroup_namespace(text: &str) -> String {
    let Some(at) = text.find("\"cgroup\"\n") else { return text.to_owned() };
    let (Some(start), Some(end)) = (text[..at].rfind(','), text[at..].find('}')) else { return text.to_owned() };
    format!("{}{}", &text[..start], &text[at + end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn the_defaults_name_the_version_that_is_implemented() {
        for text in
            [DEFAULT.to_owned(), rootless(), without_cgroup_namespace(DEFAULT), without_cgroup_namespace(&rootless())]
        {
            let spec: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(spec["ociVersion"], wharf_runtime::state::OCI_VERSION);
            assert!(wharf_specs::oci::parse_config(text.as_bytes()).is_ok());
        }
    }

    #[test]
    fn a_users_container_is_in_a_user_namespace_and_on_the_hosts_network() {
        let spec: Value = serde_json::from_str(&without_cgroup_namespace(&rootless())).unwrap();
        let kinds = spec["linux"]["namespaces"].as_array().unwrap().iter().map(|namespace| &namespace["type"]);
        assert_eq!(kinds.collect::<Vec<_>>(), ["pid", "ipc", "uts", "mount", "user"]);
        assert_eq!(spec["linux"]["uidMappings"][0]["hostID"], credential::effective_user());
    }
}
