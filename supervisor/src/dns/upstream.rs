//! Names that are not ours are asked of the node's own resolvers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use domain::base::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::answer::Transport;
use super::resolv_conf::ResolvConf;

/// How long one server is waited for: all of them have their turn before a client of the usual 5 s gives up on us.
const PATIENCE: Duration = Duration::from_millis(1500);
/// How many servers are tried, as the C library has it (MAXNS).
const SERVERS: usize = 3;
/// Questions on their way at one time; more of them are told to come back.
const QUESTIONS: usize = 256;
/// The longest answer by UDP that is taken.
const UDP_BYTES: usize = 8192;

pub(super) struct Upstream {
    /// `None`: whatever the node's resolv.conf says when somebody asks.
    servers: Option<Vec<SocketAddr>>,
    questions: Semaphore,
}

impl Upstream {
    pub(super) fn new(servers: Vec<SocketAddr>) -> Self {
        let servers = (!servers.is_empty()).then_some(servers);
        Self { servers, questions: Semaphore::new(QUESTIONS) }
    }

    /// The first answer that one of the servers gives to `query`, with its number; `own` is never asked. `None` where
    /// nobody answers.
    pub(super) async fn ask(&self, query: &Message<&[u8]>, transport: Transport, own: IpAddr) -> Option<Vec<u8>> {
        let _question = self.questions.try_acquire().ok()?;
        for server in self.servers().into_iter().filter(|server| server.ip() != own).take(SERVERS) {
            let mut asked = query.as_slice().to_vec();
            asked[..2].copy_from_slice(&random_number());
            let exchange = async {
                match transport {
                    Transport::Udp => by_udp(&asked, server).await,
                    Transport::Tcp => by_tcp(&asked, server).await,
                }
            };
            match timeout(PATIENCE, exchange).await {
                Ok(Ok(mut answer)) => {
                    answer[..2].copy_from_slice(&query.as_slice()[..2]);
                    return Some(answer);
                }
                Ok(Err(error)) => tracing::debug!(%server, %error, "ask a name server"),
                Err(_) => tracing::debug!(%server, "a name server does not answer"),
            }
        }
        None
    }

    fn servers(&self) -> Vec<SocketAddr> {
        self.servers.clone().unwrap_or_else(|| {
            let servers = ResolvConf::of_node().nameservers;
            servers.iter().filter_map(|server| Some(SocketAddr::new(server.parse().ok()?, 53))).collect()
        })
    }
}

/// Unguessable, so that only who sees the query can answer it (RFC 5452); the kernel chooses the port likewise.
fn random_number() -> [u8; 2] {
    let mut number = [0; 2];
    // Two bytes are given whole or, before the machine has gathered any chance, not at all: then it waits.
    let _ = rustix::rand::getrandom(&mut number[..], rustix::rand::GetRandomFlags::empty());
    number
}

async fn by_udp(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; UDP_BYTES];
    loop {
        let length = socket.recv(&mut buffer).await?;
        if answers(&buffer[..length], query) {
            buffer.truncate(length);
            return Ok(buffer);
        }
    }
}

async fn by_tcp(query: &[u8], server: SocketAddr) -> std::io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.len()).map_err(std::io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query].concat()).await?;
    let mut answer = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut answer).await?;
    match answers(&answer, query) {
        true => Ok(answer),
        false => Err(std::io::Error::other("the answer is to another question")),
    }
}

/// Whether it is the answer to that query: of its number, with its question.
fn answers(answer: &[u8], query: &[u8]) -> bool {
    let (Ok(answer), Ok(query)) = (Message::from_octets(answer), Message::from_octets(query)) else { return false };
    answer.is_answer(&query)
}
