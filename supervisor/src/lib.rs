//! `wharf-supervisor`: what `wharfd` is made of.
//!
//! | module | job |
//! |---|---|
//! | [`pod`] | pod and container state machines, over the shims: the one path that both doors use |
//! | [`cri`] | the kubelet's door: CRI `runtime.v1` over gRPC |
//! | `api` | people's door: the Kubernetes REST API |
//! | `controller` | desired to observed: pods, replica sets, deployments, the manifest folder |
//! | [`network`] | the pods' network: CNI plugins, or the embedded bridge |
//! | [`streaming`] | exec and attach over WebSocket, for both doors |

pub mod api;
pub mod controller;
pub mod cri;
pub mod network;
pub mod pod;
pub mod ready;
pub mod streaming;
