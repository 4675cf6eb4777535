//! What a pod keeps in its directory, `RUN/pods/<sandbox>/`, so that a new daemon can take it back.
//!
//! ```text
//! sandbox.json          what the shim was started for      (written before the shim)
//! shim.sock shim.log    the shim's
//! pod.json              PodRecord
//! hosts hostname resolv.conf   bound into the containers
//! shm/                  a tmpfs where the pod has one of its own
//! containers/<id>/      config.json  container.json  exit.json (the shim's)
//! ```

use std::fs;
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use wharf_specs::shim::Exit;

use super::spec::{ContainerConfig, SandboxConfig};
use crate::removal::remove_tree;

/// `pod.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct PodRecord {
    pub(crate) config: SandboxConfig,
    pub(crate) phase: PodPhase,
    pub(crate) created_at: i64,
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) shim_pid: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum PodPhase {
    /// Nobody was told the id yet: a daemon that finds this clears it away.
    Starting,
    Ready,
    Stopped,
}

/// `container.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ContainerRecord {
    pub(crate) config: ContainerConfig,
    pub(crate) image_id: String,
    pub(crate) log_path: Option<PathBuf>,
    pub(crate) stop_signal: i32,
    pub(crate) user: ContainerUser,
    pub(crate) created_at: i64,
    /// 0 until started.
    pub(crate) started_at: i64,
    /// Reason and message of an end that the exit alone does not explain.
    pub(crate) end_reason: Option<(String, String)>,
    pub(crate) exit: Option<Exit>,
    /// Its start is the restore of a checkpoint; until then no shim knows it.
    #[serde(default)]
    pub(crate) restores: bool,
}

impl ContainerRecord {
    pub(crate) fn waits_for_restore(&self) -> bool {
        self.restores && self.started_at == 0 && self.exit.is_none()
    }
}

/// Whom the container's first process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerUser {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
}

/// Paths inside one pod's directory.
#[derive(Debug, Clone)]
pub(crate) struct PodDirectory {
    pub(crate) path: PathBuf,
}

impl PodDirectory {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path }
    }

    pub(crate) fn create(&self) -> io::Result<()> {
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.path)?;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(self.path.join("containers"))
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join("shim.sock")
    }

    pub(crate) fn container(&self, id: &str) -> PathBuf {
        self.path.join("containers").join(id)
    }

    pub(crate) fn read_pod(&self) -> io::Result<PodRecord> {
        read_json(&self.path.join("pod.json"))
    }

    pub(crate) fn write_pod(&self, record: &PodRecord) -> io::Result<()> {
        write_json(&self.path.join("pod.json"), record)
    }

    pub(crate) fn read_container(&self, id: &str) -> io::Result<ContainerRecord> {
        read_json(&self.container(id).join("container.json"))
    }

    pub(crate) fn write_container(&self, id: &str, record: &ContainerRecord) -> io::Result<()> {
        write_json(&self.container(id).join("container.json"), record)
    }

    /// The shim's record of how the container ended; `None` while it has none.
    pub(crate) fn read_exit(&self, id: &str) -> Option<Exit> {
        read_json(&self.container(id).join("exit.json")).ok()
    }

    pub(crate) fn container_ids(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.path.join("containers")) else { return Vec::new() };
        entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    /// Takes everything away; gone already is done.
    pub(crate) fn remove(&self) -> io::Result<()> {
        remove_tree(&self.path)
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> io::Result<T> {
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

/// Written whole or not at all. RUN does not survive a power loss, so nothing is synced.
pub(crate) fn write_json<T: Serialize>(path: &Path, value: &T) -> io::Result<()> {
    write_whole(path, &serde_json::to_vec(value)?, 0o600)
}

pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(mode).open(&temporary)?;
    file.write_all(content)?;
    drop(file);
    fs::rename(&temporary, path)
}
