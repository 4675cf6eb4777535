//! The mount API on descriptors: `fsopen`, `fsconfig`, `fsmount`, `open_tree`, `move_mount`,
//! `mount_setattr`, `pivot_root`, `umount2`.

use crate::{check, check_int, owned};
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr;

pub use libc::{
    MOUNT_ATTR_NOATIME, MOUNT_ATTR_NODEV, MOUNT_ATTR_NODIRATIME, MOUNT_ATTR_NOEXEC, MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_NOSYMFOLLOW, MOUNT_ATTR_RDONLY, MOUNT_ATTR_RELATIME, MOUNT_ATTR_STRICTATIME,
};
pub use libc::{MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};

/// Mask of the access-time attributes, which are one value and not single bits (`linux/mount.h`).
pub const MOUNT_ATTR_ATIME: u64 = 0x70;
/// Apply the user namespace of a descriptor to a mount (`linux/mount.h`).
const MOUNT_ATTR_IDMAP: u64 = 0x0010_0000;

const FSCONFIG_SET_FLAG: libc::c_uint = 0;
const FSCONFIG_SET_STRING: libc::c_uint = 1;
const FSCONFIG_SET_FD: libc::c_uint = 5;
const FSCONFIG_CMD_CREATE: libc::c_uint = 6;
const FSCONFIG_CMD_RECONFIGURE: libc::c_uint = 7;
const FSPICK_CLOEXEC: libc::c_uint = 1;
const FSPICK_EMPTY_PATH: libc::c_uint = 8;

/// A file system being configured.
#[derive(Debug)]
pub struct FsContext(OwnedFd);

impl FsContext {
    /// Starts the configuration of a new file system of this type.
    pub fn open(fstype: &CStr) -> io::Result<Self> {
        // SAFETY: `fstype` is a NUL-terminated string; 1 is FSOPEN_CLOEXEC.
        owned(unsafe { libc::syscall(libc::SYS_fsopen, fstype.as_ptr(), 1) }).map(Self)
    }

    /// Starts the reconfiguration of the file system whose mount's root `root` refers to.
    pub fn pick(root: BorrowedFd<'_>) -> io::Result<Self> {
        // SAFETY: the path is empty, which FSPICK_EMPTY_PATH allows.
        owned(unsafe {
            libc::syscall(libc::SYS_fspick, root.as_raw_fd(), c"".as_ptr(), FSPICK_CLOEXEC | FSPICK_EMPTY_PATH)
        })
        .map(Self)
    }

    /// Applies what was set to the file system that was picked.
    pub fn reconfigure(&self) -> io::Result<()> {
        self.config(FSCONFIG_CMD_RECONFIGURE, ptr::null(), ptr::null(), 0)
    }

    /// Sets `key` to `value`.
    pub fn set_string(&self, key: &CStr, value: &CStr) -> io::Result<()> {
        self.config(FSCONFIG_SET_STRING, key.as_ptr(), value.as_ptr(), 0)
    }

    /// Sets a key that has no value.
    pub fn set_flag(&self, key: &CStr) -> io::Result<()> {
        self.config(FSCONFIG_SET_FLAG, key.as_ptr(), ptr::null(), 0)
    }

    /// Sets `key` to a descriptor.
    pub fn set_fd(&self, key: &CStr, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.config(FSCONFIG_SET_FD, key.as_ptr(), ptr::null(), fd.as_raw_fd())
    }

    /// Makes the file system and mounts it, detached, with `MOUNT_ATTR_*` attributes.
    pub fn mount(&self, attributes: u64) -> io::Result<OwnedFd> {
        self.config(FSCONFIG_CMD_CREATE, ptr::null(), ptr::null(), 0)?;
        // SAFETY: fsmount takes integers; 1 is FSMOUNT_CLOEXEC.
        owned(unsafe { libc::syscall(libc::SYS_fsmount, self.0.as_raw_fd(), 1, attributes as libc::c_uint) })
    }

    fn config(
        &self,
        command: libc::c_uint,
        key: *const libc::c_char,
        value: *const libc::c_char,
        aux: libc::c_int,
    ) -> io::Result<()> {
        // SAFETY: `key` and `value` are NUL-terminated or null, as each command of fsconfig(2) demands;
        // this function is private and its callers above pass them so.
        check(unsafe { libc::syscall(libc::SYS_fsconfig, self.0.as_raw_fd(), command, key, value, aux) }).map(drop)
    }

