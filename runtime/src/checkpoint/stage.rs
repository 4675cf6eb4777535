//! What the child does before it becomes the criu that restores: a mount namespace of its own, the root file system
//! in it, and the mount points that criu expects there.
//!
//! criu wants a root that is a mount and whose parent is not covered. In a mount namespace of its own the host sees
//! none of it, and nothing is left however the restore ends.

use super::external::plain;
use super::options::open;
use crate::bind_source;
use crate::handshake::{At, Failure, Step};
use crate::plan::{Mount, MountSource};
use crate::rootfs::root::PreparedRoot;
use crate::rootfs::target;
use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wharf_sys::mount::{self, Attributes};
use wharf_sys::{errno, fs};

/// Mounts the root on `place`, an empty directory. Opens the directories that criu uses: it mounts in one of them,
/// which takes a descriptor of its own mount namespace.
pub(super) fn prepare(
    root: &PreparedRoot,
    place: &CStr,
    mounts: &[Mount],
    directories: &[&Path],
) -> Result<Vec<OwnedFd>, Failure> {
    let shown = || target::shown(place);
    let host = fs::open_at(None, c"/", fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Propagation, "/")?;
    let slave = Attributes { propagation: mount::MS_SLAVE, ..Attributes::default() };
    mount::set_attributes(host.as_fd(), slave, true).at(Step::Propagation, "/")?;
    let on = fs::open_at(None, place, fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Rootfs, shown())?;
    let tree = root.detached()?;
    mount::move_mount(tree.as_fd(), on.as_fd()).at(Step::Rootfs, shown())?;
    let clean = mount::clone_tree(Some(tree.as_fd()), c"", true).at(Step::Rootfs, shown())?;
    make_mount_points(tree.as_fd(), mounts)?;
    // What was mounted to make mount points in it goes, the mount points stay.
    mount::detach(place).at(Step::Rootfs, shown())?;
    mount::move_mount(clean.as_fd(), on.as_fd()).at(Step::Rootfs, shown())?;
    directories.iter().map(|path| open(path).at(Step::WorkingDirectory, path.display())).collect()
}

/// Makes what mounts are made on, as creating the container did. Bind mounts are made too: others may lie in them.
fn make_mount_points(root: BorrowedFd<'_>, mounts: &[Mount]) -> Result<(), Failure> {
    for mount in mounts {
        if in_another_file_system(mount, mounts) {
            continue;
        }
        match &mount.source {
            // It appears with what it lies in: sysfs, or the tmpfs of cgroup v1.
            MountSource::Cgroup | MountSource::Remount { .. } => {}
            MountSource::FileSystem { .. } => drop(target::prepare(root, &mount.destination, true)?),
            MountSource::Bind { source, recursive, nofollow } => {
                let tree = match bind_source::clone(source, *recursive, *nofollow) {
                    Err(error) if error.raw_os_error() == Some(errno::ENOENT) => {
                        let object = format!("{}, which was there at the checkpoint", target::shown(source));
                        return Err(error).at(Step::MountSource, object);
                    }
                    result => result.at(Step::MountSource, target::shown(source))?,
                };
                let directory = fs::status(tree.as_fd()).at(Step::MountSource, target::shown(source))?.is(fs::S_IFDIR);
                let place = target::prepare(root, &mount.destination, directory)?;
                mount::move_mount(tree.as_fd(), place.as_fd()).at(Step::Mount, target::shown(&mount.destination))?;
            }
        }
    }
    Ok(())
}

/// Whether a mount point is part of a file system that criu makes or restores.
fn in_another_file_system(mount: &Mount, mounts: &[Mount]) -> bool {
    let destination = plain(&mount.destination);
    mounts.iter().any(|other| {
        let place = plain(&other.destination);
        let new = matches!(other.source, MountSource::Cgroup | MountSource::FileSystem { .. });
        new && place != destination && destination.starts_with(place)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(destination: &CStr, bind: bool) -> Mount {
        let source = if bind {
            MountSource::Bind { source: c"/x".to_owned(), recursive: false, nofollow: false }
        } else {
            let (fstype, source) = (c"tmpfs".to_owned(), c"tmpfs".to_owned());
            MountSource::FileSystem { fstype, source, parameters: Vec::new(), copy_up: false }
        };
        Mount {
            destination: destination.to_owned(),
            source,
            attributes: Attributes::default(),
            implied_clear: 0,
            recursive_attributes: Attributes::default(),
            propagation: Vec::new(),
            destination_nofollow: false,
            idmap: None,
        }
    }

    #[test]
    fn mount_points_in_file_systems_that_criu_restores_are_left_to_it() {
        let mounts =
            [mount(c"/dev", false), mount(c"/dev/x", true), mount(c"/devices", true), mount(c"/devices/y", true)];
        let inside: Vec<bool> = mounts.iter().map(|mount| in_another_file_system(mount, &mounts)).collect();
        assert_eq!(inside, [false, true, false, false]);
    }
}
