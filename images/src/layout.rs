//! The store on disk, its lock and its transactions.
//!
//! ```text
//! <root>/lock                     flock: shared to use snapshots, exclusive to change index.json
//! <root>/images/                  an OCI image layout (image-spec, "OCI Image Layout")
//!     oci-layout  index.json  blobs/sha256/<hex>
//! <root>/snapshots/<diff id>/     fs/ (one overlay lower directory), record.json, own-marks if it cannot be mounted
//! <root>/containers/<id>/         upper/ work/ (one writable layer) and image.json
//! <root>/fetching/<hex>           flocked by the process that fetches the blob
//! <root>/tmp/<session>/           what a pull or load has made so far; flocked while it lives
//! ```
//!
//! A pull makes everything in its session, syncs the file system once, and only then, under the exclusive lock,
//! renames blobs and snapshots into place and replaces index.json. So what index.json names is always there and
//! on disk, and what nothing names is rubbish that the next sweep takes.

mod fetching;
mod session;

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};

use tokio::sync::watch;

use crate::digest::Digest;
use crate::manifest::{Descriptor, Index, OCI_INDEX};
use crate::unpack::ImpliedDirectories;

pub(crate) use fetching::Fetching;
pub(crate) use session::{Needed, PublishError, RubbishSession, Session};

/// Where everything lies.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
    /// How many sessions this process has open, those included that are being cleared away.
    open_sessions: Arc<watch::Sender<usize>>,
}

/// Holds the store's flock until dropped.
pub(crate) struct Lock(#[expect(dead_code, reason = "closing it unlocks")] File);

/// Beside a snapshot's `fs/`, if it hides something in a form that overlayfs does not know.
const OWN_MARKS_FILE: &str = "own-marks";

/// What is known about a snapshot beside its files.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct SnapshotRecord {
    /// Bytes of its files, each rounded up to whole 4 KiB blocks.
    pub bytes: u64,
    pub inodes: u64,
    /// Whether it hides something in a form that overlayfs does not know: it can be copied, not mounted.
    /// A file of its own says so: whether to mount or to copy is asked for every container.
    #[serde(skip)]
    pub own_marks: bool,
    /// Directories whose attributes belong to the layers below (names may be any bytes).
    pub implied: ImpliedDirectories,
}

