//! A part of a volume: a path that a container, or a whole image, may have filled with links. It is resolved beneath the
//! volume by descriptor, as if that were the root, and what is found is mounted where nobody else can write.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat2};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::own_mounts;

const RESOLVE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);

/// Mounts `sub_path` of the volume at `place`, in the stead of what an earlier container had there. Directories that
/// are missing are made, with the volume's own permissions.
pub(super) fn mount(volume: &Path, sub_path: &Path, place: &Path) -> io::Result<()> {
    let root = openat2(CWD, volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::empty())?;
    let part = open_or_make(&root, sub_path)?;
    own_mounts::unmount_all(place)?;
    let is_directory = FileType::from_raw_mode(fstat(&part)?.st_mode) == FileType::Directory;
    make_place(place, is_directory)?;
    let tree = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let mount = open_tree(&part, "", tree)?;
    Ok(move_mount(&mount, "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

fn open(root: &OwnedFd, path: &Path) -> Result<OwnedFd, Errno> {
    openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), RESOLVE)
}

/// Each step is resolved from the volume's root anew, so that no link leads out of it.
fn open_or_make(root: &OwnedFd, sub_path: &Path) -> io::Result<OwnedFd> {
    let permissions = Mode::from_raw_mode(fstat(root)?.st_mode);
    let mut walked = Path::new(".").to_path_buf();
    let mut current = open(root, &walked)?;
    for component in sub_path.components() {
        let Component::Normal(name) = component else {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a relative path without .."));
        };
        walked.push(name);
        current = match open(root, &walked) {
            Err(Errno::NOENT) => {
                match mkdirat(&current, name, permissions) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                open(root, &walked)?
            }
            found => found?,
        };
    }
    Ok(current)
}

fn make_place(place: &Path, directory: bool) -> io::Result<()> {
    match std::fs::symlink_metadata(place) {
        Ok(found) if found.is_dir() == directory => return Ok(()),
        Ok(found) if found.is_dir() => std::fs::remove_dir(place)?,
        Ok(_) => std::fs::remove_file(place)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    match (place.parent(), directory) {
        (_, true) => std::fs::create_dir_all(place),
        (Some(parent), false) => {
            std::fs::create_dir_all(parent)?;
            std::fs::File::create_new(place).map(drop)
        }
        (None, false) => Err(io::ErrorKind::InvalidInput.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn no_link_in_a_volume_leads_out_of_it() {
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        std::fs::create_dir_all(volume.join("real")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        symlink(&outside, volume.join("absolute")).unwrap();
        symlink("../outside", volume.join("relative")).unwrap();
        symlink("real", volume.join("inside")).unwrap();
        symlink("nowhere", volume.join("dangling")).unwrap();
        let root = openat2(CWD, &volume, OFlags::PATH, Mode::empty(), ResolveFlags::empty()).unwrap();
        for (path, made) in [("absolute/x", false), ("relative/x", false), ("inside/x", true), ("new/y", true)] {
            assert_eq!(open_or_make(&root, Path::new(path)).is_ok(), made, "{path}");
        }
        assert!(volume.join("real/x").is_dir() && volume.join("new/y").is_dir());
        assert!(open_or_make(&root, Path::new("dangling/x")).is_err());
        assert!(open_or_make(&root, Path::new("../outside")).is_err());
        assert_eq!(std::fs::read_dir(&outside).unwrap().count(), 0);
    }
}
