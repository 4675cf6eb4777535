//! What is done inside a pod's network namespace.

use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::OwnedFd;

use rtnetlink::{LinkUnspec, RouteMessageBuilder};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::bridge::{Netlink, POD_INTERFACE};
use super::subnet::Subnet;
use crate::network::{NetworkError, Result};

/// Gives the pod's interface its address and route, and brings `lo` up.
pub(super) async fn configure(namespace: OwnedFd, address: Ipv4Addr, subnet: Subnet) -> Result<()> {
    inside(namespace, async move || set_up(address, subnet).await).await
}

/// Runs `work` on a thread of its own in `namespace`. Such a thread never returns to a pool: whatever ran on it
/// next would be in the pod's network.
pub(super) async fn inside<T, F>(namespace: OwnedFd, work: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("pod-network".into()).spawn(move || {
        // The receiver is gone only if the request was given up.
        let _ = sender.send(enter_and_run(namespace, work));
    });
    thread.map_err(|error| NetworkError::kernel("start a thread for a pod's network", error))?;
    receiver.await.map_err(|_| NetworkError::kernel("work in a pod's network namespace", "its thread died"))?
}

fn enter_and_run<T>(namespace: OwnedFd, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network))
        .map_err(|error| NetworkError::kernel("enter a pod's network namespace", error))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetworkError::kernel("start a runtime for a pod's network", error))?
        .block_on(work())
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
