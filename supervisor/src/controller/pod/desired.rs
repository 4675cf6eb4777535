//! From a Pod object to what the engine shall run.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, SeccompProfile};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

use super::environment::{Environment, expand};
use super::resize::pod_limits;
use super::resolver;
use super::resource_field::node_memory;
use crate::api::kinds::pod_qos::QosClass;
use crate::api::kinds::priority_class::NODE_CRITICAL;
use crate::api::quantity;
use crate::pod::qos::cpu_shares;
use crate::pod::spec::{
    ContainerConfig, Dns, HostAlias, Labels, Mount, PidMode, PortMapping, Protocol, Resources, SandboxConfig,
    SandboxName, Seccomp, Security,
};

pub(super) const CPU_PERIOD_US: u64 = 100_000;
/// Least the kernel takes.
const MIN_CPU_QUOTA_US: i64 = 1000;
/// Annotation of every sandbox that the pod controller made.
pub(crate) const OWNER_ANNOTATION: &str = "wharf/owner";
pub(crate) const OWNER: &str = "pod-controller";

/// Identity of a pod, from its metadata.
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) namespace: String,
    pub(super) uid: String,
}

impl Identity {
    pub(super) fn of(pod: &Pod) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        let metadata = &pod.metadata;
        Self { name: text(&metadata.name), namespace: text(&metadata.namespace), uid: text(&metadata.uid) }
    }

    fn labels(&self) -> Labels {
        BTreeMap::from([
            ("io.kubernetes.pod.name".into(), self.name.clone()),
            ("io.kubernetes.pod.namespace".into(), self.namespace.clone()),
            ("io.kubernetes.pod.uid".into(), self.uid.clone()),
        ])
    }
}

/// The sandbox of a pod; `attempt` counts those made before, and `domain` is that of services' names.
pub(super) fn sandbox(pod: &Pod, attempt: u32, log_directory: PathBuf, dns: Dns, domain: &str) -> SandboxConfig {
    let identity = Identity::of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let mut labels = pod.metadata.labels.clone().unwrap_or_default();
    labels.extend(identity.labels());
    let mut annotations = pod.metadata.annotations.clone().unwrap_or_default();
    annotations.insert(OWNER_ANNOTATION.into(), OWNER.into());
    let host_network = spec.host_network.unwrap_or(false);
    let ports = spec.containers.iter().flat_map(|container| container.ports.iter().flatten());
    let ports = ports.filter_map(|port| {
        Some(PortMapping {
            protocol: match port.protocol.as_deref() {
                Some("UDP") => Protocol::Udp,
                Some("SCTP") => Protocol::Sctp,
                _ => Protocol::Tcp,
            },
            container_port: u16::try_from(port.container_port).ok()?,
            host_port: u16::try_from(port.host_port.filter(|_| !host_network)?).ok()?,
            host_ip: port.host_ip.as_deref().and_then(|ip| ip.parse::<IpAddr>().ok()),
        })
    });
    let security = spec.security_context.as_ref();
    let sysctls = security.and_then(|s| s.sysctls.as_ref()).into_iter().flatten();
    let host_aliases = spec.host_aliases.iter().flatten().filter_map(|alias| {
        // A wrong address was refused when the pod was written.
        Some(HostAlias { address: alias.ip.parse().ok()?, names: alias.hostnames.clone().unwrap_or_default() })
    });
    let hostname = spec.hostname.clone().unwrap_or_else(|| identity.name.chars().take(63).collect());
    let full_name = resolver::full_name(&spec, &hostname, &identity.namespace, domain);
    let hostname = match (&full_name, spec.set_hostname_as_fqdn) {
        (Some(full_name), Some(true)) => full_name.clone(),
        _ => hostname,
    };
    SandboxConfig {
        name: SandboxName { name: identity.name, namespace: identity.namespace, uid: identity.uid, attempt },
        hostname: if host_network { String::new() } else { hostname },
        log_directory: Some(log_directory),
        dns,
        ports: ports.collect(),
        labels,
        annotations,
        host_network,
        host_ipc: spec.host_ipc.unwrap_or(false),
        host_aliases: host_aliases.collect(),
        full_name,
        pid: match (spec.host_pid, spec.share_process_namespace) {
            (Some(true), _) => PidMode::Node,
            (_, Some(true)) => PidMode::Pod,
            _ => PidMode::Container,
        },
        user_namespace: None,
        sysctls: sysctls.map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        cgroup_parent: None,
        qos_class: Some(class_of(&spec)),
        runtime_handler: String::new(),
        privileged: spec.containers.iter().any(is_privileged),
        limits: pod_limits(&spec),
    }
}

