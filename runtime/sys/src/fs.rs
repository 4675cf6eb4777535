//! Files by descriptor: `openat2` and the `*at` calls, file-system magics, `memfd`.

use crate::{check, check_int, owned};
use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

pub use libc::{
    O_CREAT, O_DIRECTORY, O_EXCL, O_NOCTTY, O_NOFOLLOW, O_NONBLOCK, O_PATH, O_RDONLY, O_RDWR, O_TRUNC, O_WRONLY,
};
pub use libc::{RESOLVE_BENEATH, RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, RESOLVE_NO_XDEV};
pub use libc::{S_IFBLK, S_IFCHR, S_IFDIR, S_IFIFO, S_IFLNK, S_IFMT, S_IFREG, S_IFSOCK};

/// `statfs` magic numbers (`linux/magic.h`).
pub const PROC_MAGIC: i64 = 0x9fa0;
pub const SYSFS_MAGIC: i64 = 0x6265_6572;
pub const DEVPTS_MAGIC: i64 = 0x1cd1;
pub const TMPFS_MAGIC: i64 = 0x0102_1994;
pub const CGROUP2_MAGIC: i64 = 0x6367_7270;
pub const CGROUP_MAGIC: i64 = 0x0027_e0eb;
pub const NSFS_MAGIC: i64 = 0x6e73_6673;
pub const OVERLAYFS_MAGIC: i64 = 0x794c_7630;

/// Longest path the kernel accepts, in bytes.
const PATH_MAX: usize = 4096;

fn raw(directory: Option<BorrowedFd<'_>>) -> i32 {
    directory.map_or(libc::AT_FDCWD, |fd| fd.as_raw_fd())
}

/// `openat2(2)`; close-on-exec is always set. `directory` `None` is the working directory.
pub fn open_at(
    directory: Option<BorrowedFd<'_>>,
    path: &CStr,
    flags: i32,
    mode: u32,
    resolve: u64,
) -> io::Result<OwnedFd> {
    // SAFETY: open_how is plain data for which all zeroes is valid.
    let mut how: libc::open_how = unsafe { std::mem::zeroed() };
    how.flags = (flags | libc::O_CLOEXEC) as u64;
    how.mode = if flags & libc::O_CREAT != 0 { mode.into() } else { 0 };
    how.resolve = resolve;
    loop {
        // SAFETY: `path` is NUL-terminated and `how` is an open_how of the size given.
        let result = unsafe {
            libc::syscall(libc::SYS_openat2, raw(directory), path.as_ptr(), &raw const how, size_of::<libc::open_how>())
        };
        match owned(result) {
            // A rename or mount elsewhere raced with a scoped resolution; the kernel asks to retry.
            Err(error) if error.raw_os_error() == Some(libc::EAGAIN) && resolve != 0 => {}
            other => return other,
        }
    }
}

/// Opens `path` as seen by a process whose root is `root`, never leaving it.
pub fn open_in_root(root: BorrowedFd<'_>, path: &CStr, flags: i32, mode: u32) -> io::Result<OwnedFd> {
    open_at(Some(root), path, flags, mode, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
}

/// Makes the directory `name` in `directory`.
pub fn mkdir_at(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check_int(unsafe { libc::mkdirat(directory.as_raw_fd(), name.as_ptr(), mode) }).map(drop)
}

/// Makes the node `name` in `directory`; `mode` holds type and permissions.
pub fn mknod_at(directory: BorrowedFd<'_>, name: &CStr, mode: u32, major: u32, minor: u32) -> io::Result<()> {
    let device = libc::makedev(major, minor);
    // SAFETY: `name` is NUL-terminated.
    check_int(unsafe { libc::mknodat(directory.as_raw_fd(), name.as_ptr(), mode, device) }).map(drop)
}

/// Makes the symbolic link `name` in `directory`, pointing to `target`.
pub fn symlink_at(target: &CStr, directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: both strings are NUL-terminated.
    check_int(unsafe { libc::symlinkat(target.as_ptr(), directory.as_raw_fd(), name.as_ptr()) }).map(drop)
}

/// Removes the file `name` in `directory`.
pub fn unlink_at(directory: BorrowedFd<'_>, name: &CStr) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check_int(unsafe { libc::unlinkat(directory.as_raw_fd(), name.as_ptr(), 0) }).map(drop)
}

/// Target of the symbolic link `path` below `directory`.
pub fn read_link_at(directory: Option<BorrowedFd<'_>>, path: &CStr) -> io::Result<PathBuf> {
    let mut buffer = vec![0u8; PATH_MAX];
    // SAFETY: pointer and length describe `buffer`.
    let length =
        check(unsafe { libc::readlinkat(raw(directory), path.as_ptr(), buffer.as_mut_ptr().cast(), buffer.len()) }
            as libc::c_long)?;
    buffer.truncate(length as usize);
    Ok(PathBuf::from(std::ffi::OsString::from_vec(buffer)))
}

/// Permission bits of an open file.
pub fn change_mode(file: BorrowedFd<'_>, mode: u32) -> io::Result<()> {
    // SAFETY: fchmod takes integers.
    check_int(unsafe { libc::fchmod(file.as_raw_fd(), mode) }).map(drop)
}

/// Permission bits of `name` in `directory`.
pub fn change_mode_at(directory: BorrowedFd<'_>, name: &CStr, mode: u32) -> io::Result<()> {
    // SAFETY: `name` is NUL-terminated.
    check_int(unsafe { libc::fchmodat(directory.as_raw_fd(), name.as_ptr(), mode, 0) }).map(drop)
}

/// Owner of an open file; works on `O_PATH` descriptors.
pub fn change_owner(file: BorrowedFd<'_>, uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: the path is empty, which AT_EMPTY_PATH allows.
    check_int(unsafe { libc::fchownat(file.as_raw_fd(), c"".as_ptr(), uid, gid, libc::AT_EMPTY_PATH) }).map(drop)
}

/// What this project reads of a `stat`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// File type and permission bits.
    pub mode: u32,
    pub device: u64,
    pub inode: u64,
    pub uid: u32,
    pub gid: u32,
    /// Major and minor number, for device nodes.
    pub rdev: (u32, u32),
}

