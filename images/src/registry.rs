//! The distribution protocol (OCI distribution-spec 1.1) with bearer, basic and no
//! authentication, at a registry or in its place at its mirrors.
//!
//! Requests of our own over `reqwest`, not `oci-client`: that one hides the HTTP status of most refusals, asks
//! `/v2/` before anything else (a present image must cost one request), and reads manifests without a bound.

mod auth;
mod client;
mod download;
mod error;
mod request;
mod upload;

use std::sync::Arc;

use futures_util::future::BoxFuture;
use reqwest::{Method, Response};
use tokio::sync::Semaphore;

pub(crate) use download::{Download, Sink};
pub use error::{RegistryError, RegistryFailure};
pub(crate) use upload::{Offered, Pusher, Upload};

use crate::credentials::{Credentials, Keychain, Login};
use crate::digest::Digest;
use crate::manifest::DOCUMENT_MAX_BYTES;
use crate::reference::Reference;
use crate::registries::{Endpoint, ReachError, Registries, Role};
use crate::transfers::{BackOff, Transfers};

/// Connections and tokens, shared by all transfers of a store.
pub(crate) struct Registry {
    clients: client::Clients,
    tokens: auth::Tokens,
    /// One for each layer that may be received now.
    permits: Arc<Semaphore>,
    bounds: Transfers,
}

/// Who asks, for what, and where.
pub(crate) struct Session<'a> {
    registry: &'a Registry,
    reference: Reference,
    accesses: Vec<Access>,
    /// `pull` or `push`, as messages begin.
    action: &'static str,
}

/// What a session is for.
#[derive(Clone, Debug)]
pub(crate) enum Purpose {
    Pull,
    /// Blobs may be mounted from these repositories of the same registry.
    Push {
        mounts: Vec<String>,
    },
}

/// An endpoint, ready to be asked.
pub(crate) struct Access {
    endpoint: Endpoint,
    login: Login,
    client: reqwest::Client,
    /// What a token has to allow (token specification, "Resource Provider Use").
    scopes: Vec<String>,
}

/// A manifest or index as it was served.
pub(crate) struct Served {
    pub digest: Digest,
    pub bytes: Vec<u8>,
}

impl Registry {
    pub(crate) fn new(bounds: Transfers) -> Self {
        Self {
            clients: client::Clients::new(bounds.silence),
            tokens: auth::Tokens::default(),
            permits: Arc::new(Semaphore::new(bounds.parallel.max(1))),
            bounds,
        }
    }
}

impl<'a> Session<'a> {
    /// Finds out where `reference` is and with which logins. Those `given` are for the registry that the reference
    /// names, not for its mirrors.
    pub(crate) fn open(
        registry: &'a Registry,
        reference: &Reference,
        purpose: &Purpose,
        (registries, plain_http): (&Registries, bool),
        (keychain, given): (&Keychain, Option<&Credentials>),
    ) -> Result<Self, ReachError> {
        let mut accesses = Vec::new();
        for endpoint in registries.endpoints(reference, plain_http)? {
            if matches!(purpose, Purpose::Push { .. }) && !endpoint.pushes {
                continue;
            }
            let login = match given.filter(|_| endpoint.role == Role::Registry) {
                Some(given) => Login::Given(given.clone()),
                None => keychain.login(endpoint.host(), endpoint.repository())?,
            };
            let client = registry.clients.client(&endpoint, registries.proxies(), purpose)?;
            let scopes = purpose.scopes(endpoint.repository());
            accesses.push(Access { endpoint, login, client, scopes });
        }
        let action = match purpose {
            Purpose::Pull => "pull",
            Purpose::Push { .. } => "push",
        };
        Ok(Self { registry, reference: reference.clone(), accesses, action })
    }

    /// The digest the reference leads to now, by one HEAD request; `None` if the registry does not say.
    pub(crate) async fn head_manifest(&self) -> Result<Option<Digest>, RegistryError> {
        let path = &format!("manifests/{}", self.reference.manifest_key());
        self.first(path, |access| {
            Box::pin(async move { Ok(digest_header(&self.send(access, Method::HEAD, path, 0).await?)) })
        })
        .await
    }

    /// A manifest or index by tag or digest. Its digest is checked against the reference and the registry's word.
    pub(crate) async fn manifest(&self, key: &str) -> Result<Served, RegistryError> {
        let path = &format!("manifests/{key}");
        let by_digest = key.parse::<Digest>().ok();
        self.first(path, |access| {
            Box::pin(async move {
                let response = self.send(access, Method::GET, path, 0).await?;
                let expected = by_digest.or(digest_header(&response));
                let bytes = self.body(access, response, path, DOCUMENT_MAX_BYTES).await?;
                let found = Digest::of(&bytes);
                match expected.filter(|expected| *expected != found) {
                    Some(expected) => Err(self.failure(access, path, RegistryFailure::Digest { expected, found })),
                    None => Ok(Served { digest: found, bytes }),
                }
            })
        })
        .await
    }

