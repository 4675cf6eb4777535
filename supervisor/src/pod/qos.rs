//! Classes of service, and the groups that pods of each are in, as a kubelet has them.
//!
//! ```text
//! wharf/POD             guaranteed pods, and those that have no class
//! wharf/burstable/POD   the group weighs what its pods ask for together
//! wharf/besteffort/POD  the group weighs as little as a group can
//! ```
//!
//! So what nobody has asked for gets only the processor time that the others leave, however many containers there are of it.
//! A group is there from the first pod of its class on, and goes when the daemon ends and has no pods.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, PoisonError};

use super::bundle::linux_resources;
use super::cgroup;
use super::error::{PodError, Result};
use super::limits::limit;
use super::node::Inner;
use super::placement::Placement;
use super::spec::Resources;
use super::status::SandboxState;
use super::table::PodEntry;

/// The kernel's bounds of `cpu.shares` (sched-design-CFS); on v2 they are the weights 1 and 10,000.
const MIN_SHARES: u64 = 2;
const MAX_SHARES: u64 = 262_144;
const SHARES_PER_CPU: i64 = 1024;

/// `status.qosClass` of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub enum QosClass {
    Guaranteed,
    Burstable,
    BestEffort,
}

/// By class, the `cpu.shares` that its group was given.
pub(crate) type Weights = BTreeMap<QosClass, u64>;

impl QosClass {
    /// Those whose pods are in a group of their own.
    pub(crate) const GROUPED: [Self; 2] = [Self::Burstable, Self::BestEffort];

    pub fn name(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }

    /// Name of the group below the node's that its pods are in; `None` where that is the node's.
    pub(super) fn group(self) -> Option<&'static str> {
        match self {
            Self::Guaranteed => None,
            Self::Burstable => Some("burstable"),
            Self::BestEffort => Some("besteffort"),
        }
    }

    /// `cpu.shares` of the group, where its pods have these.
    fn shares(self, pods: impl Iterator<Item = u64>) -> u64 {
        match self {
            Self::BestEffort => MIN_SHARES,
            _ => pods.fold(0, u64::saturating_add).clamp(MIN_SHARES, MAX_SHARES),
        }
    }
}

/// `cpu.shares` for processor time that is asked for, in thousandths of a processor, as a kubelet computes them. Who asks
/// for none has the least there is; `None` where the node could not even give that.
pub(crate) fn cpu_shares(milli: i64) -> Option<u64> {
    static ARE_COUNTED: LazyLock<bool> = LazyLock::new(|| cgroup::has_controller("cpu"));
    let shares = u64::try_from(milli.saturating_mul(SHARES_PER_CPU) / 1000).unwrap_or(0);
    (milli > 0 || *ARE_COUNTED).then_some(shares.clamp(MIN_SHARES, MAX_SHARES))
}

impl Inner {
    /// Has the group of a class weigh what the pods of it that are there ask for. A group that could not be weighed is no
    /// reason to have no pods.
    pub(crate) async fn weigh(self: &Arc<Self>, class: Option<QosClass>) {
        let Some(class) = class.filter(|class| class.group().is_some()) else { return };
        let inner = self.clone();
        let done = tokio::task::spawn_blocking(move || inner.write_weight(class)).await;
        let failed = match done {
            Ok(done) => done.err().map(|error| error.to_string()),
            Err(error) => Some(error.to_string()),
        };
        if let Some(error) = failed {
            tracing::warn!(class = class.name(), error, "weigh the group of a class of service");
        }
    }

    fn write_weight(&self, class: QosClass) -> Result<()> {
        // Who is last counts last.
        let mut weights = self.weights.lock().unwrap_or_else(PoisonError::into_inner);
        let shares = {
            let table = self.table();
            let is_up = |entry: &&PodEntry| !entry.is_listed() || entry.status.state == SandboxState::Ready;
            let configs = table.pods.values().map(|entry| &**entry).filter(is_up).map(|entry| &entry.status.config);
            let of_class = configs.filter(|config| config.qos_class == Some(class) && config.cgroup_parent.is_none());
            class.shares(of_class.filter_map(|config| config.limits.sum().cpu_shares))
        };
        if weights.get(&class) == Some(&shares) || cpu_shares(0).is_none() {
            return Ok(());
        }
        let resources = linux_resources(&Resources { cpu_shares: Some(shares), ..Resources::default() })?;
        limit(&Placement::of_class(&self.options.cgroups, Some(class)), &resources)
            .map_err(|error| PodError::internal("write cpu.shares", error))?;
        weights.insert(class, shares);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_those_of_a_kubelet() {
        for (milli, expected) in [(1, 2), (100, 102), (500, 512), (1000, 1024), (4000, 4096), (1 << 40, MAX_SHARES)] {
            assert_eq!(cpu_shares(milli), Some(expected), "{milli}");
        }
        assert!(cpu_shares(0).is_none_or(|shares| shares == MIN_SHARES));
    }

    #[test]
    fn a_class_weighs_what_its_pods_do_and_best_effort_nothing() {
        let of = |class: QosClass, pods: &[u64]| class.shares(pods.iter().copied());
        assert_eq!(of(QosClass::Burstable, &[102, 512]), 614);
        assert_eq!(of(QosClass::Burstable, &[]), MIN_SHARES);
        assert_eq!(of(QosClass::Burstable, &[MAX_SHARES, 2]), MAX_SHARES);
        assert_eq!(of(QosClass::BestEffort, &[2, 2, 2]), MIN_SHARES);
    }
}
