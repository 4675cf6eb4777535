//! The sockets: UDP, and TCP for what is too long for it (RFC 7766).

use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener as StdTcpListener, UdpSocket as StdUdpSocket};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use domain::base::Message;
use domain::base::iana::{Rcode, Rtype};
use rustix::net::{AddressFamily, SocketFlags, SocketType, bind, listen as listen_on, socket_with, sockopt};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;

use super::answer::{self, Answer, Query, Transport};
use super::upstream::Upstream;
use super::zone::{Found, Zone};

const PORT: u16 = 53;
/// The longest query by UDP: longer ones have no use.
const QUERY_BYTES: usize = 4096;
/// A chain of aliases is followed so far.
const ALIASES: usize = 8;
const CONNECTIONS: usize = 64;
/// A connection on which nobody asks is closed.
const IDLE: Duration = Duration::from_secs(10);
const BACKLOG: i32 = 128;
/// After a refused accept, which is for want of descriptors or memory.
const PAUSE: Duration = Duration::from_millis(100);

pub(super) struct Server {
    zone: Zone,
    upstream: Upstream,
}

impl Server {
    pub(super) fn new(zone: Zone, upstream: Upstream) -> Self {
        Self { zone, upstream }
    }

    pub(super) fn domain(&self) -> &str {
        self.zone.domain()
    }

    /// What is said to a query that can be answered from the objects alone.
    pub(super) fn answer_at_once(&self, query: &Query<'_>) -> Option<Vec<u8>> {
        match self.follow(query) {
            (answer, None) => Some(query.answer(&self.zone, &answer)),
            (_, Some(_)) => None,
        }
    }

    /// What is said to a query. `own` is the address it came to.
    async fn answer(&self, query: &Query<'_>, transport: Transport, own: IpAddr) -> Vec<u8> {
        let (mut answer, elsewhere) = self.follow(query);
        let failed = || answer::error(query.message(), Rcode::SERVFAIL);
        let Some(name) = elsewhere else { return query.answer(&self.zone, &answer) };
        if answer.aliases.is_empty() {
            return self.upstream.ask(query.message(), transport, own).await.unwrap_or_else(failed);
        }
        // The service stands for a name of somebody else's: its addresses are told with it, for stub resolvers follow
        // no alias by themselves.
        let Some(asked) = answer::query(&name, query.rtype) else { return failed() };
        let Ok(asked) = Message::from_octets(asked.as_slice()) else { return failed() };
        let Some(mut told) = self.upstream.ask(&asked, Transport::Udp, own).await else { return failed() };
        if Message::from_octets(told.as_slice()).is_ok_and(|told| told.header().tc()) {
            let Some(whole) = self.upstream.ask(&asked, Transport::Tcp, own).await else { return failed() };
            told = whole;
        }
        let Ok(told) = Message::from_octets(told.as_slice()) else { return failed() };
        answer.rcode = told.header().rcode();
        answer.foreign = Some(told);
        query.answer(&self.zone, &answer)
    }

    /// Follows aliases to where the records are; the name that others know, if it ends there.
    fn follow(&self, query: &Query<'_>) -> (Answer<'static>, Option<String>) {
        let mut answer = Answer::of(Rcode::NOERROR);
        let mut name = query.name.clone();
        loop {
            match self.zone.find(&name, query.rtype) {
                Found::Records(records) => answer.records = records,
                Found::Alias(to) if answer.aliases.len() < ALIASES => {
                    answer.aliases.push((name, to.clone()));
                    if query.rtype == Rtype::CNAME {
                        break;
                    }
                    name = to;
                    continue;
                }
                Found::Alias(_) => answer.rcode = Rcode::SERVFAIL,
                Found::NoData => {}
                Found::NoName => answer.rcode = Rcode::NXDOMAIN,
                Found::Elsewhere => return (answer, Some(name)),
            }
            break;
        }
        (answer, None)
    }
}

/// Serves on port 53 of `address` until the handle is dropped. The address need not be there yet: the bridge comes
/// with the first pod.
pub(super) fn listen(server: Arc<Server>, address: IpAddr) -> io::Result<AbortOnDropHandle<()>> {
    let at = SocketAddr::new(address, PORT);
    let udp = StdUdpSocket::from(bound(at, SocketType::DGRAM)?);
    let tcp = bound(at, SocketType::STREAM)?;
    listen_on(&tcp, BACKLOG)?;
    let udp = Arc::new(UdpSocket::from_std(udp)?);
    let tcp = TcpListener::from_std(StdTcpListener::from(tcp))?;
    tracing::info!(%address, domain = server.domain(), "serve DNS for pods");
    let serve = async move { tokio::join!(serve_udp(server.clone(), udp, address), serve_tcp(server, tcp, address)) };
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        serve.await;
    })))
}

fn bound(at: SocketAddr, kind: SocketType) -> rustix::io::Result<OwnedFd> {
    let family = if at.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, None)?;
    match at {
        SocketAddr::V4(_) => sockopt::set_ip_freebind(&socket, true)?,
        SocketAddr::V6(_) => sockopt::set_ipv6_freebind(&socket, true)?,
    }
    if kind == SocketType::STREAM {
        // Connections of a daemon before this one may still linger.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    bind(&socket, &at)?;
    Ok(socket)
}

async fn serve_udp(server: Arc<Server>, socket: Arc<UdpSocket>, own: IpAddr) {
    let mut buffer = vec![0; QUERY_BYTES];
    loop {
        // An error here is that of an earlier answer, which its client did not take.
        let Ok((length, client)) = socket.recv_from(&mut buffer).await else { continue };
        let answer = match Query::parse(&buffer[..length], Transport::Udp) {
            Ok(query) => server.answer_at_once(&query),
            Err(None) => continue,
            Err(refusal) => refusal,
        };
        if let Some(answer) = answer {
            let _ = socket.send_to(&answer, client).await;
            continue;
        }
        let (server, socket, bytes) = (server.clone(), socket.clone(), buffer[..length].to_vec());
        tokio::spawn(async move {
            let Ok(query) = Query::parse(&bytes, Transport::Udp) else { return };
            let answer = server.answer(&query, Transport::Udp, own).await;
            let _ = socket.send_to(&answer, client).await;
        });
    }
}

async fn serve_tcp(server: Arc<Server>, listener: TcpListener, own: IpAddr) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // Never closed.
        let Ok(connection) = connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let server = server.clone();
                tokio::spawn(async move {
                    // Whatever ended it: the client asks again if it wants to.
                    let _ = converse(&server, stream, own).await;
                    drop(connection);
                });
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// One question after the other, until the client has none for a while.
async fn converse(server: &Server, mut stream: TcpStream, own: IpAddr) -> io::Result<()> {
    loop {
        let received = timeout(IDLE, async {
            let mut query = vec![0; usize::from(stream.read_u16().await?)];
            stream.read_exact(&mut query).await.map(|_| query)
        });
        let bytes = received.await.map_err(io::Error::other)??;
        let answer = match Query::parse(&bytes, Transport::Tcp) {
            Ok(query) => server.answer(&query, Transport::Tcp, own).await,
            Err(Some(refusal)) => refusal,
            Err(None) => return Ok(()),
        };
        let length = u16::try_from(answer.len()).map_err(io::Error::other)?;
        timeout(IDLE, stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat())).await??;
    }
}
