//! The file systems a Debian machine has, with one pure cgroup v2 hierarchy.

use anyhow::{Context, Result};
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, mount_move, unmount,
};
use rustix::process::{chdir, chroot};
use std::ffi::CStr;
use std::fs;
use std::os::unix::fs::symlink;
use vm_tests::guest;

const CGROUP: &str = "/sys/fs/cgroup";

/// `pivot_root` refuses to leave the initramfs, which has no parent mount (pivot_root(2), EINVAL). Bound onto itself it
/// has one, without being copied.
pub fn bind_root() -> rustix::io::Result<()> {
    mount_bind("/", guest::NEW_ROOT)?;
    chdir(guest::NEW_ROOT)?;
    mount_move(".", "/")?;
    chroot(".")?;
    chdir("/")?;
    // As systemd does.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
}

/// Mounts the disk, whose node the kernel makes in a file system that is not needed after that. An error of its file system is a panic: the power was cut, and the
/// journal did not do what it is for.
pub fn mount_disk(directory: &str) -> Result<()> {
    const DEVICE: &str = "/dev/vda";
    mount("devtmpfs", "/dev", "devtmpfs", MountFlags::NOSUID, c"mode=755").context("mount devtmpfs on /dev")?;
    fs::create_dir_all(directory).with_context(|| format!("make {directory}"))?;
    mount(DEVICE, directory, "ext4", MountFlags::empty(), c"errors=panic")
        .with_context(|| format!("mount {DEVICE} on {directory}"))?;
    unmount("/dev", UnmountFlags::empty()).context("unmount /dev")
}

pub fn mount_all() -> Result<()> {
    let (safe, device) = (MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, MountFlags::NOSUID);
    // On Debian /tmp belongs to the root file system: devices and set-user-id programs in it work.
    let table: [(&str, &str, MountFlags, &CStr); 9] = [
        ("proc", "/proc", safe, c""),
        ("sysfs", "/sys", safe, c""),
        ("devtmpfs", "/dev", device, c"mode=755"),
        ("devpts", "/dev/pts", device | MountFlags::NOEXEC, c"mode=620,ptmxmode=666,gid=5"),
        ("tmpfs", "/dev/shm", MountFlags::NOSUID | MountFlags::NODEV, c"mode=1777"),
        ("mqueue", "/dev/mqueue", safe, c""),
        ("cgroup2", CGROUP, safe, c"nsdelegate,memory_recursiveprot"),
        ("tmpfs", "/run", MountFlags::NOSUID | MountFlags::NODEV, c"mode=755"),
        ("tmpfs", "/tmp", MountFlags::empty(), c"mode=1777"),
    ];
    for (kind, target, flags, options) in table {
        fs::create_dir_all(target).with_context(|| format!("make {target}"))?;
        mount(kind, target, kind, flags, options).with_context(|| format!("mount {kind} on {target}"))?;
    }
    for (name, target) in [("fd", "fd"), ("stdin", "fd/0"), ("stdout", "fd/1"), ("stderr", "fd/2")] {
        let link = format!("/dev/{name}");
        symlink(format!("/proc/self/{target}"), &link).with_context(|| format!("link {link}"))?;
    }
    Ok(())
}

/// Gives every controller of the kernel to the groups below the root.
pub fn enable_controllers() -> Result<()> {
    let available = fs::read_to_string(format!("{CGROUP}/cgroup.controllers")).context("read cgroup.controllers")?;
    let all: Vec<String> = available.split_whitespace().map(|name| format!("+{name}")).collect();
    let control = format!("{CGROUP}/cgroup.subtree_control");
    fs::write(&control, all.join(" ")).with_context(|| format!("write {} to {control}", all.join(" ")))
}
