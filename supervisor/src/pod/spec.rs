//! What a pod and its containers shall be: the configuration that the CRI door and the pod controller both hand in.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

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
    pub host_network: bool,
    pub host_ipc: bool,
    pub pid: PidMode,
    /// `None`: the node's.
    #[serde(default)]
    pub user_namespace: Option<UserNamespace>,
    pub sysctls: BTreeMap<String, String>,
    /// Relative to the hierarchy's root; `None`: `wharf` of this node.
    pub cgroup_parent: Option<String>,
    /// Empty: the runtime in the shim's own process.
    pub runtime_handler: String,
    pub privileged: bool,
}

#[derive(Debug, Clone, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Dns {
    pub servers: Vec<String>,
    pub searches: Vec<String>,
    pub options: Vec<String>,
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
    /// Ids of its files in a pod with a user namespace, where they are not to be the node's.
    #[serde(default)]
    pub ids: Option<UserNamespace>,
    /// What is mounted, in place of `host_path`; read-only.
    #[serde(default)]
    pub image: Option<ImageMount>,
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