impl Status {
    /// Whether the type bits are those of `kind` (`S_IF*`).
    pub fn is(&self, kind: u32) -> bool {
        self.mode & libc::S_IFMT == kind
    }
}

/// Status of an open file; works on `O_PATH` descriptors.
pub fn status(file: BorrowedFd<'_>) -> io::Result<Status> {
    status_at(Some(file), c"", libc::AT_EMPTY_PATH)
}

/// Status of `path` below `directory`; with `follow`, through a symbolic link in the last component.
pub fn status_of(directory: Option<BorrowedFd<'_>>, path: &CStr, follow: bool) -> io::Result<Status> {
    status_at(directory, path, if follow { 0 } else { libc::AT_SYMLINK_NOFOLLOW })
}

fn status_at(directory: Option<BorrowedFd<'_>>, path: &CStr, flags: i32) -> io::Result<Status> {
    // SAFETY: stat is plain data for which all zeroes is valid.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated and `stat` is writable.
    check_int(unsafe { libc::fstatat(raw(directory), path.as_ptr(), &raw mut stat, flags) })?;
    Ok(Status {
        mode: stat.st_mode,
        device: stat.st_dev,
        inode: stat.st_ino,
        uid: stat.st_uid,
        gid: stat.st_gid,
        rdev: (libc::major(stat.st_rdev), libc::minor(stat.st_rdev)),
    })
}

/// The magic number of the file system a descriptor lies on.
pub fn filesystem_magic(file: BorrowedFd<'_>) -> io::Result<i64> {
    // SAFETY: statfs is plain data for which all zeroes is valid.
    let mut stat: libc::statfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the duration of the call.
    check_int(unsafe { libc::fstatfs(file.as_raw_fd(), &raw mut stat) })?;
    #[allow(clippy::unnecessary_cast, reason = "the field's type differs between architectures")]
    Ok(stat.f_type as i64)
}

/// The number of the mount under a descriptor; no other mount has it at the same time.
pub fn mount_id(file: BorrowedFd<'_>) -> io::Result<u64> {
    // SAFETY: statx is plain data for which all zeroes is valid.
    let mut stat: libc::statx = unsafe { std::mem::zeroed() };
    // Not the C library's function: the standard library knows that one as a weak symbol only, and optimised together
    // with it a static program has nothing there.
    // SAFETY: the path is empty, which AT_EMPTY_PATH allows, and `stat` is writable.
    check(unsafe {
        libc::syscall(
            libc::SYS_statx,
            file.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            libc::STATX_MNT_ID,
            &raw mut stat,
        )
    })?;
    Ok(stat.stx_mnt_id)
}

/// `MOUNT_ATTR_*` flags that the mount under a descriptor has.
pub fn mount_attributes(file: BorrowedFd<'_>) -> io::Result<u64> {
    /// Of the kernel's `linux/statfs.h`; the C library has no name for it.
    const ST_NOSYMFOLLOW: u64 = 0x2000;
    // SAFETY: statvfs is plain data for which all zeroes is valid.
    let mut stat: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `stat` is writable for the duration of the call.
    check_int(unsafe { libc::fstatvfs(file.as_raw_fd(), &raw mut stat) })?;
    let times = libc::ST_NOATIME | libc::ST_RELATIME;
    let mut attributes = if stat.f_flag & times == 0 { libc::MOUNT_ATTR_STRICTATIME } else { 0 };
    for (flag, attribute) in [
        (libc::ST_RDONLY, libc::MOUNT_ATTR_RDONLY),
        (libc::ST_NOSUID, libc::MOUNT_ATTR_NOSUID),
        (libc::ST_NODEV, libc::MOUNT_ATTR_NODEV),
        (libc::ST_NOEXEC, libc::MOUNT_ATTR_NOEXEC),
        (libc::ST_NOATIME, libc::MOUNT_ATTR_NOATIME),
        (libc::ST_NODIRATIME, libc::MOUNT_ATTR_NODIRATIME),
        (ST_NOSYMFOLLOW, libc::MOUNT_ATTR_NOSYMFOLLOW),
    ] {
        if stat.f_flag & flag != 0 {
            attributes |= attribute;
        }
    }
    Ok(attributes)
}

