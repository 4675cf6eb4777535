//! Pod sandboxes: the wire's messages from and to the engine's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;
use wharf_specs::cri;

use super::status::{invalid, unsupported};
use crate::pod::Result;
use crate::pod::spec::{Dns, PidMode, PortMapping, Protocol, SandboxConfig, SandboxName};
use crate::pod::status::{SandboxState, SandboxStatus};

/// `linux.overhead` and `linux.resources` are figures for runtimes that size a machine for the pod; the limits
/// themselves are on the cgroup parent, which the kubelet sets up. The user, file system and filters of
/// `security_context` concern a sandbox process, which Wharf does without.
pub(super) fn config(wire: Option<cri::PodSandboxConfig>, runtime_handler: String) -> Result<SandboxConfig> {
    let wire = wire.ok_or_else(|| invalid("config", "is missing"))?;
    let metadata = wire.metadata.ok_or_else(|| invalid("config.metadata", "is missing"))?;
    if wire.windows.is_some() {
        return Err(unsupported("config.windows"));
    }
    let linux = wire.linux.unwrap_or_default();
    let security = linux.security_context.unwrap_or_default();
    if security.selinux_options.as_ref().is_some_and(|options| *options != cri::SeLinuxOption::default()) {
        return Err(unsupported("config.linux.security_context.selinux_options"));
    }
    let namespaces = namespaces(security.namespace_options, "config.linux.security_context.namespace_options")?;
    let dns = wire.dns_config.unwrap_or_default();
    Ok(SandboxConfig {
        name: SandboxName {
            name: metadata.name,
            namespace: metadata.namespace,
            uid: metadata.uid,
            attempt: metadata.attempt,
        },
        hostname: wire.hostname,
        log_directory: Some(wire.log_directory).filter(|path| !path.is_empty()).map(PathBuf::from),
        dns: Dns { servers: dns.servers, searches: dns.searches, options: dns.options },
        ports: wire.port_mappings.into_iter().enumerate().map(port_mapping).collect::<Result<_>>()?,
        labels: wire.labels.into_iter().collect(),
        annotations: wire.annotations.into_iter().collect(),
        host_network: namespaces.host_network,
        host_ipc: namespaces.host_ipc,
        pid: namespaces.pid,
        sysctls: linux.sysctls.into_iter().collect(),
        cgroup_parent: Some(linux.cgroup_parent).filter(|parent| !parent.is_empty()),
        runtime_handler,
        privileged: security.privileged,
    })
}

/// What both a sandbox and its containers say of namespaces.
pub(super) struct Namespaces {
    pub(super) host_network: bool,
    pub(super) host_ipc: bool,
    pub(super) pid: PidMode,
}

pub(super) fn namespaces(wire: Option<cri::NamespaceOption>, field: &str) -> Result<Namespaces> {
    let wire = wire.unwrap_or_default();
    if let Some(user) = &wire.userns_options
        && user.mode() != cri::NamespaceMode::Node
    {
        return Err(unsupported(format!("{field}.userns_options")));
    }
    let shared = |mode: cri::NamespaceMode, name: &str| match mode {
        cri::NamespaceMode::Pod => Ok(false),
        cri::NamespaceMode::Node => Ok(true),
        other => Err(invalid(format!("{field}.{name}"), format!("{} is not POD or NODE", other.as_str_name()))),
    };
    let pid = match wire.pid() {
        cri::NamespaceMode::Pod => PidMode::Pod,
        cri::NamespaceMode::Container => PidMode::Container,
        cri::NamespaceMode::Node => PidMode::Node,
        cri::NamespaceMode::Target => return Err(unsupported(format!("{field}.pid TARGET"))),
    };
    Ok(Namespaces { host_network: shared(wire.network(), "network")?, host_ipc: shared(wire.ipc(), "ipc")?, pid })
}

fn port_mapping((index, wire): (usize, cri::PortMapping)) -> Result<PortMapping> {
    let field = |name: &str| format!("config.port_mappings[{index}].{name}");
    let port = |name: &str, value: i32| {
        u16::try_from(value).map_err(|_| invalid(field(name), format!("{value} is not a port number")))
    };
    let protocol = match wire.protocol() {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => return Err(unsupported(field("protocol SCTP"))),
    };
    let host_ip: Option<IpAddr> = match wire.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(field("host_ip"), format!("{text:?} is no address")))?),
    };
    if host_ip.is_some_and(|ip| ip.is_ipv6() && !ip.is_unspecified()) {
        return Err(unsupported(field("host_ip of IPv6")));
    }
    Ok(PortMapping {
        protocol,
        container_port: port("container_port", wire.container_port)?,
        host_port: port("host_port", wire.host_port)?,
        host_ip,
    })
}

