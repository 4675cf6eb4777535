//! Control groups of containers, on v1, hybrid and v2 hosts: made by the runtime itself, or by systemd ([`Scope`]).
//!
//! A container has one directory in every hierarchy that is mounted: all v1 hierarchies, and the unified one
//! (on a hybrid host it carries no controllers, but still processes: kill and events). A controller that is
//! missing is an error only if a limit asks for it.

mod detect;
mod devices;
mod files;
pub(crate) mod ownership;
mod stats;
mod systemd;
mod tree;
mod v1;
mod v2;

pub use detect::{Hierarchy, Layout};
pub(crate) use devices::compile as device_rules_compile;
pub use stats::{BlockIoEntry, HugePages, Memory, MemoryEntry, OomWatch, Pressure, PressureLine, Stats};
pub use systemd::{NewScope, Scope, check_annotations, unit};
pub use tree::CreatedCgroup;

use crate::dbus;
use std::collections::HashSet;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};
use wharf_specs::oci::{LinuxHugepageLimit, LinuxResources};
use wharf_sys::{errno, pidfd};

/// How long removal waits for killed processes to leave.
const REMOVE_PATIENCE: Duration = Duration::from_secs(5);

/// A control group operation that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{operation} cgroup {}: {}", path.display(), cause(source))]
    Directory { operation: &'static str, path: PathBuf, source: io::Error },
    #[error("adding pid {pid} to cgroups {}: {}", path.display(), cause(source))]
    Join { pid: i32, path: PathBuf, source: io::Error },
    #[error("{0}")]
    SubGroup(String),
    #[error("linux.resources.{field}: write {value:?} to {}: {}", path.display(), cause(source))]
    Limit { field: String, value: String, path: PathBuf, source: io::Error },
    #[error("linux.resources.{field}: the {controller} controller is not available on this host")]
    NoController { field: String, controller: String },
    #[error("linux.resources.{field}: {problem}")]
    Value { field: String, problem: String },
    #[error("find the cgroup hierarchies: {0}")]
    Layout(#[source] io::Error),
    #[error("linux.cgroupsPath: {problem}")]
    UnitName { problem: String },
    #[error("annotations[\"org.systemd.property.{name}\"]: {problem}")]
    Annotation { name: String, problem: String },
    #[error(
        "systemd does not run here (there is no /run/systemd/system): use the cgroupfs driver, without --systemd-cgroup"
    )]
    NoSystemd,
    #[error("a user's systemd manages no limits on cgroup v1: boot with cgroup v2, or run as root")]
    UserOnV1,
    #[error("{operation} unit {unit}: {source}{advice}")]
    Systemd { operation: &'static str, unit: String, source: dbus::Error, advice: String },
}

/// A group below the container's: in these hierarchies, or in all of them if no controller is named.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubGroup {
    pub controllers: Vec<String>,
    pub path: PathBuf,
}

impl SubGroup {
    /// Parses `PATH` or `CONTROLLER[,CONTROLLER]:PATH`.
    pub fn parse(text: &str) -> Self {
        match text.split_once(':') {
            Some((controllers, path)) => {
                Self { controllers: controllers.split(',').map(str::to_string).collect(), path: path.into() }
            }
            None => Self { controllers: Vec::new(), path: text.into() },
        }
    }
}

fn has_controller(list: &str, name: &str) -> bool {
    list.split(',').any(|one| one == name)
}

fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno::explain)
}