/// Whether the effective user may access `path` below `directory` (`libc::X_OK` and so on).
pub fn may_execute(path: &CStr) -> io::Result<()> {
    // SAFETY: `path` is NUL-terminated.
    check_int(unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) }).map(drop)
}

/// An anonymous file with these contents, sealed against any change, its offset at the start. Those of a file the kernel copies
/// by itself.
pub fn sealed_memfd<R: io::Read>(name: &CStr, mut contents: R) -> io::Result<File> {
    use std::io::Seek;
    let flags = libc::MFD_CLOEXEC | libc::MFD_ALLOW_SEALING;
    // SAFETY: `name` is NUL-terminated.
    let mut file = File::from(owned(unsafe { libc::memfd_create(name.as_ptr(), flags) }.into())?);
    io::copy(&mut contents, &mut file)?;
    file.rewind()?;
    // SAFETY: F_ADD_SEALS takes an integer.
    check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_ADD_SEALS, ALL_SEALS) })?;
    Ok(file)
}

const ALL_SEALS: libc::c_int = libc::F_SEAL_SHRINK | libc::F_SEAL_GROW | libc::F_SEAL_WRITE | libc::F_SEAL_SEAL;

/// Whether an open file is one of [`sealed_memfd`]'s.
pub fn is_sealed(file: BorrowedFd<'_>) -> bool {
    // SAFETY: F_GET_SEALS takes no argument.
    let seals = check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GET_SEALS) });
    seals.is_ok_and(|seals| seals & ALL_SEALS == ALL_SEALS)
}

/// Reads into `buffer` from an open file.
pub fn read(file: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<usize> {
    // SAFETY: pointer and length describe `buffer`.
    let result = unsafe { libc::read(file.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len()) };
    check(result as libc::c_long).map(|length| length as usize)
}

/// Writes `bytes` in one call; a partial write is an error (`EIO`), as control files never do that.
pub fn write_once(file: BorrowedFd<'_>, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: pointer and length describe `bytes`.
    let result = unsafe { libc::write(file.as_raw_fd(), bytes.as_ptr().cast(), bytes.len()) };
    if check(result as libc::c_long)? as usize == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::from_raw_os_error(libc::EIO))
    }
}

/// Sets the offset of a file back to its start.
pub fn rewind(file: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: lseek takes integers.
    check(unsafe { libc::lseek(file.as_raw_fd(), 0, libc::SEEK_SET) }).map(drop)
}

/// Moves up to `length` bytes between two descriptors of which one is a pipe; zero at end of file.
pub fn splice(from: BorrowedFd<'_>, to: BorrowedFd<'_>, length: usize) -> io::Result<usize> {
    // SAFETY: both offsets may be null.
    let result = unsafe {
        libc::splice(
            from.as_raw_fd(),
            std::ptr::null_mut(),
            to.as_raw_fd(),
            std::ptr::null_mut(),
            length,
            libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK,
        )
    };
    check(result as libc::c_long).map(|length| length as usize)
}

/// Sets or clears `O_NONBLOCK`.
pub fn set_nonblocking(file: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    // SAFETY: F_GETFL takes no argument.
    let flags = check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    let flags = if on { flags | libc::O_NONBLOCK } else { flags & !libc::O_NONBLOCK };
    // SAFETY: F_SETFL takes an integer.
    check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags) }).map(drop)
}

/// Gives a pipe room for so many bytes, rounded up to a power of two of pages. Beyond `pipe-max-size` needs CAP_SYS_RESOURCE.
pub fn set_pipe_size(pipe: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    // SAFETY: F_SETPIPE_SZ takes an integer.
    check_int(unsafe { libc::fcntl(pipe.as_raw_fd(), libc::F_SETPIPE_SZ, bytes) }).map(drop)
}

/// Whether a descriptor was opened for writing.
pub fn is_writable(file: BorrowedFd<'_>) -> io::Result<bool> {
    // SAFETY: F_GETFL takes no argument.
    let flags = check_int(unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) })?;
    Ok(flags & libc::O_ACCMODE != libc::O_RDONLY && flags & libc::O_PATH == 0)
}

/// A path as the kernel takes it; `EINVAL` if it holds a NUL byte.
pub fn c_path(path: &std::path::Path) -> io::Result<CString> {
    use std::os::unix::ffi::OsStrExt;
    CString::new(path.as_os_str().as_bytes()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// An anonymous file.
pub fn memfd(name: &CStr) -> io::Result<OwnedFd> {
    // SAFETY: `name` is NUL-terminated.
    owned(unsafe { libc::memfd_create(name.as_ptr(), libc::MFD_CLOEXEC) }.into())
}
