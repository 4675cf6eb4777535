//! A paused Deployment: no new version and no step of a roll-out, but the count is kept.

use std::sync::Arc;

use serde_json::Value;

use super::bound;
use crate::api::kinds::{integer, text};

/// The counts to set now. Where a roll-out stands still half way, its versions share what is added or taken away, each
/// by its size.
pub(super) fn plan(deployment: &Value, sets: &[Arc<Value>]) -> Vec<(String, i64)> {
    let desired = integer(deployment, "/spec/replicas");
    let count = |set: &Value| integer(set, "/spec/replicas");
    let active: Vec<&Arc<Value>> = sets.iter().filter(|set| count(set) > 0).collect();
    let wanted = match active.as_slice() {
        // The newest, if there is one at all: a Deployment that was born paused has none.
        [] => sets.last().map(|set| vec![(set, desired)]).unwrap_or_default(),
        [only] => vec![(*only, desired)],
        several => {
            let total: i64 = several.iter().map(|set| count(set)).sum();
            let ceiling = if desired == 0 { 0 } else { desired + bound(deployment, "maxSurge", true) };
            share(several, total.clamp(desired, ceiling), total)
        }
    };
    let changed = wanted.into_iter().filter(|(set, replicas)| count(set) != *replicas);
    changed.map(|(set, replicas)| (text(set, "/metadata/name").to_owned(), replicas)).collect()
}

/// `wanted` pods divided among sets that have `total`; what rounding leaves over goes to the largest.
fn share<'a>(sets: &[&'a Arc<Value>], wanted: i64, total: i64) -> Vec<(&'a Arc<Value>, i64)> {
    let mut sets = sets.to_vec();
    sets.sort_by_key(|set| std::cmp::Reverse(integer(set, "/spec/replicas")));
    let mut shares: Vec<(&Arc<Value>, i64)> =
        sets.into_iter().map(|set| (set, integer(set, "/spec/replicas") * wanted / total)).collect();
    let left = wanted - shares.iter().map(|(_, share)| share).sum::<i64>();
    if let Some((_, largest)) = shares.first_mut() {
        *largest += left;
    }
    shares
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_paused_deployment_keeps_its_count_and_its_versions() {
        let sets = |counts: &[i64]| -> Vec<Arc<Value>> {
            let set = |(index, count)| json!({"metadata": {"name": format!("v{index}")}, "spec": {"replicas": count}});
            counts.iter().enumerate().map(set).map(Arc::new).collect()
        };
        let planned = |desired: i64, counts: &[i64]| {
            let deployment = json!({"spec": {"replicas": desired, "strategy": {"rollingUpdate": {"maxSurge": 1}}}});
            plan(&deployment, &sets(counts))
        };
        let steps =
            |steps: &[(&str, i64)]| steps.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect::<Vec<_>>();
        assert_eq!(planned(3, &[]), []);
        assert_eq!(planned(3, &[0, 0]), steps(&[("v1", 3)]));
        assert_eq!(planned(5, &[0, 3]), steps(&[("v1", 5)]));
        // Half way: within its bounds it stays as it is.
        assert_eq!(planned(4, &[3, 1]), []);
        assert_eq!(planned(4, &[3, 2]), []);
        assert_eq!(planned(8, &[3, 1]), steps(&[("v0", 6), ("v1", 2)]));
        assert_eq!(planned(1, &[3, 3]), steps(&[("v0", 1), ("v1", 1)]));
        assert_eq!(planned(0, &[3, 1]), steps(&[("v0", 0), ("v1", 0)]));
    }
}