    /// The last message the file system left about this configuration, without its severity.
    pub fn message(&self) -> Option<String> {
        let mut buffer = [0u8; 512];
        // SAFETY: the pointer and the length describe `buffer`.
        let result = unsafe { libc::read(self.0.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
        let length = usize::try_from(result).ok()?;
        let text = String::from_utf8_lossy(&buffer[..length]).trim().to_string();
        Some(text.split_once(' ').map_or(text.clone(), |(_, rest)| rest.to_string()))
    }
}

/// Opens `path` below `directory` as a new detached copy of its mount; with `recursive`, of the whole tree.
pub fn clone_tree(directory: Option<BorrowedFd<'_>>, path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_EMPTY_PATH as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    let directory = directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd());
    // SAFETY: `path` is a NUL-terminated string, the others are integers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, directory, path.as_ptr(), flags) })
}

/// As [`clone_tree`] from the working directory, but a symbolic link at the end of `path` is what is copied.
pub fn clone_tree_nofollow(path: &CStr, recursive: bool) -> io::Result<OwnedFd> {
    let mut flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_SYMLINK_NOFOLLOW as libc::c_uint;
    if recursive {
        flags |= libc::AT_RECURSIVE as libc::c_uint;
    }
    // SAFETY: `path` is a NUL-terminated string, the others are integers.
    owned(unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) })
}

/// Attaches the mount `mount` on what `target` refers to.
pub fn move_mount(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    let flags = libc::MOVE_MOUNT_F_EMPTY_PATH | libc::MOVE_MOUNT_T_EMPTY_PATH;
    // SAFETY: both paths are empty NUL-terminated strings, which the flags allow.
    let result = unsafe {
        libc::syscall(libc::SYS_move_mount, mount.as_raw_fd(), c"".as_ptr(), target.as_raw_fd(), c"".as_ptr(), flags)
    };
    check(result).map(drop)
}

/// What [`set_attributes`] changes of a mount.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Attributes {
    /// `MOUNT_ATTR_*` to set.
    pub set: u64,
    /// `MOUNT_ATTR_*` to clear.
    pub clear: u64,
    /// One of `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED`, `MS_UNBINDABLE`, or zero to leave it.
    pub propagation: u64,
}

/// `mount_setattr(2)` on the mount that `mount` refers to; with `recursive`, on all below it too.
pub fn set_attributes(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool) -> io::Result<()> {
    setattr(mount, attributes, recursive, 0)
}

/// Maps the ids of a detached mount as the user namespace `userns` does.
pub fn set_idmap(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>, recursive: bool) -> io::Result<()> {
    let attributes = Attributes { set: MOUNT_ATTR_IDMAP, ..Attributes::default() };
    setattr(mount, attributes, recursive, userns.as_raw_fd() as u64)
}

fn setattr(mount: BorrowedFd<'_>, attributes: Attributes, recursive: bool, userns_fd: u64) -> io::Result<()> {
    let args = libc::mount_attr {
        attr_set: attributes.set,
        attr_clr: attributes.clear,
        propagation: attributes.propagation,
        userns_fd,
    };
    let mut flags = libc::AT_EMPTY_PATH;
    if recursive {
        flags |= libc::AT_RECURSIVE;
    }
    // SAFETY: the path is empty, which AT_EMPTY_PATH allows; `args` is a mount_attr of the size given.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const args,
            size_of::<libc::mount_attr>(),
        )
    };
    check(result).map(drop)
}

/// The older `mount(2)` with a data string, for what the new API cannot do on older kernels.
pub fn mount_legacy(source: &CStr, target: &CStr, fstype: &CStr, flags: u64, data: &CStr) -> io::Result<()> {
    // SAFETY: all pointers are NUL-terminated strings that outlive the call.
    check_int(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), fstype.as_ptr(), flags, data.as_ptr().cast()) })
        .map(drop)
}

/// Makes the working directory, which must be a mount point, the root, and stacks the old root on it.
pub fn pivot_root_here() -> io::Result<()> {
    // SAFETY: both paths are NUL-terminated strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Detaches the mount at `path`, without following a symbolic link in its last component.
pub fn detach(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is a NUL-terminated string.
    check_int(unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) }).map(drop)
}

/// A directory as it stands in overlay's list of layers, where the separator and the escape itself are escaped.
pub fn overlay_layer(path: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(path.len());
    for byte in path {
        if matches!(byte, b':' | b'\\' | b',') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    bytes
}
