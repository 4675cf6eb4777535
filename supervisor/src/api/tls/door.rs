//! Connections over TLS. A client has to show a certificate of the node's authority, or a token with each request, the
//! first within [`AUTHENTICATION_LIMIT`] of its connection; until then it takes one of [`STRANGERS_MAX`] places and is
//! told nothing but that it is unknown.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use wharf_specs::config;

use super::issued::{CredentialId, Issued};
use super::{Authority, PodApi, TlsError, TokenKey, subject};
use crate::api::access::User;
use crate::api::access::service_account_token::{authenticated, own_audience};
use crate::api::server::{Api, answer};
use crate::api::status::ApiError;

/// From a connection to the proof of who it is.
const AUTHENTICATION_LIMIT: Duration = Duration::from_secs(15);

/// Clients that may be connected and unknown at once; more wait in the kernel's queue.
const STRANGERS_MAX: usize = 256;

/// After the kernel refused a connection, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// First byte of a TLS connection: a record of the type handshake (RFC 8446, section 5.1).
const HANDSHAKE_RECORD: u8 = 22;

/// What Go's servers say, too.
const NO_TLS: &[u8] = b"HTTP/1.0 400 Bad Request\r\n\r\nClient sent an HTTP request to an HTTPS server.\n";

/// What is read of a request without TLS.
const NO_TLS_REQUEST_BYTES: u64 = 64 << 10;

/// Has the node's keys and a port, but no certificate yet: who reaches it by which names is to be said.
pub struct Bound {
    listener: TcpListener,
    authority: Authority,
    tokens: Arc<TokenKey>,
    issued: Arc<Issued>,
    names: Vec<String>,
    address: SocketAddr,
    /// It listens on every address of the node.
    everywhere: bool,
}

/// Listens for clients.
pub struct Door {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    tokens: Arc<TokenKey>,
    issued: Arc<Issued>,
    url: String,
}

impl Bound {
    /// Opens the node's keys in `folder`, or makes them there, and listens where `api.listen` says; `None` without it.
    /// The server's certificate is for `api.names`, `node_name`, the address and the loopback.
    pub async fn open(api: &config::Api, folder: &Path, node_name: &str) -> Result<Option<Self>, TlsError> {
        let Some(address) = api.listen else { return Ok(None) };
        let authority = Authority::open_or_create(folder)?;
        let tokens = Arc::new(TokenKey::open_or_create(folder)?);
        let listener = TcpListener::bind(address).await.map_err(|source| TlsError::Listen { address, source })?;
        let port = listener.local_addr().map_err(|source| TlsError::Listen { address, source })?.port();
        let everywhere = address.ip().is_unspecified();
        let reached = if everywhere { crate::controller::node_address() } else { address.ip() };
        let mut names = api.names.clone();
        names.extend([reached.to_string(), "localhost".into(), "127.0.0.1".into(), "::1".into()]);
        if is_host_name(node_name) {
            names.push(node_name.into());
        }
        let (address, issued) = (SocketAddr::new(reached, port), Arc::new(Issued::of(folder)));
        Ok(Some(Self { listener, authority, tokens, issued, names, address, everywhere }))
    }

    /// How pods reach it, which find their node at `gateway`; `None` where they do not.
    pub fn for_pods(&self, gateway: Option<IpAddr>) -> Option<PodApi> {
        let usable = |address: &IpAddr| address.is_ipv4() && !address.is_loopback();
        let own = Some(self.address.ip()).filter(usable);
        let ip = own.or(gateway.filter(|_| self.everywhere).filter(usable))?;
        Some(PodApi {
            address: SocketAddr::new(ip, self.address.port()),
            authority: self.authority.certificate_pem().into(),
            tokens: self.tokens.clone(),
        })
    }

    /// Makes the server's certificate, for these names, too.
    pub fn with_names(mut self, more: Vec<String>) -> Result<Door, TlsError> {
        self.names.extend(more);
        self.names.sort();
        self.names.dedup();
        let acceptor = TlsAcceptor::from(Arc::new(server_config(&self.authority, &self.names)?));
        let url = format!("https://{}", self.address);
        Ok(Door { listener: self.listener, acceptor, tokens: self.tokens, issued: self.issued, url })
    }

    pub fn tokens(&self) -> Arc<TokenKey> {
        self.tokens.clone()
    }
}

