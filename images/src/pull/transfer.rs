//! The layers' way from the registry to their unpacking threads.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use super::{Plan, Pull, PullError};
use crate::layer::{LayerJob, ingest};
use crate::layout::Session;
use crate::progress::LayerState;
use crate::registry::{self, RegistryError, RegistryFailure};

/// Layers received and unpacked at once: enough to keep two to four cores busy, few enough to stay within
/// 64 MiB.
const PARALLEL_LAYERS: usize = 4;
/// Pieces of a transfer that may wait for the unpacking; each has at most a few dozen KiB.
const CHUNKS_WAITING: usize = 16;
/// A cut transfer is taken up again this often where it broke, as long as something came.
const RESUMES_MAX: u32 = 5;

impl Pull {
    /// Brings every layer that neither the store nor the session has.
    pub(super) async fn fetch_layers(
        &self,
        remote: &registry::Session<'_>,
        plan: &Plan,
        session: &Arc<Session>,
    ) -> Result<(), PullError> {
        let mut jobs: Vec<LayerJob> = Vec::new();
        for (layer, diff_id) in plan.layers.iter().zip(&plan.diff_ids) {
            if jobs.iter().any(|job| job.blob == layer.digest) {
                continue;
            }
            let layout = &self.store.inner.layout;
            let in_session = session.made_snapshot(diff_id) || jobs.iter().any(|job| job.diff_id == *diff_id);
            let job = LayerJob {
                blob: layer.digest,
                size: layer.size,
                diff_id: *diff_id,
                keep_blob: session.open_blob(&layer.digest).is_err(),
                unpack: !in_session && !layout.snapshot(diff_id).exists(),
            };
            let state = match job.keep_blob || job.unpack {
                true => LayerState::Waiting,
                false => LayerState::Present,
            };
            self.progress.report(job.blob, state, 0, job.size);
            jobs.push(job);
        }
        jobs.retain(|job| job.keep_blob || job.unpack);
        let (running, mut ended) = mpsc::channel::<()>(1);
        let outcome = stream::iter(jobs.into_iter().map(Ok))
            .try_for_each_concurrent(PARALLEL_LAYERS, |job| self.fetch_layer(remote, job, session, running.clone()))
            .await;
        // The threads of layers that were given up end soon; then the session is ours alone again, and what a
        // failed pull has made is gone when it returns.
        drop(running);
        let _ = ended.recv().await;
        outcome
    }

    async fn fetch_layer(
        &self,
        remote: &registry::Session<'_>,
        job: LayerJob,
        session: &Arc<Session>,
        running: mpsc::Sender<()>,
    ) -> Result<(), PullError> {
        let (sender, receiver) = mpsc::channel(CHUNKS_WAITING);
        let unpacking = {
            let (session, limits) = (session.clone(), self.store.inner.limits);
            let local = match job.keep_blob {
                true => None,
                false => Some(session.open_blob(&job.blob).map_err(self.io("open layer"))?),
            };
            tokio::task::spawn_blocking(move || {
                let outcome = match local {
                    Some(file) => ingest(file, &job, &session, limits),
                    None => ingest(ChunkReader::new(receiver), &job, &session, limits),
                };
                drop(session);
                drop(running);
                outcome
            })
        };
        let transfer = match job.keep_blob {
            true => self.transfer(remote, &job, sender).await,
            false => Ok(()),
        };
        let unpacked = unpacking.await.map_err(|error| self.io("unpack layer")(io::Error::other(error)))?;
        // The transfer's own error knows more than what the unpacking made of the broken end.
        transfer?;
        unpacked
            .map_err(|source| PullError::Layer { reference: self.reference.to_string(), source: Box::new(source) })?;
        self.progress.report(job.blob, LayerState::Complete, job.size, job.size);
        Ok(())
    }

    /// Sends a blob's bytes to its unpacking thread. If that thread gives up, so does this, without an error: the
    /// thread has it.
    async fn transfer(
        &self,
        remote: &registry::Session<'_>,
        job: &LayerJob,
        sender: mpsc::Sender<io::Result<Bytes>>,
    ) -> Result<(), PullError> {
        let mut done = 0;
        let mut resumes = 0;
        loop {
            let started_at = done;
            let outcome = self.transfer_from(remote, job, &sender, &mut done).await;
            let Err(error) = outcome else {
                return Ok(());
            };
            resumes += 1;
            let cut = matches!(*error.failure, RegistryFailure::Transport { stage: "transfer", .. });
            if !cut || done == started_at || resumes > RESUMES_MAX {
                // The thread must not take the end of the channel for the end of the blob.
                let _ = sender.send(Err(io::Error::other("transfer failed"))).await;
                return Err(error.into());
            }
            tracing::debug!(layer = %job.blob, done, "transfer was cut off, taking it up again");
        }
    }

    async fn transfer_from(
        &self,
        remote: &registry::Session<'_>,
        job: &LayerJob,
        sender: &mpsc::Sender<io::Result<Bytes>>,
        done: &mut u64,
    ) -> Result<(), RegistryError> {
        let path = format!("blobs/{}", job.blob);
        let mut body = remote.blob(job.blob, job.size, *done).await?.bytes_stream();
        while let Some(chunk) = body.next().await {
            let chunk = chunk.map_err(|error| remote.broken(&path, error))?;
            *done += chunk.len() as u64;
            self.progress.report(job.blob, LayerState::Transferring, *done, job.size);
            if sender.send(Ok(chunk)).await.is_err() {
                return Ok(());
            }
        }
        Ok(())
    }
}

/// The blocking end of a transfer.
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChunkReader {
    fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
