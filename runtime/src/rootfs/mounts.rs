//! The mounts of the configuration, in its order.

use super::cgroupfs::CgroupView;
use super::copy_up;
use super::finish;
use super::root;
use super::target::{self, shown};
use crate::bind_source::{self, BindSource};
use crate::handshake::{At, Failure, Step};
use crate::plan::{ALLOWED_INSIDE_PROC, Mount, MountSource};
use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use wharf_sys::mount::{self, Attributes, FsContext};
use wharf_sys::{errno, fs, process};

/// Inode of every procfs's root directory (`PROC_ROOT_INO` of the kernel).
const PROC_ROOT_INODE: u64 = 1;

/// Where the sources of bind mounts come from.
pub(crate) struct Sources<'a> {
    pub(crate) prepared: &'a [BindSource],
    /// Asks the runtime for one.
    pub(crate) wanted: &'a dyn Fn(usize) -> Result<OwnedFd, Failure>,
    /// The container is in a user namespace, where what the host's mount forbids stays forbidden.
    pub(crate) locked: bool,
}

/// Mounts everything, in order.
pub(crate) fn mount_all(
    root: BorrowedFd<'_>,
    mounts: &[Mount],
    sources: &Sources<'_>,
    cgroup: &CgroupView,
) -> Result<(), Failure> {
    let here = place(root).at(Step::MountTarget, "/")?;
    let root = Root { fd: root, place: &here };
    for (index, mount) in mounts.iter().enumerate() {
        mount_one(root, mount, index, sources, cgroup)
            .map_err(|failure| Failure { object: format!("{} (mounts[{index}])", failure.object), ..failure })?;
    }
    Ok(())
}

/// The container's root.
#[derive(Clone, Copy)]
struct Root<'a> {
    fd: BorrowedFd<'a>,
    /// Where it is to this process.
    place: &'a Path,
}

fn mount_one(
    root: Root<'_>,
    mount: &Mount,
    index: usize,
    sources: &Sources<'_>,
    cgroup: &CgroupView,
) -> Result<(), Failure> {
    let destination = &mount.destination;
    match &mount.source {
        MountSource::FileSystem { fstype, source, parameters, copy_up } => {
            let named_mode = || parameters.iter().any(|(key, _)| key.as_bytes() == b"mode");
            let existing_mode = match fstype.to_bytes() {
                b"tmpfs" if !named_mode() => existing_mode(root.fd, destination),
                _ => None,
            };
            let found = match fstype.to_bytes() {
                b"proc" | b"sysfs" => refuse_link(root.fd, destination, fstype)?,
                _ => None,
            };
            let target = found.map_or_else(|| target::prepare_for(root.fd, mount, true), Ok)?;
            refuse_inside_proc(root, target.as_fd(), destination, fstype.as_c_str() == c"proc")?;
            let object = || format!("{} on {}", fstype.to_string_lossy(), shown(destination));
            if *copy_up {
                let writable = mount.attributes.set & !mount::MOUNT_ATTR_RDONLY;
                let made = file_system(fstype, source, parameters, writable, object)?;
                let filled = copy_up::copy_contents(target.as_fd(), made.as_fd());
                filled.at(Step::Mount, format!("{}, copying what is there", object()))?;
                mount::set_attributes(made.as_fd(), mount.attributes, false).at(Step::MountAttributes, object())?;
                return attach(&made, target.as_fd(), mount, object);
            }
            let mut parameters = parameters.clone();
            if let Some(mode) = existing_mode {
                parameters.push((c"mode".to_owned(), CString::new(format!("{mode:o}")).ok()));
            }
            let mut attributes = mount.attributes.set;
            if finish::is_closed_late(mount) {
                attributes &= !mount::MOUNT_ATTR_RDONLY;
            }
            let made = file_system(fstype, source, &parameters, attributes, object)?;
            attach(&made, target.as_fd(), mount, object)
        }
        MountSource::Bind { source: path, recursive, nofollow } => {
            let object = || format!("{} on {}", shown(path), shown(destination));
            let opened;
            let tree = match sources.prepared.get(index) {
                Some(BindSource::Opened(tree)) => tree,
                Some(BindSource::Late) => {
                    opened = (sources.wanted)(index)?;
                    &opened
                }
                Some(BindSource::Child) | None => {
                    opened = bind_source::clone(path, *recursive, *nofollow).at(Step::MountSource, shown(path))?;
                    &opened
                }
            };
            let status = fs::status(tree.as_fd()).at(Step::MountSource, shown(path))?;
            let target = target::prepare_for(root.fd, mount, status.is(fs::S_IFDIR))?;
            let magic = fs::filesystem_magic(tree.as_fd()).at(Step::MountSource, shown(path))?;
            let is_procfs = magic == fs::PROC_MAGIC && status.inode == PROC_ROOT_INODE;
            refuse_inside_proc(root, target.as_fd(), destination, is_procfs)?;
            let mut implied = mount.implied_clear & fs::mount_attributes(tree.as_fd()).unwrap_or(0);
            if sources.locked {
                implied &= !LOCKABLE;
                keep_locked(tree.as_fd(), mount.attributes).at(Step::MountAttributes, object())?;
            }
            let attributes = needed(tree.as_fd(), mount.attributes).at(Step::MountAttributes, object())?;
            if attributes != Attributes::default() || implied != 0 {
                let exact = Attributes { clear: attributes.clear | implied, ..attributes };
                let result = match mount::set_attributes(tree.as_fd(), exact, false) {
                    Err(error) if implied != 0 && error.raw_os_error() == Some(errno::EPERM) => {
                        mount::set_attributes(tree.as_fd(), attributes, false)
                    }
                    result => result,
                };
                result.at(Step::MountAttributes, object())?;
            }
            attach(tree, target.as_fd(), mount, object)
        }
        MountSource::Remount { whole, parameters } => {
            let target = target::prepare_for(root.fd, mount, true)?;
            remount(target.as_fd(), mount, *whole, parameters)
        }
        MountSource::Cgroup => {
            let target = target::prepare_for(root.fd, mount, true)?;
            refuse_inside_proc(root, target.as_fd(), destination, false)?;
            let made = cgroup.mount(target.as_fd(), destination, mount.attributes)?;
            complete(&made, mount, || format!("cgroup on {}", shown(destination)))
        }
    }
}

