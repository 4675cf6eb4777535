//! A layer's bytes from wherever they can be had, each passed on once and in order, however often a transfer breaks.

use std::io;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::StreamExt;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE};
use reqwest::{Method, Response, StatusCode};
use tokio::sync::{Semaphore, mpsc};

use super::{RegistryError, RegistryFailure, Session};
use crate::digest::Digest;
use crate::transfers::BackOff;

/// Who got so much further is not counted as having failed.
const PROGRESS_BYTES: u64 = 64 << 10;

/// One blob of `size` bytes, and what is known of those who have it.
pub(crate) struct Download<'a> {
    session: &'a Session<'a>,
    digest: Digest,
    size: u64,
    path: String,
    permits: Arc<Semaphore>,
    /// By endpoint: refused for good, or wrong in the end.
    given_up: Vec<bool>,
    /// By endpoint: some of the last try's bytes are from there.
    served: Vec<bool>,
    is_last_try: bool,
}

/// Where the bytes go, and who wants to know how many there are.
pub(crate) struct Sink<'s> {
    pub bytes: mpsc::Sender<io::Result<Bytes>>,
    pub report: &'s (dyn Fn(u64) + Send + Sync),
}

/// The receiver has had enough; it knows why.
struct Full;

impl<'a> Download<'a> {
    pub(crate) fn new(session: &'a Session<'a>, digest: Digest, size: u64) -> Self {
        let able = |access: &super::Access| !access.endpoint.pulls;
        Self {
            session,
            digest,
            size,
            path: format!("blobs/{digest}"),
            permits: session.registry.permits.clone(),
            given_up: session.accesses.iter().map(able).collect(),
            served: vec![false; session.accesses.len()],
            is_last_try: false,
        }
    }

    /// Passes the whole blob on. A transfer that breaks goes on where it broke, elsewhere if there is another place.
    pub(crate) async fn run(&mut self, sink: &Sink<'_>) -> Result<(), RegistryError> {
        self.served.fill(false);
        let mut back_off = BackOff::new(self.session.registry.bounds);
        let mut done = 0;
        loop {
            let mut refusal: Option<RegistryError> = None;
            for at in 0..self.session.accesses.len() {
                let endpoint = &self.session.accesses[at].endpoint;
                let answered = refusal.as_ref().is_some_and(|error| !error.is_unconnected());
                if self.given_up[at] || (endpoint.is_second_try && answered) {
                    continue;
                }
                let before = done;
                let outcome = self.receive(at, &mut done, sink).await;
                self.served[at] |= done > before;
                let Err(error) = outcome else { return Ok(()) };
                if done - before >= PROGRESS_BYTES {
                    back_off.restart();
                }
                tracing::debug!(layer = %self.digest, endpoint = %endpoint.url(), done, %error, "transfer broke");
                self.given_up[at] |= !error.is_passing();
                refusal = Some(error);
            }
            let refusal = refusal.unwrap_or_else(|| self.session.nobody(&self.path, "pull"));
            back_off.wait_after(refusal).await?;
        }
    }

    /// What came was not the blob: whether it is worth another try, without those who served it if there are others,
    /// else once more.
    pub(crate) fn distrust(&mut self) -> bool {
        let before = self.given_up.clone();
        for (given_up, served) in self.given_up.iter_mut().zip(&self.served) {
            *given_up |= *served;
        }
        if self.given_up.contains(&false) {
            return true;
        }
        self.given_up = before;
        !std::mem::replace(&mut self.is_last_try, true)
    }

    async fn receive(&self, at: usize, done: &mut u64, sink: &Sink<'_>) -> Result<(), RegistryError> {
        if *done == self.size && *done > 0 {
            return Ok(());
        }
        let access = &self.session.accesses[at];
        let failed = |failure| self.session.failure(access, &self.path, failure);
        // Not held while waiting for the next try. The semaphore is never closed.
        let _permit = self.permits.acquire().await.ok();
        let response = self.session.send(access, Method::GET, &self.path, *done).await?;
        // A server that does not know ranges begins again: what is here already is passed over. The digest over all of
        // it shows in the end whether the parts belong together.
        let mut passed_over = self.begins_at(&response, *done).map(|begin| *done - begin).map_err(failed)?;
        let mut body = response.bytes_stream();
        while let Some(chunk) = body.next().await {
            let mut chunk = chunk.map_err(|error| failed(RegistryFailure::from_transport(error)))?;
            let skipped = passed_over.min(chunk.len() as u64);
            chunk.advance(skipped as usize);
            passed_over -= skipped;
            if chunk.is_empty() {
                continue;
            }
            *done += chunk.len() as u64;
            if let Err(Full) = self.pass_on(chunk, *done, sink).await {
                return Ok(());
            }
        }
        match *done < self.size {
            true => Err(failed(RegistryFailure::Cut { expected: self.size, found: *done })),
            false => Ok(()),
        }
    }

    async fn pass_on(&self, chunk: Bytes, done: u64, sink: &Sink<'_>) -> Result<(), Full> {
        (sink.report)(done.min(self.size));
        sink.bytes.send(Ok(chunk)).await.map_err(|_| Full)
    }

    /// The blob's byte with which the answer begins, once it is known that the rest of the blob follows (RFC 9110,
    /// 14.4).
    fn begins_at(&self, response: &Response, wanted: u64) -> Result<u64, RegistryFailure> {
        let text = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let begin = match response.status() {
            StatusCode::PARTIAL_CONTENT => match text(CONTENT_RANGE) {
                Some(range) if range.starts_with(&format!("bytes {wanted}-")) => wanted,
                found => {
                    let found = found.unwrap_or("no range").to_owned();
                    return Err(RegistryFailure::Range { expected: wanted, found });
                }
            },
            _ => 0,
        };
        let expected = self.size - begin;
        match text(CONTENT_LENGTH).and_then(|length| length.parse().ok()) {
            Some(found) if found != expected => Err(RegistryFailure::Length { expected, found }),
            _ => Ok(begin),
        }
    }
}
