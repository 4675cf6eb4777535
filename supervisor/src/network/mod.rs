//! The pods' network: CNI plugins where the node has a configuration for them, and otherwise the embedded bridge.
//!
//! | folder | job |
//! |---|---|
//! | `embedded` | a bridge, addresses and rules of our own |
//! | `services` | the virtual addresses of Services, whoever wires pods |
//! | `cni` | plugins, executed as the CNI specification says |
//!
//! A pod is disconnected by what connected it, whatever the configuration says by then.

mod cni;
mod embedded;
mod inside;
mod ipv6;
mod netlink_message;
mod nft;
pub mod services;
mod subnet;
mod sysctl;
mod table_watch;

use std::net::{IpAddr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use wharf_specs::cni::NetworkList;
use wharf_specs::config::NetworkMode;

use crate::pod::spec::SandboxConfig;
use cni::{Cni, CniError, Configuration};
use embedded::Embedded;
use services::{Frontend, Services};
use table_watch::Gone;

pub(crate) use cni::check_annotations;
pub(crate) use inside::inside;
pub use subnet::Subnet;
pub(crate) use table_watch::TableWatch;
pub use wharf_specs::config::Network as NetworkConfig;

/// Why a pod has no network; each names the operation or the key, and what was found there.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A key of `wharfd.toml`.
    #[error("network.{key}: {reason}")]
    Config { key: &'static str, reason: String },
    /// Of the embedded network.
    #[error("no address is left in {subnet}")]
    Exhausted { subnet: String },
    #[error("pods have addresses of {subnet}, among them pod sandbox {pod}: it changes when they are gone")]
    SubnetInUse { subnet: String, pod: String },
    /// `port` is `8080/tcp`.
    #[error("host port {port} is in use by pod sandbox {pod}")]
    PortInUse { port: String, pod: String },
    /// Something that was asked of the kernel, in the node's or in a pod's namespace.
    #[error("{operation}: {reason}")]
    Kernel { operation: String, reason: String },
    #[error("nft, of Debian's package nftables, is needed for masquerading and host ports: {0}")]
    NoNft(String),
    #[error("nft refuses the rules: {0}")]
    Nft(String),
    /// The file of leases.
    #[error("{path}: {reason}")]
    Store { path: PathBuf, reason: String },
    /// The pod asks for what only a plugin can do.
    #[error("{what}: the embedded network has no way to do it; a CNI plugin may")]
    NeedsCni { what: String },
    #[error(transparent)]
    Cni(#[from] CniError),
}

impl NetworkError {
    pub(crate) fn kernel(operation: impl Into<String>, reason: impl std::fmt::Display) -> Self {
        Self::Kernel { operation: operation.into(), reason: reason.to_string() }
    }
}

pub type Result<T, E = NetworkError> = std::result::Result<T, E>;

fn restored(what: &str, outcome: Result<bool>) {
    match outcome {
        Ok(true) => tracing::info!("somebody deleted {what}: they are back"),
        Ok(false) => {}
        Err(error) => tracing::error!(%error, "make {what} anew"),
    }
}

/// A pod to be connected.
pub struct PodToConnect<'a> {
    /// Of its sandbox.
    pub id: &'a str,
    pub config: &'a SandboxConfig,
    /// The parent of its containers' cgroups, from the hierarchy's root on.
    pub cgroup: PathBuf,
}

/// The pods' network, by both ways of having one.
pub struct Network {
    mode: NetworkMode,
    embedded: Arc<Embedded>,
    cni: Cni,
    services: Services,
}

impl Network {
    /// Reads the leases, the attachments and the CNI configuration; touches nothing of the kernel's before the first
    /// pod. `root` is what survives a reboot, `state` what does not.
    pub async fn open(config: &NetworkConfig, root: &Path, state: &Path) -> Result<Self> {
        let state = state.join("network");
        let embedded = Arc::new(Embedded::open(config, &state)?);
        let services = Services::open(config)?;
        if let Some(six) = embedded.subnet6().await {
            services.check_apart_from(&six)?;
        }
        let cni = Cni::open(config, &root.join("network"), &state).await?;
        Ok(Self { mode: config.mode, embedded, cni, services })
    }

    /// Whether a pod can be connected now, and if not, why. Plugins are asked where their version has STATUS.
    pub async fn check(&self) -> Result<()> {
        match self.choose()? {
            Some(list) => Ok(self.cni.status(&list).await?),
            None => self.embedded.check(),
        }
    }

    /// Refuses a pod that could not be connected, for want of a configuration or for what it asks for, before anything is
    /// made for it.
    pub fn check_pod(&self, config: &SandboxConfig) -> Result<()> {
        match self.choose()? {
            Some(_) => Ok(()),
            None => self.embedded.check_pod(config),
        }
    }

    /// The network that CNI plugins make; `None` for the embedded one.
    fn choose(&self) -> Result<Option<Arc<NetworkList>>> {
        match (self.mode, &*self.cni.configuration()) {
            (NetworkMode::Embedded, _) | (NetworkMode::Auto, Configuration::Absent) => Ok(None),
            (_, Configuration::Valid { list, .. }) => Ok(Some(list.clone())),
            (NetworkMode::Cni, Configuration::Absent) => Err(self.cni.nothing_configured().into()),
            // Falling back would wire pods to another network than the one that somebody had in mind.
            (_, Configuration::Invalid { refused }) => Err(CniError::NoneValid { refused: refused.join("; ") }.into()),
        }
    }

    /// Where pods to come shall have their addresses; of `ranges` the first one of each family is taken. CNI plugins have
    /// their ranges from their own configuration: nothing changes for them.
    ///
    /// # Errors
    /// None of them can be a subnet of IPv4, or one not of IPv6, or pods have addresses of others.
    pub async fn set_pod_ranges(&self, ranges: &str) -> Result<()> {
        if let Some(list) = self.choose()? {
            tracing::info!(network = list.name, ranges, "the network's plugins have ranges of their own");
            return Ok(());
        }
        let ranges: Vec<&str> = ranges.split(',').map(str::trim).collect();
        let four = ranges.iter().find(|range| !range.contains(':')).unwrap_or(&ranges[0]);
        let six = ranges.iter().find(|range| range.contains(':')).copied();
        if let Some(six) = six {
            self.services.check_apart_from(&Subnet::parse6("subnet6", six)?)?;
        }
        self.embedded.set_subnets(four, six).await
    }

    /// Where pods find this node: the embedded network's bridge. `None` where plugins decide that.
    pub async fn gateway(&self) -> Option<IpAddr> {
        match self.choose() {
            Ok(None) => Some(self.embedded.gateway().await),
            _ => None,
        }
    }

    /// Connects a pod's network namespace: interface, address, default route, port mappings. What a failure leaves
    /// behind is for [`detach`](Self::detach).
    ///
    /// # Errors
    /// No configuration, no address, a plugin's own words.
    pub async fn attach(&self, pod: &PodToConnect<'_>, namespace: OwnedFd) -> Result<Vec<IpAddr>> {
        if let Some(list) = self.choose()? {
            return Ok(self.cni.attach(list, pod, &namespace).await?);
        }
        self.embedded.check_pod(pod.config)?;
        self.embedded.attach(pod.id, namespace, &pod.config.ports).await
    }

    /// Takes everything of pod `id` back; what is gone already is fine. After a failure it can be called again.
    pub async fn detach(&self, id: &str) -> Result<()> {
        if self.cni.detach(id).await? {
            return Ok(());
        }
        self.embedded.detach(id).await
    }

    /// Pods that were detached, with something left to be given back.
    pub fn leaving(&self) -> Vec<String> {
        self.embedded.leaving()
    }

    /// Makes the namespace of a pod that was taken back reachable for plugins again, should it not be.
    pub fn restore(&self, id: &str, namespace: &OwnedFd) -> Result<()> {
        Ok(self.cni.restore(id, namespace)?)
    }

    /// Asks the plugins whether a pod that was taken back is still connected as they left it.
    pub async fn verify(&self, id: &str) -> Result<()> {
        Ok(self.cni.check(id).await?)
    }

    /// Takes back what belongs to pods that are not `known` any more, in the embedded network.
    pub async fn retain(&self, known: impl Fn(&str) -> bool) -> Result<()> {
        self.embedded.retain(known).await
    }

    /// Takes back what CNI plugins gave to pods that are not `known` any more, and tells them which are. Whatever
    /// fails is logged and tried again the next time.
    pub async fn sweep(&self, known: impl Fn(&str) -> bool + Send + Sync) {
        // Asked when it is this sweep's turn: the configuration may have changed by then.
        self.cni.sweep(|| self.choose().ok().flatten(), known).await;
    }

    /// Has connections to Services' addresses go to their endpoints, and to no others than these Services'.
    ///
    /// # Errors
    /// `nft` refuses the rules, or is not there; the ones before stay then.
    pub async fn serve(&self, frontends: Vec<Frontend>) -> Result<()> {
        let is_embedded = matches!(self.choose(), Ok(None));
        let has_routes = is_embedded && !frontends.is_empty();
        self.services.apply(frontends, !is_embedded).await?;
        let subnets: Vec<Subnet> = self.services.subnets().all().collect();
        if has_routes { self.embedded.route(&subnets).await } else { self.embedded.unroute(&subnets).await }
    }

    /// Endpoints that connections to Services are sent to.
    pub async fn service_endpoints(&self) -> Vec<SocketAddr> {
        self.services.endpoints().await
    }

    /// Whether deletions of tables are told to [`restore_tables`](Self::restore_tables) from now on.
    pub(crate) async fn set_watched(&self, is_watched: bool) {
        self.embedded.set_watched(is_watched).await;
    }

    /// Makes tables of the node anew that somebody has deleted, as `nft flush ruleset` does.
    pub(crate) async fn restore_tables(&self, gone: &Gone) {
        let embedded = async {
            if gone.may_be(&self.embedded.table()) {
                restored("the embedded network's rules", self.embedded.restore_rules().await);
            }
        };
        let services = async {
            if gone.may_be(self.services.table()) {
                restored("the rules of Services", self.services.restore(*gone != Gone::Unknown).await);
            }
        };
        tokio::join!(embedded, services);
    }

    /// Removes what serves all pods; without pods there is nothing to serve.
    pub async fn close(&self, no_pods: bool) -> Result<()> {
        let services = if no_pods { self.services.remove().await } else { Ok(()) };
        // Whatever came of that. Pods that are stopped are there without a network.
        services.and(self.embedded.remove_shared().await)
    }
}
