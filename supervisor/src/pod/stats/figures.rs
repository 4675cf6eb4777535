//! A control group's figures, named alike whatever the version of its files.

use std::collections::BTreeMap;

use wharf_runtime::cgroup::{BlockIoEntry, Cgroup, HugePages, Pressure, Stats};

use crate::pod::node::now;

/// A v1 limit at or above this is none: the kernel shows its largest page count.
const UNLIMITED: u64 = 1 << 60;

/// Times are nanoseconds, sizes bytes. Absent figures are those the kernel did not give.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Figures {
    /// When they were read; unix time.
    pub timestamp: i64,
    pub cpu: Cpu,
    pub memory: Memory,
    pub io: Io,
    /// Threads and processes together.
    pub threads: u64,
    /// 0 where there is none.
    pub threads_limit: u64,
    pub oom_kills: u64,
    pub huge_pages: BTreeMap<String, HugePagesUsage>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Cpu {
    pub usage: u64,
    /// A thousand millionth of a processor; `None` before there are two samples.
    pub usage_nano_cores: Option<u64>,
    pub user: u64,
    pub system: u64,
    pub periods: u64,
    pub throttled_periods: u64,
    pub throttled: u64,
    pub pressure: Option<Stall>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Memory {
    pub usage: Option<u64>,
    pub max_usage: Option<u64>,
    /// `None` where there is none.
    pub limit: Option<u64>,
    /// How often the limit was in the way.
    pub limit_hits: u64,
    /// Usage without the file cache that can be given up at once.
    pub working_set: Option<u64>,
    pub rss: Option<u64>,
    pub cache: Option<u64>,
    pub mapped_file: Option<u64>,
    pub kernel: Option<u64>,
    pub page_faults: Option<u64>,
    pub major_page_faults: Option<u64>,
    pub swap_usage: Option<u64>,
    /// `None` where there is none.
    pub swap_limit: Option<u64>,
    pub pressure: Option<Stall>,
}

#[derive(Debug, Clone, Default, PartialEq)]
pub struct Io {
    pub bytes: Vec<Device>,
    pub operations: Vec<Device>,
    pub pressure: Option<Stall>,
}

/// What was read from and written to one block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Device {
    pub major: u64,
    pub minor: u64,
    pub read: u64,
    pub written: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct HugePagesUsage {
    pub usage: u64,
    pub max_usage: u64,
}

/// Pressure stall information: time in which some, or all, tasks waited for the resource.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Stall {
    pub some: StallTime,
    pub full: StallTime,
}

/// Averages in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct StallTime {
    pub total: u64,
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
}

/// How many of the figures are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    /// Processor time, memory and swap with their limits, and pressure; the others are 0 or absent.
    Summary,
    All,
}

/// `None` where the group is gone.
pub(super) fn read(cgroup: &Cgroup, detail: Detail) -> Option<Figures> {
    let timestamp = now();
    let (stats, oom_kills) = match detail {
        Detail::Summary => (cgroup.summary().ok()?, 0),
        Detail::All => (cgroup.usage().ok()?, cgroup.oom_kills()),
    };
    Some(Figures { timestamp, oom_kills, ..named(stats, cgroup.is_legacy()) })
}

fn named(stats: Stats, legacy: bool) -> Figures {
    let cpu = Cpu {
        usage: stats.cpu.usage.total,
        usage_nano_cores: None,
        user: stats.cpu.usage.user,
        system: stats.cpu.usage.kernel,
        periods: stats.cpu.throttling.periods,
        throttled_periods: stats.cpu.throttling.throttled_periods,
        throttled: stats.cpu.throttling.throttled_time,
        pressure: stall(stats.cpu.psi.as_ref()),
    };
    let io = Io {
        bytes: devices(&stats.blkio.io_service_bytes_recursive),
        operations: devices(&stats.blkio.io_serviced_recursive),
        pressure: stall(stats.blkio.psi.as_ref()),
    };
    Figures {
        timestamp: 0,
        cpu,
        io,
        threads: stats.pids.current,
        threads_limit: stats.pids.limit,
        oom_kills: 0,
        huge_pages: stats.hugetlb.iter().map(|(size, pages)| (size.clone(), huge(pages))).collect(),
        memory: memory(stats.memory, legacy),
    }
}

