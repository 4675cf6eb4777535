//! Sources of bind mounts that the child cannot open by itself.
//!
//! In a user namespace it may not reach them, and id-mapped mounts need privileges over the source's file system. The
//! runtime opens those: before the clone where it can, or at their turn where an earlier mount of the container may
//! have changed what the path means, by a helper that enters the child's mount namespace and nothing else of it.

use crate::error::Error;
use crate::handshake::{At, Failure, Step};
use crate::helper;
use crate::idmap;
use crate::joins;
use crate::plan::{IdMap, Mount, MountSource, Plan};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wharf_specs::oci::LinuxNamespaceType as Kind;
use wharf_sys::{mount, namespace};

/// Who opens the source of a mount, and when.
#[derive(Debug)]
pub(crate) enum BindSource {
    /// The child, when it comes to it. Also said of mounts that have no source.
    Child,
    /// Opened: a detached copy of the mount.
    Opened(OwnedFd),
    /// The runtime, when the child asks for it.
    Late,
}

/// A detached copy of the mount at a path.
pub(crate) fn clone(source: &CStr, recursive: bool, nofollow: bool) -> io::Result<OwnedFd> {
    if nofollow { mount::clone_tree_nofollow(source, recursive) } else { mount::clone_tree(None, source, recursive) }
}

/// Opens what can be opened before the child exists. `rootfs` is where the container's own mounts will lie. A runtime
/// that is not `privileged` reaches no more than the child does.
pub(crate) fn prepare(plan: &Plan, rootfs: &Path, privileged: bool) -> Result<Vec<BindSource>, Error> {
    let out_of_reach = privileged && plan.namespaces.separate(Kind::User);
    let mut rootfs_found: Option<PathBuf> = None;
    let mut sources = Vec::new();
    for mount in &plan.mounts {
        let MountSource::Bind { source, .. } = &mount.source else {
            sources.push(BindSource::Child);
            continue;
        };
        if !out_of_reach && mount.idmap.is_none() {
            sources.push(BindSource::Child);
            continue;
        }
        let rootfs = rootfs_found.get_or_insert_with(|| rootfs.canonicalize().unwrap_or_else(|_| rootfs.to_path_buf()));
        let path = Path::new(std::ffi::OsStr::from_bytes(source.to_bytes()));
        let source = match path.canonicalize() {
            Ok(path) if !path.starts_with(rootfs) => BindSource::Opened(open(mount, plan, None)?),
            // In the root, or not there yet: mounts that are still to be made decide.
            _ => BindSource::Late,
        };
        sources.push(source);
    }
    Ok(sources)
}

/// Opens the source of a mount as the child `init` sees it now.
pub(crate) fn open_late(mount: &Mount, plan: &Plan, init: BorrowedFd<'_>) -> Result<OwnedFd, Error> {
    open(mount, plan, Some(init))
}

/// A detached copy of the source, with its ids mapped; the path is that of the caller, or of `init`.
fn open(mount: &Mount, plan: &Plan, init: Option<BorrowedFd<'_>>) -> Result<OwnedFd, Error> {
    let MountSource::Bind { source, recursive, nofollow } = &mount.source else {
        return Err(Error::Unsupported("a mount without source asks for one".into()));
    };
    let shown = source.to_string_lossy();
    let users = mount.idmap.as_ref().map(|map| (users_of(map, plan), map.recursive));
    let users = match users {
        Some((users, recursive)) => Some((users?, recursive)),
        None => None,
    };
    let copy = || -> Result<OwnedFd, Failure> {
        let tree = clone(source, *recursive, *nofollow).at(Step::MountSource, &shown)?;
        if let Some((users, recursive)) = &users {
            mount::set_idmap(tree.as_fd(), users.as_fd(), *recursive)
                .at(Step::MountAttributes, format!("{shown}, mapping its ids (its file system must support that)"))?;
        }
        // Events of the host's mount still arrive, those of the container stay in it.
        let slave = mount::Attributes { propagation: mount::MS_SLAVE, ..mount::Attributes::default() };
        mount::set_attributes(tree.as_fd(), slave, true).at(Step::Propagation, &shown)?;
        Ok(tree)
    };
    let Some(init) = init else { return Ok(copy()?) };
    helper::descriptor(&format!("open mount source {shown}"), 0, || {
        namespace::join(init, Kind::Mount as i32).at(Step::JoinNamespace, "mount of the container")?;
        copy()
    })
}

/// The user namespace whose mappings a mount takes.
fn users_of(map: &IdMap, plan: &Plan) -> Result<OwnedFd, Error> {
    // Without mappings of its own the mount has those of the namespace that is joined.
    if map.uids.is_empty() { container_users(plan) } else { idmap::user_namespace(map) }
}

/// A user namespace with the mappings of the container's.
pub(crate) fn container_users(plan: &Plan) -> Result<OwnedFd, Error> {
    match plan.namespaces.joined(Kind::User) {
        Some(join) => joins::open_as(join),
        None => {
            let (uids, gids) = (plan.namespaces.uid_map.clone(), plan.namespaces.gid_map.clone());
            idmap::user_namespace(&IdMap { uids, gids, recursive: false })
        }
    }
}
