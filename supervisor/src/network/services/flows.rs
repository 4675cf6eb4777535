//! UDP has no connections that end: as long as a client goes on sending from the same port, the kernel sends it where it
//! sent the first packet, though the endpoint is gone. So what it remembers of such is taken away (ctnetlink).

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

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
const CTA_IP_V6_SRC: u16 = 3;
const CTA_IP_V6_DST: u16 = 4;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_SRC_PORT: u16 = 2;
const CTA_PROTO_DST_PORT: u16 = 3;
const UDP: u8 = 17;
/// `nfgenmsg`: the family of addresses, here any, and what is of no use.
const ANY_FAMILY: [u8; 4] = [0; 4];

/// Somewhere that clients send to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Destination {
    /// `None` for any address of the node.
    address: Option<IpAddr>,
    is_ipv4: bool,
    port: u16,
}

/// Which endpoints the rules lead to.
pub(super) type Book = BTreeMap<Destination, BTreeSet<SocketAddr>>;

/// What has changed at one destination.
#[derive(Debug, PartialEq, Eq)]
struct Change {
    /// Endpoints that are behind it no more; `None` where any but those of now may have been.
    lost: Option<BTreeSet<SocketAddr>>,
    now: BTreeSet<SocketAddr>,
}

type Changes = BTreeMap<Destination, Change>;

/// One flow that the kernel remembers.
#[derive(Debug, PartialEq, Eq)]
struct Flow {
    /// Where the client sends to, and where that is brought.
    to: SocketAddr,
    brought: SocketAddr,
}

/// Whether one of the changes ends a flow.
fn ends(changes: &Changes, flow: &Flow) -> bool {
    let is_ipv4 = flow.to.is_ipv4();
    let at = |address| changes.get(&Destination { address, is_ipv4, port: flow.to.port() });
    let goes_astray = |change: &Change| match &change.lost {
        _ if change.now.contains(&flow.brought) => false,
        Some(lost) => lost.contains(&flow.brought),
        None => flow.brought != flow.to,
    };
    match at(Some(flow.to.ip())) {
        // Sent before there was an endpoint: to nowhere, for as long as it goes on.
        Some(change) => goes_astray(change) || !change.now.is_empty() && flow.brought == flow.to,
        None => at(None).is_some_and(goes_astray),
    }
}

/// Of the ports of UDP.
pub(super) fn book(frontends: &[Frontend]) -> Book {
    let mut book = Book::new();
    for frontend in frontends.iter().filter(|frontend| frontend.protocol == Protocol::Udp) {
        let mut note = |address, port, backends: &Backends| {
            let destination = Destination { address, is_ipv4: frontend.cluster_ip.is_ipv4(), port };
            book.entry(destination).or_default().extend(&backends.endpoints);
        };
        note(Some(frontend.cluster_ip), frontend.port, &frontend.internal);
        for ip in frontend.external_ips.iter().chain(&frontend.guarded_ips) {
            note(Some(*ip), frontend.port, &frontend.external);
        }
        if let Some(port) = frontend.node_port {
            note(None, port, &frontend.external);
        }
    }
    book
}

