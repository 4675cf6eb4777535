//! How a container ended, on disk: it outlives the daemon and the shim.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use wharf_specs::shim::{Exit, OomOrigin};
use wharf_sys::pidfd;

const FILE_NAME: &str = "exit.json";

/// Unix time in nanoseconds.
pub(crate) fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64)
}

/// The wire form of a process's end.
pub(crate) fn exit_of(ended: pidfd::Exit, oom_killed: bool, oom_origin: Option<OomOrigin>) -> Exit {
    let signal = match ended {
        pidfd::Exit::Signal(signal) => Some(signal),
        pidfd::Exit::Code(_) => None,
    };
    Exit { code: ended.shell_code(), signal, oom_killed, oom_origin, finished_at: now() }
}

/// Writes `exit.json` in the bundle's directory; a reader sees all of it or none.
pub(crate) fn write(bundle: &Path, exit: &Exit) -> io::Result<()> {
    let temporary = bundle.join(".exit.json.new");
    let mut file = File::create(&temporary)?;
    file.write_all(&serde_json::to_vec(exit)?)?;
    std::fs::rename(temporary, bundle.join(FILE_NAME))
}
