//! DNS for pods: names of services, of their endpoints and of pods, and everything else from the node's resolvers.
//!
//! | file | job |
//! |---|---|
//! | `zone.rs` | names of the cluster's domain, from the objects |
//! | `answer.rs` | messages |
//! | `upstream.rs` | names of everybody else |
//! | `server.rs` | UDP and TCP |
//! | `resolv_conf.rs` | the node's own resolvers |
//!
//! It listens on an address of the node that pods reach: the embedded network's bridge, or the one of the
//! configuration. Nothing listens before the first pod that asks for it, so that a node under a kubelet, whose pods
//! have their DNS from the cluster, has no such socket.

mod answer;
pub(crate) mod resolv_conf;
mod server;
#[doc(hidden)]
pub mod untrusted;
mod upstream;
mod zone;

use std::net::IpAddr;
use std::sync::Arc;

use tokio::sync::Mutex;
use tokio_util::task::AbortOnDropHandle;
pub use wharf_specs::config::Dns as DnsConfig;

use crate::api::object_store::ObjectStore;
use server::Server;
use upstream::Upstream;
use zone::Zone;

/// Why pods cannot be given the names of services.
#[derive(Debug, thiserror::Error)]
pub enum DnsError {
    #[error("dns.address is not set, and pods' network is made by CNI plugins: which address do they reach?")]
    NoAddress,
    #[error("serve DNS on {address}: {source}")]
    Listen { address: IpAddr, source: std::io::Error },
}

/// The name server of a node.
#[derive(Clone)]
pub struct Dns {
    inner: Arc<Inner>,
}

struct Inner {
    server: Arc<Server>,
    address: Option<IpAddr>,
    /// Where it listens.
    listening: Mutex<Option<(IpAddr, AbortOnDropHandle<()>)>>,
}

impl Dns {
    /// Opens no socket yet.
    pub fn new(config: &DnsConfig, store: ObjectStore) -> Self {
        let server = Server::new(Zone::new(store, &config.domain), Upstream::new(config.upstream.clone()));
        Self {
            inner: Arc::new(Inner { server: Arc::new(server), address: config.address, listening: Mutex::default() }),
        }
    }

    /// The domain below which services have their names.
    pub fn domain(&self) -> &str {
        self.inner.server.domain()
    }

    /// The address at which pods find it, from now on; `gateway` is where they find the node.
    pub async fn serve(&self, gateway: Option<IpAddr>) -> Result<IpAddr, DnsError> {
        let address = self.inner.address.or(gateway).ok_or(DnsError::NoAddress)?;
        let mut listening = self.inner.listening.lock().await;
        if let Some((present, task)) = &*listening
            && *present == address
            && !task.is_finished()
        {
            return Ok(address);
        }
        // The old address goes first: it may be part of what the new one is refused for.
        *listening = None;
        let task = server::listen(self.inner.server.clone(), address);
        let task = task.map_err(|source| DnsError::Listen { address, source })?;
        *listening = Some((address, task));
        Ok(address)
    }
}
