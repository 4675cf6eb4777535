//! Control groups as the supervisor needs them: where they are, what runs in them, taking them away.
//!
//! The runtime makes them; the supervisor cleans up what a shim that died left behind.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// How often processes that appear while their cgroup is being killed are looked for again.
const KILL_ROUND: Duration = Duration::from_millis(10);

/// One cgroup by its path relative to each hierarchy's root.
#[derive(Debug, Clone)]
pub(crate) struct Cgroup {
    relative: PathBuf,
}

/// True where `/sys/fs/cgroup` itself is the unified hierarchy.
pub(crate) fn is_unified() -> bool {
    Path::new(CGROUP_ROOT).join("cgroup.controllers").exists()
}

/// Whether the node's control groups have a controller of that name.
pub(crate) fn has_controller(name: &str) -> bool {
    let root = Path::new(CGROUP_ROOT);
    let unified = |at: &Path| {
        let controllers = fs::read_to_string(at.join("cgroup.controllers"))?;
        Ok::<_, std::io::Error>(controllers.split_whitespace().any(|controller| controller == name))
    };
    // On a hybrid host a controller is in a hierarchy of its own or in the unified one beside those.
    unified(root).unwrap_or_else(|_| root.join(name).is_dir() || unified(&root.join("unified")).unwrap_or(false))
}

impl Cgroup {
    pub(crate) fn new(relative: impl AsRef<Path>) -> Self {
        let relative = relative.as_ref();
        Self { relative: relative.strip_prefix("/").unwrap_or(relative).to_path_buf() }
    }

    /// Its path from each hierarchy's root on, without a slash before it.
    pub(crate) fn relative(&self) -> &Path {
        &self.relative
    }

    /// Its directory in every hierarchy that is mounted.
    fn directories(&self) -> Vec<PathBuf> {
        if is_unified() {
            return vec![Path::new(CGROUP_ROOT).join(&self.relative)];
        }
        let Ok(hierarchies) = fs::read_dir(CGROUP_ROOT) else { return Vec::new() };
        hierarchies
            .flatten()
            // `cpu,cpuacct` is reached by links under both names.
            .filter(|hierarchy| hierarchy.file_type().is_ok_and(|kind| kind.is_dir()))
            .map(|hierarchy| hierarchy.path().join(&self.relative))
            .filter(|directory| directory.is_dir())
            .collect()
    }

    /// Kills every process in it and below, until none is left or `deadline` passed. True if none is left.
    pub(crate) fn kill_all(&self, deadline: Duration) -> bool {
        let end = Instant::now() + deadline;
        loop {
            let mut alive = false;
            for directory in self.directories() {
                // Kills also what forks meanwhile; hierarchies of v1 lack the file.
                if fs::write(directory.join("cgroup.kill"), "1").is_ok() {
                    alive |= !processes(&directory).is_empty();
                    continue;
                }
                for pid in processes(&directory) {
                    alive = true;
                    if let Some(pid) = Pid::from_raw(pid) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
            }
            if !alive {
                return true;
            }
            if Instant::now() > end {
                return false;
            }
            std::thread::sleep(KILL_ROUND);
        }
    }

    pub(crate) fn exists(&self) -> bool {
        self.directories().iter().any(|directory| directory.is_dir())
    }

    /// True if a process is in it or below.
    pub(crate) fn has_processes(&self) -> bool {
        self.directories().iter().any(|directory| !processes(directory).is_empty())
    }

    /// Removes it and what is below, where nothing runs there.
    pub(crate) fn remove_tree(&self) {
        for directory in self.directories() {
            remove_below(&directory);
        }
    }

    /// Removes it alone; one that has children or processes stays.
    pub(crate) fn remove_if_empty(&self) {
        for directory in self.directories() {
            let _ = fs::remove_dir(directory);
        }
    }
}

fn processes(directory: &Path) -> Vec<i32> {
    let mut pids: Vec<i32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.parse().ok())
        // 0 stands for a process of another pid namespace.
        .filter(|pid| *pid > 0)
        .collect();
    for child in children(directory) {
        pids.extend(processes(&child));
    }
    pids
}

fn children(directory: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()).collect()
}

fn remove_below(directory: &Path) {
    for child in children(directory) {
        remove_below(&child);
    }
    let _ = fs::remove_dir(directory);
}
