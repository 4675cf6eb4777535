//! Claims get volumes, volumes are given back.
//!
//! ```text
//! claim    Pending ──▶ Bound ──▶ Lost (its volume has gone)
//! volume   Available ──▶ Bound ──▶ Released ──▶ kept, or removed with its directory (Failed where that cannot be)
//! ```
//!
//! | file | job |
//! |---|---|
//! | `binding.rs` | which volume a claim gets |
//! | `claim.rs` | claims: bound, provisioned for, let go |
//! | `released.rs` | volumes: their phase, and what becomes of those whose claim has gone |
//! | `ephemeral.rs` | claims that pods carry with them |
//! | `directory.rs` | the directories of volumes that are made here |
//!
//! A volume says whose it is before its directory is made, and goes after it: a daemon that dies in between leaves nothing that
//! the next one does not find.

mod binding;
mod claim;
mod directory;
mod ephemeral;
mod released;

use std::collections::BTreeMap;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinSet;

use super::Context;
use super::changes::Changes;
use super::event::Recorder;
use crate::api::kinds::{Kind, node, persistent_volume, persistent_volume_claim, pod, storage_class, text};
use crate::api::object_store::Change;
use crate::api::objects::{Half, Objects};
use crate::api::status::ApiError;

/// After which time what has failed is tried again though nothing changes.
const RETRY: Duration = Duration::from_secs(15);

struct Volumes {
    objects: Objects,
    recorder: Recorder,
    /// Holds the directories of volumes that are made here.
    folder: PathBuf,
    /// Removals of directories, by the uid of their volume; they may take long.
    removals: JoinSet<(String, io::Result<()>)>,
    removed: BTreeMap<String, Removal>,
}

/// How far the removal of a volume's directory has come.
enum Removal {
    UnderWay,
    Done,
    Failed(String),
}

/// Keeps claims and volumes together.
pub async fn run(context: Context, recorder: Recorder) {
    let mut volumes = Volumes {
        objects: context.objects.clone(),
        recorder,
        folder: context.volumes.clone(),
        removals: JoinSet::new(),
        removed: BTreeMap::new(),
    };
    let mut changes = Changes::new(context.objects.store());
    loop {
        let mut again = false;
        if let Err(error) = volumes.pass().await {
            tracing::warn!(%error, "look after claims and volumes");
            again = true;
        }
        again |= volumes.removed.values().any(|removal| matches!(removal, Removal::Failed(_)));
        loop {
            tokio::select! {
                batch = changes.next() => {
                    if batch.is_none_or(|batch| batch.iter().any(matters)) {
                        break;
                    }
                }
                Some(ended) = volumes.removals.join_next(), if !volumes.removals.is_empty() => {
                    volumes.has_removed(ended);
                    break;
                }
                () = tokio::time::sleep(RETRY), if again => {
                    volumes.removed.retain(|_, removal| !matches!(removal, Removal::Failed(_)));
                    break;
                }
            }
        }
    }
}

/// Changes of claims, volumes and classes; pods that come, get their node or go; labels of the node.
fn matters(change: &Change) -> bool {
    let is_of = |kind: &Kind| change.key.resource == kind.resource();
    if is_of(&pod::KIND) {
        let node = |object: &Value| text(object, "/spec/nodeName").to_owned();
        return change.previous.as_ref().is_none_or(|previous| node(previous) != node(&change.object))
            || change.change_type == crate::api::object_store::ChangeType::Deleted;
    }
    if is_of(&node::KIND) {
        return change.previous.as_ref().is_none_or(|p| p["metadata"]["labels"] != change.object["metadata"]["labels"]);
    }
    is_of(&persistent_volume::KIND) || is_of(&persistent_volume_claim::KIND) || is_of(&storage_class::KIND)
}

impl Volumes {
    /// Looks at everything: of claims and volumes there are few on a node.
    async fn pass(&mut self) -> Result<(), ApiError> {
        let (pods, _) = self.objects.list(&pod::KIND, None);
        for pod in &pods {
            settled(self.make_ephemeral(pod).await)?;
        }
        for claim in self.objects.list(&persistent_volume_claim::KIND, None).0.iter() {
            settled(self.look_after_claim(claim).await)?;
        }
        for volume in self.objects.list(&persistent_volume::KIND, None).0.iter() {
            settled(self.look_after_volume(volume).await)?;
        }
        Ok(())
    }

    fn has_removed(&mut self, ended: Result<(String, io::Result<()>), tokio::task::JoinError>) {
        match ended {
            Ok((uid, Ok(()))) => drop(self.removed.insert(uid, Removal::Done)),
            Ok((uid, Err(error))) => drop(self.removed.insert(uid, Removal::Failed(error.to_string()))),
            // A panic, or the daemon's end: tried again in the next pass.
            Err(_) => self.removed.retain(|_, removal| !matches!(removal, Removal::UnderWay)),
        }
    }

    async fn set_status(&self, kind: &'static Kind, object: &Value, status: Value) -> Result<(), ApiError> {
        let field = |pointer| text(object, pointer);
        let (namespace, name, uid) = (field("/metadata/namespace"), field("/metadata/name"), field("/metadata/uid"));
        self.objects.set_status(kind, namespace, name, uid, status).await
    }

    /// Takes a finalizer away, and with the last one the object, if it is to go.
    async fn let_go(&self, kind: &'static Kind, object: &Value, finalizer: &'static str) -> Result<(), ApiError> {
        if !pod::items(&object["metadata"], "finalizers").iter().any(|known| known == finalizer) {
            return Ok(());
        }
        let change = move |mut object: Value| {
            if let Some(finalizers) = object.pointer_mut("/metadata/finalizers").and_then(Value::as_array_mut) {
                finalizers.retain(|known| known != finalizer);
            }
            Ok(object)
        };
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        self.objects.update(kind, namespace, name, Half::Desired, change).await.map(drop)
    }
}

/// What is gone needs nothing any more, and what has changed meanwhile is looked at again.
fn settled(outcome: Result<(), ApiError>) -> Result<(), ApiError> {
    match outcome {
        Err(ApiError::NotFound { .. } | ApiError::Conflict { .. } | ApiError::AlreadyExists { .. }) => Ok(()),
        other => other,
    }
}

fn is_leaving(object: &Value) -> bool {
    !text(object, "/metadata/deletionTimestamp").is_empty()
}
