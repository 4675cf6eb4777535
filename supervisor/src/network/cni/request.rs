//! What one plugin is told: by its environment, section 2, and by its standard input, section 3.

use std::ffi::OsString;
use std::fmt;
use std::path::Path;

use serde_json::{Map, Value};
use wharf_specs::cni::plugin::RESERVED_PREFIX;

use super::attachment::Attachment;
use super::{CniError, PluginConfig, PodToConnect, Result, Version};

/// `CNI_COMMAND`. VERSION is asked of a program, without a network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Add,
    Del,
    Check,
    Gc,
    Status,
    Version,
}

impl Operation {
    fn as_str(self) -> &'static str {
        match self {
            Self::Add => "ADD",
            Self::Del => "DEL",
            Self::Check => "CHECK",
            Self::Gc => "GC",
            Self::Status => "STATUS",
            Self::Version => "VERSION",
        }
    }
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One execution of one plugin of a network.
pub(super) struct Request<'a> {
    operation: Operation,
    network: &'a str,
    plugin: &'a PluginConfig,
    attachment: Option<&'a Attachment>,
    input: Map<String, Value>,
}

impl<'a> Request<'a> {
    /// GC and STATUS, which concern no pod.
    pub(super) fn of_network(
        operation: Operation,
        network: &'a str,
        version: Version,
        plugin: &'a PluginConfig,
    ) -> Self {
        let mut input = plugin.object.clone();
        input.retain(|key, _| !key.starts_with(RESERVED_PREFIX));
        input.insert("name".into(), network.into());
        input.insert("cniVersion".into(), version.as_str().into());
        Self { operation, network, plugin, attachment: None, input }
    }

    /// GC; `valid` are the attachments that are to stay.
    pub(super) fn of_garbage(network: &'a str, version: Version, plugin: &'a PluginConfig, valid: &[Value]) -> Self {
        let mut request = Self::of_network(Operation::Gc, network, version, plugin);
        request.input.insert(format!("{RESERVED_PREFIX}valid-attachments"), valid.into());
        // Plugins of the first months after 1.1.0 know the list by the name that its reference library used by mistake.
        request.input.insert(format!("{RESERVED_PREFIX}attachments"), valid.into());
        request
    }

    /// ADD, DEL and CHECK; `previous` is the result of the plugin before this one, or of the whole ADD.
    pub(super) fn of_attachment(
        operation: Operation,
        attachment: &'a Attachment,
        plugin: &'a PluginConfig,
        previous: Option<Value>,
    ) -> Self {
        let mut request = Self::of_network(operation, &attachment.network, attachment.version, plugin);
        request.attachment = Some(attachment);
        request.input.remove("capabilities");
        let asked = attachment.capabilities.iter().filter(|(name, _)| plugin.capabilities.contains(*name));
        let asked: Map<String, Value> = asked.map(|(name, value)| (name.clone(), value.clone())).collect();
        if !asked.is_empty() {
            request.input.insert("runtimeConfig".into(), asked.into());
        }
        if let Some(previous) = previous {
            request.input.insert("prevResult".into(), previous);
        }
        request
    }

    pub(super) fn operation(&self) -> Operation {
        self.operation
    }

    pub(super) fn network(&self) -> &str {
        self.network
    }

    pub(super) fn program(&self) -> &str {
        &self.plugin.program
    }

    pub(super) fn input(&self) -> Vec<u8> {
        Value::Object(self.input.clone()).to_string().into_bytes()
    }

    /// The variables of section 2, but for `CNI_COMMAND` and `CNI_PATH`, which each execution has.
    pub(super) fn environment(&self) -> Vec<(&'static str, OsString)> {
        let Some(attachment) = self.attachment else { return Vec::new() };
        // A namespace that is gone, after a reboot say, is no reason to leave an address taken.
        let gone = self.operation == Operation::Del && !super::pin::is_namespace(&attachment.namespace);
        let namespace = if gone { Path::new("") } else { &attachment.namespace };
        vec![
            ("CNI_CONTAINERID", attachment.id.clone().into()),
            ("CNI_NETNS", namespace.into()),
            ("CNI_IFNAME", attachment.interface.clone().into()),
            ("CNI_ARGS", attachment.arguments.clone().into()),
        ]
    }

    /// An error of this execution.
    pub(super) fn failed(&self, reason: impl fmt::Display) -> CniError {
        CniError::Plugin {
            program: self.plugin.program.clone(),
            network: self.network.into(),
            operation: self.operation,
            reason: reason.to_string(),
        }
    }
}

/// `CNI_ARGS`, with the keys that Kubernetes' runtimes give.
pub(super) fn arguments(pod: &PodToConnect<'_>) -> Result<String> {
    let name = &pod.config.name;
    let mut text = String::from("IgnoreUnknown=1");
    for (key, field, value) in [
        ("K8S_POD_NAMESPACE", "config.metadata.namespace", name.namespace.as_str()),
        ("K8S_POD_NAME", "config.metadata.name", name.name.as_str()),
        ("K8S_POD_INFRA_CONTAINER_ID", "id", pod.id),
        ("K8S_POD_UID", "config.metadata.uid", name.uid.as_str()),
    ] {
        if let Some(character) = value.chars().find(|c| matches!(c, ';' | '=') || c.is_control()) {
            return Err(CniError::Name { field, found: value.into(), character });
        }
        text.push_str(&format!(";{key}={value}"));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::super::attachment::tests::attachment;
    use super::*;
    use serde_json::json;

    #[test]
    fn a_plugin_is_told_its_own_configuration_and_only_the_capabilities_it_declares() {
        let attachment = attachment();
        let previous = json!({"cniVersion": "1.0.0"});
        let request =
            Request::of_attachment(Operation::Add, &attachment, &attachment.plugins[1], Some(previous.clone()));
        let input: Value = serde_json::from_slice(&request.input()).unwrap();
        let expected = json!({
            "cniVersion": "1.0.0", "name": "pods", "type": "portmap", "snat": true, "prevResult": previous,
            "runtimeConfig": {"portMappings": [{"hostPort": 8080}]},
        });
        assert_eq!(input, expected);
        let first = Request::of_attachment(Operation::Add, &attachment, &attachment.plugins[0], None);
        assert_eq!(
            serde_json::from_slice::<Value>(&first.input()).unwrap(),
            json!({"cniVersion": "1.0.0", "name": "pods", "type": "bridge"})
        );
    }

    #[test]
    fn garbage_collection_names_what_is_to_stay() {
        let attachment = attachment();
        let valid = [json!({"containerID": "a", "ifname": "eth0"})];
        let request = Request::of_garbage("pods", Version::V1_1_0, &attachment.plugins[0], &valid);
        let input: Value = serde_json::from_slice(&request.input()).unwrap();
        assert_eq!(input["cni.dev/valid-attachments"], json!(valid));
        assert!(request.environment().is_empty());
    }

    #[test]
    fn del_of_a_namespace_that_is_gone_names_none() {
        let attachment = attachment();
        let path = |operation| {
            let request = Request::of_attachment(operation, &attachment, &attachment.plugins[0], None);
            request.environment().into_iter().find(|(name, _)| *name == "CNI_NETNS").unwrap().1
        };
        assert_eq!(path(Operation::Del), "");
        assert_eq!(path(Operation::Add), "/nonexistent/netns");
    }
}