/// The kernel charges in batches of this size, so that a group may be that far below a limit that was in the way.
const OOM_SLACK_BYTES: u64 = 128 << 10;

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

    /// The groups below this one that `places` name; where they name none, this one.
    pub fn below(&self, places: &[SubGroup]) -> Result<Self, Error> {
        let mut paths = self.paths();
        for place in places {
            let inside = |part| matches!(part, Component::Normal(_) | Component::RootDir | Component::CurDir);
            if !place.path.components().all(inside) {
                return Err(Error::SubGroup(format!("bad sub cgroup path {:?}", place.path)));
            }
            let inner = clean(&place.path);
            for name in &place.controllers {
                let known = paths.iter().any(|(controllers, _)| has_controller(controllers, name));
                if !known {
                    return Err(Error::SubGroup(format!("unknown controller {name:?} in a cgroup to be joined")));
                }
            }
            let meant = |controllers: &str| {
                place.controllers.is_empty() || place.controllers.iter().any(|name| has_controller(controllers, name))
            };
            for (controllers, directory) in &mut paths {
                if meant(controllers) {
                    *directory = directory.join(&inner);
                }
            }
        }
        Ok(Self::from_paths(paths))
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
        check_usage(self, resources)?;
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

    /// Moves a process into the v1 directories, and with `unified` into that one too.
    pub fn add(&self, pid: i32, unified: bool) -> Result<(), Error> {
        for (controllers, path) in self.paths() {
            if controllers.is_empty() && !unified {
                continue;
            }
            if let Err(source) = write(&path.join("cgroup.procs"), &pid.to_string()) {
                return Err(Error::Join { pid, path, source });
            }
        }
        Ok(())
    }

    /// The processes in the group and in those below it.
    pub fn pids(&self) -> io::Result<Vec<i32>> {
        let directory = self.unified.as_deref().or(self.path());
        let mut pids = Vec::new();
        if let Some(directory) = directory {
            collect_pids(directory, &mut pids)?;
        }
        Ok(pids)
    }

    /// Kills every process in the group and below, also those forked while it works and those that are frozen.
    pub fn kill_all(&self) -> io::Result<()> {
        self.send_kill()?;
        match self.v1("freezer") {
            // There a frozen process dies only once it is thawed.
            Some(path) if self.is_frozen() => thawed_if_gone(write(&path.join("freezer.state"), "THAWED"), false),
            _ => Ok(()),
        }
    }

    fn send_kill(&self) -> io::Result<()> {
        const SIGKILL: i32 = 9;
        if let Some(path) = &self.unified {
            match write(&path.join("cgroup.kill"), "1") {
                Ok(()) => return Ok(()),
                // The file came with kernel 5.14, and the root group has none.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Removed between open and write: systemd does so once the last process has left.
                Err(error) if error.raw_os_error() == Some(errno::ENODEV) => return Ok(()),
                Err(error) => return Err(error),
            }
        }
        self.signal_all(SIGKILL)
    }

    /// Sends a signal to every process in the group and below.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        /// Descriptors held at a time.
        const BATCH: usize = 128;
        let ended = |error: &io::Error| error.raw_os_error() == Some(errno::ESRCH);
        for batch in self.pids()?.chunks(BATCH) {
            let mut processes = Vec::with_capacity(batch.len());
            for pid in batch {
                match pidfd::open(*pid) {
                    Ok(process) => processes.push((pid, process)),
                    Err(error) if ended(&error) => {}
                    Err(error) => return Err(error),
                }
            }
            // Looked for once more: a number may be another process's by now, but not the descriptor.
            let still_there: HashSet<i32> = self.pids()?.into_iter().collect();
            for (_, process) in processes.iter().filter(|(pid, _)| still_there.contains(pid)) {
                match pidfd::send_signal(process.as_fd(), signal) {
                    Err(error) if !ended(&error) => return Err(error),
                    _ => {}
                }
            }
        }
        Ok(())
    }

    /// How many processes the kernel has killed for want of memory since the group was made.
    pub fn oom_kills(&self) -> u64 {
        let file = match (self.v1("memory"), &self.unified) {
            (Some(path), _) => path.join("memory.oom_control"),
            (None, Some(path)) => path.join("memory.events"),
            (None, None) => return 0,
        };
        let text = fs::read_to_string(file).unwrap_or_default();
        text.lines().find_map(|line| line.strip_prefix("oom_kill ")).and_then(|n| n.trim().parse().ok()).unwrap_or(0)
    }

    /// The group, this one or one above, whose limit was in the way when the kernel killed for want of memory, by its path
    /// from the hierarchy's root on, and that limit in bytes; of groups with the same limit, the innermost. `None` where it
    /// was the machine's own memory that ran out.
    pub fn oom_origin(&self) -> Option<(String, u64)> {
        let (group, limit_file) = match (self.v1("memory"), &self.unified) {
            (Some(path), _) => (path, "memory.limit_in_bytes"),
            (None, Some(path)) => (path.as_path(), "memory.max"),
            (None, None) => return None,
        };
        let read = |group: &Path, file: &str| fs::read_to_string(group.join(file)).ok();
        let number = |group: &Path, file: &str| read(group, file)?.trim().parse::<u64>().ok();
        // v1 counts what could be reclaimed too, and of limits that are alike only the outermost: a peak at the limit says
        // that it was in the way.
        let v1_was_hit = |group: &Path, counter: &str| {
            let value = |file: &str| number(group, &format!("memory.{counter}{file}"));
            value("limit_in_bytes")
                .zip(value("max_usage_in_bytes"))
                .is_some_and(|(limit, most)| most + OOM_SLACK_BYTES >= limit)
        };
        let was_hit = |group: &Path| match read(group, "memory.events.local") {
            Some(events) => {
                let count = events.lines().find_map(|line| line.strip_prefix("oom "));
                count.is_some_and(|count| count.trim() != "0")
            }
            None => v1_was_hit(group, "") || v1_was_hit(group, "memsw."),
        };
        let groups = || group.ancestors().take_while(|group| group.join(limit_file).exists());
        let limit = groups().find(|group| was_hit(group)).and_then(|group| number(group, limit_file))?;
        // Where a pod has no more than its only container, what the container alone was given is what was too little.
        let named = groups().find(|group| number(group, limit_file) == Some(limit))?;
        let path = named.strip_prefix("/sys/fs/cgroup").ok()?;
        let path = path.strip_prefix("memory").or_else(|_| path.strip_prefix("unified")).unwrap_or(path);
        Some((format!("/{}", path.display()), limit))
    }

    /// Stops all processes, or lets them run on. Waits until the kernel has done it.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let fail = |path: &Path| {
            let path = path.to_path_buf();
            move |source| Error::Directory { operation: if frozen { "freeze" } else { "thaw" }, path, source }
        };
        if let Some(path) = self.v1("freezer") {
            thawed_if_gone(v1::freeze(path, frozen), frozen).map_err(fail(path))
        } else if let Some(path) = &self.unified {
            thawed_if_gone(v2::freeze(path, frozen), frozen).map_err(fail(path))
        } else {
            Err(Error::NoController { field: "pause".into(), controller: "freezer".into() })
        }
    }

    /// Whether the processes are stopped.
    pub fn is_frozen(&self) -> bool {
        if let Some(path) = self.v1("freezer") {
            return fs::read_to_string(path.join("freezer.state")).is_ok_and(|state| state.trim() != "THAWED");
        }
        let unified = self.unified.as_ref().map(|path| path.join("cgroup.freeze"));
        unified.is_some_and(|path| fs::read_to_string(path).is_ok_and(|state| state.trim() == "1"))
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

/// A group that was removed meanwhile, as systemd does with an empty one, has nobody left to be thawed.
fn thawed_if_gone(result: io::Result<()>, frozen: bool) -> io::Result<()> {
    match result {
        Err(error) if !frozen && matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENODEV)) => Ok(()),
        result => result,
    }
}

