//! Limits on cgroup v2 (kernel documentation, admin-guide/cgroup-v2).

use super::limits::{limit, page_size};
use super::{Cgroup, Error, write};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use wharf_specs::oci::{LinuxCpu, LinuxMemory, LinuxRdma, LinuxResources};
use wharf_sys::errno;

/// Gives every ancestor's controllers to its children, from the mount point down to the parent of `path`.
pub(super) fn enable_controllers(path: &Path) -> io::Result<()> {
    let mut ancestors: Vec<&Path> = path.ancestors().skip(1).collect();
    ancestors.retain(|ancestor| ancestor.join("cgroup.subtree_control").exists());
    for ancestor in ancestors.into_iter().rev() {
        let available = fs::read_to_string(ancestor.join("cgroup.controllers"))?;
        let control = ancestor.join("cgroup.subtree_control");
        let enabled = fs::read_to_string(&control)?;
        for controller in available.split_whitespace() {
            if enabled.split_whitespace().all(|name| name != controller) {
                // One that cannot be given on (a group with processes, a realtime task) is reported by the limit
                // that needs it.
                let _ = write(&control, &format!("+{controller}"));
            }
        }
    }
    Ok(())
}

pub(super) fn apply(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(path) = cgroup.unified_path() else {
        return match wants_anything(resources) {
            Some(field) => Err(Error::NoController { field: field.into(), controller: "cgroup".into() }),
            None => Ok(()),
        };
    };
    let group = Group { path: path.to_path_buf() };
    if let Some(memory) = resources.memory() {
        group.memory(memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        group.cpu(cpu)?;
    }
    match resources.pids().as_ref().map(|pids| pids.limit()) {
        None => {}
        // No group has room for no process: 0 means the least that works. Every negative number is "no limit", as with runc.
        Some(0) => group.limit("pids", "pids.max", maximum(1), "pids.limit")?,
        Some(count) => group.limit("pids", "pids.max", maximum(count.max(-1)), "pids.limit")?,
    }
    if let Some(io) = resources.block_io() {
        if let Some(weight) = io.weight().filter(|v| *v != 0) {
            if group.path.join("io.bfq.weight").exists() {
                group.limit("io", "io.bfq.weight", weight, "blockIO.weight")?;
            } else if !(10..=1000).contains(&weight) {
                let problem = format!("{weight} is out of range; allowed: 10 to 1000");
                return Err(Error::Value { field: "blockIO.weight".into(), problem });
            } else {
                group.limit("io", "io.weight", io_weight(weight), "blockIO.weight")?;
            }
        }
        for device in io.weight_device().iter().flatten() {
            if let Some(weight) = device.weight() {
                let line = format!("{}:{} {weight}", device.major(), device.minor());
                group.limit("io", "io.bfq.weight", line, "blockIO.weightDevice")?;
            }
        }
        for (list, key) in [
            (io.throttle_read_bps_device(), "rbps"),
            (io.throttle_write_bps_device(), "wbps"),
            (io.throttle_read_iops_device(), "riops"),
            (io.throttle_write_iops_device(), "wiops"),
        ] {
            for device in list.iter().flatten() {
                let line = format!("{}:{} {key}={}", device.major(), device.minor(), device.rate());
                group.limit("io", "io.max", line, "blockIO.throttle")?;
            }
        }
    }
    limit_huge_pages(path, resources)?;
    for (device, rdma) in resources.rdma().iter().flatten() {
        group.limit("rdma", "rdma.max", rdma_line(device, rdma), "rdma")?;
    }
    let unified = resources.unified().as_ref();
    let file = |name: &str| unified.and_then(|files| files.get(name)).map(|value| value.trim());
    let idle_and_weight = file("cpu.idle") == Some("1") && file("cpu.weight").is_some();
    for (file, value) in unified.into_iter().flatten() {
        if file == "cpu.weight" && idle_and_weight {
            continue;
        }
        if file.contains('/') {
            return Err(Error::Value { field: format!("unified[{file:?}]"), problem: "is not a file name".into() });
        }
        let controller = file.split('.').next().unwrap_or_default();
        for line in value.lines() {
            group.limit(controller, file, line, &format!("unified[{file:?}]"))?;
        }
    }
    if idle_and_weight {
        let problem = "unable to apply both cpu.weight and cpu.idle: an idle group has no weight".into();
        return Err(Error::Value { field: "unified[\"cpu.weight\"]".into(), problem });
    }
    Ok(())
}

fn wants_anything(resources: &LinuxResources) -> Option<&'static str> {
    [
        (resources.memory().as_ref().is_some_and(|memory| memory.limit().is_some_and(|limit| limit > 0)), "memory"),
        (resources.cpu().as_ref().is_some_and(|cpu| cpu.quota().is_some_and(|quota| quota > 0)), "cpu"),
        (resources.pids().as_ref().is_some_and(|pids| pids.limit() > 0), "pids"),
        (resources.unified().as_ref().is_some_and(|unified| !unified.is_empty()), "unified"),
    ]
    .into_iter()
    .find_map(|(wanted, field)| wanted.then_some(field))
}

