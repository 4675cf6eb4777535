//! A process in the foreground: signals and, with a terminal, bytes are passed on until it ends.

use crate::Fault;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::event::{EPOLLIN, Epoll, Ready, SignalFd, SignalSet, set_signal_mask};
use wharf_sys::pidfd;
use wharf_sys::terminal::{self, RawMode};
use wharf_sys::{errno, fs};

const SIGCHLD: i32 = 17;
const SIGURG: i32 = 23;
const SIGWINCH: i32 = 28;
const SIGPIPE: i32 = 13;
/// Signals that report on this process itself and must act on it.
const OWN: [i32; 6] = [4, 7, 8, 11, 5, 31];

const SIGNALS: u64 = 0;
const PROCESS: u64 = 1;
const INPUT: u64 = 2;
const TERMINAL: u64 = 3;

/// Blocks all signals that are to be passed on. To be made before the process, so that none is lost.
pub(crate) struct Signals {
    descriptor: SignalFd,
}

impl Signals {
    pub(crate) fn block() -> Result<Self, Fault> {
        let all: Vec<i32> = (1..=64).filter(|signal| !OWN.contains(signal)).collect();
        let set = SignalSet::of(&all);
        set_signal_mask(&set)?;
        Ok(Self { descriptor: SignalFd::new(&set)? })
    }
}

/// Waits for the process, reaps it and returns the code to exit with.
pub(crate) fn attend(process: BorrowedFd<'_>, terminal: Option<OwnedFd>, signals: &Signals) -> Result<u8, Fault> {
    let epoll = Epoll::new()?;
    epoll.add(signals.descriptor.as_fd(), SIGNALS, EPOLLIN)?;
    epoll.add(process, PROCESS, EPOLLIN)?;
    let stdin = io::stdin();
    let mut raw = None;
    if let Some(terminal) = &terminal {
        fit(stdin.as_fd(), terminal);
        // Input that is no terminal (a file, /dev/null) is passed on all the same.
        raw = RawMode::enter(stdin.as_fd()).ok();
        epoll.add(terminal.as_fd(), TERMINAL, EPOLLIN)?;
        match epoll.add(stdin.as_fd(), INPUT, EPOLLIN) {
            // A regular file cannot be waited for; it is always ready and is read at once.
            Err(error) if error.raw_os_error() == Some(errno::EPERM) => while copy(stdin.as_fd(), terminal.as_fd())? {},
            result => result?,
        }
    }
    let mut ready: Vec<Ready> = Vec::new();
    loop {
        epoll.wait(&mut ready, -1)?;
        for event in &ready {
            match (event.token, &terminal) {
                (SIGNALS, _) => pass_signals(process, signals, stdin.as_fd(), terminal.as_ref())?,
                (INPUT, Some(terminal)) => {
                    let more = copy(stdin.as_fd(), terminal.as_fd())?;
                    if !more {
                        epoll.remove(stdin.as_fd())?;
                    }
                }
                (TERMINAL, Some(terminal)) => {
                    let more = output(terminal)?;
                    if !more {
                        epoll.remove(terminal.as_fd())?;
                    }
                }
                _ => {}
            }
        }
        if ready.iter().any(|event| event.token == PROCESS) {
            break;
        }
    }
    if let Some(terminal) = &terminal {
        // What was written last is still in the terminal.
        fs::set_nonblocking(terminal.as_fd(), true)?;
        while output(terminal)? {}
    }
    drop(raw);
    Ok(pidfd::wait(process)?.shell_code() as u8)
}

fn pass_signals(
    process: BorrowedFd<'_>,
    signals: &Signals,
    stdin: BorrowedFd<'_>,
    terminal: Option<&OwnedFd>,
) -> Result<(), Fault> {
    while let Some(signal) = signals.descriptor.read()? {
        match (signal.number, terminal) {
            (SIGCHLD | SIGURG | SIGPIPE, _) => {}
            (SIGWINCH, Some(terminal)) => fit(stdin, terminal),
            (number, _) => match pidfd::send_signal(process, number) {
                // It has just ended; its own event follows.
                Err(error) if error.raw_os_error() == Some(errno::ESRCH) => {}
                result => result?,
            },
        }
    }
    Ok(())
}

/// Gives the container's terminal the size of ours.
fn fit(stdin: BorrowedFd<'_>, terminal: &OwnedFd) {
    if let Ok(size) = terminal::size(stdin) {
        let _ = terminal::set_size(terminal.as_fd(), size);
    }
}

/// False at the end of the input or of the terminal.
fn copy(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<bool, Fault> {
    let mut buffer = [0u8; 8192];
    let length = match fs::read(from, &mut buffer) {
        Ok(length) => length,
        Err(error) if matches!(error.raw_os_error(), Some(errno::EIO)) => 0,
        Err(error) if matches!(error.raw_os_error(), Some(errno::EAGAIN | errno::EINTR)) => return Ok(true),
        Err(error) => return Err(error.into()),
    };
    if length == 0 {
        return Ok(false);
    }
    match fs::write_once(to, &buffer[..length]) {
        Err(error) if error.raw_os_error() == Some(errno::EIO) => Ok(false),
        result => Ok(result.map(|()| true)?),
    }
}

/// Copies what the container wrote to our standard output. False once there is no more.
fn output(terminal: &OwnedFd) -> Result<bool, Fault> {
    let mut buffer = [0u8; 8192];
    match fs::read(terminal.as_fd(), &mut buffer) {
        Ok(0) => Ok(false),
        Ok(length) => {
            let mut stdout = io::stdout().lock();
            stdout.write_all(&buffer[..length]).and_then(|()| stdout.flush())?;
            Ok(true)
        }
        // EIO: the last process has closed its side.
        Err(error) if matches!(error.raw_os_error(), Some(errno::EIO | errno::EAGAIN)) => Ok(false),
        Err(error) if error.raw_os_error() == Some(errno::EINTR) => Ok(true),
        Err(error) => Err(error.into()),
    }
}
