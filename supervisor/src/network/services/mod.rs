//! Services in the kernel: one nftables table per node that sends what comes to a Service's address on to its endpoints.
//!
//! ```text
//! services:   address . protocol . port ─▶ in-SERVICE (or ex-SERVICE) ─▶ one of the endpoints
//! node-ports: protocol . port on any address of the node ─▶ ex-SERVICE ─▶ one of the endpoints
//! idle, idle-node-ports: the same of Services without endpoints ─▶ refused or dropped
//! of a load balancer: guard-SERVICE before these: others than its loadBalancerSourceRanges are dropped
//! ```
//!
//! With addresses of IPv6 the table sees both families, and has each of these twice, the other as `services6` and so on.
//!
//! Every change is one transaction of the whole table, in which chains are filled anew and sets stay: they hold who was
//! sent where (session affinity). Connections that are made already go on where they went, whatever the table says.

mod flows;
mod rules;
mod source_range;

use std::net::{IpAddr, SocketAddr};

use tokio::sync::Mutex;

pub use source_range::SourceRange;

use super::nft::{self, Contents, Family, Table};
use super::{NetworkConfig, NetworkError, Result, Subnet, ipv6};
use crate::pod::spec::Protocol;

/// One port of a Service, at its address of one family.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// `NAMESPACE/NAME`.
    pub service: String,
    pub protocol: Protocol,
    pub port: u16,
    pub cluster_ip: IpAddr,
    /// Further addresses of the family: external ones, and those of a load balancer that everybody may reach.
    pub external_ips: Vec<IpAddr>,
    /// Those of a load balancer that clients of `sources` alone may reach.
    pub guarded_ips: Vec<IpAddr>,
    pub sources: Vec<SourceRange>,
    pub node_port: Option<u16>,
    /// How long a client stays with its endpoint after it was last heard of; `None` without session affinity.
    pub affinity_seconds: Option<u32>,
    /// For what comes to the cluster's address.
    pub internal: Backends,
    /// For what comes to the node's port or an external address.
    pub external: Backends,
}

/// Where connections go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Backends {
    pub endpoints: Vec<SocketAddr>,
    /// Only endpoints of this node are asked for, which see the client's own address.
    pub local_only: bool,
    /// Some of them are no pods of this node: they answer to whom they see, which has to be the node. Where this node's
    /// alone are asked for: there are others.
    pub elsewhere: bool,
}

/// What a table is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Wanted {
    frontends: Vec<Frontend>,
    /// Pods that share a bridge answer each other directly, past the translation, unless they see the node. The
    /// embedded network looks after its own bridge; of those that plugins make nothing is known.
    masquerade_all: bool,
}

/// Where Services have their addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServiceSubnets {
    pub four: Subnet,
    pub six: Option<Subnet>,
}

impl ServiceSubnets {
    pub fn of_config(config: &NetworkConfig) -> Result<Self> {
        let six = config.service_subnet6.as_deref().map(|text| Subnet::parse6("service_subnet6", text));
        Ok(Self { four: Subnet::parse("service_subnet", &config.service_subnet)?, six: six.transpose()? })
    }

    pub fn all(&self) -> impl Iterator<Item = Subnet> + use<> {
        [Some(self.four), self.six].into_iter().flatten()
    }
}

/// The table of Services.
pub(super) struct Services {
    table: Table,
    subnets: ServiceSubnets,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: Option<Wanted>,
    /// What the table has; `None` where that is not known.
    contents: Option<Contents>,
    /// Where the kernel sends datagrams to, by the rules it had when its flows were last looked through; `None` where that
    /// is not known.
    led: Option<flows::Book>,
}

impl State {
    /// Has the kernel forget the flows that go where the rules do not lead.
    async fn forget_flows(&mut self) {
        let book = flows::book(self.wanted.as_ref().map_or(&[], |wanted| &wanted.frontends));
        match flows::forget(self.led.take().as_ref(), &book).await {
            Ok(()) => self.led = Some(book),
            Err(error) => tracing::warn!(%error, "forget flows of UDP to endpoints that are gone"),
        }
    }
}

