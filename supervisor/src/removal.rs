//! Taking away a tree that others have filled. It may be as deep as they like, and links in it may lead anywhere: each step
//! goes through a descriptor, no link is followed, no mount is entered, and three descriptors suffice for any depth.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, CWD, Dir, Mode, OFlags, RenameFlags, ResolveFlags, openat, openat2, renameat_with, unlinkat,
};
use rustix::io::Errno;

/// Removes what is at `path`, whose parent is ours, with all that is beneath it. What is gone already is done; a removal
/// that was cut off is continued by the next one.
///
/// # Errors
/// Something beneath is a mount (`EXDEV`, `EBUSY`), cannot be removed, or is being added meanwhile (`ENOTEMPTY`).
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = match openat(CWD, parent, directory, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened?,
    };
    match unlinkat(&parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    // The one mount that may be entered is the tree's own.
    let top =
        openat(&parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    let mut moved = 0_u64;
    while empty_once(&top, |entry| remove_entry(&top, entry, &mut moved))? {}
    gone(unlinkat(&parent, name, AtFlags::REMOVEDIR))
}

/// Calls `remove` for each entry of a directory; true if there was any.
fn empty_once(directory: &OwnedFd, mut remove: impl FnMut(&CStr) -> io::Result<()>) -> io::Result<bool> {
    let mut found = false;
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found = true;
            remove(name)?;
        }
    }
    Ok(found)
}

/// Removes an entry of `top`. Directories in a directory are moved up into `top` first, where their turn comes: so depth
/// is no matter.
fn remove_entry(top: &OwnedFd, name: &CStr, moved: &mut u64) -> io::Result<()> {
    if remove_leaf(top.as_fd(), name)? {
        return Ok(());
    }
    let inner = open_directory(top, name)?;
    while empty_once(&inner, |child| match remove_leaf(inner.as_fd(), child)? {
        true => Ok(()),
        false => move_up(&inner, child, top, moved),
    })? {}
    gone(unlinkat(top, name, AtFlags::REMOVEDIR))
}

/// Removes what is no directory, or an empty one; false for any other.
fn remove_leaf(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<bool> {
    match unlinkat(directory, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        Err(error) => return Err(error.into()),
    }
    match unlinkat(directory, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

fn open_directory(directory: &OwnedFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    Ok(openat2(directory, name, flags, Mode::empty(), resolve)?)
}

fn move_up(from: &OwnedFd, name: &CStr, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        match renameat_with(from, name, top, format!(".removed-{moved}"), RenameFlags::NOREPLACE) {
            // Somebody has a file of that name.
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

fn gone(removed: Result<(), Errno>) -> io::Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_is_followed_and_what_is_outside_stays() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), "kept").unwrap();
        symlink(&outside, tree.join("link")).unwrap();
        symlink("../../../outside", tree.join("a/b/up")).unwrap();
        std::fs::write(tree.join(".removed-1"), "taken").unwrap();
        std::fs::write(tree.join("a/b/c/file"), "x").unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.exists() && outside.join("kept").exists());
        remove_tree(&tree).unwrap();
        // A link in the tree's own place goes, not what it leads to.
        symlink(&outside, &tree).unwrap();
        remove_tree(&tree).unwrap();
        assert!(!tree.is_symlink() && outside.join("kept").exists());
        remove_tree(&folder.path().join("none/tree")).unwrap();
    }

    #[test]
    fn a_tree_may_be_deeper_than_descriptors_and_paths_reach() {
        const DEPTH: usize = 5000;
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut current = openat(CWD, &tree, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            mkdirat(&current, "d", Mode::RWXU).unwrap();
            mkdirat(&current, "e", Mode::empty()).unwrap();
            current = openat(&current, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        remove_tree(&tree).unwrap();
        assert!(!tree.exists());
    }
}
