//! Processes of a control group, what they have open, and the limits of the first.

use std::fs;
use std::path::{Path, PathBuf};

use wharf_runtime::cgroup::Cgroup;

/// Of so many processes the open files are counted; a group with more shows those of these.
const MAX_PROCESSES: usize = 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tasks {
    pub processes: u64,
    pub open_files: u64,
    /// Among the open files.
    pub sockets: u64,
    /// Soft limits of the first process: cAdvisor's name of each, and the value; `None` is unlimited.
    pub limits: Vec<(&'static str, Option<u64>)>,
}

pub(super) fn read(group: &Cgroup, first: u32) -> Tasks {
    let processes = processes(group);
    let mut tasks = Tasks { processes: processes.len() as u64, ..Tasks::default() };
    for pid in processes.into_iter().take(MAX_PROCESSES) {
        // Gone since, or one that may not be looked into.
        let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { continue };
        for entry in entries.flatten() {
            tasks.open_files += 1;
            let target = fs::read_link(entry.path()).unwrap_or_default();
            tasks.sockets += u64::from(target.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
        }
    }
    if first != 0 {
        tasks.limits = limits(&fs::read_to_string(format!("/proc/{first}/limits")).unwrap_or_default());
    }
    tasks
}

pub(super) fn process_count(group: &Cgroup) -> u64 {
    processes(group).len() as u64
}

/// With those of the groups below.
fn processes(group: &Cgroup) -> Vec<u32> {
    let mut found = Vec::new();
    let mut directories: Vec<PathBuf> = group.path().map(Path::to_path_buf).into_iter().collect();
    while let Some(directory) = directories.pop() {
        let text = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        found.extend(text.lines().filter_map(|line| line.parse::<u32>().ok()).filter(|pid| *pid > 0));
        let below = fs::read_dir(&directory).into_iter().flatten().flatten();
        directories.extend(below.filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir())).map(|e| e.path()));
    }
    found
}

/// From `/proc/PID/limits` (proc(5)): cAdvisor has that of open files.
fn limits(text: &str) -> Vec<(&'static str, Option<u64>)> {
    let soft = text.lines().find_map(|line| line.strip_prefix("Max open files")?.split_whitespace().next());
    soft.map(|soft| ("max_open_files", soft.parse().ok())).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_soft_limit_of_open_files_is_read() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
                    Max processes             unlimited            unlimited            processes \n\
                    Max open files            1024                 524288               files     \n";
        assert_eq!(limits(text), [("max_open_files", Some(1024))]);
        assert_eq!(limits("Max open files            unlimited            unlimited            files \n")[0].1, None);
        assert!(limits("").is_empty());
    }
}
