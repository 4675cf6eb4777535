//! Limits: the wire's message from and to the engine's.

use wharf_specs::cri;

use super::status::invalid;
use crate::pod::Result;
use crate::pod::spec::Resources;

pub(super) fn resources(wire: Option<cri::LinuxContainerResources>, field: &str) -> Result<Resources> {
    let Some(wire) = wire else { return Ok(Resources::default()) };
    let hugepage_limits = wire.hugepage_limits.iter().enumerate().map(|(index, limit)| {
        let digits = limit.page_size.trim_end_matches(['K', 'M', 'G', 'B']);
        let unit = &limit.page_size[digits.len()..];
        match digits.parse::<u32>().is_ok() && matches!(unit, "KB" | "MB" | "GB") {
            true => Ok((limit.page_size.clone(), limit.limit)),
            false => {
                let reason = format!("{:?} is no size as 2MB and 1GB are", limit.page_size);
                Err(invalid(format!("{field}.hugepage_limits[{index}].page_size"), reason))
            }
        }
    });
    let hugepage_limits = hugepage_limits.collect::<Result<_>>()?;
    let positive = |name: &str, value: i64| {
        u64::try_from(value).map_err(|_| invalid(format!("{field}.{name}"), format!("{value} is negative")))
    };
    let score = i32::try_from(wire.oom_score_adj)
        .map_err(|_| invalid(format!("{field}.oom_score_adj"), format!("{} is out of range", wire.oom_score_adj)))?;
    let list =
        |name: &str, value: String| match value.bytes().all(|byte| byte.is_ascii_digit() || b",-:/".contains(&byte)) {
            true => Ok(value),
            false => Err(invalid(format!("{field}.{name}"), format!("{value:?} is no list of numbers as 0-3,7 is"))),
        };
    let some = |value: i64| (value != 0).then_some(value);
    Ok(Resources {
        memory_limit_bytes: some(wire.memory_limit_in_bytes),
        memory_swap_limit_bytes: some(wire.memory_swap_limit_in_bytes),
        cpu_shares: Some(positive("cpu_shares", wire.cpu_shares)?).filter(|shares| *shares != 0),
        cpu_quota_us: some(wire.cpu_quota),
        cpu_period_us: Some(positive("cpu_period", wire.cpu_period)?).filter(|period| *period != 0),
        cpuset_cpus: list("cpuset_cpus", wire.cpuset_cpus)?,
        cpuset_mems: list("cpuset_mems", wire.cpuset_mems)?,
        pids_limit: None,
        oom_score_adj: score,
        hugepage_limits,
        unified: wire.unified.into_iter().collect(),
    })
}

pub(super) fn wire(resources: &Resources) -> cri::LinuxContainerResources {
    let signed = |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(0);
    cri::LinuxContainerResources {
        cpu_period: signed(resources.cpu_period_us),
        cpu_quota: resources.cpu_quota_us.unwrap_or(0),
        cpu_shares: signed(resources.cpu_shares),
        memory_limit_in_bytes: resources.memory_limit_bytes.unwrap_or(0),
        oom_score_adj: resources.oom_score_adj.into(),
        cpuset_cpus: resources.cpuset_cpus.clone(),
        cpuset_mems: resources.cpuset_mems.clone(),
        hugepage_limits: resources
            .hugepage_limits
            .iter()
            .map(|(page_size, limit)| cri::HugepageLimit { page_size: page_size.clone(), limit: *limit })
            .collect(),
        unified: resources.unified.clone().into_iter().collect(),
        memory_swap_limit_in_bytes: resources.memory_swap_limit_bytes.unwrap_or(0),
    }
}
