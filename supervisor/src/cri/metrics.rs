//! Metrics of pods and containers under cAdvisor's names, from the same figures on v1 and v2.
//!
//! The protocol's values are whole numbers, so times are whole seconds.

use wharf_specs::cri;

use super::metric_descriptors::{Kind, find};
use crate::pod::stats::figures::{Device, Figures};
use crate::pod::stats::{ContainerStats, Interface, NetworkUsage, SandboxStats};
use crate::pod::status::{ContainerStatus, SandboxStatus};

const NANOSECONDS: u64 = 1_000_000_000;
/// What the kernel assumes where nobody says.
const DEFAULT_CPU_PERIOD: u64 = 100_000;
const DEFAULT_CPU_SHARES: u64 = 1024;

/// Size of the file system that writable layers are on.
#[derive(Debug, Clone, Default)]
pub(super) struct FileSystem {
    pub(super) device: String,
    pub(super) bytes: u64,
    pub(super) inodes: u64,
    pub(super) inodes_free: u64,
}

/// Metrics of one series of labels.
struct Series {
    /// Values of [`LABELS`](super::metric_descriptors::LABELS).
    labels: [String; 6],
    timestamp: i64,
    metrics: Vec<cri::Metric>,
}

impl Series {
    fn push(&mut self, name: &str, labels: &[&str], value: u64) {
        let Some(descriptor) = find(name) else {
            return tracing::error!(name, "a metric without a description");
        };
        debug_assert_eq!(descriptor.labels.len(), labels.len(), "{name}");
        self.metrics.push(cri::Metric {
            name: name.into(),
            timestamp: self.timestamp,
            metric_type: match descriptor.kind {
                Kind::Counter => cri::MetricType::Counter,
                Kind::Gauge => cri::MetricType::Gauge,
            }
            .into(),
            label_values: self.labels.iter().cloned().chain(labels.iter().map(|label| (*label).to_string())).collect(),
            value: Some(cri::UInt64Value { value }),
        });
    }

    fn push_some(&mut self, name: &str, labels: &[&str], value: Option<u64>) {
        if let Some(value) = value {
            self.push(name, labels, value);
        }
    }
}

pub(super) fn sandbox(
    status: &SandboxStatus,
    group: String,
    stats: &SandboxStats,
    containers: Vec<cri::ContainerMetrics>,
) -> cri::PodSandboxMetrics {
    let name = &status.config.name;
    let labels = [group, status.id.clone(), String::new(), String::new(), name.name.clone(), name.namespace.clone()];
    let mut series = Series { labels, timestamp: crate::pod::now(), metrics: Vec::new() };
    if let Some(figures) = &stats.figures {
        control_group(&mut series, figures);
    }
    series.push_some("container_processes", &[], stats.processes);
    if let Some(usage) = &stats.network {
        network(&mut series, usage);
    }
    cri::PodSandboxMetrics { pod_sandbox_id: status.id.clone(), metrics: series.metrics, container_metrics: containers }
}

pub(super) fn container(
    pod: &SandboxStatus,
    status: &ContainerStatus,
    group: String,
    stats: &ContainerStats,
    file_system: &FileSystem,
) -> cri::ContainerMetrics {
    let name = &pod.config.name;
    let image = match status.config.user_image.as_str() {
        "" => status.config.image.clone(),
        image => image.into(),
    };
    let labels =
        [group, status.id.clone(), image, status.config.name.clone(), name.name.clone(), name.namespace.clone()];
    let mut series = Series { labels, timestamp: crate::pod::now(), metrics: Vec::new() };
    if let Some(figures) = &stats.figures {
        control_group(&mut series, figures);
    }
    if let Some(tasks) = &stats.tasks {
        series.push("container_processes", &[], tasks.processes);
        series.push("container_file_descriptors", &[], tasks.open_files);
        series.push("container_sockets", &[], tasks.sockets);
        for (limit, value) in &tasks.limits {
            series.push_some("container_ulimits_soft", &[limit], *value);
        }
    }
    if let Some(layer) = &stats.layer {
        series.timestamp = layer.timestamp;
        let device = [file_system.device.as_str()];
        series.push("container_fs_usage_bytes", &device, layer.usage.bytes);
        series.push("container_fs_limit_bytes", &device, file_system.bytes);
        series.push("container_fs_inodes_total", &device, file_system.inodes);
        series.push("container_fs_inodes_free", &device, file_system.inodes_free);
    }
    series.timestamp = crate::pod::now();
    specification(&mut series, status);
    cri::ContainerMetrics { container_id: status.id.clone(), metrics: series.metrics }
}

