//! The root mount itself: a directory bound on itself, or an overlay.

use super::Rootfs;
use crate::handshake::{At, Failure, Step};
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use wharf_sys::mount::{self, Attributes, FsContext, MS_PRIVATE, MS_SHARED, MS_SLAVE, MS_UNBINDABLE};
use wharf_sys::{errno, fs, process};

/// Strings of a [`Rootfs`], made before the clone.
#[derive(Debug)]
pub(crate) enum PreparedRoot {
    Path(CString),
    Overlay {
        lower: Vec<CString>,
        upper: CString,
        work: CString,
        on: CString,
    },
    /// Mounted before the clone, attached nowhere.
    Mounted(OwnedFd),
}

impl PreparedRoot {
    /// `bundle` is what an overlay is mounted on, in the container's mount namespace only.
    pub(crate) fn new(rootfs: &Rootfs, bundle: &Path) -> io::Result<Self> {
        Ok(match rootfs {
            Rootfs::Path(path) => Self::Path(fs::c_path(path)?),
            Rootfs::Overlay { lower, upper, work } => Self::Overlay {
                lower: lower.iter().map(|path| fs::c_path(path)).collect::<io::Result<_>>()?,
                upper: fs::c_path(upper)?,
                work: fs::c_path(work)?,
                on: fs::c_path(bundle)?,
            },
        })
    }

    /// The path the root is attached at.
    pub(crate) fn path(&self) -> &CStr {
        match self {
            Self::Path(path) => path,
            Self::Overlay { on, .. } => on,
            // The child may have no way to any other directory of the host.
            Self::Mounted(_) => c"/",
        }
    }

    /// Cuts the mount namespace off from the host and mounts the root; returns the root mount.
    pub(crate) fn mount(&self, propagation: Option<(u64, bool)>) -> Result<OwnedFd, Failure> {
        let shown = || self.path().to_string_lossy().into_owned();
        let target = self.separate(propagation)?;
        let root = self.detached()?;
        mount::move_mount(root.as_fd(), target.as_fd()).at(Step::Rootfs, shown())?;
        Ok(root)
    }

    /// Mounts the root in the mount namespace of the runtime, for a container without one of its own; returns the root
    /// mount. What is mounted in the root stays in it, whatever the propagation of the mount that it was a part of.
    pub(crate) fn mount_on_host(&self) -> Result<OwnedFd, Failure> {
        let shown = || self.path().to_string_lossy().into_owned();
        let target = fs::open_at(None, self.path(), fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Rootfs, shown())?;
        let root = self.detached()?;
        let private = Attributes { propagation: MS_PRIVATE, ..Attributes::default() };
        mount::set_attributes(root.as_fd(), private, true).at(Step::Propagation, shown())?;
        mount::move_mount(root.as_fd(), target.as_fd()).at(Step::Rootfs, shown())?;
        // A mount on one that is shared becomes shared.
        mount::set_attributes(root.as_fd(), private, true).at(Step::Propagation, shown())?;
        Ok(root)
    }

    /// Cuts the mount namespace off; returns what the root is mounted on.
    fn separate(&self, propagation: Option<(u64, bool)>) -> Result<OwnedFd, Failure> {
        let (flag, recursive) = match propagation.unwrap_or((MS_SLAVE, true)) {
            // The rootfs must still be bound; it becomes unbindable once it is entered.
            (MS_UNBINDABLE, true) => (MS_PRIVATE, true),
            // The mount that the rootfs lies on need not be "/": it too must not be shared, or pivot_root is refused.
            (MS_UNBINDABLE | MS_PRIVATE | MS_SLAVE, false) => (MS_SLAVE, true),
            other => other,
        };
        let host = fs::open_at(None, c"/", fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Propagation, "/")?;
        let attributes = Attributes { propagation: flag, ..Attributes::default() };
        mount::set_attributes(host.as_fd(), attributes, recursive).at(Step::Propagation, "/")?;
        let shown = || self.path().to_string_lossy().into_owned();
        let target = fs::open_at(None, self.path(), fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::Rootfs, shown())?;
        if flag == MS_SHARED {
            // pivot_root refuses a root whose parent mount is shared.
            make_parent_private(target.as_fd()).at(Step::Propagation, shown())?;
        }
        Ok(target)
    }

    /// The root mount, not attached anywhere yet.
    pub(crate) fn detached(&self) -> Result<OwnedFd, Failure> {
        match self {
            Self::Path(path) => mount::clone_tree(None, path, true).at(Step::Rootfs, path.to_string_lossy()),
            Self::Overlay { lower, upper, work, .. } => overlay(lower, Some((upper, work))),
            Self::Mounted(root) => root.try_clone().at(Step::Rootfs, "mounted for the container"),
        }
    }
}

