//! Usage of a control group, in the form that runc's `events` prints.

mod text;
mod v1;
mod v2;

use super::files::Files;
use super::{Cgroup, Error};
use serde::Serialize;
use std::collections::BTreeMap;
use std::io;
use std::path::Path;

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
            v2::read_unified(files, &mut stats, !self.is_legacy(), detail);
        }
        Ok(stats)
    }

    /// Whether limits and figures are on the v1 side.
    pub fn is_legacy(&self) -> bool {
        self.legacy.iter().any(|(controllers, _)| controllers.iter().any(|name| !name.starts_with("name=")))
    }
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
