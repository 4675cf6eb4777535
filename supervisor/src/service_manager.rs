//! The service manager that started the daemon: told how it goes (sd_notify(3)), kept content (its watchdog), asked for
//! the sockets that it listens on for us (sd_listen_fds(3)). Without one, nothing here does anything.

use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::path::Path;
use std::time::Duration;

/// The first descriptor that is handed over.
const FIRST_DESCRIPTOR: i32 = 3;

/// What the service manager is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Ready,
    /// The configuration is read again; `Ready` follows.
    Reloading,
    Stopping,
    /// All is well at this moment.
    Alive,
}

impl State {
    fn message(self) -> &'static str {
        match self {
            Self::Ready => "READY=1\n",
            Self::Reloading => "RELOADING=1\n",
            Self::Stopping => "STOPPING=1\n",
            Self::Alive => "WATCHDOG=1\n",
        }
    }
}

/// Tells whoever waits (`NOTIFY_SOCKET`).
pub fn notify(state: State) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.into_encoded_bytes();
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(Path::new(&*String::from_utf8_lossy(&name))),
    };
    let sent = address.and_then(|address| UnixDatagram::unbound()?.send_to_addr(state.message().as_bytes(), &address));
    if let Err(error) = sent {
        tracing::warn!(%error, ?state, "tell the service manager");
    }
}

/// How often [`State::Alive`] must be told, with time to spare; nothing if nobody waits for it.
pub fn watchdog_interval() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    interval(variable("WATCHDOG_USEC")?.as_str(), variable("WATCHDOG_PID").as_deref(), std::process::id())
}

fn interval(microseconds: &str, pid: Option<&str>, own: u32) -> Option<Duration> {
    if pid.is_some_and(|pid| pid.parse() != Ok(own)) {
        return None;
    }
    let limit: u64 = microseconds.parse().ok().filter(|limit| *limit > 0)?;
    Some(Duration::from_micros(limit / 2))
}

/// The sockets that were opened before this process started. Those that are taken stay when it ends: whoever connects
/// meanwhile waits for the next one.
#[derive(Debug, Default)]
pub struct Sockets(Vec<UnixListener>);

impl Sockets {
    /// Takes what is meant for this process (`LISTEN_FDS`, `LISTEN_PID`). No program that it starts inherits them.
    pub fn inherited() -> std::io::Result<Self> {
        let variable = |name| std::env::var(name).unwrap_or_default();
        let count = count(&variable("LISTEN_FDS"), &variable("LISTEN_PID"), std::process::id());
        let mut sockets = Vec::new();
        for number in FIRST_DESCRIPTOR..FIRST_DESCRIPTOR + count {
            let socket: OwnedFd = wharf_sys::process::duplicate_inherited(number)?;
            sockets.push(UnixListener::from(socket));
        }
        if count > 0 {
            wharf_sys::process::close_on_exec_from(FIRST_DESCRIPTOR as u32)?;
        }
        Ok(Self(sockets))
    }

    /// The one that listens at `path`.
    pub fn take(&mut self, path: &Path) -> Option<UnixListener> {
        let listens = |socket: &UnixListener| socket.local_addr().is_ok_and(|it| it.as_pathname() == Some(path));
        let at = self.0.iter().position(listens)?;
        Some(self.0.swap_remove(at))
    }
}

fn count(count: &str, pid: &str, own: u32) -> i32 {
    if pid.parse() == Ok(own) { count.parse().unwrap_or(0).clamp(0, 16) } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_watchdog_is_told_twice_within_its_limit() {
        assert_eq!(interval("30000000", None, 7), Some(Duration::from_secs(15)));
        assert_eq!(interval("30000000", Some("7"), 7), Some(Duration::from_secs(15)));
        assert_eq!(interval("30000000", Some("8"), 7), None, "another process' watchdog");
        assert_eq!((interval("0", None, 7), interval("soon", None, 7)), (None, None));
    }

    #[test]
    fn sockets_of_another_process_are_not_taken() {
        assert_eq!((count("2", "7", 7), count("2", "8", 7), count("", "", 7), count("-1", "7", 7)), (2, 0, 0, 0));
    }

    #[test]
    fn a_socket_is_taken_by_its_path_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.sock");
        let mut sockets = Sockets(vec![UnixListener::bind(&path).unwrap()]);
        assert!(sockets.take(&folder.path().join("b.sock")).is_none());
        assert!(sockets.take(&path).is_some() && sockets.take(&path).is_none());
    }
}
