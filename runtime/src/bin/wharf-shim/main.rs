//! `wharf-shim`: one small process per pod, parent of its containers, owner of their stdio, logs and exit codes.
//!
//! It is started by `wharfd` as `wharf-shim --dir RUN/pods/ID`, pins the pod's namespaces, answers on `shim.sock` in that
//! directory, and outlives the daemon. It is single-threaded, so that containers are cloned straight from it.

mod checkpoint;
mod connection;
mod container;
mod create;
mod cri_log;
mod engine;
mod exec_tree;
mod exit_record;
mod foreign;
mod pod;
mod sandbox;
mod server;

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use foreign::ForeignRuntime;
use wharf_runtime::own_binary;
use wharf_specs::shim::SandboxSetup;
use wharf_sys::{event, fs as sysfs, process, socket};

const SOCKET_NAME: &str = "shim.sock";
const SETUP_NAME: &str = "sandbox.json";
const LOG_NAME: &str = "shim.log";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 64;

/// Signals that end a process by default and that the shim must survive (HUP, INT, PIPE, TERM): a pod ends by request
/// only.
const SURVIVED_SIGNALS: [i32; 4] = [1, 2, 13, 15];

const USAGE: &str = "wharf-shim, parent of one pod's containers, is started by wharfd: wharf-shim --dir POD";

/// What the words after the program's name ask for.
enum Asked {
    /// Serve the pod whose directory, which holds sandbox.json, this is.
    Serve(PathBuf),
    Print(String),
}

fn asked(mut words: lexopt::Parser) -> Result<Asked, lexopt::Error> {
    use lexopt::prelude::*;
    let mut directory = None;
    while let Some(argument) = words.next()? {
        match argument {
            Long("dir") => directory = Some(PathBuf::from(words.value()?)),
            Long("version") | Short('V') => {
                return Ok(Asked::Print(concat!("wharf-shim ", env!("CARGO_PKG_VERSION")).into()));
            }
            Long("help") | Short('h') => return Ok(Asked::Print(USAGE.into())),
            argument => return Err(argument.unexpected()),
        }
    }
    directory.map(Asked::Serve).ok_or_else(|| format!("--dir is missing: {USAGE}").into())
}

fn main() -> ExitCode {
    let directory = match asked(lexopt::Parser::from_env()) {
        Ok(Asked::Serve(directory)) => directory,
        Ok(Asked::Print(text)) => {
            println!("{text}");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("wharf-shim: {error}");
            return ExitCode::FAILURE;
        }
    };
    let protected = own_binary::make_unwritable().map_err(|error| error.to_string());
    // Executed through a descriptor, the process would be named after its number.
    let _ = process::set_name(c"wharf-shim");
    match protected.and_then(|_| start(&directory).map_err(|error| error.to_string())) {
        Ok(mut server) => {
            // Whom nobody hears nobody knows: the daemon died, and the next one may have looked for a socket already.
            let told = writeln!(io::stdout(), "ready");
            let ended = told.and_then(|()| detach(&directory)).and_then(|()| server.run());
            let _ = std::fs::remove_file(directory.join(SOCKET_NAME));
            match ended {
                Ok(()) => ExitCode::SUCCESS,
                Err(error) => {
                    eprintln!("wharf-shim: {error}");
                    ExitCode::FAILURE
                }
            }
        }
        Err(error) => {
            println!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn start(directory: &Path) -> io::Result<server::Server> {
    let setup_path = directory.join(SETUP_NAME);
    let explain = |error: io::Error| io::Error::other(format!("read {}: {error}", setup_path.display()));
    let setup: SandboxSetup =
        serde_json::from_slice(&std::fs::read(&setup_path).map_err(explain)?).map_err(|error| explain(error.into()))?;
    // A session of its own: no terminal's hang-up or interrupt reaches the pod. It fails for a group leader alone,
    // which has one already.
    let _ = process::new_session();
    for signal in SURVIVED_SIGNALS {
        event::ignore_signal(signal);
    }
    let foreign = setup.oci_runtime.as_deref();
    let foreign = foreign.map(|program| ForeignRuntime::new(program, directory, setup.cgroup_driver));
    let foreign = foreign.transpose().map_err(|error| io::Error::other(format!("prepare for containers: {error}")))?;
    let sandbox = sandbox::Sandbox::create(&setup)
        .map_err(|error| io::Error::other(format!("create the namespaces of pod {}: {error}", setup.id)))?;
    let path = directory.join(SOCKET_NAME);
    let listener = socket::listen(socket::Kind::Stream, &path, BACKLOG)
        .map_err(|error| io::Error::other(format!("listen at {}: {error}", path.display())))?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600))?;
    sysfs::set_nonblocking(listener.as_fd(), true)?;
    server::Server::new(pod::Pod::new(setup, sandbox, foreign), listener)
}

/// Leaves the starter's standard streams; errors go to a file from here on.
fn detach(directory: &Path) -> io::Result<()> {
    io::stdout().flush()?;
    sandbox::detach_stdio()?;
    let log = OpenOptions::new().append(true).create(true).mode(0o600).open(directory.join(LOG_NAME))?;
    process::place(log.as_fd(), 2)
}
