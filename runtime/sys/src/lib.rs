//! `wharf-sys`: safe calls over the kernel interfaces that Wharf needs, grouped by kernel family.
//!
//! This is the only crate of the project that may write `unsafe`. It knows descriptors, paths and
//! flags, never containers. Descriptors are taken as `BorrowedFd` and returned as `OwnedFd`, always
//! close-on-exec. What `std` offers safely is not repeated here.
//!
//! | module | kernel family |
//! |---|---|
//! | [`bpf`] | cgroup device programs |
//! | [`clone`] | `clone3` |
//! | [`credential`] | user and group ids, capabilities, `no_new_privs` |
//! | [`entry`] | the start of a program, before that of its C library |
//! | [`errno`] | names of error numbers |
//! | [`event`] | `epoll`, `eventfd`, `signalfd`, signal masks |
//! | [`fs`] | `openat2` and the `*at` calls, `statfs` magics, `memfd` |
//! | [`limit`] | resource limits, scheduling, io priority, affinity |
//! | [`mount`] | the mount API on descriptors |
//! | [`namespace`] | `setns`, `unshare`, host names, loopback |
//! | [`pidfd`] | processes as descriptors |
//! | [`process`] | exec, sessions, `prctl`, `close_range`, keyrings |
//! | [`seccomp`] | loading of filters |
//! | [`socket`] | unix sockets that carry descriptors |
//! | [`terminal`] | pseudo terminals and raw mode |
//! | [`xattr`] | extended attributes |

pub mod bpf;
pub mod clone;
pub mod credential;
#[cfg(target_arch = "x86_64")]
pub mod entry;
pub mod errno;
pub mod event;
pub mod fs;
pub mod limit;
pub mod memory;
pub mod mount;
pub mod namespace;
pub mod pidfd;
pub mod process;
pub mod seccomp;
pub mod socket;
pub mod terminal;
pub mod xattr;

use std::io;
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// Turns the kernel's -1 into the error it left in `errno`.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result == -1 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// As [`check`], for calls of the C library that return an `int`.
fn check_int(result: libc::c_int) -> io::Result<libc::c_int> {
    check(result.into()).map(|value| value as libc::c_int)
}

/// Takes ownership of a descriptor that the kernel has just returned.
fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let raw = check(result)? as RawFd;
    // SAFETY: the call that produced `raw` succeeded, so it is a new descriptor that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(raw) })
}
