//! Connections to a pod's own ports.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto};
use tokio::net::{TcpSocket, TcpStream};

use crate::network;
use crate::pod::{Node, PodError, chain};

/// For a connection within one machine; only a filter that drops packets takes as long.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// IPv4 first, as clients of old expect.
const LOOPBACKS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

pub(super) struct Dialer {
    pub(super) sandbox: String,
    /// `None`: the node's own.
    pub(super) namespace: Option<OwnedFd>,
}

impl Dialer {
    /// Keeps the pod's network namespace as long as it lives, though not what is in it.
    pub(super) async fn of(node: &Node, sandbox: &str) -> Result<Self, PodError> {
        let sandbox = node.ready_sandbox(sandbox)?;
        let namespace = node.network_namespace(&sandbox).await?;
        Ok(Self { sandbox, namespace })
    }

    /// Connects to `port` of the pod's loopback. The error is for people: it names the port and both attempts.
    pub(super) async fn connect(&self, port: u16) -> Result<TcpStream, String> {
        let refuse = |reason: String| format!("connect to port {port} of pod sandbox {}: {reason}", self.sandbox);
        let sockets = self.sockets().await.map_err(&refuse)?;
        let mut failures = Vec::new();
        for (address, socket) in LOOPBACKS.into_iter().zip(sockets) {
            let address = SocketAddr::new(address, port);
            let connecting = async { TcpSocket::from_std_stream(socket?.into()).connect(address).await };
            match tokio::time::timeout(CONNECT_LIMIT, connecting).await {
                Ok(Ok(stream)) => return Ok(stream),
                Ok(Err(error)) => failures.push(format!("{address}: {error}")),
                Err(_) => failures.push(format!("{address}: no answer in {} s", CONNECT_LIMIT.as_secs())),
            }
        }
        Err(refuse(failures.join("; ")))
    }

    /// One for each loopback. A socket stays in the network it was made in, wherever it is used.
    async fn sockets(&self) -> Result<[std::io::Result<OwnedFd>; 2], String> {
        let Some(namespace) = &self.namespace else { return Ok(sockets()) };
        let namespace = namespace.try_clone().map_err(|error| error.to_string())?;
        network::inside(namespace, async || Ok(sockets())).await.map_err(|error| chain(&error))
    }
}

fn sockets() -> [std::io::Result<OwnedFd>; 2] {
    LOOPBACKS.map(|address| {
        let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        Ok(rustix::net::socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?)
    })
}