/// In the unified hierarchy, also on a hybrid host that has the controller there.
pub(super) fn limit_huge_pages(path: &Path, resources: &LinuxResources) -> Result<(), Error> {
    let group = Group { path: path.to_path_buf() };
    for huge in resources.hugepage_limits().iter().flatten() {
        let size = page_size(huge)?;
        group.limit("hugetlb", &format!("hugetlb.{size}.max"), huge.limit(), "hugepageLimits")?;
        // Reservations too, which kernels before 5.7 do not count.
        let reserved = format!("hugetlb.{size}.rsvd.max");
        if path.join(&reserved).exists() {
            group.limit("hugetlb", &reserved, huge.limit(), "hugepageLimits")?;
        }
    }
    Ok(())
}

struct Group {
    path: PathBuf,
}

impl Group {
    fn limit(&self, controller: &str, file: &str, value: impl ToString, field: &str) -> Result<(), Error> {
        match limit(&self.path, file, value, field) {
            Err(Error::Limit { source, .. })
                if source.raw_os_error() == Some(errno::ENOENT) && !self.has(controller) =>
            {
                Err(Error::NoController { field: field.into(), controller: controller.into() })
            }
            other => other,
        }
    }

    fn has(&self, controller: &str) -> bool {
        let text = fs::read_to_string(self.path.join("cgroup.controllers")).unwrap_or_default();
        controller == "cgroup" || text.split_whitespace().any(|name| name == controller)
    }

    fn memory(&self, memory: &LinuxMemory) -> Result<(), Error> {
        let bytes = memory.limit().filter(|v| *v != 0);
        match swap_alone(memory)? {
            None => {}
            // A kernel without swap accounting is as good as no swap.
            Some(0) if !self.path.join("memory.swap.max").exists() => {}
            Some(-1) if bytes == Some(-1) && !self.path.join("memory.swap.max").exists() => {}
            Some(swap) => self.limit("memory", "memory.swap.max", maximum(swap), "memory.swap")?,
        }
        if let Some(bytes) = bytes {
            self.limit("memory", "memory.max", maximum(bytes), "memory.limit")?;
        }
        if let Some(reservation) = memory.reservation().filter(|v| *v != 0) {
            self.limit("memory", "memory.low", maximum(reservation), "memory.reservation")?;
        }
        Ok(())
    }