fn remount(
    target: BorrowedFd<'_>,
    mount: &Mount,
    whole: bool,
    parameters: &[(CString, Option<CString>)],
) -> Result<(), Failure> {
    let object = || format!("{}, mounting it anew", shown(&mount.destination));
    let exact = Attributes { clear: mount.attributes.clear | mount.implied_clear, ..mount.attributes };
    if whole {
        let context = FsContext::pick(target).at(Step::Mount, object())?;
        let readonly = mount.attributes.set & mount::MOUNT_ATTR_RDONLY != 0;
        let configure = || -> io::Result<()> {
            context.set_flag(if readonly { c"ro" } else { c"rw" })?;
            set_parameters(&context, parameters)?;
            context.reconfigure()
        };
        configure().map_err(|error| refused(&context, &error, object()))?;
    }
    mount::set_attributes(target, exact, false).at(Step::MountAttributes, object())?;
    let place = target.try_clone_to_owned().at(Step::Mount, object())?;
    complete(&place, mount, object)
}

fn set_parameters(context: &FsContext, parameters: &[(CString, Option<CString>)]) -> io::Result<()> {
    parameters.iter().try_for_each(|(key, value)| match value {
        Some(value) => context.set_string(key, value),
        None => context.set_flag(key),
    })
}

/// A configuration that the file system refused, with its reason.
fn refused(context: &FsContext, error: &io::Error, object: String) -> Failure {
    let why = context.message().map(|text| format!(" ({text})")).unwrap_or_default();
    Failure { step: Step::Mount, errno: errno::number(error), object: object + &why }
}

/// What of a mount its user namespace locks (mount_namespaces(7)), but for the access time.
const LOCKABLE: u64 =
    mount::MOUNT_ATTR_RDONLY | mount::MOUNT_ATTR_NOSUID | mount::MOUNT_ATTR_NODEV | mount::MOUNT_ATTR_NOEXEC;

/// Refuses a change that a user namespace may not make to a mount of the host. The kernel does so itself where the
/// mount was copied into the namespace, but not where the runtime has opened it outside.
fn keep_locked(tree: BorrowedFd<'_>, wanted: Attributes) -> io::Result<()> {
    const TIMES: u64 = mount::MOUNT_ATTR_ATIME | mount::MOUNT_ATTR_NODIRATIME;
    let has = fs::mount_attributes(tree)?;
    let times_change =
        wanted.clear & mount::MOUNT_ATTR_ATIME != 0 && (has & !wanted.clear | wanted.set) & TIMES != has & TIMES;
    if wanted.clear & has & LOCKABLE != 0 || times_change {
        return Err(errno::error(errno::EPERM));
    }
    Ok(())
}