/// Forgets the flows that go where the rules do not lead any more, or, where it is not known what was `before`, where they
/// do not lead.
pub(super) async fn forget(before: Option<&Book>, after: &Book) -> io::Result<()> {
    let changes = changes(before, after);
    if changes.is_empty() {
        return Ok(());
    }
    let mut socket = TokioSocket::new(NETLINK_NETFILTER)?;
    socket.socket_mut().bind_auto()?;
    let mut deletions = Vec::new();
    send(&socket, &message(IPCTNL_MSG_CT_GET, NLM_F_REQUEST | NLM_F_DUMP, &ANY_FAMILY)).await?;
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

fn changes(before: Option<&Book>, after: &Book) -> Changes {
    let nobody = BTreeSet::new();
    let Some(before) = before else {
        return after.iter().map(|(at, now)| (*at, Change { lost: None, now: now.clone() })).collect();
    };
    let all: BTreeSet<&Destination> = before.keys().chain(after.keys()).collect();
    let change = |at: &Destination| {
        let (was, now) = (before.get(at).unwrap_or(&nobody), after.get(at).unwrap_or(&nobody));
        (was != now).then(|| (*at, Change { lost: Some(was - now), now: now.clone() }))
    };
    all.into_iter().filter_map(change).collect()
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
fn deletion(body: &[u8], changes: &Changes) -> Option<Vec<u8>> {
    let (family, attributes) = body.split_at_checked(ANY_FAMILY.len())?;
    let original = find(attributes, CTA_TUPLE_ORIG)?;
    let flow = flow(original, find(attributes, CTA_TUPLE_REPLY)?)?;
    if !ends(changes, &flow) {
        return None;
    }
    let tuple = attribute(CTA_TUPLE_ORIG | NESTED, original);
    // The id, so that no other is meant that has come in its place.
    let id = attribute(CTA_ID, find(attributes, CTA_ID)?);
    Some(message(IPCTNL_MSG_CT_DELETE, NLM_F_REQUEST | NLM_F_ACK, &[&[family[0], 0, 0, 0][..], &tuple, &id].concat()))
}

/// `None` for what is no UDP.
fn flow(original: &[u8], reply: &[u8]) -> Option<Flow> {
    let end = |tuple, [four, six]: [u16; 2], port| {
        let (ip, protocol) = (find(tuple, CTA_TUPLE_IP)?, find(tuple, CTA_TUPLE_PROTO)?);
        if find(protocol, CTA_PROTO_NUM)? != [UDP] {
            return None;
        }
        let ip = match find(ip, four) {
            Some(bytes) => IpAddr::from(Ipv4Addr::from(*bytes.first_chunk::<4>()?)),
            None => IpAddr::from(Ipv6Addr::from(*find(ip, six)?.first_chunk::<16>()?)),
        };
        Some(SocketAddr::new(ip, u16::from_be_bytes(*find(protocol, port)?.first_chunk()?)))
    };
    let to = end(original, [CTA_IP_V4_DST, CTA_IP_V6_DST], CTA_PROTO_DST_PORT)?;
    Some(Flow { to, brought: end(reply, [CTA_IP_V4_SRC, CTA_IP_V6_SRC], CTA_PROTO_SRC_PORT)? })
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
            guarded_ips: Vec::new(),
            sources: Vec::new(),
            node_port: Some(30_053),
            affinity_seconds: None,
            internal: backends.clone(),
            external: backends,
        }
    }

    fn flow(to: &str, brought: &str) -> Flow {
        Flow { to: to.parse().unwrap(), brought: brought.parse().unwrap() }
    }

    #[test]
    fn flows_to_lost_endpoints_end_and_others_go_on() {
        let before = book(&[frontend(&["10.0.0.1:53", "10.0.0.2:53"])]);
        let after = book(&[frontend(&["10.0.0.2:53"])]);
        let told = changes(Some(&before), &after);
        let ends = |to: &str, brought: &str| super::ends(&told, &flow(to, brought));
        assert!(ends("10.96.0.10:53", "10.0.0.1:53") && ends("192.0.2.1:30053", "10.0.0.1:53"));
        assert!(ends("10.96.0.10:53", "10.96.0.10:53"));
        assert!(!ends("10.96.0.10:53", "10.0.0.2:53") && !ends("10.96.0.11:53", "10.0.0.1:53"));
        // Somebody else's at the same port.
        assert!(!ends("192.0.2.1:30053", "192.0.2.1:30053"));
        assert!(changes(Some(&before), &before).is_empty());
    }

    #[test]
    fn where_nothing_is_known_flows_to_any_others_end() {
        let told = changes(None, &book(&[frontend(&["10.0.0.2:53"])]));
        let ends = |to: &str, brought: &str| super::ends(&told, &flow(to, brought));
        assert!(ends("10.96.0.10:53", "10.0.0.9:53") && ends("192.0.2.1:30053", "10.0.0.9:53"));
        assert!(ends("10.96.0.10:53", "10.96.0.10:53"));
        assert!(!ends("10.96.0.10:53", "10.0.0.2:53") && !ends("192.0.2.1:30053", "10.0.0.2:53"));
        assert!(!ends("192.0.2.1:30053", "192.0.2.1:30053") && !ends("10.96.0.11:53", "10.0.0.9:53"));
    }

    #[test]
    fn a_destination_that_is_given_up_loses_its_flows() {
        let moved = Frontend { node_port: Some(30_054), ..frontend(&["10.0.0.1:53"]) };
        let told = changes(Some(&book(&[frontend(&["10.0.0.1:53"])])), &book(&[moved]));
        assert!(super::ends(&told, &flow("192.0.2.1:30053", "10.0.0.1:53")));
        assert!(!super::ends(&told, &flow("192.0.2.1:30054", "10.0.0.1:53")));
    }

    #[test]
    fn flows_of_ipv6_are_read_and_are_of_their_own_address() {
        let six = |endpoints: &[&str]| Frontend { cluster_ip: "fd96::a".parse().unwrap(), ..frontend(endpoints) };
        let (four, before) = (frontend(&["10.0.0.1:53"]), six(&["[fd00::1]:53", "[fd00::2]:53"]));
        let after = book(&[four.clone(), six(&["[fd00::2]:53"])]);
        let changes = changes(Some(&book(&[four, before])), &after);
        let tuple = |address: u16, ip: &str, port: u16, number: u16| {
            let ip: Ipv6Addr = ip.parse().unwrap();
            let ip = attribute(CTA_TUPLE_IP | NESTED, &attribute(address, &ip.octets()));
            let ports = [attribute(CTA_PROTO_NUM, &[UDP]), attribute(port, &number.to_be_bytes())].concat();
            [ip, attribute(CTA_TUPLE_PROTO | NESTED, &ports)].concat()
        };
        let told = |to: &str, port: u16, brought: &str| {
            let original = attribute(CTA_TUPLE_ORIG, &tuple(CTA_IP_V6_DST, to, CTA_PROTO_DST_PORT, port));
            let reply = attribute(CTA_TUPLE_REPLY, &tuple(CTA_IP_V6_SRC, brought, CTA_PROTO_SRC_PORT, 53));
            let body = [vec![10, 0, 0, 0], original, reply, attribute(CTA_ID, &[1, 2, 3, 4])].concat();
            deletion(&body, &changes).map(|deletion| messages(&deletion).next().unwrap().1[0])
        };
        assert_eq!(told("fd96::a", 53, "fd00::1"), Some(10));
        assert_eq!(told("2001:db8::7", 30_053, "fd00::1"), Some(10));
        assert_eq!(told("fd96::a", 53, "fd00::2"), None);
        assert_eq!(told("fd96::b", 53, "fd00::1"), None);
        assert_eq!(deletion(&[10], &changes), None);
    }
}
