//! `clone3(2)`.

use crate::check;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

pub use libc::{
    CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWTIME, CLONE_NEWUSER, CLONE_NEWUTS,
};

/// Start the child in a cgroup v2 directory (`linux/sched.h`).
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
/// Exit code of a child whose closure panicked.
const PANIC_EXIT: i32 = 255;

/// What the parent holds of a new process.
#[derive(Debug)]
pub struct Child {
    /// The id in the caller's pid namespace.
    pub pid: i32,
    pub pidfd: OwnedFd,
}

/// How [`spawn`] makes the process.
#[derive(Debug, Default, Clone, Copy)]
pub struct CloneOptions<'a> {
    /// `CLONE_NEW*` flags.
    pub namespaces: i32,
    /// The cgroup v2 directory in which the child starts.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The child becomes a child of the caller's parent.
    pub sibling: bool,
}

/// Clones the calling process. The child runs `body` on a copy of the memory and exits with its value;
/// it never returns into the caller's code.
///
/// The caller must be single-threaded: locks held by other threads, the allocator's among them, would
/// stay locked in the child for ever.
///
/// # Errors
/// Those of `clone3(2)`.
pub fn spawn(options: CloneOptions<'_>, body: impl FnOnce() -> i32) -> io::Result<Child> {
    let mut pidfd: RawFd = -1;
    let mut flags = libc::CLONE_PIDFD as u64 | u64::from(options.namespaces as u32);
    let mut args = libc::clone_args {
        flags: 0,
        pidfd: &raw mut pidfd as u64,
        child_tid: 0,
        parent_tid: 0,
        exit_signal: libc::SIGCHLD as u64,
        stack: 0,
        stack_size: 0,
        tls: 0,
        set_tid: 0,
        set_tid_size: 0,
        cgroup: 0,
    };
    if let Some(cgroup) = options.cgroup {
        flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    if options.sibling {
        // The exit signal is then the one of the caller itself, and must be given as zero.
        flags |= libc::CLONE_PARENT as u64;
        args.exit_signal = 0;
    }
    args.flags = flags;
    // SAFETY: `args` is a valid clone_args of the size given and `pidfd` outlives the call. Without
    // CLONE_VM the child has its own copy of the address space and a stack of its own, so no memory
    // of the parent can be touched by it.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) };
    if result == 0 {
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(PANIC_EXIT);
        // SAFETY: _exit has no preconditions; it skips the exit handlers, which belong to the parent.
        unsafe { libc::_exit(code) }
    }
    let pid = check(result)? as i32;
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so the kernel stored a new descriptor in `pidfd`.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Ok(Child { pid, pidfd })
}
