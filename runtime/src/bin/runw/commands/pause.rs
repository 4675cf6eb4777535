//! `pause` and `resume`.

use crate::Fault;
use crate::store::Store;
use wharf_runtime::state::Status;

pub(crate) fn run(id: &str, pause: bool, store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    let status = container.status();
    match (pause, status) {
        (true, Status::Running | Status::Created) | (false, Status::Paused) => {}
        (true, _) => {
            return Err(Fault::new(format!("container not running: cannot pause a container that is {status}")));
        }
        (false, _) => {
            return Err(Fault::new(format!("container not paused: cannot resume a container that is {status}")));
        }
    }
    container.cgroup().freeze(pause)?;
    Ok(0)
}
