//! The metrics there are: cAdvisor's names, and the labels that each has.

use wharf_specs::cri;

/// Of every metric, before its own: cgroup path, id, image, and the names of container, pod and namespace.
pub(super) const LABELS: [&str; 6] = ["id", "name", "image", "container", "pod", "namespace"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only grows.
    Counter,
    Gauge,
}

pub(super) struct Descriptor {
    name: &'static str,
    pub(super) kind: Kind,
    /// After [`LABELS`].
    pub(super) labels: &'static [&'static str],
    help: &'static str,
}

const fn counter(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Descriptor {
    Descriptor { name, kind: Kind::Counter, labels, help }
}

const fn gauge(name: &'static str, labels: &'static [&'static str], help: &'static str) -> Descriptor {
    Descriptor { name, kind: Kind::Gauge, labels, help }
}

pub(super) fn find(name: &str) -> Option<&'static Descriptor> {
    DESCRIPTORS.iter().find(|descriptor| descriptor.name == name)
}

pub(super) fn all() -> Vec<cri::MetricDescriptor> {
    let wire = |descriptor: &Descriptor| cri::MetricDescriptor {
        name: descriptor.name.into(),
        help: descriptor.help.into(),
        label_keys: LABELS.iter().chain(descriptor.labels).map(|label| (*label).to_string()).collect(),
    };
    DESCRIPTORS.iter().map(wire).collect()
}

const DESCRIPTORS: [Descriptor; 56] = [
    counter("container_cpu_usage_seconds_total", &["cpu"], "Processor time used, in seconds."),
    counter("container_cpu_user_seconds_total", &[], "Processor time used outside of the kernel, in seconds."),
    counter("container_cpu_system_seconds_total", &[], "Processor time used in the kernel, in seconds."),
    counter("container_cpu_cfs_periods_total", &[], "Periods of the processor quota that have gone by."),
    counter("container_cpu_cfs_throttled_periods_total", &[], "Periods in which the processor quota was used up."),
    counter(
        "container_cpu_cfs_throttled_seconds_total",
        &[],
        "Time spent waiting for the next period's quota, in seconds.",
    ),
    gauge("container_memory_usage_bytes", &[], "Memory in use, caches included."),
    gauge("container_memory_max_usage_bytes", &[], "The most memory that was ever in use."),
    gauge("container_memory_working_set_bytes", &[], "Memory in use without file cache that can be given up at once."),
    gauge("container_memory_rss", &[], "Anonymous memory."),
    gauge("container_memory_cache", &[], "File cache."),
    gauge("container_memory_mapped_file", &[], "Files mapped into memory."),
    gauge("container_memory_kernel_usage", &[], "Memory that the kernel uses on behalf of the processes."),
    gauge("container_memory_swap", &[], "Memory swapped out."),
    counter("container_memory_failcnt", &[], "How often the memory limit was reached."),
    counter(
        "container_memory_failures_total",
        &["failure_type", "scope"],
        "Page faults, and those that needed the disk.",
    ),
    counter("container_oom_events_total", &[], "Processes killed for want of memory."),
    gauge("container_threads", &[], "Threads that live."),
    gauge("container_threads_max", &[], "Threads that may live; 0 is no limit."),
    gauge("container_processes", &[], "Processes that live."),
    gauge("container_file_descriptors", &[], "Open file descriptors."),
    gauge("container_sockets", &[], "Open sockets."),
    gauge("container_ulimits_soft", &["ulimit"], "Soft limits of the first process; absent where there is none."),
    counter(
        "container_pressure_cpu_waiting_seconds_total",
        &[],
        "Time in which some task waited for a processor, in seconds.",
    ),
    counter(
        "container_pressure_cpu_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a processor, in seconds.",
    ),
    counter(
        "container_pressure_memory_waiting_seconds_total",
        &[],
        "Time in which some task waited for memory, in seconds.",
    ),
    counter(
        "container_pressure_memory_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for memory, in seconds.",
    ),
    counter(
        "container_pressure_io_waiting_seconds_total",
        &[],
        "Time in which some task waited for a disk, in seconds.",
    ),
    counter(
        "container_pressure_io_stalled_seconds_total",
        &[],
        "Time in which all tasks waited for a disk, in seconds.",
    ),
    gauge("container_hugetlb_usage_bytes", &["pagesize"], "Huge pages in use."),
    gauge("container_hugetlb_max_usage_bytes", &["pagesize"], "The most huge pages that were ever in use."),
    counter("container_fs_reads_bytes_total", &["device"], "Bytes read from a disk."),
    counter("container_fs_writes_bytes_total", &["device"], "Bytes written to a disk."),
    counter("container_fs_reads_total", &["device"], "Reads from a disk."),
    counter("container_fs_writes_total", &["device"], "Writes to a disk."),
    counter(
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Bytes read from and written to a block device.",
    ),
    gauge("container_fs_usage_bytes", &["device"], "Size of the writable layer."),
    gauge("container_fs_limit_bytes", &["device"], "Size of the file system that the writable layer is on."),
    gauge("container_fs_inodes_total", &["device"], "Inodes of the file system that the writable layer is on."),
    gauge("container_fs_inodes_free", &["device"], "Inodes that are free there."),
    counter("container_network_receive_bytes_total", &["interface"], "Bytes received."),
    counter("container_network_receive_packets_total", &["interface"], "Packets received."),
    counter("container_network_receive_errors_total", &["interface"], "Packets received with an error."),
    counter("container_network_receive_packets_dropped_total", &["interface"], "Packets dropped on arrival."),
    counter("container_network_transmit_bytes_total", &["interface"], "Bytes sent."),
    counter("container_network_transmit_packets_total", &["interface"], "Packets sent."),
    counter("container_network_transmit_errors_total", &["interface"], "Packets not sent for an error."),
    counter(
        "container_network_transmit_packets_dropped_total",
        &["interface"],
        "Packets dropped before they were sent.",
    ),
    gauge("container_spec_cpu_period", &[], "Period of the processor quota, in microseconds."),
    gauge(
        "container_spec_cpu_quota",
        &[],
        "Processor time for each period, in microseconds; absent where there is no limit.",
    ),
    gauge("container_spec_cpu_shares", &[], "Share of the processors under contention."),
    gauge("container_spec_memory_limit_bytes", &[], "Memory limit; 0 is none."),
    gauge("container_spec_memory_swap_limit_bytes", &[], "Limit of memory and swap together; 0 is none."),
    gauge("container_spec_memory_reservation_limit_bytes", &[], "Memory that is protected from reclaim; 0 is none."),
    gauge("container_start_time_seconds", &[], "When the container was started; unix time."),
    gauge("container_last_seen", &[], "When it was looked at; unix time."),
];
