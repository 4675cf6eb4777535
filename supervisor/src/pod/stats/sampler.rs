//! The node's sampler: it looks at every group's processor time now and then, so that a rate is there when it is asked
//! for, and remembers sizes of writable layers for a while, because measuring one is a walk through it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use wharf_images::Store;
use wharf_runtime::cgroup::{Cgroup as RuntimeCgroup, Layout};

use super::figures::{self, Detail, Figures};
use super::{LayerUsage, layout};
use crate::pod::cgroup::Cgroup;
use crate::pod::node::{Inner, now};
use crate::pod::status::ContainerState;

/// As often as the kubelet's own sampler looks.
const PERIOD: Duration = Duration::from_secs(10);

/// A rate over less than this says more of the clock than of the work.
const SHORTEST_SPAN: Duration = Duration::from_secs(1);

/// How long the size of a writable layer is good for.
const LAYER_AGE: Duration = Duration::from_secs(10);

pub(crate) struct Sampler {
    layout: Layout,
    /// By container or sandbox.
    processor: Mutex<HashMap<String, History>>,
    layers: Mutex<HashMap<String, (Instant, LayerUsage)>>,
}

#[derive(Debug, Clone, Copy)]
struct Sample {
    at: Instant,
    /// Nanoseconds of processor time.
    used: u64,
}

/// The newest sample, and the one before it.
#[derive(Debug, Clone, Copy)]
struct History {
    newest: Sample,
    before: Option<Sample>,
}

impl History {
    /// Takes `sample` in and returns the rate up to it, in nano cores.
    fn rate(&mut self, sample: Sample) -> Option<u64> {
        if sample.at.saturating_duration_since(self.newest.at) >= SHORTEST_SPAN {
            self.before = Some(self.newest);
            self.newest = sample;
        }
        let from = self.before?;
        let span = sample.at.saturating_duration_since(from.at).as_nanos();
        let used = u128::from(sample.used.saturating_sub(from.used));
        u64::try_from(used * 1_000_000_000 / span.max(1)).ok()
    }
}

impl Sampler {
    pub(crate) fn new() -> Self {
        Self { layout: layout(), processor: Mutex::default(), layers: Mutex::default() }
    }

    pub(super) fn group(&self, cgroup: &Cgroup) -> RuntimeCgroup {
        RuntimeCgroup::locate(&self.layout, Some(&Path::new("/").join(cgroup.relative())), "")
    }

    /// What `group`, that of container or sandbox `id`, uses now.
    pub(super) fn figures(&self, id: &str, group: &RuntimeCgroup, detail: Detail) -> Option<Figures> {
        let mut figures = figures::read(group, detail)?;
        figures.cpu.usage_nano_cores = self.rate(id, Sample { at: Instant::now(), used: figures.cpu.usage });
        Some(figures)
    }

    fn rate(&self, id: &str, sample: Sample) -> Option<u64> {
        let mut processor = locked(&self.processor);
        let history = processor.entry(id.to_string()).or_insert(History { newest: sample, before: None });
        history.rate(sample)
    }

    /// Measured no longer ago than [`LAYER_AGE`].
    pub(super) fn layer(&self, store: &Store, id: &str) -> Option<LayerUsage> {
        if let Some((at, layer)) = locked(&self.layers).get(id)
            && at.elapsed() < LAYER_AGE
        {
            return Some(*layer);
        }
        let layer = LayerUsage { timestamp: now(), usage: store.snapshot_usage(id).ok()? };
        locked(&self.layers).insert(id.to_string(), (Instant::now(), layer));
        Some(layer)
    }

    fn retain(&self, known: impl Fn(&str) -> bool) {
        locked(&self.processor).retain(|id, _| known(id));
        locked(&self.layers).retain(|id, _| known(id));
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Samples until the node is gone.
pub(crate) async fn run(node: Weak<Inner>) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let Some(inner) = node.upgrade() else { return };
        let sampled = tokio::task::spawn_blocking(move || sample_all(&inner)).await;
        if let Err(error) = sampled {
            tracing::warn!(%error, "sample processor times");
        }
    }
}

/// One file for each container that runs and each pod that is ready.
fn sample_all(inner: &Arc<Inner>) {
    let mut groups: Vec<(String, Cgroup)> = Vec::new();
    let mut known: std::collections::HashSet<String> = std::collections::HashSet::new();
    {
        let table = inner.table();
        for (id, entry) in &table.pods {
            let placement = inner.placement(&entry.status.config, id);
            let running = entry.containers.values().filter(|status| status.state == ContainerState::Running);
            groups.extend(running.map(|status| (status.id.clone(), placement.group_of(&status.id))));
            groups.push((id.clone(), placement.group()));
            known.extend(entry.containers.keys().cloned().chain([id.clone()]));
        }
    }
    for (id, group) in groups {
        if let Some(used) = inner.sampler.group(&group).cpu_time() {
            inner.sampler.rate(&id, Sample { at: Instant::now(), used });
        }
    }
    inner.sampler.retain(|id| known.contains(id));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_needs_two_samples_that_are_far_enough_apart() {
        let start = Instant::now();
        let sample = |milliseconds: u64, used| Sample { at: start + Duration::from_millis(milliseconds), used };
        let mut history = History { newest: sample(0, 0), before: None };
        assert_eq!(history.rate(sample(0, 0)), None);
        assert_eq!(history.rate(sample(500, 100)), None, "too near");
        assert_eq!(history.rate(sample(2000, 1_000_000_000)), Some(500_000_000));
        // A reader who comes again at once gets a rate over a span that is long enough still.
        assert_eq!(history.rate(sample(2100, 1_050_000_000)), Some(500_000_000));
        assert_eq!(history.rate(sample(4000, 1_000_000_000)), Some(0));
    }
}
