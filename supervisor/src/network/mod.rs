//! The pods' network: the embedded bridge where no CNI configuration is present.
//!
//! ```text
//! node                                        pod's network namespace
//! wharf0 (bridge, first address) ── veth… ═══ eth0 (address from the lease store), default route via wharf0
//!    └─ nftables table `wharf-wharf0`: masquerade outwards, port mappings inwards
//! ```
//!
//! [`Network::attach`] and [`Network::detach`] mirror each other; detach is complete from any point of attach.

mod bridge;
mod lease;
mod namespace;
mod nft;
mod subnet;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

use crate::pod::spec::PortMapping;
use bridge::Bridge;
use lease::{Lease, LeaseStore};
use subnet::Subnet;

/// Of the embedded network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkConfig {
    /// Name of the bridge; also names the nftables table, so that several nodes share a machine.
    pub bridge: String,
    /// IPv4, in CIDR form; the bridge gets its first address.
    pub subnet: String,
}

impl Default for NetworkConfig {
    fn default() -> Self {
        Self { bridge: "wharf0".into(), subnet: "10.88.0.0/16".into() }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    #[error("network.{key}: {reason}")]
    Config { key: &'static str, reason: String },
    #[error("no address is left in {subnet}")]
    Exhausted { subnet: String },
    #[error("host port {port} is in use by pod sandbox {pod}")]
    PortInUse { port: String, pod: String },
    #[error("{operation}: {reason}")]
    Kernel { operation: String, reason: String },
    #[error("nft, of Debian's package nftables, is needed for masquerading and host ports: {0}")]
    NoNft(String),
    #[error("nft refuses the rules: {0}")]
    Nft(String),
    #[error("{path}: {reason}")]
    Store { path: PathBuf, reason: String },
}

impl NetworkError {
    pub(crate) fn kernel(operation: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kernel { operation: operation.into(), reason: reason.to_string() }
    }
}

pub type Result<T, E = NetworkError> = std::result::Result<T, E>;

/// The pods' network: one variant for each way of having one.
pub struct Network {
    kind: PodNetwork,
}

/// Executing CNI plugins becomes the second variant.
enum PodNetwork {
    Embedded(Embedded),
}

struct Embedded {
    bridge: Bridge,
    subnet: Subnet,
    /// Held for the moments in which leases and rules change together, never while a pod's namespace is entered.
    leases: Mutex<LeaseStore>,
}

impl Network {
    /// Reads the leases; touches nothing of the kernel's before the first pod.
    pub async fn open(config: NetworkConfig, state: &Path) -> Result<Self> {
        let subnet = Subnet::parse(&config.subnet)?;
        let bridge = Bridge::new(&config.bridge)?;
        let leases = Mutex::new(LeaseStore::open(&state.join("network"))?);
        Ok(Self { kind: PodNetwork::Embedded(Embedded { bridge, subnet, leases }) })
    }

    /// Whether a pod can be connected now, and if not, why.
    pub fn check(&self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|directory| directory.join("nft").is_file()) {
            return Ok(());
        }
        Err(NetworkError::NoNft("it is not in PATH".into()))
    }

    /// Connects the network namespace of pod `id`: interface, address, default route, port mappings.
    pub async fn attach(&self, id: &str, namespace: OwnedFd, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        match &self.kind {
            PodNetwork::Embedded(embedded) => embedded.attach(id, namespace, ports).await,
        }
    }

    /// Takes everything of pod `id` back; what is gone already is fine.
    pub async fn detach(&self, id: &str) -> Result<()> {
        match &self.kind {
            PodNetwork::Embedded(embedded) => embedded.detach(id).await,
        }
    }

    /// Takes back what belongs to pods that are not `known` any more.
    pub async fn retain(&self, known: &BTreeSet<String>) -> Result<()> {
        match &self.kind {
            PodNetwork::Embedded(embedded) => embedded.retain(known).await,
        }
    }

    /// Removes what serves all pods; without pods there is nothing to serve.
    pub async fn close(&self) -> Result<()> {
        match &self.kind {
            PodNetwork::Embedded(embedded) => embedded.remove_shared().await,
        }
    }
}

impl Embedded {
    async fn attach(&self, id: &str, namespace: OwnedFd, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
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

    async fn detach(&self, id: &str) -> Result<()> {
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

    async fn retain(&self, known: &BTreeSet<String>) -> Result<()> {
        let stale: Vec<String> = {
            let leases = self.leases.lock().await;
            leases.pods().filter(|pod| !known.contains(*pod)).cloned().collect()
        };
        for pod in stale {
            tracing::info!(%pod, "give back the address of a pod sandbox that is gone");
            self.detach(&pod).await?;
        }
        let leases = self.leases.lock().await;
        if leases.is_empty() { Ok(()) } else { nft::apply(&self.rules(&leases)).await }
    }

    async fn remove_shared(&self) -> Result<()> {
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