/// Of `PortForward`; none where each connection names its own.
pub(super) fn ports(wire: &[i32]) -> Result<Vec<u16>> {
    let port = |(index, value): (usize, &i32)| {
        let port = u16::try_from(*value).ok().filter(|port| *port != 0);
        port.ok_or_else(|| invalid(format!("port[{index}]"), format!("{value} is not a port number")))
    };
    wire.iter().enumerate().map(port).collect()
}

pub(super) fn metadata(name: &SandboxName) -> cri::PodSandboxMetadata {
    cri::PodSandboxMetadata {
        name: name.name.clone(),
        uid: name.uid.clone(),
        namespace: name.namespace.clone(),
        attempt: name.attempt,
    }
}

fn state(state: SandboxState) -> cri::PodSandboxState {
    match state {
        SandboxState::Ready => cri::PodSandboxState::SandboxReady,
        SandboxState::NotReady => cri::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn listed(status: &SandboxStatus) -> cri::PodSandbox {
    cri::PodSandbox {
        id: status.id.clone(),
        metadata: Some(metadata(&status.config.name)),
        state: state(status.state).into(),
        created_at: status.created_at,
        labels: status.config.labels.clone().into_iter().collect(),
        annotations: status.config.annotations.clone().into_iter().collect(),
        runtime_handler: status.config.runtime_handler.clone(),
    }
}

pub(super) fn status(status: &SandboxStatus) -> cri::PodSandboxStatus {
    let config = &status.config;
    let mode = |host: bool| if host { cri::NamespaceMode::Node } else { cri::NamespaceMode::Pod };
    let pid = match config.pid {
        PidMode::Pod => cri::NamespaceMode::Pod,
        PidMode::Container => cri::NamespaceMode::Container,
        PidMode::Node => cri::NamespaceMode::Node,
    };
    let mut addresses = status.addresses.iter().map(IpAddr::to_string);
    cri::PodSandboxStatus {
        id: status.id.clone(),
        metadata: Some(metadata(&config.name)),
        state: state(status.state).into(),
        created_at: status.created_at,
        network: Some(cri::PodSandboxNetworkStatus {
            ip: addresses.next().unwrap_or_default(),
            additional_ips: addresses.map(|ip| cri::PodIp { ip }).collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStatus {
            namespaces: Some(cri::Namespace {
                options: Some(cri::NamespaceOption {
                    network: mode(config.host_network).into(),
                    pid: pid.into(),
                    ipc: mode(config.host_ipc).into(),
                    target_id: String::new(),
                    userns_options: None,
                }),
            }),
        }),
        labels: config.labels.clone().into_iter().collect(),
        annotations: config.annotations.clone().into_iter().collect(),
        runtime_handler: config.runtime_handler.clone(),
    }
}

/// What `crictl inspectp` shows beyond the protocol's fields.
pub(super) fn verbose(status: &SandboxStatus) -> HashMap<String, String> {
    let info = json!({"pid": status.shim_pid, "config": status.config});
    [("info".to_string(), info.to_string())].into()
}

pub(super) fn matches(status: &SandboxStatus, filter: &cri::PodSandboxFilter) -> bool {
    status.id.starts_with(&filter.id)
        && filter.state.as_ref().is_none_or(|wanted| wanted.state() == state(status.state))
        && has_labels(&status.config.labels, &filter.label_selector)
}

pub(super) fn has_labels(labels: &crate::pod::spec::Labels, wanted: &HashMap<String, String>) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire() -> cri::PodSandboxConfig {
        let metadata = cri::PodSandboxMetadata { name: "a".into(), namespace: "b".into(), ..Default::default() };
        cri::PodSandboxConfig { metadata: Some(metadata), ..Default::default() }
    }

    fn refused(config: cri::PodSandboxConfig) -> String {
        super::config(Some(config), String::new()).unwrap_err().to_string()
    }

    #[test]
    fn refusals_name_the_field() {
        assert_eq!(super::config(None, String::new()).unwrap_err().to_string(), "config: is missing");
        let port = cri::PortMapping { container_port: 70000, ..Default::default() };
        let config = cri::PodSandboxConfig { port_mappings: vec![port], ..wire() };
        assert_eq!(refused(config), "config.port_mappings[0].container_port: 70000 is not a port number");
        let windows = Some(cri::WindowsPodSandboxConfig::default());
        assert!(refused(cri::PodSandboxConfig { windows, ..wire() }).starts_with("config.windows: "));
    }

    #[test]
    fn user_namespaces_are_refused_and_the_node_s_is_accepted() {
        let with = |mode: cri::NamespaceMode| {
            let user = cri::UserNamespace { mode: mode.into(), ..Default::default() };
            namespaces(Some(cri::NamespaceOption { userns_options: Some(user), ..Default::default() }), "f")
        };
        assert!(with(cri::NamespaceMode::Pod).is_err());
        assert!(with(cri::NamespaceMode::Node).is_ok());
    }
}
