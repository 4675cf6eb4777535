//! The Kubernetes Container Runtime Interface, `runtime.v1`, generated from `proto/cri.proto`.

#![allow(clippy::all, unreachable_pub)]

include!(concat!(env!("OUT_DIR"), "/runtime.v1.rs"));
