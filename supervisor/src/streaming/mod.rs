//! Streams of processes over the network: the channel protocols of Kubernetes.

pub mod websocket;
