//! `wharf-bench-floor`: the bare system calls of the bench's container, and nothing else. No document is read, no state
//! kept, nothing checked: what a runtime needs beyond this is its own.
//!
//! `wharf-bench-floor ROOTFS CGROUP FILTER PROGRAM` makes the container and waits for it; CGROUP is a directory of cgroup
//! v2 that it makes and removes, FILTER a file with the ready-made seccomp program. `wharf-bench-floor --peak PROGRAM
//! [ARGUMENT …]` runs a program and prints the largest resident set among it and its descendants, in bytes: a launcher
//! that is smaller than what it measures.

use std::ffi::{CStr, CString, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::process::{Command, ExitCode};

use wharf_sys::clone::{self, CloneOptions};
use wharf_sys::credential::{self, CapabilitySets};
use wharf_sys::mount::{self, Attributes, FsContext};
use wharf_sys::process::CStringArray;
use wharf_sys::seccomp::{self, Instruction};
use wharf_sys::{fs, namespace, pidfd, process};

/// Docker's fourteen: chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, net_raw,
/// sys_chroot, mknod, audit_write, setfcap.
const CAPABILITIES: u64 = 0xa804_25fb;
const LAST_CAPABILITY: u8 = 40;

/// Name, major and minor number.
const DEVICES: [(&CStr, u32, u32); 6] =
    [(c"null", 1, 3), (c"zero", 1, 5), (c"full", 1, 7), (c"random", 1, 8), (c"urandom", 1, 9), (c"tty", 5, 0)];
const LINKS: [(&CStr, &CStr); 5] = [
    (c"/proc/self/fd", c"fd"),
    (c"/proc/self/fd/0", c"stdin"),
    (c"/proc/self/fd/1", c"stdout"),
    (c"/proc/self/fd/2", c"stderr"),
    (c"pts/ptmx", c"ptmx"),
];
const MASKED: [&CStr; 6] =
    [c"proc/kcore", c"proc/keys", c"proc/latency_stats", c"proc/timer_list", c"proc/sched_debug", c"sys/firmware"];
const READ_ONLY: [&CStr; 5] = [c"proc/bus", c"proc/fs", c"proc/irq", c"proc/sys", c"proc/sysrq-trigger"];

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = match &arguments[..] {
        [option, program, rest @ ..] if option == "--peak" => peak(program, rest),
        [rootfs, cgroup, filter, program] => container(rootfs, cgroup, filter, program),
        _ => Err(io::Error::other("usage: wharf-bench-floor ROOTFS CGROUP FILTER PROGRAM | --peak PROGRAM …")),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("wharf-bench-floor: {error}");
            ExitCode::FAILURE
        }
    }
}

