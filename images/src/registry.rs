//! The pull side of the distribution protocol (OCI distribution-spec 1.1) with bearer, basic and no
//! authentication.
//!
//! Requests of our own over `reqwest`, not `oci-client`: that one hides the HTTP status of most refusals, asks
//! `/v2/` before anything else (a present image must cost one request), and reads manifests without a bound.

mod auth;
mod error;

use std::sync::OnceLock;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, RANGE};
use reqwest::{Method, Response, StatusCode};

pub use error::{RegistryError, RegistryFailure};

use crate::credentials::Login;
use crate::digest::Digest;
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, DOCUMENT_MAX_BYTES, OCI_INDEX, OCI_MANIFEST};
use crate::reference::Reference;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// A transfer that brings nothing for this long is dead.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// Nobody needs more of an error page.
const ERROR_BODY_MAX_BYTES: u64 = 4096;
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));

/// Connections and tokens, shared by all transfers of a store.
#[derive(Default)]
pub(crate) struct Registry {
    /// Made at the first use: reading the machine's root certificates takes milliseconds.
    proxied: OnceLock<reqwest::Client>,
    /// For this machine's own registries: no proxy, no TLS.
    direct: OnceLock<reqwest::Client>,
    tokens: auth::Tokens,
}

/// Who asks, for what.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    pub registry: &'a Registry,
    pub reference: Reference,
    pub login: Login,
    pub plain_http: bool,
}

