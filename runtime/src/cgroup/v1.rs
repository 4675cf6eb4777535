//! Limits on cgroup v1 (kernel documentation, admin-guide/cgroup-v1).

use super::limits::{limit, page_size};
use super::{Cgroup, Error, write};
use std::fs;
use std::io;
use std::path::Path;
use std::time::Duration;
use wharf_specs::oci::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};
use wharf_sys::errno;

pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    if let Some(memory) = resources.memory() {
        apply_memory(cgroup, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(cgroup, cpu)?;
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None => {}
        // The init itself must fit in, so 0 is as good as 1; runc agrees.
        Some(count) => {
            let value = if count < 0 { "max".to_string() } else { count.max(1).to_string() };
            limit(controller(cgroup, "pids", "pids.limit")?, "pids.max", value, "pids.limit")?;
        }
    }
    if let Some(block_io) = resources.block_io() {
        apply_block_io(cgroup, block_io)?;
    }
    match (cgroup.v1("hugetlb"), cgroup.unified_path()) {
        (None, Some(unified)) => super::v2::limit_huge_pages(unified, resources)?,
        _ => limit_huge_pages(cgroup, resources)?,
    }
    if let Some(network) = resources.network() {
        if let Some(class) = network.class_id().filter(|class| *class != 0) {
            limit(controller(cgroup, "net_cls", "network.classID")?, "net_cls.classid", class, "network.classID")?;
        }
        for priority in network.priorities().iter().flatten() {
            let directory = controller(cgroup, "net_prio", "network.priorities")?;
            let value = format!("{} {}", priority.name(), priority.priority());
            limit(directory, "net_prio.ifpriomap", value, "network.priorities")?;
        }
    }
    for (device, rdma) in resources.rdma().iter().flatten() {
        let directory = controller(cgroup, "rdma", "rdma")?;
        limit(directory, "rdma.max", super::v2::rdma_line(device, rdma), "rdma")?;
    }
    match resources.unified() {
        Some(unified) if !unified.is_empty() => {
            let problem = "invalid configuration: is only for hosts with cgroup v2 alone".to_string();
            Err(Error::Value { field: "unified".into(), problem })
        }
        _ => Ok(()),
    }
}

fn limit_huge_pages(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    for huge in resources.hugepage_limits().iter().flatten() {
        let directory = controller(cgroup, "hugetlb", "hugepageLimits")?;
        let size = page_size(huge)?;
        limit(directory, &format!("hugetlb.{size}.limit_in_bytes"), huge.limit(), "hugepageLimits")?;
        // Reservations too, which kernels before 5.7 do not count.
        let reserved = format!("hugetlb.{size}.rsvd.limit_in_bytes");
        if directory.join(&reserved).exists() {
            limit(directory, &reserved, huge.limit(), "hugepageLimits")?;
        }
    }
    Ok(())
}

/// The directory of a controller that a field needs.
fn controller<'a>(cgroup: &'a Cgroup, name: &str, field: &str) -> Result<&'a Path, Error> {
    cgroup.v1(name).ok_or_else(|| Error::NoController { field: field.into(), controller: name.into() })
}

