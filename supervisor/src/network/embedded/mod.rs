//! The embedded network: a bridge with a cable to each pod, and one table of rules.
//!
//! ```text
//! node                                        pod's network namespace
//! wharf0 (bridge, first address) ── veth… ═══ eth0 (address from the lease store), default route via wharf0
//!    └─ nftables table `wharf-wharf0`: masquerade outwards, port mappings inwards
//! ```
//!
//! All of it twice where there is a subnet of IPv6: each pod has an address of either, and the table sees both.
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
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Mutex;

use super::nft::{Table, present};
use super::subnet::Subnet;
use super::{NetworkConfig, NetworkError, Result, ipv6};
use crate::pod::spec::{PortMapping, SandboxConfig};
use bridge::Bridge;
use lease::{Lease, LeaseStore, Subnets};
use leaving::Leaving;

pub(super) struct Embedded {
    bridge: Bridge,
    /// Of the configuration; holds where a client tells none.
    subnet6: Option<Subnet>,
    /// Whether pods to come have addresses of IPv6.
    is_dual: AtomicBool,
    /// Held for the moments in which leases and rules change together, never while a pod's namespace is entered.
    state: Mutex<State>,
    leaving: Leaving,
}

struct State {
    /// Change only while there are no leases.
    subnets: Subnets,
    leases: LeaseStore,
    /// Have a route by the bridge, as long as there is one.
    routed: Vec<Subnet>,
    /// The bridge that is there has all that it is to have of IPv4: this daemon has seen to it.
    is_bridge_whole: bool,
    /// The same of its address of IPv6, if it is to have one.
    is_bridge_dual: bool,
    /// What the table of rules was last made from.
    written: Option<String>,
    /// See [`Embedded::set_watched`].
    is_watched: bool,
}

impl Embedded {
    /// Reads the leases; touches nothing of the kernel's before the first pod.
    ///
    /// # Errors
    /// Subnets that are none, or one of IPv6 on a machine without it.
    pub(super) fn open(config: &NetworkConfig, directory: &Path) -> Result<Self> {
        let bridge = Bridge::new(&config.bridge)?;
        let leases = LeaseStore::open(directory)?;
        let (told, told6) = leases.told();
        let four = Subnet::parse("subnet", &config.subnet)?;
        let four = told.and_then(|told| Subnet::parse("subnet", told).ok()).unwrap_or(four);
        let subnet6 = config.subnet6.as_deref().map(|text| Subnet::parse6("subnet6", text)).transpose()?;
        let six = told6.and_then(|told| Subnet::parse6("subnet6", told).ok()).or(subnet6);
        let subnets = checked(four, six)?;
        let state = State {
            subnets,
            leases,
            routed: Vec::new(),
            is_bridge_whole: false,
            is_bridge_dual: false,
            written: None,
            is_watched: false,
        };
        let is_dual = AtomicBool::new(six.is_some());
        Ok(Self { bridge, subnet6, is_dual, state: Mutex::new(state), leaving: Leaving::default() })
    }

    /// Refuses what only a plugin can do: its pods have the addresses that it chooses.
    pub(super) fn check_pod(&self, config: &SandboxConfig) -> Result<()> {
        if let Some(annotation) = super::cni::asked_of_plugins(config) {
            return Err(NetworkError::NeedsCni { what: format!("annotation {annotation}") });
        }
        let of_ipv6 = |port: &PortMapping| port.host_port != 0 && port.host_ip.is_some_and(|ip| ip.is_ipv6());
        match config.ports.iter().position(of_ipv6) {
            Some(index) if !self.is_dual.load(Ordering::Relaxed) => {
                let what = format!("config.port_mappings[{index}].host_ip of IPv6 without network.subnet6");
                Err(NetworkError::NeedsCni { what })
            }
            _ => Ok(()),
        }
    }

    /// Whether a pod can be connected now, and if not, why.
    pub(super) fn check(&self) -> Result<()> {
        let path = std::env::var_os("PATH").unwrap_or_default();
        if std::env::split_paths(&path).any(|directory| directory.join("nft").is_file()) {
            return Ok(());
        }
        Err(NetworkError::NoNft("it is not in PATH".into()))
    }

    /// The bridge's address of IPv4.
    pub(super) async fn gateway(&self) -> IpAddr {
        self.state.lock().await.subnets.four.gateway()
    }

    /// Where pods to come have their addresses of IPv6.
    pub(super) async fn subnet6(&self) -> Option<Subnet> {
        self.state.lock().await.subnets.six
    }

    /// Takes other subnets for pods to come; that of the configuration where there is none of IPv6.
    ///
    /// # Errors
    /// One is none, or there are pods in the present ones.
    pub(super) async fn set_subnets(&self, four: &str, six: Option<&str>) -> Result<()> {
        let four = Subnet::parse("subnet", four)?;
        let told6 = six.map(|six| Subnet::parse6("subnet6", six)).transpose()?;
        let subnets = checked(four, told6.or(self.subnet6))?;
        if subnets == self.state.lock().await.subnets {
            return Ok(());
        }
        self.leaving.settled().await;
        let mut state = self.state.lock().await;
        if let Some(pod) = state.leases.pods().next() {
            return Err(NetworkError::SubnetInUse { subnet: state.subnets.to_string(), pod: pod.clone() });
        }
        // The bridge has addresses of the old ones.
        self.remove_shared_locked(&mut state).await?;
        state.leases.tell(&four, told6.as_ref())?;
        state.subnets = subnets;
        self.is_dual.store(subnets.six.is_some(), Ordering::Relaxed);
        Ok(())
    }

