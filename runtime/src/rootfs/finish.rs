//! What closes the root file system: sysctls, read-only and masked paths.

use super::mounts::file_system;
use super::target::shown;
use crate::handshake::{At, Failure, Step};
use crate::plan::{Mount, Sysctl};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::mount::{self, Attributes};
use wharf_sys::{errno, fs};

/// Writes kernel parameters through the host's procfs, before the root changes: no path of the container is
/// involved. The parameters are those of the writer's namespaces.
pub(crate) fn write_sysctls(sysctls: &[Sysctl]) -> Result<(), Failure> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let flags = fs::O_PATH | fs::O_DIRECTORY;
    let directory = fs::open_at(None, c"/proc/sys", flags, 0, fs::RESOLVE_NO_SYMLINKS).at(Step::Sysctl, "/proc/sys")?;
    if fs::filesystem_magic(directory.as_fd()).at(Step::Sysctl, "/proc/sys")? != fs::PROC_MAGIC {
        return Err(errno::error(errno::ENODEV)).at(Step::Sysctl, "/proc/sys, which is not procfs");
    }
    let resolve = fs::RESOLVE_BENEATH | fs::RESOLVE_NO_SYMLINKS | fs::RESOLVE_NO_XDEV;
    for sysctl in sysctls {
        let write = || {
            let file = fs::open_at(Some(directory.as_fd()), &sysctl.path, fs::O_WRONLY, 0, resolve)?;
            fs::write_once(file.as_fd(), &sysctl.value)
        };
        write().at(Step::Sysctl, &sysctl.name)?;
    }
    Ok(())
}

/// Whether a mount becomes read-only only at the end: nodes and mounts are still to be made in `/dev`.
pub(crate) fn is_closed_late(mount: &Mount) -> bool {
    let dev = matches!(mount.destination.as_bytes(), b"/dev" | b"/dev/");
    dev && mount.attributes.set & mount::MOUNT_ATTR_RDONLY != 0
}

/// Makes `/dev` read-only if the configuration wants that.
pub(crate) fn close_dev(root: BorrowedFd<'_>, mounts: &[Mount]) -> Result<(), Failure> {
    if mounts.iter().any(is_closed_late) {
        let readonly = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
        let dev = fs::open_in_root(root, c"/dev", fs::O_PATH | fs::O_DIRECTORY, 0).at(Step::ReadonlyPath, "/dev")?;
        mount::set_attributes(dev.as_fd(), readonly, false).at(Step::ReadonlyPath, "/dev")?;
    }
    Ok(())
}

/// Binds each path on itself, read-only.
pub(crate) fn make_readonly(root: BorrowedFd<'_>, paths: &[CString]) -> Result<(), Failure> {
    let readonly = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    for path in paths {
        let Some(place) = existing(root, path).at(Step::ReadonlyPath, shown(path))? else { continue };
        let bind = || {
            let tree = mount::clone_tree(Some(place.as_fd()), c"", true)?;
            mount::set_attributes(tree.as_fd(), readonly, true)?;
            mount::move_mount(tree.as_fd(), place.as_fd())
        };
        bind().at(Step::ReadonlyPath, shown(path))?;
    }
    Ok(())
}

/// The host's null device, opened before the root changes and checked to be it: what covers masked files must
/// not be something a container put in its place.
pub(crate) fn open_null() -> Result<OwnedFd, Failure> {
    let null = mount::clone_tree(None, c"/dev/null", false).at(Step::MaskedPath, "with /dev/null")?;
    let status = fs::status(null.as_fd()).at(Step::MaskedPath, "with /dev/null")?;
    if !status.is(fs::S_IFCHR) || status.rdev != (1, 3) {
        return Err(errno::error(errno::ENODEV)).at(Step::MaskedPath, "with /dev/null, which is not the null device");
    }
    Ok(null)
}

/// Hides files behind the null device and directories behind an empty read-only file system.
pub(crate) fn mask(root: BorrowedFd<'_>, paths: &[CString], null: OwnedFd) -> Result<(), Failure> {
    let mut null = Some(null);
    let mut used: Option<OwnedFd> = None;
    let mut empty: Option<OwnedFd> = None;
    for path in paths {
        let Some(place) = existing(root, path).at(Step::MaskedPath, shown(path))? else { continue };
        let directory = fs::status(place.as_fd()).at(Step::MaskedPath, shown(path))?.is(fs::S_IFDIR);
        // The first mount is attached, the others are copies of it: only an attached mount can be copied.
        let cover = if directory {
            match &empty {
                Some(mounted) => {
                    mount::clone_tree(Some(mounted.as_fd()), c"", false).at(Step::MaskedPath, shown(path))?
                }
                None => {
                    let object = || format!("tmpfs on {}", shown(path));
                    let parameters = [(c"nr_blocks".to_owned(), Some(c"1".to_owned()))];
                    file_system(c"tmpfs", c"tmpfs", &parameters, mount::MOUNT_ATTR_RDONLY, object)?
                }
            }
        } else {
            match (&used, null.take()) {
                (_, Some(first)) => first,
                (Some(mounted), None) => {
                    mount::clone_tree(Some(mounted.as_fd()), c"", false).at(Step::MaskedPath, shown(path))?
                }
                (None, None) => unreachable!("the first copy is kept once it is attached"),
            }
        };
        mount::move_mount(cover.as_fd(), place.as_fd()).at(Step::MaskedPath, shown(path))?;
        if directory {
            empty.get_or_insert(cover);
        } else {
            used.get_or_insert(cover);
        }
    }
    Ok(())
}

/// The file at `path` in the root, or `None` if there is none: both lists name files not every kernel has.
fn existing(root: BorrowedFd<'_>, path: &CString) -> io::Result<Option<OwnedFd>> {
    match fs::open_in_root(root, path, fs::O_PATH, 0) {
        Ok(file) => Ok(Some(file)),
        Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENOTDIR | errno::EACCES)) => Ok(None),
        Err(error) => Err(error),
    }
}
