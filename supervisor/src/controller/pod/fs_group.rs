//! `securityContext.fsGroup`: the group that a pod's volumes belong to, so that containers of any user can use them.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use k8s_openapi::api::core::v1::Pod;
use rustix::fs::{
    AtFlags, CWD, Dir, FileType, Gid, Mode, OFlags, ResolveFlags, chmodat, chownat, fchmod, fchown, fstat, openat,
    openat2, statat,
};

use super::projection::Files;

/// Levels of directories that are walked: one descriptor each.
const MAX_DEPTH: usize = 256;
const FILE_BITS: u32 = 0o660;
const READ_ONLY_FILE_BITS: u32 = 0o440;
/// The set-group-id bit has new files belong to the group too.
const DIRECTORY_BITS: u32 = 0o2770;
const READ_ONLY_DIRECTORY_BITS: u32 = 0o2550;

/// The group, and when files get it.
pub(super) struct FsGroup {
    pub(super) id: u32,
    /// Only where the volume's own directory does not belong to it yet.
    on_root_mismatch: bool,
    /// Containers have begun: whose their files are is their own matter now.
    begun: bool,
}

impl FsGroup {
    /// Of a pod that has one.
    pub(super) fn of(pod: &Pod, begun: bool) -> Option<Self> {
        let security = pod.spec.as_ref()?.security_context.as_ref()?;
        let id = u32::try_from(security.fs_group?).ok()?;
        let on_root_mismatch = security.fs_group_change_policy.as_deref() == Some("OnRootMismatch");
        Some(Self { id, on_root_mismatch, begun })
    }

    /// Files of objects, as the group can read them.
    pub(super) fn readable(&self, mut files: Files) -> Files {
        files.values_mut().for_each(|file| file.mode |= READ_ONLY_FILE_BITS);
        files
    }

    /// Gives a volume with all that is in it to the group.
    ///
    /// # Errors
    /// Directories are nested deeper than 256 levels, or something cannot be changed.
    pub(super) fn give(&self, volume: &Path, read_only: bool) -> io::Result<()> {
        if self.begun {
            return Ok(());
        }
        let root = openat(CWD, volume, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let (files, directories) = match read_only {
            true => (READ_ONLY_FILE_BITS, READ_ONLY_DIRECTORY_BITS),
            false => (FILE_BITS, DIRECTORY_BITS),
        };
        let stat = fstat(&root)?;
        if self.on_root_mismatch && stat.st_gid == self.id && stat.st_mode & directories == directories {
            return Ok(());
        }
        self.walk(&root, files, directories, 0)?;
        // Last: where this was cut off, the next try does all of it.
        self.give_directory(root.as_fd(), directories)
    }

    fn walk(&self, directory: &OwnedFd, files: u32, directories: u32, depth: usize) -> io::Result<()> {
        if depth == MAX_DEPTH {
            return Err(io::Error::other(format!("directories are nested deeper than {MAX_DEPTH} levels")));
        }
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if name == c"." || name == c".." {
                continue;
            }
            let stat = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW)?;
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => {
                    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                    let inner = openat2(directory, name, flags, Mode::empty(), resolve)?;
                    self.walk(&inner, files, directories, depth + 1)?;
                    self.give_directory(inner.as_fd(), directories)?;
                }
                FileType::Symlink => chownat(directory, name, None, self.gid(), AtFlags::SYMLINK_NOFOLLOW)?,
                // Pods that share the volume may put something else there meanwhile: what is changed is what was opened.
                _ => {
                    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
                    let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    let file = openat2(directory, name, flags, Mode::empty(), resolve)?;
                    let stat = fstat(&file)?;
                    chownat(&file, "", None, self.gid(), AtFlags::EMPTY_PATH)?;
                    chmod_opened(&file, stat.st_mode & 0o7777 | files)?;
                }
            }
        }
        Ok(())
    }

    fn give_directory(&self, directory: BorrowedFd<'_>, bits: u32) -> io::Result<()> {
        let stat = fstat(directory)?;
        fchown(directory, None, self.gid())?;
        Ok(fchmod(directory, Mode::from_raw_mode(stat.st_mode & 0o7777 | bits))?)
    }

    fn gid(&self) -> Option<Gid> {
        Some(Gid::from_raw(self.id))
    }
}

/// A descriptor of a path alone has no `fchmod`; its link in /proc leads to the very file (proc_pid_fd(5)).
fn chmod_opened(file: &OwnedFd, mode: u32) -> io::Result<()> {
    Ok(chmodat(CWD, format!("/proc/self/fd/{}", file.as_raw_fd()), Mode::from_raw_mode(mode), AtFlags::empty())?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn a_volume_is_given_to_the_group_and_nothing_outside_is() {
        if !rustix::process::geteuid().is_root() {
            println!("SKIP a_volume_is_given_to_the_group_and_nothing_outside_is: needs root");
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (volume, outside) = (folder.path().join("volume"), folder.path().join("outside"));
        std::fs::create_dir_all(volume.join("a")).unwrap();
        std::fs::write(&outside, "").unwrap();
        std::fs::write(volume.join("a/file"), "").unwrap();
        symlink(&outside, volume.join("link")).unwrap();
        let group = FsGroup { id: 2000, on_root_mismatch: true, begun: false };
        group.give(&volume, false).unwrap();
        let seen = |path: &Path| {
            let metadata = std::fs::symlink_metadata(path).unwrap();
            (metadata.gid(), metadata.permissions().mode() & 0o7777)
        };
        assert_eq!((seen(&volume), seen(&volume.join("a"))), ((2000, 0o2775), (2000, 0o2775)));
        assert_eq!((seen(&volume.join("a/file")), seen(&outside).0), ((2000, 0o664), 0));
        // The volume's own directory says that it is done.
        std::os::unix::fs::chown(volume.join("a/file"), None, Some(7)).unwrap();
        group.give(&volume, false).unwrap();
        assert_eq!(seen(&volume.join("a/file")).0, 7);
        FsGroup { on_root_mismatch: false, ..group }.give(&volume, true).unwrap();
        assert_eq!(seen(&volume.join("a/file")), (2000, 0o664));
    }
}
