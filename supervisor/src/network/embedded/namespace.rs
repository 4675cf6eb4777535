//! What is done inside a pod's network namespace: one question, and one batch of requests that the kernel carries out in
//! their order.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_EXCL, NetlinkMessage};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::{AddressMessageBuilder, LinkMessageBuilder, LinkUnspec, RouteMessageBuilder};
use rustix::io::Errno;

use super::bridge::POD_INTERFACE;
use crate::network::netlink_message::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, messages};
use crate::network::subnet::Subnet;
use crate::network::{NetworkError, Result, inside, ipv6};

/// `linux/rtnetlink.h`.
const RTM_NEWLINK: u16 = 16;
/// Where `ifinfomsg` has the interface's number.
const IFI_INDEX: usize = 4;
/// The kernel's own number for `lo`, in every namespace.
const LOOPBACK: u32 = 1;

/// An address of a pod, and the subnet that it is of.
pub(super) type Home = (IpAddr, Subnet);

/// Gives the pod's interface its addresses and routes, and brings `lo` up. Tells which addresses the pod has then: that of
/// IPv6 only where the pod has not switched it off.
pub(super) async fn configure(namespace: OwnedFd, homes: Vec<Home>) -> Result<Vec<IpAddr>> {
    inside(namespace, async move || set_up(homes)).await
}

fn set_up(mut homes: Vec<Home>) -> Result<Vec<IpAddr>> {
    if ipv6::is_off(POD_INTERFACE) {
        homes.retain(|(address, _)| address.is_ipv4());
    } else {
        // What other pods say of routers is no business of this one's, which has its routes. Without an address of IPv6 it
        // would get one of their choice, and programs prefer that to IPv4.
        ipv6::ignore_routers(POD_INTERFACE)?;
    }
    let failed = |error: io::Error| NetworkError::kernel("open a netlink socket in the pod", error);
    let mut socket = Socket::new(NETLINK_ROUTE).map_err(failed)?;
    socket.bind_auto().map_err(failed)?;
    let interface = index(&socket)?;
    let mut batch = Batch::default();
    for (name, index) in [("lo", LOOPBACK), (POD_INTERFACE, interface)] {
        let up = LinkUnspec::new_with_index(index).up().build();
        batch.add(format!("bring {name} up in the pod"), RouteNetlinkMessage::SetLink(up), 0);
    }
    for (address, subnet) in &homes {
        let (address, route) = match (*address, subnet.gateway()) {
            (IpAddr::V6(address), IpAddr::V6(gateway)) => {
                let builder = AddressMessageBuilder::<Ipv6Addr>::new().index(interface);
                let mut message = builder.address(address, subnet.prefix()).build();
                // Nobody else has it: it is of use at once, and not after a second of asking.
                message.header.flags = AddressHeaderFlags::Nodad;
                let route = RouteMessageBuilder::<Ipv6Addr>::new().gateway(gateway).output_interface(interface);
                (message, route.build())
            }
            (IpAddr::V4(address), IpAddr::V4(gateway)) => {
                let builder = AddressMessageBuilder::<Ipv4Addr>::new().index(interface);
                let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(gateway);
                (builder.address(address, subnet.prefix()).build(), route.build())
            }
            // An address is of its own subnet's family.
            _ => continue,
        };
        let add = NLM_F_CREATE | NLM_F_EXCL;
        batch.add(format!("give an address of {subnet} to the pod"), RouteNetlinkMessage::NewAddress(address), add);
        batch.add(format!("add the route via {}", subnet.gateway()), RouteNetlinkMessage::NewRoute(route), add);
    }
    batch.carry_out(&socket)?;
    Ok(homes.into_iter().map(|(address, _)| address).collect())
}

/// The number of the pod's interface.
fn index(socket: &Socket) -> Result<u32> {
    let failed = |error: io::Error| NetworkError::kernel(format!("look up {POD_INTERFACE} in the pod"), error);
    let link = LinkMessageBuilder::<LinkUnspec>::default().name(POD_INTERFACE).build();
    let question = bytes(RouteNetlinkMessage::GetLink(link), NLM_F_REQUEST);
    socket.send(&question, 0).map_err(failed)?;
    let (answer, _) = socket.recv_from_full().map_err(failed)?;
    for (message_type, body) in messages(&answer) {
        match message_type {
            RTM_NEWLINK => {
                let index = body.get(IFI_INDEX..).and_then(|rest| rest.first_chunk());
                return index.map(|index| u32::from_ne_bytes(*index)).ok_or_else(|| failed(cut_off()));
            }
            NLMSG_ERROR => error_of(body).map_err(failed)?,
            _ => {}
        }
    }
    Err(failed(cut_off()))
}

/// Requests that go to the kernel together.
#[derive(Default)]
struct Batch {
    operations: Vec<String>,
    bytes: Vec<u8>,
}

impl Batch {
    fn add(&mut self, operation: String, message: RouteNetlinkMessage, flags: u16) {
        self.operations.push(operation);
        self.bytes.extend(bytes(message, NLM_F_REQUEST | NLM_F_ACK | flags));
    }

    /// Each is answered, in their order, also after one that failed. The first failure is told.
    fn carry_out(self, socket: &Socket) -> Result<()> {
        let all = self.operations.join(", ");
        socket.send(&self.bytes, 0).map_err(|error| NetworkError::kernel(&all, error))?;
        let mut operations = self.operations.into_iter();
        let mut outcome = Ok(());
        while operations.len() > 0 {
            let (answer, _) = socket.recv_from_full().map_err(|error| NetworkError::kernel(&all, error))?;
            for (_, body) in messages(&answer).filter(|(message_type, _)| *message_type == NLMSG_ERROR) {
                let operation = operations.next().unwrap_or_default();
                outcome = outcome.and(error_of(body).map_err(|error| NetworkError::kernel(operation, error)));
            }
        }
        outcome
    }
}

fn bytes(message: RouteNetlinkMessage, flags: u16) -> Vec<u8> {
    let mut message = NetlinkMessage::from(message);
    message.header.flags = flags;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len().next_multiple_of(4)];
    message.serialize(&mut bytes);
    bytes
}

/// The body of `NLMSG_ERROR`; zero says that all is well.
fn error_of(body: &[u8]) -> io::Result<()> {
    match body.first_chunk().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(Errno::from_raw_os_error(-code).into()),
        None => Err(cut_off()),
    }
}

fn cut_off() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the kernel's answer is cut off")
}
