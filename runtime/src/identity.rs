//! What a process becomes before it executes the user's program: limits, ids, capabilities, seccomp. Used by
//! the init of a container and by `exec` alike.
//!
//! The order is the kernel's: the bounding set needs CAP_SETPCAP, groups need CAP_SETGID, both gone after the
//! user is changed but for the keep flag; seccomp without `no_new_privs` needs CAP_SYS_ADMIN and therefore
//! comes before the capabilities, with it last, so that the filter need not allow any of this.

use crate::handshake::{At, Failure, Step};
use crate::plan::Process;
use crate::rootfs::target::shown;
use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use wharf_sys::credential::{self, CapabilitySets};
use wharf_sys::process::CStringArray;
use wharf_sys::seccomp::Instruction;
use wharf_sys::{errno, event, fs, limit, process, seccomp};

/// CAP_SYS_ADMIN, which loading a filter without `no_new_privs` needs.
const SYS_ADMIN: u64 = 1 << 21;
/// Where programs are looked for if the environment has no `PATH`.
const DEFAULT_PATH: &[u8] = b"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// A passwd file longer than this is not read for `HOME`.
const MAX_PASSWD_BYTES: usize = 1 << 20;

/// A filter, ready to be loaded.
#[derive(Debug)]
pub(crate) struct Filter {
    pub(crate) program: Vec<Instruction>,
    pub(crate) flags: u64,
}

/// First of the two halves: everything up to the user's ids. The permitted capabilities are kept.
pub(crate) fn assume(plan: &Process, last_capability: u8, setgroups_allowed: bool) -> Result<(), Failure> {
    set_limits(plan)?;
    own_stdio(plan);
    // As root first: a cwd the user may not enter is still what the configuration asked for.
    let entered = process::change_directory_to(&plan.cwd);
    for capability in 0..=last_capability {
        if plan.capabilities.bounding & (1 << capability) == 0 && credential::bounding_has(capability).unwrap_or(false)
        {
            credential::bounding_drop(capability).at(Step::Capabilities, "of the bounding set")?;
        }
    }
    credential::set_keep_capabilities(true).at(Step::Capabilities, "to be kept")?;
    // Without the right to set groups (a user namespace of an unprivileged user) there are none to give up.
    if setgroups_allowed || !plan.groups.is_empty() {
        credential::set_groups(&plan.groups).at(Step::Groups, format!("{:?}", plan.groups))?;
    }
    credential::set_group(plan.gid).at(Step::User, format!("group {}", plan.gid))?;
    credential::set_user(plan.uid).at(Step::User, plan.uid)?;
    match entered {
        // File systems that refuse root (NFS) let the user in.
        Err(error) if error.raw_os_error() == Some(errno::EACCES) => {
            process::change_directory_to(&plan.cwd).at(Step::WorkingDirectory, shown(&plan.cwd))?;
        }
        other => other.at(Step::WorkingDirectory, shown(&plan.cwd))?,
    }
    // A descriptor of the host as working directory would open the host to the container (CVE-2024-21626).
    match process::working_directory_is_inside_root() {
        Ok(true) => Ok(()),
        Ok(false) | Err(_) => {
            let object = format!("{}, which is outside of the container", shown(&plan.cwd));
            Err(Failure { step: Step::WorkingDirectory, errno: 0, object })
        }
    }
}

fn set_limits(plan: &Process) -> Result<(), Failure> {
    for (resource, name, soft, hard) in &plan.rlimits {
        limit::set_rlimit(*resource, *soft, *hard).at(Step::Rlimit, name)?;
    }
    if let Some((class, level)) = plan.io_priority {
        limit::set_io_priority(class, level).at(Step::IoPriority, level)?;
    }
    if let Some(scheduling) = plan.scheduler {
        let object = match plan.cpus_restricted {
            true => "policy: process scheduler can't be used together with AllowedCPUs (linux.resources.cpu.cpus)",
            false => "policy",
        };
        limit::set_scheduling(scheduling).at(Step::Scheduler, object)?;
    }
    if let Some((mode, nodes)) = &plan.memory_policy {
        limit::set_memory_policy(*mode, nodes).at(Step::MemoryPolicy, "nodes")?;
    }
    if let Some(domain) = plan.personality {
        limit::set_personality(domain).at(Step::Personality, domain)?;
    }
    Ok(())
}

/// Gives the user the standard descriptors, so that `/dev/stdout` can be opened again. Devices other than
/// terminals stay as they are: `/dev/null` belongs to all.
fn own_stdio(plan: &Process) {
    for number in 0..3 {
        let Ok(file) = process::duplicate_inherited(number) else { continue };
        let Ok(status) = fs::status(file.as_fd()) else { continue };
        let is_null = status.is(fs::S_IFCHR) && status.rdev == (1, 3);
        if !is_null && status.uid != plan.uid {
            // Refused for what belongs to someone else or lies on a read-only file system; then it stays.
            let _ = fs::change_owner(file.as_fd(), plan.uid, status.gid);
        }
    }
}

