//! The one task that writes journals.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::file::Kept;
use super::{Entry, Owner};
use crate::api::kinds::{pod, text};
use crate::api::objects::Objects;

/// How long the journal of a pod that has gone is kept after its last entry.
const KEPT: Duration = Duration::from_secs(3600);
/// How many of them at most: the oldest go first.
const MOST_GONE: usize = 200;
const SWEEP_INTERVAL: Duration = Duration::from_secs(300);

/// Writes what is told, until all that tell are gone.
pub struct Keeper {
    folder: PathBuf,
    queue: mpsc::Receiver<(Owner, Entry)>,
    objects: Objects,
    kept: HashMap<String, Kept>,
}

impl Keeper {
    pub(super) fn new(folder: PathBuf, queue: mpsc::Receiver<(Owner, Entry)>, objects: Objects) -> Self {
        Self { folder, queue, objects, kept: HashMap::new() }
    }

    pub async fn run(mut self) {
        let mut sweeps = tokio::time::interval(SWEEP_INTERVAL);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                told = self.queue.recv() => match told {
                    Some((owner, entry)) => self = self.beside(move |keeper| keeper.add(owner, entry)).await,
                    None => return,
                },
                _ = sweeps.tick() => self = self.beside(Self::sweep).await,
            }
        }
    }

    /// Does work that waits for the disk on a thread that may.
    async fn beside(mut self, work: impl FnOnce(&mut Self) + Send + 'static) -> Self {
        let done = tokio::task::spawn_blocking(move || {
            work(&mut self);
            self
        });
        match done.await {
            Ok(keeper) => keeper,
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }

    fn add(&mut self, owner: Owner, entry: Entry) {
        let folder = &self.folder;
        let kept = self.kept.entry(owner.uid.clone()).or_insert_with(|| Kept::open(folder, owner.clone()));
        if let Err(error) = kept.add(entry) {
            tracing::warn!(pod = owner.name, namespace = owner.namespace, %error, "write the journal");
        }
    }

    /// Takes journals away of pods that have gone long ago.
    fn sweep(&mut self) {
        let (pods, _) = self.objects.list(&pod::KIND, None);
        let alive: HashSet<&str> = pods.iter().map(|pod| text(pod, "/metadata/uid")).collect();
        self.kept.retain(|uid, _| alive.contains(uid.as_str()));
        let Ok(entries) = std::fs::read_dir(&self.folder) else { return };
        let mut gone: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter(|entry| {
                !entry.path().file_stem().and_then(|uid| uid.to_str()).is_some_and(|uid| alive.contains(uid))
            })
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        gone.sort();
        let surplus = gone.len().saturating_sub(MOST_GONE);
        let is_old = |modified: &SystemTime| modified.elapsed().is_ok_and(|age| age > KEPT);
        for (_, (_, path)) in gone.iter().enumerate().filter(|(index, (time, _))| *index < surplus || is_old(time)) {
            if let Err(error) = std::fs::remove_file(path) {
                tracing::warn!(journal = %path.display(), %error, "remove an old journal");
            }
        }
    }
}
