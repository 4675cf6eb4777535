//! Units by their names, for a supervisor that looks at the groups of its containers and makes slices for its pods.

use super::manager::Manager;
use super::properties::property;
use super::{BOOTED, Error, Scope, name};
use crate::cgroup::{Cgroup, Layout};
use crate::dbus::Value;
use std::path::{Path, PathBuf};
use wharf_specs::oci::LinuxResources;

/// True where systemd is process 1 (sd_booted(3)).
pub fn is_available() -> bool {
    Path::new(BOOTED).is_dir()
}

/// Where a slice's group is, relative to each hierarchy's root.
///
/// # Errors
/// What is not the name of a slice, such as `a-b.slice`.
pub fn directory_of_slice(slice: &str) -> Result<PathBuf, Error> {
    name::expand_slice(slice)
}

/// The last component of the group of the scope that `SLICE:prefix:name` names.
pub fn directory_of_scope(prefix: &str, container: &str) -> String {
    name::directory(&name::scope(prefix, container))
}

/// Stops a unit of the system's manager, and waits for it; that there is none is as good.
pub fn stop(unit: &str) -> Result<(), Error> {
    let scope = system_unit(unit);
    let manager: Result<Manager, Error> = scope.manager();
    manager?.stop(unit).map_err(|error| scope.fail("stop", error))
}

/// Limits a slice of the system's manager, which is started if it is not there.
///
/// # Errors
/// systemd's, with the unit; or that of a limit.
pub fn limit_slice(slice: &str, resources: &LinuxResources) -> Result<(), Error> {
    let directory = Path::new("/").join(directory_of_slice(slice)?);
    let group = Cgroup::locate(&Layout::detect()?, Some(&directory), "");
    let unit = system_unit(slice);
    let mut manager: Manager = unit.manager()?;
    match manager.start(slice, &slice_properties(group.is_v1())) {
        // By a container of the pod, or limited before.
        Err(error) if error.is("UnitExists") => {}
        started => started.map_err(|error| unit.fail("start", error))?,
    }
    drop(manager);
    unit.update(&group, resources)
}

fn system_unit(unit: &str) -> Scope {
    Scope { unit: unit.to_string(), slice: String::new(), user: false }
}

/// What a slice of a pod is started with. Its parent is in its name.
fn slice_properties(v1: bool) -> Vec<Value> {
    let on = |name| property(name, Value::Bool(true));
    vec![
        property("Description", "Wharf pod"),
        // Controllers that are turned on later count wrongly, and some cannot be.
        on("MemoryAccounting"),
        on("CPUAccounting"),
        on(if v1 { "BlockIOAccounting" } else { "IOAccounting" }),
        on("TasksAccounting"),
        // Pods end with their client's will, not before every other unit at shutdown.
        property("DefaultDependencies", Value::Bool(false)),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slice_counts_what_its_limits_are_of() {
        let names =
            |v1| -> Vec<String> { slice_properties(v1).iter().map(|property| format!("{property:?}")).collect() };
        assert!(names(true).iter().any(|text| text.contains("BlockIOAccounting")));
        assert!(names(false).iter().any(|text| text.contains("\"IOAccounting\"")));
        for wanted in ["MemoryAccounting", "CPUAccounting", "TasksAccounting"] {
            assert!(names(false).iter().any(|text| text.contains(wanted)), "{wanted}");
        }
    }

    #[test]
    fn what_is_no_slice_is_not_limited() {
        let error = limit_slice("a--b.slice", &LinuxResources::default()).expect_err("no slice");
        assert!(error.to_string().contains("a--b.slice"), "{error}");
    }
}
