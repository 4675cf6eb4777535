//! Checkpoint and restore, done by CRIU: a program that writes a tree of processes into files and makes it again.
//!
//! ```text
//! runtime                            criu swrk 3 (a child, for one request)
//!   Dump, options  ────────────────▶  freezes the cgroup, writes the images into the directory
//!            ◀────────────  Notify    lazy pages are served now, and others of no concern here
//!            ◀──────────────  Dump    the processes are gone, or run on
//!
//!   (cgroup, rootfs and mount points; criu starts in the cgroup and a mount namespace of its own)
//!   Restore, options ──────────────▶
//!            ◀────────────  Notify    setup-namespaces: loopback, prestart and createRuntime hooks
//!            ◀────────────  Notify    orphan-pts-master + the terminal's other side
//!            ◀───────────  Restore    with the pid of the init, which is a child of the runtime
//! ```
//!
//! | module | what |
//! |---|---|
//! | [`criu`] | the program: its version, what it can do, one conversation |
//! | [`options`] | what callers can ask for, and the part of a request that both directions share |
//! | [`dump`], [`restore`] | the two operations |
//! | [`external`] | mounts, namespaces and descriptors that are no part of the images |
//! | [`stage`] | what the child does before it becomes criu |
//! | [`log`] | the reason, from criu's log |

mod criu;
mod dump;
mod external;
mod log;
mod options;
mod restore;
mod stage;

pub use dump::{AtRest, CheckpointRequest};
pub(crate) use external::stdio_of;
pub use options::{CgroupMode, Options, PageServer};
pub use restore::RestoreRequest;

use criu::Version;
use std::io;
use std::path::PathBuf;

/// Log of a dump, in the work directory.
const DUMP_LOG: &str = "dump.log";
/// Log of a restore, in the work directory.
const RESTORE_LOG: &str = "restore.log";

/// Why criu could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("criu is not on PATH; install it (Debian's package is called criu) to checkpoint and restore")]
    Missing,
    #[error("{what} needs criu {needed} or newer, {} is {found}; install a newer one", program.display())]
    TooOld { what: &'static str, needed: Version, found: Version, program: PathBuf },
    #[error("{option} needs a feature ({feature}) that criu {version} lacks on this kernel; leave the option out")]
    NoFeature { option: &'static str, feature: &'static str, version: Version },
    #[error("criu cannot shut the network: install iptables-restore (Debian's package iptables), or criu {needed}")]
    NoLock { needed: Version },
    /// The request was understood and could not be carried out.
    #[error("criu {operation} failed: {reason}{}", see(log))]
    Failed { operation: &'static str, reason: String, log: Option<PathBuf> },
    /// It was killed at the deadline.
    #[error("criu {operation}: not done in the time given")]
    Late { operation: &'static str },
    /// It did not speak as agreed.
    #[error("criu {operation}: {problem}")]
    Protocol { operation: &'static str, problem: String },
    #[error("criu {operation}: {}", crate::error::cause(source))]
    Talk { operation: &'static str, source: io::Error },
    /// Something in the directory of the images.
    #[error("{}: {problem}", path.display())]
    Images { path: PathBuf, problem: String },
}

fn see(log: &Option<PathBuf>) -> String {
    log.as_ref().map(|path| format!("; see {}", path.display())).unwrap_or_default()
}