/// Permissions of a directory that is there already, which a tmpfs on it takes over.
fn existing_mode(root: BorrowedFd<'_>, destination: &CStr) -> Option<u32> {
    let found = fs::open_in_root(root, destination, fs::O_PATH | fs::O_DIRECTORY, 0).ok()?;
    Some(fs::status(found.as_fd()).ok()?.mode & 0o7777)
}

/// The directory that is there already. A link in the image would put the kernel's files where the runtime does not look
/// for them (CVE-2019-19921).
fn refuse_link(root: BorrowedFd<'_>, destination: &CStr, fstype: &CStr) -> Result<Option<OwnedFd>, Failure> {
    let found = fs::open_in_root(root, destination, fs::O_PATH | fs::O_NOFOLLOW, 0).ok();
    let is_directory = |found: &OwnedFd| fs::status(found.as_fd()).map(|status| status.is(fs::S_IFDIR));
    if let Some(Ok(false)) = found.as_ref().map(is_directory) {
        let fstype = fstype.to_string_lossy();
        let object = format!("{fstype} on {}: {fstype} must be mounted on ordinary directory", shown(destination));
        return Err(Failure { step: Step::Mount, errno: 0, object });
    }
    Ok(found)
}

/// Where an open file is to this process.
fn place(fd: BorrowedFd<'_>) -> io::Result<PathBuf> {
    let link = CString::new(format!("/proc/self/fd/{}", fd.as_raw_fd())).map_err(|_| errno::error(errno::EINVAL))?;
    fs::read_link_at(None, &link)
}

/// Inside `/proc`, wherever links in the image and `..` have led, nothing is mounted but procfs itself: a file system
/// there could pass for the kernel's (CVE-2025-52881).
fn refuse_inside_proc(
    root: Root<'_>,
    target: BorrowedFd<'_>,
    destination: &CStr,
    is_procfs: bool,
) -> Result<(), Failure> {
    let target = place(target).at(Step::MountTarget, "/")?;
    let Ok(inside) = target.strip_prefix(root.place).unwrap_or(&target).strip_prefix("proc") else { return Ok(()) };
    let whole = inside.as_os_str().is_empty();
    if (whole && is_procfs) || ALLOWED_INSIDE_PROC.iter().any(|name| inside == Path::new(name)) {
        return Ok(());
    }
    let object = format!("on {}: cannot be mounted because it is inside /proc", shown(destination));
    Err(Failure { step: Step::Mount, errno: 0, object })
}

/// Of what is to be cleared, only what is set: clearing a flag that a user namespace locked is refused even if
/// nothing would change.
fn needed(tree: BorrowedFd<'_>, mut attributes: Attributes) -> io::Result<Attributes> {
    if attributes.clear & !mount::MOUNT_ATTR_ATIME != 0 {
        attributes.clear &= fs::mount_attributes(tree)? | mount::MOUNT_ATTR_ATIME;
    }
    Ok(attributes)
}

/// The layers of an overlay that is told of nothing else: kernels before 6.5 have another way to be told of each.
fn layers_alone(fstype: &CStr, parameters: &[(CString, Option<CString>)]) -> Option<Vec<CString>> {
    let layers = parameters.iter().map(|(key, value)| value.clone().filter(|_| key.as_c_str() == c"lowerdir+"));
    layers.collect::<Option<Vec<_>>>().filter(|layers| fstype == c"overlay" && !layers.is_empty())
}

/// A new detached file system.
pub(crate) fn file_system(
    fstype: &CStr,
    source: &CStr,
    parameters: &[(CString, Option<CString>)],
    attributes: u64,
    object: impl Fn() -> String,
) -> Result<OwnedFd, Failure> {
    if let Some(layers) = layers_alone(fstype, parameters) {
        let made = root::overlay(&layers, None)?;
        let own = Attributes { set: attributes, ..Attributes::default() };
        mount::set_attributes(made.as_fd(), own, false).at(Step::MountAttributes, object())?;
        return Ok(made);
    }
    let context = FsContext::open(fstype).at(Step::Mount, object())?;
    let configure = || -> io::Result<OwnedFd> {
        if !source.is_empty() {
            context.set_string(c"source", source)?;
        }
        set_parameters(&context, parameters)?;
        context.mount(attributes)
    };
    configure().map_err(|error| refused(&context, &error, object()))
}

fn attach(made: &OwnedFd, target: BorrowedFd<'_>, mount: &Mount, object: impl Fn() -> String) -> Result<(), Failure> {
    mount::move_mount(made.as_fd(), target).at(Step::Mount, object())?;
    complete(made, mount, object)
}

