//! What the caller of a creation says.

use super::CgroupDriver;
use crate::rootfs::Rootfs;
use crate::trace::Trace;
use std::os::fd::OwnedFd;
use std::path::Path;
use wharf_specs::id::ContainerId;
use wharf_specs::oci::Spec;
use wharf_sys::terminal::Size;

/// Where the standard descriptors of a process come from.
#[derive(Debug)]
pub enum Stdio {
    /// Those of the caller.
    Inherit,
    Fds {
        stdin: OwnedFd,
        stdout: OwnedFd,
        stderr: OwnedFd,
    },
    /// A new terminal of the container's own devpts; its other side is given back. The size of the
    /// configuration's `consoleSize` is used where `size` is none.
    Terminal {
        size: Option<Size>,
        /// Leave line feeds as they are, as the caller copies them to a terminal that translates them itself.
        plain_line_feeds: bool,
    },
}

/// Everything [`Container::create`] needs.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    pub id: ContainerId,
    /// Absolute directory of the bundle; it need not hold a `config.json`, as `spec` is given.
    pub bundle: &'a Path,
    pub spec: &'a Spec,
    pub rootfs: Rootfs,
    pub stdio: Stdio,
    pub cgroup_driver: CgroupDriver,
    /// Handed to the process from descriptor 3 on, in order.
    pub preserve_fds: Vec<OwnedFd>,
    /// If given, the container can be started through a socket in this directory by another process
    /// ([`Container::load`]); otherwise only through the value returned, and it ends with the caller.
    pub state_dir: Option<&'a Path>,
    /// Directory in which compiled seccomp filters are kept.
    pub seccomp_cache: Option<&'a Path>,
    /// Give the container a session keyring of its own.
    pub new_keyring: bool,
    /// For a root file system in an initramfs, where `pivot_root` is impossible.
    pub no_pivot: bool,
    /// Do without the control groups the caller may not make; none: only if the caller is not privileged.
    pub ignore_cgroup_refusals: Option<bool>,
    /// Told the steps as they are reached.
    pub trace: Trace,
}

impl<'a> CreateRequest<'a> {
    /// A request with the usual choices: inherited stdio, cgroupfs, a new keyring.
    pub fn new(id: ContainerId, bundle: &'a Path, spec: &'a Spec, rootfs: Rootfs) -> Self {
        Self {
            id,
            bundle,
            spec,
            rootfs,
            stdio: Stdio::Inherit,
            cgroup_driver: CgroupDriver::Cgroupfs,
            preserve_fds: Vec::new(),
            state_dir: None,
            seccomp_cache: None,
            new_keyring: true,
            no_pivot: false,
            ignore_cgroup_refusals: None,
            trace: Trace::default(),
        }
    }
}
