//! Figures of containers, for the wire.

use wharf_specs::cri;

use super::container::metadata;
use crate::pod::stats::ContainerStats;
use crate::pod::status::ContainerStatus;

pub(super) fn container(
    status: &ContainerStatus,
    stats: &ContainerStats,
    layer: Option<(String, wharf_images::Usage)>,
) -> cri::ContainerStats {
    let value = |figure: Option<u64>| figure.map(|value| cri::UInt64Value { value });
    let available =
        stats.memory_limit_bytes.zip(stats.working_set_bytes).map(|(limit, used)| limit.saturating_sub(used));
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: status.id.clone(),
            metadata: Some(metadata(&status.config)),
            labels: status.config.labels.clone().into_iter().collect(),
            annotations: status.config.annotations.clone().into_iter().collect(),
        }),
        cpu: Some(cri::CpuUsage {
            timestamp: stats.timestamp,
            usage_core_nano_seconds: value(stats.cpu_usage_ns),
            usage_nano_cores: None,
            psi: None,
        }),
        memory: Some(cri::MemoryUsage {
            timestamp: stats.timestamp,
            working_set_bytes: value(stats.working_set_bytes),
            available_bytes: value(available),
            usage_bytes: value(stats.memory_usage_bytes),
            rss_bytes: value(stats.rss_bytes),
            page_faults: value(stats.page_faults),
            major_page_faults: value(stats.major_page_faults),
            psi: None,
        }),
        writable_layer: layer.map(|(mountpoint, usage)| cri::FilesystemUsage {
            timestamp: stats.timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint }),
            used_bytes: value(Some(usage.bytes)),
            inodes_used: value(Some(usage.inodes)),
        }),
        swap: Some(cri::SwapUsage {
            timestamp: stats.timestamp,
            swap_available_bytes: None,
            swap_usage_bytes: value(stats.swap_usage_bytes),
        }),
        io: None,
    }
}
