//! The directories of a group: made with their parents, removed with what is below.

use super::Cgroup;
use super::systemd::Scope;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wharf_sys::errno;

/// Removes what [`Cgroup::create`] made unless [`CreatedCgroup::keep`] is called.
#[derive(Debug)]
pub struct CreatedCgroup {
    pub(super) made: Vec<PathBuf>,
    /// The unit, where systemd made the group.
    pub(super) scope: Option<Scope>,
    pub(super) kept: bool,
}

impl CreatedCgroup {
    /// The container exists: its group is removed with it.
    pub fn keep(mut self) {
        self.kept = true;
    }

    /// The directories, to be removed by another guard.
    pub(super) fn take(mut self) -> Vec<PathBuf> {
        std::mem::take(&mut self.made)
    }

    /// Whether the group's own directory was there before.
    pub fn existed(&self, cgroup: &Cgroup) -> bool {
        cgroup.path().is_some_and(|path| !self.made.iter().any(|made| made == path))
    }
}

impl Drop for CreatedCgroup {
    fn drop(&mut self) {
        if !self.kept {
            // That creation failed is what the caller is told; that the unit stays shows in systemd's log.
            let _ = self.scope.as_ref().map(Scope::stop);
            remove_all(&self.made);
        }
    }
}

/// As `mkdir -p`, noting each directory made.
pub(super) fn create(path: &Path, made: &mut Vec<PathBuf>) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {
            made.push(path.to_path_buf());
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().ok_or(error)?;
            create(parent, made)?;
            create(path, made)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn remove_all(made: &[PathBuf]) {
    for path in made.iter().rev() {
        // A parent that another container uses by now stays, and that is right.
        let _ = fs::remove_dir(path);
    }
}

pub(super) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_dir(path) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) if error.raw_os_error() != Some(errno::EBUSY) => return Err(error),
        Err(_) => {}
    }
    let entries = match fs::read_dir(path) {
        // Somebody else was faster, as systemd can be.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove(&entry.path())?;
        }
    }
    match fs::remove_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
