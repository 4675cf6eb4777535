//! `wharf-specs`: the types and parsers of the standards Wharf speaks. Nothing here does I/O.
//!
//! | module | standard |
//! |---|---|
//! | [`id`] | names that become paths: container and sandbox ids |
//! | [`cni`] | CNI network configurations, and what plugins answer |
//! | [`oci`] | OCI runtime-spec `config.json` and state |
//! | [`shim`] | the private protocol between `wharfd` and `wharf-shim` |
//! | [`cri`] | Kubernetes CRI `runtime.v1` (feature `cri`) |
//! | [`cdi`] | files of the Container Device Interface (feature `cdi`) |
//! | [`criu`] | CRIU's RPC protocol (feature `criu`) |
//! | [`manifest`] | Kubernetes objects in YAML and JSON (feature `manifest`) |
//! | [`schema`] | fields of the Kubernetes kinds and how they are merged (feature `manifest`) |
//! | [`config`] | `wharfd.toml` (feature `config`) |
//! | [`streaming`] | SPDY/3.1 and Kubernetes' channel protocols (feature `streaming`) |

#[cfg(feature = "cdi")]
pub mod cdi;
pub mod cni;
#[cfg(feature = "config")]
pub mod config;
#[cfg(feature = "cri")]
pub mod cri;
#[cfg(feature = "criu")]
pub mod criu;
#[cfg(feature = "criu")]
pub mod criu_image;
pub mod id;
mod json_path;
#[cfg(feature = "manifest")]
pub mod manifest;
pub mod oci;
#[cfg(feature = "manifest")]
pub mod schema;
pub mod shim;
#[cfg(feature = "streaming")]
pub mod streaming;
