//! Descriptors that are handed to the caller's sockets, and those the caller hands on.

use crate::Fault;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use wharf_sys::{process, socket};

/// Sends a descriptor to the socket at `path`, with a name as the message.
pub(crate) fn send(path: &Path, name: &str, descriptor: BorrowedFd<'_>) -> Result<(), Fault> {
    let fail = |error: std::io::Error| Fault::new(format!("send {name} to {}: {error}", path.display()));
    let socket = socket::connect(socket::Kind::Stream, path).map_err(fail)?;
    socket::send(socket.as_fd(), name.as_bytes(), &[descriptor]).map(drop).map_err(fail)
}

/// The descriptors from 3 on that the caller wants passed on: those counted, and those of socket activation.
pub(crate) fn inherited(count: u16) -> Result<Vec<OwnedFd>, Fault> {
    let listening = listen_fds().unwrap_or(0);
    (3..3 + i32::from(count) + i32::from(listening))
        .map(|number| {
            process::duplicate_inherited(number)
                .map_err(|error| Fault::new(format!("--preserve-fds: descriptor {number} is not open: {error}")))
        })
        .collect()
}

/// `LISTEN_FDS` of sd_listen_fds(3), if there is any.
pub(crate) fn listen_fds() -> Option<u16> {
    std::env::var("LISTEN_FDS").ok()?.parse().ok().filter(|count| *count > 0)
}

/// A terminal and where it goes must be asked for together.
pub(crate) fn check(terminal: bool, detached: bool, socket: Option<&Path>) -> Result<(), Fault> {
    match (terminal, detached, socket) {
        (true, true, None) => Err(Fault::new("cannot allocate tty if runw will detach without setting console socket")),
        (false, true, Some(_)) => Err(Fault::new("cannot use console socket if runw will not detach or allocate tty")),
        (_, false, Some(_)) => Err(Fault::new("cannot use console socket if runw will not detach or allocate tty")),
        _ => Ok(()),
    }
}
