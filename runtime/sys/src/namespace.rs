//! Namespaces, and what is set inside a new one: host names and the loopback device.

use crate::{check_int, owned};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Joins the namespaces `kinds` (`CLONE_NEW*`) of a pidfd, or the one namespace a descriptor refers to.
pub fn join(fd: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: setns takes two integers.
    check_int(unsafe { libc::setns(fd.as_raw_fd(), kinds) }).map(drop)
}

/// Which kind of namespace (`CLONE_NEW*`) a descriptor refers to.
///
/// # Errors
/// `ENOTTY` if it is no namespace.
pub fn kind_of(fd: BorrowedFd<'_>) -> io::Result<i32> {
    // SAFETY: NS_GET_NSTYPE takes no argument.
    check_int(unsafe { libc::ioctl(fd.as_raw_fd(), libc::NS_GET_NSTYPE) })
}

/// Moves the caller into new namespaces `kinds`.
pub fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: unshare takes an integer. The callers are single-threaded, so nothing shared changes hands.
    check_int(unsafe { libc::unshare(kinds) }).map(drop)
}

/// Sets the host name of the uts namespace.
pub fn set_hostname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check_int(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the NIS domain name of the uts namespace.
pub fn set_domainname(name: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `name`.
    check_int(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}

/// Sets the loopback device of the network namespace up.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: socket takes integers.
    let socket = owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) }.into())?;
    // SAFETY: ifreq is plain data for which all zeroes is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads an ifreq with name and flags set, and `request` is one.
    check_int(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) }).map(drop)
}
