//! The private protocol between `wharfd` and `wharf-shim`, version 3.
//!
//! Transport: a unix stream socket, 0600, at `RUN/pods/<sandbox>/shim.sock`. Each message is one frame:
//! a little-endian `u32` with the length of the body, then the body, one JSON document. Descriptors travel as
//! `SCM_RIGHTS` attached to the first byte of the frame that names them.
//!
//! A client sends [`Request`]s, each with an id of its own choice; the shim answers each with one [`Reply`]
//! of the same id, not necessarily in order. After [`Operation::Subscribe`] the shim also sends [`Event`]s on that connection.
//!
//! Descriptors, in the order in which they are attached:
//!
//! | message | descriptors |
//! |---|---|
//! | request `Exec`, `tty: false` | stdin, stdout, stderr of the process |
//! | reply to `Exec`, `tty: true` | the terminal's master |
//! | request `Checkpoint` | a socket, see there |
//! | request `Attach` | as flagged: stdout, stderr (the shim writes to them; it never blocks on them) |
//! | reply to `Attach` | as `stdin`: the write end of the container's stdin, or the terminal's master |
//! | reply to `Namespaces` | one for each entry of `types` |

use std::collections::BTreeMap;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Process};
use serde::{Deserialize, Serialize};

/// Raised when a message changes incompatibly. A daemon talks to shims of its own and of older versions.
pub const PROTOCOL_VERSION: u32 = 3;

/// Since which [`CreateContainer::pid_of`] is known.
pub const PID_OF_VERSION: u32 = 2;

/// Since which [`Operation::Checkpoint`] and [`Operation::Restore`] are known.
pub const CHECKPOINT_VERSION: u32 = 3;

/// Byte that either side of [`Operation::Checkpoint`]'s socket sends: the shim when nothing of the container moves and all is
/// written, the client when it has what it needs beside that.
pub const AT_REST: u8 = b'R';

/// Longest frame body either side accepts.
pub const MAX_FRAME_BYTES: usize = 4 << 20;

/// Most descriptors one frame carries.
pub const MAX_FRAME_DESCRIPTORS: usize = 8;

/// What the shim is started for: `sandbox.json` in the pod's directory, written before the shim starts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxSetup {
    pub id: String,
    /// Host name of the pod's uts namespace; empty keeps the host's.
    pub hostname: String,
    /// Namespaces of its own that the shim creates and pins.
    pub namespaces: Vec<PodNamespace>,
    /// Of the namespace [`PodNamespace::User`], in the order of `/proc/PID/uid_map`.
    #[serde(default)]
    pub uid_map: Vec<IdMapping>,
    #[serde(default)]
    pub gid_map: Vec<IdMapping>,
    /// Written beneath `/proc/sys` inside the pod's namespaces, dots between the components.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// Who makes the control groups that the containers' `cgroupsPath` names.
    #[serde(default)]
    pub cgroup_driver: CgroupDriver,
    /// Command of a foreign OCI runtime; `None` runs the runtime in the shim's own process.
    #[serde(default)]
    pub oci_runtime: Option<PathBuf>,
    /// Directory in which compiled seccomp filters are kept, which takes many times as long as all else of a container.
    #[serde(default)]
    pub seccomp_cache: Option<PathBuf>,
}

/// Who makes control groups. A kubelet must be told the same (`cgroupDriver`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupDriver {
    /// Wharf itself, in the cgroup file systems.
    #[default]
    Cgroupfs,
    /// The system's manager, as scopes in slices.
    Systemd,
}

/// `size` ids from `container` on are those from `host` on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMapping {
    pub container: u32,
    pub host: u32,
    pub size: u32,
}

/// A namespace that all containers of a pod share.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PodNamespace {
    /// Owns all others.
    User,
    Network,
    Ipc,
    Uts,
    /// Has a PID 1 of the shim's own: a reaper.
    Pid,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    pub id: u64,
    pub operation: Operation,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Reply {
    pub id: u64,
    pub result: Result<Answer, Failure>,
}

/// Anything the shim sends.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum FromShim {
    Reply(Reply),
    Event(Event),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "snake_case")]