/// The second half: filter and capabilities. A listener goes to `announce`.
pub(crate) fn confine(
    plan: &Process,
    filter: Option<&Filter>,
    announce: impl Fn(OwnedFd) -> io::Result<()>,
    between: impl FnOnce() -> Result<(), Failure>,
) -> Result<(), Failure> {
    let load = |filter: &Filter| -> Result<(), Failure> {
        match seccomp::load(&filter.program, filter.flags).at(Step::Seccomp, "")? {
            Some(listener) => announce(listener).at(Step::Seccomp, "listener"),
            None => Ok(()),
        }
    };
    if let Some(filter) = filter.filter(|_| !plan.no_new_privileges) {
        let held = credential::capabilities().at(Step::Capabilities, "")?;
        let raised = CapabilitySets { effective: held.permitted & SYS_ADMIN, ..held };
        credential::set_capabilities(raised).at(Step::Capabilities, "for the seccomp filter")?;
        load(filter)?;
    }
    set_capabilities(plan)?;
    if let Some(mask) = plan.umask {
        process::set_umask(mask);
    }
    between()?;
    if plan.no_new_privileges {
        credential::set_no_new_privileges().at(Step::NoNewPrivileges, "")?;
        if let Some(filter) = filter {
            load(filter)?;
        }
    }
    Ok(())
}

/// The filter for a hook in the container: with `no_new_privs` the process itself loads it only after its hooks.
pub(crate) fn confine_hook(plan: &Process, filter: Option<&Filter>) -> io::Result<()> {
    let Some(filter) = filter.filter(|_| plan.no_new_privileges) else { return Ok(()) };
    credential::set_no_new_privileges()?;
    // A listener would be a second one for the agent: what it decides fails in the hook, as without an agent.
    seccomp::load(&filter.program, filter.flags).map(drop)
}

fn set_capabilities(plan: &Process) -> Result<(), Failure> {
    let wanted = &plan.capabilities;
    let held = credential::capabilities().at(Step::Capabilities, "")?.permitted;
    // What this process does not have it cannot give; the standard asks for no more than that.
    let sets = CapabilitySets {
        effective: wanted.effective & wanted.permitted & held,
        permitted: wanted.permitted & held,
        inheritable: wanted.inheritable & held,
    };
    credential::set_capabilities(sets).at(Step::Capabilities, "")?;
    credential::set_keep_capabilities(false).at(Step::Capabilities, "not to be kept")?;
    credential::ambient_clear().at(Step::Capabilities, "of the ambient set")?;
    for capability in (0..64).filter(|number| wanted.ambient & sets.permitted & sets.inheritable & (1 << number) != 0) {
        credential::ambient_raise(capability).at(Step::Capabilities, "of the ambient set")?;
    }
    Ok(())
}

/// The environment with `HOME`, looked up in the container's `/etc/passwd` if the configuration has none.
pub(crate) fn environment(plan: &Process) -> CStringArray {
    let mut environment = CStringArray::new(plan.env.clone());
    if !plan.has_home {
        let home = home_of(plan.uid).unwrap_or_else(|| b"/".to_vec());
        if let Ok(entry) = CString::new([b"HOME=".as_slice(), &home].concat()) {
            environment.push(entry);
        }
    }
    environment
}

fn home_of(uid: u32) -> Option<Vec<u8>> {
    let flags = fs::O_RDONLY | fs::O_NONBLOCK | fs::O_NOCTTY;
    let file = fs::open_at(None, c"/etc/passwd", flags, 0, fs::RESOLVE_NO_MAGICLINKS).ok()?;
    if !fs::status(file.as_fd()).ok()?.is(fs::S_IFREG) {
        return None;
    }
    let mut text = Vec::new();
    let mut buffer = [0u8; 4096];
    while text.len() < MAX_PASSWD_BYTES {
        match fs::read(file.as_fd(), &mut buffer) {
            Ok(0) => break,
            Ok(length) => text.extend_from_slice(&buffer[..length]),
            Err(_) => return None,
        }
    }
    parse_home(&text, uid)
}

fn parse_home(passwd: &[u8], uid: u32) -> Option<Vec<u8>> {
    passwd.split(|byte| *byte == b'\n').find_map(|line| {
        let mut fields = line.split(|byte| *byte == b':').skip(2);
        let id: u32 = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let home = fields.nth(2)?;
        (id == uid && !home.is_empty()).then(|| home.to_vec())
    })
}

