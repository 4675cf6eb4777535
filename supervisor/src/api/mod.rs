//! The Kubernetes REST API of this node.

pub mod object_store;
pub mod status;
