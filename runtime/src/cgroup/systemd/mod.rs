//! The systemd driver: the control group of a container is a transient scope unit.
//!
//! systemd makes the group, is told the limits it has properties for, and removes the group; what it cannot express
//! is written to the group's files, which `Delegate=yes` leaves to us. A scope needs a process to be started with, so
//! the group appears only after the clone, while the init waits.

mod device_rules;
mod manager;
mod name;
mod properties;
pub mod unit;

use super::{Cgroup, CreatedCgroup, Error, Hierarchy, Layout, SubGroup};
use crate::dbus::{self, Value};
use manager::Manager;
use properties::property;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use wharf_specs::oci::LinuxResources;

/// Exists where systemd is process 1 (sd_booted(3)).
const BOOTED: &str = "/run/systemd/system";
const PROPERTY_ANNOTATION: &str = "org.systemd.property.";

/// A container's unit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    unit: String,
    slice: String,
    /// It belongs to the caller's own manager, not to the system's.
    user: bool,
}

/// What a scope is started with.
#[derive(Debug)]
pub struct NewScope<'a> {
    pub pid: i32,
    pub id: &'a str,
    pub resources: Option<&'a LinuxResources>,
    pub annotations: &'a HashMap<String, String>,
    /// Device rules can be set.
    pub privileged: bool,
    /// See [`Cgroup::create`].
    pub strict: bool,
}

impl Scope {
    /// The scope that `cgroupsPath` names, as `SLICE:PREFIX:NAME`. An empty slice is `system.slice`, or `user.slice`
    /// of a user's manager; without a path, the scope is named after the container.
    pub fn of(path: Option<&Path>, id: &str, user: bool) -> Result<Self, Error> {
        let (slice, unit) = name::parse(path, id)?;
        let slice = slice.unwrap_or_else(|| if user { "user.slice" } else { "system.slice" }.to_string());
        name::expand_slice(&slice)?;
        if !Path::new(BOOTED).is_dir() {
            return Err(Error::NoSystemd);
        }
        Ok(Self { unit, slice, user })
    }

    /// Whether the caller can only use its own manager: it is not root, or root of a user namespace.
    pub fn needs_user_manager() -> bool {
        const ALL: &str = "0 0 4294967295";
        let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
        let whole = map.is_empty() || map.split_whitespace().collect::<Vec<_>>().join(" ") == ALL;
        wharf_sys::credential::effective_user() != 0 || !whole
    }

    /// The unit's name.
    pub fn unit(&self) -> &str {
        &self.unit
    }

    /// Where the group will be.
    pub fn locate(&self, layout: &Layout) -> Result<Cgroup, Error> {
        let mut inner = name::expand_slice(&self.slice)?;
        inner.push(name::directory(&self.unit));
        if self.user {
            if layout.has_v1_controllers() {
                return Err(Error::UserOnV1);
            }
            let own = self.manager()?.control_group().map_err(|error| self.fail("find the manager of", error))?;
            inner = Path::new(own.trim_start_matches('/')).join(inner);
        }
        let place = |hierarchy: &Hierarchy| hierarchy.mountpoint.join(&inner);
        let legacy: Vec<(Vec<String>, PathBuf)> =
            layout.legacy.iter().map(|hierarchy| (hierarchy.controllers.clone(), place(hierarchy))).collect();
        Ok(Cgroup { unified: layout.unified.as_ref().map(place), legacy })
    }

    /// Starts the scope with a process in it, and sets all limits. What is `made` is there before a limit can fail; it
    /// must outlive the process, for which systemd would wait.
    ///
    /// # Errors
    /// systemd's, with the unit; or that of a limit.
    pub fn start(
        &self,
        cgroup: &mut Cgroup,
        new: &NewScope<'_>,
        made: &mut Option<CreatedCgroup>,
    ) -> Result<(), Error> {
        let mut manager = self.manager()?;
        let mut properties = vec![
            property("Description", format!("Wharf container {}", new.id)),
            property("Slice", self.slice.as_str()),
            property("Delegate", Value::Bool(true)),
            property("PIDs", Value::Array("u".into(), vec![Value::U32(new.pid.cast_unsigned())])),
            // Controllers that are turned on later count wrongly, and some cannot be.
            property("MemoryAccounting", Value::Bool(true)),
            property("CPUAccounting", Value::Bool(true)),
            property(if cgroup.is_v1() { "BlockIOAccounting" } else { "IOAccounting" }, Value::Bool(true)),
            property("TasksAccounting", Value::Bool(true)),
            // Containers end with their caller's will, not before every other unit at shutdown.
            property("DefaultDependencies", Value::Bool(false)),
        ];
        let mut resources = new.resources.cloned();
        if let Some(resources) = &mut resources {
            properties::complete(resources, cgroup);
            properties.extend(self.translate(&mut manager, cgroup, resources)?);
        }
        if new.privileged {
            properties.extend(device_rules::properties(&super::devices::rules(new.resources)?, cgroup.is_v1()));
        }
        properties.extend(annotated(new.annotations)?);
        manager.start(&self.unit, &properties).map_err(|error| self.fail("start", error))?;
        let created = made.insert(CreatedCgroup { made: Vec::new(), scope: Some(self.clone()), kept: false });
        // What systemd does not manage: other v1 hierarchies, controllers it does not know.
        created.made = cgroup.create(new.strict)?.take();
        cgroup.apply(resources.as_ref(), new.privileged)
    }

