//! Network namespaces as paths that plugins can open: `RUN/network/netns/ID`, a bind mount of the pod's own.
//!
//! The pod's shim holds the namespace by a descriptor, which has a path only as long as the shim lives. DEL works
//! after its death too, and takes the plugin's interfaces out in good order.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rustix::mount::{UnmountFlags, mount_bind, unmount};

use super::{CniError, Result};

/// `NSFS_MAGIC` of `linux/magic.h`: the file system of `/proc/PID/ns/*`.
const NAMESPACE_FILE_SYSTEM: u64 = 0x6e73_6673;

pub(super) struct Pins {
    directory: PathBuf,
}

impl Pins {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| failed("create", directory, error))?;
        Ok(Self { directory: directory.into() })
    }

    /// `CNI_NETNS` of pod `id`.
    pub(super) fn path(&self, id: &str) -> PathBuf {
        self.directory.join(id)
    }

    pub(super) fn is_pinned(&self, id: &str) -> bool {
        is_namespace(&self.path(id))
    }

    /// Makes the path lead to `namespace`.
    pub(super) fn pin(&self, id: &str, namespace: &OwnedFd) -> Result<()> {
        self.unpin(id)?;
        let path = self.path(id);
        fs::File::create_new(&path).map_err(|error| failed("create", &path, error))?;
        let source = format!("/proc/self/fd/{}", namespace.as_raw_fd());
        mount_bind(source, &path).map_err(|error| failed("mount a network namespace on", &path, error))
    }

    /// Mirror of [`pin`](Self::pin); gone already is done.
    pub(super) fn unpin(&self, id: &str) -> Result<()> {
        let path = self.path(id);
        while is_namespace(&path) {
            // Lazily: a plugin may have left something running that has it open.
            unmount(&path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)
                .map_err(|error| failed("unmount", &path, error))?;
        }
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("remove", &path, error)),
            _ => Ok(()),
        }
    }

    pub(super) fn ids(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.directory).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }
}

/// Whether the path leads to a namespace, and not to the empty file that is left once it was unmounted.
pub(super) fn is_namespace(path: &Path) -> bool {
    rustix::fs::statfs(path).is_ok_and(|stat| stat.f_type as u64 == NAMESPACE_FILE_SYSTEM)
}

fn failed(what: &str, path: &Path, error: impl std::fmt::Display) -> CniError {
    CniError::Kernel { operation: format!("{what} {}", path.display()), reason: error.to_string() }
}
