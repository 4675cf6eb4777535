//! One process fetches a blob, others that want it meanwhile wait and take it from there.
//!
//! ```text
//! <root>/fetching/<hex>    flocked by who fetches the blob; says in which session, and `done` when it is there
//! ```
//!
//! Nobody depends on it: whoever waits in vain fetches for himself, and what is published is verified by each.

use std::fs::{self, File};
use std::io::{self, Read, Seek, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::{Layout, Session};
use crate::digest::Digest;

/// How often a waiting process looks whether the other one is done: the kernel has no way to wait for a flock that can
/// be given up.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A session's name and a word.
const NOTE_MAX_BYTES: u64 = 256;
const DONE: &str = "done";

/// Held while fetching.
pub(crate) struct Fetching {
    file: File,
    session: String,
}

impl Fetching {
    /// The blob is in the session, whole and right: others may take it.
    pub(crate) fn done(mut self) -> io::Result<()> {
        note(&mut self.file, &format!("{} {DONE}", self.session))
    }
}

impl Session {
    /// Waits until no other process fetches `digest`, then holds them off. Whether the blob is in this session or in the
    /// store by then is to be looked up. `None` if another process has got nowhere for `silence`.
    pub(crate) async fn begin_fetching(&self, digest: &Digest, silence: Duration) -> io::Result<Option<Fetching>> {
        let path = self.layout.fetching().join(digest.hex());
        let mut last = (0, Instant::now());
        loop {
            let mut file = File::options().read(true).write(true).create(true).truncate(false).open(&path)?;
            if file.try_lock().is_ok() {
                self.take_over(&mut file, digest)?;
                let session = self.name();
                note(&mut file, &session)?;
                self.fetched.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(*digest);
                return Ok(Some(Fetching { file, session }));
            }
            let (other, _) = read_note(&mut file)?;
            let there = self.layout.session_blob(&other, digest);
            let length = there.and_then(|path| path.metadata().ok()).map_or(0, |metadata| metadata.len());
            if length != last.0 {
                last = (length, Instant::now());
            }
            if last.1.elapsed() > silence {
                return Ok(None);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Takes the blob that whoever had the lock before has fetched, if it is still there.
    fn take_over(&self, file: &mut File, digest: &Digest) -> io::Result<()> {
        let (other, is_done) = read_note(file)?;
        if let Some(there) = self.layout.session_blob(&other, digest).filter(|_| is_done)
            && let Err(error) = fs::hard_link(there, self.blob(digest))
        {
            // It may be published by now, or given up.
            tracing::debug!(%digest, %error, "blob of another process is not there");
        }
        Ok(())
    }

    fn name(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Forgets what this session has fetched: its blobs go with it.
    pub(super) fn end_fetching(&self) {
        let fetched = std::mem::take(&mut *self.fetched.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
        for digest in fetched {
            let path = self.layout.fetching().join(digest.hex());
            let is_ours =
                File::open(&path).and_then(|mut file| read_note(&mut file)).is_ok_and(|(name, _)| name == self.name());
            if is_ours {
                // Whoever opened it before makes nothing worse than a second transfer.
                let _ = fs::remove_file(path);
            }
        }
    }
}

impl Layout {
    pub(super) fn fetching(&self) -> PathBuf {
        self.root.join("fetching")
    }

    fn session_blob(&self, session: &str, digest: &Digest) -> Option<PathBuf> {
        let is_name = !session.is_empty() && !session.contains('/') && !session.starts_with('.');
        is_name.then(|| self.tmp().join(session).join("blobs").join(digest.hex()))
    }

    /// Removes what processes that died left. The exclusive lock must be held.
    pub(super) fn sweep_fetching(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.fetching())? {
            let path = entry?.path();
            if File::open(&path).is_ok_and(|file| file.try_lock().is_ok()) {
                fs::remove_file(&path)?;
            }
        }
        Ok(())
    }
}

fn note(file: &mut File, text: &str) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(text.as_bytes())
}

/// The session's name, and whether it is done.
fn read_note(file: &mut File) -> io::Result<(String, bool)> {
    let mut text = String::new();
    file.rewind()?;
    file.take(NOTE_MAX_BYTES).read_to_string(&mut text)?;
    let (name, word) = text.split_once(' ').unwrap_or((&text, ""));
    Ok((name.to_owned(), word == DONE))
}
