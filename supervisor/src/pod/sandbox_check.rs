//! Refusals of a sandbox's configuration, before anything is made.

use std::path::{Component, Path};

use super::error::{PodError, Result};
use super::node::NodeOptions;
use super::placement::Placement;
use super::spec::SandboxConfig;

/// The kernel's limit (`HOST_NAME_MAX`).
const HOSTNAME_BYTES: usize = 64;

/// resolv.conf(5) as the kubelet bounds it.
const DNS_SERVERS: usize = 3;

pub(crate) fn validate(config: &SandboxConfig, options: &NodeOptions) -> Result<()> {
    if config.name.name.is_empty() {
        return Err(PodError::invalid("config.metadata.name", "is empty"));
    }
    if config.name.namespace.is_empty() {
        return Err(PodError::invalid("config.metadata.namespace", "is empty"));
    }
    check_hostname(&config.hostname)?;
    if let Some(directory) = &config.log_directory {
        check_absolute("config.log_directory", directory)?;
    }
    check_dns(config)?;
    for name in config.sysctls.keys() {
        check_sysctl(name, config)?;
    }
    if let Some(parent) = &config.cgroup_parent {
        Placement::check(&options.cgroups, parent)?;
    }
    if !config.runtime_handler.is_empty() && !options.runtimes.contains_key(&config.runtime_handler) {
        let known: Vec<_> = options.runtimes.keys().map(String::as_str).collect();
        let reason = format!("{:?} is none of the configured ones {known:?}", config.runtime_handler);
        return Err(PodError::invalid("runtime_handler", reason));
    }
    if !config.runtime_handler.is_empty() && config.user_namespace.is_some() {
        let reason = format!("is not possible with the runtime handler {:?}", config.runtime_handler);
        return Err(PodError::invalid("config.linux.security_context.namespace_options.userns_options", reason));
    }
    if !config.host_network {
        crate::network::check_annotations(config)?;
    }
    for (index, port) in config.ports.iter().enumerate() {
        if port.host_port != 0 && port.container_port == 0 {
            return Err(PodError::invalid(format!("config.port_mappings[{index}].container_port"), "is 0"));
        }
    }
    Ok(())
}

fn check_hostname(name: &str) -> Result<()> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if name.len() > HOSTNAME_BYTES || !name.chars().all(allowed) {
        let reason = format!("{name:?} is no host name of at most {HOSTNAME_BYTES} letters, digits, - and .");
        return Err(PodError::invalid("config.hostname", reason));
    }
    Ok(())
}

/// What goes into resolv.conf must not be able to add lines to it.
fn check_dns(config: &SandboxConfig) -> Result<()> {
    let dns = &config.dns;
    if dns.servers.len() > DNS_SERVERS {
        let reason = format!("has {} entries, resolvers read {DNS_SERVERS}", dns.servers.len());
        return Err(PodError::invalid("config.dns_config.servers", reason));
    }
    for (field, values) in [("servers", &dns.servers), ("searches", &dns.searches), ("options", &dns.options)] {
        for value in values {
            if value.is_empty() || value.chars().any(|c| c.is_whitespace() || c.is_control()) {
                let reason = format!("{value:?} is empty or has white space in it");
                return Err(PodError::invalid(format!("config.dns_config.{field}"), reason));
            }
        }
    }
    Ok(())
}

/// Only what belongs to one of the pod's own namespaces may be set: everything else is the node's.
fn check_sysctl(name: &str, config: &SandboxConfig) -> Result<()> {
    let refuse = |reason: &str| Err(PodError::invalid(format!("config.linux.sysctls[{name:?}]"), reason));
    if name.is_empty() || name.contains('/') || name.split('.').any(str::is_empty) {
        return refuse("is no name with dots between its parts");
    }
    let ipc = ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix))
        || name == "kernel.sem";
    match (name.starts_with("net."), ipc) {
        (true, _) if config.host_network => refuse("is the node's: the pod uses the host's network"),
        (_, true) if config.host_ipc => refuse("is the node's: the pod uses the host's IPC namespace"),
        (true, _) | (_, true) => Ok(()),
        _ => refuse("belongs to no namespace of a pod"),
    }
}

pub(crate) fn check_absolute(field: &str, path: &Path) -> Result<()> {
    let plain = |c: Component<'_>| matches!(c, Component::Normal(_) | Component::RootDir);
    if !path.is_absolute() || !path.components().all(plain) {
        return Err(PodError::invalid(field, format!("{} is no absolute path without ..", path.display())));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::{Dns, PidMode, SandboxName};

    pub(crate) fn config() -> SandboxConfig {
        SandboxConfig {
            name: SandboxName { name: "web".into(), namespace: "default".into(), uid: "u".into(), attempt: 0 },
            hostname: String::new(),
            log_directory: None,
            dns: Dns::default(),
            ports: Vec::new(),
            labels: Default::default(),
            annotations: Default::default(),
            host_aliases: Vec::new(),
            full_name: None,
            host_network: false,
            host_ipc: false,
            pid: PidMode::Container,
            user_namespace: None,
            sysctls: Default::default(),
            cgroup_parent: None,
            qos_class: None,
            runtime_handler: String::new(),
            privileged: false,
            limits: Default::default(),
        }
    }

    #[test]
    fn sysctls_of_the_node_are_refused() {
        assert!(check_sysctl("net.ipv4.ip_forward", &config()).is_ok());
        assert!(check_sysctl("kernel.shm_rmid_forced", &config()).is_ok());
        for name in ["kernel.core_pattern", "vm.overcommit_memory", "net/ipv4/x", "net..x", ""] {
            assert!(check_sysctl(name, &config()).is_err(), "{name}");
        }
        let host = SandboxConfig { host_network: true, ..config() };
        assert!(check_sysctl("net.ipv4.ip_forward", &host).is_err());
    }

    #[test]
    fn resolv_conf_lines_cannot_be_injected() {
        let dns = Dns { servers: vec!["1.1.1.1\nnameserver 6.6.6.6".into()], ..Dns::default() };
        let error = check_dns(&SandboxConfig { dns, ..config() }).unwrap_err();
        assert!(error.to_string().starts_with("config.dns_config.servers: "), "{error}");
    }
}