/// A manifest or index as it was served.
pub(crate) struct Served {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

impl Session<'_> {
    /// The digest the reference leads to now, by one HEAD request; `None` if the registry does not say.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, RegistryError> {
        let path = format!("manifests/{}", self.reference.manifest_key());
        let response = self.send(Method::HEAD, &path, None).await?;
        Ok(digest_header(&response))
    }

    /// A manifest or index by tag or digest. Its digest is checked against the reference and the registry's word.
    pub(crate) async fn manifest(&self, key: &str) -> Result<Served, RegistryError> {
        let path = format!("manifests/{key}");
        let response = self.send(Method::GET, &path, None).await?;
        let claimed = digest_header(&response);
        let bytes = self.body(response, &path, DOCUMENT_MAX_BYTES).await?;
        let digest = Digest::of(&bytes);
        let expected = key.parse::<Digest>().ok().or(claimed);
        match expected.filter(|expected| *expected != digest) {
            Some(expected) => Err(self.failure(&path, RegistryFailure::Digest { expected, found: digest })),
            None => Ok(Served { digest, bytes }),
        }
    }

    /// A small blob, checked.
    pub(crate) async fn document(&self, digest: Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let path = format!("blobs/{digest}");
        let response = self.blob(digest, size, 0).await?;
        let bytes = self.body(response, &path, size.min(DOCUMENT_MAX_BYTES)).await?;
        let found = Digest::of(&bytes);
        match found == digest {
            true => Ok(bytes),
            false if (bytes.len() as u64) < size => {
                Err(self.failure(&path, RegistryFailure::Length { expected: size, found: bytes.len() as u64 }))
            }
            false => Err(self.failure(&path, RegistryFailure::Digest { expected: digest, found })),
        }
    }

    /// A blob's bytes from `offset` on, to be streamed and checked by the caller.
    pub(crate) async fn blob(&self, digest: Digest, size: u64, offset: u64) -> Result<Response, RegistryError> {
        let path = format!("blobs/{digest}");
        let response = self.send(Method::GET, &path, Some(offset)).await?;
        let found = response.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
        match found.filter(|found| *found != size - offset) {
            Some(found) => Err(self.failure(&path, RegistryFailure::Length { expected: size - offset, found })),
            None => Ok(response),
        }
    }

    pub(crate) fn failure(&self, path: &str, failure: RegistryFailure) -> RegistryError {
        RegistryError {
            reference: self.reference.to_string(),
            registry: self.reference.registry().into(),
            object: path.into(),
            failure: Box::new(failure),
        }
    }

    async fn body(&self, mut response: Response, path: &str, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| self.failure(path, RegistryFailure::from_transport(error)))?
        {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(self.failure(path, RegistryFailure::TooLong { limit }));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Sends a request below `/v2/<repository>/`, logging in when asked to, and refuses every other status.
    async fn send(&self, method: Method, path: &str, offset: Option<u64>) -> Result<Response, RegistryError> {
        let scheme = if self.is_plain() { "http" } else { "https" };
        let url = format!("{scheme}://{}/v2/{}/{path}", self.reference.host(), self.reference.repository());
        let transport = |error| self.failure(path, RegistryFailure::from_transport(error));
        let client = self.client().map_err(transport)?;
        let mut header = self.registry.tokens.header(self);
        let mut asked = false;
        let mut anonymous = matches!(self.login, Login::Anonymous);
        loop {
            let mut request = client.request(method.clone(), &url);
            if path.starts_with("manifests/") {
                request = request.header(ACCEPT, [OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", "));
            }
            if let Some(value) = &header {
                request = request.header(AUTHORIZATION, value);
            }
            let range = offset.filter(|offset| *offset > 0);
            if let Some(offset) = range {
                request = request.header(RANGE, format!("bytes={offset}-"));
            }
            let response = request.send().await.map_err(transport)?;
            match response.status() {
                StatusCode::OK if range.is_none() => return Ok(response),
                StatusCode::PARTIAL_CONTENT if range.is_some() => return Ok(response),
                StatusCode::UNAUTHORIZED if !asked => {
                    asked = true;
                    let answer = auth::log_in(self, client, &response).await;
                    let answer = answer.map_err(|failure| self.failure(path, failure))?;
                    anonymous = answer.anonymous;
                    if answer.header.is_none() {
                        return Err(self.refusal(path, response, anonymous).await);
                    }
                    header = answer.header;
                }
                _ => return Err(self.refusal(path, response, anonymous).await),
            }
        }
    }

    async fn refusal(&self, path: &str, response: Response, anonymous: bool) -> RegistryError {
        let status = response.status().as_u16();
        let message = match self.body(response, path, ERROR_BODY_MAX_BYTES).await {
            Ok(body) => error::message(&body),
            // The status says it; a longer or broken page adds nothing.
            Err(_) => String::new(),
        };
        let source = self.login.source().filter(|_| !anonymous);
        self.failure(path, RegistryFailure::Status { status, message, anonymous, source })
    }

    fn is_plain(&self) -> bool {
        self.plain_http || self.reference.is_loopback()
    }

    fn client(&self) -> reqwest::Result<&reqwest::Client> {
        let (slot, direct) = match self.reference.is_loopback() {
            true => (&self.registry.direct, true),
            false => (&self.registry.proxied, false),
        };
        match slot.get() {
            Some(client) => Ok(client),
            None => {
                let client = new_client(direct)?;
                Ok(slot.get_or_init(|| client))
            }
        }
    }
}

/// Names are resolved by glibc: since 2.34 its `files` and `dns` services need no shared library, so the static
/// binary has them (tried with other services in nsswitch.conf too: they are passed over). A resolver of our own
/// would cost a dozen crates.
fn new_client(direct: bool) -> reqwest::Result<reqwest::Client> {
    // Whoever comes first installs it; all of Wharf uses ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let builder = reqwest::Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .read_timeout(STALL_TIMEOUT)
        .redirect(reqwest::redirect::Policy::custom(|attempt| {
            let from_tls = attempt.previous().last().is_some_and(|url| url.scheme() == "https");
            if from_tls && attempt.url().scheme() != "https" {
                return attempt.error("redirects from https to http");
            }
            match attempt.previous().len() {
                0..=5 => attempt.follow(),
                _ => attempt.error("redirects more than five times"),
            }
        }));
    match direct {
        true => {
            let no_roots = rustls::ClientConfig::builder()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
            builder.no_proxy().tls_backend_preconfigured(no_roots).build()
        }
        false => builder.build(),
    }
}

fn digest_header(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
