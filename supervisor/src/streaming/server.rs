//! The streaming server of the CRI door: `Exec`, `Attach` and `PortForward` answer with a URL of it.
//!
//! A URL carries a random token that is good for one session within a minute; nothing else is known of a client.

use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::response::{IntoResponse, Response};
use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use super::port_forward::{PortForward, Target};
use super::remote_command::{RemoteCommand, Session, Streams};
use super::tokens::{StreamRequest, TOKENS_MAX, Tokens};
use crate::pod::{Node, PodError};

/// From a connection to the end of its request's headers.
const HEADER_LIMIT: Duration = Duration::from_secs(30);

/// Clients that may be connected at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 2000;

/// After the kernel refused a connection, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[derive(Clone)]
pub struct StreamingServer {
    shared: Arc<Shared>,
}

struct Shared {
    node: Node,
    address: SocketAddr,
    tokens: Mutex<Tokens>,
}

impl Shared {
    fn tokens(&self) -> MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StreamingServer {
    /// Listens on a free port of the loopback.
    pub async fn start(node: Node) -> std::io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let shared = Arc::new(Shared { node, address: listener.local_addr()?, tokens: Mutex::default() });
        tokio::spawn(accept(listener, shared.clone()));
        Ok(Self { shared })
    }

    /// A URL at which `request` can be claimed once.
    pub fn issue(&self, request: StreamRequest) -> Result<String, PodError> {
        let kind = request.kind();
        let token = self.shared.tokens().issue(request, Instant::now());
        let token =
            token.ok_or_else(|| PodError::internal("issue a streaming URL", format!("{TOKENS_MAX} are unclaimed")))?;
        Ok(format!("http://{}/{kind}/{token}", self.shared.address))
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(permit) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((connection, _)) => {
                let shared = shared.clone();
                tokio::spawn(async move {
                    serve_connection(connection, shared).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept a streaming client");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn serve_connection(connection: TcpStream, shared: Arc<Shared>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let shared = shared.clone();
        async move { Ok::<_, Infallible>(serve(&shared, request).await) }
    });
    let served = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_LIMIT)
        .serve_connection(TokioIo::new(connection), service)
        .with_upgrades()
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "streaming client");
    }
}

async fn serve(shared: &Shared, request: Request<Incoming>) -> Response {
    let (mut parts, _) = request.into_parts();
    let path = parts.uri.path().to_owned();
    let mut words = path.trim_start_matches('/').splitn(2, '/');
    let (kind, token) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    // A request that cannot be upgraded claims nothing: the client may come back with the right protocol.
    let answer = match kind {
        "exec" | "attach" => match RemoteCommand::negotiate(&mut parts).await {
            Ok(upgrade) => remote_command(shared, upgrade, kind, token),
            Err(error) => return error.into_response(),
        },
        "portforward" => match PortForward::negotiate(&mut parts).await {
            Ok(upgrade) => port_forward(shared, upgrade, token).await,
            Err(error) => return error.into_response(),
        },
        _ => None,
    };
    answer.unwrap_or_else(|| {
        let text = "no such session: each URL is good for one use within a minute\n";
        (StatusCode::NOT_FOUND, text).into_response()
    })
}

fn remote_command(shared: &Shared, upgrade: RemoteCommand, kind: &str, token: &str) -> Option<Response> {
    let request = shared.tokens().claim(kind, token, Instant::now())?;
    let node = shared.node.clone();
    Some(match request {
        StreamRequest::Exec { container, config } => {
            let streams = Streams { stdin: config.stdin, stdout: config.stdout, stderr: config.stderr };
            upgrade.accept(streams, async move { node.exec(&container, config).await.map(Session::Exec) })
        }
        StreamRequest::Attach { container, stdin, stdout, stderr } => {
            let streams = Streams { stdin, stdout, stderr };
            let start = async move { node.attach(&container, stdin, stdout, stderr).await.map(Session::Attach) };
            upgrade.accept(streams, start)
        }
        StreamRequest::PortForward { .. } => return None,
    })
}

async fn port_forward(shared: &Shared, upgrade: PortForward, token: &str) -> Option<Response> {
    let request = shared.tokens().claim("portforward", token, Instant::now())?;
    let StreamRequest::PortForward { sandbox, ports } = request else { return None };
    Some(match Target::of(&shared.node, &sandbox, ports).await {
        Ok(target) => upgrade.accept(target),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    })
}
