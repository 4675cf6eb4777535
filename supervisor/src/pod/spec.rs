//! What a pod and its containers shall be: the configuration that the CRI door and the pod controller both hand in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::qos::QosClass;

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// Name of a pod sandbox: unique together.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct SandboxName {
    pub name: String,
    pub namespace: String,
    pub uid: String,
    /// Counts sandboxes made for the same pod, from 0.
    pub attempt: u32,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct SandboxConfig {
    pub name: SandboxName,
    /// Empty keeps the node's (host network) or the pod's name.
    pub hostname: String,
    /// Containers' `log_path`s are relative to it; created if missing.
    pub log_directory: Option<PathBuf>,
    pub dns: Dns,
    pub ports: Vec<PortMapping>,
    pub labels: Labels,
    pub annotations: Labels,
    /// What `/etc/hosts` names beside the pod itself.
    #[serde(default)]
    pub host_aliases: Vec<HostAlias>,
    /// The pod's own name with its domain, for `/etc/hosts`.
    #[serde(default)]
    pub full_name: Option<String>,
    pub host_network: bool,
    pub host_ipc: bool,
    pub pid: PidMode,
    /// `None`: the node's.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    pub sysctls: BTreeMap<String, String>,
    /// Relative to the hierarchy's root; `None`: `wharf` of this node.
    pub cgroup_parent: Option<String>,
    /// Decides which group below the node's the pod's is in.
    #[serde(default)]
    pub qos_class: Option<QosClass>,
    /// Empty: the runtime in the shim's own process.
    pub runtime_handler: String,
    pub privileged: bool,
    #[serde(default)]
    pub limits: PodLimits,
}

/// Of a pod as a whole. They are set on its control group, unless that is the client's (`cgroup_parent`), who has set
/// them then.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PodLimits {
    /// What its containers may use together.
    pub resources: Resources,
    /// What the pod itself needs beside them.
    pub overhead: Resources,
}

impl PodLimits {
    /// Both together; an overhead alone limits nothing.
    pub fn sum(&self) -> Resources {
        let (all, more) = (&self.resources, &self.overhead);
        let positive = |value: Option<i64>| value.filter(|value| *value > 0);
        let bytes = |all: Option<i64>, more: Option<i64>| match positive(all) {
            Some(limit) => Some(limit.saturating_add(positive(more).unwrap_or(0))),
            None => all,
        };
        let period = |of: &Resources| i128::from(of.cpu_period_us.unwrap_or(CPU_PERIOD_US));
        let quota = positive(all.cpu_quota_us).map(|quota| {
            let more_quota = i128::from(positive(more.cpu_quota_us).unwrap_or(0)) * period(all) / period(more).max(1);
            i64::try_from(i128::from(quota) + more_quota).unwrap_or(i64::MAX)
        });
        let page_limit = |(size, limit): (&String, &u64)| {
            (size.clone(), limit.saturating_add(more.hugepage_limits.get(size).copied().unwrap_or(0)))
        };
        Resources {
            memory_limit_bytes: bytes(all.memory_limit_bytes, more.memory_limit_bytes),
            memory_swap_limit_bytes: bytes(all.memory_swap_limit_bytes, more.memory_swap_limit_bytes),
            cpu_shares: all.cpu_shares.map(|shares| shares.saturating_add(more.cpu_shares.unwrap_or(0))),
            cpu_quota_us: quota.or(all.cpu_quota_us),
            hugepage_limits: all.hugepage_limits.iter().map(page_limit).collect(),
            ..all.clone()
        }
    }
}

/// The kernel's own period of processor quotas (sched-bwc.rst).
const CPU_PERIOD_US: u64 = 100_000;

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
}

/// An address, and the names that it has for the pod.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct HostAlias {
    pub address: IpAddr,
    pub names: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Protocol {
    Tcp,
    Udp,
    Sctp,
}