impl Layout {
    /// Creates what is missing below `root`, which becomes private to its owner.
    pub(crate) fn open(root: &Path) -> io::Result<Self> {
        let layout = Self { root: std::path::absolute(root)?, open_sessions: Arc::new(watch::Sender::new(0)) };
        let mut private = DirBuilder::new();
        private.recursive(true).mode(0o700);
        for directory in [layout.blobs(), layout.snapshots(), layout.containers(), layout.fetching(), layout.tmp()] {
            private.create(directory)?;
        }
        let marker = layout.images().join("oci-layout");
        if !marker.exists() {
            write_synced(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        if !layout.index_file().exists() {
            let _lock = layout.lock()?;
            if !layout.index_file().exists() {
                layout.write_index(&[])?;
            }
        }
        Ok(layout)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn images(&self) -> PathBuf {
        self.root.join("images")
    }

    fn blobs(&self) -> PathBuf {
        self.root.join("images/blobs/sha256")
    }

    pub(crate) fn snapshots(&self) -> PathBuf {
        self.root.join("snapshots")
    }

    pub(crate) fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    fn tmp(&self) -> PathBuf {
        self.root.join("tmp")
    }

    pub(crate) fn index_file(&self) -> PathBuf {
        self.root.join("images/index.json")
    }

    pub(crate) fn blob(&self, digest: &Digest) -> PathBuf {
        self.blobs().join(digest.hex())
    }

    /// The directory of a layer's snapshot; its files are in `fs` below.
    pub(crate) fn snapshot(&self, diff_id: &Digest) -> PathBuf {
        self.snapshots().join(diff_id.hex())
    }

    /// Waits for everyone who uses the store, in this and in other processes.
    pub(crate) fn lock(&self) -> io::Result<Lock> {
        let file = self.lock_file()?;
        file.lock()?;
        Ok(Lock(file))
    }

    /// Waits for whoever changes the store.
    pub(crate) fn lock_shared(&self) -> io::Result<Lock> {
        let file = self.lock_file()?;
        file.lock_shared()?;
        Ok(Lock(file))
    }

    fn lock_file(&self) -> io::Result<File> {
        File::options().create(true).truncate(false).write(true).open(self.root.join("lock"))
    }

    /// The whole content of a small blob (a manifest, an index or a config).
    pub(crate) fn read_blob(&self, digest: &Digest) -> io::Result<Vec<u8>> {
        fs::read(self.blob(digest))
    }

    pub(crate) fn read_index(&self) -> io::Result<Vec<Descriptor>> {
        let bytes = fs::read(self.index_file())?;
        let index: Index = serde_json::from_slice(&bytes).map_err(io::Error::other)?;
        Ok(index.manifests)
    }

    /// Replaces index.json. The exclusive lock must be held.
    pub(crate) fn write_index(&self, entries: &[Descriptor]) -> io::Result<()> {
        let index = Index { schema_version: 2, media_type: Some(OCI_INDEX.into()), manifests: entries.to_vec() };
        write_synced(&self.index_file(), &serde_json::to_vec(&index).map_err(io::Error::other)?)
    }

    /// Every blob in the store, with its size.
    pub(crate) fn list_blobs(&self) -> io::Result<Vec<(Digest, u64)>> {
        let mut all = Vec::new();
        for entry in fs::read_dir(self.blobs())? {
            let entry = entry?;
            if let Some(digest) = digest_of_name(&entry.file_name()) {
                all.push((digest, entry.metadata()?.len()));
            }
        }
        Ok(all)
    }

    /// Every snapshot in the store.
    pub(crate) fn list_snapshots(&self) -> io::Result<Vec<Digest>> {
        let names = fs::read_dir(self.snapshots())?;
        names.map(|entry| Ok(digest_of_name(&entry?.file_name()))).filter_map(Result::transpose).collect()
    }

    /// Whether the layer can be copied and not mounted.
    pub(crate) fn has_own_marks(&self, diff_id: &Digest) -> bool {
        self.snapshot(diff_id).join(OWN_MARKS_FILE).exists()
    }

    pub(crate) fn snapshot_record(&self, diff_id: &Digest) -> io::Result<SnapshotRecord> {
        read_record(&self.snapshot(diff_id))
    }

    /// Begins a transaction in a directory of its own.
    pub(crate) fn session(&self) -> io::Result<Session> {
        // Against the sweep below, which must not see the directory before it is locked.
        let _lock = self.lock_shared()?;
        self.new_session()
    }

    /// A place for what is removed. The exclusive lock must be held.
    pub(crate) fn rubbish_session(&self) -> io::Result<RubbishSession> {
        Ok(RubbishSession::new(self.new_session()?))
    }

    fn new_session(&self) -> io::Result<Session> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let mut private = DirBuilder::new();
        private.mode(0o700);
        let dir = loop {
            let name = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let dir = self.tmp().join(name);
            match private.create(&dir) {
                // Left by another process that had our number.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                other => break other.map(|()| dir)?,
            }
        };
        let lock = File::open(&dir)?;
        lock.lock()?;
        private.create(dir.join("blobs"))?;
        private.create(dir.join("snapshots"))?;
        Ok(Session::new(dir, lock, self))
    }

    /// Waits until no session of this process is left.
    pub(crate) async fn idle(&self) {
        // Fails only if the sender is gone, which is here.
        let _ = self.open_sessions.subscribe().wait_for(|open| *open == 0).await;
    }

    /// Removes what processes that died left: their sessions, and an index that was not renamed yet.
    pub(crate) fn sweep(&self) -> io::Result<()> {
        // Whoever writes the index holds it too.
        let _lock = self.lock()?;
        for entry in fs::read_dir(self.images())? {
            let path = entry?.path();
            if path.with_extension("") == self.index_file().with_extension("") && path != self.index_file() {
                fs::remove_file(path)?;
            }
        }
        self.sweep_fetching()?;
        for entry in fs::read_dir(self.tmp())? {
            let dir = entry?.path();
            let abandoned = File::open(&dir).is_ok_and(|file| file.try_lock().is_ok());
            if abandoned {
                fs::remove_dir_all(&dir)?;
            }
        }
        Ok(())
    }
}

fn read_record(snapshot: &Path) -> io::Result<SnapshotRecord> {
    serde_json::from_slice(&fs::read(snapshot.join("record.json"))?).map_err(io::Error::other)
}

fn digest_of_name(name: &std::ffi::OsStr) -> Option<Digest> {
    format!("sha256:{}", name.to_str()?).parse().ok()
}

/// Writes under a temporary name, syncs, renames, syncs the directory.
pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp-{}", std::process::id()));
    let result = (|| {
        let mut file = File::create(&temporary)?;
        io::Write::write_all(&mut file, bytes)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    match result {
        Ok(()) => sync_directory(path.parent().unwrap_or(Path::new("/"))),
        Err(error) => {
            // Nothing to add to the error that is returned.
            let _ = fs::remove_file(&temporary);
            Err(error)
        }
    }
}

fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
