//! `run`: create, start, and unless detached wait and delete.

use super::create::{Use, destroy, make, not_started};
use crate::cli::RunOptions;
use crate::log::Log;
use crate::store::Store;
use crate::{Fault, foreground};

pub(crate) fn run(options: &RunOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    execute(options, store, log).map_err(|fault| fault.of("run"))
}

fn execute(options: &RunOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    if options.detach {
        let mut made = make(&options.create, store, log, Use::Detached { started: true })?;
        if let Err(error) = made.container.start() {
            let _ = destroy(made.container);
            return Err(not_started(error));
        }
        made.state.keep();
        return Ok(0);
    }
    let signals = foreground::Signals::block()?;
    if !options.no_subreaper {
        wharf_sys::process::set_child_subreaper(true)?;
    }
    let mut made = make(&options.create, store, log, Use::Foreground)?;
    if let Err(error) = made.container.start() {
        let _ = destroy(made.container);
        return Err(not_started(error));
    }
    let terminal = made.container.terminal.take();
    let result = foreground::attend(made.container.pidfd(), terminal, &signals);
    if options.keep {
        made.state.keep();
    } else {
        destroy(made.container)?;
    }
    result
}
