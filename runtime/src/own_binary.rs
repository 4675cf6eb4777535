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
//! Without CAP_SYS_ADMIN (rootless), or where the file is not in the mount namespace, that mount cannot be made. The
//! program then runs from a sealed copy of itself in memory: the file may well be the caller's own, and with it the
//! container root's.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use wharf_sys::fs;
use wharf_sys::mount::{self, Attributes};
use wharf_sys::process::{CStringArray, exec_descriptor};

/// What the mount has: read-only is what counts, the others tell it from a read-only mount of the host's, which may
/// become writable one day.
const ATTRIBUTES: u64 = mount::MOUNT_ATTR_RDONLY | mount::MOUNT_ATTR_NODEV | mount::MOUNT_ATTR_NOSYMFOLLOW;

/// Executes this program once more, from a read-only mount or a sealed copy, unless it already runs from one. To be
/// called first thing, before anything was opened or started.
///
/// # Errors
/// What kept the program from being executed again.
pub fn make_unwritable() -> io::Result<()> {
    let own = fs::open_at(None, c"/proc/self/exe", fs::O_PATH, 0, 0)?;
    if fs::mount_attributes(own.as_fd())? & ATTRIBUTES == ATTRIBUTES {
        return Ok(());
    }
    if let Ok(mount) = readonly_mount(own.as_fd()) {
        return Err(execute(mount.as_fd()));
    }
    let mut file = File::from(fs::open_at(None, c"/proc/self/exe", fs::O_RDONLY, 0, 0)?);
    if fs::is_sealed(file.as_fd()) {
        return Ok(());
    }
    let mut program = Vec::new();
    file.read_to_end(&mut program)?;
    Err(execute(fs::sealed_memfd(c"runw", &program)?.as_fd()))
}

fn readonly_mount(own: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let copy = mount::clone_tree(Some(own), c"", false)?;
    mount::set_attributes(copy.as_fd(), Attributes { set: ATTRIBUTES, ..Attributes::default() }, false)?;
    Ok(copy)
}

/// Returns only on failure.
fn execute(program: BorrowedFd<'_>) -> io::Error {
    let text = |text: std::ffi::OsString| CString::new(text.into_vec());
    let arguments = || -> io::Result<CStringArray> {
        Ok(CStringArray::new(std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?))
    };
    let environment = || -> io::Result<CStringArray> {
        let entry = |(mut name, value): (std::ffi::OsString, std::ffi::OsString)| {
            name.push("=");
            name.push(value);
            text(name)
        };
        Ok(CStringArray::new(std::env::vars_os().map(entry).collect::<Result<Vec<_>, _>>()?))
    };
    let run = || -> io::Result<io::Error> { Ok(exec_descriptor(program, &arguments()?, &environment()?)) };
    let (Ok(error) | Err(error)) = run();
    io::Error::new(error.kind(), format!("execute own binary from where it cannot be written: {error}"))
}