fn is_refusal(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(errno::EACCES | errno::EPERM | errno::EROFS))
}

/// The size of huge pages as the kernel's files are named.
fn page_size(limit: &LinuxHugepageLimit) -> Result<&str, Error> {
    let size = limit.page_size();
    let number = ["KB", "MB", "GB"].iter().find_map(|unit| size.strip_suffix(unit)).unwrap_or_default();
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem =
            format!("{size:?} is not the size of a page; allowed: a number with KB, MB or GB, such as \"2MB\"");
        return Err(Error::Value { field: "hugepageLimits.pageSize".into(), problem });
    }
    Ok(size)
}

/// Refuses a limit of memory, or of memory and swap, below what is used at present, if the configuration wants that
/// checked.
fn check_usage(cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
    let Some(memory) = resources.memory().as_ref().filter(|it| it.check_before_update() == Some(true)) else {
        return Ok(());
    };
    let read = |path: PathBuf| fs::read_to_string(path).ok()?.trim().parse::<i64>().ok();
    let (usage, with_swap) = match (cgroup.v1("memory"), cgroup.unified_path()) {
        (Some(path), _) => (read(path.join("memory.usage_in_bytes")), read(path.join("memory.memsw.usage_in_bytes"))),
        (None, Some(path)) => {
            let usage = read(path.join("memory.current"));
            let swap = read(path.join("memory.swap.current")).unwrap_or(0);
            (usage, usage.map(|usage| usage + swap))
        }
        (None, None) => return Ok(()),
    };
    for (limit, usage, what, field) in
        [(memory.swap(), with_swap, "memory+swap", "memory.swap"), (memory.limit(), usage, "memory", "memory.limit")]
    {
        if let (Some(limit @ 1..), Some(usage)) = (limit, usage)
            && usage > limit
        {
            let problem = format!("rejecting {what} limit {limit}, which is below the usage of {usage} bytes");
            return Err(Error::Value { field: field.into(), problem });
        }
    }
    Ok(())
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

fn collect_pids(directory: &Path, pids: &mut Vec<i32>) -> io::Result<()> {
    let text = match fs::read_to_string(directory.join("cgroup.procs")) {
        Ok(text) => text,
        Err(error) if matches!(error.raw_os_error(), Some(errno::ENOENT | errno::ENODEV)) => return Ok(()),
        Err(error) => return Err(error),
    };
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for entry in fs::read_dir(directory)?.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            collect_pids(&entry.path(), pids)?;
        }
    }
    Ok(())
}

/// Writes a control file in one call.
fn write(path: &Path, value: &str) -> io::Result<()> {
    let mut file = File::options().write(true).open(path)?;
    file.write_all(value.as_bytes())
}

/// Writes a limit, naming the field it comes from.
fn limit(directory: &Path, file: &str, value: impl ToString, field: &str) -> Result<(), Error> {
    let (path, value) = (directory.join(file), value.to_string());
    write(&path, &value).map_err(|source| Error::Limit { field: field.into(), value, path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_size_names_a_file_and_no_path() {
        let check = |size: &str| {
            let json = format!(r#"{{"pageSize":{size:?},"limit":1}}"#);
            let limit: LinuxHugepageLimit = serde_json::from_str(&json).expect("parse");
            page_size(&limit).map(str::to_string)
        };
        assert_eq!(check("64KB").expect("a size"), "64KB");
        for wrong in ["", "MB", "2", "2mb", "2MB/../../x", "../2MB", "-2MB"] {
            assert!(check(wrong).is_err(), "{wrong}");
        }
    }

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
