//! Control groups of containers, on v1, hybrid and v2 hosts: made by the runtime itself, or by systemd ([`Scope`]).
//!
//! A container has one directory in every hierarchy that is mounted: all v1 hierarchies, and the unified one
//! (on a hybrid host it carries no controllers, but still processes: kill and events). A controller that is
//! missing is an error only if a limit asks for it.

mod detect;
mod devices;
mod error;
mod files;
mod freezer;
mod limits;
mod oom;
pub(crate) mod ownership;
mod processes;
mod stats;
mod sub_group;
mod systemd;
mod tree;
mod v1;
mod v2;

pub use detect::{Hierarchy, Layout};
pub(crate) use devices::compile as device_rules_compile;
pub use error::Error;
pub use oom::OomWatch;
pub use stats::{BlockIoEntry, HugePages, Memory, MemoryEntry, Pressure, PressureLine, Stats};
pub use sub_group::SubGroup;
pub use systemd::{NewScope, Scope, check_annotations, unit};
pub use tree::CreatedCgroup;

use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use wharf_specs::oci::LinuxResources;
use wharf_sys::errno;

/// How long removal waits for killed processes to leave.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// The control group of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    /// Directory in the unified hierarchy.
    unified: Option<PathBuf>,
    /// Controllers of each v1 hierarchy and the directory there.
    legacy: Vec<(Vec<String>, PathBuf)>,
}

impl Cgroup {
    /// Names the directories for `cgroupsPath`, creating nothing. An absolute path starts at the root of each
    /// hierarchy; a relative one below the caller's own group (v1) or beside it (v2, where a group with
    /// processes cannot have controllers for its children); none is the container id, taken as absolute.
    pub fn locate(layout: &Layout, path: Option<&Path>, id: &str) -> Self {
        let (relative, inner) = match path {
            Some(path) => (!path.is_absolute(), clean(path)),
            None => (false, PathBuf::from(id)),
        };
        let place = |hierarchy: &Hierarchy, unified: bool| {
            // Seen from inside of another cgroup namespace, the own group can be above the root: `/../x`.
            let own = clean(&hierarchy.own);
            let start = match (relative, unified) {
                (false, _) => Path::new(""),
                (true, true) => own.parent().unwrap_or(Path::new("")),
                (true, false) => &own,
            };
            hierarchy.mountpoint.join(start).join(&inner)
        };
        Self {
            unified: layout.unified.as_ref().map(|hierarchy| place(hierarchy, true)),
            legacy: layout
                .legacy
                .iter()
                .map(|hierarchy| (hierarchy.controllers.clone(), place(hierarchy, false)))
                .collect(),
        }
    }

    /// The group given by its directories, as [`Cgroup::paths`] names them.
    pub fn from_paths(paths: impl IntoIterator<Item = (String, PathBuf)>) -> Self {
        let mut cgroup = Self { unified: None, legacy: Vec::new() };
        for (controllers, path) in paths {
            if controllers.is_empty() {
                cgroup.unified = Some(path);
            } else {
                cgroup.legacy.push((controllers.split(',').map(str::to_string).collect(), path));
            }
        }
        cgroup
    }