    /// Changes the limits of the live unit, devices excepted.
    pub fn update(&self, cgroup: &Cgroup, resources: &LinuxResources) -> Result<(), Error> {
        let mut resources = resources.clone();
        properties::complete(&mut resources, cgroup);
        let mut manager = self.manager()?;
        super::limits::check_usage(cgroup, &resources)?;
        let properties = self.translate(&mut manager, cgroup, &resources)?;
        if !properties.is_empty() {
            manager.set(&self.unit, &properties).map_err(|error| self.fail("change", error))?;
        }
        cgroup.update(&resources)
    }

    /// Moves a process into the unit, for a caller who may not write to the groups in between.
    pub fn attach(&self, pid: i32, below: &[SubGroup]) -> Result<(), Error> {
        let inner = below.first().map_or(Path::new("/"), |place| &place.path);
        let path = Path::new("/").join(inner).to_string_lossy().into_owned();
        self.manager()?.attach(&self.unit, &path, pid).map_err(|error| self.fail("put a process into", error))
    }

    /// Stops the unit and waits for it; that there is none is as good.
    pub fn stop(&self) -> Result<(), Error> {
        let mut manager = self.manager()?;
        manager.stop(&self.unit).map_err(|error| self.fail("stop", error))
    }

    fn translate(
        &self,
        manager: &mut Manager,
        cgroup: &Cgroup,
        resources: &LinuxResources,
    ) -> Result<Vec<Value>, Error> {
        let version = manager.version().map_err(|error| self.fail("ask the manager of", error))?;
        if cgroup.is_v1() { Ok(properties::v1(resources)) } else { properties::v2(resources, version) }
    }

    fn manager(&self) -> Result<Manager, Error> {
        Manager::connect(self.user).map_err(|error| self.fail("ask systemd for", error))
    }

    fn fail(&self, operation: &'static str, source: dbus::Error) -> Error {
        let advice = advice(&source, &self.unit, self.user);
        Error::Systemd { operation, unit: self.unit.clone(), source, advice }
    }
}

/// What a person can change.
fn advice(error: &dbus::Error, unit: &str, user: bool) -> String {
    let manager = if user { "systemctl --user" } else { "systemctl" };
    if error.is("UnitExists") {
        format!("; name another unit in linux.cgroupsPath, or run `{manager} stop {unit}`")
    } else if error.is("AccessDenied") || error.is("InteractiveAuthorizationRequired") {
        "; root is needed for the system's manager, `--rootless true` takes the user's own".into()
    } else if matches!(error, dbus::Error::Connect { .. } | dbus::Error::Refused { .. } | dbus::Error::Address(_))
        && user
    {
        "; a login session with a user manager is needed, and DBUS_SESSION_BUS_ADDRESS or XDG_RUNTIME_DIR of it".into()
    } else {
        String::new()
    }
}

/// The properties that annotations ask for.
fn annotated(annotations: &HashMap<String, String>) -> Result<Vec<Value>, Error> {
    let mut found: Vec<(&str, &str)> = annotations
        .iter()
        .filter_map(|(key, text)| Some((key.strip_prefix(PROPERTY_ANNOTATION)?, text.as_str())))
        .collect();
    found.sort_unstable();
    found.into_iter().map(|(name, text)| properties::annotated(name, text)).collect()
}

/// Checks what can be checked of the annotations before anything is made.
pub fn check_annotations(annotations: &HashMap<String, String>) -> Result<(), Error> {
    annotated(annotations).map(drop)
}
