//! From an HTTP request to a client's streams: which transport and protocol the request asks to be upgraded to.
//!
//! | transport | how it is asked for | protocols are named in |
//! |---|---|---|
//! | SPDY | `Upgrade: SPDY/3.1` | `X-Stream-Protocol-Version` |
//! | WebSocket | `Upgrade: websocket` | `Sec-WebSocket-Protocol` |

use axum::body::Body;
use axum::extract::FromRequestParts;
use axum::extract::ws::{WebSocket, WebSocketUpgrade};
use axum::response::{IntoResponse, Response};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;

use super::websocket::MESSAGE_BYTES;

const SPDY: &str = "SPDY/3.1";
const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
const ACCEPTED_PROTOCOLS: HeaderName = HeaderName::from_static("x-accepted-stream-protocol-versions");

/// A request for a transport, with its protocol agreed on and not yet answered.
pub(super) enum Transport {
    Spdy { protocol: &'static str, upgrade: OnUpgrade },
    WebSocket { protocol: &'static str, upgrade: WebSocketUpgrade },
}

/// What a server of streams speaks, best first. An empty name is for clients that name none.
pub(super) struct Offer {
    pub(super) spdy: &'static [&'static str],
    pub(super) websocket: &'static [&'static str],
}

/// Why a request is not upgraded.
#[derive(Debug, thiserror::Error)]
pub enum UpgradeError {
    #[error("an upgrade to {SPDY} or a WebSocket is needed: {0}")]
    Neither(String),
    #[error("the connection cannot be upgraded")]
    Impossible,
    #[error("no common protocol: {asked:?} was offered, known are {}", known.join(", "))]
    Protocol { asked: String, known: &'static [&'static str] },
}

impl IntoResponse for UpgradeError {
    fn into_response(self) -> Response {
        let text = format!("{self}\n");
        match self {
            Self::Neither(_) | Self::Impossible => (StatusCode::BAD_REQUEST, text).into_response(),
            Self::Protocol { known, .. } => {
                let mut response = (StatusCode::FORBIDDEN, text).into_response();
                for name in known.iter().filter(|name| !name.is_empty()) {
                    response.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
                }
                response
            }
        }
    }
}

/// Agrees on transport and protocol; claims and starts nothing.
pub(super) async fn negotiate(parts: &mut Parts, offer: &Offer) -> Result<Transport, UpgradeError> {
    let has = |name: HeaderName, wanted: &str| {
        let words = values(&parts.headers, &name);
        words.iter().any(|word| word.eq_ignore_ascii_case(wanted))
    };
    if has(header::UPGRADE, SPDY) && has(header::CONNECTION, "upgrade") {
        let protocol = choose(&values(&parts.headers, &STREAM_PROTOCOL), offer.spdy)?;
        let upgrade = parts.extensions.remove::<OnUpgrade>().ok_or(UpgradeError::Impossible)?;
        return Ok(Transport::Spdy { protocol, upgrade });
    }
    let protocol = choose(&values(&parts.headers, &header::SEC_WEBSOCKET_PROTOCOL), offer.websocket);
    let upgrade = WebSocketUpgrade::from_request_parts(parts, &())
        .await
        .map_err(|error| UpgradeError::Neither(error.to_string()))?;
    Ok(Transport::WebSocket { protocol: protocol?, upgrade })
}

/// The words of all headers of that name.
fn values(headers: &HeaderMap, name: &HeaderName) -> Vec<String> {
    let texts = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| text.split(',')).map(|word| word.trim().to_owned()).collect()
}

/// The best protocol that the client offers too.
fn choose(asked: &[String], known: &'static [&'static str]) -> Result<&'static str, UpgradeError> {
    let none = asked.iter().all(String::is_empty);
    let chosen = known.iter().find(|name| asked.iter().any(|asked| asked == *name) || (none && name.is_empty()));
    chosen.copied().ok_or_else(|| UpgradeError::Protocol { asked: asked.join(", "), known })
}

/// Switches to SPDY and hands the connection to `serve` on a task of its own.
pub(super) fn accept_spdy<F>(
    protocol: &'static str,
    upgrade: OnUpgrade,
    serve: impl FnOnce(TokioIo<Upgraded>) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    tokio::spawn(async move {
        match upgrade.await {
            Ok(upgraded) => serve(TokioIo::new(upgraded)).await,
            Err(error) => tracing::debug!(%error, "upgrade to SPDY"),
        }
    });
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(SPDY));
    if !protocol.is_empty() {
        headers.insert(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
    }
    response
}

/// Switches to a WebSocket and hands it to `serve`.
pub(super) fn accept_websocket<F>(
    protocol: &'static str,
    upgrade: WebSocketUpgrade,
    serve: impl FnOnce(WebSocket) -> F + Send + 'static,
) -> Response
where
    F: Future<Output = ()> + Send + 'static,
{
    let upgrade = upgrade.max_message_size(MESSAGE_BYTES);
    let upgrade = if protocol.is_empty() { upgrade } else { upgrade.protocols([protocol]) };
    upgrade.on_upgrade(serve)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_common_protocol_is_chosen() {
        let known = &["v4.channel.k8s.io", "channel.k8s.io", ""];
        let choose = |asked: &[&str]| {
            let asked: Vec<String> = asked.iter().map(|name| name.to_string()).collect();
            choose(&asked, known).map_err(|error| error.to_string())
        };
        assert_eq!(choose(&["channel.k8s.io", "v4.channel.k8s.io"]), Ok("v4.channel.k8s.io"));
        assert_eq!(choose(&[]), Ok(""));
        let refusal = choose(&["v9"]).unwrap_err();
        assert!(
            refusal.starts_with("no common protocol: \"v9\" was offered, known are v4.channel.k8s.io"),
            "{refusal}"
        );
    }
}