/// Only the root of a mount can change its propagation: walks up to it.
fn make_parent_private(directory: BorrowedFd<'_>) -> io::Result<()> {
    /// No path is deeper than its longest form has slashes.
    const DEPTH: usize = 2048;
    let attributes = Attributes { propagation: MS_PRIVATE, ..Attributes::default() };
    let mut current = directory.try_clone_to_owned()?;
    for _ in 0..DEPTH {
        match mount::set_attributes(current.as_fd(), attributes, false) {
            Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
                current = fs::open_at(Some(current.as_fd()), c"..", fs::O_PATH | fs::O_DIRECTORY, 0, 0)?;
            }
            other => return other,
        }
    }
    Err(errno::error(errno::EINVAL))
}

/// `writable` are the upper and the work directory.
pub(super) fn overlay(lower: &[CString], writable: Option<(&CStr, &CStr)>) -> Result<OwnedFd, Failure> {
    let top = writable.map(|(upper, _)| upper).or(lower.first().map(CString::as_c_str)).unwrap_or_default();
    let shown = top.to_string_lossy();
    let context = FsContext::open(c"overlay").at(Step::Rootfs, format!("overlay on {shown}"))?;
    let configure = || -> io::Result<OwnedFd> {
        context.set_string(c"source", c"overlay")?;
        for layer in lower {
            context.set_string(c"lowerdir+", layer)?;
        }
        set_writable(&context, writable)?;
        context.mount(0)
    };
    match configure() {
        // `lowerdir+` came with kernel 6.5.
        Err(error) if error.raw_os_error() == Some(errno::EINVAL) => {
            overlay_by_data(lower, writable).at(Step::Rootfs, format!("overlay on {shown}"))
        }
        Err(error) => {
            let why = context.message().map(|text| format!(" ({text})")).unwrap_or_default();
            Err(error).at(Step::Rootfs, format!("overlay on {shown}{why}"))
        }
        Ok(mount) => Ok(mount),
    }
}

/// All layers in one string, which the older kernels limit to a page: paths are made relative to the deepest
/// directory all layers share, and that becomes the working directory.
fn overlay_by_data(lower: &[CString], writable: Option<(&CStr, &CStr)>) -> io::Result<OwnedFd> {
    let common = common_directory(lower);
    let directory = CString::new(if common.is_empty() { b"/".to_vec() } else { common.clone() })?;
    process::change_directory_to(&directory)?;
    let skip = if common.is_empty() { 0 } else { common.len() + 1 };
    let mut data = Vec::new();
    for layer in lower {
        if !data.is_empty() {
            data.push(b':');
        }
        data.extend(mount::overlay_layer(&layer.as_bytes()[skip..]));
    }
    let context = FsContext::open(c"overlay")?;
    context.set_string(c"source", c"overlay")?;
    context.set_string(c"lowerdir", &CString::new(data)?)?;
    set_writable(&context, writable)?;
    context.mount(0)
}

fn set_writable(context: &FsContext, writable: Option<(&CStr, &CStr)>) -> io::Result<()> {
    let Some((upper, work)) = writable else { return Ok(()) };
    context.set_string(c"upperdir", upper)?;
    context.set_string(c"workdir", work)
}

/// The deepest directory that holds all paths, without a slash at its end.
fn common_directory(paths: &[CString]) -> Vec<u8> {
    let parent = |path: &CString| {
        let path = Path::new(std::ffi::OsStr::from_bytes(path.as_bytes()));
        path.parent().map(|parent| parent.as_os_str().as_bytes().to_vec()).unwrap_or_default()
    };
    let mut common = paths.first().map(parent).unwrap_or_default();
    for path in paths {
        while !(path.as_bytes().starts_with(&common) && path.as_bytes().get(common.len()) == Some(&b'/')) {
            if common.len() <= 1 {
                return Vec::new();
            }
            let cut = common.iter().rposition(|byte| *byte == b'/').unwrap_or(0);
            common.truncate(cut);
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_common_directory_is_the_deepest_shared_one() {
        let common = |paths: &[&CStr]| {
            let owned: Vec<CString> = paths.iter().map(|path| path.to_owned().to_owned()).collect();
            String::from_utf8(common_directory(&owned)).expect("text")
        };
        assert_eq!(common(&[c"/a/layers/1", c"/a/layers/22"]), "/a/layers");
        assert_eq!(common(&[c"/a/x", c"/b/x"]), "");
        assert_eq!(common(&[c"/a/lay", c"/a/lay2/x"]), "/a");
    }
}
