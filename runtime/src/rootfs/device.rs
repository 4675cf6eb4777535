//! Device nodes and the links of `/dev` (runtime-spec, runtime-linux.md#dev-symbolic-links).

use super::target;
use crate::handshake::{At, Failure, Step};
use crate::plan::Device;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::{errno, fs, mount, process};

/// Links every container has in `/dev`.
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];

/// Makes all nodes. With `bind` the host's nodes are bound instead, as a user namespace may not make any.
pub(crate) fn make_all(root: BorrowedFd<'_>, devices: &[Device], bind: bool) -> Result<(), Failure> {
    let mask = process::set_umask(0);
    let mut parents = Parents::of(root);
    let result = devices.iter().try_for_each(|device| {
        let mut make = || if bind { bind_node(&mut parents, device) } else { make_node(&mut parents, device) };
        make().at(Step::Device, target::shown(&device.path))
    });
    process::set_umask(mask);
    result
}

/// The directory of the last device is most often that of the next.
struct Parents<'a> {
    root: BorrowedFd<'a>,
    last: Option<(CString, OwnedFd)>,
}

impl<'a> Parents<'a> {
    fn of(root: BorrowedFd<'a>) -> Self {
        Self { root, last: None }
    }

    /// The directory of `path`, made if it is missing, and the name in it.
    fn parent(&mut self, path: &CStr) -> io::Result<(BorrowedFd<'_>, CString)> {
        let (directory, name) = target::split(path);
        let last = match self.last.take() {
            Some(last) if last.0 == directory => last,
            _ => (directory, target::parent(self.root, path)?.0),
        };
        Ok((self.last.insert(last).1.as_fd(), name))
    }
}

fn make_node(parents: &mut Parents<'_>, device: &Device) -> io::Result<()> {
    let (parent, name) = parents.parent(&device.path)?;
    match fs::mknod_at(parent, &name, device.mode, device.major, device.minor) {
        Ok(()) => {}
        // A node that is already what was asked for is fine, anything else must not be used in its place.
        Err(error) if error.raw_os_error() == Some(errno::EEXIST) => {
            let status = fs::status_of(Some(parent), &name, false)?;
            if !status.is(device.mode & fs::S_IFMT) || status.rdev != (device.major, device.minor) {
                return Err(error);
            }
            return Ok(());
        }
        Err(error) if error.raw_os_error() == Some(errno::EPERM) => return bind_node(parents, device),
        Err(error) => return Err(error),
    }
    if (device.uid, device.gid) != (0, 0) {
        let node = fs::open_at(Some(parent), &name, fs::O_PATH | fs::O_NOFOLLOW, 0, fs::RESOLVE_BENEATH)?;
        fs::change_owner(node.as_fd(), device.uid, device.gid)?;
    }
    Ok(())
}

fn bind_node(parents: &mut Parents<'_>, device: &Device) -> io::Result<()> {
    let tree = mount::clone_tree(None, &device.path, false)?;
    let status = fs::status(tree.as_fd())?;
    if !status.is(device.mode & fs::S_IFMT) || status.rdev != (device.major, device.minor) {
        return Err(errno::error(errno::ENODEV));
    }
    let (parent, name) = parents.parent(&device.path)?;
    let place = target::file(parent, &name, 0o644)?;
    mount::move_mount(tree.as_fd(), place.as_fd())
}

/// Makes the links; what the image or a mount already has under a name stays, except `ptmx`, which must lead
/// to the container's own pseudo terminals.
pub(crate) fn make_links(root: BorrowedFd<'_>) -> Result<(), Failure> {
    let (dev, _) = target::parent(root, c"/dev/x").at(Step::Link, "/dev")?;
    for (target, name) in LINKS {
        let make = || match fs::symlink_at(target, dev.as_fd(), name) {
            Err(error) if error.raw_os_error() == Some(errno::EEXIST) && name == c"ptmx" => {
                fs::unlink_at(dev.as_fd(), name)?;
                fs::symlink_at(target, dev.as_fd(), name)
            }
            Err(error) if error.raw_os_error() == Some(errno::EEXIST) => Ok(()),
            other => other,
        };
        make().at(Step::Link, format!("/dev/{}", target::shown(name)))?;
    }
    if fs::open_in_root(root, c"/proc/kcore", fs::O_PATH, 0).is_ok() {
        match fs::symlink_at(c"/proc/kcore", dev.as_fd(), c"core") {
            Err(error) if error.raw_os_error() != Some(errno::EEXIST) => return Err(error).at(Step::Link, "/dev/core"),
            _ => {}
        }
    }
    Ok(())
}
