//! `wharf-runtime`: the OCI runtime as a library. `runw` is its command line, `wharf-shim` uses it in-process.
//!
//! | module | what |
//! |---|---|
//! | [`bundle`] | a directory with `config.json` |
//! | [`plan`] | `config.json` compiled and checked, before anything is made |
//! | [`create`], [`container`], [`exec`] | the operations, seen from the runtime |
//! | [`checkpoint`] | checkpoint and restore by CRIU |
//! | `init`, `identity`, `rootfs` | the cloned child, step by step |
//! | [`handshake`] | what the two say to each other |
//! | [`cgroup`], `placement` | control groups on v1, hybrid and v2 hosts, made by us or by systemd over [`dbus`] |
//! | [`capabilities`], [`seccomp`], `hooks`, `terminal`, `idmap`, `joins`, `init_namespaces`, `label` | one OCI topic each |
//! | [`state`] | `state.json` |
//! | [`time`] | dates as text |
//! | [`own_binary`] | keeps containers from overwriting the runtime |
//! | [`Trace`] | hears the steps of a creation, for `--debug` |
//!
//! The library is for single-threaded processes: the child of `clone3` runs on a copy of their memory. It
//! changes nothing of its caller, sets close-on-exec on everything, and reaps only helpers of its own; the init of
//! a container is reaped by the caller, through [`Container::pidfd`].

mod bind_source;
pub mod bundle;
pub mod capabilities;
pub mod cgroup;
pub mod checkpoint;
pub mod container;
pub mod create;
pub mod dbus;
mod error;
pub mod exec;
pub mod handshake;
mod helper;
mod hooks;
mod identity;
mod idmap;
mod init;
mod init_namespaces;
pub mod intel_rdt;
mod joins;
pub mod label;
mod net_device;
pub mod own_binary;
mod placement;
pub mod plan;
mod rootfs;
pub mod seccomp;
mod seccomp_listener;
pub mod state;
mod terminal;
pub mod time;
mod trace;
#[doc(hidden)]
pub mod untrusted;

pub use container::Container;
pub use create::{CgroupDriver, CreateRequest, Stdio};
pub use error::Error;
pub use exec::{ExecProcess, ExecRequest};
pub use rootfs::Rootfs;
pub use trace::Trace;
pub use wharf_specs::id::ContainerId;
