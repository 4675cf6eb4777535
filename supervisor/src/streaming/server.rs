//! The streaming server of the CRI door: `Exec` and `Attach` answer with a URL of it.
//!
//! A URL carries a random token that is good for one session within a minute; nothing else is known of a client.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::ws::WebSocketUpgrade;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::StatusCode;
use tokio::net::TcpListener;

use super::websocket::{self, ChannelProtocol};
use crate::pod::spec::ExecConfig;
use crate::pod::{Node, PodError};

const TOKEN_LIFETIME: Duration = Duration::from_secs(60);

/// Tokens that may wait for their clients; more at once is nobody's honest use.
const TOKENS_MAX: usize = 1000;

/// Largest message a client may send; clients write 32 KiB at a time.
pub const MESSAGE_BYTES: usize = 1 << 20;

/// What a token stands for.
pub enum StreamRequest {
    Exec { container: String, config: ExecConfig },
    Attach { container: String, stdin: bool, stdout: bool, stderr: bool },
}

impl StreamRequest {
    fn kind(&self) -> &'static str {
        match self {
            Self::Exec { .. } => "exec",
            Self::Attach { .. } => "attach",
        }
    }
}

#[derive(Clone)]
pub struct StreamingServer {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    address: SocketAddr,
    tokens: Mutex<Tokens>,
}

impl StreamingServer {
    /// Listens on a free port of the loopback.
    pub async fn start(node: Node) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let shared = Arc::new(Shared { node, address: listener.local_addr()?, tokens: Mutex::new(Tokens::default()) });
        let routes = Router::new().route("/{kind}/{token}", any(serve)).with_state(shared.clone());
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, routes).await {
                tracing::error!(%error, "streaming server");
            }
        });
        Ok(Self { shared })
    }

    /// A URL at which `request` can be claimed once.
    pub fn issue(&self, request: StreamRequest) -> Result<String, PodError> {
        let kind = request.kind();
        let mut tokens = self.shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let token = tokens
            .issue(request, Instant::now())
            .ok_or_else(|| PodError::internal("issue a streaming URL", format!("{TOKENS_MAX} are unclaimed")))?;
        Ok(format!("http://{}/{kind}/{token}", self.shared.address))
    }
}

#[derive(Default)]
struct Tokens {
    waiting: HashMap<String, (Instant, StreamRequest)>,
}

impl Tokens {
    /// `None` while too many wait.
    fn issue(&mut self, request: StreamRequest, now: Instant) -> Option<String> {
        self.waiting.retain(|_, (issued, _)| now.duration_since(*issued) < TOKEN_LIFETIME);
        if self.waiting.len() >= TOKENS_MAX {
            return None;
        }
        let token = crate::pod::new_id();
        self.waiting.insert(token.clone(), (now, request));
        Some(token)
    }

    fn claim(&mut self, kind: &str, token: &str, now: Instant) -> Option<StreamRequest> {
        let (issued, request) = self.waiting.get(token)?;
        if now.duration_since(*issued) >= TOKEN_LIFETIME || request.kind() != kind {
            return None;
        }
        self.waiting.remove(token).map(|(_, request)| request)
    }
}

async fn serve(
    State(shared): State<Arc<Shared>>,
    Path((kind, token)): Path<(String, String)>,
    upgrade: Result<WebSocketUpgrade, axum::extract::ws::rejection::WebSocketUpgradeRejection>,
) -> Response {
    let Ok(upgrade) = upgrade else {
        // Claims nothing: the client may come back with the right protocol.
        let text = "this server speaks WebSocket (v5.channel.k8s.io, v4.channel.k8s.io), not SPDY: crictl takes --transport websocket\n";
        return (StatusCode::BAD_REQUEST, text).into_response();
    };
    let upgrade = upgrade.protocols(websocket::PROTOCOLS).max_message_size(MESSAGE_BYTES);
    let protocol = upgrade.selected_protocol().and_then(|name| ChannelProtocol::from_name(name.to_str().ok()?));
    let Some(protocol) = protocol else {
        return (StatusCode::BAD_REQUEST, "none of the offered subprotocols is v5 or v4.channel.k8s.io\n")
            .into_response();
    };
    let request = {
        let mut tokens = shared.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.claim(&kind, &token, Instant::now())
    };
    let Some(request) = request else {
        return (StatusCode::NOT_FOUND, "no such session: each URL is good for one use within a minute\n")
            .into_response();
    };
    let node = shared.node.clone();
    upgrade.on_upgrade(move |socket| async move {
        match request {
            StreamRequest::Exec { container, config } => match node.exec(&container, config).await {
                Ok(session) => websocket::serve_exec(socket, session, protocol).await,
                Err(error) => websocket::refuse(socket, &error).await,
            },
            StreamRequest::Attach { container, stdin, stdout, stderr } => {
                match node.attach(&container, stdin, stdout, stderr).await {
                    Ok(session) => websocket::serve_attach(socket, session, protocol).await,
                    Err(error) => websocket::refuse(socket, &error).await,
                }
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> StreamRequest {
        StreamRequest::Attach { container: "c".into(), stdin: false, stdout: true, stderr: true }
    }

    #[test]
    fn tokens_are_good_once_and_for_their_kind_and_time() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        let token = tokens.issue(request(), start).unwrap();
        assert!(tokens.claim("exec", &token, start).is_none());
        assert!(tokens.claim("attach", "other", start).is_none());
        assert!(tokens.claim("attach", &token, start).is_some());
        assert!(tokens.claim("attach", &token, start).is_none());
        let token = tokens.issue(request(), start).unwrap();
        assert!(tokens.claim("attach", &token, start + TOKEN_LIFETIME).is_none());
    }

    #[test]
    fn unclaimed_tokens_are_bounded_and_expire() {
        let start = Instant::now();
        let mut tokens = Tokens::default();
        for _ in 0..TOKENS_MAX {
            tokens.issue(request(), start).unwrap();
        }
        assert!(tokens.issue(request(), start).is_none());
        assert!(tokens.issue(request(), start + TOKEN_LIFETIME).is_some());
    }
}
