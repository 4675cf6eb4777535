//! How much room a tree takes that others fill while it is looked at: no link is followed, no mount entered, any depth taken.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, ResolveFlags, Stat, fstat, openat, openat2, statat};
use rustix::io::Errno;

/// From a path longer than this it goes on with a descriptor; well below PATH_MAX with any name added.
const LONGEST_PATH: usize = 2048;
/// The unit of `st_blocks` (inode(7)).
const BLOCK_BYTES: u64 = 512;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Bytes on the disk that a directory has with all beneath it. A file with several names there counts once; what goes
/// meanwhile does not count.
///
/// # Errors
/// The directory cannot be read.
pub(super) fn disk_usage(directory: &Path) -> io::Result<u64> {
    let top = openat(CWD, directory, DIRECTORY, Mode::empty())?;
    let stat = fstat(&top)?;
    let mut walk = Walk { device: stat.st_dev, bytes: 0, linked: HashSet::new(), pending: Vec::new() };
    walk.count(&stat);
    let top = Rc::new(top);
    walk.read(&top, &top, Path::new(""))?;
    while let Some((from, path)) = walk.pending.pop() {
        walk.visit(from, path)?;
    }
    Ok(walk.bytes)
}

struct Walk {
    device: u64,
    bytes: u64,
    /// Inodes with several names that are counted.
    linked: HashSet<u64>,
    /// Directories that are still to be read, each below an open one.
    pending: Vec<(Rc<OwnedFd>, PathBuf)>,
}

impl Walk {
    fn visit(&mut self, from: Rc<OwnedFd>, path: PathBuf) -> io::Result<()> {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let directory = match openat2(&*from, &path, DIRECTORY, Mode::empty(), resolve) {
            // Gone, or something else by now.
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV | Errno::AGAIN) => return Ok(()),
            opened => opened?,
        };
        if path.as_os_str().len() <= LONGEST_PATH {
            return self.read(&directory, &from, &path);
        }
        let directory = Rc::new(directory);
        self.read(&directory, &directory, Path::new(""))
    }

    /// Counts what is in a directory, which is at `path` below `from`.
    fn read(&mut self, directory: &OwnedFd, from: &Rc<OwnedFd>, path: &Path) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = match statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                stat => stat?,
            };
            let is_new = self.count(&stat);
            if is_new && FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                self.pending.push((from.clone(), path.join(OsStr::from_bytes(name.to_bytes()))));
            }
        }
        Ok(())
    }

    /// False for what counts elsewhere.
    fn count(&mut self, stat: &Stat) -> bool {
        let is_file = FileType::from_raw_mode(stat.st_mode) != FileType::Directory;
        if stat.st_dev != self.device || is_file && stat.st_nlink > 1 && !self.linked.insert(stat.st_ino) {
            return false;
        }
        self.bytes += u64::try_from(stat.st_blocks).unwrap_or(0) * BLOCK_BYTES;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::mkdirat;
    use std::os::unix::fs::symlink;

    const MIB: u64 = 1 << 20;

    fn write(path: &Path, bytes: u64) {
        std::fs::write(path, vec![7; usize::try_from(bytes).unwrap()]).unwrap();
    }

    #[test]
    fn what_is_beneath_counts_once_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let (tree, outside) = (folder.path().join("tree"), folder.path().join("outside"));
        std::fs::create_dir_all(tree.join("a/b")).unwrap();
        std::fs::create_dir(&outside).unwrap();
        write(&outside.join("large"), 8 * MIB);
        symlink(&outside, tree.join("link")).unwrap();
        symlink("../../outside/large", tree.join("a/file")).unwrap();
        let empty = disk_usage(&tree).unwrap();
        assert!(empty < MIB, "{empty}");
        write(&tree.join("a/b/file"), MIB);
        std::fs::hard_link(tree.join("a/b/file"), tree.join("again")).unwrap();
        // Blocks, not the length that a file says it has.
        std::fs::File::create(tree.join("sparse")).unwrap().set_len(64 * MIB).unwrap();
        let used = disk_usage(&tree).unwrap();
        assert!((empty + MIB..empty + 2 * MIB).contains(&used), "{empty} {used}");
        assert!(disk_usage(&tree.join("link")).is_err() && disk_usage(&tree.join("none")).is_err());
    }

    #[test]
    fn depth_hides_nothing() {
        const DEPTH: usize = 5000;
        let folder = tempfile::tempdir().unwrap();
        let tree = folder.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut current = openat(CWD, &tree, OFlags::PATH, Mode::empty()).unwrap();
        for _ in 0..DEPTH {
            mkdirat(&current, "d", Mode::RWXU).unwrap();
            current = openat(&current, "d", OFlags::PATH, Mode::empty()).unwrap();
        }
        let before = disk_usage(&tree).unwrap();
        let file = openat(&current, "file", OFlags::WRONLY | OFlags::CREATE, Mode::RUSR).unwrap();
        rustix::io::write(&file, &vec![7; usize::try_from(MIB).unwrap()]).unwrap();
        let used = disk_usage(&tree).unwrap();
        assert!(used >= before + MIB, "{before} {used}");
        crate::removal::remove_tree(&tree).unwrap();
    }
}