    /// Interface, addresses, default routes, port mappings.
    pub(super) async fn attach(&self, id: &str, namespace: OwnedFd, ports: &[PortMapping]) -> Result<Vec<IpAddr>> {
        if self.state.lock().await.is_full() {
            self.leaving.settled().await;
        }
        let homes = {
            let mut state = self.state.lock().await;
            let Subnets { four, six } = state.subnets;
            let is_new = self.bridge.ensure(&four, state.is_bridge_whole).await?;
            state.is_bridge_whole = true;
            if is_new {
                state.is_bridge_dual = false;
                for routed in &state.routed {
                    self.bridge.route(routed).await?;
                }
            }
            if let Some(six) = six.filter(|_| !state.is_bridge_dual) {
                self.bridge.ensure6(&six).await?;
                state.is_bridge_dual = true;
            }
            let subnets = state.subnets;
            let lease = state.leases.take(id, &subnets, ports)?;
            let of_six = lease.address6.zip(six).filter(|(address, six)| six.has(*address));
            let homes: Vec<namespace::Home> = [(lease.address, four)].into_iter().chain(of_six).collect();
            // The lease comes first: a daemon that dies here finds it and takes it back.
            self.write_rules(&mut state).await?;
            homes
        };
        let (interface, count) = (interface_of(id), homes.len());
        self.bridge.connect(&interface, &namespace).await?;
        let addresses = namespace::configure(namespace, homes).await?;
        if addresses.len() < count {
            // Nothing is to be sent to the address that the pod does not want.
            let mut state = self.state.lock().await;
            state.leases.forget_six(id)?;
            self.write_rules(&mut state).await?;
        }
        Ok(addresses)
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

    /// Its table of rules.
    pub(super) fn table(&self) -> Table {
        nft::table(self.bridge.name(), self.is_dual.load(Ordering::Relaxed))
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

    /// Has the node's own processes find a way to `subnets`, whose addresses are translated before anything is sent there:
    /// by the bridge, so that pods see its address, as soon as there is one.
    pub(super) async fn route(&self, subnets: &[Subnet]) -> Result<()> {
        let mut state = self.state.lock().await;
        state.routed = subnets.to_vec();
        for subnet in subnets {
            self.bridge.route(subnet).await?;
        }
        Ok(())
    }

    /// Takes that back; gone already is fine.
    pub(super) async fn unroute(&self, subnets: &[Subnet]) -> Result<()> {
        let mut state = self.state.lock().await;
        state.routed.clear();
        for subnet in subnets {
            self.bridge.unroute(subnet).await?;
        }
        Ok(())
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
        if !state.leases.is_empty() {
            self.write_rules(&mut state).await?;
        }
        if let Err(error) = self.take_over(&state).await {
            tracing::warn!(%error, "take over the bridge of an earlier daemon");
        }
        Ok(())
    }

    /// What an earlier daemon has left that was told otherwise of IPv6, or knew nothing of it.
    async fn take_over(&self, state: &State) -> Result<()> {
        if !self.bridge.is_there().await? {
            return Ok(());
        }
        ipv6::ignore_routers(self.bridge.name())?;
        let other = nft::table(self.bridge.name(), state.subnets.six.is_some()).other();
        if present(&[&other]).await?.is_empty() { Ok(()) } else { nft::run(&other.deletion()).await }
    }

    /// Removes what serves all pods; without pods there is nothing to serve.
    pub(super) async fn remove_shared(&self) -> Result<()> {
        self.leaving.settled().await;
        let mut state = self.state.lock().await;
        if state.leases.is_empty() { self.remove_shared_locked(&mut state).await } else { Ok(()) }
    }

    async fn remove_shared_locked(&self, state: &mut State) -> Result<()> {
        (state.is_bridge_whole, state.is_bridge_dual) = (false, false);
        let has_rules = state.written.take().is_some();
        // Nothing was set up where neither is there.
        if !has_rules && !self.bridge.is_there().await? {
            return Ok(());
        }
        let table = nft::table(self.bridge.name(), state.subnets.six.is_some());
        // The rules first: of a daemon that dies in between there is the bridge, by which the next one finds both.
        let rules = nft::run(&table.deletion()).await;
        self.bridge.remove().await?;
        rules
    }

    fn rules<'a>(&'a self, state: &'a State) -> nft::Rules<'a> {
        let leases = state.leases.leases().collect::<Vec<&Lease>>();
        nft::Rules { bridge: self.bridge.name(), subnets: state.subnets, leases }
    }
}

impl State {
    /// Whether no address is left.
    fn is_full(&self) -> bool {
        self.leases.len() as u64 >= u64::from(self.subnets.four.pod_count())
    }
}

/// The subnets together, if pods can have addresses of both.
fn checked(four: Subnet, six: Option<Subnet>) -> Result<Subnets> {
    let refused = |reason: String| Err(NetworkError::Config { key: "subnet6", reason });
    match six {
        Some(six) if !six.is_as_large_as(&four) => refused(format!("\"{six}\" has fewer addresses than {four}")),
        Some(six) => match ipv6::obstacle() {
            Some(obstacle) => refused(format!("\"{six}\" cannot be used: {obstacle}")),
            None => Ok(Subnets { four, six: Some(six) }),
        },
        None => Ok(Subnets { four, six }),
    }
}

/// Name of the node's end of a pod's cable: the kernel allows 15 bytes.
fn interface_of(id: &str) -> String {
    format!("veth{}", id.get(..11).unwrap_or(id))
}
