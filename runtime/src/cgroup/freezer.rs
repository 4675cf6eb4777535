//! Processes of a group stopped, and let run on.

use super::{Cgroup, Error, v1, v2, write};
use std::path::Path;
use std::{fs, io};
use wharf_sys::errno;

impl Cgroup {
    /// Stops all processes, or lets them run on. Waits until the kernel has done it.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Directory { operation: if frozen { "freeze" } else { "thaw" }, path, source }
        };
        if let Some(path) = self.v1("freezer") {
            thawed_if_gone(v1::freeze(path, frozen), frozen).map_err(fail(path))
        } else if let Some(path) = &self.unified {
            thawed_if_gone(v2::freeze(path, frozen), frozen).map_err(fail(path))
        } else {
            Err(Error::NoController { field: "pause".into(), controller: "freezer".into() })
        }
    }

    /// Lets a v1 group's processes run on, without waiting until they do.
    pub(super) fn thaw_v1(&self) -> io::Result<()> {
        let thaw = |path: &Path| thawed_if_gone(write(&path.join("freezer.state"), "THAWED"), false);
        self.v1("freezer").map_or(Ok(()), thaw)
    }

    /// Whether the processes are stopped.
    pub fn is_frozen(&self) -> bool {
        if let Some(path) = self.v1("freezer") {
            return fs::read_to_string(path.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED");
        }
        let unified = self.unified.as_ref().map(|path| path.join("cgroup.freeze"));
        unified.is_some_and(|path| fs::read_to_string(path).is_ok_and(|state| state.trim() == "1"))
    }
}

/// A group that was removed meanwhile, as systemd does with an empty one, has nobody left to be thawed.
fn thawed_if_gone(result: io::Result<()>, frozen: bool) -> io::Result<()> {
    match result {
        Err(error) if !frozen && matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENODEV)) => Ok(()),
        result => result,
    }
}