/// Recursive attributes and propagation, once the mount has its place.
fn complete(made: &OwnedFd, mount: &Mount, object: impl Fn() -> String) -> Result<(), Failure> {
    if mount.recursive_attributes != Attributes::default() {
        mount::set_attributes(made.as_fd(), mount.recursive_attributes, true).at(Step::MountAttributes, object())?;
    }
    for (propagation, recursive) in &mount.propagation {
        let attributes = Attributes { propagation: *propagation, ..Attributes::default() };
        mount::set_attributes(made.as_fd(), attributes, *recursive).at(Step::Propagation, object())?;
    }
    Ok(())
}

/// The old root stays beneath one that is moved over it. A process that makes a user namespace may mount what it finds
/// mounted there in full: the host's procfs and sysfs go first, or the masked paths would come to nothing.
fn hide_kernel_files(rootfs: &CStr) -> io::Result<()> {
    const MS_REC: u64 = 16384;
    let rootfs = Path::new(OsStr::from_bytes(rootfs.to_bytes()));
    for place in kernel_file_systems(&std::fs::read_to_string("/proc/self/mountinfo")?) {
        if Path::new(OsStr::from_bytes(&place)).starts_with(rootfs) {
            continue;
        }
        let Ok(place) = CString::new(place) else { continue };
        let hide = || {
            mount::mount_legacy(c"", &place, c"", mount::MS_SLAVE | MS_REC, c"")?;
            // One that a user namespace has locked is covered instead.
            mount::detach(&place).or_else(|_| mount::mount_legacy(c"tmpfs", &place, c"tmpfs", 0, c""))
        };
        match hide() {
            // It was inside of another that has gone.
            Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::EINVAL)) => {}
            result => result?,
        }
    }
    Ok(())
}

/// Where procfs and sysfs are mounted, from `mountinfo` (proc(5)).
pub(crate) fn kernel_file_systems(mountinfo: &str) -> Vec<Vec<u8>> {
    let place = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let kernel = right.starts_with("proc ") || right.starts_with("sysfs ");
        kernel.then(|| unescape(left.split(' ').nth(4).unwrap_or_default()))
    };
    mountinfo.lines().filter_map(place).collect()
}

/// Blanks and backslashes are written as `\040`.
fn unescape(text: &str) -> Vec<u8> {
    let mut parts = text.split('\\');
    let mut bytes = parts.next().unwrap_or_default().as_bytes().to_vec();
    for part in parts {
        let (code, rest) = part.as_bytes().split_at(part.len().min(3));
        match std::str::from_utf8(code).ok().and_then(|code| u8::from_str_radix(code, 8).ok()) {
            Some(byte) => bytes.push(byte),
            None => bytes.extend_from_slice(code),
        }
        bytes.extend_from_slice(rest);
    }
    bytes
}

/// Enters a root in the mount namespace of the runtime, which keeps its own.
pub(crate) fn enter_by_chroot(root: BorrowedFd<'_>) -> io::Result<()> {
    process::change_directory(root)?;
    process::change_root_here()?;
    process::change_directory_to(c"/")
}

/// Enters the root: `pivot_root`, or with `no_pivot` (a root in an initramfs) a moved mount and `chroot`.
pub(crate) fn enter(root: BorrowedFd<'_>, path: &CStr, no_pivot: bool, was_shared: bool) -> Result<(), Failure> {
    const MS_MOVE: u64 = 8192;
    let old = fs::open_at(None, c"/", fs::O_PATH | fs::O_DIRECTORY, 0, 0).at(Step::PivotRoot, shown(path))?;
    let swap = || -> io::Result<()> {
        if no_pivot {
            hide_kernel_files(path)?;
        }
        process::change_directory(root)?;
        if no_pivot {
            mount::mount_legacy(c".", c"/", c"", MS_MOVE, c"")?;
            process::change_root_here()?;
            return process::change_directory_to(c"/");
        }
        mount::pivot_root_here()?;
        process::change_directory(old.as_fd())?;
        if was_shared {
            // Or the detaching of the old root would reach the host.
            let slave = Attributes { propagation: mount::MS_SLAVE, ..Attributes::default() };
            mount::set_attributes(old.as_fd(), slave, true)?;
        }
        mount::detach(c".")?;
        process::change_directory_to(c"/")
    };
    swap().at(Step::PivotRoot, shown(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_file_systems_are_found_whatever_their_paths() {
        let text = "1 0 0:5 / /proc rw - proc proc rw\n2 0 0:6 / /a\\040b rw,nosuid shared:1 - sysfs sysfs rw\n3 0 8:1 / / rw - ext4 /dev/proc rw\n";
        assert_eq!(kernel_file_systems(text), [b"/proc".to_vec(), b"/a b".to_vec()]);
    }
}
