//! The embedded network: a bridge with a cable to each pod, and one table of rules.
//!
//! ```text
//! node                                        pod's network namespace
//! wharf0 (bridge, first address) ── veth… ═══ eth0 (address from the lease store), default route via wharf0
//!    └─ nftables table `wharf-wharf0`: masquerade outwards, port mappings inwards
//! ```
//!
//! [`Embedded::attach`] and [`Embedded::detach`] mirror each other; detach is complete from any point of attach. The kernel
//! takes 10 ms and more to let an interface go, for which nobody waits: see [`leaving`].

mod bridge;
mod lease;
mod leaving;
mod namespace;
mod nft;

use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use tokio::sync::Mutex;

use super::subnet::Subnet;
use super::{NetworkConfig, NetworkError, Result};
use crate::pod::spec::{PortMapping, SandboxConfig};
use bridge::Bridge;
use lease::{Lease, LeaseStore};
use leaving::Leaving;

/// Refuses what only a plugin can do: its pods have IPv4 addresses, and those that it chooses.
pub(super) fn check_pod(config: &SandboxConfig) -> Result<()> {
    if let Some(annotation) = super::cni::asked_of_plugins(config) {
        return Err(NetworkError::NeedsCni { what: format!("annotation {annotation}") });
    }
    let other =
        |port: &PortMapping| port.host_port != 0 && port.host_ip.is_some_and(|ip| ip.is_ipv6() && !ip.is_unspecified());
    match config.ports.iter().position(other) {
        Some(index) => Err(NetworkError::NeedsCni { what: format!("config.port_mappings[{index}].host_ip of IPv6") }),
        None => Ok(()),
    }
}

pub(super) struct Embedded {
    bridge: Bridge,
    /// Held for the moments in which leases and rules change together, never while a pod's namespace is entered.
    state: Mutex<State>,
    leaving: Leaving,
}

struct State {
    /// Changes only while there are no leases.
    subnet: Subnet,
    leases: LeaseStore,
    /// Has a route by the bridge, as long as there is one.
    routed: Option<Subnet>,
    /// What the table of rules was last made from.
    written: Option<String>,
    /// See [`Embedded::set_watched`].
    is_watched: bool,
}

impl Embedded {
    /// Reads the leases; touches nothing of the kernel's before the first pod.
    pub(super) fn open(config: &NetworkConfig, directory: &Path) -> Result<Self> {
        let bridge = Bridge::new(&config.bridge)?;
        let leases = LeaseStore::open(directory)?;
        let subnet = Subnet::parse("subnet", &config.subnet)?;
        let subnet = leases.subnet().and_then(|told| Subnet::parse("subnet", told).ok()).unwrap_or(subnet);
        let state = State { subnet, leases, routed: None, written: None, is_watched: false };
        Ok(Self { bridge, state: Mutex::new(state), leaving: Leaving::default() })
    }

