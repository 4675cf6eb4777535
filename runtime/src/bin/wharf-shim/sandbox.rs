//! The pod's own namespaces: made once, pinned by descriptors, gone with the shim.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::foreign::path_for_others;
use wharf_specs::shim::{PodNamespace, SandboxSetup};
use wharf_sys::{clone, credential, event, namespace, pidfd, process};

/// What a child of the shim may say about its failure.
const MAX_REPORT_BYTES: u64 = 4096;

/// Said by a child whose namespaces are as they should be.
const READY: &[u8] = b"ready";

/// The pinned namespaces of a pod.
pub(crate) struct Sandbox {
    pinned: BTreeMap<PodNamespace, OwnedFd>,
    /// PID 1 of a shared PID namespace; its end would end every process of the pod.
    reaper: Option<clone::Child>,
}

impl Sandbox {
    /// Makes and pins the namespaces of `setup`, and sets host name, loopback device and sysctls inside them.
    pub(crate) fn create(setup: &SandboxSetup) -> io::Result<Self> {
        let mut sandbox = Self { pinned: BTreeMap::new(), reaper: None };
        if !setup.namespaces.is_empty() || !setup.sysctls.is_empty() {
            sandbox.pin_prepared(setup)?;
        }
        Ok(sandbox)
    }

    /// A child lives in the new namespaces just long enough to prepare them and to let us open them. With a PID namespace
    /// among them it is its PID 1, and stays.
    fn pin_prepared(&mut self, setup: &SandboxSetup) -> io::Result<()> {
        let kinds = &setup.namespaces[..];
        let stays = kinds.contains(&PodNamespace::Pid);
        let (go_read, go_write) = process::pipe()?;
        let (report_read, report_write) = process::pipe()?;
        let flags = kinds.iter().fold(0, |flags, kind| flags | clone_flag(*kind));
        let parent = std::process::id();
        let child = clone::spawn(options(flags), || {
            if end_with(parent).is_err() || File::from(go_read).read_exact(&mut [0]).is_err() {
                return 1;
            }
            if let Err(error) = prepare(kinds, setup) {
                let _ = File::from(report_write).write_all(error.as_bytes());
                return 1;
            }
            // The last word: after it there is nobody to say anything to.
            if File::from(report_write).write_all(READY).is_err() {
                return 1;
            }
            if stays { reap_for_ever() } else { 0 }
        })?;
        let mut guard = KilledUnlessKept(Some(child));
        let pid = guard.pid();
        write_maps(pid, setup)?;
        let opened: io::Result<Vec<_>> = kinds.iter().map(|&kind| Ok((kind, open_namespace(pid, kind)?))).collect();
        File::from(go_write).write_all(&[1])?;
        let mut report = Vec::new();
        File::from(report_read).take(MAX_REPORT_BYTES).read_to_end(&mut report)?;
        if report != READY {
            return Err(io::Error::other(String::from_utf8_lossy(&report).into_owned()));
        }
        self.pinned.extend(opened?);
        if stays {
            self.reaper = guard.keep();
        }
        Ok(())
    }

    /// The pinned namespaces, in a fixed order.
    pub(crate) fn namespaces(&self) -> impl Iterator<Item = (PodNamespace, BorrowedFd<'_>)> {
        self.pinned.iter().map(|(&kind, fd)| (kind, fd.as_fd()))
    }

    /// A path to a pinned namespace that other processes can open too.
    pub(crate) fn path(&self, namespace: PodNamespace) -> Option<PathBuf> {
        Some(path_for_others(self.pinned.get(&namespace)?.as_fd()))
    }

    pub(crate) fn reaper_pid(&self) -> Option<i32> {
        self.reaper.as_ref().map(|reaper| reaper.pid)
    }

    /// Ends the reaper, and with it whatever still lives in a shared PID namespace.
    pub(crate) fn end(&mut self) {
        if let Some(reaper) = self.reaper.take() {
            let _ = pidfd::send_signal(reaper.pidfd.as_fd(), SIGKILL);
            let _ = pidfd::wait(reaper.pidfd.as_fd());
        }
    }
}

/// Ends and reaps a child, unless it is kept.
struct KilledUnlessKept(Option<clone::Child>);

impl KilledUnlessKept {
    fn pid(&self) -> i32 {
        self.0.as_ref().map_or(0, |child| child.pid)
    }

    fn keep(&mut self) -> Option<clone::Child> {
        self.0.take()
    }
}

impl Drop for KilledUnlessKept {
    fn drop(&mut self) {
        if let Some(child) = &self.0 {
            let _ = pidfd::send_signal(child.pidfd.as_fd(), SIGKILL);
            let _ = pidfd::wait(child.pidfd.as_fd());
        }
    }
}

