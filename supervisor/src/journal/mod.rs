//! What happened to each pod: a bounded journal that outlives its containers, the daemon, and for a while the pod.
//!
//! ```text
//! DATA/journal/UID.jsonl    whose it is, then an entry a line: synced, at most 64 KiB
//! ```
//!
//! | file | job |
//! |---|---|
//! | `file.rs` | one pod's file: read, appended to, cut |
//! | `keeper.rs` | the one task that writes, and takes old files away |
//!
//! Whoever tells of something never waits for it to be written.

mod file;
mod keeper;
#[doc(hidden)]
pub mod untrusted;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use keeper::Keeper;

/// Entries that wait to be written; what comes while so many wait is lost.
const QUEUE: usize = 1024;

/// Whose journal it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One thing that happened, once or several times in a row.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// RFC 3339, as all times here.
    pub at: String,
    #[serde(flatten)]
    pub what: What,
    /// How often, and when for the last time.
    #[serde(default = "once", skip_serializing_if = "is_once")]
    pub count: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
}

fn once() -> u32 {
    1
}

fn is_once(count: &u32) -> bool {
    *count == 1
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum What {
    /// A container was started.
    Started { container: String, id: String, attempt: u32, image: String, image_id: String },
    /// A container has ended.
    Ended {
        container: String,
        id: String,
        attempt: u32,
        exit_code: i32,
        /// As the status has it: `Error`, `OOMKilled`.
        reason: String,
        ran_seconds: i64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        oom: Option<OutOfMemory>,
        /// The termination message.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        message: String,
        /// The last lines of its log.
        #[serde(default, skip_serializing_if = "String::is_empty")]
        log: String,
    },
    /// Something the node did or ran into, as its Event says: a probe that failed, a volume that is not there.
    Told {
        #[serde(default, skip_serializing_if = "String::is_empty")]
        container: String,
        reason: String,
        message: String,
    },
    /// The pod, or what it uses, was changed; values are not named.
    Changed { message: String },
}

/// The control group whose limit was hit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OutOfMemory {
    /// From the hierarchy's root on; empty where it was the node's own memory that ran out.
    pub group: String,
    /// What the group is of: `container`, `pod`, `ancestor`, `node`.
    pub level: String,
    pub limit_bytes: u64,
}

impl What {
    /// Whether the two are the same start or end, told again by a daemon that came later.
    fn is_same_moment(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Started { id, .. }, Self::Started { id: other, .. })
            | (Self::Ended { id, .. }, Self::Ended { id: other, .. }) => id == other,
            _ => false,
        }
    }
}

/// Takes what happens, and reads what happened.
#[derive(Clone)]
pub struct Journal {
    folder: Arc<Path>,
    queue: mpsc::Sender<(Owner, Entry)>,
}

/// A journal in `folder`, and who keeps it.
pub fn open(folder: PathBuf, objects: crate::api::objects::Objects) -> (Journal, Keeper) {
    let (sender, queue) = mpsc::channel(QUEUE);
    (Journal { folder: folder.clone().into(), queue: sender }, Keeper::new(folder, queue, objects))
}

impl Journal {
    /// Tells what happened at `at`; false where too much waits to be written.
    pub fn note(&self, owner: Owner, at: String, what: What) -> bool {
        self.queue.try_send((owner, Entry { at, what, count: 1, until: None })).is_ok()
    }

    /// The entries of a pod, oldest first; none where nothing is kept of it.
    pub fn read(&self, uid: &str) -> Vec<Entry> {
        file::read(&file::path(&self.folder, uid)).map(|(_, entries)| entries).unwrap_or_default()
    }

    /// The newest journal of a pod of that name that has gone.
    pub fn find(&self, namespace: &str, name: &str) -> Option<(Owner, Vec<Entry>)> {
        let found = std::fs::read_dir(&self.folder).ok()?.flatten().filter_map(|entry| {
            let modified = entry.metadata().ok()?.modified().ok()?;
            let (owner, entries) = file::read(&entry.path())?;
            (owner.namespace == namespace && owner.name == name).then_some((modified, owner, entries))
        });
        found.max_by_key(|(modified, ..)| *modified).map(|(_, owner, entries)| (owner, entries))
    }
}