fn apply_memory(cgroup: &Cgroup, memory: &LinuxMemory) -> Result<(), Error> {
    let (bytes, swap) = (memory.limit().filter(|v| *v != 0), memory.swap().filter(|v| *v != 0));
    let directory = || controller(cgroup, "memory", "memory");
    const LIMIT: &str = "memory.limit_in_bytes";
    const SWAP: &str = "memory.memsw.limit_in_bytes";
    match (bytes, swap) {
        (Some(bytes), Some(swap)) => {
            let directory = directory()?;
            // The kernel keeps memory+swap at or above memory at every moment: the order depends on what stands there.
            let text = fs::read_to_string(directory.join(SWAP)).unwrap_or_default();
            let present: u64 = text.trim().parse().unwrap_or(u64::MAX);
            if swap == -1 || present < swap as u64 {
                limit(directory, SWAP, swap, "memory.swap")?;
                limit(directory, LIMIT, bytes, "memory.limit")?;
            } else {
                limit(directory, LIMIT, bytes, "memory.limit")?;
                limit(directory, SWAP, swap, "memory.swap")?;
            }
        }
        (Some(bytes), None) => {
            let directory = directory()?;
            if bytes == -1 && directory.join(SWAP).exists() {
                limit(directory, SWAP, -1, "memory.swap")?;
            }
            limit(directory, LIMIT, bytes, "memory.limit")?;
        }
        (None, Some(swap)) => limit(directory()?, SWAP, swap, "memory.swap")?,
        (None, None) => {}
    }
    if let Some(reservation) = memory.reservation().filter(|v| *v != 0) {
        limit(directory()?, "memory.soft_limit_in_bytes", reservation, "memory.reservation")?;
    }
    #[allow(deprecated, reason = "the field is still in configurations")]
    if let Some(tcp) = memory.kernel_tcp().filter(|v| *v != 0) {
        limit(directory()?, "memory.kmem.tcp.limit_in_bytes", tcp, "memory.kernelTCP")?;
    }
    if memory.disable_oom_killer() == Some(true) {
        limit(directory()?, "memory.oom_control", 1, "memory.disableOOMKiller")?;
    }
    match memory.swappiness() {
        None => Ok(()),
        Some(value @ 0..=100) => limit(directory()?, "memory.swappiness", value, "memory.swappiness"),
        Some(value) => {
            let problem = format!("{value} is out of range; allowed: 0 to 100");
            Err(Error::Value { field: "memory.swappiness".into(), problem })
        }
    }
}

fn apply_cpu(cgroup: &Cgroup, cpu: &LinuxCpu) -> Result<(), Error> {
    let directory = || controller(cgroup, "cpu", "cpu");
    if let Some(shares) = cpu.shares().filter(|v| *v != 0) {
        limit(directory()?, "cpu.shares", shares, "cpu.shares")?;
        // The kernel clamps silently; a limit that was not taken must not look as if it were.
        let text = fs::read_to_string(directory()?.join("cpu.shares")).unwrap_or_default();
        if let Ok(taken) = text.trim().parse::<u64>()
            && taken != shares
        {
            let bound = if shares > taken { "maximum" } else { "minimum" };
            let problem = format!("{shares} is beyond the {bound} allowed cpu-shares, {taken}");
            return Err(Error::Value { field: "cpu.shares".into(), problem });
        }
    }
    if let Some(idle) = cpu.idle() {
        limit(directory()?, "cpu.idle", idle, "cpu.idle")?;
    }
    let (period, quota) = (cpu.period().filter(|v| *v != 0), cpu.quota().filter(|v| *v != 0));
    let burst = cpu.burst();
    if let Some(period) = period {
        let first = limit(directory()?, "cpu.cfs_period_us", period, "cpu.period");
        match (first, quota) {
            // A larger quota set before can make the new period impossible until the quota has changed too.
            (Err(_), Some(quota)) => {
                limit(directory()?, "cpu.cfs_quota_us", quota, "cpu.quota")?;
                limit(directory()?, "cpu.cfs_period_us", period, "cpu.period")?;
            }
            (result, _) => result?,
        }
    }
    if let Some(quota) = quota {
        limit(directory()?, "cpu.cfs_quota_us", quota, "cpu.quota")?;
    }
    if let Some(burst) = burst {
        limit(directory()?, "cpu.cfs_burst_us", burst, "cpu.burst")?;
    }
    let runtime = cpu.realtime_runtime().filter(|v| *v != 0);
    if let Some(period) = cpu.realtime_period().filter(|v| *v != 0) {
        let write = || limit(directory()?, "cpu.rt_period_us", period, "cpu.realtimePeriod");
        match (write(), runtime) {
            // As with the quota: the runtime set before may not fit into the new period.
            (Err(_), Some(runtime)) => {
                limit(directory()?, "cpu.rt_runtime_us", runtime, "cpu.realtimeRuntime")?;
                write()?;
            }
            (result, _) => result?,
        }
    }
    if let Some(runtime) = runtime {
        limit(directory()?, "cpu.rt_runtime_us", runtime, "cpu.realtimeRuntime")?;
    }
    for (file, value, field) in [("cpuset.cpus", cpu.cpus(), "cpu.cpus"), ("cpuset.mems", cpu.mems(), "cpu.mems")] {
        if let Some(list) = value.as_ref().filter(|list| !list.is_empty()) {
            limit(controller(cgroup, "cpuset", field)?, file, list, field)?;
        }
    }
    Ok(())
}

