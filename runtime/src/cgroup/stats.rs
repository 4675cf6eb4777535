//! Usage of a control group, in the form that runc's `events` prints.

use super::files::Files;
use super::{Cgroup, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use wharf_sys::event;

/// Times are nanoseconds, sizes bytes; what the host does not count is absent or 0.
#[derive(Debug, Default, Serialize)]
pub struct Stats {
    pub cpu: Cpu,
    pub cpuset: Cpuset,
    pub memory: Memory,
    pub pids: Pids,
    pub blkio: BlockIo,
    pub hugetlb: BTreeMap<String, HugePages>,
    intel_rdt: Empty,
    /// Interfaces are counted by whoever made them; runc has none here either.
    network_interfaces: Option<()>,
}

#[derive(Debug, Default, Serialize)]
struct Empty {}

#[derive(Debug, Default, Serialize)]
pub struct Cpu {
    pub usage: CpuUsage,
    pub throttling: Throttling,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, Default, Serialize)]
pub struct CpuUsage {
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_kernel: Vec<u64>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub percpu_user: Vec<u64>,
    pub kernel: u64,
    pub user: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Throttling {
    #[serde(skip_serializing_if = "is_zero")]
    pub periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_periods: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub throttled_time: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct Cpuset {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cpus: Vec<u16>,
    pub cpu_exclusive: u64,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mems: Vec<u16>,
    pub mem_hardwall: u64,
    pub mem_exclusive: u64,
    pub memory_migrate: u64,
    pub memory_spread_page: u64,
    pub memory_spread_slab: u64,
    pub memory_pressure: u64,
    pub sched_load_balance: u64,
    pub sched_relax_domain_level: i64,
}

#[derive(Debug, Default, Serialize)]
pub struct Memory {
    #[serde(skip_serializing_if = "is_zero")]
    pub cache: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub swap: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel: Option<MemoryEntry>,
    #[serde(rename = "kernelTCP", skip_serializing_if = "Option::is_none")]
    pub kernel_tcp: Option<MemoryEntry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub raw: BTreeMap<String, u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

/// `limit` is `u64::MAX` where there is none on v2, and the kernel's largest number on v1.
#[derive(Debug, Default, Clone, Copy, Serialize)]
pub struct MemoryEntry {
    pub limit: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// `limit` is 0 where there is none.
#[derive(Debug, Default, Serialize)]
pub struct Pids {
    #[serde(skip_serializing_if = "is_zero")]
    pub current: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub limit: u64,
}

#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockIo {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_service_bytes_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub io_serviced_recursive: Vec<BlockIoEntry>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub psi: Option<Pressure>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct BlockIoEntry {
    #[serde(skip_serializing_if = "is_zero")]
    pub major: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub minor: u64,
    pub op: String,
    #[serde(skip_serializing_if = "is_zero")]
    pub value: u64,
}

#[derive(Debug, Default, Serialize)]
pub struct HugePages {
    #[serde(skip_serializing_if = "is_zero")]
    pub usage: u64,
    #[serde(skip_serializing_if = "is_zero")]
    pub max: u64,
    pub failcnt: u64,
}

/// Pressure stall information; averages in percent, the total in microseconds.
#[derive(Debug, Default, PartialEq, Serialize)]
pub struct Pressure {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub some: Option<PressureLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub full: Option<PressureLine>,
}

#[derive(Debug, Default, PartialEq, Serialize)]
pub struct PressureLine {
    pub avg10: f64,
    pub avg60: f64,
    pub avg300: f64,
    pub total: u64,
}

/// How much of the figures is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Detail {
    /// Processor time, memory and swap with their limits, and pressure.
    Summary,
    /// Without cpusets, single processors and TCP's memory.
    Usage,
    All,
}

/// What [`Cgroup::summary`] has of `memory.stat`, of both versions.
const SUMMARY_KEYS: [&str; 14] = [
    "anon",
    "cache",
    "file",
    "file_mapped",
    "inactive_file",
    "kernel",
    "pgfault",
    "pgmajfault",
    "total_cache",
    "total_inactive_file",
    "total_mapped_file",
    "total_pgfault",
    "total_pgmajfault",
    "total_rss",
];

fn is_zero(value: &u64) -> bool {
    *value == 0
}

impl Cgroup {
    /// What the group uses at this moment.
    ///
    /// # Errors
    /// If the group has gone.
    pub fn stats(&self) -> Result<Stats, Error> {
        self.read(Detail::All)
    }

    /// What of [`stats`](Self::stats) monitoring asks for again and again; a third of the files.
    ///
    /// # Errors
    /// If the group has gone.
    pub fn usage(&self) -> Result<Stats, Error> {
        self.read(Detail::Usage)
    }

    /// The few of them that are asked for of all groups every few seconds: total processor time, memory and swap with
    /// their limits, the usual lines of `memory.stat`, pressure.
    ///
    /// # Errors
    /// If the group has gone.
    pub fn summary(&self) -> Result<Stats, Error> {
        self.read(Detail::Summary)
    }

    fn v1_files(&self, controller: &str) -> Option<Files<'_>> {
        self.v1(controller).map(Files::open)
    }

    /// Processor time used in nanoseconds, from one file; `None` where the host does not count it, or the group has gone.
    pub fn cpu_time(&self) -> Option<u64> {
        match (self.v1("cpuacct"), &self.unified) {
            (Some(path), _) => Files::open(path).text("cpuacct.usage").trim().parse().ok(),
            (None, Some(path)) => {
                Files::open(path).keyed("cpu.stat").get("usage_usec").map(|microseconds| microseconds * 1000)
            }
            (None, None) => None,
        }
    }

    fn read(&self, detail: Detail) -> Result<Stats, Error> {
        let unified = self.unified.as_deref().map(Files::open);
        let shown = match &unified {
            Some(unified) if !self.is_legacy() => unified.is_there(),
            _ => self.path().is_none_or(Path::exists),
        };
        if let Some(path) = self.path().filter(|_| !shown) {
            let source = io::Error::from(io::ErrorKind::NotFound);
            return Err(Error::Directory { operation: "read", path: path.to_path_buf(), source });
        }
        let mut stats = if self.is_legacy() { self.legacy_stats(detail) } else { Stats::default() };
        if let Some(files) = &unified {
            read_unified(files, &mut stats, !self.is_legacy(), detail);
        }
        Ok(stats)
    }

    fn legacy_stats(&self, detail: Detail) -> Stats {
        let mut stats = Stats::default();
        let (more, all) = (detail >= Detail::Usage, detail == Detail::All);
        if let Some(files) = self.v1_files("cpuacct") {
            /// `USER_HZ` is 100 on every architecture Linux exports it for.
            const NANOSECONDS_PER_TICK: u64 = 10_000_000;
            let ticks = if more { files.keyed("cpuacct.stat") } else { BTreeMap::new() };
            let tick = |key: &str| ticks.get(key).copied().unwrap_or(0) * NANOSECONDS_PER_TICK;
            let row = |file: &str| -> Vec<u64> {
                if !all {
                    return Vec::new();
                }
                files.text(file).split_whitespace().filter_map(|word| word.parse().ok()).collect()
            };
            stats.cpu.usage = CpuUsage {
                total: files.number("cpuacct.usage"),
                percpu: row("cpuacct.usage_percpu"),
                percpu_kernel: row("cpuacct.usage_percpu_sys"),
                percpu_user: row("cpuacct.usage_percpu_user"),
                kernel: tick("system"),
                user: tick("user"),
            };
        }
        if more && let Some(files) = self.v1_files("cpu") {
            let values = files.keyed("cpu.stat");
            let value = |key: &str| values.get(key).copied().unwrap_or(0);
            stats.cpu.throttling = Throttling {
                periods: value("nr_periods"),
                throttled_periods: value("nr_throttled"),
                throttled_time: value("throttled_time"),
            };
        }
        if all && let Some(files) = self.v1_files("cpuset") {
            stats.cpuset = Cpuset {
                cpus: index_list(&files.text("cpuset.cpus")),
                cpu_exclusive: files.number("cpuset.cpu_exclusive"),
                mems: index_list(&files.text("cpuset.mems")),
                mem_hardwall: files.number("cpuset.mem_hardwall"),
                mem_exclusive: files.number("cpuset.mem_exclusive"),
                memory_migrate: files.number("cpuset.memory_migrate"),
                memory_spread_page: files.number("cpuset.memory_spread_page"),
                memory_spread_slab: files.number("cpuset.memory_spread_slab"),
                memory_pressure: files.number("cpuset.memory_pressure"),
                sched_load_balance: files.number("cpuset.sched_load_balance"),
                sched_relax_domain_level: files.text("cpuset.sched_relax_domain_level").trim().parse().unwrap_or(0),
            };
        }
        if let Some(files) = self.v1_files("memory") {
            let entry = |name: &str| {
                let value = |file: &str| files.text(&format!("memory.{name}{file}")).trim().parse().ok();
                let counted = |file: &str| if more { value(file).unwrap_or(0) } else { 0 };
                Some(MemoryEntry {
                    usage: value("usage_in_bytes")?,
                    limit: value("limit_in_bytes").unwrap_or(0),
                    max: counted("max_usage_in_bytes"),
                    failcnt: counted("failcnt"),
                })
            };
            let raw = files.keyed_if("memory.stat", |key| more || SUMMARY_KEYS.contains(&key));
            stats.memory = Memory {
                cache: raw.get("cache").copied().unwrap_or(0),
                usage: entry(""),
                swap: entry("memsw."),
                kernel: if more { entry("kmem.") } else { None },
                kernel_tcp: if all { entry("kmem.tcp.") } else { None },
                raw,
                psi: None,
            };
        }
        if !more {
            return stats;
        }
        if let Some(files) = self.v1_files("pids") {
            stats.pids = pids(&files);
        }
        if let Some(files) = self.v1_files("blkio") {
            let recursive = |name: &str| {
                let own = entries(&files.text(&format!("blkio.bfq.{name}_recursive")));
                if own.is_empty() { entries(&files.text(&format!("blkio.throttle.{name}_recursive"))) } else { own }
            };
            stats.blkio.io_service_bytes_recursive = recursive("io_service_bytes");
            stats.blkio.io_serviced_recursive = recursive("io_serviced");
        }
        if let Some(files) = self.v1_files("hugetlb") {
            stats.hugetlb = huge_pages(&files, "usage_in_bytes", |size| HugePages {
                usage: files.number(&format!("hugetlb.{size}.usage_in_bytes")),
                max: files.number(&format!("hugetlb.{size}.max_usage_in_bytes")),
                failcnt: files.number(&format!("hugetlb.{size}.failcnt")),
            });
        }
        stats
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

    /// Whether limits and figures are on the v1 side.
    pub fn is_legacy(&self) -> bool {
        self.legacy.iter().any(|(controllers, _)| controllers.iter().any(|name| !name.starts_with("name=")))
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

/// The unified side; `all` if it has the controllers, otherwise (hybrid) only the ones v1 left it.
fn read_unified(files: &Files<'_>, stats: &mut Stats, all: bool, detail: Detail) {
    let more = detail >= Detail::Usage;
    if more {
        stats.hugetlb.extend(unified_huge_pages(files));
    }
    let [cpu, memory, io] = ["cpu", "memory", "io"].map(|of| pressure(&files.text(&format!("{of}.pressure"))));
    if !all {
        // Pressure needs no controller: the kernel keeps it for every group of this side.
        (stats.cpu.psi, stats.memory.psi, stats.blkio.psi) = (cpu, memory, io);
        return;
    }
    let values = files.keyed("cpu.stat");
    let value = |key: &str| values.get(key).copied().unwrap_or(0);
    let nanoseconds = |key: &str| value(key) * 1000;
    stats.cpu = Cpu {
        usage: CpuUsage {
            total: nanoseconds("usage_usec"),
            kernel: nanoseconds("system_usec"),
            user: nanoseconds("user_usec"),
            ..CpuUsage::default()
        },
        throttling: Throttling {
            periods: value("nr_periods"),
            throttled_periods: value("nr_throttled"),
            throttled_time: nanoseconds("throttled_usec"),
        },
        psi: cpu,
    };
    let raw = files.keyed_if("memory.stat", |key| more || SUMMARY_KEYS.contains(&key));
    let hits = || files.keyed("memory.events").get("max").copied().unwrap_or(0);
    let usage = MemoryEntry {
        limit: files.number("memory.max"),
        usage: files.number("memory.current"),
        max: if more { files.number("memory.peak") } else { 0 },
        failcnt: if more { hits() } else { 0 },
    };
    // Memory and swap together, as v1 counts and as runc's readers expect.
    let swap = MemoryEntry {
        limit: files.number("memory.swap.max").saturating_add(usage.limit),
        usage: files.number("memory.swap.current") + usage.usage,
        ..MemoryEntry::default()
    };
    let cache = raw.get("file").copied().unwrap_or(0);
    stats.memory = Memory { cache, usage: Some(usage), swap: Some(swap), raw, psi: memory, ..Memory::default() };
    stats.blkio.psi = io;
    if !more {
        return;
    }
    stats.cpuset.cpus = index_list(&files.text("cpuset.cpus.effective"));
    stats.cpuset.mems = index_list(&files.text("cpuset.mems.effective"));
    stats.pids = pids(files);
    let devices = files.text("io.stat");
    stats.blkio.io_service_bytes_recursive = unified_entries(&devices, [("rbytes", "Read"), ("wbytes", "Write")]);
    stats.blkio.io_serviced_recursive = unified_entries(&devices, [("rios", "Read"), ("wios", "Write")]);
}

fn unified_huge_pages(files: &Files<'_>) -> BTreeMap<String, HugePages> {
    huge_pages(files, "current", |size| HugePages {
        usage: files.number(&format!("hugetlb.{size}.current")),
        max: files.number(&format!("hugetlb.{size}.max")),
        failcnt: files.keyed(&format!("hugetlb.{size}.events")).get("max").copied().unwrap_or(0),
    })
}

fn pids(files: &Files<'_>) -> Pids {
    let limit = files.text("pids.max").trim().parse().unwrap_or(0);
    Pids { current: files.number("pids.current"), limit }
}

fn huge_pages(files: &Files<'_>, file: &str, read: impl Fn(&str) -> HugePages) -> BTreeMap<String, HugePages> {
    let size = |name: String| Some(name.strip_prefix("hugetlb.")?.strip_suffix(file)?.strip_suffix('.')?.to_string());
    let sizes = files.names().filter_map(size).filter(|size| !size.ends_with(".rsvd"));
    sizes.map(|size| (size.clone(), read(&size))).collect()
}

fn index_list(text: &str) -> Vec<u16> {
    let list = crate::plan::index_list(text.trim(), "").unwrap_or_default();
    list.into_iter().filter_map(|index| u16::try_from(index).ok()).collect()
}

/// Lines `8:0 Read 512` of v1.
fn entries(text: &str) -> Vec<BlockIoEntry> {
    let entry = |line: &str| {
        let mut words = line.split_whitespace();
        let (major, minor) = words.next()?.split_once(':')?;
        let (op, value) = (words.next()?.to_string(), words.next()?.parse().ok()?);
        Some(BlockIoEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, op, value })
    };
    text.lines().filter_map(entry).collect()
}

/// Lines `8:0 rbytes=512 wbytes=0` of v2.
fn unified_entries(text: &str, keys: [(&str, &str); 2]) -> Vec<BlockIoEntry> {
    let mut list = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let Some((Ok(major), Ok(minor))) =
            words.next().and_then(|device| device.split_once(':')).map(|(a, b)| (a.parse(), b.parse()))
        else {
            continue;
        };
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            if let (Some((_, op)), Ok(value)) = (keys.iter().find(|(name, _)| *name == key), value.parse()) {
                list.push(BlockIoEntry { major, minor, op: (*op).to_string(), value });
            }
        }
    }
    list
}

/// Lines `some avg10=0.00 avg60=0.00 avg300=0.00 total=0`; none without pressure in the kernel.
fn pressure(text: &str) -> Option<Pressure> {
    let mut pressure = Pressure::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let kind = words.next()?;
        let mut parsed = PressureLine::default();
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            match key {
                "avg10" => parsed.avg10 = value.parse().ok()?,
                "avg60" => parsed.avg60 = value.parse().ok()?,
                "avg300" => parsed.avg300 = value.parse().ok()?,
                "total" => parsed.total = value.parse().ok()?,
                _ => {}
            }
        }
        match kind {
            "some" => pressure.some = Some(parsed),
            "full" => pressure.full = Some(parsed),
            _ => {}
        }
    }
    (pressure != Pressure::default()).then_some(pressure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_io_is_the_same_in_both_forms() {
        let legacy = entries("8:0 Read 512\n8:0 Write 3\n8:0 Total 515\nTotal 515\n");
        assert_eq!(legacy[0], BlockIoEntry { major: 8, minor: 0, op: "Read".into(), value: 512 });
        assert_eq!(legacy.len(), 3);
        let unified = unified_entries("8:0 rbytes=512 wbytes=3 rios=1\n", [("rbytes", "Read"), ("wbytes", "Write")]);
        assert_eq!(unified, legacy[..2]);
    }

    #[test]
    fn pressure_is_read_where_there_is_some() {
        let found = pressure("some avg10=1.50 avg60=0.10 avg300=0.00 total=77\n").expect("pressure");
        assert_eq!(found.some.map(|line| (line.avg10, line.total)), Some((1.5, 77)));
        assert_eq!(found.full, None);
        assert_eq!(pressure(""), None);
    }
}
