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

use crate::error::{Error, While};
use crate::helper;
use root::PreparedRoot;
use std::os::fd::OwnedFd;
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
    /// An overlay root, mounted and not attached anywhere yet, for whoever attaches it; `None` for a directory. A process
    /// of its own does it, as the working directory may have to change for that.
    pub fn mount_detached(&self) -> Result<Option<OwnedFd>, Error> {
        if matches!(self, Self::Path(_)) {
            return Ok(None);
        }
        let root = PreparedRoot::new(self, Path::new("/")).during("prepare rootfs", "")?;
        helper::descriptor("mount the rootfs", 0, || root.detached()).map(Some)
    }

    /// The directory to name in messages and in the state.
    pub fn shown(&self) -> &Path {
        match self {
            Rootfs::Path(path) => path,
            Rootfs::Overlay { upper, .. } => upper,
        }
    }
}
