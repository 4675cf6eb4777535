//! `delete`.

use crate::Fault;
use crate::log::Log;
use crate::store::Store;
use wharf_runtime::handshake::Step;
use wharf_runtime::state::{State, Status};
use wharf_runtime::{Container, ContainerId, Error};
use wharf_sys::pidfd;

const SIGKILL: i32 = 9;
/// How long a killed init may take to go, milliseconds; runc waits as long.
const KILL_PATIENCE_MILLISECONDS: i32 = 10_000;

pub(crate) fn run(id: &str, force: bool, store: &Store, log: &Log) -> Result<u8, Fault> {
    let parsed = ContainerId::parse(id)?;
    let container = match store.load(id) {
        Ok(container) => container,
        // What it says is not believed, nor is it this user's to remove: there may be a container.
        Err(fault) if State::of_others(&store.directory(&parsed)).is_some() => return Err(fault),
        // Its making was broken off before there was a container.
        Err(fault) if !State::is_in(&store.directory(&parsed)) => {
            store.forget(&parsed)?;
            return if force { Ok(0) } else { Err(fault) };
        }
        Err(fault) if force && matches!(Container::load(&store.directory(&parsed)), Err(Error::State { .. })) => {
            // Whether anything of it runs nobody can know any more; this is the only way to get rid of it.
            store.forget(&parsed)?;
            log.warn(&format!("the state of container {id} is removed, its processes are not: {}", fault.message));
            return Ok(0);
        }
        Err(fault) => return Err(fault),
    };
    let status = container.status();
    match status {
        Status::Stopped => {}
        Status::Running | Status::Paused | Status::Creating if !force => {
            return Err(Fault::new(format!("cannot delete container {id} that is not stopped: {status}")));
        }
        _ => {
            let _ = container.kill(SIGKILL);
            let _ = container.cgroup().kill_all();
            if status == Status::Paused {
                container.cgroup().freeze(false)?;
            }
            if !pidfd::poll_exit(container.pidfd(), KILL_PATIENCE_MILLISECONDS)? {
                return Err(Fault::new(format!("container {id}: init {} does not die", container.pid())));
            }
        }
    }
    let result = container.delete();
    store.forget(&parsed)?;
    log.debug(&format!("deleted container {id}"));
    match result {
        // The container has gone all the same (runtime-spec, runtime.md#lifecycle).
        Err(Error::Step(failure)) if failure.step == Step::Hook => log.warn(&failure.to_string()),
        result => result?,
    }
    Ok(0)
}
