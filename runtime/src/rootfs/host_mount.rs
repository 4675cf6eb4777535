//! The root of a container without a mount namespace of its own lies on the host: here it is found again and taken away.

use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use wharf_sys::{fs, mount};

/// The number of the mount at `path`.
pub(crate) fn mount_at(path: &Path) -> io::Result<u64> {
    let place = fs::open_at(None, fs::c_path(path)?.as_c_str(), fs::O_PATH | fs::O_NOFOLLOW, 0, 0)?;
    fs::mount_id(place.as_fd())
}

/// Detaches the mount at `path` with all that is mounted in it, if it is the one with this number.
pub(crate) fn detach(path: &Path, id: u64) -> io::Result<()> {
    if mount_at(path).is_ok_and(|found| found == id) { mount::detach(&fs::c_path(path)?) } else { Ok(()) }
}

/// Takes a mount that comes to lie on a path away again, unless it is kept.
pub(crate) struct HostMountGuard {
    path: PathBuf,
    before: u64,
}

impl HostMountGuard {
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let path = std::fs::canonicalize(path)?;
        Ok(Self { before: mount_at(&path)?, path })
    }

    /// Leaves the new mount; gives back what [`detach`] takes.
    pub(crate) fn keep(self) -> io::Result<(PathBuf, u64)> {
        let id = mount_at(&self.path)?;
        let mut guard = std::mem::ManuallyDrop::new(self);
        Ok((std::mem::take(&mut guard.path), id))
    }
}

impl Drop for HostMountGuard {
    fn drop(&mut self) {
        if let Ok(now) = mount_at(&self.path)
            && now != self.before
        {
            let _ = detach(&self.path, now);
        }
    }
}
