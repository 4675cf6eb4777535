//! The push side of the distribution protocol: blobs mounted, sent whole or in pieces, and manifests.
//!
//! ```text
//!            HEAD ─ 200 ──────────────────────────────────────────▶ present
//!   POST ?mount=&from= ─ 201 ─────────────────────────────────────▶ mounted
//!            POST ─ 202, Location ─┬─ PUT ?digest= (small blobs) ─▶ uploaded
//!                                  └─ PATCH …, PATCH …, PUT ?digest=
//! ```
//!
//! A transfer that breaks goes on where the registry says it is (`Range`), or anew where it has forgotten.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Method, RequestBuilder, Response, Url};

use super::request::led_to;
use super::{Access, RegistryError, RegistryFailure, Session, digest_header};
use crate::digest::Digest;
use crate::transfers::BackOff;

mod body;

use body::Activity;

/// Pieces a registry may ask for (`OCI-Chunk-Min-Length`).
const PIECE_MAX_BYTES: u64 = 1 << 30;
/// After the last byte of a blob, a registry may have to copy and to digest all of it.
const SILENCES_AT_THE_END: u32 = 10;

/// A blob on its way to a registry.
pub(crate) struct Upload {
    pub digest: Digest,
    pub size: u64,
    /// Has that digest; the caller has seen to it.
    pub file: PathBuf,
    /// Told how many bytes have been sent.
    pub report: Arc<dyn Fn(u64) + Send + Sync>,
}

/// What the registry says to a blob before any of it is sent.
pub(crate) enum Offered {
    Present,
    /// It is there now, from this repository.
    Mounted(String),
    /// It has to be sent.
    Wanted(Begun),
}

/// An upload that may have begun already.
pub(crate) struct Begun(Option<Place>);

/// The endpoint that takes what is pushed.
pub(crate) struct Pusher<'a> {
    session: &'a Session<'a>,
    access: &'a Access,
}

/// An upload that the registry knows.
struct Place {
    /// Where the next request goes.
    url: Url,
    /// Bytes that are there.
    done: u64,
    piece: u64,
}

/// What comes after a request that went wrong.
enum Next {
    /// At another place, or with a new upload.
    Again,
    /// Without pieces: the registry does not take them.
    Whole,
}

impl<'a> Session<'a> {
    /// Finds the endpoint to push to, and what `key` leads to there, by one HEAD request.
    pub(crate) async fn pusher(&'a self, key: &str) -> Result<(Pusher<'a>, Option<Digest>), RegistryError> {
        let path = &format!("manifests/{key}");
        let mut refusal = None;
        for access in &self.accesses {
            if refusal.is_some() && !access.endpoint.is_second_try {
                break;
            }
            let pusher = Pusher { session: self, access };
            let asked = pusher.insist(|| Box::pin(pusher.head(path))).await;
            match asked {
                Ok(answer) => return Ok((pusher, answer.as_ref().and_then(digest_header))),
                Err(error) if error.is_unconnected() => refusal = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| self.nobody(path, "push")))
    }
}

