//! What is done inside a pod's network namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rtnetlink::{LinkUnspec, RouteMessageBuilder};

use super::bridge::{Netlink, POD_INTERFACE};
use crate::network::subnet::Subnet;
use crate::network::{NetworkError, Result, inside};

/// Gives the pod's interface its address and route, and brings `lo` up.
pub(super) async fn configure(namespace: OwnedFd, address: Ipv4Addr, subnet: Subnet) -> Result<()> {
    inside(namespace, async move || set_up(address, subnet).await).await
}

async fn set_up(address: Ipv4Addr, subnet: Subnet) -> Result<()> {
    let netlink = Netlink::open()?;
    let mut pod_interface = 0;
    for name in ["lo", POD_INTERFACE] {
        let operation = format!("bring {name} up in the pod");
        let link = netlink.link(name).await?;
        let link = link.ok_or_else(|| NetworkError::kernel(operation.clone(), "there is no such interface"))?;
        let up = LinkUnspec::new_with_index(link.header.index).up().build();
        let outcome = netlink.handle.link().set(up).execute().await;
        outcome.map_err(|error| NetworkError::kernel(operation, error))?;
        pod_interface = link.header.index;
    }
    let add = netlink.handle.address().add(pod_interface, IpAddr::V4(address), subnet.prefix());
    let operation = format!("give {address} to the pod");
    add.execute().await.map_err(|error| NetworkError::kernel(operation, error))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(subnet.gateway()).build();
    let outcome = netlink.handle.route().add(route).execute().await;
    outcome.map_err(|error| NetworkError::kernel(format!("add the route via {}", subnet.gateway()), error))
}
