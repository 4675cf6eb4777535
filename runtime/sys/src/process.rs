//! The process itself: exec, sessions, descriptors, `prctl`, keyrings.

use crate::{check, check_int, owned};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

/// Strings prepared for `execve`: a null-terminated array of pointers beside the strings it points to.
#[derive(Debug)]
pub struct CStringArray {
    strings: Vec<CString>,
    pointers: Vec<usize>,
}

impl CStringArray {
    pub fn new(strings: Vec<CString>) -> Self {
        let mut array = Self { strings, pointers: Vec::new() };
        array.index();
        array
    }

    /// Adds a string at the end.
    pub fn push(&mut self, string: CString) {
        self.strings.push(string);
        self.index();
    }

    pub fn strings(&self) -> &[CString] {
        &self.strings
    }

    // The pointers are kept as integers so that the type stays Send; a CString's buffer does not move
    // when the vector around it does.
    fn index(&mut self) {
        self.pointers = self.strings.iter().map(|string| string.as_ptr() as usize).chain([0]).collect();
    }

    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr().cast()
    }
}

/// Replaces the program. Returns only on failure.
pub fn exec(program: &CStr, arguments: &CStringArray, environment: &CStringArray) -> io::Error {
    // SAFETY: `program` is NUL-terminated; both arrays are null-terminated arrays of pointers to strings
    // that they own.
    unsafe { libc::execve(program.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// As [`exec`], of the open file `program`.
pub fn exec_descriptor(program: BorrowedFd<'_>, arguments: &CStringArray, environment: &CStringArray) -> io::Error {
    // SAFETY: the path is empty, which AT_EMPTY_PATH allows; both arrays are null-terminated arrays of pointers
    // to strings that they own.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    io::Error::last_os_error()
}

/// Ends the process at once, without exit handlers.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: _exit has no preconditions.
    unsafe { libc::_exit(code) }
}

/// Starts a new session.
pub fn new_session() -> io::Result<()> {
    // SAFETY: setsid has no arguments.
    check_int(unsafe { libc::setsid() }).map(drop)
}

/// Sets the file mode creation mask and returns the old one.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: umask takes an integer and cannot fail.
    unsafe { libc::umask(mask) }
}

/// Makes an open directory the working directory.
pub fn change_directory(directory: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: fchdir takes an integer.
    check_int(unsafe { libc::fchdir(directory.as_raw_fd()) }).map(drop)
}

/// Makes `path` the working directory.
pub fn change_directory_to(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is NUL-terminated.
    check_int(unsafe { libc::chdir(path.as_ptr()) }).map(drop)
}

/// Makes the working directory the root directory.
pub fn change_root_here() -> io::Result<()> {
    // SAFETY: the path is NUL-terminated.
    check_int(unsafe { libc::chroot(c".".as_ptr()) }).map(drop)
}

/// The kernel's name of the working directory starts with `/` exactly if it lies under the root.
pub fn working_directory_is_inside_root() -> io::Result<bool> {
    let mut buffer = [0u8; 4096];
    // SAFETY: pointer and length describe `buffer`.
    check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) })?;
    Ok(buffer[0] == b'/')
}

/// Sets close-on-exec on every descriptor from `first` on.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOEXEC: libc::c_uint = 1 << 2;
    // SAFETY: with CLOSE_RANGE_CLOEXEC nothing is closed, so no owned descriptor becomes invalid.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, libc::c_uint::MAX, CLOEXEC) }).map(drop)
}

/// Closes every descriptor above stdio but these, in a process whose other owned descriptors are never used or
/// dropped again: it ends by `exec` or `_exit`.
pub fn close_all_but(kept: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut numbers: Vec<libc::c_uint> = kept.iter().map(|fd| fd.as_raw_fd() as libc::c_uint).collect();
    numbers.sort_unstable();
    let close = |first: libc::c_uint, last: libc::c_uint| {
        if first > last {
            return Ok(());
        }
        // SAFETY: takes integers. The caller promises that no owner of what is closed is used or dropped later.
        check(unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) }).map(drop)
    };
    let mut next = 3;
    for number in numbers {
        if number >= next {
            close(next, number - 1)?;
            next = number + 1;
        }
    }
    close(next, libc::c_uint::MAX)
}

