//! The control groups of a node, and of containers below it.

use super::TestNode;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

impl TestNode {
    /// The group of all that is the node's, relative to each hierarchy's root.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A group below that: a pod's, or one that a client makes.
    pub fn group_below(&self, name: &str) -> String {
        match self.cgroup.rsplit('/').next().and_then(|last| last.strip_suffix(".slice")) {
            Some(stem) => format!("{}/{stem}-{name}.slice", self.cgroup),
            None => format!("{}/{name}", self.cgroup),
        }
    }

    /// Ends the init of a container from outside, as the kernel's OOM killer would.
    pub fn kill_container(&self, id: &str) {
        let pid = self.processes_of(id).into_iter().next().and_then(rustix::process::Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("container {id} has no process in {}", self.cgroup));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Those in the group of a container.
    pub fn processes_of(&self, id: &str) -> Vec<i32> {
        let read = |group: PathBuf| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let found = self.groups_of(id).into_iter().map(read).find(|pids| !pids.is_empty()).unwrap_or_default();
        found.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The group of a container, in every hierarchy that has it.
    pub fn groups_of(&self, id: &str) -> Vec<PathBuf> {
        let name = if with_systemd() { format!("wharf-{id}.scope") } else { id.to_string() };
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(&self.cgroup));
        let mut left: Vec<PathBuf> = roots.collect();
        let mut found = Vec::new();
        while let Some(directory) = left.pop() {
            let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
            for group in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let list = if *group.file_name() == *name { &mut found } else { &mut left };
                list.push(group.path());
            }
        }
        found
    }

    /// Makes a group below the node's own, as one of a container, with a process in it.
    pub fn plant_group(&self, name: &str) {
        let name = if with_systemd() { format!("wharf-{name}.scope") } else { name.to_string() };
        let mut sleep = Command::new("sleep").arg("1234").spawn().unwrap();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(&self.cgroup));
        for group in roots.filter(|root| root.join("cgroup.procs").exists()).map(|root| root.join(&name)) {
            std::fs::create_dir(&group).unwrap();
            // A cpuset of v1 takes nobody before it has processors; the others suffice.
            let _ = std::fs::write(group.join("cgroup.procs"), sleep.id().to_string());
        }
        std::thread::spawn(move || sleep.wait());
    }
}

/// The node's control groups are made by systemd, if it is asked for and process 1.
pub(super) fn with_systemd() -> bool {
    std::env::var_os("WHARF_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// `a-b` as `a.slice/a-b.slice` (systemd.slice(5)).
pub(super) fn slice_directory(name: &str) -> String {
    let ends = name.match_indices('-').map(|(index, _)| index).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect::<Vec<_>>().join("/")
}

pub(super) fn end_cgroup(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            end_cgroup(&entry.path());
        }
    }
    for _ in 0..50 {
        let pids = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if std::fs::remove_dir(directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
