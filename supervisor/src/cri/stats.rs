//! Figures of containers and pods, for the wire.

use wharf_specs::cri;

use super::container::metadata;
use super::sandbox;
use crate::pod::stats::figures::{Cpu, Memory, Stall, StallTime};
use crate::pod::stats::{ContainerStats, Figures, Interface, NetworkUsage, SandboxStats};
use crate::pod::status::{ContainerStatus, SandboxStatus};

/// The pod's own, as every CNI plugin and the embedded network name it.
const DEFAULT_INTERFACE: &str = "eth0";

/// `mountpoint` is that of the writable layers' file system.
pub(super) fn container(status: &ContainerStatus, stats: &ContainerStats, mountpoint: &str) -> cri::ContainerStats {
    let figures = stats.figures.as_ref();
    cri::ContainerStats {
        attributes: Some(cri::ContainerAttributes {
            id: status.id.clone(),
            metadata: Some(metadata(&status.config)),
            labels: status.config.labels.clone().into_iter().collect(),
            annotations: status.config.annotations.clone().into_iter().collect(),
        }),
        cpu: figures.map(|figures| cpu(figures.timestamp, &figures.cpu)),
        memory: figures.map(|figures| memory(figures.timestamp, &figures.memory)),
        writable_layer: stats.layer.map(|layer| cri::FilesystemUsage {
            timestamp: layer.timestamp,
            fs_id: Some(cri::FilesystemIdentifier { mountpoint: mountpoint.into() }),
            used_bytes: value(Some(layer.usage.bytes)),
            inodes_used: value(Some(layer.usage.inodes)),
        }),
        swap: figures.map(|figures| swap(figures.timestamp, &figures.memory)),
        io: figures.and_then(io),
    }
}

/// `containers` are those of the pod that run.
pub(super) fn sandbox(
    status: &SandboxStatus,
    stats: &SandboxStats,
    containers: Vec<cri::ContainerStats>,
) -> cri::PodSandboxStats {
    let figures = stats.figures.as_ref();
    cri::PodSandboxStats {
        attributes: Some(cri::PodSandboxAttributes {
            id: status.id.clone(),
            metadata: Some(sandbox::metadata(&status.config.name)),
            labels: status.config.labels.clone().into_iter().collect(),
            annotations: status.config.annotations.clone().into_iter().collect(),
        }),
        linux: Some(cri::LinuxPodSandboxStats {
            cpu: figures.map(|figures| cpu(figures.timestamp, &figures.cpu)),
            memory: figures.map(|figures| memory(figures.timestamp, &figures.memory)),
            network: stats.network.as_ref().map(network),
            process: figures.map(|figures| cri::ProcessUsage {
                timestamp: figures.timestamp,
                process_count: value(stats.processes),
            }),
            containers,
            io: figures.and_then(io),
        }),
        windows: None,
    }
}

fn value(figure: Option<u64>) -> Option<cri::UInt64Value> {
    figure.map(|value| cri::UInt64Value { value })
}

fn cpu(timestamp: i64, cpu: &Cpu) -> cri::CpuUsage {
    cri::CpuUsage {
        timestamp,
        usage_core_nano_seconds: value(Some(cpu.usage)),
        usage_nano_cores: value(cpu.usage_nano_cores),
        psi: cpu.pressure.map(psi),
    }
}

fn memory(timestamp: i64, memory: &Memory) -> cri::MemoryUsage {
    let available = memory.limit.zip(memory.working_set).map(|(limit, used)| limit.saturating_sub(used));
    cri::MemoryUsage {
        timestamp,
        working_set_bytes: value(memory.working_set),
        available_bytes: value(available),
        usage_bytes: value(memory.usage),
        rss_bytes: value(memory.rss),
        page_faults: value(memory.page_faults),
        major_page_faults: value(memory.major_page_faults),
        psi: memory.pressure.map(psi),
    }
}

fn swap(timestamp: i64, memory: &Memory) -> cri::SwapUsage {
    let available = memory.swap_limit.zip(memory.swap_usage).map(|(limit, used)| limit.saturating_sub(used));
    cri::SwapUsage { timestamp, swap_available_bytes: value(available), swap_usage_bytes: value(memory.swap_usage) }
}

/// Pressure is all that the protocol has of it.
fn io(figures: &Figures) -> Option<cri::IoUsage> {
    figures.io.pressure.map(|pressure| cri::IoUsage { timestamp: figures.timestamp, psi: Some(psi(pressure)) })
}

fn psi(stall: Stall) -> cri::PsiStats {
    let data =
        |time: StallTime| cri::PsiData { total: time.total, avg10: time.avg10, avg60: time.avg60, avg300: time.avg300 };
    cri::PsiStats { full: Some(data(stall.full)), some: Some(data(stall.some)) }
}

fn network(usage: &NetworkUsage) -> cri::NetworkUsage {
    let wire = |interface: &Interface| cri::NetworkInterfaceUsage {
        name: interface.name.clone(),
        rx_bytes: value(Some(interface.received.bytes)),
        rx_errors: value(Some(interface.received.errors)),
        tx_bytes: value(Some(interface.sent.bytes)),
        tx_errors: value(Some(interface.sent.errors)),
    };
    let (default, others): (Vec<_>, Vec<_>) =
        usage.interfaces.iter().partition(|interface| interface.name == DEFAULT_INTERFACE);
    cri::NetworkUsage {
        timestamp: usage.timestamp,
        default_interface: default.first().map(|interface| wire(interface)),
        interfaces: others.into_iter().map(wire).collect(),
    }
}

pub(super) fn matches(status: &SandboxStatus, filter: &cri::PodSandboxStatsFilter) -> bool {
    status.id.starts_with(&filter.id) && sandbox::has_labels(&status.config.labels, &filter.label_selector)
}
