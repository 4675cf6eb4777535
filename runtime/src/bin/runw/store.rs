//! The runtime's root: one directory per container.

use crate::Fault;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use wharf_runtime::{CgroupDriver, Container, ContainerId, state};
use wharf_sys::credential;

/// Not a container id, as those have no `@`.
const SECCOMP_CACHE: &str = "@seccomp";

pub(crate) struct Store {
    root: PathBuf,
    /// What `--rootless` says of control groups that cannot be made; none is for this program to see.
    pub(crate) ignore_cgroup_refusals: Option<bool>,
    /// Of containers to be made; those that are there keep theirs.
    pub(crate) cgroup_driver: CgroupDriver,
    /// The caller named the root, and is wrong if it is not there.
    named: bool,
}

/// A container's new state directory, removed again unless it is kept.
pub(crate) struct NewState {
    path: PathBuf,
    kept: bool,
}

impl Store {
    /// The root given, or `/run/runw`, or for users `$XDG_RUNTIME_DIR/runw`.
    pub(crate) fn new(root: Option<&Path>, ignore_cgroup_refusals: Option<bool>, cgroup_driver: CgroupDriver) -> Self {
        let default = || {
            let runtime = std::env::var_os("XDG_RUNTIME_DIR").filter(|dir| !dir.is_empty());
            match runtime {
                Some(dir) if credential::effective_user() != 0 => PathBuf::from(dir).join("runw"),
                _ => PathBuf::from("/run/runw"),
            }
        };
        let named = root.is_some();
        let root = root.map_or_else(default, Path::to_path_buf);
        Self { root: std::path::absolute(&root).unwrap_or(root), ignore_cgroup_refusals, cgroup_driver, named }
    }

    pub(crate) fn seccomp_cache(&self) -> PathBuf {
        self.root.join(SECCOMP_CACHE)
    }

    /// Takes an id: its directory is made, and nobody else can have it.
    pub(crate) fn reserve(&self, id: &ContainerId) -> Result<NewState, Fault> {
        let builder = || {
            let mut builder = fs::DirBuilder::new();
            builder.mode(0o700);
            builder
        };
        builder()
            .recursive(true)
            .create(&self.root)
            .map_err(|error| Fault::new(format!("create root {}: {error}", self.root.display())))?;
        let path = state::directory(&self.root, id);
        match builder().create(&path) {
            Ok(()) => Ok(NewState { path, kept: false }),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(Fault::new(format!("container with given ID already exists: {id}")))
            }
            Err(error) => Err(Fault::new(format!("create {}: {error}", path.display()))),
        }
    }

    /// Finds a container by the id a user gave.
    pub(crate) fn load(&self, id: &str) -> Result<Container, Fault> {
        let id = ContainerId::parse(id)?;
        let path = state::directory(&self.root, &id);
        if !path.exists() {
            return Err(Fault::new(format!("container {id} does not exist")));
        }
        Ok(Container::load(&path)?)
    }

    pub(crate) fn directory(&self, id: &ContainerId) -> PathBuf {
        state::directory(&self.root, id)
    }

    /// The ids of all containers, sorted; none if there is no default root yet.
    pub(crate) fn ids(&self) -> Result<Vec<ContainerId>, Fault> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.named => return Ok(Vec::new()),
            Err(error) => return Err(Fault::new(format!("read {}: {error}", self.root.display()))),
        };
        let name = |entry: io::Result<fs::DirEntry>| ContainerId::parse(entry.ok()?.file_name().to_str()?).ok();
        let mut ids: Vec<_> = entries.filter_map(name).collect();
        ids.sort();
        Ok(ids)
    }

    /// Removes a container's directory.
    pub(crate) fn forget(&self, id: &ContainerId) -> Result<(), Fault> {
        let path = self.directory(id);
        match fs::remove_dir_all(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(Fault::new(format!("remove {}: {error}", path.display())))
            }
            _ => Ok(()),
        }
    }
}

impl NewState {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for NewState {
    fn drop(&mut self) {
        if !self.kept {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}
