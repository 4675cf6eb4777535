//! `kill`.

use crate::Fault;
use crate::store::Store;
use wharf_runtime::state::Status;

const SIGKILL: i32 = 9;
const SIGTERM: i32 = 15;

pub(crate) fn run(id: &str, signal: Option<&str>, all: bool, store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    let number = match signal {
        None => SIGTERM,
        Some(name) => {
            wharf_sys::process::signal_number(name).ok_or_else(|| Fault::new(format!("unknown signal {name:?}")))?
        }
    };
    let shares_pids = !container.state().own_pid_namespace;
    // Without a pid namespace of its own nothing ends with the init: the rest must be killed too.
    // A user's container may have no group to find the rest by: then it is the init, and what ends with it.
    let has_group = container.cgroup().path().is_some();
    if has_group && (all || (number == SIGKILL && shares_pids)) {
        if number == SIGKILL {
            container.cgroup().kill_all()?
        } else {
            container.cgroup().signal_all(number)?
        }
        return Ok(0);
    }
    if container.status() == Status::Stopped {
        if all {
            return Ok(0);
        }
        return Err(Fault::new("container not running"));
    }
    container.kill(number)?;
    if number == SIGKILL && container.status() == Status::Paused {
        // A frozen process dies only once it is thawed.
        container.cgroup().freeze(false)?;
    }
    Ok(0)
}
