//! What pods and containers are: answered from memory, changed only by their owner task.

use std::net::IpAddr;
use std::path::PathBuf;

use wharf_specs::shim::OomOrigin;

use super::record::ContainerUser;
use super::spec::{ContainerConfig, SandboxConfig};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SandboxState {
    Ready,
    NotReady,
}

#[derive(Debug, Clone)]
pub struct SandboxStatus {
    pub id: String,
    pub config: SandboxConfig,
    pub state: SandboxState,
    /// Unix time in nanoseconds, as all times here.
    pub created_at: i64,
    /// First is the primary; empty on the host network.
    pub addresses: Vec<IpAddr>,
    pub shim_pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerState {
    Created,
    Running,
    Exited,
    /// The shim died and took the exit code with it.
    Unknown,
}

#[derive(Debug, Clone)]
pub struct ContainerStatus {
    pub id: String,
    pub sandbox: String,
    pub config: ContainerConfig,
    /// `sha256:…` of the image's configuration.
    pub image_id: String,
    pub state: ContainerState,
    pub pid: u32,
    pub created_at: i64,
    /// 0 until started.
    pub started_at: i64,
    /// 0 until exited.
    pub finished_at: i64,
    pub exit_code: i32,
    /// `Completed`, `Error`, `OOMKilled`, `StartError`, `Unknown`, or empty.
    pub reason: String,
    pub message: String,
    /// Whose limit it was that the kernel killed for.
    pub oom_origin: Option<OomOrigin>,
    pub log_path: Option<PathBuf>,
    /// What `stop` sends first.
    pub stop_signal: i32,
    pub user: ContainerUser,
}

/// A change in the observed state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    SandboxReady { sandbox: String },
    SandboxStopped { sandbox: String },
    SandboxRemoved { sandbox: String },
    ContainerCreated { sandbox: String, container: String },
    ContainerStarted { sandbox: String, container: String },
    ContainerExited { sandbox: String, container: String },
    ContainerRemoved { sandbox: String, container: String },
}

impl Event {
    pub fn sandbox(&self) -> &str {
        match self {
            Self::SandboxReady { sandbox }
            | Self::SandboxStopped { sandbox }
            | Self::SandboxRemoved { sandbox }
            | Self::ContainerCreated { sandbox, .. }
            | Self::ContainerStarted { sandbox, .. }
            | Self::ContainerExited { sandbox, .. }
            | Self::ContainerRemoved { sandbox, .. } => sandbox,
        }
    }
}
