//! Pods and containers of this node.

pub mod spec;
pub mod status;
