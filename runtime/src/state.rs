//! `state.json` in the runtime's root, and the state that `runw state` and hooks are given.

use crate::error::{Error, While};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use wharf_specs::id::ContainerId;
use wharf_specs::oci::{Hooks, LinuxSeccomp};
use wharf_sys::credential;

/// File in the container's state directory.
const FILE: &str = "state.json";
/// Socket in the state directory at which a created container waits; gone once it was started.
pub(crate) const START_SOCKET: &str = "start.sock";
/// Version of the runtime-spec that states are of.
pub const OCI_VERSION: &str = "1.3.0";

/// Where a container is in its life (runtime-spec, runtime.md#state); `Paused` is an addition of runc's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Creating,
    Created,
    Running,
    Paused,
    Stopped,
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Status::Creating => "creating",
            Status::Created => "created",
            Status::Running => "running",
            Status::Paused => "paused",
            Status::Stopped => "stopped",
        })
    }
}

/// The state handed to hooks (runtime-spec, runtime.md#state).
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HookState<'a> {
    pub(crate) oci_version: &'a str,
    pub(crate) id: &'a str,
    pub(crate) status: Status,
    #[serde(skip_serializing_if = "is_zero")]
    pub(crate) pid: i32,
    pub(crate) bundle: &'a Path,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) annotations: &'a BTreeMap<String, String>,
}

impl HookState<'_> {
    /// The JSON in a file that hooks can read.
    pub(crate) fn file(&self) -> Result<fs::File, Error> {
        let json = serde_json::to_vec(self).unwrap_or_default();
        wharf_sys::fs::sealed_memfd(c"state", &json[..]).during("make the hooks' state", "")
    }
}

fn is_zero(pid: &i32) -> bool {
    *pid == 0
}

/// What must be known of a container to find it again.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// Process id of the init in the host's pid namespace.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot: together with the pid it names one process.
    pub start_time: u64,
    pub bundle: PathBuf,
    pub rootfs: PathBuf,
    /// RFC 3339, UTC.
    pub created: String,
    /// User who made it.
    pub owner: u32,
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
    /// Directories of its control group; see [`crate::cgroup::Cgroup::paths`].
    pub cgroup_paths: Vec<(String, PathBuf)>,
    /// The unit, if systemd looks after the group.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub systemd_scope: Option<crate::cgroup::Scope>,
    #[serde(default)]
    pub hooks: Hooks,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp: Option<Arc<LinuxSeccomp>>,
    /// The container has a pid namespace of its own, which ends with its init.
    pub own_pid_namespace: bool,
    /// What every process of the container has besides its own settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub personality: Option<u32>,
    /// Mode and nodes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_policy: Option<(i32, Vec<usize>)>,
    /// What its standard descriptors were when it was made, as `/proc/PID/fd` names them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub stdio: Vec<String>,
    /// Where the root is mounted on the host and the number of that mount, for a container without a mount namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_mount: Option<(PathBuf, u64)>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rdt: Option<crate::intel_rdt::RdtGroup>,
}

impl State {
    /// Reads the state of a container.
    pub fn load(directory: &Path) -> Result<Self, Error> {
        let path = directory.join(FILE);
        let file = Self::open(directory)?;
        let mut bytes = Vec::new();
        (&file).read_to_end(&mut bytes).during("read", path.display())?;
        serde_json::from_slice(&bytes).map_err(|error| Error::State { path, problem: error.to_string() })
    }

    /// Opens the file of a state that is the caller's own.
    fn open(directory: &Path) -> Result<File, Error> {
        let path = directory.join(FILE);
        let file = File::open(&path).during("read", path.display())?;
        for (shown, open) in [(directory, &File::open(directory).during("read", path.display())?), (&path, &file)] {
            refuse_of_others(shown, &open.metadata().during("read", path.display())?)?;
        }
        Ok(file)
    }

    /// Whether there is a state, be it readable or not.
    pub fn is_in(directory: &Path) -> bool {
        directory.join(FILE).try_exists().unwrap_or(true)
    }

    /// Whether there is a state that is not the caller's own, and why it is not.
    pub fn of_others(directory: &Path) -> Option<Error> {
        Self::open(directory).err().filter(|error| matches!(error, Error::State { .. }))
    }

    /// Writes the state: whole, under its final name only once it is complete.
    pub fn save(&self, directory: &Path) -> Result<(), Error> {
        let temporary = directory.join(format!("{FILE}.new"));
        let path = directory.join(FILE);
        let bytes =
            serde_json::to_vec(self).map_err(|e| Error::State { path: path.clone(), problem: e.to_string() })?;
        let mut options = File::options();
        // Whatever the caller's mask is, others must not be able to write it.
        let open = options.write(true).create(true).truncate(true).mode(0o600).open(&temporary);
        open.and_then(|mut file| file.write_all(&bytes)).during("write", temporary.display())?;
        fs::rename(&temporary, &path).during("write", path.display())
    }

    /// Whether the init is still the process it was, and not a zombie.
    pub fn init_alive(&self) -> bool {
        process_status(self.pid).is_some_and(|(state, start)| start == self.start_time && !matches!(state, 'Z' | 'X'))
    }

    /// The status, from what the kernel and the state directory say.
    pub fn status(&self, directory: &Path) -> Status {
        if !self.init_alive() {
            return Status::Stopped;
        }
        // Before anything else: one that waits for its start can be paused too, and must be resumed then.
        if crate::cgroup::Cgroup::from_paths(self.cgroup_paths.iter().cloned()).is_frozen() {
            return Status::Paused;
        }
        if directory.join(START_SOCKET).exists() {
            return Status::Created;
        }
        Status::Running
    }
}

/// A state says what is run (hooks) and what is killed: only the caller's own is believed.
fn refuse_of_others(path: &Path, found: &Metadata) -> Result<(), Error> {
    const WRITABLE_BY_OTHERS: u32 = 0o022;
    let own = credential::effective_user();
    let problem = if found.uid() != own {
        format!("belongs to user {}, not to {own}, who would act on it", found.uid())
    } else if found.mode() & WRITABLE_BY_OTHERS != 0 {
        format!("can be written by others (mode {:o})", found.mode() & 0o7777)
    } else {
        return Ok(());
    };
    Err(Error::State { path: path.to_path_buf(), problem })
}

/// The directory of one container below the runtime's root.
pub fn directory(root: &Path, id: &ContainerId) -> PathBuf {
    root.join(id)
}

/// State letter and start time of a process, from `/proc/PID/stat`.
pub(crate) fn process_status(pid: i32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The command in parentheses may hold anything, so the fields are counted from its end (proc(5)).
pub(crate) fn parse_stat(text: &str) -> Option<(char, u64)> {
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?.chars().next()?;
    // Field 22 is the start time; the state was field 3.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_hostile_command_name() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 987654 1 2";
        assert_eq!(parse_stat(text), Some(('S', 987_654)));
    }

    #[test]
    fn this_process_is_alive() {
        let (state, start) = process_status(std::process::id() as i32).expect("own stat");
        assert!(matches!(state, 'R' | 'S'), "{state}");
        assert!(start > 0);
    }
}
