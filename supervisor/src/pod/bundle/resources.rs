//! Limits.

use oci_spec::runtime::LinuxResources;
use serde_json::{Map, Value, json};

use super::capabilities;
use crate::pod::cgroup;
use crate::pod::error::{PodError, Result};
use crate::pod::spec::Resources;

/// Only those that are set: 0 sets none.
pub(crate) fn linux_resources(resources: &Resources) -> Result<LinuxResources> {
    if !resources.unified.is_empty() && !cgroup::is_unified() {
        let reason = "is of cgroup v2, this node's hierarchies are v1";
        return Err(PodError::invalid("linux.resources.unified", reason));
    }
    let mut memory = Map::new();
    let mut cpu = Map::new();
    let set = |map: &mut Map<String, Value>, key: &str, value: Option<Value>| {
        if let Some(value) = value.filter(|value| *value != json!(0) && *value != json!("")) {
            map.insert(key.into(), value);
        }
    };
    set(&mut memory, "limit", resources.memory_limit_bytes.map(Value::from));
    set(&mut memory, "swap", resources.memory_swap_limit_bytes.map(Value::from));
    set(&mut cpu, "shares", resources.cpu_shares.map(Value::from));
    set(&mut cpu, "quota", resources.cpu_quota_us.map(Value::from));
    set(&mut cpu, "period", resources.cpu_period_us.map(Value::from));
    set(&mut cpu, "cpus", Some(json!(resources.cpuset_cpus)));
    set(&mut cpu, "mems", Some(json!(resources.cpuset_mems)));
    let mut all = json!({"memory": memory, "cpu": cpu});
    if let Some(limit) = resources.pids_limit.filter(|limit| *limit != 0) {
        all["pids"] = json!({"limit": limit});
    }
    let pages = hugepage_limits_of(resources, cgroup::has_controller("hugetlb"))?;
    if !pages.is_empty() {
        all["hugepageLimits"] = json!(pages);
    }
    if !resources.unified.is_empty() {
        all["unified"] = json!(resources.unified);
    }
    serde_json::from_value(all).map_err(|error| PodError::invalid("linux.resources", error.to_string()))
}

/// The kubelet sends the limit 0 for each size that the node has and the container does not use: without the controller
/// that is no limit, and any other cannot be kept.
fn hugepage_limits_of(resources: &Resources, controller: bool) -> Result<Vec<Value>> {
    let limit = |(size, limit): (&String, &u64)| match (controller, limit) {
        (true, _) => Some(Ok(json!({"pageSize": size, "limit": limit}))),
        (false, 0) => None,
        (false, _) => {
            let reason = format!("{size}: this node has no control group controller hugetlb");
            Some(Err(PodError::invalid("linux.resources.hugepage_limits", reason)))
        }
    };
    resources.hugepage_limits.iter().filter_map(limit).collect()
}

/// The kernel's range (proc_pid_oom_score_adj(5)).
const OOM_SCORE_RANGE: std::ops::RangeInclusive<i32> = -1000..=1000;

/// Clamped to what this node may give: below its own score only with CAP_SYS_RESOURCE. `None` where the node's own, which
/// is inherited, is the same already; no wish is the wish for 0, whatever a service manager has given the node.
pub(super) fn oom_score(wanted: i32) -> Option<i32> {
    let own = std::fs::read_to_string("/proc/self/oom_score_adj").ok().and_then(|text| text.trim().parse().ok());
    let own = own.unwrap_or(0);
    let score = clamp_oom_score(wanted, own, capabilities::node_has("CAP_SYS_RESOURCE"));
    (score != own).then_some(score)
}

fn clamp_oom_score(wanted: i32, own: i32, may_lower: bool) -> i32 {
    let wanted = wanted.clamp(*OOM_SCORE_RANGE.start(), *OOM_SCORE_RANGE.end());
    if may_lower { wanted } else { wanted.max(own) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn oom_scores_are_clamped_to_what_is_allowed() {
        assert_eq!(clamp_oom_score(-998, 0, false), 0);
        assert_eq!(clamp_oom_score(-998, 0, true), -998);
        assert_eq!(clamp_oom_score(5000, 0, false), 1000);
        assert_eq!(clamp_oom_score(100, -500, false), 100);
        // A daemon that the kernel spares does not spare its containers.
        assert_eq!(clamp_oom_score(0, -999, false), 0);
    }

    #[test]
    fn huge_pages_are_limited_where_the_node_can() {
        let with = |bytes, controller| {
            let hugepage_limits = [("2MB".to_string(), bytes)].into();
            hugepage_limits_of(&Resources { hugepage_limits, ..Resources::default() }, controller)
        };
        assert_eq!(with(0, true).unwrap(), [json!({"pageSize": "2MB", "limit": 0})]);
        assert_eq!(with(4 << 20, true).unwrap(), [json!({"pageSize": "2MB", "limit": 4 << 20})]);
        assert!(with(0, false).unwrap().is_empty());
        assert!(with(1, false).unwrap_err().to_string().starts_with("linux.resources.hugepage_limits: 2MB: "));
    }

    #[test]
    fn limits_that_are_not_set_are_left_out() {
        let resources = Resources { memory_limit_bytes: Some(1 << 20), cpu_quota_us: Some(0), ..Resources::default() };
        let limits = linux_resources(&resources).unwrap();
        assert_eq!(limits.memory().as_ref().unwrap().limit(), Some(1 << 20));
        assert_eq!(limits.cpu().as_ref().unwrap().quota(), None);
        assert!(limits.pids().is_none());
    }
}
