//! `linux.intelRdt` (runtime-spec, config-linux.md#intelrdt): cache and memory bandwidth by resctrl.
//!
//! A class of service is a directory of the resctrl file system with a `schemata` file; a container's init is written
//! to its `tasks`, and its children follow. A container names a class that others share, or has one by its own id.

use crate::error::{Error, While};
use crate::plan::Refusal;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wharf_specs::id::ContainerId;
use wharf_specs::oci::LinuxIntelRdt;

/// Names in resctrl that are no class.
const RESERVED: [&str; 5] = [".", "..", "info", "mon_data", "mon_groups"];

/// What the configuration asks for, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RdtPlan {
    /// The class by name; none is one by the container's id, and empty the default class.
    class: Option<String>,
    /// Lines for `schemata`.
    schemata: Vec<String>,
    monitoring: bool,
}

impl RdtPlan {
    pub(crate) fn compile(rdt: &LinuxIntelRdt) -> Result<Self, Refusal> {
        let field = |name: &str| format!("linux.intelRdt.{name}");
        let class = match rdt.clos_id().as_deref() {
            None | Some("") => None,
            Some("/") => Some(String::new()),
            Some(name) if RESERVED.contains(&name) || name.contains('/') || name.contains(['\0', '\n']) => {
                let problem = format!("{name:?} is not a class of service; allowed: a name without '/', or \"/\"");
                return Err(Refusal::new(field("closID"), problem));
            }
            Some(name) => Some(name.to_string()),
        };
        let mut schemata = rdt.schemata().clone().unwrap_or_default();
        for (name, line) in [("l3CacheSchema", rdt.l3_cache_schema()), ("memBwSchema", rdt.mem_bw_schema())] {
            let Some(line) = line.as_ref().filter(|line| !line.is_empty()) else { continue };
            check_line(name, line).map_err(|problem| Refusal::new(field(name), problem))?;
            schemata.push(line.clone());
        }
        for (index, line) in schemata.iter().enumerate() {
            if line.contains('\n') {
                let problem = format!("{line:?} is more than one line; allowed: one resource in each entry");
                return Err(Refusal::new(field(&format!("schemata[{index}]")), problem));
            }
        }
        Ok(Self { class, schemata, monitoring: rdt.enable_monitoring().unwrap_or(false) })
    }
}

/// The two older fields hold one resource each.
fn check_line(field: &str, line: &str) -> Result<(), String> {
    let prefix = if field == "l3CacheSchema" { "L3" } else { "MB" };
    let fits = line.starts_with(prefix) && line.contains(':') && !line.contains('\n');
    if fits { Ok(()) } else { Err(format!("{line:?} is not of the form \"{prefix}:ID=VALUE;…\"")) }
}

/// Where a container is in resctrl.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct RdtGroup {
    class: PathBuf,
    /// Directories that go with the container, the innermost first.
    owned: Vec<PathBuf>,
}

impl RdtGroup {
    /// Joins the class, made if the container is to have it; what was made goes again if a step fails.
    pub(crate) fn create(plan: &RdtPlan, id: &ContainerId, pid: i32) -> Result<Self, Error> {
        let root = find_root()?.ok_or_else(|| {
            Error::Unsupported(
                "linux.intelRdt: resctrl is not mounted; on a processor with RDT: mount -t resctrl resctrl /sys/fs/resctrl"
                    .into(),
            )
        })?;
        Self::create_in(&root, plan, id, pid)
    }

    fn create_in(root: &Path, plan: &RdtPlan, id: &ContainerId, pid: i32) -> Result<Self, Error> {
        let class = match plan.class.as_deref() {
            None => root.join(id.as_str()),
            Some("") => root.to_path_buf(),
            Some(name) => root.join(name),
        };
        let mut group = Self { class, owned: Vec::new() };
        let joined = group.join(root, plan, id, pid);
        if joined.is_err() {
            let _ = group.remove();
        }
        joined.map(|()| group)
    }