pub enum Operation {
    Version,
    /// The pod and all containers the shim knows, exited ones too.
    Status,
    /// Descriptors of the pinned namespaces.
    Namespaces,
    Create(CreateContainer),
    /// Makes a container from a checkpoint's images and lets it run; version 3.
    Restore(RestoreContainer),
    /// Writes a running container's processes into files and lets them run on; version 3. It is answered when all is done,
    /// and other requests are served meanwhile. On the socket that comes with it the shim sends [`AT_REST`] when all is
    /// written and nothing moves yet, and waits for the same byte; an end of file instead undoes the checkpoint.
    Checkpoint(CheckpointContainer),
    Start {
        container: String,
    },
    /// Sends `signal` to the container's init, or to every process of the container.
    Kill {
        container: String,
        signal: i32,
        all: bool,
    },
    /// Gives up a container that is not running: its cgroup and its record. A running one is refused.
    Delete {
        container: String,
    },
    Exec(ExecProcess),
    /// Sends `signal` to an exec'd process; `all` ends its whole session.
    KillExec {
        exec: String,
        signal: i32,
        all: bool,
    },
    Attach {
        container: String,
        stdin: bool,
        stdout: bool,
        stderr: bool,
    },
    /// Gives up the shim's own end of the container's stdin, so that closing the attached end is end of file.
    CloseStdin {
        container: String,
    },
    /// Of the container's terminal, or of the exec's.
    Resize {
        container: String,
        exec: Option<String>,
        rows: u16,
        columns: u16,
    },
    ReopenLog {
        container: String,
    },
    Update {
        container: String,
        resources: Box<LinuxResources>,
    },
    Subscribe,
    /// Refused while a container runs. The shim removes its socket and ends.
    Shutdown,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct CreateContainer {
    pub id: String,
    /// Directory with `config.json`. Namespaces that the pod shares are left out of it: the shim puts its own in.
    pub bundle: PathBuf,
    pub rootfs: Rootfs,
    /// CRI log file; `None` throws the output away.
    pub log: Option<PathBuf>,
    pub stdin: bool,
    /// The first attached client that closes stdin closes it for good.
    pub stdin_once: bool,
    /// Namespaces of the pod that the container joins.
    pub join: Vec<PodNamespace>,
    /// The container of this pod whose PID namespace it joins; version 2.
    #[serde(default)]
    pub pid_of: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct RestoreContainer {
    pub create: CreateContainer,
    /// Directory of criu's images.
    pub images: PathBuf,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct CheckpointContainer {
    pub container: String,
    /// Directory for criu's images, which the shim makes.
    pub images: PathBuf,
    /// Directory for criu's log.
    pub work: PathBuf,
    /// What has not been done after so long is given up.
    pub seconds: u32,
}

/// Where a container's root file system comes from.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Rootfs {
    /// `root.path` of the bundle's `config.json`.
    Bundle,
    /// Mounted by the container's child inside its own mount namespace; `lower` topmost first.
    Overlay { lower: Vec<PathBuf>, upper: PathBuf, work: PathBuf },
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ExecProcess {
    pub container: String,
    /// Id of the exec within the container, chosen by the client; names it in events.
    pub exec: String,
    pub process: Box<Process>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "snake_case")]
pub enum Answer {
    Done,
    Version { protocol: u32, version: String, pid: u32 },
    Status { containers: Vec<ContainerState> },
    Namespaces { types: Vec<PodNamespace> },
    Created { pid: u32 },
    Executing { pid: u32 },
}

/// Why an operation failed. `kind` decides the gRPC code, `message` is for people.
#[derive(Debug, Clone, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    pub kind: FailureKind,
    pub message: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureKind {
    NotFound,
    AlreadyExists,
    /// The container is in the wrong state for the operation.
    WrongState,
    /// The request itself is wrong.
    Invalid,
    Internal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ContainerPhase {
    Created,
    Running,
    Exited,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerState {
    pub id: String,
    pub phase: ContainerPhase,
    /// 0 once exited.
    pub pid: u32,
    /// Unix time in nanoseconds, as all times here.
    pub created_at: i64,
    /// 0 until started.
    pub started_at: i64,
    pub exit: Option<Exit>,
}

/// How a process ended. The shim keeps a container's as `exit.json` beside its bundle, so that it outlives both.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// 0-255; 128 + signal where a signal ended the process.
    pub code: i32,
    pub signal: Option<i32>,
    /// The container's cgroup counted an OOM kill.
    pub oom_killed: bool,
    /// The group whose limit was hit then; `None` where none was, and from shims that do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub oom_origin: Option<OomOrigin>,
    pub finished_at: i64,
}

/// A control group that had no memory left below its limit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OomOrigin {
    /// From the hierarchy's root on.
    pub group: String,
    pub limit_bytes: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    Started {
        container: String,
        pid: u32,
        at: i64,
    },
    /// Every byte of output is in the log by now.
    Exited {
        container: String,
        exit: Exit,
    },
    ExecExited {
        container: String,
        exec: String,
        exit: Exit,
    },
    Oom {
        container: String,
        at: i64,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_events_are_told_apart() {
        let reply = r#"{"id":7,"result":{"Ok":{"answer":"created","pid":12}}}"#;
        assert!(matches!(serde_json::from_str(reply), Ok(FromShim::Reply(Reply { id: 7, .. }))));
        let exit = Exit { code: 137, signal: Some(9), oom_killed: true, oom_origin: None, finished_at: 1 };
        let event = serde_json::to_string(&Event::Exited { container: "c".into(), exit }).unwrap();
        assert!(matches!(serde_json::from_str(&event), Ok(FromShim::Event(Event::Exited { .. }))));
    }

    #[test]
    fn operations_keep_their_wire_form() {
        let request = Request { id: 1, operation: Operation::Start { container: "c".into() } };
        assert_eq!(serde_json::to_string(&request).unwrap(), r#"{"id":1,"operation":{"op":"start","container":"c"}}"#);
    }
}
