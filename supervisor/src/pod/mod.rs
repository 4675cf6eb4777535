//! Pods and containers of this node, over their shims: the one path that both doors use.
//!
//! ```text
//! pod sandbox:  (starting) ──► Ready ──stop, shim died──► NotReady ──remove──► gone
//! container:    create ──► Created ──start──► Running ──exit──► Exited ──remove──► gone
//! ```
//!
//! Each sandbox has one owner task ([`sandbox`]): commands in, events out. What it knows is published to the
//! node's [`table`], from which lists and status are answered. What must outlive the daemon is in
//! `RUN/pods/<sandbox>/` ([`record`]) and in the shim; [`recovery`] reads both back.

pub(crate) mod bundle;
mod cgroup;
mod checkpoint;
mod container;
mod create;
pub mod error;
mod exec;
mod files;
mod ids;
mod init_process;
mod known;
mod limits;
mod lookup;
mod network;
pub mod node;
mod observer;
mod placement;
pub(crate) mod qos;
mod record;
mod recovery;
mod requests;
mod restore;
mod sandbox;
mod sandbox_check;
mod session;
mod shim_client;
mod shim_process;
pub mod spec;
pub mod stats;
pub mod status;
mod stop;
mod table;

pub(crate) use container::wrong_state;
pub(crate) use error::chain;
pub use error::{PodError, Result};
pub(crate) use ids::new_id;
pub(crate) use node::now;
pub use node::{Node, NodeOptions};
pub use observer::{Observed, Observer};
pub use placement::CgroupOptions;
pub use record::ContainerUser;
pub(crate) use record::write_json;
pub use session::{AttachSession, EXEC_SYNC_OUTPUT_BYTES, ExecOutput, ExecSession, Input, Output, SessionControl};
