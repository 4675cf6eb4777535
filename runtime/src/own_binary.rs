//! Keeps containers from overwriting this program (CVE-2019-5736).
//!
//! A container can get at the file behind `/proc/PID/exe` of a runtime process, be it by looking at an `exec`
//! that is under way or by having the runtime execute `/proc/self/exe` as "the user's program". Two things stand
//! against it. The child is non-dumpable before it joins anything of the container, so its `/proc` entries are
//! closed to all but the host's root. And this program runs from a mount of its own on which nothing can be written:
//! a detached overlay that has lower layers only, which no remounting makes writable. The file reached through any
//! such link is on that mount, and opening it for writing fails with EROFS for ever. No copy is made and no memory
//! taken.
//!
//! Where the kernel has no overlay, a detached read-only bind mount takes its place; that holds against all but
//! CAP_SYS_ADMIN of the host. Without that capability of its own (rootless) the program cannot make a mount; the container then has
//! no more rights over the file than the user who runs it, and the program goes on as it is.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use wharf_sys::mount::{self, Attributes, FsContext};
use wharf_sys::process::{CStringArray, exec_descriptor};
use wharf_sys::{fs, mount::MOUNT_ATTR_RDONLY};

/// An overlay without an upper layer needs two lower ones: directories of which one is not above or below that of the
/// program. What is in them does not matter, as the program's own layer is on top.
const SECOND_LAYERS: [&str; 3] = ["/run", "/dev", "/tmp"];

/// How the program was kept from being overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    Overlay,
    ReadOnlyMount,
}

/// Executes this program once more, from a mount on which it cannot be written, unless it already runs from one. To be
/// called first thing, before anything was started. `announce` is told how, just before.
///
/// # Errors
/// What kept the program from being executed again.
pub fn make_unwritable(announce: impl FnOnce(Seal)) -> io::Result<()> {
    let own = fs::open_at(None, c"/proc/self/exe", fs::O_PATH, 0, 0)?;
    if fs::mount_attributes(own.as_fd())? & MOUNT_ATTR_RDONLY != 0 {
        return Ok(());
    }
    let sealed = match overlay() {
        Ok(program) => Some((program, Seal::Overlay)),
        Err(_) => read_only_mount(own.as_fd()).ok().map(|program| (program, Seal::ReadOnlyMount)),
    };
    let Some((program, seal)) = sealed else { return Ok(()) };
    let text = |text: std::ffi::OsString| CString::new(text.into_vec());
    let arguments = std::env::args_os().map(text).collect::<Result<Vec<_>, _>>()?;
    let environment = std::env::vars_os()
        .map(|(mut name, value)| {
            name.push("=");
            name.push(value);
            text(name)
        })
        .collect::<Result<Vec<_>, _>>()?;
    announce(seal);
    let error = exec_descriptor(program.as_fd(), &CStringArray::new(arguments), &CStringArray::new(environment));
    Err(io::Error::new(error.kind(), format!("execute own binary from a sealed mount: {error}")))
}

/// This program through an overlay of its directory.
fn overlay() -> io::Result<OwnedFd> {
    let context = FsContext::open(c"overlay")?;
    // The true path: an overlay does not accept a directory that it is given by way of /proc.
    let path = std::fs::read_link("/proc/self/exe")?;
    let missing = || io::Error::from(io::ErrorKind::NotFound);
    let (directory, name) = path.parent().zip(path.file_name()).ok_or_else(missing)?;
    let apart = |other: &&&str| !directory.starts_with(other) && !Path::new(other).starts_with(directory);
    let second = SECOND_LAYERS.iter().find(apart).ok_or_else(missing)?;
    let layers = [escaped(directory.as_os_str()).as_slice(), b":", second.as_bytes()].concat();
    context.set_string(c"source", c"overlay")?;
    context.set_string(c"lowerdir", &CString::new(layers)?)?;
    // Of no use here, and its automatic choice leaves a line in the kernel's log.
    let _ = context.set_string(c"xino", c"off");
    let made = context.mount(MOUNT_ATTR_RDONLY | mount::MOUNT_ATTR_NOSUID | mount::MOUNT_ATTR_NODEV)?;
    let name = CString::new(name.as_bytes())?;
    fs::open_at(Some(made.as_fd()), &name, fs::O_PATH | fs::O_NOFOLLOW, 0, 0)
}

/// A directory as overlay's options are written: the separator and the escape itself are escaped.
fn escaped(path: &OsStr) -> Vec<u8> {
    let mut bytes = Vec::new();
    for byte in path.as_bytes() {
        if matches!(byte, b':' | b'\\' | b',') {
            bytes.push(b'\\');
        }
        bytes.push(*byte);
    }
    bytes
}

fn read_only_mount(own: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let empty: &CStr = c"";
    let copy = mount::clone_tree(Some(own), empty, false)?;
    let readonly = Attributes { set: MOUNT_ATTR_RDONLY, ..Attributes::default() };
    mount::set_attributes(copy.as_fd(), readonly, false)?;
    Ok(copy)
}
