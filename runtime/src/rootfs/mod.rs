//! The container's file system, built by the child inside its own mount namespace (or on the host, for one without).
//!
//! Every path in it is resolved by `openat2` in the root and used as a descriptor from then on.

pub(crate) mod cgroupfs;
pub(crate) mod copy_up;
pub(crate) mod device;
pub(crate) mod finish;
pub(crate) mod host_mount;
pub(crate) mod mapped_overlay;
pub(crate) mod mounts;
pub(crate) mod root;
pub(crate) mod target;

use std::path::{Path, PathBuf};

/// Where the root file system comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rootfs {
    /// A directory.
    Path(PathBuf),
    /// An overlay, mounted by the child inside the container's mount namespace: the host sees no mount.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        upper: PathBuf,
        work: PathBuf,
    },
}

impl Rootfs {
    /// The directory to name in messages and in the state.
    pub fn shown(&self) -> &Path {
        match self {
            Rootfs::Path(path) => path,
            Rootfs::Overlay { upper, .. } => upper,
        }
    }
}
