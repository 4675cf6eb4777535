//! Pod sandboxes: the wire's messages from and to the engine's.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;

use serde_json::json;
use wharf_specs::cri;

use super::resources;
use super::status::{invalid, unsupported};
use crate::pod::Result;
use crate::pod::spec::{
    Dns, IdMapping, PidMode, PodLimits, PortMapping, Protocol, SandboxConfig, SandboxName, UserNamespace,
};
use crate::pod::status::{SandboxState, SandboxStatus};

/// The user, file system and filters of
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
        host_aliases: Vec::new(),
        full_name: None,
        host_network: namespaces.host_network,
        host_ipc: namespaces.host_ipc,
        pid: namespaces.pid,
        user_namespace: namespaces.user_namespace,
        sysctls: linux.sysctls.into_iter().collect(),
        cgroup_parent: Some(linux.cgroup_parent).filter(|parent| !parent.is_empty()),
        // A client that has classes names the parents of their groups.
        qos_class: None,
        runtime_handler,
        privileged: security.privileged,
        limits: limits(linux.resources, linux.overhead, "config.linux.")?,
    })
}

/// `prefix` is where both fields are in the request.
pub(super) fn limits(
    resources: Option<cri::LinuxContainerResources>,
    overhead: Option<cri::LinuxContainerResources>,
    prefix: &str,
) -> Result<PodLimits> {
    Ok(PodLimits {
        resources: resources::resources(resources, &format!("{prefix}resources"))?,
        overhead: resources::resources(overhead, &format!("{prefix}overhead"))?,
    })
}

/// What both a sandbox and its containers say of namespaces.
pub(super) struct Namespaces {
    pub(super) host_network: bool,
    pub(super) host_ipc: bool,
    pub(super) pid: PidMode,
    pub(super) user_namespace: Option<UserNamespace>,
}

pub(super) fn namespaces(wire: Option<cri::NamespaceOption>, field: &str) -> Result<Namespaces> {
    let wire = wire.unwrap_or_default();
    let user_namespace = user_namespace(wire.userns_options.as_ref(), &format!("{field}.userns_options"))?;
    let shared = |mode: cri::NamespaceMode, name: &str| match mode {
        cri::NamespaceMode::Pod => Ok(false),
        cri::NamespaceMode::Node => Ok(true),
        other => Err(invalid(format!("{field}.{name}"), format!("{} is not POD or NODE", other.as_str_name()))),
    };
    let pid = match wire.pid() {
        cri::NamespaceMode::Pod => PidMode::Pod,
        cri::NamespaceMode::Container => PidMode::Container,
        cri::NamespaceMode::Node => PidMode::Node,
        cri::NamespaceMode::Target => return Err(invalid(format!("{field}.pid"), "TARGET is for containers")),
    };
    let (host_network, host_ipc) = (shared(wire.network(), "network")?, shared(wire.ipc(), "ipc")?);
    let shares = [("network", host_network), ("ipc", host_ipc), ("pid", pid == PidMode::Node)];
    if let (Some((name, _)), true) = (shares.iter().find(|(_, shares)| *shares), user_namespace.is_some()) {
        // What mounts of its file systems need belongs to the node's user namespace.
        return Err(unsupported(format!("{field}.userns_options POD beside {name} NODE")));
    }
    Ok(Namespaces { host_network, host_ipc, pid, user_namespace })
}

/// Mappings in each map that the kernel takes (user_namespaces(7)).
const MAPPINGS_MAX: usize = 340;

fn user_namespace(wire: Option<&cri::UserNamespace>, field: &str) -> Result<Option<UserNamespace>> {
    let Some(wire) = wire else { return Ok(None) };
    match wire.mode() {
        cri::NamespaceMode::Pod => {}
        cri::NamespaceMode::Node if wire.uids.is_empty() && wire.gids.is_empty() => return Ok(None),
        cri::NamespaceMode::Node => return Err(invalid(field, "has mappings, but its mode is NODE")),
        other => {
            let reason = format!("{} is not POD or NODE", other.as_str_name());
            return Err(invalid(format!("{field}.mode"), reason));
        }
    }
    let map = |name: &str, wire: &[cri::IdMapping]| {
        let field = format!("{field}.{name}");
        let map = id_mappings(wire, &field)?;
        match map.iter().any(|mapping| mapping.host_id(0).is_some()) {
            true => Ok(map),
            false => Err(invalid(field, "gives the id 0 none of the node's")),
        }
    };
    Ok(Some(UserNamespace { uids: map("uids", &wire.uids)?, gids: map("gids", &wire.gids)? }))
}