fn is_privileged(container: &Container) -> bool {
    container.security_context.as_ref().and_then(|s| s.privileged).unwrap_or(false)
}

/// A container of a pod.
pub(super) fn container(
    pod: &Pod,
    container: &Container,
    attempt: u32,
    mounts: Vec<Mount>,
    env: Environment,
) -> ContainerConfig {
    let identity = Identity::of(pod);
    let spec = pod.spec.clone().unwrap_or_default();
    let expand_all = |words: &Option<Vec<String>>| -> Vec<String> {
        words.iter().flatten().map(|word| expand(word, &env)).collect()
    };
    let mut labels = identity.labels();
    labels.insert("io.kubernetes.container.name".into(), container.name.clone());
    let image = container.image.clone().unwrap_or_default();
    ContainerConfig {
        name: container.name.clone(),
        attempt,
        image: image.clone(),
        user_image: image,
        command: expand_all(&container.command),
        args: expand_all(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        mounts,
        devices: Vec::new(),
        labels,
        annotations: Labels::new(),
        log_path: Some(PathBuf::from(&container.name).join(format!("{attempt}.log"))),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        resources: Resources { oom_score_adj: oom_score(&spec, container), ..resources(container) },
        security: security(pod, container),
        pid_of: None,
        cdi_devices: Vec::new(),
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        env,
    }
}

fn class_of(spec: &PodSpec) -> QosClass {
    QosClass::of(&serde_json::to_value(spec).unwrap_or_default())
}

/// What the kernel kills first when memory runs out. A sidecar is as safe as the safest of those it serves.
fn oom_score(spec: &PodSpec, container: &Container) -> i32 {
    let request = |container: &Container| {
        let resources = container.resources.as_ref();
        let of = |list: Option<&BTreeMap<String, Quantity>>| list.and_then(|list| list.get("memory")).cloned();
        let request = of(resources.and_then(|all| all.requests.as_ref()));
        let limit = of(resources.and_then(|all| all.limits.as_ref()));
        request.or(limit).and_then(|quantity| quantity::whole(&quantity.0)).unwrap_or(0)
    };
    let mut wanted = request(container);
    if container.restart_policy.as_deref() == Some("Always") {
        wanted = spec.containers.iter().map(request).fold(wanted, i64::max);
    }
    // The node is of no use without it, as a kubelet has it.
    let class = match spec.priority_class_name.as_deref() {
        Some(NODE_CRITICAL) => QosClass::Guaranteed,
        _ => class_of(spec),
    };
    class.oom_score(wanted, node_memory())
}

/// A kernel with version 1 of control groups may have been told not to; with version 2 none is as good as no swap.
static SWAP_IS_COUNTED: LazyLock<bool> = LazyLock::new(|| {
    let memory = Path::new("/sys/fs/cgroup/memory");
    !memory.exists() || memory.join("memory.memsw.limit_in_bytes").exists()
});

/// The processor time that a container asks for, in thousandths of a processor. Without a request the limit is the request.
pub(super) fn milli_cpus(container: &Container) -> i64 {
    let requests = container.resources.as_ref().and_then(|resources| resources.requests.as_ref());
    let request = requests.and_then(|requests| requests.get("cpu")).or_else(|| limit(container, "cpu"));
    request.and_then(|quantity| quantity::milli(&quantity.0)).unwrap_or(0)
}

fn limit<'a>(container: &'a Container, name: &str) -> Option<&'a Quantity> {
    container.resources.as_ref()?.limits.as_ref()?.get(name)
}

