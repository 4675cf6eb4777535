//! Streams of processes over the network.
//!
//! [`websocket`] carries one session over a WebSocket in Kubernetes' channel protocols; both doors use it. [`server`]
//! is where the CRI door sends its clients: a port on the loopback, each URL good for one use.

pub mod server;
pub mod websocket;

pub use server::{StreamRequest, StreamingServer};