/// Duplicates `fd` to exactly `number`, which stays open over exec.
///
/// # Errors
/// `EINVAL` if `number` is negative. What was open at `number` is replaced.
pub fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: F_SETFD takes an integer.
        return check_int(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }).map(drop);
    }
    // SAFETY: dup2 takes integers. Replacing `number` is the caller's stated wish: this is used on the
    // way to exec, when the descriptors 0 to 2 and those handed over are laid out.
    check_int(unsafe { libc::dup2(fd.as_raw_fd(), number) }).map(drop)
}

/// Duplicates `fd` to a number of at least `minimum`, close-on-exec.
pub fn duplicate_above(fd: BorrowedFd<'_>, minimum: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_DUPFD_CLOEXEC takes an integer and returns a new descriptor.
    owned(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, minimum) }.into())
}

/// Duplicates descriptor `number`, inherited from the parent program, close-on-exec.
///
/// # Errors
/// `EBADF` if it is not open, or is this program's own: those are all close-on-exec, as nothing inherited can be.
pub fn duplicate_inherited(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD on a closed number fails with EBADF; it changes nothing.
    let flags = check_int(unsafe { libc::fcntl(number, libc::F_GETFD) })?;
    if flags & libc::FD_CLOEXEC != 0 {
        return Err(io::Error::from_raw_os_error(libc::EBADF));
    }
    // SAFETY: F_DUPFD_CLOEXEC on a closed number fails with EBADF and otherwise returns a new descriptor.
    owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) }.into())
}

/// Lets /proc entries, core dumps and ptrace of this process need privileges (`false`), or not.
pub fn set_dumpable(dumpable: bool) -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, dumpable.into())
}

/// Orphans among the descendants become children of the caller.
pub fn set_child_subreaper(on: bool) -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, on.into())
}

/// The signal the caller receives when its parent dies; 0 for none.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong)
}

/// The name that `ps` shows, at most 15 bytes.
pub fn set_name(name: &CStr) -> io::Result<()> {
    prctl(libc::PR_SET_NAME, name.as_ptr() as libc::c_ulong)
}

fn prctl(option: libc::c_int, value: libc::c_ulong) -> io::Result<()> {
    let zero: libc::c_ulong = 0;
    // SAFETY: every option used in this module takes plain integers, but PR_SET_NAME, whose pointer is to a
    // NUL-terminated string that outlives the call.
    check_int(unsafe { libc::prctl(option, value, zero, zero, zero) }).map(drop)
}

/// Joins a new anonymous-to-others session keyring of this name.
pub fn join_session_keyring(name: &CStr) -> io::Result<i32> {
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: `name` is NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(|id| id as i32)
}

/// Sends a signal to a process by number; for processes that are not ours to open.
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: kill takes integers.
    check_int(unsafe { libc::kill(pid, signal) }).map(drop)
}

/// The anonymous pipe `(read end, write end)`, close-on-exec.
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends: [RawFd; 2] = [-1; 2];
    // SAFETY: `ends` has room for two descriptors.
    check_int(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    // SAFETY: pipe2 succeeded, so both are new descriptors.
    Ok(unsafe { (OwnedFd::from_raw_fd(ends[0]), OwnedFd::from_raw_fd(ends[1])) })
}

/// Number of the signal called `name`, with or without `SIG`, or given in digits.
pub fn signal_number(name: &str) -> Option<i32> {
    if let Ok(number) = name.parse::<i32>() {
        return (0..=64).contains(&number).then_some(number);
    }
    let upper = name.to_ascii_uppercase();
    let full = if upper.starts_with("SIG") { upper } else { format!("SIG{upper}") };
    full.parse::<nix::sys::signal::Signal>().ok().map(|signal| signal as i32)
}

/// Waits for the child `pid`, once: how it ended, and the largest resident set that it or a descendant that was waited
/// for had, in bytes (wait4(2), getrusage(2)).
pub fn wait_with_peak(pid: u32) -> io::Result<(std::process::ExitStatus, u64)> {
    use std::os::unix::process::ExitStatusExt;

    let mut status = 0;
    // SAFETY: all fields of `rusage` are integers, for which zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    loop {
        // SAFETY: both pointers are to live variables of the types that wait4 writes.
        match unsafe { libc::wait4(pid.cast_signed(), &raw mut status, 0, &raw mut usage) } {
            -1 if io::Error::last_os_error().kind() == io::ErrorKind::Interrupted => {}
            -1 => return Err(io::Error::last_os_error()),
            _ => break,
        }
    }
    let peak_bytes = u64::try_from(usage.ru_maxrss).unwrap_or(0) << 10;
    Ok((std::process::ExitStatus::from_raw(status), peak_bytes))
}
