//! User and group ids, capabilities, `no_new_privs`.
//!
//! The id calls go to the kernel directly: the C library's versions signal every thread of the process,
//! which a freshly cloned child must not do.

use crate::{check, check_int};
use std::io;

const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const PR_CAP_AMBIENT: libc::c_int = 47;
const PR_CAP_AMBIENT_RAISE: libc::c_ulong = 2;
const PR_CAP_AMBIENT_CLEAR_ALL: libc::c_ulong = 4;

/// The three capability sets of a thread; bit N is capability N.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct CapabilitySets {
    pub effective: u64,
    pub permitted: u64,
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Sets real, effective and saved user id.
///
/// # Errors
/// `EINVAL` for the largest number, which would mean "unchanged" here.
pub fn set_user(uid: u32) -> io::Result<()> {
    refuse_unchanged(uid)?;
    // SAFETY: setresuid takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// Sets real, effective and saved group id.
///
/// # Errors
/// As [`set_user`].
pub fn set_group(gid: u32) -> io::Result<()> {
    refuse_unchanged(gid)?;
    // SAFETY: setresgid takes integers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

fn refuse_unchanged(id: u32) -> io::Result<()> {
    if id == u32::MAX { Err(io::Error::from_raw_os_error(libc::EINVAL)) } else { Ok(()) }
}

/// Replaces the supplementary groups.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and count describe `groups`.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// The effective user id.
pub fn effective_user() -> u32 {
    // SAFETY: geteuid has no preconditions and cannot fail.
    unsafe { libc::geteuid() }
}

/// The effective group id.
pub fn effective_group() -> u32 {
    // SAFETY: getegid has no preconditions and cannot fail.
    unsafe { libc::getegid() }
}

/// The capability sets of the caller.
pub fn capabilities() -> io::Result<CapabilitySets> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 reads a header and fills two data blocks, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw mut header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

/// Replaces the capability sets of the caller.
pub fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let mut header = CapHeader { version: CAPABILITY_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 reads a header and two data blocks, which is what is passed.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw mut header, data.as_ptr()) }).map(drop)
}

/// Whether the bounding set has this capability; `EINVAL` for one the kernel does not know.
pub fn bounding_has(capability: u8) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, capability.into(), 0).map(|value| value == 1)
}

/// Removes a capability from the bounding set.
pub fn bounding_drop(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, capability.into(), 0).map(drop)
}

/// Empties the ambient set.
pub fn ambient_clear() -> io::Result<()> {
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0).map(drop)
}

/// Adds a capability to the ambient set; it must be permitted and inheritable.
pub fn ambient_raise(capability: u8) -> io::Result<()> {
    prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, capability.into()).map(drop)
}

/// Whether permitted capabilities survive a change from user 0 to another.
pub fn set_keep_capabilities(keep: bool) -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, keep.into(), 0).map(drop)
}

/// No exec of this process or its descendants gains privileges from here on.
pub fn set_no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

fn prctl(option: libc::c_int, first: libc::c_ulong, second: libc::c_ulong) -> io::Result<libc::c_int> {
    // SAFETY: every option used in this module takes plain integers.
    check_int(unsafe { libc::prctl(option, first, second, 0 as libc::c_ulong, 0 as libc::c_ulong) })
}
