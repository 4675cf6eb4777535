//! The bridge and the node's ends of the pods' cables, over rtnetlink.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsRawFd, OwnedFd};

use futures_util::TryStreamExt;
use rtnetlink::packet_route::address::AddressHeaderFlags;
use rtnetlink::packet_route::link::{InfoData, InfoVeth, LinkMessage};
use rtnetlink::packet_route::route::{RouteMessage, RouteScope};
use rtnetlink::sys::Socket;
use rtnetlink::sys::protocols::NETLINK_ROUTE;
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use rustix::io::Errno;

use crate::network::netlink_message::{NLM_F_ACK, NLM_F_REQUEST, NLMSG_ERROR, attribute, message, messages};
use crate::network::subnet::Subnet;
use crate::network::sysctl::sysctl;
use crate::network::{NetworkError, Result, ipv6};

/// The kernel's limit on an interface's name (IFNAMSIZ, with the terminator).
const NAME_BYTES: usize = 15;

/// `linux/rtnetlink.h`, `linux/if_link.h`.
const RTM_DELLINK: u16 = 17;
const IFLA_IFNAME: u16 = 3;
/// `ifinfomsg`, of which nothing is needed beside the name.
const IFINFOMSG_BYTES: usize = 16;

/// Of the interface inside a pod, as every CNI names it.
pub(super) const POD_INTERFACE: &str = "eth0";

pub(super) struct Bridge {
    name: String,
}

/// A netlink connection and the task that serves it, ended with the value.
pub(super) struct Netlink {
    pub(super) handle: Handle,
    task: tokio::task::JoinHandle<()>,
}

impl Netlink {
    /// In the network namespace of the calling thread.
    pub(super) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|error| NetworkError::kernel("open a netlink socket", error))?;
        Ok(Self { handle, task: tokio::spawn(connection) })
    }

    /// `None` where there is no interface of that name.
    pub(super) async fn link(&self, name: &str) -> Result<Option<LinkMessage>> {
        match self.handle.link().get().match_name(name.to_string()).execute().try_next().await {
            Ok(link) => Ok(link),
            Err(error) if is(&error, Errno::NODEV) => Ok(None),
            Err(error) => Err(NetworkError::kernel(format!("look up interface {name}"), error)),
        }
    }
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Netlink answers with the negative error number.
pub(super) fn is(error: &rtnetlink::Error, wanted: Errno) -> bool {
    matches!(error, rtnetlink::Error::NetlinkError(message)
        if message.code.is_some_and(|code| code.get() == -wanted.raw_os_error()))
}

impl Bridge {
    pub(super) fn new(name: &str) -> Result<Self> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
        let letter_first = name.starts_with(|c: char| c.is_ascii_alphabetic());
        if name.len() > NAME_BYTES || !letter_first || !name.chars().all(allowed) {
            let reason = format!("{name:?} is no name of at most {NAME_BYTES} letters, digits, _ . -");
            return Err(NetworkError::Config { key: "bridge", reason });
        }
        Ok(Self { name: name.into() })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Makes the bridge if it is missing, with its address, and lets the node forward. False where it was there; then
    /// it gets what it does not have, unless it `is_whole`: an earlier daemon may have ended halfway, or had another subnet.
    pub(super) async fn ensure(&self, subnet: &Subnet, is_whole: bool) -> Result<bool> {
        let netlink = Netlink::open()?;
        let found = netlink.link(&self.name).await?;
        if found.is_some() && is_whole {
            return Ok(false);
        }
        let failed = |what: &str| {
            let operation = format!("{what} bridge {}", self.name);
            move |error: rtnetlink::Error| NetworkError::kernel(operation, error)
        };
        let is_new = found.is_none();
        let index = match found {
            Some(link) => {
                let up = LinkUnspec::new_with_index(link.header.index).up().build();
                netlink.handle.link().set(up).execute().await.map_err(failed("bring up"))?;
                link.header.index
            }
            None => {
                let message = LinkBridge::new(&self.name).address(own_mac(subnet)).up().build();
                netlink.handle.link().add(message).execute().await.map_err(failed("add"))?;
                let index = netlink.link(&self.name).await?.map(|link| link.header.index);
                index.ok_or_else(|| NetworkError::kernel(format!("add bridge {}", self.name), "it is gone"))?
            }
        };
        match netlink.handle.address().add(index, subnet.gateway(), subnet.prefix()).execute().await {
            Err(error) if !is(&error, Errno::EXIST) => return Err(failed("give an address to")(error)),
            _ => {}
        }
        sysctl("net/ipv4/ip_forward", "1")?;
        // Replies to connections from 127.0.0.1 that a host port sent to a pod come back here.
        sysctl(&format!("net/ipv4/conf/{}/route_localnet", self.name), "1")?;
        // A pod is no router of the node's, whatever it says.
        ipv6::ignore_routers(&self.name)?;
        Ok(is_new)
    }

    pub(super) async fn is_there(&self) -> Result<bool> {
        Ok(Netlink::open()?.link(&self.name).await?.is_some())
    }

    /// Gives the bridge its address of IPv6, should it not have it, and lets the node forward.
    pub(super) async fn ensure6(&self, subnet: &Subnet) -> Result<()> {
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(&self.name).await? else { return Ok(()) };
        ipv6::ignore_routers(&self.name)?;
        let mut add = netlink.handle.address().add(link.header.index, subnet.gateway(), subnet.prefix());
        // Of use at once: nobody else has it.
        add.message_mut().header.flags = AddressHeaderFlags::Nodad;
        match add.execute().await {
            Err(error) if !is(&error, Errno::EXIST) => {
                let operation = format!("give {}/{} to bridge {}", subnet.gateway(), subnet.prefix(), self.name);
                Err(NetworkError::kernel(operation, error))
            }
            _ => ipv6::forward(),
        }
    }

