//! A pod's network as its owner deals with it: connected at the start, verified by a new daemon, given back at the end.
//! A pod on the host's network has none of its own.

use std::sync::Weak;

use super::error::{PodError, Result};
use super::node::Inner;
use super::sandbox::Owner;
use super::shim_process;
use crate::network::{PodToConnect, TableWatch};

impl Owner {
    fn network_failed(&self, error: impl std::fmt::Display) -> PodError {
        PodError::internal(format!("network of pod sandbox {}", self.id), error)
    }

    /// Before anything is made: whether there is a network to connect the pod to.
    pub(super) fn check_network(&self) -> Result<()> {
        if self.config.host_network {
            return Ok(());
        }
        self.inner.network.check_pod(&self.config).map_err(|error| self.network_failed(error))
    }

    /// Connects the namespace that the shim made.
    pub(super) async fn connect_network(&mut self) -> Result<()> {
        let (false, Some(shim)) = (self.config.host_network, &self.shim) else { return Ok(()) };
        let namespace = shim_process::network_namespace(shim, &self.id).await?;
        let namespace = namespace.ok_or_else(|| self.network_failed("the shim made no namespace"))?;
        let pod = PodToConnect { id: &self.id, config: &self.config, cgroup: self.placement().path() };
        let addresses = self.inner.network.attach(&pod, namespace).await;
        self.addresses = addresses.map_err(|error| self.network_failed(error))?;
        Ok(())
    }

    /// Mirror of [`connect_network`](Self::connect_network), from any point of it. Borrows nothing: it can go on beside
    /// whatever else is done to the pod.
    pub(super) fn disconnect_network(&self) -> impl Future<Output = Result<(), String>> + use<> {
        let (inner, id) = (self.inner.clone(), self.id.clone());
        let has_network = !self.config.host_network && !self.is_disconnected;
        async move {
            if !has_network {
                return Ok(());
            }
            inner.network.detach(&id).await.map_err(|error| format!("detach network: {error}"))
        }
    }

    /// The pod runs on whatever comes out: its network may be mended, and nobody asked for its end.
    pub(super) async fn verify_network(&self) {
        let (false, Some(shim)) = (self.config.host_network, &self.shim) else { return };
        let restored = match shim_process::network_namespace(shim, &self.id).await {
            Ok(Some(namespace)) => self.inner.network.restore(&self.id, &namespace),
            Ok(None) => Ok(()),
            Err(error) => return tracing::warn!(pod = %self.id, %error, "verify network"),
        };
        let verified = match restored {
            Ok(()) => self.inner.network.verify(&self.id).await,
            Err(error) => Err(error),
        };
        if let Err(error) = verified {
            tracing::warn!(pod = %self.id, %error, "the pod's network is not as it was left");
        }
    }
}

/// Has the network's tables made anew when somebody deletes them, as long as there is the node.
pub(super) async fn keep_tables(node: Weak<Inner>) {
    let outcome: std::io::Result<()> = async {
        let watch = TableWatch::open()?;
        let Some(inner) = node.upgrade() else { return Ok(()) };
        inner.network.set_watched(true).await;
        drop(inner);
        loop {
            let gone = watch.next().await?;
            let Some(inner) = node.upgrade() else { return Ok(()) };
            inner.network.restore_tables(&gone).await;
        }
    }
    .await;
    if let Err(error) = outcome {
        if let Some(inner) = node.upgrade() {
            inner.network.set_watched(false).await;
        }
        tracing::error!(%error, "listen to nftables: rules that somebody deletes come back with the next change only");
    }
}
