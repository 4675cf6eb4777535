//! What a mount of type `cgroup` shows: the unified hierarchy, or on v1 and hybrid hosts a tmpfs with one mount
//! for each hierarchy.

use super::mounts::file_system;
use super::target::shown;
use crate::handshake::{At, Failure, Step};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use wharf_sys::mount::{self, Attributes};
use wharf_sys::{errno, fs};

/// One hierarchy as the container sees it.
#[derive(Debug)]
struct Part {
    /// Directory below the mount, such as `memory` or `cpu,cpuacct`.
    name: CString,
    /// Other names of the same hierarchy: each controller of a joint one.
    aliases: Vec<CString>,
    /// Parameters that select the v1 hierarchy; none for the unified one.
    parameters: Vec<(CString, Option<CString>)>,
    /// The container's directory on the host.
    directory: CString,
}

/// Everything needed to mount the view, prepared before the clone.
#[derive(Debug)]
pub(crate) struct CgroupView {
    parts: Vec<Part>,
    /// The container has a cgroup namespace, so that a fresh mount shows its own group as the root.
    namespaced: bool,
}

impl CgroupView {
    /// From the directories of the container's group with their controllers; the unified one has none.
    pub(crate) fn new(directories: Vec<(String, PathBuf)>, namespaced: bool) -> io::Result<Self> {
        let text = |text: &str| CString::new(text).map_err(|_| errno::error(errno::EINVAL));
        let mut parts = Vec::new();
        for (controllers, directory) in directories {
            let directory = fs::c_path(&directory)?;
            if controllers.is_empty() {
                parts.push(Part { name: text("unified")?, aliases: Vec::new(), parameters: Vec::new(), directory });
                continue;
            }
            let mut parameters = Vec::new();
            let names: Vec<&str> = controllers.split(',').collect();
            for name in &names {
                match name.split_once('=') {
                    Some((key, value)) => {
                        parameters.push((text("none")?, None));
                        parameters.push((text(key)?, Some(text(value)?)));
                    }
                    None => parameters.push((text(name)?, None)),
                }
            }
            let name = text(&directory_name(&controllers))?;
            let aliases =
                if names.len() > 1 { names.iter().map(|n| text(n)).collect::<Result<_, _>>()? } else { Vec::new() };
            parts.push(Part { name, aliases, parameters, directory });
        }
        Ok(Self { parts, namespaced })
    }

    /// Mounts the view on `target` and returns its topmost mount.
    pub(crate) fn mount(
        &self,
        target: BorrowedFd<'_>,
        destination: &CStr,
        attributes: Attributes,
    ) -> Result<OwnedFd, Failure> {
        let object = || format!("cgroup on {}", shown(destination));
        if let [part] = self.parts.as_slice()
            && part.parameters.is_empty()
        {
            let made = self.unified(part, attributes.set).at(Step::Mount, object())?;
            mount::move_mount(made.as_fd(), target).at(Step::Mount, object())?;
            return Ok(made);
        }
        let parameters = [(c"mode".to_owned(), Some(c"755".to_owned()))];
        let writable = attributes.set & !mount::MOUNT_ATTR_RDONLY;
        let top = file_system(c"tmpfs", c"tmpfs", &parameters, writable, object)?;
        mount::move_mount(top.as_fd(), target).at(Step::Mount, object())?;
        for part in &self.parts {
            self.mount_part(&top, part, attributes.set)
                .at(Step::Mount, format!("{}/{}", object(), shown(&part.name)))?;
        }
        if attributes.set & mount::MOUNT_ATTR_RDONLY != 0 {
            let readonly = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
            mount::set_attributes(top.as_fd(), readonly, false).at(Step::MountAttributes, object())?;
        }
        Ok(top)
    }

    fn mount_part(&self, top: &OwnedFd, part: &Part, attributes: u64) -> io::Result<()> {
        fs::mkdir_at(top.as_fd(), &part.name, 0o755)?;
        let made = if part.parameters.is_empty() {
            self.unified(part, attributes)?
        } else if self.namespaced {
            let context = mount::FsContext::open(c"cgroup")?;
            for (key, value) in &part.parameters {
                match value {
                    Some(value) => context.set_string(key, value)?,
                    None => context.set_flag(key)?,
                }
            }
            context.mount(attributes)?
        } else {
            bound(part, attributes)?
        };
        let target = fs::open_at(Some(top.as_fd()), &part.name, fs::O_PATH | fs::O_NOFOLLOW, 0, fs::RESOLVE_BENEATH)?;
        mount::move_mount(made.as_fd(), target.as_fd())?;
        for alias in &part.aliases {
            fs::symlink_at(&part.name, top.as_fd(), alias)?;
        }
        Ok(())
    }

    fn unified(&self, part: &Part, attributes: u64) -> io::Result<OwnedFd> {
        let fresh = || mount::FsContext::open(c"cgroup2")?.mount(attributes);
        match fresh() {
            // A user namespace without a cgroup namespace of its own may not mount the hierarchy.
            Err(error) if matches!(error.raw_os_error(), Some(errno::EPERM | errno::EBUSY)) => bound(part, attributes),
            other => other,
        }
    }
}

/// Directory of a v1 hierarchy in the view, by its comma-separated controllers; named ones lose their `name=`.
pub(crate) fn directory_name(controllers: &str) -> String {
    controllers.split(',').map(|name| name.rsplit('=').next().unwrap_or(name)).collect::<Vec<_>>().join(",")
}

fn bound(part: &Part, attributes: u64) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(None, &part.directory, true)?;
    mount::set_attributes(tree.as_fd(), Attributes { set: attributes, ..Attributes::default() }, true)?;
    Ok(tree)
}
