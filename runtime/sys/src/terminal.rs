//! Pseudo terminals and raw mode.

use crate::{check_int, owned};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

/// Rows and columns of a terminal.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    pub rows: u16,
    pub columns: u16,
}

/// Allows the other side of a pseudo terminal to be opened.
pub fn unlock(master: BorrowedFd<'_>) -> io::Result<()> {
    let unlocked: libc::c_int = 0;
    // SAFETY: TIOCSPTLCK reads one int.
    check_int(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSPTLCK, &raw const unlocked) }).map(drop)
}

/// Opens the other side of a pseudo terminal, whatever its name has become.
pub fn open_peer(master: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let flags = libc::O_RDWR | libc::O_NOCTTY | libc::O_CLOEXEC;
    // SAFETY: TIOCGPTPEER takes open flags and returns a new descriptor.
    owned(unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCGPTPEER, flags) }.into())
}

/// Makes the terminal the controlling one of the caller's session.
pub fn set_controlling(terminal: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSCTTY, 0) }).map(drop)
}

/// Size of a terminal.
pub fn size(terminal: BorrowedFd<'_>) -> io::Result<Size> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills in one winsize.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) })?;
    Ok(Size { rows: size.ws_row, columns: size.ws_col })
}

/// Sets the size of a terminal; its foreground processes get SIGWINCH.
pub fn set_size(terminal: BorrowedFd<'_>, size: Size) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads one winsize.
    check_int(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// A terminal in raw mode, as long as this lives.
#[derive(Debug)]
pub struct RawMode {
    terminal: OwnedFd,
    before: libc::termios,
}

impl RawMode {
    /// Switches the terminal to raw mode; `ENOTTY` if it is none.
    pub fn enter(terminal: BorrowedFd<'_>) -> io::Result<Self> {
        let terminal = terminal.try_clone_to_owned()?;
        let before = attributes(&terminal)?;
        let mut raw = before;
        // SAFETY: cfmakeraw changes the termios it is given.
        unsafe { libc::cfmakeraw(&raw mut raw) };
        set_attributes(&terminal, &raw)?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // A terminal that has gone away needs no restoring.
        let _ = set_attributes(&self.terminal, &self.before);
    }
}

/// Stops a terminal from turning line feeds into carriage return and line feed on output.
pub fn clear_output_translation(terminal: BorrowedFd<'_>) -> io::Result<()> {
    let terminal = terminal.try_clone_to_owned()?;
    let mut settings = attributes(&terminal)?;
    settings.c_oflag &= !libc::ONLCR;
    set_attributes(&terminal, &settings)
}

fn attributes(terminal: &OwnedFd) -> io::Result<libc::termios> {
    // SAFETY: termios is plain data for which all zeroes is valid.
    let mut settings: libc::termios = unsafe { std::mem::zeroed() };
    // SAFETY: `settings` is writable for the duration of the call.
    check_int(unsafe { libc::tcgetattr(terminal.as_raw_fd(), &raw mut settings) })?;
    Ok(settings)
}

fn set_attributes(terminal: &OwnedFd, settings: &libc::termios) -> io::Result<()> {
    // SAFETY: `settings` is a valid termios.
    check_int(unsafe { libc::tcsetattr(terminal.as_raw_fd(), libc::TCSANOW, settings) }).map(drop)
}