impl Pusher<'_> {
    /// Asks for a blob, and for it to be mounted from one of the repositories that may have it.
    pub(crate) async fn offer(&self, digest: Digest, mounts: &[String]) -> Result<Offered, RegistryError> {
        let path = &format!("blobs/{digest}");
        if self.insist(|| Box::pin(self.head(path))).await?.is_some() {
            return Ok(Offered::Present);
        }
        let mut place = None;
        for from in mounts {
            self.give_up(place.take()).await;
            match self.insist(|| Box::pin(self.mount(digest, from))).await {
                Ok(None) => return Ok(Offered::Mounted(from.clone())),
                Ok(begun) => place = begun,
                // Nobody has to know how to mount.
                Err(error) if error.status().is_some() => {
                    tracing::debug!(blob = %digest, from, %error, "registry does not mount");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Offered::Wanted(Begun(place)))
    }

    /// Sends a blob, however often its transfer breaks.
    pub(crate) async fn upload(&self, upload: &Upload, begun: Begun) -> Result<(), RegistryError> {
        let path = &object(upload);
        let mut place = begun.0;
        // Not held while the registry is asked what it has. The semaphore is never closed.
        let _permit = self.session.registry.permits.acquire().await.ok();
        let mut in_pieces = upload.size > self.piece();
        let mut back_off = BackOff::new(self.session.registry.bounds);
        loop {
            let before = place.as_ref().map_or(0, |place: &Place| place.done);
            let outcome = self.advance(upload, &mut place, in_pieces).await;
            let error = match outcome {
                Ok(true) => return Ok(()),
                Ok(false) => {
                    back_off.restart();
                    continue;
                }
                Err(error) => error,
            };
            tracing::debug!(blob = %upload.digest, before, %error, "upload broke");
            match self.after(&error, before, in_pieces) {
                None => {
                    self.give_up(place).await;
                    return Err(error);
                }
                Some(Next::Whole) => {
                    in_pieces = false;
                    self.give_up(place.take()).await;
                }
                Some(Next::Again) => {
                    back_off.wait_whatever(error).await?;
                    // The answer to the last request may be what was lost.
                    if self.head(path).await.is_ok_and(|answer| answer.is_some()) {
                        return Ok(());
                    }
                    place = match place.take() {
                        Some(known) if in_pieces => self.resume(upload, known).await,
                        known => {
                            self.give_up(known).await;
                            None
                        }
                    };
                }
            }
        }
    }

    /// Puts a manifest or an index.
    pub(crate) async fn put_manifest(&self, key: &str, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let path = &format!("manifests/{key}");
        let expected = Digest::of(bytes);
        let put = || async {
            let prepare =
                |request: RequestBuilder| request.header(CONTENT_TYPE, media_type.to_owned()).body(bytes.to_vec());
            let response = self.below(Method::PUT, path, &prepare, &[201]).await?;
            match digest_header(&response).filter(|found| *found != expected) {
                Some(found) => Err(self.failed(path, RegistryFailure::Digest { expected, found })),
                None => Ok(()),
            }
        };
        self.insist(|| Box::pin(put())).await
    }

    /// Whether it is there; the answer has its digest.
    async fn head(&self, path: &str) -> Result<Option<Response>, RegistryError> {
        let asked = self.session.send(self.access, Method::HEAD, path, 0);
        match self.watched(path, &Activity::default(), 1, asked).await {
            Err(error) if error.status() == Some(404) => Ok(None),
            answer => answer.map(Some),
        }
    }

    /// `None` if the blob is there now, else an upload that has begun instead.
    async fn mount(&self, digest: Digest, from: &str) -> Result<Option<Place>, RegistryError> {
        let digest = digest.to_string();
        let prepare = |request: RequestBuilder| {
            request.query(&[("mount", digest.as_str()), ("from", from)]).header(CONTENT_LENGTH, 0)
        };
        let response = self.below(Method::POST, "blobs/uploads/", &prepare, &[201, 202]).await?;
        match response.status().as_u16() {
            201 => Ok(None),
            _ => self.place(&response, 0, self.piece()).map(Some),
        }
    }

    async fn begin(&self) -> Result<Place, RegistryError> {
        let prepare = |request: RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = self.below(Method::POST, "blobs/uploads/", &prepare, &[202]).await?;
        self.place(&response, 0, self.piece())
    }

    /// One step: begins, sends a piece, or ends the upload. Whether that was the last one.
    async fn advance(
        &self,
        upload: &Upload,
        place: &mut Option<Place>,
        in_pieces: bool,
    ) -> Result<bool, RegistryError> {
        let here = match place {
            Some(here) => here,
            None => place.insert(self.begin().await?),
        };
        if in_pieces && here.done < upload.size {
            *here = self.send_piece(upload, here).await?;
            return Ok(false);
        }
        let (offset, activity) = (if in_pieces { upload.size } else { 0 }, Activity::default());
        let length = upload.size - offset;
        let digest = upload.digest.to_string();
        let prepare = |request: RequestBuilder| {
            request
                .query(&[("digest", digest.as_str())])
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_LENGTH, length)
                .body(body::of_file(upload, offset, length, &activity))
        };
        let sent = self.at(Method::PUT, &here.url, upload, &prepare, &[201, 204]);
        self.watched(&object(upload), &activity, SILENCES_AT_THE_END, sent).await?;
        Ok(true)
    }

    /// Sends the next piece (distribution-spec, "Pushing a blob in chunks").
    async fn send_piece(&self, upload: &Upload, here: &Place) -> Result<Place, RegistryError> {
        let length = here.piece.min(upload.size - here.done);
        let end = here.done + length;
        let activity = Activity::default();
        let prepare = |request: RequestBuilder| {
            request
                .header(CONTENT_TYPE, "application/octet-stream")
                .header(CONTENT_RANGE, format!("{}-{}", here.done, end - 1))
                .header(CONTENT_LENGTH, length)
                .body(body::of_file(upload, here.done, length, &activity))
        };
        let sent = self.at(Method::PATCH, &here.url, upload, &prepare, &[202, 204]);
        let response = self.watched(&object(upload), &activity, 1, sent).await?;
        // It may have taken less, but not more nor nothing.
        let done = received(response.headers()).unwrap_or(end);
        if done <= here.done || done > end {
            let problem = format!("registry has {done} bytes after those from {} to {end} were sent", here.done);
            return Err(self.failed(&object(upload), RegistryFailure::Protocol(problem)));
        }
        self.place(&response, done, here.piece)
    }

    /// What the registry still knows of an upload that broke; `None` to begin anew.
    async fn resume(&self, upload: &Upload, known: Place) -> Option<Place> {
        let asked = self.at(Method::GET, &known.url, upload, &|request| request, &[200, 202, 204]);
        let answer = self.watched(&object(upload), &Activity::default(), 1, asked).await;
        let place = answer.and_then(|response| {
            // `0-0` is said of no byte and of one: one is not worth asking.
            let done = received(response.headers()).filter(|done| *done > 1).unwrap_or(0);
            let url = response.headers().get(LOCATION).map(|location| led_to(&known.url, location));
            let url = url.transpose().map_err(|failure| self.failed(&object(upload), failure))?;
            Ok(Place { url: url.unwrap_or_else(|| known.url.clone()), done, piece: known.piece })
        });
        match place {
            Ok(place) if place.done <= upload.size => {
                tracing::debug!(blob = %upload.digest, done = place.done, "upload goes on");
                Some(place)
            }
            _ => {
                self.give_up(Some(known)).await;
                None
            }
        }
    }

    /// Tells the registry that it may forget an upload. It does so by itself in the end: no matter if this fails.
    async fn give_up(&self, place: Option<Place>) {
        let Some(place) = place else { return };
        let path = "blobs/uploads/";
        let asked = self.session.call(self.access, Method::DELETE, place.url, path, &|request| request, &[200, 204]);
        if let Err(error) = self.watched(path, &Activity::default(), 1, asked).await {
            tracing::debug!(%error, "an upload that was given up stays until the registry forgets it");
        }
    }

    /// What to do after `error`; nothing if it will not pass.
    fn after(&self, error: &RegistryError, before: u64, in_pieces: bool) -> Option<Next> {
        if error.is_passing() {
            return Some(Next::Again);
        }
        match error.status() {
            // Pieces are refused as such only in the beginning; later, the upload is not what we take it for.
            Some(400 | 404 | 405 | 411 | 413 | 416 | 501) if in_pieces && before == 0 => Some(Next::Whole),
            Some(404 | 416) if in_pieces => Some(Next::Again),
            _ => None,
        }
    }

    fn place(&self, response: &Response, done: u64, piece: u64) -> Result<Place, RegistryError> {
        let path = "blobs/uploads/";
        let none = || RegistryFailure::Protocol("registry does not say where to send the blob (no Location)".into());
        let location = response.headers().get(LOCATION).ok_or_else(|| self.failed(path, none()))?;
        let url = led_to(response.url(), location).map_err(|failure| self.failed(path, failure))?;
        let least = response.headers().get("oci-chunk-min-length").and_then(|value| value.to_str().ok()?.parse().ok());
        let piece = least.map_or(piece, |least: u64| least.clamp(piece, PIECE_MAX_BYTES));
        Ok(Place { url, done, piece })
    }

    /// A request with nothing to send, or little, below the repository.
    async fn below(
        &self,
        method: Method,
        path: &str,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        expected: &[u16],
    ) -> Result<Response, RegistryError> {
        let url = self.access.url(path).map_err(|failure| self.failed(path, failure))?;
        let asked = self.session.call(self.access, method, url, path, prepare, expected);
        self.watched(path, &Activity::default(), 1, asked).await
    }

    /// A request for an upload.
    async fn at(
        &self,
        method: Method,
        url: &Url,
        upload: &Upload,
        prepare: &(dyn Fn(RequestBuilder) -> RequestBuilder + Sync),
        expected: &[u16],
    ) -> Result<Response, RegistryError> {
        self.session.call(self.access, method, url.clone(), &object(upload), prepare, expected).await
    }

    /// Ends a request that neither takes a byte nor is answered for too long; `silences` long once all is sent.
    async fn watched<T>(
        &self,
        path: &str,
        activity: &Activity,
        silences: u32,
        request: impl Future<Output = Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let silence = self.session.registry.bounds.silence;
        tokio::select! {
            answer = request => answer,
            () = activity.silence(silence, silence.saturating_mul(silences).max(Duration::from_millis(1))) => {
                Err(self.failed(path, RegistryFailure::Silence))
            }
        }
    }

    /// Asks again, after a while, as long as a refusal may pass.
    async fn insist<'s, T>(
        &'s self,
        ask: impl Fn() -> BoxFuture<'s, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let mut back_off = BackOff::new(self.session.registry.bounds);
        loop {
            match ask().await {
                Ok(answer) => return Ok(answer),
                Err(refusal) => back_off.wait_after(refusal).await?,
            }
        }
    }

    fn piece(&self) -> u64 {
        self.session.registry.bounds.piece.max(1)
    }

    fn failed(&self, path: &str, failure: RegistryFailure) -> RegistryError {
        self.session.failure(self.access, path, failure)
    }
}

fn object(upload: &Upload) -> String {
    format!("blobs/{}", upload.digest)
}

/// How many bytes a `Range: 0-LAST` says are there.
fn received(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(RANGE)?.to_str().ok()?;
    let (first, last) = text.trim_start_matches("bytes=").split_once('-')?;
    (first.parse() == Ok(0u64)).then_some(last.parse::<u64>().ok()?.checked_add(1)?)
}