/// The path of the program: as given if it has a slash, else the first executable of that name in `PATH`.
pub(crate) fn find_program(plan: &Process) -> Result<CString, Failure> {
    let name = &plan.args[0];
    let missing = |number| Failure { step: Step::FindProgram, errno: number, object: shown(name) };
    if name.as_bytes().contains(&b'/') {
        executable(name, plan).map_err(|error| missing(errno::number(&error)))?;
        return Ok(name.clone());
    }
    let path = if plan.search_path.is_empty() { DEFAULT_PATH } else { &plan.search_path };
    let mut reason = None;
    for directory in path.split(|byte| *byte == b':') {
        let directory = if directory.is_empty() { b"." } else { directory };
        let Ok(candidate) = CString::new([directory, b"/", name.as_bytes()].concat()) else { continue };
        match executable(&candidate, plan) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.raw_os_error() == Some(errno::EACCES) => reason = Some(errno::EACCES),
            Err(_) => {}
        }
    }
    match reason {
        Some(number) => Err(missing(number)),
        None => Err(Failure {
            step: Step::FindProgram,
            errno: errno::ENOENT,
            object: format!("{}, executable file not found in $PATH", shown(name)),
        }),
    }
}

fn executable(path: &CStr, plan: &Process) -> io::Result<()> {
    /// CAP_DAC_OVERRIDE, which is in effect only when the program is executed.
    const DAC_OVERRIDE: u64 = 1 << 1;
    const ANY_EXECUTE_BIT: u32 = 0o111;
    let status = fs::status_of(None, path, true)?;
    if status.is(fs::S_IFDIR) {
        return Err(errno::error(errno::EISDIR));
    }
    if plan.capabilities.effective & DAC_OVERRIDE != 0 && status.mode & ANY_EXECUTE_BIT != 0 {
        return Ok(());
    }
    fs::may_execute(path)
}

/// Lays `extra` out from descriptor 3 on, open over exec.
pub(crate) fn place_descriptors(extra: &[OwnedFd]) -> Result<(), Failure> {
    let first_free = 3 + extra.len() as i32;
    // Moved out of the way first, as one may lie where another belongs.
    let moved: Vec<OwnedFd> = extra
        .iter()
        .map(|fd| process::duplicate_above(fd.as_fd(), first_free))
        .collect::<io::Result<_>>()
        .at(Step::Stdio, "to be preserved")?;
    for (number, fd) in (3..).zip(&moved) {
        process::place(fd.as_fd(), number).at(Step::Stdio, number)?;
    }
    Ok(())
}

/// Puts three descriptors at the standard places.
pub(crate) fn place_stdio(stdio: [BorrowedFd<'_>; 3]) -> Result<(), Failure> {
    for (number, fd) in (0..).zip(stdio) {
        process::place(fd, number).at(Step::Stdio, number)?;
    }
    Ok(())
}

/// Puts the container's null device in the place of the host's where that is standard input, output or error: a
/// checkpoint can hold what lies in the container only. Where that is not possible the host's stays.
pub(crate) fn use_own_null() {
    let null = |file: BorrowedFd<'_>| fs::status(file).is_ok_and(|it| it.is(fs::S_IFCHR) && it.rdev == (1, 3));
    let (stdin, stdout, stderr) = (io::stdin(), io::stdout(), io::stderr());
    let standard = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd()];
    if standard.iter().all(|file| !null(*file)) {
        return;
    }
    let flags = fs::O_RDWR | fs::O_NOFOLLOW | fs::O_NOCTTY | fs::O_NONBLOCK;
    let Ok(own) = fs::open_at(None, c"/dev/null", flags, 0, fs::RESOLVE_NO_SYMLINKS) else { return };
    if !null(own.as_fd()) || fs::set_nonblocking(own.as_fd(), false).is_err() {
        return;
    }
    for (number, file) in (0..).zip(standard) {
        if null(file) {
            let _ = process::place(own.as_fd(), number);
        }
    }
}

/// Default actions and an empty mask: what exec would hand on otherwise is the runtime's.
pub(crate) fn reset_signals() {
    event::reset_signal_actions();
    let _ = event::set_signal_mask(&event::SignalSet::empty());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn home_is_the_sixth_field_of_the_users_line() {
        let passwd = b"root:x:0:0:root:/root:/bin/sh\nbad line\nweb:x:33:33::/srv/www:/bin/false\nno:x:5:5:::\n";
        assert_eq!(parse_home(passwd, 33), Some(b"/srv/www".to_vec()));
        assert_eq!(parse_home(passwd, 5), None);
        assert_eq!(parse_home(passwd, 1), None);
    }
}
