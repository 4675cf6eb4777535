//! Transactions: what a pull or load makes before anybody can see it.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::{Layout, OWN_MARKS_FILE, SnapshotRecord, read_record, sync_directory};
use crate::digest::Digest;
use crate::manifest::Descriptor;

/// What one pull or load has made so far. Dropped without [`Session::publish`], it leaves nothing but the blobs that
/// it was told to [`keep`](Session::keep).
pub(crate) struct Session {
    pub(super) dir: PathBuf,
    lock: File,
    pub(super) layout: Layout,
    kept: Mutex<Vec<Digest>>,
    /// What other processes may be waiting for.
    pub(super) fetched: Mutex<Vec<Digest>>,
    // Dropped last, when everything else is done.
    _open: Open,
}

/// Counts as an open session while it lives.
struct Open(Arc<watch::Sender<usize>>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.send_modify(|open| *open -= 1);
    }
}

impl Session {
    pub(super) fn new(dir: PathBuf, lock: File, layout: &Layout) -> Self {
        layout.open_sessions.send_modify(|open| *open += 1);
        let open = Open(layout.open_sessions.clone());
        Self { dir, lock, layout: layout.clone(), kept: Mutex::default(), fetched: Mutex::default(), _open: open }
    }

    /// Keeps a verified blob for the next pull even if this one is cancelled or cut off. Until an image names it, the
    /// next removal of an image takes it.
    pub(crate) fn keep(&self, digest: Digest) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).push(digest);
    }

    /// Keeps nothing after all: the image is not one that anybody wants.
    pub(crate) fn keep_nothing(&self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Takes a whole, verified blob from another pull.
    pub(crate) fn link_blob(&self, other: &Self, digest: &Digest) -> io::Result<()> {
        match fs::hard_link(other.blob(digest), self.blob(digest)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            outcome => outcome,
        }
    }

    /// Keeps a blob of the store from going away while this session lives. Where it can be read then.
    pub(crate) fn hold_blob(&self, digest: &Digest) -> io::Result<PathBuf> {
        let held = self.blob(digest);
        match fs::hard_link(self.layout.blob(digest), &held) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(held),
        }
    }

    /// Where a blob is, in this session or in the store.
    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        let own = self.blob(digest);
        if own.exists() { own } else { self.layout.blob(digest) }
    }

    /// Where a blob made in this session is.
    pub(crate) fn own_blob(&self, digest: &Digest) -> PathBuf {
        self.blob(digest)
    }

    fn place_kept(&self) -> io::Result<()> {
        let kept = std::mem::take(&mut *self.kept.lock().unwrap_or_else(PoisonError::into_inner));
        if kept.is_empty() {
            return Ok(());
        }
        rustix::fs::syncfs(&self.lock)?;
        let _lock = self.layout.lock()?;
        for digest in &kept {
            move_into_place(&self.blob(digest), &self.layout.blob(digest))?;
        }
        sync_directory(&self.layout.blobs())
    }

    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs").join(digest.hex())
    }

    fn snapshot(&self, diff_id: &Digest) -> PathBuf {
        self.dir.join("snapshots").join(diff_id.hex())
    }

    /// A new blob, empty; an earlier try of it is forgotten.
    pub(crate) fn create_blob(&self, digest: &Digest) -> io::Result<File> {
        File::create(self.blob(digest))
    }

    pub(crate) fn write_blob(&self, digest: &Digest, bytes: &[u8]) -> io::Result<()> {
        fs::write(self.blob(digest), bytes)
    }

    /// A new snapshot's root directory, empty.
    pub(crate) fn create_snapshot(&self, diff_id: &Digest) -> io::Result<OwnedFd> {
        let dir = self.snapshot(diff_id);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        DirBuilder::new().mode(0o700).create(&dir)?;
        let root = dir.join("fs");
        DirBuilder::new().mode(0o755).create(&root)?;
        Ok(File::open(root)?.into())
    }

    pub(crate) fn record_snapshot(&self, diff_id: &Digest, record: &SnapshotRecord) -> io::Result<()> {
        let bytes = serde_json::to_vec(record).map_err(io::Error::other)?;
        if record.own_marks {
            fs::write(self.snapshot(diff_id).join(OWN_MARKS_FILE), b"")?;
        }
        fs::write(self.snapshot(diff_id).join("record.json"), bytes)
    }

    pub(crate) fn snapshot_record(&self, diff_id: &Digest) -> io::Result<SnapshotRecord> {
        read_record(&self.snapshot(diff_id))
    }

    /// Where a layer's files are now: here if this session made them, else in the store.
    pub(crate) fn snapshot_root(&self, diff_id: &Digest) -> PathBuf {
        let own = self.snapshot(diff_id).join("fs");
        match own.exists() {
            true => own,
            false => self.layout.snapshot(diff_id).join("fs"),
        }
    }

    pub(crate) fn made_snapshot(&self, diff_id: &Digest) -> bool {
        self.snapshot(diff_id).exists()
    }

    /// A file in the session for whatever has no digest yet.
    pub(crate) fn scratch(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Gives a scratch file the name of its digest.
    pub(crate) fn adopt_blob(&self, scratch: &Path, digest: &Digest) -> io::Result<()> {
        fs::rename(scratch, self.blob(digest))
    }

    /// Reads a blob made in this session or present in the store.
    pub(crate) fn open_blob(&self, digest: &Digest) -> io::Result<File> {
        match File::open(self.blob(digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => File::open(self.layout.blob(digest)),
            other => other,
        }
    }

    /// Puts everything in place. `names` computes the new index from the old under the exclusive lock.
    ///
    /// Fails with [`PublishError::Gone`] if something that was in the store when the session began has been
    /// removed since: fetch that too, and publish again.
    pub(crate) fn publish(
        &self,
        needed: &Needed,
        names: impl FnOnce(Vec<Descriptor>) -> Vec<Descriptor>,
    ) -> Result<(), PublishError> {
        // One call for all files: per-file fsync costs a journal commit each.
        rustix::fs::syncfs(&self.lock).map_err(io::Error::from)?;
        let _lock = self.layout.lock()?;
        self.check_complete(needed)?;
        for digest in &needed.blobs {
            move_into_place(&self.blob(digest), &self.layout.blob(digest))?;
        }
        for diff_id in &needed.snapshots {
            move_into_place(&self.snapshot(diff_id), &self.layout.snapshot(diff_id))?;
        }
        sync_directory(&self.layout.blobs())?;
        sync_directory(&self.layout.snapshots())?;
        let entries = names(self.layout.read_index()?);
        self.layout.write_index(&entries)?;
        self.keep_nothing();
        Ok(())
    }

    /// Puts a blob and a snapshot of this session in the place of damaged ones.
    pub(crate) fn replace(&self, blob: Option<&Digest>, snapshot: Option<&Digest>) -> io::Result<()> {
        rustix::fs::syncfs(&self.lock)?;
        let _lock = self.layout.lock()?;
        if let Some(digest) = blob {
            fs::rename(self.blob(digest), self.layout.blob(digest))?;
            sync_directory(&self.layout.blobs())?;
        }
        if let Some(diff_id) = snapshot {
            let place = self.layout.snapshot(diff_id);
            // It goes with the session; a mount that stands on it keeps what it has.
            match fs::rename(&place, self.scratch("damaged")) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => fs::rename(self.snapshot(diff_id), &place)?,
            }
            sync_directory(&self.layout.snapshots())?;
        }
        Ok(())
    }

    fn check_complete(&self, needed: &Needed) -> Result<(), PublishError> {
        let gone = Needed {
            blobs: needed
                .blobs
                .iter()
                .copied()
                .filter(|digest| !self.blob(digest).exists() && !self.layout.blob(digest).exists())
                .collect(),
            snapshots: needed
                .snapshots
                .iter()
                .copied()
                .filter(|diff_id| !self.made_snapshot(diff_id) && !self.layout.snapshot(diff_id).exists())
                .collect(),
        };
        match gone.blobs.is_empty() && gone.snapshots.is_empty() {
            true => Ok(()),
            false => Err(PublishError::Gone(gone)),
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end_fetching();
        if let Err(error) = self.place_kept() {
            tracing::warn!(session = %self.dir.display(), %error, "verified layers are lost and will be fetched again");
        }
        if let Err(error) = fs::remove_dir_all(&self.dir) {
            tracing::warn!(session = %self.dir.display(), %error, "a session's files stay until the next start");
        }
    }
}

/// Content on its way out: renamed here at once, deleted when this is dropped.
pub(crate) struct RubbishSession(Session);

impl RubbishSession {
    pub(super) fn new(session: Session) -> Self {
        Self(session)
    }

    pub(crate) fn take(&self, path: &Path) -> io::Result<()> {
        let Some(name) = path.file_name() else {
            return Ok(());
        };
        // A diff id may equal a blob's digest (an uncompressed layer): apart, as in the store.
        let place = if path.is_dir() { "snapshots" } else { "blobs" };
        fs::rename(path, self.0.dir.join(place).join(name))
    }
}

/// What an image consists of.
#[derive(Clone, Debug, Default)]
pub(crate) struct Needed {
    pub blobs: Vec<Digest>,
    pub snapshots: Vec<Digest>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum PublishError {
    #[error("parts of the image were removed meanwhile")]
    Gone(Needed),
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Renames what the session made; what someone else put there meanwhile has the same content and stays.
fn move_into_place(from: &Path, to: &Path) -> io::Result<()> {
    if to.exists() {
        return Ok(());
    }
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && to.exists() => Ok(()),
        other => other,
    }
}