fn apply_block_io(cgroup: &Cgroup, io: &LinuxBlockIo) -> Result<(), Error> {
    let directory = || controller(cgroup, "blkio", "blockIO");
    // The weight belongs to the bfq scheduler since 5.0; before, to cfq.
    let weight = |value: String, suffix: &str, field: &str| {
        let directory = directory()?;
        let bfq = format!("blkio.bfq.weight{suffix}");
        let file = if directory.join(&bfq).exists() { bfq } else { format!("blkio.weight{suffix}") };
        limit(directory, &file, value, field)
    };
    if let Some(value) = io.weight().filter(|v| *v != 0) {
        weight(value.to_string(), "", "blockIO.weight")?;
    }
    if let Some(value) = io.leaf_weight().filter(|v| *v != 0) {
        limit(directory()?, "blkio.leaf_weight", value, "blockIO.leafWeight")?;
    }
    for device in io.weight_device().iter().flatten() {
        if let Some(value) = device.weight() {
            weight(format!("{}:{} {value}", device.major(), device.minor()), "_device", "blockIO.weightDevice")?;
        }
        if let Some(value) = device.leaf_weight() {
            let line = format!("{}:{} {value}", device.major(), device.minor());
            limit(directory()?, "blkio.leaf_weight_device", line, "blockIO.weightDevice")?;
        }
    }
    for (list, file) in [
        (io.throttle_read_bps_device(), "blkio.throttle.read_bps_device"),
        (io.throttle_write_bps_device(), "blkio.throttle.write_bps_device"),
        (io.throttle_read_iops_device(), "blkio.throttle.read_iops_device"),
        (io.throttle_write_iops_device(), "blkio.throttle.write_iops_device"),
    ] {
        for device in list.iter().flatten() {
            let line = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            limit(directory()?, file, line, "blockIO.throttle")?;
        }
    }
    Ok(())
}

/// A new v1 cpuset is empty and takes no process: cpus and mems are copied down from the nearest parent that has some.
pub(super) fn inherit_cpuset(path: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        inherit_file(path, file)?;
    }
    Ok(())
}

fn inherit_file(path: &Path, file: &str) -> io::Result<String> {
    let present = match fs::read_to_string(path.join(file)) {
        Ok(text) => text.trim().to_string(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(String::new()),
        Err(error) => return Err(error),
    };
    let Some(parent) = path.parent().filter(|_| present.is_empty()) else { return Ok(present) };
    let inherited = inherit_file(parent, file)?;
    if !inherited.is_empty() {
        write(&path.join(file), &inherited)?;
    }
    Ok(inherited)
}

pub(super) fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    /// The v1 freezer reports FREEZING while a task is busy and has no event for the end of it.
    const ATTEMPTS: u32 = 1000;
    let (file, wanted) = (path.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" });
    for _ in 0..ATTEMPTS {
        write(&file, wanted)?;
        if fs::read_to_string(&file)?.trim() == wanted {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    write(&file, "THAWED")?;
    Err(errno::error(errno::EBUSY))
}