    /// Whether a pod can be connected now, and if not, why.
    pub(super) fn check(&self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|directory| directory.join("nft").is_file()) {
            return Ok(());
        }
        Err(NetworkError::NoNft("it is not in PATH".into()))
    }

    /// The bridge's address.
    pub(super) async fn gateway(&self) -> IpAddr {
        self.state.lock().await.subnet.gateway().into()
    }

    /// Takes another subnet for pods to come.
    ///
    /// # Errors
    /// It is none, or there are pods in the present one.
    pub(super) async fn set_subnet(&self, text: &str) -> Result<()> {
        let subnet = Subnet::parse("subnet", text)?;
        if subnet == self.state.lock().await.subnet {
            return Ok(());
        }
        self.leaving.settled().await;
        let mut state = self.state.lock().await;
        if let Some(pod) = state.leases.pods().next() {
            return Err(NetworkError::SubnetInUse { subnet: state.subnet.to_string(), pod: pod.clone() });
        }
        // The bridge has an address of the old one.
        self.remove_shared_locked(&mut state).await?;
        state.leases.set_subnet(&subnet)?;
        state.subnet = subnet;
        Ok(())
    }

    /// Interface, address, default route, port mappings.
    pub(super) async fn attach(&self, id: &str, namespace: OwnedFd, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        if self.state.lock().await.is_full() {
            self.leaving.settled().await;
        }
        let (address, subnet) = {
            let mut state = self.state.lock().await;
            let subnet = state.subnet;
            if self.bridge.ensure(&subnet).await?
                && let Some(routed) = &state.routed
            {
                self.bridge.route(routed).await?;
            }
            let address = state.leases.take(id, &subnet, ports)?;
            // The lease comes first: a daemon that dies here finds it and takes it back.
            self.write_rules(&mut state).await?;
            (address, subnet)
        };
        let interface = interface_of(id);
        self.bridge.connect(&interface, &namespace).await?;
        namespace::configure(namespace, address, subnet).await?;
        Ok(vec![IpAddr::V4(address)])
    }

    /// Takes everything of pod `id` back; what is gone already is fine. Of a pod without host ports, which the next one may
    /// need at once, that is only begun here; where it fails, the next call tells.
    pub(super) async fn detach(self: &Arc<Self>, id: &str) -> Result<()> {
        let may_wait = self.state.lock().await.leases.get(id).is_some_and(|lease| lease.ports.is_empty());
        if may_wait && self.leaving.begin(id) {
            let (embedded, id) = (self.clone(), id.to_string());
            tokio::spawn(async move {
                let outcome = embedded.take_back(&id).await;
                embedded.leaving.end(&id, outcome);
            });
            return Ok(());
        }
        if self.leaving.has(id) {
            return Ok(());
        }
        self.take_back(id).await
    }

    /// The pods whose interfaces the kernel has not let go of.
    pub(super) fn leaving(&self) -> Vec<String> {
        self.leaving.all()
    }

    async fn take_back(&self, id: &str) -> Result<()> {
        self.bridge.disconnect(&interface_of(id)).await?;
        let mut state = self.state.lock().await;
        if !state.leases.release(id)? {
            return Ok(());
        }
        // Bridge and table stay for the next pod; they go with the daemon.
        self.write_rules(&mut state).await
    }

    /// Name of its table of rules.
    pub(super) fn table(&self) -> String {
        nft::table(self.bridge.name())
    }

    /// Writes the rules anew, where there are pods that need them.
    pub(super) async fn restore_rules(&self) -> Result<bool> {
        let mut state = self.state.lock().await;
        if state.written.take().is_none() && state.leases.is_empty() {
            return Ok(false);
        }
        self.write_rules(&mut state).await.map(|()| true)
    }

    /// Whether somebody will say (by [`restore_rules`](Self::restore_rules)) when the table is deleted: until then, it is
    /// as it was written, and not written again for a pod without ports.
    pub(super) async fn set_watched(&self, is_watched: bool) {
        let mut state = self.state.lock().await;
        (state.is_watched, state.written) = (is_watched, None);
    }

    async fn write_rules(&self, state: &mut State) -> Result<()> {
        let rules = self.rules(state).render();
        if state.is_watched && state.written.as_ref() == Some(&rules) {
            return Ok(());
        }
        state.written = None;
        nft::run(&rules).await?;
        state.written = Some(rules);
        Ok(())
    }

    /// Has the node's own processes find a way to `subnet`, whose addresses are translated before anything is sent there:
    /// by the bridge, so that pods see its address, as soon as there is one.
    pub(super) async fn route(&self, subnet: &Subnet) -> Result<()> {
        let mut state = self.state.lock().await;
        state.routed = Some(*subnet);
        self.bridge.route(subnet).await
    }

    /// Takes that back; gone already is fine.
    pub(super) async fn unroute(&self, subnet: &Subnet) -> Result<()> {
        let mut state = self.state.lock().await;
        state.routed = None;
        self.bridge.unroute(subnet).await
    }

    /// Takes back what belongs to pods that are not `known` any more.
    pub(super) async fn retain(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        let stale: Vec<String> = {
            let state = self.state.lock().await;
            state.leases.pods().filter(|pod| !known(pod)).cloned().collect()
        };
        for pod in stale {
            tracing::info!(%pod, "give back the address of a pod sandbox that is gone");
            self.take_back(&pod).await?;
        }
        let mut state = self.state.lock().await;
        if state.leases.is_empty() { Ok(()) } else { self.write_rules(&mut state).await }
    }

    /// Removes what serves all pods; without pods there is nothing to serve.
    pub(super) async fn remove_shared(&self) -> Result<()> {
        self.leaving.settled().await;
        let mut state = self.state.lock().await;
        if state.leases.is_empty() { self.remove_shared_locked(&mut state).await } else { Ok(()) }
    }

    async fn remove_shared_locked(&self, state: &mut State) -> Result<()> {
        state.written = None;
        // Nothing was set up where the bridge is not there.
        if self.bridge.remove().await? { nft::run(&nft::clear(self.bridge.name())).await } else { Ok(()) }
    }

    fn rules<'a>(&'a self, state: &'a State) -> nft::Rules<'a> {
        let leases = state.leases.leases().collect::<Vec<&Lease>>();
        nft::Rules { bridge: self.bridge.name(), subnet: state.subnet, leases }
    }
}

impl State {
    /// Whether no address is left.
    fn is_full(&self) -> bool {
        self.leases.len() as u64 >= u64::from(self.subnet.pod_count())
    }
}

/// Name of the node's end of a pod's cable: the kernel allows 15 bytes.
fn interface_of(id: &str) -> String {
    format!("veth{}", id.get(..11).unwrap_or(id))
}