fn memory(stats: wharf_runtime::cgroup::Memory, legacy: bool) -> Memory {
    // v1 counts a group and those below it apart; what is meant is both.
    let entry = |v1: &str, v2: &str| stats.raw.get(if legacy { v1 } else { v2 }).copied();
    let limited = |limit: u64| Some(limit).filter(|limit| *limit < UNLIMITED);
    let usage = stats.usage.map(|entry| entry.usage);
    let inactive = entry("total_inactive_file", "inactive_file").unwrap_or(0);
    // Both versions' figures of swap are here with those of memory in them.
    let swap = stats.swap.zip(stats.usage);
    Memory {
        usage,
        max_usage: stats.usage.map(|entry| entry.max),
        limit: stats.usage.and_then(|entry| limited(entry.limit)),
        limit_hits: stats.usage.map_or(0, |entry| entry.failcnt),
        working_set: usage.map(|usage| usage.saturating_sub(inactive)),
        rss: entry("total_rss", "anon"),
        cache: entry("total_cache", "file"),
        mapped_file: entry("total_mapped_file", "file_mapped"),
        kernel: if legacy { stats.kernel.map(|entry| entry.usage) } else { entry("", "kernel") },
        page_faults: entry("total_pgfault", "pgfault"),
        major_page_faults: entry("total_pgmajfault", "pgmajfault"),
        swap_usage: swap.map(|(both, memory)| both.usage.saturating_sub(memory.usage)),
        swap_limit: swap.and_then(|(both, memory)| Some(limited(both.limit)?.saturating_sub(memory.limit))),
        pressure: stall(stats.psi.as_ref()),
    }
}

fn devices(entries: &[BlockIoEntry]) -> Vec<Device> {
    let mut devices: BTreeMap<(u64, u64), Device> = BTreeMap::new();
    for entry in entries {
        let (major, minor) = (entry.major, entry.minor);
        let device = devices.entry((major, minor)).or_insert(Device { major, minor, ..Device::default() });
        match entry.op.as_str() {
            "Read" => device.read = entry.value,
            "Write" => device.written = entry.value,
            _ => {}
        }
    }
    devices.into_values().collect()
}

fn huge(pages: &HugePages) -> HugePagesUsage {
    HugePagesUsage { usage: pages.usage, max_usage: pages.max }
}

fn stall(pressure: Option<&Pressure>) -> Option<Stall> {
    let pressure = pressure?;
    // The kernel counts microseconds.
    let time = |line: &Option<wharf_runtime::cgroup::PressureLine>| {
        line.as_ref().map_or_else(StallTime::default, |line| StallTime {
            total: line.total.saturating_mul(1000),
            avg10: line.avg10,
            avg60: line.avg60,
            avg300: line.avg300,
        })
    };
    Some(Stall { some: time(&pressure.some), full: time(&pressure.full) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_runtime::cgroup::{Memory as MemoryStats, MemoryEntry};

    fn raw(pairs: &[(&str, u64)]) -> BTreeMap<String, u64> {
        pairs.iter().map(|(key, value)| ((*key).to_string(), *value)).collect()
    }

    #[test]
    fn memory_has_the_same_meaning_in_both_versions() {
        let entry = |limit, usage| Some(MemoryEntry { limit, usage, max: 90, failcnt: 2 });
        let legacy = MemoryStats {
            usage: entry(100, 80),
            swap: entry(150, 85),
            raw: raw(&[("total_inactive_file", 30), ("inactive_file", 1), ("total_rss", 7), ("total_pgfault", 4)]),
            ..MemoryStats::default()
        };
        let unified = MemoryStats {
            usage: entry(100, 80),
            swap: entry(150, 85),
            raw: raw(&[("inactive_file", 30), ("anon", 7), ("pgfault", 4)]),
            ..MemoryStats::default()
        };
        let read = memory(legacy, true);
        assert_eq!(read, memory(unified, false));
        assert_eq!(
            (read.working_set, read.rss, read.swap_usage, read.swap_limit),
            (Some(50), Some(7), Some(5), Some(50))
        );
    }

    #[test]
    fn what_has_no_limit_shows_none_and_no_working_set_is_below_zero() {
        for limit in [u64::MAX, (i64::MAX as u64) & !0xfff] {
            let usage = Some(MemoryEntry { limit, usage: 5, ..MemoryEntry::default() });
            let stats = MemoryStats { usage, swap: usage, raw: raw(&[("inactive_file", 7)]), ..MemoryStats::default() };
            let read = memory(stats, false);
            assert_eq!((read.limit, read.swap_limit, read.working_set), (None, None, Some(0)));
        }
    }

    #[test]
    fn devices_are_listed_once_with_both_directions() {
        let entry = |op: &str, value| BlockIoEntry { major: 8, minor: 0, op: op.into(), value };
        let read = devices(&[entry("Read", 5), entry("Write", 6), entry("Total", 11)]);
        assert_eq!(read, [Device { major: 8, minor: 0, read: 5, written: 6 }]);
    }
}
