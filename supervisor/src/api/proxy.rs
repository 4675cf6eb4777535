//! `pods/ID/proxy/PATH` and `services/ID/proxy/PATH`: a request goes on to a port of a pod, and the pod's answer back. Nothing
//! of it is looked at, redirects are the client's to follow, and who the client is stays here.

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri, header};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_rustls::TlsConnector;

use super::proxy_target::{self, Scheme, Upstream};
use super::server::{Api, Target, method_not_allowed};
use super::status::ApiError;
use super::tls::unverified;
use crate::streaming::{IDLE_LIMIT, copy_both};

/// For a connection within one machine, TLS included; only a filter that drops packets takes as long.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// From the request to the beginning of its answer; what follows may take any time.
const ANSWER_LIMIT: Duration = Duration::from_secs(5 * 60);

/// Connections to pods that are open at once, of all clients together.
const CONNECTIONS_MAX: usize = 256;

/// What a pod may send before its body.
const HEAD_BYTES_MAX: usize = 64 << 10;

const METHODS: [Method; 7] =
    [Method::GET, Method::POST, Method::PUT, Method::DELETE, Method::HEAD, Method::PATCH, Method::OPTIONS];

/// Of one connection alone, as RFC 9110, section 7.6.1 lists them.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Places for connections.
pub struct Places(Arc<Semaphore>);

impl Default for Places {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(CONNECTIONS_MAX)))
    }
}

/// Answers with what the pod answers to a request for `rest`, the path as the client wrote it.
pub(super) async fn serve(
    api: &Api,
    mut parts: Parts,
    body: Body,
    target: Target<'_>,
    rest: &str,
) -> Result<Response, ApiError> {
    if !METHODS.contains(&parts.method) {
        return Err(method_not_allowed(&parts));
    }
    let upstream = proxy_target::find(api, target)?;
    let upgrade = parts.extensions.remove::<OnUpgrade>();
    let protocol = protocol_asked_for(&parts.headers).filter(|_| upgrade.is_some());
    if rest.is_empty() && protocol.is_none() {
        return Ok(with_a_slash(&parts.uri));
    }
    let prefix = parts.uri.path().strip_suffix(rest).unwrap_or_default().to_owned();
    let place = api.usage.proxied.0.clone().try_acquire_owned();
    let place = place.map_err(|_| ApiError::ServiceUnavailable("too many requests are proxied to pods".into()))?;
    let request = forwarded(parts, body, rest, &upstream, protocol.as_ref())?;
    let unreachable = |why: String| {
        ApiError::ServiceUnavailable(format!("error trying to reach service: dial tcp {}: {why}", upstream.address))
    };
    let connecting = tokio::time::timeout(CONNECT_LIMIT, connect(&upstream));
    let late = |_| unreachable(format!("no answer in {} s", CONNECT_LIMIT.as_secs()));
    let stream = connecting.await.map_err(late)?.map_err(|error| unreachable(error.to_string()))?;
    let mut answer = send(stream, request, place).await?;
    if answer.status() == StatusCode::SWITCHING_PROTOCOLS {
        let (Some(client), Some(protocol)) = (upgrade, protocol) else {
            return Err(ApiError::ServiceUnavailable("error trying to reach service: it changed the protocol".into()));
        };
        let pod = hyper::upgrade::on(&mut answer);
        tokio::spawn(carry(client, pod));
        let mut response = answer.map(|_| Body::empty());
        end_to_end(response.headers_mut());
        let said = response.headers_mut();
        said.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        said.insert(header::UPGRADE, protocol);
        return Ok(response);
    }
    let mut response = answer.map(Body::new);
    end_to_end(response.headers_mut());
    lead_back(response.headers_mut(), &prefix);
    Ok(response)
}

/// Relative links in the pod's first page lead to its other pages only where its path ends in one.
fn with_a_slash(uri: &Uri) -> Response {
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let location = HeaderValue::try_from(format!("{}/{query}", uri.path()));
    match location {
        Ok(location) => (StatusCode::MOVED_PERMANENTLY, [(header::LOCATION, location)]).into_response(),
        Err(_) => ApiError::NoSuchPath { path: uri.path().into() }.into_response(),
    }
}

/// What the connection shall become, where the request wants that.
fn protocol_asked_for(headers: &HeaderMap) -> Option<HeaderValue> {
    let wants = connection_words(headers).iter().any(|word| word.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| wants).cloned()
}

fn connection_words(headers: &HeaderMap) -> Vec<String> {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(|word| word.trim().to_owned()).collect()
}

