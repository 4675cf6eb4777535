//! UDP has no connections that end: as long as a client goes on sending from the same port, the kernel sends it where it
//! sent the first packet, though the endpoint is gone. So what it remembers of such is taken away (ctnetlink).

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4};

use rtnetlink::sys::protocols::NETLINK_NETFILTER;
use rtnetlink::sys::{AsyncSocket as _, AsyncSocketExt as _, TokioSocket};

use super::{Backends, Frontend};
use crate::network::netlink_message::{
    NESTED, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NLMSG_DONE, NLMSG_ERROR, attribute, find, message, messages,
};
use crate::pod::spec::Protocol;

/// `linux/netfilter/nfnetlink_conntrack.h`.
const IPCTNL_MSG_CT_NEW: u16 = 0x100;
const IPCTNL_MSG_CT_GET: u16 = 0x101;
const IPCTNL_MSG_CT_DELETE: u16 = 0x102;
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_REPLY: u16 = 2;
const CTA_ID: u16 = 12;
const CTA_TUPLE_IP: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_IP_V4_SRC: u16 = 1;
const CTA_IP_V4_DST: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// `nfgenmsg` of IPv4.
const FAMILY: [u8; 4] = [2, 0, 0, 0];

/// What has changed at one destination.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// `None` for any address of the node.
    address: Option<Ipv4Addr>,
    port: u16,
    /// Endpoints that are behind it no more.
    lost: Vec<SocketAddrV4>,
    /// Whether there are any now.
    served: bool,
}

/// One flow that the kernel remembers.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to, and where that is brought.
    to: SocketAddrV4,
    brought: SocketAddrV4,
}

impl Change {
    fn ends(&self, flow: &Flow) -> bool {
        let is_here = self.port == flow.to.port() && self.address.is_none_or(|address| address == *flow.to.ip());
        // Sent before there was an endpoint: to nowhere, for as long as it goes on.
        let untranslated = self.address.is_some() && self.served && flow.brought == flow.to;
        is_here && (untranslated || self.lost.contains(&flow.brought))
    }
}