    fn cpu(&self, cpu: &LinuxCpu) -> Result<(), Error> {
        if let Some(idle) = cpu.idle() {
            self.limit("cpu", "cpu.idle", idle, "cpu.idle")?;
        }
        if let Some(shares) = cpu.shares().filter(|v| *v != 0) {
            if cpu.idle() == Some(1) {
                let problem = "unable to apply both shares and idle: an idle group has no weight".into();
                return Err(Error::Value { field: "cpu.shares".into(), problem });
            }
            self.limit("cpu", "cpu.weight", weight(shares), "cpu.shares")?;
        }
        let (period, quota) = (cpu.period().filter(|v| *v != 0), cpu.quota().filter(|v| *v != 0));
        if period.is_some() || quota.is_some() {
            const DEFAULT_PERIOD_MICROSECONDS: u64 = 100_000;
            let line = match (quota, period) {
                (Some(quota), period) => {
                    let period = period.unwrap_or(DEFAULT_PERIOD_MICROSECONDS);
                    if quota > 0 { format!("{quota} {period}") } else { format!("max {period}") }
                }
                (None, Some(period)) => {
                    let present = fs::read_to_string(self.path.join("cpu.max")).unwrap_or_default();
                    format!("{} {period}", present.split(' ').next().unwrap_or("max"))
                }
                (None, None) => String::new(),
            };
            self.limit("cpu", "cpu.max", line, if quota.is_some() { "cpu.quota" } else { "cpu.period" })?;
        }
        if let Some(burst) = cpu.burst() {
            self.limit("cpu", "cpu.max.burst", burst, "cpu.burst")?;
        }
        for (value, field) in [
            (cpu.realtime_period().is_some_and(|v| v != 0), "cpu.realtimePeriod"),
            (cpu.realtime_runtime().is_some_and(|v| v != 0), "cpu.realtimeRuntime"),
        ] {
            if value {
                return Err(Error::Value { field: field.into(), problem: "does not exist on cgroup v2".into() });
            }
        }
        for (file, value, field) in [("cpuset.cpus", cpu.cpus(), "cpu.cpus"), ("cpuset.mems", cpu.mems(), "cpu.mems")] {
            if let Some(list) = value.as_ref().filter(|list| !list.is_empty()) {
                self.limit("cpuset", file, list, field)?;
            }
        }
        Ok(())
    }
}

/// The limit of swap, -1 for none. The standard counts memory and swap together, the kernel swap alone.
pub(super) fn swap_alone(memory: &LinuxMemory) -> Result<Option<i64>, Error> {
    let bytes = memory.limit().filter(|v| *v != 0);
    match memory.swap().filter(|v| *v != 0) {
        None if bytes == Some(-1) => Ok(Some(-1)),
        None => Ok(None),
        Some(-1) => Ok(Some(-1)),
        Some(total) => match bytes {
            Some(bytes) if bytes > 0 && total >= bytes => Ok(Some(total - bytes)),
            _ => {
                let problem =
                    format!("{total} needs a memory limit at or below it: on cgroup v2 swap is counted alone");
                Err(Error::Value { field: "memory.swap".into(), problem })
            }
        },
    }
}

/// blkio 10..1000 becomes io 1..10000, as the OCI community agreed for all runtimes.
pub(super) fn io_weight(weight: u16) -> u64 {
    1 + u64::from(weight.max(10) - 10) * 9999 / 990
}

/// v1 shares 2..262144 as v2 weight 1..10000, by the quadratic fit that maps 1024 to 100 (runc and crun use it since 1.3).
pub(super) fn weight(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            10f64.powf((log * log + 125.0 * log) / 612.0 - 7.0 / 34.0).ceil() as u64
        }
    }
}

/// Only -1 is "no limit"; what else is negative goes to the kernel, which refuses it as it does on v1.
fn maximum(value: i64) -> String {
    if value == -1 { "max".into() } else { value.to_string() }
}

pub(super) fn rdma_line(device: &str, rdma: &LinuxRdma) -> String {
    let mut line = device.to_string();
    if let Some(handles) = rdma.hca_handles() {
        line += &format!(" hca_handle={handles}");
    }
    if let Some(objects) = rdma.hca_objects() {
        line += &format!(" hca_object={objects}");
    }
    line
}

pub(super) fn freeze(path: &Path, frozen: bool) -> io::Result<()> {
    const ATTEMPTS: u32 = 1000;
    write(&path.join("cgroup.freeze"), if frozen { "1" } else { "0" })?;
    let wanted = if frozen { "frozen 1" } else { "frozen 0" };
    for _ in 0..ATTEMPTS {
        if fs::read_to_string(path.join("cgroup.events"))?.lines().any(|line| line == wanted) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(errno::error(errno::ETIMEDOUT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_minus_one_is_no_limit() {
        assert_eq!([-1, -5, 0, 4096].map(maximum), ["max", "-5", "0", "4096"]);
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144, 500_000].map(weight), [1, 100, 10_000, 10_000]);
        assert!(weight(512) < 100 && weight(2048) > 100);
    }
}