/// What every control group has, a pod's and a container's.
fn control_group(series: &mut Series, figures: &Figures) {
    series.timestamp = figures.timestamp;
    let cpu = &figures.cpu;
    series.push("container_cpu_usage_seconds_total", &["total"], cpu.usage / NANOSECONDS);
    series.push("container_cpu_user_seconds_total", &[], cpu.user / NANOSECONDS);
    series.push("container_cpu_system_seconds_total", &[], cpu.system / NANOSECONDS);
    series.push("container_cpu_cfs_periods_total", &[], cpu.periods);
    series.push("container_cpu_cfs_throttled_periods_total", &[], cpu.throttled_periods);
    series.push("container_cpu_cfs_throttled_seconds_total", &[], cpu.throttled / NANOSECONDS);

    let memory = &figures.memory;
    series.push_some("container_memory_usage_bytes", &[], memory.usage);
    series.push_some("container_memory_max_usage_bytes", &[], memory.max_usage);
    series.push_some("container_memory_working_set_bytes", &[], memory.working_set);
    series.push_some("container_memory_rss", &[], memory.rss);
    series.push_some("container_memory_cache", &[], memory.cache);
    series.push_some("container_memory_mapped_file", &[], memory.mapped_file);
    series.push_some("container_memory_kernel_usage", &[], memory.kernel);
    series.push_some("container_memory_swap", &[], memory.swap_usage);
    series.push("container_memory_failcnt", &[], memory.limit_hits);
    for (kind, count) in [("pgfault", memory.page_faults), ("pgmajfault", memory.major_page_faults)] {
        series.push_some("container_memory_failures_total", &[kind, "hierarchy"], count);
    }
    series.push("container_oom_events_total", &[], figures.oom_kills);
    series.push("container_threads", &[], figures.threads);
    series.push("container_threads_max", &[], figures.threads_limit);

    for (resource, stall) in [("cpu", cpu.pressure), ("memory", memory.pressure), ("io", figures.io.pressure)] {
        let Some(stall) = stall else { continue };
        let name = |what: &str| format!("container_pressure_{resource}_{what}_seconds_total");
        series.push(&name("waiting"), &[], stall.some.total / NANOSECONDS);
        series.push(&name("stalled"), &[], stall.full.total / NANOSECONDS);
    }
    for (size, pages) in &figures.huge_pages {
        series.push("container_hugetlb_usage_bytes", &[size], pages.usage);
        series.push("container_hugetlb_max_usage_bytes", &[size], pages.max_usage);
    }
    devices(series, &figures.io.bytes, &figures.io.operations);
}

fn devices(series: &mut Series, bytes: &[Device], operations: &[Device]) {
    for device in bytes {
        let path = path_of(device);
        series.push("container_fs_reads_bytes_total", &[&path], device.read);
        series.push("container_fs_writes_bytes_total", &[&path], device.written);
        let (major, minor) = (device.major.to_string(), device.minor.to_string());
        for (operation, count) in [("Read", device.read), ("Write", device.written)] {
            series.push("container_blkio_device_usage_total", &[&path, &major, &minor, operation], count);
        }
    }
    for device in operations {
        let path = path_of(device);
        series.push("container_fs_reads_total", &[&path], device.read);
        series.push("container_fs_writes_total", &[&path], device.written);
    }
}

fn path_of(device: &Device) -> String {
    device_path(device.major, device.minor)
}

/// `/dev/vda`; its numbers where sysfs has no name for them.
pub(super) fn device_path(major: u64, minor: u64) -> String {
    let event = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent")).unwrap_or_default();
    let name = event.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map_or_else(|| format!("{major}:{minor}"), |name| format!("/dev/{name}"))
}

fn network(series: &mut Series, usage: &NetworkUsage) {
    series.timestamp = usage.timestamp;
    for Interface { name, received, sent } in &usage.interfaces {
        for (direction, traffic) in [("receive", received), ("transmit", sent)] {
            let metric = |what: &str| format!("container_network_{direction}_{what}_total");
            series.push(&metric("bytes"), &[name], traffic.bytes);
            series.push(&metric("packets"), &[name], traffic.packets);
            series.push(&metric("errors"), &[name], traffic.errors);
            series.push(&metric("packets_dropped"), &[name], traffic.dropped);
        }
    }
}

/// What was asked for, rather than used.
fn specification(series: &mut Series, status: &ContainerStatus) {
    let resources = &status.config.resources;
    let limit = |limit: Option<i64>| limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(0);
    series.push("container_spec_cpu_period", &[], resources.cpu_period_us.unwrap_or(DEFAULT_CPU_PERIOD));
    series.push("container_spec_cpu_shares", &[], resources.cpu_shares.unwrap_or(DEFAULT_CPU_SHARES));
    let quota = resources.cpu_quota_us.and_then(|quota| u64::try_from(quota).ok());
    series.push_some("container_spec_cpu_quota", &[], quota);
    series.push("container_spec_memory_limit_bytes", &[], limit(resources.memory_limit_bytes));
    series.push("container_spec_memory_swap_limit_bytes", &[], limit(resources.memory_swap_limit_bytes));
    let reserved = resources.unified.get("memory.low").and_then(|bytes| bytes.parse().ok()).unwrap_or(0);
    series.push("container_spec_memory_reservation_limit_bytes", &[], reserved);
    series.push("container_start_time_seconds", &[], seconds(status.started_at));
    series.push("container_last_seen", &[], seconds(series.timestamp));
}

fn seconds(nanoseconds: i64) -> u64 {
    u64::try_from(nanoseconds).unwrap_or(0) / NANOSECONDS
}
