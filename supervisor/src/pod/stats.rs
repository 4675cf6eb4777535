//! Figures from a container's cgroup, on v1 and v2 alike, each read when asked for.

use std::fs;
use std::path::Path;

use super::cgroup::{Cgroup, is_unified};
use super::node::now;

/// Absent figures are those the kernel did not give.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContainerStats {
    /// When they were read; unix time in nanoseconds.
    pub timestamp: i64,
    pub cpu_usage_ns: Option<u64>,
    pub memory_usage_bytes: Option<u64>,
    /// Usage without the file cache that can be given up at once.
    pub working_set_bytes: Option<u64>,
    pub rss_bytes: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    /// `None` where there is no limit.
    pub memory_limit_bytes: Option<u64>,
    pub swap_usage_bytes: Option<u64>,
    pub processes: Option<u64>,
}

/// A v1 limit at or above this is none: the kernel shows its largest page count.
const V1_UNLIMITED: u64 = 1 << 60;

pub(crate) fn read(cgroup: &Cgroup) -> ContainerStats {
    let mut stats = if is_unified() { read_v2(&cgroup.directory("")) } else { read_v1(cgroup) };
    stats.timestamp = now();
    stats
}

fn read_v1(cgroup: &Cgroup) -> ContainerStats {
    let memory = cgroup.directory("memory");
    let detail = text(&memory, "memory.stat");
    let usage = number(&memory, "memory.usage_in_bytes");
    let with_swap = number(&memory, "memory.memsw.usage_in_bytes");
    ContainerStats {
        timestamp: 0,
        cpu_usage_ns: number(&cgroup.directory("cpuacct"), "cpuacct.usage"),
        memory_usage_bytes: usage,
        working_set_bytes: working_set(usage, entry(&detail, "total_inactive_file")),
        rss_bytes: entry(&detail, "total_rss"),
        page_faults: entry(&detail, "total_pgfault"),
        major_page_faults: entry(&detail, "total_pgmajfault"),
        memory_limit_bytes: number(&memory, "memory.limit_in_bytes").filter(|limit| *limit < V1_UNLIMITED),
        swap_usage_bytes: with_swap.zip(usage).map(|(both, usage)| both.saturating_sub(usage)),
        processes: number(&cgroup.directory("pids"), "pids.current"),
    }
}

fn read_v2(directory: &Path) -> ContainerStats {
    let detail = text(directory, "memory.stat");
    let usage = number(directory, "memory.current");
    ContainerStats {
        timestamp: 0,
        cpu_usage_ns: entry(&text(directory, "cpu.stat"), "usage_usec").map(|microseconds| microseconds * 1000),
        memory_usage_bytes: usage,
        working_set_bytes: working_set(usage, entry(&detail, "inactive_file")),
        rss_bytes: entry(&detail, "anon"),
        page_faults: entry(&detail, "pgfault"),
        major_page_faults: entry(&detail, "pgmajfault"),
        memory_limit_bytes: number(directory, "memory.max"),
        swap_usage_bytes: number(directory, "memory.swap.current"),
        processes: number(directory, "pids.current"),
    }
}

fn working_set(usage: Option<u64>, inactive_file: Option<u64>) -> Option<u64> {
    usage.map(|usage| usage.saturating_sub(inactive_file.unwrap_or(0)))
}

fn text(directory: &Path, file: &str) -> String {
    fs::read_to_string(directory.join(file)).unwrap_or_default()
}

fn number(directory: &Path, file: &str) -> Option<u64> {
    text(directory, file).trim().parse().ok()
}

/// The value of `key` in a file of `key value` lines.
fn entry(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.trim().parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_found_by_their_whole_key() {
        let text = "anon 12\nanon_thp 7\ninactive_file 3\n";
        assert_eq!(entry(text, "anon"), Some(12));
        assert_eq!(entry(text, "inactive_file"), Some(3));
        assert_eq!(entry(text, "file"), None);
    }

    #[test]
    fn working_set_never_goes_below_zero() {
        assert_eq!(working_set(Some(5), Some(7)), Some(0));
        assert_eq!(working_set(None, Some(7)), None);
    }
}
