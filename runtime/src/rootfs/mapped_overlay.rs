//! The root of a container with a user namespace: an overlay whose layers are mounted with their ids mapped, so that
//! nothing in them has to change its owner.
//!
//! An overlay takes layers only from mounts of the mount namespace that it is mounted in. A helper has one of its own for
//! this, on which the mapped layers are attached; with the helper they are gone, and the overlay keeps copies.

use super::Rootfs;
use super::root::overlay;
use crate::error::{Error, While};
use crate::handshake::{At, Failure, Step};
use crate::helper;
use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wharf_sys::clone::CLONE_NEWNS;
use wharf_sys::fs;
use wharf_sys::mount::{self, Attributes, FsContext, MS_PRIVATE};

/// Mounts an overlay root, not attached anywhere yet, as the user namespace `users` sees its layers. `stage` is a
/// directory that the helper covers with a file system of its own.
pub(crate) fn mount(rootfs: &Rootfs, users: BorrowedFd<'_>, stage: &Path) -> Result<Option<OwnedFd>, Error> {
    let Rootfs::Overlay { lower, upper, work } = rootfs else { return Ok(None) };
    let during = || -> std::io::Result<_> {
        let lower: Vec<CString> = lower.iter().map(|path| fs::c_path(path)).collect::<Result<_, _>>()?;
        Ok((lower, fs::c_path(upper)?, fs::c_path(work)?, fs::c_path(stage)?))
    };
    let (lower, upper, work, stage) = during().during("prepare rootfs", "")?;
    let root = helper::descriptor("mount the rootfs", CLONE_NEWNS, || {
        let host = fs::open_at(None, c"/", fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Propagation, "/")?;
        let private = Attributes { propagation: MS_PRIVATE, ..Attributes::default() };
        mount::set_attributes(host.as_fd(), private, true).at(Step::Propagation, "/")?;
        let mapped = attach_mapped(&lower, users, &stage)?;
        overlay(&mapped, Some((&upper, &work)))
    })?;
    Ok(Some(root))
}

/// The paths of the layers, mapped, topmost first.
fn attach_mapped(lower: &[CString], users: BorrowedFd<'_>, stage: &CString) -> Result<Vec<CString>, Failure> {
    let shown = stage.to_string_lossy().into_owned();
    let on = fs::open_at(None, stage, fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Rootfs, &shown)?;
    let context = FsContext::open(c"tmpfs").at(Step::Rootfs, &shown)?;
    let place = context.mount(0).at(Step::Rootfs, &shown)?;
    mount::move_mount(place.as_fd(), on.as_fd()).at(Step::Rootfs, &shown)?;
    let mut paths = Vec::new();
    for (index, layer) in lower.iter().enumerate() {
        let shown = layer.to_string_lossy();
        let name = CString::new(index.to_string()).unwrap_or_default();
        let tree = mount::clone_tree(None, layer, false).at(Step::Rootfs, &*shown)?;
        let object = || format!("{shown}, mapping its ids (its file system must support that)");
        mount::set_idmap(tree.as_fd(), users, false).at(Step::MountAttributes, object())?;
        fs::mkdir_at(place.as_fd(), &name, 0o700).at(Step::Rootfs, &*shown)?;
        let flags = fs::O_PATH | fs::O_DIRECTORY;
        let on = fs::open_at(Some(place.as_fd()), &name, flags, 0, 0).at(Step::Rootfs, &*shown)?;
        mount::move_mount(tree.as_fd(), on.as_fd()).at(Step::Rootfs, &*shown)?;
        let path = [stage.as_bytes(), b"/", name.as_bytes()].concat();
        paths.push(CString::new(path).unwrap_or_default());
    }
    Ok(paths)
}
