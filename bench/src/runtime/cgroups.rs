//! A machine with cgroup v2 alone, for a while: on hybrid hosts there are peers that refuse to run.

use std::fs::File;
use std::os::fd::AsFd;
use std::process::Command;

use wharf_sys::{clone, namespace};

use crate::measure;

/// Where control groups are mounted.
pub(super) const ROOT: &str = "/sys/fs/cgroup";

/// This process is in a mount namespace of its own, with cgroup v2 and nothing else on [`ROOT`], until this is dropped.
pub(super) struct UnifiedOnly {
    before: File,
    has_controllers: bool,
}

impl UnifiedOnly {
    pub(super) fn enter() -> anyhow::Result<Self> {
        let mut this = Self { before: File::open("/proc/self/ns/mnt")?, has_controllers: false };
        namespace::unshare(clone::CLONE_NEWNS)?;
        if !std::path::Path::new(ROOT).join("cgroup.controllers").exists() {
            // A private copy of what the bench's own mount namespace has: nobody else loses anything.
            measure::run(Command::new("umount").args(["--lazy", "--recursive", ROOT]))?;
            measure::run(Command::new("mount").args(["-t", "cgroup2", "cgroup2", ROOT]))?;
        }
        let controllers = std::fs::read_to_string(std::path::Path::new(ROOT).join("cgroup.subtree_control"))?;
        this.has_controllers =
            ["cpu", "memory", "pids"].iter().all(|wanted| controllers.split_whitespace().any(|name| name == *wanted));
        Ok(this)
    }

    /// Whether memory, processor and processes can be limited there.
    pub(super) fn has_controllers(&self) -> bool {
        self.has_controllers
    }
}

impl Drop for UnifiedOnly {
    fn drop(&mut self) {
        if let Err(error) = namespace::join(self.before.as_fd(), clone::CLONE_NEWNS) {
            eprintln!("bench: back to the mount namespace: {error}");
        }
    }
}
