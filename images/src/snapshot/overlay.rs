//! Whether overlayfs can be used for the containers of a store.

use std::fs::{DirBuilder, File};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use rustix::io::Errno;
use rustix::mount::{FsOpenFlags, fsconfig_create, fsconfig_set_string, fsopen};

/// Tries an overlay on directories made in the new folder `folder`; it is attached nowhere and goes with its descriptor. `Some` is why
/// there can be none.
pub(super) fn obstacle(folder: &Path) -> io::Result<Option<Errno>> {
    // The kernel takes 255 bytes of a parameter, and a colon in one has a meaning.
    let mut private = DirBuilder::new();
    private.mode(0o700);
    private.create(folder)?;
    let opened = File::open(folder)?;
    let named = format!("/proc/self/fd/{}", opened.as_raw_fd());
    let directories = [("lowerdir", "lower"), ("upperdir", "upper"), ("workdir", "work")];
    let attempt = (|| {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        for (option, name) in directories {
            private.create(folder.join(name))?;
            fsconfig_set_string(&context, option, format!("{named}/{name}"))?;
        }
        Ok(fsconfig_create(&context)?)
    })();
    match attempt {
        Ok(()) => Ok(None),
        Err(error) => obstacle_of(error),
    }
}

/// No overlayfs in this kernel, or one that does not take this file system for what containers write. Whoever may not
/// mount learns nothing here.
fn obstacle_of(error: io::Error) -> io::Result<Option<Errno>> {
    match Errno::from_io_error(&error) {
        Some(errno @ (Errno::NODEV | Errno::INVAL | Errno::OPNOTSUPP)) => Ok(Some(errno)),
        Some(Errno::PERM | Errno::NOSYS) => Ok(None),
        _ => Err(error),
    }
}
