//! Keeps containers from overwriting this program (CVE-2019-5736).
//!
//! A container can get at the file behind `/proc/PID/exe` of a runtime process, be it by looking at an `exec`
//! that is under way or by having the runtime execute `/proc/self/exe` as "the user's program". Two things stand
//! against it. The child is non-dumpable before it joins anything of the container, so its `/proc` entries are
//! closed to all but the host's root. And this program runs from a detached, read-only mount of itself: the
//! file reached through any such link is on that mount, and opening it for writing fails with EROFS for
//! ever. That costs one `open_tree`, one `mount_setattr` and one `execveat` per command (0.3 ms), no copy and no
//! memory.
//!
//! Without CAP_SYS_ADMIN (rootless) the mount cannot be made; the container then has no more rights over the
//! file than the user who runs it, and the program goes on as it is.

use std::ffi::CString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use wharf_sys::mount::{self, Attributes};
use wharf_sys::process::{CStringArray, exec_descriptor};
use wharf_sys::{fs, mount::MOUNT_ATTR_RDONLY};

/// Executes this program once more, from a read-only mount, unless it already runs from one. To be called first thing,
/// before anything was opened or started.
///
/// # Errors
/// What kept the program from being executed again.
pub fn make_unwritable() -> io::Result<()> {
    let own = fs::open_at(None, c"/proc/self/exe", fs::O_PATH, 0, 0)?;
    if fs::mount_attributes(own.as_fd())? & MOUNT_ATTR_RDONLY != 0 {
        return Ok(());
    }
    let Ok(copy) = mount::clone_tree(Some(own.as_fd()), c"", false) else { return Ok(()) };
    let readonly = Attributes { set: MOUNT_ATTR_RDONLY, ..Attributes::default() };
    if mount::set_attributes(copy.as_fd(), readonly, false).is_err() {
        return Ok(());
    }
    let text = |text: std::ffi::OsString| CString::new(text.into_vec());
    let arguments = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let error = exec_descriptor(copy.as_fd(), &CStringArray::new(arguments), &CStringArray::new(environment));
    Err(io::Error::new(error.kind(), format!("execute own binary from a read-only mount: {error}")))
}