pub(super) fn resources(container: &Container) -> Resources {
    let quota = limit(container, "cpu").and_then(|quantity| quantity::milli(&quantity.0));
    let quota = quota.map(|milli| (milli * CPU_PERIOD_US as i64 / 1000).max(MIN_CPU_QUOTA_US));
    let memory = limit(container, "memory").and_then(|quantity| quantity::whole(&quantity.0));
    Resources {
        memory_limit_bytes: memory,
        // As a kubelet has it: who has used up their memory is not swapped out instead.
        memory_swap_limit_bytes: memory.filter(|_| *SWAP_IS_COUNTED),
        cpu_shares: cpu_shares(milli_cpus(container)),
        cpu_quota_us: quota,
        cpu_period_us: quota.map(|_| CPU_PERIOD_US),
        ..Resources::default()
    }
}

fn security(pod: &Pod, container: &Container) -> Security {
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.security_context.clone()).unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let capabilities = own.capabilities.unwrap_or_default();
    let id = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    Security {
        privileged: own.privileged.unwrap_or(false),
        run_as_user: id(own.run_as_user.or(pod_level.run_as_user)),
        run_as_username: String::new(),
        run_as_group: id(own.run_as_group.or(pod_level.run_as_group)),
        supplemental_groups: (pod_level.supplemental_groups.iter().flatten().chain(&pod_level.fs_group))
            .filter_map(|&gid| id(Some(gid)))
            .collect(),
        add_capabilities: capabilities.add.unwrap_or_default(),
        drop_capabilities: capabilities.drop.unwrap_or_default(),
        readonly_rootfs: own.read_only_root_filesystem.unwrap_or(false),
        no_new_privs: own.allow_privilege_escalation == Some(false),
        seccomp: seccomp(own.seccomp_profile.or(pod_level.seccomp_profile).as_ref()),
        ..Security::default()
    }
}

fn seccomp(profile: Option<&SeccompProfile>) -> Seccomp {
    match profile {
        Some(profile) if profile.type_ == "Unconfined" => Seccomp::Unconfined,
        Some(profile) if profile.type_ == "Localhost" => {
            Seccomp::Localhost(profile.localhost_profile.clone().unwrap_or_default().into())
        }
        _ => Seccomp::RuntimeDefault,
    }
}

/// Whether the container must not run as root.
pub(super) fn must_not_be_root(pod: &Pod, container: &Container) -> bool {
    let pod_level = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()).and_then(|s| s.run_as_non_root);
    container.security_context.as_ref().and_then(|s| s.run_as_non_root).or(pod_level).unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(spec: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "web-1", "namespace": "ns", "uid": "u"}, "spec": spec}))
            .unwrap()
    }

    fn first(spec: serde_json::Value) -> ContainerConfig {
        let pod = pod(spec);
        let env = vec![("IP".into(), "10.0.0.2".into())];
        container(&pod, &pod.spec.as_ref().unwrap().containers[0], 3, Vec::new(), env)
    }

    #[test]
    fn arguments_see_the_environment() {
        let config = first(json!({"containers": [{"name": "c", "image": "i", "args": ["$(IP):80"]}]}));
        assert_eq!(config.args, ["10.0.0.2:80"]);
        assert_eq!(config.log_path.as_deref(), Some(std::path::Path::new("c/3.log")));
    }

    #[test]
    fn limits_become_cgroup_values() {
        let config = first(json!({"containers": [{"name": "c", "image": "i",
            "resources": {"limits": {"cpu": "500m", "memory": "64Mi"}}}]}));
        let resources = config.resources;
        assert_eq!((resources.cpu_quota_us, resources.cpu_shares), (Some(50_000), Some(512)));
        assert_eq!(resources.memory_limit_bytes, Some(64 << 20));
        assert_eq!(resources.oom_score_adj, -997);
        let of_class = |class: &str| {
            first(json!({"priorityClassName": class, "containers": [{"name": "c", "image": "i"}]}))
                .resources
                .oom_score_adj
        };
        assert_eq!((of_class(NODE_CRITICAL), of_class("system-cluster-critical")), (-997, 1000));
    }

    #[test]
    fn host_ports_become_mappings() {
        let pod = pod(json!({"containers": [{"name": "c", "image": "i",
            "ports": [{"containerPort": 80, "hostPort": 8080}, {"containerPort": 81}]}]}));
        let ports = sandbox(&pod, 0, "/logs".into(), Dns::default(), "cluster.local").ports;
        assert_eq!(ports.iter().map(|p| (p.host_port, p.container_port)).collect::<Vec<_>>(), [(8080, 80)]);
    }
}
