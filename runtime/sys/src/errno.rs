//! Names of error numbers, for messages.

use nix::errno::Errno;
use std::io;

/// The symbolic name of an error number, such as `EPERM`.
pub fn name(errno: i32) -> String {
    format!("{:?}", Errno::from_raw(errno))
}

/// The kernel's sentence for an error number, lower-case: `operation not permitted`.
pub fn description(errno: i32) -> String {
    let text = Errno::from_raw(errno).desc();
    let mut characters = text.chars();
    match characters.next() {
        Some(first) => first.to_lowercase().chain(characters).collect(),
        None => String::new(),
    }
}

/// Name and sentence together: `EPERM (operation not permitted)`.
pub fn explain(errno: i32) -> String {
    format!("{} ({})", name(errno), description(errno))
}

/// The error number inside an `io::Error`; `EIO` where it has none.
pub fn number(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(libc::EIO)
}

/// An `io::Error` of an error number.
pub fn error(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

pub use libc::{
    E2BIG, EACCES, EAGAIN, EBADF, EBUSY, ECONNREFUSED, ECONNRESET, EDQUOT, EEXIST, EINTR, EINVAL, EIO, EISDIR, ELOOP,
    ENAMETOOLONG, ENODEV, ENOENT, ENOEXEC, ENOSPC, ENOSYS, ENOTDIR, ENOTEMPTY, ENOTSUP, EOPNOTSUPP, EPERM, EPIPE,
    EROFS, ESRCH, ETIMEDOUT, EXDEV,
};
