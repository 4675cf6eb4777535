//! Waiting: `epoll`, `eventfd`, `signalfd`, signal masks.

use crate::{check, check_int, owned};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

pub use libc::{EPOLLERR, EPOLLET, EPOLLHUP, EPOLLIN, EPOLLOUT, EPOLLPRI, EPOLLRDHUP};

/// A set of signals.
#[derive(Clone, Copy)]
pub struct SignalSet(libc::sigset_t);

impl std::fmt::Debug for SignalSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SignalSet")
    }
}

impl SignalSet {
    /// The set of exactly these signals; numbers the kernel does not know are left out.
    pub fn of(signals: &[i32]) -> Self {
        let mut set = Self::empty();
        for &signal in signals {
            // SAFETY: `set` is an initialised signal set; a bad number is refused by the call.
            unsafe { libc::sigaddset(&raw mut set.0, signal) };
        }
        set
    }

    pub fn empty() -> Self {
        // SAFETY: sigset_t is plain data; sigemptyset initialises it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigemptyset(&raw mut set);
            Self(set)
        }
    }

    pub fn all() -> Self {
        // SAFETY: sigset_t is plain data; sigfillset initialises it.
        unsafe {
            let mut set = std::mem::zeroed();
            libc::sigfillset(&raw mut set);
            Self(set)
        }
    }
}

/// Sets the signal mask of the calling thread and returns the old one.
pub fn set_signal_mask(set: &SignalSet) -> io::Result<SignalSet> {
    let mut old = SignalSet::empty();
    // SAFETY: both sets are initialised and outlive the call.
    check_int(unsafe { libc::sigprocmask(libc::SIG_SETMASK, &raw const set.0, &raw mut old.0) })?;
    Ok(old)
}

/// Gives every signal its default action; what `exec` would leave ignored included.
pub fn reset_signal_actions() {
    for signal in 1..=64 {
        // SAFETY: setting the default action installs no handler; numbers that cannot be set are refused.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ignores a signal.
pub fn ignore_signal(signal: i32) {
    // SAFETY: ignoring a signal installs no handler.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Signals that can be read from a descriptor; they must be blocked as well.
#[derive(Debug)]
pub struct SignalFd(OwnedFd);

/// One signal read from a [`SignalFd`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Signal {
    pub number: i32,
    /// The sender, or the child for SIGCHLD.
    pub pid: i32,
}

impl SignalFd {
    /// A non-blocking signalfd.
    pub fn new(set: &SignalSet) -> io::Result<Self> {
        // SAFETY: `set` is initialised.
        owned(unsafe { libc::signalfd(-1, &raw const set.0, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) }.into()).map(Self)
    }

    /// The next pending signal, if there is one.
    pub fn read(&self) -> io::Result<Option<Signal>> {
        // SAFETY: signalfd_siginfo is plain data for which all zeroes is valid.
        let mut info: libc::signalfd_siginfo = unsafe { std::mem::zeroed() };
        // SAFETY: pointer and size describe `info`.
        let result = unsafe { libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size_of_val(&info)) };
        match check(result as libc::c_long) {
            Ok(_) => Ok(Some(Signal { number: info.ssi_signo as i32, pid: info.ssi_pid as i32 })),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until `fd` is readable or at its end, or `timeout_ms` milliseconds passed (`-1`: for ever). True if it is.
pub fn wait_readable(fd: BorrowedFd<'_>, timeout_ms: i32) -> io::Result<bool> {
    let mut entry = libc::pollfd { fd: fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    loop {
        // SAFETY: `entry` is one valid pollfd, as the count says.
        match check_int(unsafe { libc::poll(&raw mut entry, 1, timeout_ms) }) {
            Ok(ready) => return Ok(ready == 1),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// A non-blocking counter that can be waited for.
pub fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: eventfd takes integers.
    owned(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC | libc::EFD_NONBLOCK) }.into())
}

/// Something that became ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ready {
    /// The number the descriptor was added with.
    pub token: u64,
    /// `EPOLL*` flags.
    pub events: u32,
}

/// An epoll instance.
#[derive(Debug)]
pub struct Epoll(OwnedFd);

impl Epoll {
    pub fn new() -> io::Result<Self> {
        // SAFETY: epoll_create1 takes an integer.
        owned(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) }.into()).map(Self)
    }

    /// Watches `fd` for `events`.
    pub fn add(&self, fd: BorrowedFd<'_>, token: u64, events: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_ADD, fd, token, events)
    }

    /// Changes what `fd` is watched for.
    pub fn modify(&self, fd: BorrowedFd<'_>, token: u64, events: i32) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_MOD, fd, token, events)
    }

    /// Stops watching `fd`.
    pub fn remove(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.control(libc::EPOLL_CTL_DEL, fd, 0, 0)
    }

    fn control(&self, operation: i32, fd: BorrowedFd<'_>, token: u64, events: i32) -> io::Result<()> {
        let mut event = libc::epoll_event { events: events as u32, u64: token };
        // SAFETY: `event` is a valid epoll_event, which is ignored on removal.
        check_int(unsafe { libc::epoll_ctl(self.0.as_raw_fd(), operation, fd.as_raw_fd(), &raw mut event) }).map(drop)
    }

    /// Waits up to `timeout_ms` milliseconds (`-1`: for ever); an interruption counts as nothing ready.
    pub fn wait(&self, ready: &mut Vec<Ready>, timeout_ms: i32) -> io::Result<()> {
        const BATCH: usize = 64;
        let mut events = [libc::epoll_event { events: 0, u64: 0 }; BATCH];
        ready.clear();
        // SAFETY: pointer and count describe `events`.
        let result =
            unsafe { libc::epoll_wait(self.0.as_raw_fd(), events.as_mut_ptr(), BATCH as libc::c_int, timeout_ms) };
        match check_int(result) {
            Ok(count) => {
                ready.extend(events[..count as usize].iter().map(|e| Ready { token: e.u64, events: e.events }));
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Epoll {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