impl Protocol {
    /// As nftables and CNI plugins have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct PortMapping {
    pub protocol: Protocol,
    pub container_port: u16,
    pub host_port: u16,
    pub host_ip: Option<IpAddr>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum PidMode {
    /// One PID namespace for the whole pod.
    Pod,
    /// Each container its own.
    Container,
    /// The node's.
    Node,
}

/// How the ids of a pod are those of the node.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct UserNamespace {
    pub uids: Vec<IdMapping>,
    pub gids: Vec<IdMapping>,
}

/// `length` ids from `container` on are those from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct IdMapping {
    pub container: u32,
    pub host: u32,
    pub length: u32,
}

impl IdMapping {
    /// The node's id for `id`, where it is mapped.
    pub fn host_id(&self, id: u32) -> Option<u32> {
        let offset = id.checked_sub(self.container).filter(|offset| *offset < self.length)?;
        self.host.checked_add(offset)
    }
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ContainerConfig {
    pub name: String,
    /// Counts containers made under the same name in the pod, from 0.
    pub attempt: u32,
    /// Name, id or digest of an image that the store has.
    pub image: String,
    /// What the user wrote, for status answers.
    pub user_image: String,
    /// Replaces the image's entrypoint.
    pub command: Vec<String>,
    /// Replaces the image's cmd.
    pub args: Vec<String>,
    pub working_dir: String,
    pub env: Vec<(String, String)>,
    pub mounts: Vec<Mount>,
    pub devices: Vec<Device>,
    pub labels: Labels,
    pub annotations: Labels,
    /// Relative to the sandbox's log directory.
    pub log_path: Option<PathBuf>,
    pub stdin: bool,
    pub stdin_once: bool,
    pub tty: bool,
    pub resources: Resources,
    pub security: Security,
    /// Shares the PID namespace of this container of the pod.
    #[serde(default)]
    pub pid_of: Option<String>,
    /// `VENDOR/CLASS=NAME` each, of the Container Device Interface.
    #[serde(default)]
    pub cdi_devices: Vec<String>,
    /// Overrules the image's; a name (`SIGTERM`) or a number.
    pub stop_signal: Option<String>,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    pub readonly: bool,
    /// With `readonly`: what is mounted below it too.
    #[serde(default)]
    pub recursive_readonly: bool,
    pub propagation: Propagation,
    /// What the mount denies beside.
    #[serde(default)]
    pub denied: Vec<MountDenial>,
    /// Ids of its files in a pod with a user namespace, where they are not to be the node's.
    #[serde(default)]
    pub ids: Option<UserNamespace>,
    /// What is mounted, in place of `host_path`; read-only.
    #[serde(default)]
    pub image: Option<ImageMount>,
}

/// What files of a mount cannot do (mount(8)).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum MountDenial {
    /// Be executed.
    Noexec,
    /// Be devices.
    Nodev,
    /// Give a program another user or capabilities.
    Nosuid,
}

impl MountDenial {
    pub const ALL: [Self; 3] = [Self::Noexec, Self::Nodev, Self::Nosuid];

    /// As mount options have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Noexec => "noexec",
            Self::Nodev => "nodev",
            Self::Nosuid => "nosuid",
        }
    }
}

/// An image, or a directory or file of one, as a volume.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct ImageMount {
    /// Name, id or digest of an image that the store has.
    pub image: String,
    /// What the user wrote, for status answers.
    pub user_image: String,
    /// The image that the name meant when the container was asked for.
    pub id: String,
    /// Empty for all of it.
    pub sub_path: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Propagation {
    Private,
    HostToContainer,
    Bidirectional,
}

#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Device {
    pub container_path: PathBuf,
    pub host_path: PathBuf,
    /// Of `rwm`.
    pub permissions: String,
}

/// Limits; `None` or 0 sets none.
#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Resources {
    pub memory_limit_bytes: Option<i64>,
    pub memory_swap_limit_bytes: Option<i64>,
    pub cpu_shares: Option<u64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<u64>,
    pub cpuset_cpus: String,
    pub cpuset_mems: String,
    pub pids_limit: Option<i64>,
    pub oom_score_adj: i32,
    /// Bytes by page size (`2MB`).
    #[serde(default)]
    pub hugepage_limits: BTreeMap<String, u64>,
    pub unified: BTreeMap<String, String>,
}

