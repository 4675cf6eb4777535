//! Units by their names, for a supervisor that looks at the groups of its containers and makes slices for its pods.

use super::manager::Manager;
use super::{BOOTED, Error, Scope, name};
use std::path::{Path, PathBuf};

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
    let scope = Scope { unit: unit.to_string(), slice: String::new(), user: false };
    let manager: Result<Manager, Error> = scope.manager();
    manager?.stop(unit).map_err(|error| scope.fail("stop", error))
}
