//! `tmpcopyup`: a tmpfs that starts with what the directory under it holds.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use wharf_sys::{errno, fs};

const DIRECTORY: i32 = fs::O_RDONLY | fs::O_DIRECTORY | fs::O_NOFOLLOW;

/// Copies the contents of one directory into another, with owners and modes; links are copied, never followed.
/// Files of other kinds (sockets, devices) are left out: they belong to whoever made them.
pub(crate) fn copy_contents(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    let from = fs::open_at(Some(from), c".", DIRECTORY, 0, 0)?;
    let to = fs::open_at(Some(to), c".", DIRECTORY, 0, 0)?;
    copy_owner(&from, &to)?;
    // Through the host's /proc, which this process still has.
    for entry in std::fs::read_dir(format!("/proc/self/fd/{}", from.as_raw_fd()))? {
        let name = CString::new(entry?.file_name().as_bytes()).map_err(|_| errno::error(errno::EINVAL))?;
        copy_one(&from, &to, &name)?;
    }
    Ok(())
}

fn copy_one(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> io::Result<()> {
    let status = fs::status_of(Some(from.as_fd()), name, false)?;
    if status.is(fs::S_IFDIR) {
        fs::mkdir_at(to.as_fd(), name, 0o700)?;
        let open = |directory: &OwnedFd| fs::open_at(Some(directory.as_fd()), name, DIRECTORY, 0, fs::RESOLVE_BENEATH);
        copy_contents(open(from)?.as_fd(), open(to)?.as_fd())
    } else if status.is(fs::S_IFREG) {
        let flags = fs::O_RDONLY | fs::O_NOFOLLOW;
        let mut source = File::from(fs::open_at(Some(from.as_fd()), name, flags, 0, fs::RESOLVE_BENEATH)?);
        let flags = fs::O_WRONLY | fs::O_CREAT | fs::O_EXCL | fs::O_NOFOLLOW;
        let target = fs::open_at(Some(to.as_fd()), name, flags, 0o600, fs::RESOLVE_BENEATH)?;
        let mut target = File::from(target);
        io::copy(&mut source, &mut target)?;
        copy_owner(&OwnedFd::from(source), &OwnedFd::from(target))
    } else if status.is(fs::S_IFLNK) {
        let link = fs::read_link_at(Some(from.as_fd()), name)?;
        fs::symlink_at(&fs::c_path(&link)?, to.as_fd(), name)?;
        let copy = fs::open_at(Some(to.as_fd()), name, fs::O_PATH | fs::O_NOFOLLOW, 0, fs::RESOLVE_BENEATH)?;
        fs::change_owner(copy.as_fd(), status.uid, status.gid)
    } else {
        Ok(())
    }
}

fn copy_owner(from: &OwnedFd, to: &OwnedFd) -> io::Result<()> {
    let status = fs::status(from.as_fd())?;
    fs::change_owner(to.as_fd(), status.uid, status.gid)?;
    fs::change_mode(to.as_fd(), status.mode & 0o7777)
}