impl Resources {
    /// Takes over every limit that `change` sets.
    pub fn merge(&mut self, change: &Self) {
        fn set<T: Copy>(field: &mut Option<T>, value: Option<T>) {
            if value.is_some() {
                *field = value;
            }
        }
        set(&mut self.memory_limit_bytes, change.memory_limit_bytes);
        set(&mut self.memory_swap_limit_bytes, change.memory_swap_limit_bytes);
        set(&mut self.cpu_shares, change.cpu_shares);
        set(&mut self.cpu_quota_us, change.cpu_quota_us);
        set(&mut self.cpu_period_us, change.cpu_period_us);
        set(&mut self.pids_limit, change.pids_limit);
        for (field, value) in
            [(&mut self.cpuset_cpus, &change.cpuset_cpus), (&mut self.cpuset_mems, &change.cpuset_mems)]
        {
            if !value.is_empty() {
                field.clone_from(value);
            }
        }
        self.hugepage_limits.extend(change.hugepage_limits.iter().map(|(size, limit)| (size.clone(), *limit)));
        self.unified.extend(change.unified.iter().map(|(key, value)| (key.clone(), value.clone())));
    }
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Security {
    pub privileged: bool,
    pub run_as_user: Option<u32>,
    /// A name to look up in the container's /etc/passwd; `run_as_user` goes before it.
    pub run_as_username: String,
    pub run_as_group: Option<u32>,
    pub supplemental_groups: Vec<u32>,
    /// The groups that the image's `/etc/group` gives the user are left out.
    #[serde(default)]
    pub only_named_groups: bool,
    /// Names with or without `CAP_`; `ALL` is allowed.
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    /// Added, and kept by programs that a user other than root executes.
    #[serde(default)]
    pub ambient_capabilities: Vec<String>,
    pub readonly_rootfs: bool,
    pub no_new_privs: bool,
    pub seccomp: Seccomp,
    /// The AppArmor profile of the node's, by its name.
    #[serde(default)]
    pub apparmor: Option<String>,
    /// `None` masks what the runtime masks by default.
    pub masked_paths: Option<Vec<String>>,
    pub readonly_paths: Option<Vec<String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub enum Seccomp {
    RuntimeDefault,
    #[default]
    Unconfined,
    /// Profile file on the node.
    Localhost(PathBuf),
}

/// A process to run in a container.
#[derive(Debug, Clone)]
pub struct ExecConfig {
    pub argv: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Ends the whole process tree when it passes.
    pub timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_s_limits_are_those_of_its_containers_and_its_overhead() {
        let resources = Resources {
            memory_limit_bytes: Some(100),
            cpu_quota_us: Some(50_000),
            cpu_period_us: Some(100_000),
            cpu_shares: Some(512),
            hugepage_limits: [("2MB".to_string(), 4)].into(),
            ..Resources::default()
        };
        let overhead = Resources {
            memory_limit_bytes: Some(20),
            cpu_quota_us: Some(5_000),
            cpu_period_us: Some(50_000),
            cpu_shares: Some(8),
            ..Resources::default()
        };
        let sum = PodLimits { resources, overhead: overhead.clone() }.sum();
        assert_eq!((sum.memory_limit_bytes, sum.cpu_shares), (Some(120), Some(520)));
        assert_eq!((sum.cpu_quota_us, sum.cpu_period_us), (Some(60_000), Some(100_000)));
        assert_eq!(sum.hugepage_limits["2MB"], 4);
        let alone = PodLimits { overhead, ..PodLimits::default() }.sum();
        assert_eq!(alone, Resources::default());
        let unlimited = Resources { memory_limit_bytes: Some(-1), cpu_quota_us: Some(-1), ..Resources::default() };
        let sum = PodLimits { resources: unlimited.clone(), overhead: unlimited.clone() }.sum();
        assert_eq!(sum, unlimited);
    }
}
