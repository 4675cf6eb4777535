//! Owner, mode, extended attributes and times of what a layer describes.

use std::os::fd::BorrowedFd;

use rustix::fs::{self, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::{UnpackError, failed, refused};
use crate::tar_stream::Member;
use crate::whiteout;

/// Owner before mode, because chown clears setuid; attributes last, because both clear file capabilities.
///
/// What is so already is left: a change is written to the file system's journal, a look is not.
pub(super) fn attributes(descriptor: BorrowedFd<'_>, member: &Member) -> Result<(), UnpackError> {
    const PERMISSIONS: u32 = 0o7777;
    let (uid, gid) = owner(member)?;
    let now = fs::fstat(descriptor).map_err(failed(member, "stat"))?;
    let is_owners = (now.st_uid, now.st_gid) == (uid.as_raw(), gid.as_raw());
    if !is_owners {
        fs::fchown(descriptor, Some(uid), Some(gid)).map_err(failed(member, "chown"))?;
    }
    if !is_owners || now.st_mode & PERMISSIONS != member.mode {
        fs::fchmod(descriptor, Mode::from_raw_mode(member.mode)).map_err(failed(member, "chmod"))?;
    }
    for (name, value) in wanted_xattrs(member) {
        xattr_result(fs::fsetxattr(descriptor, name, value, XattrFlags::empty()), name, member)?;
    }
    Ok(())
}

/// Without overlayfs' own attributes (a layer could redirect lookups with them), ours, and the builder's SELinux label.
pub(super) fn wanted_xattrs(member: &Member) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = member.xattrs.iter().map(|(name, value)| (&**name, &**value));
    all.filter(|(name, _)| !whiteout::is_mark(name) && *name != b"security.selinux")
}

pub(super) fn xattr_result(result: Result<(), Errno>, name: &[u8], member: &Member) -> Result<(), UnpackError> {
    match result {
        // A file system without this class of attributes; without capabilities a program would not work.
        Err(Errno::OPNOTSUPP) if name != b"security.capability" => Ok(()),
        // `user.` attributes exist on files and directories only (xattr(7)).
        Err(Errno::PERM) if name.starts_with(b"user.") => Ok(()),
        other => other.map_err(failed(member, "set extended attribute")),
    }
}

pub(super) fn owner(member: &Member) -> Result<(Uid, Gid), UnpackError> {
    let id = |id: u64, what: &str| match u32::try_from(id) {
        // The kernel takes the last one for "leave as it is".
        Ok(id) if id != u32::MAX => Ok(id),
        _ => Err(refused(member, format!("{what} {id} is no 32-bit id"))),
    };
    Ok((Uid::from_raw(id(member.uid, "owner")?), Gid::from_raw(id(member.gid, "group")?)))
}

pub(super) fn times((seconds, nanoseconds): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanoseconds) };
    Timestamps { last_access: time, last_modification: time }
}