    fn join(&mut self, root: &Path, plan: &RdtPlan, id: &ContainerId, pid: i32) -> Result<(), Error> {
        let class = self.class.clone();
        let exists = class.is_dir();
        match (&plan.class, exists) {
            (Some(name), false) if plan.schemata.is_empty() => {
                let problem =
                    format!("linux.intelRdt.closID: {name:?} does not exist, and no schemata are given to make it");
                return Err(Error::Unsupported(problem));
            }
            (Some(_), true) if class != root && !plan.schemata.is_empty() => refuse_other_schemata(&class, plan)?,
            (_, true) => {}
            (_, false) => {
                fs::create_dir(&class).during("create class of service", class.display())?;
                self.owned.push(class.clone());
            }
        }
        if !plan.schemata.is_empty() && (!exists || class == root) {
            write_schemata(&class, &plan.schemata)?;
        }
        let tasks = class.join("tasks");
        fs::write(&tasks, pid.to_string()).during("write", tasks.display())?;
        if plan.monitoring {
            let monitor = class.join("mon_groups").join(id.as_str());
            fs::create_dir(&monitor).during("create monitoring group", monitor.display())?;
            self.owned.insert(0, monitor.clone());
            let tasks = monitor.join("tasks");
            fs::write(&tasks, pid.to_string()).during("write", tasks.display())?;
        }
        if plan.class.is_some() {
            // A class by name belongs to all who name it.
            self.owned.retain(|path| *path != class);
        }
        Ok(())
    }

    /// Changes the class of a container that runs.
    pub(crate) fn update(&self, lines: &[String]) -> Result<(), Error> {
        write_schemata(&self.class, lines)
    }

    /// Removes what goes with the container.
    pub(crate) fn remove(&self) -> io::Result<()> {
        for path in &self.owned {
            match fs::remove_dir(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }
}

/// Takes a group away again unless it is kept.
pub(crate) struct RdtGuard(Option<RdtGroup>);

impl RdtGuard {
    pub(crate) fn new(group: Option<RdtGroup>) -> Self {
        Self(group)
    }

    pub(crate) fn keep(mut self) -> Option<RdtGroup> {
        self.0.take()
    }
}

impl Drop for RdtGuard {
    fn drop(&mut self) {
        if let Some(group) = &self.0 {
            let _ = group.remove();
        }
    }
}

/// Lines for the class of a container that runs, from the flags of `update`.
pub(crate) fn lines_of_update(l3: Option<&str>, bandwidth: Option<&str>) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for (field, flag, line) in
        [("l3CacheSchema", "--l3-cache-schema", l3), ("memBwSchema", "--mem-bw-schema", bandwidth)]
    {
        let Some(line) = line else { continue };
        check_line(field, line).map_err(|problem| format!("{flag}: {problem}"))?;
        lines.push(line.to_string());
    }
    Ok(lines)
}

/// A line at a time: the kernel says which one it does not take.
fn write_schemata(class: &Path, lines: &[String]) -> Result<(), Error> {
    let path = class.join("schemata");
    lines.iter().try_for_each(|line| {
        let object = || format!("{line:?} to {}", path.display());
        fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, format!("{line}\n").as_bytes()))
            .during("write", object())
    })
}

/// Containers that share a class agree on what it is.
fn refuse_other_schemata(class: &Path, plan: &RdtPlan) -> Result<(), Error> {
    let path = class.join("schemata");
    let found = fs::read_to_string(&path).during("read", path.display())?;
    let parts = |text: &str| -> BTreeSet<String> {
        let (resource, values) = text.trim().split_once(':').unwrap_or((text, ""));
        values.split(';').map(|value| format!("{resource}:{}", value.trim())).collect()
    };
    let found: BTreeSet<String> = found.lines().flat_map(parts).collect();
    match plan.schemata.iter().find(|line| !parts(line).is_subset(&found)) {
        None => Ok(()),
        Some(line) => Err(Error::Unsupported(format!(
            "linux.intelRdt: {line:?} is not what the class {} has; leave the schemata out, or name another closID",
            class.display()
        ))),
    }
}

/// Where resctrl is mounted.
fn find_root() -> Result<Option<PathBuf>, Error> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").during("read", "/proc/self/mountinfo")?;
    Ok(parse_root(&mounts))
}

