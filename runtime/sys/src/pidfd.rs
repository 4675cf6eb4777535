//! Processes as descriptors: no pid is ever used twice by mistake.

use crate::{check, check_int, owned};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// The exit code.
    Code(i32),
    /// The signal that killed it.
    Signal(i32),
}

impl Exit {
    /// The value a shell reports: the code, or 128 plus the signal.
    pub fn shell_code(self) -> i32 {
        match self {
            Exit::Code(code) => code,
            Exit::Signal(signal) => 128 + signal,
        }
    }
}

/// Opens the process `pid`, which need not be a child.
pub fn open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes two integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
}

/// Sends a signal. `ESRCH` if the process has been reaped.
pub fn send_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: the siginfo pointer may be null; the other arguments are integers.
    let result = unsafe {
        libc::syscall(libc::SYS_pidfd_send_signal, pidfd.as_raw_fd(), signal, std::ptr::null::<libc::siginfo_t>(), 0)
    };
    check(result).map(drop)
}

/// Waits for a child and reaps it.
pub fn wait(pidfd: BorrowedFd<'_>) -> io::Result<Exit> {
    loop {
        match wait_with(pidfd, 0) {
            Ok(Some(exit)) => return Ok(exit),
            Ok(None) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reaps a child if it has ended; `None` while it runs.
pub fn try_wait(pidfd: BorrowedFd<'_>) -> io::Result<Option<Exit>> {
    wait_with(pidfd, libc::WNOHANG)
}

fn wait_with(pidfd: BorrowedFd<'_>, flags: libc::c_int) -> io::Result<Option<Exit>> {
    // SAFETY: siginfo_t is plain data for which all zeroes is a valid value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let id = pidfd.as_raw_fd() as libc::id_t;
    // SAFETY: `info` is a valid siginfo_t for the duration of the call.
    check_int(unsafe { libc::waitid(libc::P_PIDFD, id, &raw mut info, libc::WEXITED | flags) })?;
    // SAFETY: waitid succeeded, so the SIGCHLD members are the active ones (or all zero with WNOHANG).
    let (pid, status) = unsafe { (info.si_pid(), info.si_status()) };
    if pid == 0 {
        return Ok(None);
    }
    Ok(Some(if info.si_code == libc::CLD_EXITED { Exit::Code(status) } else { Exit::Signal(status) }))
}

/// Waits until the process has ended or `timeout_ms` milliseconds passed (`-1`: for ever), without reaping.
/// True if it has ended.
pub fn poll_exit(pidfd: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<bool> {
    crate::event::wait_readable(pidfd, timeout_ms)
}

/// Duplicates descriptor number `fd` of another process.
pub fn get_fd(pidfd: BorrowedFd<'_>, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_getfd takes three integers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, pidfd.as_raw_fd(), fd, 0) })
}