    /// A route to `subnet` by the bridge, if there is one.
    pub(super) async fn route(&self, subnet: &Subnet) -> Result<()> {
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(&self.name).await? else { return Ok(()) };
        match netlink.handle.route().add(route_to(subnet, link.header.index)).execute().await {
            Err(error) if !is(&error, Errno::EXIST) => {
                Err(NetworkError::kernel(format!("add a route to {subnet} by {}", self.name), error))
            }
            _ => Ok(()),
        }
    }

    /// Gone already is fine.
    pub(super) async fn unroute(&self, subnet: &Subnet) -> Result<()> {
        let netlink = Netlink::open()?;
        let Some(link) = netlink.link(&self.name).await? else { return Ok(()) };
        match netlink.handle.route().del(route_to(subnet, link.header.index)).execute().await {
            Err(error) if !is(&error, Errno::SRCH) => {
                Err(NetworkError::kernel(format!("delete the route to {subnet} by {}", self.name), error))
            }
            _ => Ok(()),
        }
    }

    /// False where there was none.
    pub(super) async fn remove(&self) -> Result<bool> {
        delete(&self.name).await
    }

    /// A cable from the bridge into `namespace`: `interface` here, `eth0` there.
    pub(super) async fn connect(&self, interface: &str, namespace: &OwnedFd) -> Result<()> {
        let netlink = Netlink::open()?;
        let operation = format!("add interface {interface} to bridge {}", self.name);
        let bridge = netlink
            .link(&self.name)
            .await?
            .ok_or_else(|| NetworkError::kernel(operation.clone(), "there is no such bridge"))?;
        let peer =
            LinkMessageBuilder::<LinkUnspec>::default().name(POD_INTERFACE).setns_by_fd(namespace.as_raw_fd()).build();
        let message = LinkVeth::new(interface, POD_INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge.header.index)
            .up()
            .build();
        let outcome = netlink.handle.link().add(message).execute().await;
        outcome.map_err(|error| NetworkError::kernel(operation.clone(), error))?;
        let port = netlink.link(interface).await?;
        let port = port.ok_or_else(|| NetworkError::kernel(operation.clone(), "it is gone"))?;
        // Where br_netfilter is loaded, a pod that reaches itself by a host port is answered out of the very port it
        // asked through, which a bridge refuses unless told so.
        let hairpin = LinkBridgePort::new(port.header.index).hairpin(true).build();
        let outcome = netlink.handle.link().set_port(hairpin).execute().await;
        outcome.map_err(|error| NetworkError::kernel(operation, error))
    }

    /// Pulls the cable: the end in the pod goes with it.
    pub(super) async fn disconnect(&self, interface: &str) -> Result<()> {
        delete(interface).await.map(drop)
    }
}

fn route_to(subnet: &Subnet, interface: u32) -> RouteMessage {
    let prefix = subnet.prefix();
    match subnet.network() {
        IpAddr::V4(network) => RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(interface)
            .scope(RouteScope::Link)
            .build(),
        IpAddr::V6(network) => RouteMessageBuilder::<Ipv6Addr>::new()
            .destination_prefix(network, prefix)
            .output_interface(interface)
            .build(),
    }
}

/// False where there is no such interface. The kernel answers once everybody has let go of it, after some 20 ms: this
/// waits on a thread that nobody else needs meanwhile.
async fn delete(interface: &str) -> Result<bool> {
    let name = interface.to_string();
    let outcome = tokio::task::spawn_blocking(move || delete_blocking(&name)).await;
    let failed = |reason: &dyn std::fmt::Display| NetworkError::kernel(format!("delete interface {interface}"), reason);
    outcome.map_err(|error| failed(&error))?.map_err(|error| failed(&error))
}

fn delete_blocking(interface: &str) -> io::Result<bool> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    let body = [&[0; IFINFOMSG_BYTES][..], &attribute(IFLA_IFNAME, format!("{interface}\0").as_bytes())].concat();
    socket.send(&message(RTM_DELLINK, NLM_F_REQUEST | NLM_F_ACK, &body), 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let error = messages(&answer).find(|(message_type, _)| *message_type == NLMSG_ERROR);
    let code = error.and_then(|(_, body)| body.first_chunk()).map(|code| -i32::from_ne_bytes(*code));
    match code {
        Some(0) => Ok(true),
        // Or the pod's namespace ended meanwhile and took it along.
        Some(code) if code == Errno::NODEV.raw_os_error() => Ok(false),
        Some(code) => Err(io::Error::from_raw_os_error(code)),
        None => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// Of its own: otherwise a bridge takes the lowest of its ports', and changes it while pods come and go.
fn own_mac(subnet: &Subnet) -> Vec<u8> {
    let mut mac = vec![0x02, 0x57];
    if let IpAddr::V4(gateway) = subnet.gateway() {
        mac.extend(gateway.octets());
    }
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bridge_names_are_what_kernel_and_nft_take() {
        assert!(Bridge::new("wharf0").is_ok());
        for name in ["", "0wharf", "a/b", "a b", "sixteen-bytes-it"] {
            assert!(Bridge::new(name).is_err(), "{name}");
        }
    }
}
