//! Limits of a pod as a whole, on the control group that its containers' groups are in.
//!
//! A write there can take long, as where memory has to be given up first: changes are made one after the other beside all
//! else that the owner does, and delay no stop.

use std::collections::VecDeque;

use oci_spec::runtime::LinuxResources;
use tokio::task::JoinHandle;
use wharf_runtime::cgroup::{self, Cgroup, Layout, unit};

use super::bundle::linux_resources;
use super::error::{PodError, Result};
use super::node::not_ready;
use super::placement::Placement;
use super::record::PodPhase;
use super::sandbox::{Owner, Reply};
use super::spec::{PodLimits, Resources};

/// Changes that are not made yet.
#[derive(Default)]
pub(super) struct LimitChanges {
    under_way: Option<UnderWay>,
    waiting: VecDeque<(PodLimits, Reply<()>)>,
}

struct UnderWay {
    /// All limits as they are afterwards.
    limits: PodLimits,
    reply: Reply<()>,
    written: JoinHandle<Result<()>>,
}

/// A change that was made, or not.
pub(super) struct LimitsWritten {
    limits: PodLimits,
    reply: Reply<()>,
    outcome: Result<()>,
}

impl LimitChanges {
    /// The one that is done next, or `None` where none is under way. Loses nothing where it is given up before.
    pub(super) async fn next(&mut self) -> Option<LimitsWritten> {
        let written = &mut self.under_way.as_mut()?.written;
        let outcome = written.await.map_err(|error| PodError::internal("limit a pod sandbox", error)).flatten();
        self.under_way.take().map(|UnderWay { limits, reply, .. }| LimitsWritten { limits, reply, outcome })
    }
}

impl Owner {
    /// Takes over every limit that `change` sets.
    pub(super) fn update_limits(&mut self, change: PodLimits, reply: Reply<()>) {
        self.limit_changes.waiting.push_back((change, reply));
        self.begin_limits();
    }

    fn begin_limits(&mut self) {
        while self.limit_changes.under_way.is_none()
            && let Some((change, reply)) = self.limit_changes.waiting.pop_front()
        {
            if self.shim.is_none() {
                let _ = reply.send(Err(not_ready(&self.id)));
                continue;
            }
            let mut limits = self.config.limits.clone();
            limits.resources.merge(&change.resources);
            limits.overhead.merge(&change.overhead);
            let written = tokio::spawn(self.set_limits(&limits));
            self.limit_changes.under_way = Some(UnderWay { limits, reply, written });
        }
    }

    /// Takes in what was written, and keeps it for a daemon that comes after this one.
    pub(super) fn limits_written(&mut self, LimitsWritten { limits, reply, outcome }: LimitsWritten) {
        let kept = outcome.and_then(|()| self.keep_limits(limits));
        let (inner, class) = (self.inner.clone(), self.config.qos_class);
        tokio::spawn(async move {
            inner.weigh(class).await;
            let _ = reply.send(kept);
        });
        self.begin_limits();
    }

    fn keep_limits(&mut self, limits: PodLimits) -> Result<()> {
        if self.shim.is_none() {
            return Err(not_ready(&self.id));
        }
        self.config.limits = limits;
        self.record(PodPhase::Ready)
            .map_err(|error| PodError::internal(format!("write record of pod sandbox {}", self.id), error))?;
        if let Some(entry) = self.inner.table_mut().pods.get_mut(&self.id) {
            entry.status.config.limits = self.config.limits.clone();
        }
        Ok(())
    }

    /// Writes them to the pod's group, unless that is the client's.
    pub(super) fn set_limits(&self, limits: &PodLimits) -> impl Future<Output = Result<()>> + Send + use<> {
        let sum = limits.sum();
        let is_written = sum != Resources::default() && self.config.cgroup_parent.is_none();
        let (placement, failed) = (self.placement(), format!("limit pod sandbox {}", self.id));
        async move {
            if !is_written {
                return Ok(());
            }
            let resources = linux_resources(&sum)?;
            // Made before the containers' own, which are below it; taken away with the pod.
            let done = tokio::task::spawn_blocking(move || limit(&placement, &resources)).await;
            let done = done.map_err(|error| PodError::internal(&failed, error))?;
            done.map_err(|error| PodError::internal(&failed, error))
        }
    }
}

/// Limits a group, which is made where it is not there.
pub(super) fn limit(placement: &Placement, resources: &LinuxResources) -> Result<(), cgroup::Error> {
    if let Placement::Slice(slice) = placement {
        return unit::limit_slice(slice, resources);
    }
    let mut group = Cgroup::locate(&Layout::detect()?, Some(&placement.path()), "");
    group.create(true)?.keep();
    group.update(resources)
}
