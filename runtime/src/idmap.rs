//! Id mappings of user namespaces: written directly where the kernel allows it, else by `newuidmap` and
//! `newgidmap`.

use crate::error::{Error, While};
use crate::plan::{IdMap, Namespaces};
use std::cell::Cell;
use std::fmt::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::Command;
use wharf_specs::oci::LinuxIdMapping;
use wharf_sys::clone::{CLONE_NEWUSER, CloneOptions, spawn};
use wharf_sys::{credential, fs, process};

/// Writes the mappings of a container's user namespace.
pub(crate) struct Mapper<'a> {
    namespaces: &'a Namespaces,
    privileged: bool,
}

impl<'a> Mapper<'a> {
    pub(crate) fn new(namespaces: &'a Namespaces, privileged: bool) -> Self {
        Self { namespaces, privileged }
    }

    /// Whether the init may change its supplementary groups: an unprivileged user who maps the own group alone
    /// must give that up (user_namespaces(7)).
    pub(crate) fn setgroups_allowed(&self) -> bool {
        self.namespaces.uid_map.is_empty() || self.privileged || !self.maps_only_self()
    }

    fn maps_only_self(&self) -> bool {
        let own = |map: &[LinuxIdMapping], id| matches!(map, [one] if one.size() == 1 && one.host_id() == id);
        own(&self.namespaces.uid_map, credential::effective_user())
            && own(&self.namespaces.gid_map, credential::effective_group())
    }

    /// Writes both maps for a process that is in its new user namespace.
    pub(crate) fn write(&self, pid: i32) -> Result<(), Error> {
        let (uids, gids) = (&self.namespaces.uid_map, &self.namespaces.gid_map);
        if self.privileged || self.maps_only_self() {
            if !self.privileged {
                write_file(pid, "setgroups", "deny")?;
            }
            write_file(pid, "uid_map", &lines(uids))?;
            return write_file(pid, "gid_map", &lines(gids));
        }
        helper("newuidmap", pid, uids)?;
        helper("newgidmap", pid, gids)
    }
}

fn write_file(pid: i32, file: &str, text: &str) -> Result<(), Error> {
    let path = format!("/proc/{pid}/{file}");
    std::fs::write(&path, text).during("write the id mapping", text.trim().replace('\n', "; "))
}

fn lines(map: &[LinuxIdMapping]) -> String {
    map.iter().fold(String::new(), |mut text, entry| {
        let _ = writeln!(text, "{} {} {}", entry.container_id(), entry.host_id(), entry.size());
        text
    })
}

fn helper(program: &'static str, pid: i32, map: &[LinuxIdMapping]) -> Result<(), Error> {
    let mut command = Command::new(program);
    command.arg(pid.to_string());
    for entry in map {
        command.args([entry.container_id(), entry.host_id(), entry.size()].map(|number| number.to_string()));
    }
    let output = command.output().during("run", program)?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(Error::Unsupported(format!("{program}: {}", said.trim().lines().next().unwrap_or("failed"))))
}

/// A user namespace with these mappings, for an id-mapped mount: it lives as long as a process of ours is in it,
/// and after that as long as its descriptor.
pub(crate) fn user_namespace(map: &IdMap) -> Result<OwnedFd, Error> {
    let (wait, release) = process::pipe().during("make pipe", "")?;
    let options = CloneOptions { namespaces: CLONE_NEWUSER, ..CloneOptions::default() };
    let release = Cell::new(Some(release));
    let child = spawn(options, || {
        // Ends when the other end of the pipe is closed, by us or by our death: nobody else may have it.
        drop(release.take());
        let _ = process::close_on_exec_from(3);
        let mut byte = [0u8; 1];
        process::change_directory_to(c"/").ok();
        let _ = fs::read(wait.as_fd(), &mut byte);
        0
    })
    .during("clone a process into a user namespace", "")?;
    let guard = crate::create::ChildGuard::new(child);
    let pid = guard.child().pid;
    write_file(pid, "uid_map", &lines(&map.uids))?;
    write_file(pid, "gid_map", &lines(&map.gids))?;
    let path = format!("/proc/{pid}/ns/user");
    let namespace = std::fs::File::open(Path::new(&path)).during("open namespace", path)?;
    drop(release);
    Ok(OwnedFd::from(namespace))
}
