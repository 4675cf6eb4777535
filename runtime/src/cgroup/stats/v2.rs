//! Figures of the unified hierarchy.

use super::text::{index_list, pressure, unified_entries};
use super::{Cpu, CpuUsage, Detail, HugePages, Memory, MemoryEntry, SUMMARY_KEYS, Stats, Throttling, huge_pages, pids};
use crate::cgroup::files::Files;
use std::collections::BTreeMap;

/// The unified side; `all` if it has the controllers, otherwise (hybrid) only the ones v1 left it.
pub(super) fn read_unified(files: &Files<'_>, stats: &mut Stats, all: bool, detail: Detail) {
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
