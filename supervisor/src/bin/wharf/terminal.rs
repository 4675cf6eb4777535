//! The terminal in front of the person: raw while a session lasts, restored whatever happens.

use std::io::IsTerminal;
use std::os::fd::AsFd;

use wharf_sys::terminal::{RawMode, Size, size};

/// Whether standard input and output are a terminal.
pub(crate) fn is_interactive() -> bool {
    std::io::stdin().is_terminal() && std::io::stdout().is_terminal()
}

/// Passes every key on as it is, until the guard goes.
pub(crate) fn raw() -> std::io::Result<RawMode> {
    RawMode::enter(std::io::stdin().as_fd())
}

/// Rows and columns of the terminal.
pub(crate) fn window() -> Option<Size> {
    size(std::io::stdout().as_fd()).ok()
}

/// Text without what would do something to a terminal.
pub(crate) fn plain(text: &str) -> String {
    text.trim_end().chars().map(|c| if c.is_control() && c != '\t' { ' ' } else { c }).collect()
}
