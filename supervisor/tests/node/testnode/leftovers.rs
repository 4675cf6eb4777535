//! What a node has left on the machine, and its end.

use super::groups::end_cgroup;
use super::{TestNode, shim};

impl TestNode {
    /// Whatever of this node is left on the machine; each entry names one thing.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let own = self.dir.path().to_str().unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let numeric = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
            if numeric && command.contains(own) {
                found.push(format!("process {command}"));
            }
        }
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(own)).map(|line| format!("mount {line}")));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join(&self.cgroup);
            if cgroup.exists() {
                found.push(format!("cgroup {}", cgroup.display()));
            }
        }
        let links = String::from_utf8_lossy(&self.inside(&["ip", "-o", "link"]).stdout).into_owned();
        found.extend(links.lines().filter(|line| !line.contains(": lo:")).map(|line| format!("interface {line}")));
        let tables = String::from_utf8_lossy(&self.inside(&["nft", "list", "tables"]).stdout).into_owned();
        found.extend(tables.lines().map(|line| format!("nft {line}")));
        for directory in [
            "run/pods",
            "run/network/netns",
            "data/containers",
            "data/network/attachments",
            "data/pods",
            "data/volumes",
        ] {
            let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        found
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- wharfd.log\n{}", self.log());
            for entry in std::fs::read_dir(self.path("run/pods")).into_iter().flatten().flatten() {
                let log = std::fs::read_to_string(entry.path().join("shim.log")).unwrap_or_default();
                eprintln!("--- {}/shim.log\n{log}", entry.path().display());
            }
        }
        if std::thread::panicking() {
            for pod in std::fs::read_dir(self.path("logs")).into_iter().flatten().flatten() {
                for log in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                    let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                    eprintln!("--- {}\n{text}", log.path().display());
                }
            }
        }
        if let Some(mut wharfd) = self.wharfd.take() {
            let _ = wharfd.kill();
            let _ = wharfd.wait();
        }
        // Only where a test failed is there anything left to end: shims are found by this node's own directory, and
        // containers by its own cgroup.
        let own = self.dir.path().to_str().unwrap_or("/nonexistent").to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok().and_then(rustix::process::Pid::from_raw);
            let is_shim = command.starts_with(shim().to_str().unwrap_or("?").as_bytes());
            if let (Some(pid), true) = (pid, is_shim && String::from_utf8_lossy(&command).contains(&own)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            // A CNI plugin leads a group of processes.
            let is_plugin = String::from_utf8_lossy(&command).contains(&format!("{own}/plugins/"));
            if let (Some(pid), true) = (pid, is_plugin) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            end_cgroup(&hierarchy.path().join(&self.cgroup));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}
