//! Figures of the v1 hierarchies.

use super::text::{entries, index_list};
use super::{
    CpuUsage, Cpuset, Detail, HugePages, Memory, MemoryEntry, SUMMARY_KEYS, Stats, Throttling, huge_pages, pids,
};
use crate::cgroup::Cgroup;
use std::collections::BTreeMap;

impl Cgroup {
    pub(super) fn legacy_stats(&self, detail: Detail) -> Stats {
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
}
