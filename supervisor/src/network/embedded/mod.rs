//! The embedded network: a bridge with a cable to each pod, and one table of rules.
//!
//! ```text
//! node                                        pod's network namespace
//! wharf0 (bridge, first address) ── veth… ═══ eth0 (address from the lease store), default route via wharf0
//!    └─ nftables table `wharf-wharf0`: masquerade outwards, port mappings inwards
//! ```
//!
//! [`Embedded::attach`] and [`Embedded::detach`] mirror each other; detach is complete from any point of attach.

mod bridge;
mod lease;
mod namespace;
mod nft;
mod subnet;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use tokio::sync::Mutex;

use super::{NetworkConfig, NetworkError, Result};
use crate::pod::spec::PortMapping;
use bridge::Bridge;
use lease::{Lease, LeaseStore};
use subnet::Subnet;

pub(super) struct Embedded {
    bridge: Bridge,
    subnet: Subnet,
    /// Held for the moments in which leases and rules change together, never while a pod's namespace is entered.
    leases: Mutex<LeaseStore>,
}

impl Embedded {
    /// Reads the leases; touches nothing of the kernel's before the first pod.
    pub(super) fn open(config: &NetworkConfig, directory: &Path) -> Result<Self> {
        let subnet = Subnet::parse(&config.subnet)?;
        let bridge = Bridge::new(&config.bridge)?;
        Ok(Self { bridge, subnet, leases: Mutex::new(LeaseStore::open(directory)?) })
    }

    /// Whether a pod can be connected now, and if not, why.
    pub(super) fn check(&self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|directory| directory.join("nft").is_file()) {
            return Ok(());
        }
        Err(NetworkError::NoNft("it is not in PATH".into()))
    }

    /// Interface, address, default route, port mappings.
    pub(super) async fn attach(&self, id: &str, namespace: OwnedFd, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        let address = {
            let mut leases = self.leases.lock().await;
            self.bridge.ensure(&self.subnet).await?;
            let address = leases.take(id, &self.subnet, ports)?;
            // The lease comes first: a daemon that dies here finds it and takes it back.
            nft::apply(&self.rules(&leases)).await?;
            address
        };
        let interface = interface_of(id);
        self.bridge.connect(&interface, &namespace).await?;
        namespace::configure(namespace, address, self.subnet).await?;
        Ok(vec![IpAddr::V4(address)])
    }

    /// Takes everything of pod `id` back; what is gone already is fine.
    pub(super) async fn detach(&self, id: &str) -> Result<()> {
        self.bridge.disconnect(&interface_of(id)).await?;
        let mut leases = self.leases.lock().await;
        if !leases.release(id)? {
            return Ok(());
        }
        if leases.is_empty() {
            return self.remove_shared_locked().await;
        }
        nft::apply(&self.rules(&leases)).await
    }

    /// Takes back what belongs to pods that are not `known` any more.
    pub(super) async fn retain(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let stale: Vec<String> = {
            let leases = self.leases.lock().await;
            leases.pods().filter(|pod| !known(pod)).cloned().collect()
        };
        for pod in stale {
            tracing::info!(%pod, "give back the address of a pod sandbox that is gone");
            self.detach(&pod).await?;
        }
        let leases = self.leases.lock().await;
        if leases.is_empty() { Ok(()) } else { nft::apply(&self.rules(&leases)).await }
    }

    /// Removes what serves all pods; without pods there is nothing to serve.
    pub(super) async fn remove_shared(&self) -> Result<()> {
        let leases = self.leases.lock().await;
        if leases.is_empty() { self.remove_shared_locked().await } else { Ok(()) }
    }

    async fn remove_shared_locked(&self) -> Result<()> {
        // Nothing was set up where the bridge is not there.
        if self.bridge.remove().await? { nft::remove(self.bridge.name()).await } else { Ok(()) }
    }

    fn rules<'a>(&'a self, leases: &'a LeaseStore) -> nft::Rules<'a> {
        nft::Rules { bridge: self.bridge.name(), subnet: self.subnet, leases: leases.leases().collect::<Vec<&Lease>>() }
    }
}

/// Name of the node's end of a pod's cable: the kernel allows 15 bytes.
fn interface_of(id: &str) -> String {
    format!("veth{}", id.get(..11).unwrap_or(id))
}
