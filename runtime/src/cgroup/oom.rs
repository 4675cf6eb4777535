//! Kills for want of memory: how many, by whose limit, and a watch on them.

use super::Cgroup;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use wharf_sys::event;

/// The kernel charges in batches of this size, so that a group may be that far below a limit that was in the way.
const OOM_SLACK_BYTES: u64 = 128 << 10;

impl Cgroup {
    /// How many processes the kernel has killed for want of memory since the group was made.
    pub fn oom_kills(&self) -> u64 {
        let file = match (self.v1("memory"), &self.unified) {
            (Some(path), _) => path.join("memory.oom_control"),
            (None, Some(path)) => path.join("memory.events"),
            (None, None) => return 0,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// The group, this one or one above, whose limit was in the way when the kernel killed for want of memory, by its path
    /// from the hierarchy's root on, and that limit in bytes; of groups with the same limit, the innermost. `None` where it
    /// was the machine's own memory that ran out.
    pub fn oom_origin(&self) -> Option<(String, u64)> {
        let (group, limit_file) = match (self.v1("memory"), &self.unified) {
            (Some(path), _) => (path, "memory.limit_in_bytes"),
            (None, Some(path)) => (path.as_path(), "memory.max"),
            (None, None) => return None,
        };
        let read = |group: &Path, file: &str| fs::read_to_string(group.join(file)).ok();
        let number = |group: &Path, file: &str| read(group, file)?.trim().parse::<u64>().ok();
        // v1 counts what could be reclaimed too, and of limits that are alike only the outermost: a peak at the limit says
        // that it was in the way.
        let v1_was_hit = |group: &Path, counter: &str| {
            let value = |file: &str| number(group, &format!("memory.{counter}{file}"));
            value("limit_in_bytes")
                .zip(value("max_usage_in_bytes"))
                .is_some_and(|(limit, most)| most + OOM_SLACK_BYTES >= limit)
        };
        let was_hit = |group: &Path| match read(group, "memory.events.local") {
            Some(events) => {
                let count = events.lines().find_map(|line| line.strip_prefix("oom "));
                count.is_some_and(|count| count.trim() != "0")
            }
            None => v1_was_hit(group, "") || v1_was_hit(group, "memsw."),
        };
        let groups = || group.ancestors().take_while(|group| group.join(limit_file).exists());
        let limit = groups().find(|group| was_hit(group)).and_then(|group| number(group, limit_file))?;
        // Where a pod has no more than its only container, what the container alone was given is what was too little.
        let named = groups().find(|group| number(group, limit_file) == Some(limit))?;
        let path = named.strip_prefix("/sys/fs/cgroup").ok()?;
        let path = path.strip_prefix("memory").or_else(|_| path.strip_prefix("unified")).unwrap_or(path);
        Some((format!("/{}", path.display()), limit))
    }

    /// A watch on kills for want of memory; none where no memory controller is mounted.
    pub fn watch_oom(&self) -> io::Result<Option<OomWatch>> {
        if let Some(path) = self.v1("memory") {
            let control = File::open(path.join("memory.oom_control"))?;
            let event = event::eventfd()?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            super::write(&path.join("cgroup.event_control"), &line)?;
            return Ok(Some(OomWatch { descriptor: File::from(event), cgroup: self.clone(), seen: self.oom_kills() }));
        }
        match &self.unified {
            Some(path) if path.join("memory.events").exists() => {
                let descriptor = File::open(path.join("memory.events"))?;
                Ok(Some(OomWatch { descriptor, cgroup: self.clone(), seen: self.oom_kills() }))
            }
            _ => Ok(None),
        }
    }
}

/// Becomes ready when the kernel runs out of memory for a group.
#[derive(Debug)]
pub struct OomWatch {
    /// v1: an eventfd the kernel adds to. v2: `memory.events`, which has an exceptional condition on each change.
    descriptor: File,
    cgroup: Cgroup,
    seen: u64,
}

impl OomWatch {
    /// What to add to an epoll, for `EPOLLIN` on v1 and `EPOLLPRI` on v2.
    pub fn interest(&self) -> i32 {
        if self.cgroup.is_legacy() { event::EPOLLIN } else { event::EPOLLPRI }
    }

    /// Whether there was a kill since the last call; clears the readiness.
    pub fn fired(&mut self) -> bool {
        if self.cgroup.is_legacy() {
            let mut count = [0u8; 8];
            let signalled = (&self.descriptor).read(&mut count).is_ok_and(|length| length == 8);
            // The removal of the group is signalled as well.
            return signalled && self.cgroup.v1("memory").is_some_and(Path::exists);
        }
        let kills = self.cgroup.oom_kills();
        // Read through the descriptor: that is what takes the condition back.
        let _ = self.descriptor.read_at(&mut [0], 0);
        let fired = kills > self.seen;
        self.seen = kills;
        fired
    }
}

impl AsFd for OomWatch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}
