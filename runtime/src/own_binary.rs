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
//! CAP_SYS_ADMIN of the host. Without that capability of its own (rootless), or where the file is not in the mount
//! namespace, the program cannot make a mount. It then runs from a sealed copy of itself in memory: the file may well be
//! the caller's own, and with it the container root's.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;
use wharf_sys::fs;
use wharf_sys::mount::{self, Attributes, FsContext};
use wharf_sys::process::{CStringArray, exec_descriptor};

/// An overlay without an upper layer needs two lower ones: directories of which one is not above or below that of the
/// program. What is in them does not matter, as the program's own layer is on top.
const SECOND_LAYERS: [&str; 3] = ["/run", "/dev", "/tmp"];

/// What the mount has: read-only is what counts, the others tell it from a read-only mount of the host's, which may
/// become writable one day.
const ATTRIBUTES: u64 = mount::MOUNT_ATTR_RDONLY | mount::MOUNT_ATTR_NODEV | mount::MOUNT_ATTR_NOSYMFOLLOW;

/// How the program was kept from being overwritten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seal {
    Overlay,
    ReadOnlyMount,
    Copy,
}

/// Executes this program once more, from where it cannot be written, unless it already runs from there; then says how
/// that is. To be called first thing, before anything was started. Optimised programs have mostly done it before they
/// came to `main`: `wharf_sys::entry`.
///
/// # Errors
/// What kept the program from being executed again.
pub fn make_unwritable() -> io::Result<Seal> {
    let own = fs::open_at(None, c"/proc/self/exe", fs::O_PATH, 0, 0)?;
    if fs::mount_attributes(own.as_fd())? & ATTRIBUTES == ATTRIBUTES {
        let is_overlay = fs::filesystem_magic(own.as_fd())? == fs::OVERLAYFS_MAGIC;
        return Ok(if is_overlay { Seal::Overlay } else { Seal::ReadOnlyMount });
    }
    let program = match overlay().or_else(|_| read_only_mount(own.as_fd())) {
        Ok(program) => program,
        Err(_) => {
            let file = File::from(fs::open_at(None, c"/proc/self/exe", fs::O_RDONLY, 0, 0)?);
            if fs::is_sealed(file.as_fd()) {
                return Ok(Seal::Copy);
            }
            fs::sealed_memfd(c"runw", file)?.into()
        }
    };
    Err(execute(program.as_fd()))
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
    let layers = [mount::overlay_layer(directory.as_os_str().as_bytes()).as_slice(), b":", second.as_bytes()].concat();
    context.set_string(c"source", c"overlay")?;
    context.set_string(c"lowerdir", &CString::new(layers)?)?;
    // Of no use here, and its automatic choice leaves a line in the kernel's log.
    let _ = context.set_string(c"xino", c"off");
    let made = context.mount(ATTRIBUTES | mount::MOUNT_ATTR_NOSUID)?;
    let name = CString::new(name.as_bytes())?;
    fs::open_at(Some(made.as_fd()), &name, fs::O_PATH | fs::O_NOFOLLOW, 0, 0)
}

fn read_only_mount(own: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let empty: &CStr = c"";
    let copy = mount::clone_tree(Some(own), empty, false)?;
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
