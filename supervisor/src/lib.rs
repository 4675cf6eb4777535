//! `wharf-supervisor`: what `wharfd` is made of.
//!
//! | module | job |
//! |---|---|
//! | [`pod`] | pod and container state machines, over the shims: the one path that both doors use |
//! | [`cri`] | the kubelet's door: CRI `runtime.v1` over gRPC |
//! | `api` | people's door: the Kubernetes REST API |
//! | `controller` | desired to observed: pods, replica sets, deployments, the manifest folder |
//! | [`dns`] | names of services and pods, for pods |
//! | [`idle_memory`] | memory goes back to the kernel when the node comes to rest |
//! | [`journal`] | what happened to each pod, for `wharf why` |
//! | [`leaks`] | what is left of pods and containers that are gone |
//! | [`network`] | the pods' network: CNI plugins, or the embedded bridge |
//! | [`service_manager`] | readiness, watchdog and sockets under systemd |
//! | [`streaming`] | exec, attach and port-forward over SPDY and WebSocket, for both doors |

pub mod api;
pub mod controller;
pub mod cri;
pub mod dns;
pub mod idle_memory;
pub mod journal;
pub mod leaks;
pub mod network;
pub mod pod;
mod removal;
pub mod service_manager;
pub mod streaming;
