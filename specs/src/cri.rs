//! The Kubernetes Container Runtime Interface, `runtime.v1`, generated from `proto/cri.proto` but for two answers that
//! are long (`list`).

#![allow(clippy::all, unreachable_pub)]

pub mod list;

pub use list::{ListContainersResponse, ListPodSandboxResponse};

include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