/// For a child in a new user namespace.
fn write_maps(pid: i32, setup: &SandboxSetup) -> io::Result<()> {
    if !setup.namespaces.contains(&PodNamespace::User) {
        return Ok(());
    }
    for (file, map) in [("uid_map", &setup.uid_map), ("gid_map", &setup.gid_map)] {
        let lines = map.iter().map(|one| format!("{} {} {}\n", one.container, one.host, one.size));
        let text: String = lines.collect();
        std::fs::write(format!("/proc/{pid}/{file}"), &text)
            .map_err(|error| io::Error::other(format!("write {file} {:?}: {error}", text.trim_end())))?;
    }
    Ok(())
}

const SIGKILL: i32 = 9;
const SIGCHLD: i32 = 17;

fn clone_flag(kind: PodNamespace) -> i32 {
    match kind {
        PodNamespace::User => clone::CLONE_NEWUSER,
        PodNamespace::Network => clone::CLONE_NEWNET,
        PodNamespace::Ipc => clone::CLONE_NEWIPC,
        PodNamespace::Uts => clone::CLONE_NEWUTS,
        PodNamespace::Pid => clone::CLONE_NEWPID,
    }
}

fn proc_name(kind: PodNamespace) -> &'static str {
    match kind {
        PodNamespace::User => "user",
        PodNamespace::Network => "net",
        PodNamespace::Ipc => "ipc",
        PodNamespace::Uts => "uts",
        PodNamespace::Pid => "pid",
    }
}

fn options(namespaces: i32) -> clone::CloneOptions<'static> {
    clone::CloneOptions { namespaces, ..clone::CloneOptions::default() }
}

fn open_namespace(pid: i32, kind: PodNamespace) -> io::Result<OwnedFd> {
    File::open(format!("/proc/{pid}/ns/{}", proc_name(kind))).map(OwnedFd::from)
}

fn prepare(kinds: &[PodNamespace], setup: &SandboxSetup) -> Result<(), String> {
    if kinds.contains(&PodNamespace::User) {
        let become_root = || {
            credential::set_groups(&[])?;
            credential::set_group(0)?;
            credential::set_user(0)?;
            // A change of ids takes it back.
            process::set_parent_death_signal(SIGKILL)
        };
        become_root().map_err(|e| format!("become root of the user namespace: {e}"))?;
    }
    if kinds.contains(&PodNamespace::Uts) && !setup.hostname.is_empty() {
        let name = setup.hostname.as_bytes();
        namespace::set_hostname(name).map_err(|e| format!("set host name {:?}: {e}", setup.hostname))?;
    }
    if kinds.contains(&PodNamespace::Network) {
        namespace::loopback_up().map_err(|e| format!("bring up lo: {e}"))?;
    }
    for (name, value) in &setup.sysctls {
        write_sysctl(kinds, name, value)?;
    }
    Ok(())
}

/// Writes a sysctl that belongs to one of the pod's own namespaces; any other would be the node's.
fn write_sysctl(kinds: &[PodNamespace], name: &str, value: &str) -> Result<(), String> {
    let plain = !name.contains('/') && name.split('.').all(|part| !part.is_empty());
    let owner = match name {
        _ if !plain => return Err(format!("sysctl {name:?}: not a dotted name")),
        "kernel.hostname" | "kernel.domainname" => PodNamespace::Uts,
        _ if name.starts_with("net.") => PodNamespace::Network,
        _ if ["kernel.msg", "kernel.sem", "kernel.shm", "fs.mqueue."].iter().any(|p| name.starts_with(p)) => {
            PodNamespace::Ipc
        }
        _ => return Err(format!("sysctl {name:?}: not namespaced")),
    };
    if !kinds.contains(&owner) {
        return Err(format!("sysctl {name:?}: the pod shares the node's {} namespace", proc_name(owner)));
    }
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::write(&path, value).map_err(|e| format!("write {value:?} to sysctl {name}: {e}"))
}

/// Has the kernel kill this process when `parent` ends; fails where it has ended before that could be asked for.
fn end_with(parent: u32) -> io::Result<()> {
    process::set_parent_death_signal(SIGKILL)?;
    // In a PID namespace of its own a process has no parent by getppid(2); the shim's /proc shows it.
    let status = std::fs::read_to_string("/proc/self/status")?;
    let found = status.lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
    if found == Some(parent) { Ok(()) } else { Err(io::Error::other("the shim has ended")) }
}

/// PID 1 of a pod that shares its PID namespace. The kernel reaps for a parent that ignores SIGCHLD.
fn reap_for_ever() -> i32 {
    event::ignore_signal(SIGCHLD);
    if process::set_parent_death_signal(SIGKILL).is_err() || detach_stdio().is_err() {
        return 1;
    }
    let _ = process::set_name(c"wharf-reaper");
    let Ok(nothing) = event::Epoll::new() else { return 1 };
    loop {
        let _ = nothing.wait(&mut Vec::new(), -1);
    }
}

/// Puts /dev/null in the place of standard input, output and error.
pub(crate) fn detach_stdio() -> io::Result<()> {
    let null = File::options().read(true).write(true).open("/dev/null")?;
    (0..=2).try_for_each(|number| process::place(null.as_fd(), number))
}
