//! Why an operation on a control group failed.

use crate::dbus;
use std::io;
use std::path::PathBuf;
use wharf_sys::errno;

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

fn cause(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| error.to_string(), errno::explain)
}