impl Door {
    /// Where clients reach it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Serves the API for ever.
    pub async fn serve(self, api: Api) {
        let places = Arc::new(Semaphore::new(STRANGERS_MAX));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else { return };
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    let known = CancellationToken::new();
                    let (tokens, issued) = (self.tokens.clone(), self.issued.clone());
                    let client = Client { known: known.clone(), tokens, issued, api: api.clone() };
                    let connection = client.serve(stream, self.acceptor.clone());
                    tokio::spawn(async move {
                        tokio::pin!(connection);
                        tokio::select! {
                            biased;
                            () = known.cancelled() => {}
                            () = &mut connection => return,
                            () = tokio::time::sleep(AUTHENTICATION_LIMIT) => {
                                tracing::debug!(%peer, "a client did not say in time who it is");
                                return;
                            }
                        }
                        drop(place);
                        connection.await;
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "accept a client of the API");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// One connection.
struct Client {
    /// Cancelled once the client has shown who it is.
    known: CancellationToken,
    tokens: Arc<TokenKey>,
    issued: Arc<Issued>,
    api: Api,
}

impl Client {
    async fn serve(self, mut stream: TcpStream, acceptor: TlsAcceptor) {
        let mut first = [0];
        if !matches!(stream.peek(&mut first).await, Ok(1)) {
            return;
        }
        if first[0] != HANDSHAKE_RECORD {
            let _ = stream.write_all(NO_TLS).await;
            let _ = stream.shutdown().await;
            // Closing before the request was read would throw the answer away.
            let _ = tokio::io::copy(&mut stream.take(NO_TLS_REQUEST_BYTES), &mut tokio::io::sink()).await;
            return;
        }
        let stream = match acceptor.accept(stream).await {
            Ok(stream) => stream,
            Err(error) => return tracing::debug!(%error, "TLS handshake"),
        };
        // Of the authority, and in its time: the handshake has verified it.
        let certificate = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let certified = match certificate.map(|certificate| Certified::of(certificate)) {
            None => None,
            // Of one that was taken back nothing is known any more.
            Some(Some(certified)) => Some(certified).filter(|certified| !self.issued.is_revoked(&certified.id)),
            Some(None) => return tracing::debug!("a client's certificate names nobody"),
        };
        if certified.is_some() {
            self.known.cancel();
        }
        let service = service_fn(|request: Request<Incoming>| async {
            Ok::<_, Infallible>(self.answer(request, certified.as_ref()).await)
        });
        let served =
            hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).with_upgrades();
        if let Err(error) = served.await {
            tracing::debug!(%error, "client of the API");
        }
    }

    async fn answer(&self, request: Request<Incoming>, certified: Option<&Certified>) -> Response {
        // One that was taken back meanwhile is none.
        let certified = certified.filter(|certified| !self.issued.is_revoked(&certified.id));
        // One connection can carry requests of several people, as behind a proxy: each shows its own token.
        let user = certified.map(|certified| certified.user.clone()).or_else(|| {
            let token = request.headers().get(header::AUTHORIZATION).and_then(bearer_token)?;
            let known = authenticated(&self.api.objects, &self.tokens, token, &own_audience(), SystemTime::now());
            known.map(|(user, _)| Arc::new(user))
        });
        let Some(user) = user else {
            let mut refusal = ApiError::Unauthorized.into_response();
            refusal.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            return refusal;
        };
        self.known.cancel();
        answer(self.api.clone(), user, request.map(Body::new)).await
    }
}

/// Somebody with a certificate.
struct Certified {
    id: CredentialId,
    user: Arc<User>,
}

impl Certified {
    fn of(certificate: &[u8]) -> Option<Self> {
        let id = CredentialId::of_certificate(certificate)?;
        subject::user(certificate).map(|user| Self { id, user: Arc::new(user) })
    }
}

/// RFC 6750, section 2.1.
fn bearer_token(value: &HeaderValue) -> Option<&str> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn server_config(authority: &Authority, names: &[String]) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add(authority.certificate().clone())?;
    // A client with a token needs no certificate; one with a certificate needs a good one.
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider.clone());
    let verifier = verifier.allow_unauthenticated().build()?;
    let (certificate, key) = authority.server_identity(names)?.into_der()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // A resumed session would bring a certificate back that may have expired since.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(config)
}

/// Whether a certificate can be for the name; the kernel takes others as a host's.
fn is_host_name(name: &str) -> bool {
    name.parse::<IpAddr>().is_err() && rustls::pki_types::DnsName::try_from(name).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_stand_behind_their_scheme() {
        let token = |value: &str| bearer_token(&HeaderValue::from_str(value).unwrap()).map(str::to_owned);
        assert_eq!(token("Bearer a.b.c"), Some("a.b.c".into()));
        assert_eq!(token("bearer  a"), Some("a".into()));
        assert_eq!((token("Basic YTpi"), token("Bearer"), token("")), (None, None, None));
    }
}
