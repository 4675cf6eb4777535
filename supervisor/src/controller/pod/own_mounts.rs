//! What is mounted beneath a pod's folder: volumes in memory, and parts of volumes.

use std::ffi::{CString, OsString};
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags, statx};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

/// Mounts a file system in memory at an empty directory, unless it is there; `bytes` bound it.
pub(super) fn mount_memory(path: &Path, bytes: i64) -> io::Result<()> {
    if is_mount_point(path) {
        return Ok(());
    }
    let options = CString::new(format!("mode=777,size={bytes}"))?;
    Ok(mount("tmpfs", path, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, options.as_c_str())?)
}

pub(super) fn is_mount_point(path: &Path) -> bool {
    statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Takes away whatever is mounted at a path, if anything is.
pub(super) fn unmount_all(path: &Path) -> io::Result<()> {
    while is_mount_point(path) {
        unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    Ok(())
}

/// Takes away whatever is mounted beneath `folder`, containers' own mounts included: what is removed there afterwards is
/// the folder's alone.
///
/// # Errors
/// Something is still mounted there.
pub(in crate::controller) fn unmount_beneath(folder: &Path) -> io::Result<()> {
    for point in points_beneath(&std::fs::read_to_string("/proc/self/mountinfo")?, folder).into_iter().rev() {
        unmount(&point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    }
    match points_beneath(&std::fs::read_to_string("/proc/self/mountinfo")?, folder).first() {
        Some(left) => Err(io::Error::other(format!("{} is still mounted", left.display()))),
        None => Ok(()),
    }
}

/// Mount points beneath a folder, in the order they were mounted (proc_pid_mountinfo(5)).
fn points_beneath(mountinfo: &str, folder: &Path) -> Vec<PathBuf> {
    let points = mountinfo.lines().filter_map(|line| line.split(' ').nth(4)).map(unescaped);
    points.filter(|point| point != folder && point.starts_with(folder)).collect()
}

/// Spaces, tabs, line breaks and backslashes are three octal digits after a backslash.
fn unescaped(text: &str) -> PathBuf {
    let bytes = text.as_bytes();
    let mut path = Vec::with_capacity(bytes.len());
    let mut index = 0;
    while index < bytes.len() {
        let code = text.get(index + 1..index + 4).filter(|_| bytes[index] == b'\\');
        match code.and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => {
                path.push(byte);
                index += 4;
            }
            None => {
                path.push(bytes[index]);
                index += 1;
            }
        }
    }
    OsString::from_vec(path).into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt;

    #[test]
    fn mounts_beneath_a_folder_are_found_whatever_their_names_are() {
        let line = |point: &str| format!("36 35 0:5 / {point} rw,relatime - tmpfs shm rw");
        let text = [line("/a"), line("/a/b\\040c"), line("/ab/c"), line("/a/d"), line("/")].join("\n");
        assert_eq!(points_beneath(&text, Path::new("/a")), [Path::new("/a/b c"), Path::new("/a/d")]);
        assert_eq!(unescaped("x\\").as_os_str().as_bytes(), b"x\\");
    }
}