impl Services {
    pub(super) fn open(config: &NetworkConfig) -> Result<Self> {
        let subnets = ServiceSubnets::of_config(config)?;
        if let (Some(six), Some(obstacle)) = (&subnets.six, ipv6::obstacle()) {
            let reason = format!("\"{six}\" cannot be used: {obstacle}");
            return Err(NetworkError::Config { key: "service_subnet6", reason });
        }
        let table = Table { family: Family::of(subnets.six.is_some()), name: table(&config.bridge) };
        Ok(Self { table, subnets, state: Mutex::default() })
    }

    pub(super) fn table(&self) -> &Table {
        &self.table
    }

    pub(super) fn subnets(&self) -> &ServiceSubnets {
        &self.subnets
    }

    /// Refuses a subnet of pods of IPv6 that has addresses of Services.
    pub(super) fn check_apart_from(&self, pods: &Subnet) -> Result<()> {
        match self.subnets.six.filter(|six| six.overlaps(pods)) {
            Some(six) => {
                let reason = format!("\"{pods}\" and service_subnet6 \"{six}\" have addresses in common");
                Err(NetworkError::Config { key: "subnet6", reason })
            }
            None => Ok(()),
        }
    }

    /// Makes the table what `frontends` say; without any there is none.
    pub(super) async fn apply(&self, frontends: Vec<Frontend>, masquerade_all: bool) -> Result<()> {
        let wanted = Wanted { frontends, masquerade_all };
        let mut state = self.state.lock().await;
        if state.wanted.as_ref() == Some(&wanted) && state.contents.is_some() {
            return Ok(());
        }
        state.wanted = Some(wanted);
        self.write(&mut state).await?;
        state.forget_flows().await;
        Ok(())
    }

    /// Makes the table anew, should there be one; false where there shall be none. `empty` says that it is gone.
    pub(super) async fn restore(&self, empty: bool) -> Result<bool> {
        let mut state = self.state.lock().await;
        if state.wanted.as_ref().is_none_or(|wanted| wanted.frontends.is_empty()) {
            return Ok(false);
        }
        state.contents = empty.then(Contents::default);
        self.write(&mut state).await?;
        // Whoever sent something meanwhile goes on to nowhere.
        state.led = None;
        state.forget_flows().await;
        Ok(true)
    }

    /// Takes the table away, for good.
    pub(super) async fn remove(&self) -> Result<()> {
        let mut state = self.state.lock().await;
        let wanted = Wanted { frontends: Vec::new(), masquerade_all: false };
        *state = State { wanted: Some(wanted), ..State::default() };
        self.write(&mut state).await
    }

    /// Every endpoint that connections are sent to, as `nft` shows it.
    pub(super) async fn endpoints(&self) -> Vec<SocketAddr> {
        let state = self.state.lock().await;
        let frontends = state.wanted.iter().flat_map(|wanted| &wanted.frontends);
        let backends = frontends.flat_map(|frontend| [&frontend.internal, &frontend.external]);
        backends.flat_map(|backends| backends.endpoints.iter().copied()).collect()
    }

    async fn write(&self, state: &mut State) -> Result<()> {
        let Some(wanted) = &state.wanted else { return Ok(()) };
        // Taken: after a failure nothing is known.
        let (mut script, before) = match state.contents.take() {
            Some(contents) => (String::new(), contents),
            None => match self.take_over().await {
                // Who has no Services needs no nft.
                Err(NetworkError::NoNft(_)) if wanted.frontends.is_empty() => return Ok(()),
                found => found?,
            },
        };
        let (rules, contents) = rules::render(&self.table, &self.subnets, wanted, &before);
        script.push_str(&rules);
        if !script.is_empty() {
            nft::run(&script).await?;
        }
        state.contents = Some(contents);
        Ok(())
    }

    /// What the table has that an earlier daemon left. One that was told otherwise of IPv6, or knew nothing of it, had
    /// another: what deletes that comes first.
    async fn take_over(&self) -> Result<(String, Contents)> {
        let other = self.table.other();
        let present = nft::present(&[&self.table, &other]).await?;
        let deletion = if present.contains(&&other) { other.deletion() } else { String::new() };
        match present.contains(&&self.table) {
            true => Ok((deletion, nft::contents(&self.table).await?)),
            false => Ok((deletion, Contents::default())),
        }
    }
}

/// Named after the bridge, as the embedded network's own.
pub(crate) fn table(bridge: &str) -> String {
    format!("wharf-services-{bridge}")
}
