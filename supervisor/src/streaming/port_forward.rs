//! `port-forward`: a client's connections to ports of a pod, made in the pod's own network namespace.
//!
//! | transport | streams of a connection |
//! |---|---|
//! | SPDY, plain or through a WebSocket | a pair that the client opens: `data` and `error`, with the port in their headers |
//! | channels of a WebSocket | two for each port that the request names, for one connection |

mod channels;
mod dial;
mod pairs;

use std::sync::Arc;

use axum::response::Response;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use wharf_specs::streaming::channel::ChannelProtocol;

use self::dial::Dialer;
use super::upgrade::{self, Offer, Transport, UpgradeError};
use super::{CHUNK_BYTES, IDLE_LIMIT, SETUP_LIMIT, spdy, websocket};
use crate::pod::{Node, PodError};

/// SPDY's own name, and that of SPDY within a WebSocket.
const PORT_FORWARD: &str = "portforward.k8s.io";
const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

const OFFER: Offer =
    Offer { spdy: &[PORT_FORWARD, ""], websocket: &[TUNNEL, "v4.channel.k8s.io", "v4.base64.channel.k8s.io"] };

/// A request for ports, with transport and protocol agreed on.
pub struct PortForward(Transport);

/// The pod whose ports are meant.
pub struct Target {
    dialer: Arc<Dialer>,
    /// For the channels of a WebSocket; elsewhere each connection names its own.
    ports: Vec<u16>,
}

impl Target {
    /// A sandbox that is ready.
    pub async fn of(node: &Node, sandbox: &str, ports: Vec<u16>) -> Result<Self, PodError> {
        Ok(Self { dialer: Arc::new(Dialer::of(node, sandbox).await?), ports })
    }
}

impl PortForward {
    pub async fn negotiate(parts: &mut Parts) -> Result<Self, UpgradeError> {
        upgrade::negotiate(parts, &OFFER).await.map(Self)
    }

    /// Switches protocols and carries connections until the client leaves.
    pub fn accept(self, target: Target) -> Response {
        match self.0 {
            Transport::Spdy { protocol, upgrade } => upgrade::accept_spdy(protocol, upgrade, move |io| async move {
                let connection = spdy::Connection::start(io, IDLE_LIMIT);
                pairs::serve(connection, target.dialer, SETUP_LIMIT).await;
            }),
            Transport::WebSocket { protocol: TUNNEL, upgrade } => {
                upgrade::accept_websocket(TUNNEL, upgrade, move |socket| async move {
                    let connection = spdy::Connection::start(websocket::tunnel(socket), IDLE_LIMIT);
                    pairs::serve(connection, target.dialer, SETUP_LIMIT).await;
                })
            }
            Transport::WebSocket { protocol, upgrade } => {
                upgrade::accept_websocket(protocol, upgrade, move |socket| async move {
                    if let Some(protocol) = ChannelProtocol::from_name(protocol) {
                        channels::serve(socket, protocol, target).await;
                    }
                })
            }
        }
    }
}

/// Both ways at once, each up to its end: the end of either is handed on, the other goes on. An error of the
/// connection, which its other side may well want, ends both.
async fn copy<F>(
    connection: TcpStream,
    mut from_client: impl AsyncRead + Unpin,
    to_client: impl Fn(bytes::Bytes) -> F,
    finish: impl AsyncFnOnce(),
) -> std::io::Result<()>
where
    F: Future<Output = std::io::Result<()>>,
{
    let (mut read, mut write) = connection.into_split();
    let up = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match from_client.read(&mut buffer).await? {
                0 => break,
                // A pod that reads no more may still write.
                count => {
                    if write.write_all(&buffer[..count]).await.is_err() {
                        while from_client.read(&mut buffer).await? > 0 {}
                        break;
                    }
                }
            }
        }
        let _ = write.shutdown().await;
        Ok(())
    };
    let down = async {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            match read.read(&mut buffer).await? {
                0 => break,
                count => to_client(bytes::Bytes::copy_from_slice(&buffer[..count])).await?,
            }
        }
        finish().await;
        Ok(())
    };
    tokio::try_join!(up, down).map(|_| ())
}
