//! The layers' way from the registry to their unpacking threads.

use std::io::{self, Read};
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::stream::{self, TryStreamExt};
use tokio::sync::mpsc;

use super::{Plan, Pull, PullError};
use crate::layer::{LayerError, LayerJob, ingest};
use crate::layout::{Fetching, Session};
use crate::progress::LayerState;
use crate::registry::{self, Download, RegistryError, Sink};
use crate::unpack::Limits;

/// Layers that one pull receives and unpacks at once: enough to keep two to four cores busy, few enough to stay
/// within 64 MiB.
const PARALLEL_LAYERS: usize = 4;
/// Pieces of a transfer that may wait for the unpacking; each has at most a few dozen KiB.
const CHUNKS_WAITING: usize = 16;

impl Pull {
    /// Brings every layer that neither the store nor the session has.
    pub(super) async fn fetch_layers(
        &self,
        remote: &registry::Session<'_>,
        plan: &Plan,
        session: &Arc<Session>,
    ) -> Result<(), PullError> {
        let mut jobs: Vec<LayerJob> = Vec::new();
        let layers = plan.layers.iter().zip(&plan.diff_ids).map(|(layer, diff_id)| (layer, Some(*diff_id)));
        for (layer, diff_id) in layers.chain(plan.others.iter().map(|other| (other, None))) {
            if jobs.iter().any(|job| job.blob == layer.digest) {
                continue;
            }
            let layout = &self.store.inner.layout;
            let is_unpacked = diff_id.is_none_or(|diff_id| {
                session.made_snapshot(&diff_id)
                    || jobs.iter().any(|job| job.diff_id == Some(diff_id))
                    || layout.snapshot(&diff_id).exists()
            });
            let job = LayerJob {
                blob: layer.digest,
                size: layer.size,
                diff_id,
                keep_blob: session.open_blob(&layer.digest).is_err(),
                unpack: !is_unpacked,
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
        mut job: LayerJob,
        session: &Arc<Session>,
        running: mpsc::Sender<()>,
    ) -> Result<(), PullError> {
        if job.keep_blob {
            let shared = self.want(job.blob);
            let turn = shared.turn().await;
            let other = shared.layer();
            let mut is_here = other.is_some_and(|other| session.link_blob(&other, &job.blob).is_ok())
                || session.open_blob(&job.blob).is_ok();
            let mut fetching = None;
            if !is_here {
                let begun = session.begin_fetching(&job.blob, remote.bounds().silence).await;
                fetching = begun.map_err(self.io("wait for another process"))?;
                is_here = session.open_blob(&job.blob).is_ok();
            }
            let is_brought = !is_here;
            if is_brought {
                self.bring(remote, &job, session, &running).await?;
            }
            if let Some(Err(error)) = fetching.map(Fetching::done) {
                tracing::debug!(blob = %job.blob, %error, "other processes are not told");
            }
            if is_brought {
                shared.made_layer(session);
                session.keep(job.blob);
                return self.complete(&job);
            }
            drop(turn);
            job.keep_blob = false;
        }
        if job.unpack {
            let blob = session.open_blob(&job.blob).map_err(self.io("open layer"))?;
            let unpacking = unpack(blob, job, session.clone(), self.store.inner.limits, running);
            unpacking.await.map_err(|error| self.unpacked(error))?.map_err(|error| self.refused(error))?;
        }
        self.complete(&job)
    }

    /// Receives and unpacks a layer, again if what came was not it.
    async fn bring(
        &self,
        remote: &registry::Session<'_>,
        job: &LayerJob,
        session: &Arc<Session>,
        running: &mpsc::Sender<()>,
    ) -> Result<(), PullError> {
        let mut download = remote.download(job.blob, job.size);
        loop {
            let report = |done| self.progress.report(job.blob, LayerState::Transferring, done, job.size);
            let received = receive(&mut download, job, session, self.store.inner.limits, running, &report).await;
            match received.map_err(|error| self.unpacked(error))?? {
                Err(error) if error.is_transfers_fault() && download.distrust() => {
                    tracing::debug!(layer = %job.blob, %error, "layer came wrong, it is fetched again");
                }
                outcome => return outcome.map_err(|error| self.refused(error)),
            }
        }
    }

    fn complete(&self, job: &LayerJob) -> Result<(), PullError> {
        self.progress.report(job.blob, LayerState::Complete, job.size, job.size);
        Ok(())
    }

    fn refused(&self, source: LayerError) -> PullError {
        PullError::Layer { reference: self.reference.to_string(), source: Box::new(source) }
    }

    fn unpacked(&self, error: tokio::task::JoinError) -> PullError {
        self.io("unpack layer")(io::Error::other(error))
    }
}

/// Receives a blob once, while a thread makes of it what `job` says. The outermost error is the thread's own end, the
/// next the transfer's, the last one is about what came.
pub(crate) async fn receive(
    download: &mut Download<'_>,
    job: &LayerJob,
    session: &Arc<Session>,
    limits: Limits,
    running: &mpsc::Sender<()>,
    report: &(dyn Fn(u64) + Send + Sync),
) -> Result<Result<Result<(), LayerError>, RegistryError>, tokio::task::JoinError> {
    let (bytes, receiver) = mpsc::channel(CHUNKS_WAITING);
    let unpacking = unpack(ChunkReader::new(receiver), *job, session.clone(), limits, running.clone());
    let sink = Sink { bytes, report };
    let received = download.run(&sink).await;
    if received.is_err() {
        // The thread must not take the end of the channel for the end of the blob.
        let _ = sink.bytes.send(Err(io::Error::other("transfer failed"))).await;
    }
    drop(sink);
    let unpacked = unpacking.await?;
    // The transfer's own error knows more than what the unpacking made of the broken end.
    Ok(received.map(|()| unpacked))
}

/// Unpacks on a thread of its own, which holds the session and `running` until it ends.
fn unpack(
    input: impl Read + Send + 'static,
    job: LayerJob,
    session: Arc<Session>,
    limits: Limits,
    running: mpsc::Sender<()>,
) -> tokio::task::JoinHandle<Result<(), LayerError>> {
    tokio::task::spawn_blocking(move || {
        let outcome = ingest(input, &job, &session, limits);
        drop(session);
        drop(running);
        outcome
    })
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