    /// A small blob, checked.
    pub(crate) async fn document(&self, digest: Digest, size: u64) -> Result<Vec<u8>, RegistryError> {
        let path = &format!("blobs/{digest}");
        self.first(path, |access| {
            Box::pin(async move {
                let response = self.send(access, Method::GET, path, 0).await?;
                let bytes = self.body(access, response, path, size.min(DOCUMENT_MAX_BYTES)).await?;
                let found = Digest::of(&bytes);
                let length = bytes.len() as u64;
                if length < size {
                    return Err(self.failure(access, path, RegistryFailure::Length { expected: size, found: length }));
                }
                match found == digest {
                    true => Ok(bytes),
                    false => Err(self.failure(access, path, RegistryFailure::Digest { expected: digest, found })),
                }
            })
        })
        .await
    }

    pub(crate) fn bounds(&self) -> Transfers {
        self.registry.bounds
    }

    /// A layer, to be streamed and checked by the caller.
    pub(crate) fn download(&self, digest: Digest, size: u64) -> Download<'_> {
        Download::new(self, digest, size)
    }

    /// What the first endpoint says that has an answer; else what the last one, the registry itself, refuses with. All
    /// are asked again, after a while, if that may pass.
    async fn first<'s, T>(
        &'s self,
        path: &str,
        ask: impl Fn(&'s Access) -> BoxFuture<'s, Result<T, RegistryError>>,
    ) -> Result<T, RegistryError> {
        let by_tag = path.strip_prefix("manifests/").is_some_and(|key| key.parse::<Digest>().is_err());
        let is_able = |access: &&Access| if by_tag { access.endpoint.resolves } else { access.endpoint.pulls };
        let mut left: Vec<&Access> = self.accesses.iter().filter(is_able).collect();
        let mut back_off = BackOff::new(self.registry.bounds);
        loop {
            let mut refusal: Option<RegistryError> = None;
            let mut again = Vec::new();
            for access in left {
                let endpoint = &access.endpoint;
                let answered = refusal.as_ref().is_some_and(|error| !error.is_unconnected());
                if endpoint.is_second_try && answered {
                    continue;
                }
                let error = match ask(access).await {
                    Ok(answer) => return Ok(answer),
                    Err(error) => error,
                };
                tracing::debug!(endpoint = %endpoint.url(), %error, "endpoint refuses");
                if error.is_passing() {
                    again.push(access);
                }
                refusal = Some(error);
            }
            let capability = if by_tag { "resolve" } else { "pull" };
            let refusal = refusal.unwrap_or_else(|| self.nobody(path, capability));
            back_off.wait_after(refusal).await?;
            left = again;
        }
    }

    /// No endpoint may be asked for it.
    fn nobody(&self, path: &str, capability: &'static str) -> RegistryError {
        RegistryError {
            action: self.action,
            reference: self.reference.to_string(),
            registry: self.reference.registry().into(),
            object: path.into(),
            failure: Box::new(RegistryFailure::Nobody(capability)),
        }
    }

    fn failure(&self, access: &Access, path: &str, failure: RegistryFailure) -> RegistryError {
        RegistryError {
            action: self.action,
            reference: self.reference.to_string(),
            registry: access.endpoint.host().into(),
            object: path.into(),
            failure: Box::new(failure),
        }
    }

    async fn body(
        &self,
        access: &Access,
        mut response: Response,
        path: &str,
        limit: u64,
    ) -> Result<Vec<u8>, RegistryError> {
        let failed = |failure| self.failure(access, path, failure);
        let mut bytes = Vec::new();
        while let Some(chunk) =
            response.chunk().await.map_err(|error| failed(RegistryFailure::from_transport(error)))?
        {
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(failed(RegistryFailure::TooLong { limit }));
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

impl Purpose {
    fn scopes(&self, repository: &str) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{repository}:pull")],
            Self::Push { mounts } => {
                let own = format!("repository:{repository}:pull,push");
                [own].into_iter().chain(mounts.iter().map(|from| format!("repository:{from}:pull"))).collect()
            }
        }
    }
}

fn digest_header(response: &Response) -> Option<Digest> {
    response.headers().get("docker-content-digest")?.to_str().ok()?.parse().ok()
}
