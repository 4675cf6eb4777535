//! The kernel's settings beneath `/proc/sys`: those of networks are the calling thread's namespace's.

use std::fs;

use super::{NetworkError, Result};

/// Writes nothing where that is so already: it may not be writable.
pub(super) fn sysctl(path: &str, value: &str) -> Result<()> {
    let path = format!("/proc/sys/{path}");
    if fs::read_to_string(&path).is_ok_and(|current| current.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|error| NetworkError::kernel(format!("write {value} to {path}"), error))
}