fn parse_root(mountinfo: &str) -> Option<PathBuf> {
    let line = mountinfo.lines().find(|line| line.contains(" - resctrl "))?;
    line.split(' ').nth(4).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(json: &str) -> Result<RdtPlan, Refusal> {
        RdtPlan::compile(&serde_json::from_str(json).expect("parse"))
    }

    fn id() -> ContainerId {
        ContainerId::parse("box").expect("id")
    }

    /// A directory that stands for resctrl, with one class that is there already.
    fn resctrl() -> tempfile::TempDir {
        let root = tempfile::tempdir().expect("temp dir");
        for directory in ["gold", "gold/mon_groups", "mon_groups"] {
            fs::create_dir(root.path().join(directory)).expect("mkdir");
        }
        fs::write(root.path().join("gold/schemata"), "    L3:0=ff;1=0f\n    MB:0=100;1=50\n").expect("write");
        root
    }

    #[test]
    fn fields_that_resctrl_could_not_take_are_refused() {
        for (json, field) in [
            (r#"{"closID":"a/b"}"#, "linux.intelRdt.closID"),
            (r#"{"closID":".."}"#, "linux.intelRdt.closID"),
            (r#"{"closID":"info"}"#, "linux.intelRdt.closID"),
            (r#"{"l3CacheSchema":"MB:0=10"}"#, "linux.intelRdt.l3CacheSchema"),
            (r#"{"memBwSchema":"MB"}"#, "linux.intelRdt.memBwSchema"),
            (r#"{"schemata":["L3:0=f","L3:0=f\nMB:0=10"]}"#, "linux.intelRdt.schemata[1]"),
        ] {
            assert_eq!(plan(json).expect_err(json).field, field);
        }
    }

    #[test]
    fn a_class_by_name_must_be_what_its_users_say() {
        let root = resctrl();
        let same = plan(r#"{"closID":"gold","l3CacheSchema":"L3:1=0f","enableMonitoring":true}"#).expect("plan");
        // The kernel would make the file.
        let monitor = root.path().join("gold/mon_groups/box");
        let group = RdtGroup::create_in(root.path(), &same, &id(), 42).expect("join");
        assert_eq!(fs::read_to_string(root.path().join("gold/tasks")).expect("tasks"), "42");
        assert_eq!(group.owned, std::slice::from_ref(&monitor));
        fs::remove_file(monitor.join("tasks")).expect("remove");
        group.remove().expect("remove");
        assert!(!monitor.exists() && root.path().join("gold").exists());

        let other = plan(r#"{"closID":"gold","l3CacheSchema":"L3:1=ff"}"#).expect("plan");
        let error = RdtGroup::create_in(root.path(), &other, &id(), 42).expect_err("other schemata");
        assert!(error.to_string().contains("L3:1=ff"), "{error}");
        let missing = plan(r#"{"closID":"silver"}"#).expect("plan");
        let error = RdtGroup::create_in(root.path(), &missing, &id(), 42).expect_err("no such class");
        assert!(error.to_string().contains("silver"), "{error}");
    }

    #[test]
    fn a_class_of_its_own_goes_when_a_step_fails() {
        let root = resctrl();
        // The stand-in has no schemata file in a new class, so writing one fails.
        let own = plan(r#"{"l3CacheSchema":"L3:0=f"}"#).expect("plan");
        let error = RdtGroup::create_in(root.path(), &own, &id(), 42).expect_err("no schemata file");
        assert!(error.to_string().contains("schemata"), "{error}");
        assert!(!root.path().join("box").exists());
        let group = RdtGroup::create_in(root.path(), &plan("{}").expect("plan"), &id(), 42).expect("create");
        assert_eq!(group.owned, [root.path().join("box")]);
    }

    #[test]
    fn resctrl_is_found_by_its_type() {
        let text = "1 0 0:5 / /proc rw - proc proc rw\n9 0 0:6 / /sys/fs/resctrl rw shared:1 - resctrl resctrl rw\n";
        assert_eq!(parse_root(text), Some(PathBuf::from("/sys/fs/resctrl")));
        assert_eq!(parse_root("1 0 0:5 / /proc rw - proc proc rw\n"), None);
    }
}