    /// The groups that a process is in at present, in the same hierarchies.
    pub fn of_process(&self, pid: i32) -> Result<Self, Error> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Error::Layout)?;
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).map_err(Error::Layout)?;
        let layout = Layout::parse(&mounts, &groups);
        Ok(Self::of_caller(&layout))
    }

    /// The groups that the caller was in when the layout was read.
    pub(crate) fn of_caller(layout: &Layout) -> Self {
        let place = |hierarchy: &Hierarchy| (hierarchy.controllers.clone(), hierarchy.own_directory());
        Self {
            unified: layout.unified.as_ref().map(Hierarchy::own_directory),
            legacy: layout.legacy.iter().map(place).collect(),
        }
    }

    /// Every directory with the controllers of its hierarchy, comma separated; the unified one has the empty name.
    pub fn paths(&self) -> Vec<(String, PathBuf)> {
        let unified = self.unified.iter().map(|path| (String::new(), path.clone()));
        let legacy = self.legacy.iter().map(|(controllers, path)| (controllers.join(","), path.clone()));
        unified.chain(legacy).collect()
    }

    /// The directory that limits memory, or the unified one: the path to show.
    pub fn path(&self) -> Option<&Path> {
        self.v1("memory").or(self.unified.as_deref()).or(self.legacy.first().map(|(_, path)| path.as_path()))
    }

    /// Directory in the unified hierarchy.
    pub fn unified_path(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Directory in the v1 hierarchy of a controller.
    pub fn v1(&self, controller: &str) -> Option<&Path> {
        let has = |(controllers, _): &&(Vec<String>, PathBuf)| controllers.iter().any(|name| name == controller);
        self.legacy.iter().find(has).map(|(_, path)| path.as_path())
    }

    /// Makes the directories. What was made is removed again if one cannot be.
    ///
    /// Unless `strict`, a hierarchy that refuses the caller (rootless) is left out, which is an error later if a limit
    /// needs it.
    pub fn create(&mut self, strict: bool) -> Result<CreatedCgroup, Error> {
        let mut made = Vec::new();
        let mut refused = HashSet::new();
        for (controllers, path) in self.paths() {
            let result = tree::create(&path, &mut made).and_then(|()| {
                if controllers.is_empty() {
                    v2::enable_controllers(&path)
                } else if controllers.split(',').any(|name| name == "cpuset") {
                    v1::inherit_cpuset(&path)
                } else {
                    Ok(())
                }
            });
            match result {
                Ok(()) => {}
                Err(source) if !strict && is_refusal(&source) => {
                    refused.insert(path);
                }
                Err(source) => {
                    tree::remove_all(&made);
                    return Err(Error::Directory { operation: "create", path, source });
                }
            }
        }
        self.unified = self.unified.take().filter(|path| !refused.contains(path));
        self.legacy.retain(|(_, path)| !refused.contains(path));
        Ok(CreatedCgroup { made, scope: None, kept: false })
    }

    /// Writes the limits; what the configuration leaves out is left alone. Device rules are those of the
    /// configuration, then the devices every container has.
    pub fn apply(&self, resources: Option<&LinuxResources>, privileged: bool) -> Result<(), Error> {
        if privileged {
            self.apply_devices(resources)?;
        }
        match resources {
            Some(resources) => self.update(resources),
            None => Ok(()),
        }
    }

    /// Whether device rules are written line by line, so that for a while all devices are forbidden: no process in the
    /// group may need one meanwhile.
    pub(crate) fn has_device_lists(&self) -> bool {
        self.v1("devices").is_some()
    }

    /// Writes the device rules.
    pub(crate) fn apply_devices(&self, resources: Option<&LinuxResources>) -> Result<(), Error> {
        let rules = devices::rules(resources)?;
        if let Some(path) = self.v1("devices") {
            devices::apply_v1(path, &rules)?;
        } else if let Some(path) = &self.unified {
            devices::apply_v2(path, &rules)?;
        }
        Ok(())
    }

    /// Changes the limits of a live group, devices excepted.
    pub fn update(&self, resources: &LinuxResources) -> Result<(), Error> {
        limits::check_usage(self, resources)?;
        if self.is_v1() { v1::apply(self, resources) } else { v2::apply(self, resources) }
    }

    /// Whether limits are those of v1.
    fn is_v1(&self) -> bool {
        self.legacy.iter().any(|(controllers, _)| detect::has_controllers(controllers))
    }

    /// The unified directory, open for `CLONE_INTO_CGROUP`.
    pub fn open_unified(&self) -> io::Result<Option<OwnedFd>> {
        self.unified.as_ref().map(|path| File::open(path).map(OwnedFd::from)).transpose()
    }

    /// Removes the directories and those below them. Waits a short while for processes that are dying.
    ///
    /// # Errors
    /// The first directory that stays; all others are removed all the same.
    pub fn remove(&self) -> Result<(), Error> {
        let deadline = Instant::now() + REMOVE_PATIENCE;
        let mut first = None;
        for (_, path) in self.paths() {
            let mut pause = Duration::from_millis(1);
            loop {
                match tree::remove(&path) {
                    Ok(()) => break,
                    Err(error) if error.raw_os_error() == Some(errno::EBUSY) && Instant::now() < deadline => {
                        // Between a process's death and its leaving there is no event to wait for on v1.
                        std::thread::sleep(pause);
                        pause = (pause * 2).min(Duration::from_millis(100));
                    }
                    Err(source) => {
                        first.get_or_insert(Error::Directory { operation: "remove", path, source });
                        break;
                    }
                }
            }
        }
        first.map_or(Ok(()), Err)
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(errno::EACCES | errno::EPERM | errno::EROFS))
}

/// Removes `.` and `..` as a path below `/` would read them: nothing above the root can be named.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut cleaned = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => cleaned.push(part),
            Component::ParentDir => {
                cleaned.pop();
            }
            _ => {}
        }
    }
    cleaned
}

/// Writes a control file in one call.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        let hierarchy = |controllers: &[&str], mountpoint: &str, own: &str| Hierarchy {
            controllers: controllers.iter().map(|name| name.to_string()).collect(),
            mountpoint: mountpoint.into(),
            own: own.into(),
        };
        Layout {
            unified: Some(hierarchy(&[], "/cg/unified", "/user/session")),
            legacy: vec![hierarchy(&["memory"], "/cg/memory", "/own")],
        }
    }

    #[test]
    fn absolute_relative_and_absent_paths_are_placed() {
        let path = |given: Option<&str>| {
            let cgroup = Cgroup::locate(&layout(), given.map(Path::new), "id");
            (cgroup.unified_path().map(Path::to_path_buf), cgroup.v1("memory").map(Path::to_path_buf))
        };
        assert_eq!(path(Some("/a/b")), (Some("/cg/unified/a/b".into()), Some("/cg/memory/a/b".into())));
        assert_eq!(path(Some("a")), (Some("/cg/unified/user/a".into()), Some("/cg/memory/own/a".into())));
        assert_eq!(path(None), (Some("/cg/unified/id".into()), Some("/cg/memory/id".into())));
    }

    #[test]
    fn a_path_cannot_leave_the_hierarchy() {
        assert_eq!(clean(Path::new("/../../etc/./x/../y")), PathBuf::from("etc/y"));
    }
}