/// Ranges that do not overlap, on either side.
pub(super) fn id_mappings(wire: &[cri::IdMapping], field: &str) -> Result<Vec<IdMapping>> {
    if wire.len() > MAPPINGS_MAX {
        return Err(invalid(field, format!("has {} mappings, the kernel takes {MAPPINGS_MAX}", wire.len())));
    }
    let map: Vec<IdMapping> = wire
        .iter()
        .map(|wire| IdMapping { container: wire.container_id, host: wire.host_id, length: wire.length })
        .collect();
    let end = |first: u32, length: u32| u64::from(first) + u64::from(length);
    let overlap = |a: u32, b: u32, one: &IdMapping, other: &IdMapping| {
        u64::from(a) < end(b, other.length) && u64::from(b) < end(a, one.length)
    };
    for (index, one) in map.iter().enumerate() {
        let refuse = |reason: &str| Err(invalid(format!("{field}[{index}]"), reason));
        // The last number means "no id" to the kernel.
        let last = u64::from(u32::MAX);
        if one.length == 0 || end(one.container, one.length) > last || end(one.host, one.length) > last {
            return refuse("is empty or goes beyond the 32-bit ids");
        }
        let doubled = |other: &&IdMapping| {
            overlap(one.container, other.container, one, other) || overlap(one.host, other.host, one, other)
        };
        if map[..index].iter().any(|other| doubled(&other)) {
            return refuse("overlaps with one before it");
        }
    }
    Ok(map)
}

pub(super) fn wire_mappings(map: &[IdMapping]) -> Vec<cri::IdMapping> {
    let wire = |one: &IdMapping| cri::IdMapping { container_id: one.container, host_id: one.host, length: one.length };
    map.iter().map(wire).collect()
}

/// As it is on the wire.
pub(super) fn pid(config: &SandboxConfig) -> cri::NamespaceMode {
    match config.pid {
        PidMode::Pod => cri::NamespaceMode::Pod,
        PidMode::Container => cri::NamespaceMode::Container,
        PidMode::Node => cri::NamespaceMode::Node,
    }
}

fn port_mapping((index, wire): (usize, cri::PortMapping)) -> Result<PortMapping> {
    let field = |name: &str| format!("config.port_mappings[{index}].{name}");
    let port = |name: &str, value: i32| {
        u16::try_from(value).map_err(|_| invalid(field(name), format!("{value} is not a port number")))
    };
    let protocol = match wire.protocol() {
        cri::Protocol::Tcp => Protocol::Tcp,
        cri::Protocol::Udp => Protocol::Udp,
        cri::Protocol::Sctp => Protocol::Sctp,
    };
    let host_ip: Option<IpAddr> = match wire.host_ip.as_str() {
        "" => None,
        text => Some(text.parse().map_err(|_| invalid(field("host_ip"), format!("{text:?} is no address")))?),
    };
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

pub(super) fn state(state: SandboxState) -> cri::PodSandboxState {
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
                    pid: pid(config).into(),
                    ipc: mode(config.host_ipc).into(),
                    target_id: String::new(),
                    userns_options: config.user_namespace.as_ref().map(|user| cri::UserNamespace {
                        mode: cri::NamespaceMode::Pod.into(),
                        uids: wire_mappings(&user.uids),
                        gids: wire_mappings(&user.gids),
                    }),
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

    fn userns(mode: cri::NamespaceMode, map: &[(u32, u32, u32)]) -> Result<Option<UserNamespace>> {
        let map: Vec<_> = map
            .iter()
            .map(|&(container_id, host_id, length)| cri::IdMapping { host_id, container_id, length })
            .collect();
        user_namespace(Some(&cri::UserNamespace { mode: mode.into(), uids: map.clone(), gids: map }), "f")
    }

    #[test]
    fn user_namespaces_need_mappings_that_the_kernel_takes() {
        let pod = |map: &[(u32, u32, u32)]| userns(cri::NamespaceMode::Pod, map).map_err(|error| error.to_string());
        let found = pod(&[(0, 100_000, 65536), (65536, 300_000, 10)]).unwrap().unwrap();
        assert_eq!(found.uids[1], IdMapping { container: 65536, host: 300_000, length: 10 });
        assert_eq!(found.uids[0].host_id(7), Some(100_007));
        assert_eq!(pod(&[]).unwrap_err(), "f.uids: gives the id 0 none of the node's");
        assert_eq!(pod(&[(1, 100_000, 5)]).unwrap_err(), "f.uids: gives the id 0 none of the node's");
        assert_eq!(pod(&[(0, 1, 0)]).unwrap_err(), "f.uids[0]: is empty or goes beyond the 32-bit ids");
        assert_eq!(pod(&[(0, 4_294_967_290, 6)]).unwrap_err(), "f.uids[0]: is empty or goes beyond the 32-bit ids");
        assert_eq!(pod(&[(0, 10, 10), (10, 15, 10)]).unwrap_err(), "f.uids[1]: overlaps with one before it");
        assert_eq!(userns(cri::NamespaceMode::Node, &[]), Ok(None));
        assert!(userns(cri::NamespaceMode::Node, &[(0, 1, 1)]).is_err());
        assert!(userns(cri::NamespaceMode::Container, &[(0, 1, 1)]).is_err());
    }

    #[test]
    fn a_user_namespace_beside_a_namespace_of_the_node_is_refused_by_name() {
        let mapping = cri::IdMapping { host_id: 100_000, container_id: 0, length: 10 };
        let user =
            cri::UserNamespace { mode: cri::NamespaceMode::Pod.into(), uids: vec![mapping], gids: vec![mapping] };
        let options = cri::NamespaceOption {
            network: cri::NamespaceMode::Node.into(),
            userns_options: Some(user),
            ..Default::default()
        };
        let error = namespaces(Some(options), "f").map(drop).unwrap_err().to_string();
        assert_eq!(error, "f.userns_options POD beside network NODE: is not supported by this runtime");
    }
}