/// Leaves what is for the other end.
fn end_to_end(headers: &mut HeaderMap) {
    for word in connection_words(headers) {
        headers.remove(word.as_str());
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
}

/// The request as the pod gets it: without what the client has shown to this node.
fn forwarded(
    mut parts: Parts,
    body: Body,
    rest: &str,
    upstream: &Upstream,
    protocol: Option<&HeaderValue>,
) -> Result<Request<Body>, ApiError> {
    let uri = parts.uri.path_and_query().map(PathAndQuery::to_string).unwrap_or_default();
    let query = parts.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    let path = if rest.is_empty() { "/" } else { rest };
    let target = PathAndQuery::try_from(format!("{path}{query}"));
    let target = target.map_err(|error| ApiError::BadRequest(format!("{uri}: {error}")))?;
    let headers = &mut parts.headers;
    end_to_end(headers);
    headers.remove(header::AUTHORIZATION);
    headers.remove(header::EXPECT);
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in names.iter().filter(|name| name.as_str().starts_with("impersonate-")) {
        headers.remove(name);
    }
    let host = headers.get(header::HOST).cloned();
    if let Some(host) = &host {
        headers.insert("x-forwarded-host", host.clone());
    }
    if let Ok(uri) = HeaderValue::try_from(uri) {
        headers.insert("x-forwarded-uri", uri);
    }
    if host.is_none() {
        let own = HeaderValue::try_from(upstream.address.to_string());
        own.into_iter().for_each(|own| drop(headers.insert(header::HOST, own)));
    }
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol.clone());
    }
    let mut request = Request::new(body);
    *request.method_mut() = parts.method;
    *request.uri_mut() = Uri::from(target);
    *request.headers_mut() = parts.headers;
    Ok(request)
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// From the node's own network, as Kubernetes' API server does it. Of a pod's TLS nothing is verified: its certificate is
/// for whatever name it likes.
async fn connect(upstream: &Upstream) -> std::io::Result<Box<dyn Stream>> {
    let stream = TcpStream::connect(upstream.address).await?;
    stream.set_nodelay(true)?;
    if upstream.scheme == Scheme::Http {
        return Ok(Box::new(stream));
    }
    let config = unverified::client_config().map_err(std::io::Error::other)?;
    let name = ServerName::from(upstream.address.ip());
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

/// Sends the request, and gives back the answer once that begins. The connection keeps its place until both are done.
async fn send(
    stream: Box<dyn Stream>,
    request: Request<Body>,
    place: OwnedSemaphorePermit,
) -> Result<Response<Incoming>, ApiError> {
    let failed = |error: hyper::Error| {
        ApiError::ServiceUnavailable(format!("error trying to reach service: {}", crate::pod::chain(&error)))
    };
    let handshake = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(failed)?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "connection to a pod");
        }
        drop(place);
    });
    let late = |_| {
        let seconds = ANSWER_LIMIT.as_secs();
        ApiError::ServiceUnavailable(format!("error trying to reach service: no answer in {seconds} s"))
    };
    tokio::time::timeout(ANSWER_LIMIT, sender.send_request(request)).await.map_err(late)?.map_err(failed)
}

/// A redirect within the pod's own paths is one within those that lead to it.
fn lead_back(headers: &mut HeaderMap, prefix: &str) {
    let Some(location) = headers.get(header::LOCATION).and_then(|location| location.to_str().ok()) else { return };
    if location.starts_with('/')
        && !location.starts_with("//")
        && let Ok(location) = HeaderValue::try_from(format!("{prefix}{location}"))
    {
        headers.insert(header::LOCATION, location);
    }
}

/// Carries bytes both ways once both sides have changed the protocol.
async fn carry(client: OnUpgrade, pod: OnUpgrade) {
    match tokio::try_join!(client, pod) {
        Ok((client, pod)) => copy_both(TokioIo::new(client), TokioIo::new(pod), IDLE_LIMIT).await,
        Err(error) => tracing::debug!(%error, "upgrade of a proxied connection"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        let parsed = lines.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap()));
        parsed.collect()
    }

    #[test]
    fn what_is_of_one_connection_or_says_who_asks_does_not_go_on() {
        let mut parts = Request::builder()
            .method("GET")
            .uri("/api/v1/namespaces/a/pods/b/proxy/x%2Fy?q=1")
            .body(())
            .unwrap()
            .into_parts()
            .0;
        parts.headers = headers(&[
            ("host", "node.example"),
            ("connection", "close, X-Secret"),
            ("x-secret", "1"),
            ("authorization", "Bearer t"),
            ("proxy-authorization", "Basic x"),
            ("impersonate-user", "u"),
            ("impersonate-extra-a", "u"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("expect", "100-continue"),
            ("x-forwarded-uri", "/forged"),
            ("cookie", "a=b"),
        ]);
        let upstream = Upstream { scheme: Scheme::Http, address: "10.88.0.2:80".parse().unwrap() };
        let request = forwarded(parts, Body::empty(), "/x%2Fy", &upstream, None).unwrap();
        assert_eq!(request.uri(), "/x%2Fy?q=1");
        let mut left: Vec<(&str, &str)> =
            request.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_unstable();
        let expected = [
            ("cookie", "a=b"),
            ("host", "node.example"),
            ("x-forwarded-host", "node.example"),
            ("x-forwarded-uri", "/api/v1/namespaces/a/pods/b/proxy/x%2Fy?q=1"),
        ];
        assert_eq!(left, expected);
    }

    #[test]
    fn an_upgrade_is_wanted_by_both_headers() {
        let wanted = |lines: &[(&str, &str)]| protocol_asked_for(&headers(lines)).is_some();
        assert!(wanted(&[("connection", "keep-alive, Upgrade"), ("upgrade", "websocket")]));
        assert!(!wanted(&[("connection", "close"), ("upgrade", "websocket")]));
        assert!(!wanted(&[("connection", "upgrade")]));
    }

    #[test]
    fn redirects_within_the_pod_stay_with_it() {
        let led = |location: &str| {
            let mut headers = headers(&[("location", location)]);
            lead_back(&mut headers, "/p/proxy");
            headers[header::LOCATION].to_str().unwrap().to_owned()
        };
        assert_eq!(led("/login?a=/b"), "/p/proxy/login?a=/b");
        for other in ["login", "//elsewhere.test/x", "http://elsewhere.test/", ""] {
            assert_eq!(led(other), other);
        }
    }
}