/// Forgets the flows that go where the rules do not lead any more.
pub(super) async fn forget(before: &[Frontend], after: &[Frontend]) -> io::Result<()> {
    let changes = changes(before, after);
    if changes.is_empty() {
        return Ok(());
    }
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    let mut deletions = Vec::new();
    send(&socket, &message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, &FAMILY)).await?;
    answers(&socket, |body| deletions.extend(deletion(body, &changes))).await?;
    for deletion in deletions {
        send(&socket, &deletion).await?;
        match answers(&socket, |_| ()).await {
            // It has ended by itself.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

fn changes(before: &[Frontend], after: &[Frontend]) -> Vec<Change> {
    let is_udp = |frontend: &&Frontend| frontend.protocol == Protocol::Udp;
    let mut changes = Vec::new();
    for old in before.iter().chain(after).filter(is_udp) {
        let new = after.iter().filter(is_udp).find(|new| new.service == old.service && new.port == old.port);
        let was = before.iter().filter(is_udp).find(|was| was.service == old.service && was.port == old.port);
        if new == was {
            continue;
        }
        let mut note = |address, port, was: Option<&Backends>, new: Option<&Backends>| {
            let now: &[SocketAddrV4] = new.map_or(&[], |new| &new.endpoints);
            let was = was.map_or(&[][..], |was| &was.endpoints);
            let lost = was.iter().filter(|endpoint| !now.contains(endpoint)).copied().collect();
            let change = Change { address, port, lost, served: !now.is_empty() };
            if !changes.contains(&change) {
                changes.push(change);
            }
        };
        note(Some(old.cluster_ip), old.port, was.map(|was| &was.internal), new.map(|new| &new.internal));
        let external = (was.map(|was| &was.external), new.map(|new| &new.external));
        for ip in &old.external_ips {
            note(Some(*ip), old.port, external.0, external.1);
        }
        if let Some(port) = old.node_port {
            note(None, port, external.0, external.1);
        }
    }
    changes
}

async fn send(socket: &TokioSocket, message: &[u8]) -> io::Result<()> {
    socket.send(message).await.map(drop)
}

/// Reads to the end of what the kernel has to say.
async fn answers(socket: &TokioSocket, mut each: impl FnMut(&[u8])) -> io::Result<()> {
    loop {
        let (bytes, _) = socket.recv_from_full().await?;
        for (message_type, body) in messages(&bytes) {
            match message_type {
                NLMSG_DONE => return Ok(()),
                NLMSG_ERROR => {
                    let code = body.first_chunk().map_or(0, |code| i32::from_ne_bytes(*code));
                    return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                }
                IPCTNL_MSG_CT_NEW => each(body),
                _ => {}
            }
        }
    }
}

/// The request that takes a flow away, if one of the changes ends it.
fn deletion(body: &[u8], changes: &[Change]) -> Option<Vec<u8>> {
    let attributes = body.get(FAMILY.len()..)?;
    let original = find(attributes, CTA_TUPLE_ORIG)?;
    let flow = flow(original, find(attributes, CTA_TUPLE_REPLY)?)?;
    if !changes.iter().any(|change| change.ends(&flow)) {
        return None;
    }
    let tuple = attribute(CTA_TUPLE_ORIG | NESTED, original);
    // The id, so that no other is meant that has come in its place.
    let id = attribute(CTA_ID, find(attributes, CTA_ID)?);
    Some(message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, &[&FAMILY[..], &tuple, &id].concat()))
}

/// `None` for what is no UDP.
fn flow(original: &[u8], reply: &[u8]) -> Option<Flow> {
    let end = |tuple, address, port| {
        let (ip, protocol) = (find(tuple, CTA_TUPLE_IP)?, find(tuple, CTA_TUPLE_PROTO)?);
        if find(protocol, CTA_PROTO_NUM)? != [UDP] {
            return None;
        }
        let ip = Ipv4Addr::from(*find(ip, address)?.first_chunk::<4>()?);
        Some(SocketAddrV4::new(ip, u16::from_be_bytes(*find(protocol, port)?.first_chunk()?)))
    };
    let to = end(original, CTA_IP_V4_DST, CTA_PROTO_DST_PORT)?;
    Some(Flow { to, brought: end(reply, CTA_IP_V4_SRC, CTA_PROTO_SRC_PORT)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frontend(endpoints: &[&str]) -> Frontend {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        let backends = Backends { endpoints, ..Backends::default() };
        Frontend {
            service: "default/dns".into(),
            protocol: Protocol::Udp,
            port: 53,
            cluster_ip: "10.96.0.10".parse().unwrap(),
            external_ips: Vec::new(),
            node_port: Some(30_053),
            affinity_seconds: None,
            internal: backends.clone(),
            external: backends,
        }
    }

    #[test]
    fn flows_to_lost_endpoints_end_and_others_go_on() {
        let before = [frontend(&["10.0.0.1:53", "10.0.0.2:53"])];
        let changes = changes(&before, &[frontend(&["10.0.0.2:53"])]);
        let ends = |to: &str, brought: &str| {
            let flow = Flow { to: to.parse().unwrap(), brought: brought.parse().unwrap() };
            changes.iter().any(|change| change.ends(&flow))
        };
        assert!(ends("10.96.0.10:53", "10.0.0.1:53") && ends("192.0.2.1:30053", "10.0.0.1:53"));
        assert!(ends("10.96.0.10:53", "10.96.0.10:53"));
        assert!(!ends("10.96.0.10:53", "10.0.0.2:53") && !ends("10.96.0.11:53", "10.0.0.1:53"));
        // Somebody else's at the same port.
        assert!(!ends("192.0.2.1:30053", "192.0.2.1:30053"));
        assert_eq!(super::changes(&before, &before), []);
    }
}