fn peak(program: &OsString, arguments: &[OsString]) -> io::Result<ExitCode> {
    let child = Command::new(program).args(arguments).spawn()?;
    let (status, bytes) = process::wait_with_peak(child.id())?;
    eprintln!("{bytes}");
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn container(rootfs: &OsString, cgroup: &OsString, filter: &OsString, program: &OsString) -> io::Result<ExitCode> {
    let text = |path: &OsString| CString::new(path.clone().into_vec()).map_err(io::Error::other);
    let (rootfs, program) = (text(rootfs)?, text(program)?);
    let filter = Instruction::program(&std::fs::read(filter)?);
    let arguments = CStringArray::new(vec![program.clone()]);
    let environment = CStringArray::new(vec![c"PATH=/bin".to_owned()]);
    std::fs::create_dir(cgroup)?;
    let group = std::fs::File::open(cgroup)?;
    let namespaces = clone::CLONE_NEWNS
        | clone::CLONE_NEWPID
        | clone::CLONE_NEWNET
        | clone::CLONE_NEWIPC
        | clone::CLONE_NEWUTS
        | clone::CLONE_NEWCGROUP;
    let options = CloneOptions { namespaces, cgroup: Some(group.as_fd()), ..CloneOptions::default() };
    let child = clone::spawn(options, || match enter(&rootfs, &filter) {
        Ok(()) => {
            eprintln!("exec: {}", process::exec(&program, &arguments, &environment));
            127
        }
        Err(error) => {
            eprintln!("wharf-bench-floor: {error}");
            126
        }
    })?;
    let exit = pidfd::wait(child.pidfd.as_fd())?;
    std::fs::remove_dir(cgroup)?;
    Ok(ExitCode::from(exit.shell_code() as u8))
}

fn enter(rootfs: &CStr, filter: &[Instruction]) -> io::Result<()> {
    namespace::loopback_up()?;
    namespace::set_hostname(b"bench")?;
    process::new_session()?;
    let directory = fs::O_PATH | fs::O_DIRECTORY;
    let host = fs::open_at(None, c"/", directory, 0, 0)?;
    let slave = Attributes { propagation: mount::MS_SLAVE, ..Attributes::default() };
    mount::set_attributes(host.as_fd(), slave, true)?;
    let place = fs::open_at(None, rootfs, directory, 0, 0)?;
    let root = mount::clone_tree(None, rootfs, true)?;
    mount::move_mount(root.as_fd(), place.as_fd())?;
    let root = root.as_fd();

    let closed = mount::MOUNT_ATTR_NOSUID | mount::MOUNT_ATTR_NODEV | mount::MOUNT_ATTR_NOEXEC;
    file_system(root, c"proc", c"proc", &[], closed)?;
    let dev =
        file_system(root, c"dev", c"tmpfs", &[(c"mode", c"755"), (c"size", c"65536k")], mount::MOUNT_ATTR_NOSUID)?;
    for name in [c"pts", c"shm", c"mqueue"] {
        fs::mkdir_at(dev.as_fd(), name, 0o755)?;
    }
    let pts = [(c"ptmxmode", c"0666"), (c"mode", c"0620"), (c"gid", c"5")];
    file_system(root, c"dev/pts", c"devpts", &pts, mount::MOUNT_ATTR_NOSUID | mount::MOUNT_ATTR_NOEXEC)?;
    file_system(root, c"dev/shm", c"tmpfs", &[(c"mode", c"1777"), (c"size", c"65536k")], closed)?;
    file_system(root, c"dev/mqueue", c"mqueue", &[], closed)?;
    file_system(root, c"sys", c"sysfs", &[], closed | mount::MOUNT_ATTR_RDONLY)?;
    file_system(root, c"sys/fs/cgroup", c"cgroup2", &[], closed | mount::MOUNT_ATTR_RDONLY)?;
    for (name, major, minor) in DEVICES {
        fs::mknod_at(dev.as_fd(), name, fs::S_IFCHR | 0o666, major, minor)?;
    }
    for (target, name) in LINKS {
        fs::symlink_at(target, dev.as_fd(), name)?;
    }

    process::change_directory(root)?;
    mount::pivot_root_here()?;
    process::change_directory(host.as_fd())?;
    mount::detach(c".")?;
    process::change_directory_to(c"/")?;
    for path in MASKED {
        mask(path)?;
    }
    for path in READ_ONLY {
        close(path)?;
    }

    for capability in (0..=LAST_CAPABILITY).filter(|capability| CAPABILITIES & 1 << capability == 0) {
        credential::bounding_drop(capability)?;
    }
    seccomp::load(filter, 0)?;
    let kept = CapabilitySets { effective: CAPABILITIES, permitted: CAPABILITIES, inheritable: 0 };
    credential::set_capabilities(kept)
}

fn file_system(
    root: BorrowedFd<'_>,
    path: &CStr,
    fstype: &CStr,
    parameters: &[(&CStr, &CStr)],
    attributes: u64,
) -> io::Result<OwnedFd> {
    let context = FsContext::open(fstype)?;
    for (key, value) in parameters {
        context.set_string(key, value)?;
    }
    let made = context.mount(attributes)?;
    let place = fs::open_in_root(root, path, fs::O_PATH, 0)?;
    mount::move_mount(made.as_fd(), place.as_fd())?;
    Ok(made)
}

/// Covers a file by the null device, a directory by an empty file system; what is not there needs neither.
fn mask(path: &CStr) -> io::Result<()> {
    let Some(place) = there(path)? else { return Ok(()) };
    let cover = if fs::status(place.as_fd())?.is(fs::S_IFDIR) {
        FsContext::open(c"tmpfs")?.mount(mount::MOUNT_ATTR_RDONLY)?
    } else {
        mount::clone_tree(None, c"dev/null", false)?
    };
    mount::move_mount(cover.as_fd(), place.as_fd())
}

fn close(path: &CStr) -> io::Result<()> {
    let Some(place) = there(path)? else { return Ok(()) };
    let tree = mount::clone_tree(None, path, true)?;
    let read_only = Attributes { set: mount::MOUNT_ATTR_RDONLY, ..Attributes::default() };
    mount::set_attributes(tree.as_fd(), read_only, true)?;
    mount::move_mount(tree.as_fd(), place.as_fd())
}

fn there(path: &CStr) -> io::Result<Option<OwnedFd>> {
    match fs::open_at(None, path, fs::O_PATH, 0, 0) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}
