//! A container's requests and limits, as it can name them itself (`resourceFieldRef`).

use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod, ResourceFieldSelector};

use super::observed::declared;
use crate::api::quantity;

/// What the node has, for limits that a container does not set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Capacity {
    pub(super) milli_cpus: i64,
    pub(super) memory_bytes: i64,
    pub(super) storage_bytes: i64,
}

impl Capacity {
    /// `root` is on the disk that pods fill.
    pub(super) fn of_node(root: &Path) -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let disk = rustix::fs::statvfs(root).map_or(0, |disk| disk.f_blocks.saturating_mul(disk.f_frsize));
        Self {
            milli_cpus: i64::try_from(cpus).unwrap_or(1) * 1000,
            memory_bytes: node_memory(),
            storage_bytes: i64::try_from(disk).unwrap_or(i64::MAX),
        }
    }
}

/// Bytes.
pub(super) fn node_memory() -> i64 {
    let info = rustix::system::sysinfo();
    i64::try_from(u128::from(info.totalram) * u128::from(info.mem_unit)).unwrap_or(i64::MAX)
}

/// The value that `selector` names, in units of its divisor, rounded up. Without a name it means `own`. `None` for a
/// container or a resource that there is not.
pub(super) fn value(
    pod: &Pod,
    own: Option<&Container>,
    selector: &ResourceFieldSelector,
    node: Capacity,
) -> Option<String> {
    let named = selector.container_name.as_deref().filter(|name| !name.is_empty());
    let container = match named {
        Some(name) => declared(pod.spec.as_ref()?).map(|(_, container)| container).find(|c| c.name == name)?,
        None => own?,
    };
    value_of(container, selector, node)
}

fn value_of(container: &Container, selector: &ResourceFieldSelector, node: Capacity) -> Option<String> {
    let (kind, resource) = selector.resource.split_once('.')?;
    let resources = container.resources.as_ref();
    let of = |kind: &str| {
        let list = match kind {
            "limits" => resources.and_then(|all| all.limits.as_ref()),
            _ => resources.and_then(|all| all.requests.as_ref()),
        };
        list.and_then(|list| list.get(resource)).map(|quantity| quantity.0.as_str())
    };
    let written = match kind {
        "limits" => of("limits"),
        // Without a request the limit is the request.
        "requests" => of("requests").or_else(|| of("limits")),
        _ => return None,
    };
    let divisor = selector.divisor.as_ref().map(|divisor| divisor.0.as_str()).filter(|divisor| *divisor != "0");
    let divisor = divisor.unwrap_or("1");
    let (amount, all, divisor) = match resource {
        "cpu" => (written.and_then(quantity::milli), node.milli_cpus, quantity::milli(divisor)?),
        "memory" => (written.and_then(quantity::whole), node.memory_bytes, quantity::whole(divisor)?),
        "ephemeral-storage" => (written.and_then(quantity::whole), node.storage_bytes, quantity::whole(divisor)?),
        _ => return None,
    };
    let amount = amount.unwrap_or(if kind == "limits" { all } else { 0 });
    Some(amount.max(0).div_euclid(divisor.max(1)).saturating_add(i64::from(amount % divisor.max(1) > 0)).to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_rounded_up_to_their_divisor() {
        let container: Container = serde_json::from_value(json!({"name": "c", "resources": {
            "limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"memory": "1"}}}))
        .unwrap();
        let node = Capacity { milli_cpus: 4000, memory_bytes: 8 << 30, storage_bytes: 1 << 30 };
        for (resource, divisor, expected) in [
            ("limits.cpu", "0", Some("2")),
            ("limits.cpu", "1m", Some("1500")),
            ("requests.cpu", "1m", Some("1500")),
            ("limits.memory", "1Mi", Some("64")),
            ("requests.memory", "1Mi", Some("1")),
            ("limits.ephemeral-storage", "1Mi", Some("1024")),
            ("requests.ephemeral-storage", "1Mi", Some("0")),
            ("limits.hugepages-2Mi", "1", None),
            ("cpu", "1", None),
        ] {
            let selector = json!({"resource": resource, "divisor": divisor});
            let selector: ResourceFieldSelector = serde_json::from_value(selector).unwrap();
            assert_eq!(value_of(&container, &selector, node).as_deref(), expected, "{resource} {divisor}");
        }
        let bare = Container { resources: None, ..container };
        let selector = serde_json::from_value(json!({"resource": "limits.cpu"})).unwrap();
        assert_eq!(value_of(&bare, &selector, node).as_deref(), Some("4"));
    }
}
