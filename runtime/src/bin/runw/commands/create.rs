//! `create`.

use crate::cli::CreateOptions;
use crate::log::Log;
use crate::store::{NewState, Store};
use crate::{Fault, console};
use std::fs;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use wharf_runtime::bundle::Bundle;
use wharf_runtime::seccomp::FilterSource;
use wharf_runtime::{Container, ContainerId, CreateRequest, Rootfs, Stdio};

pub(crate) fn run(options: &CreateOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    let made = make(options, store, log, Use::Detached { started: false }).map_err(|fault| fault.of("create"))?;
    made.state.keep();
    Ok(0)
}

/// What the new container is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// This process stays with it.
    Foreground,
    /// This process leaves; `started` if it starts it before.
    Detached { started: bool },
}

/// A container and its state directory, which goes away again unless it is kept.
pub(crate) struct Made {
    pub(crate) container: Container,
    pub(crate) state: NewState,
}

/// Creates the container and everything the caller asked to be told about it.
pub(crate) fn make(options: &CreateOptions, store: &Store, log: &Log, purpose: Use) -> Result<Made, Fault> {
    let id = ContainerId::parse(&options.id)?;
    let mut bundle = Bundle::load(&options.bundle)?;
    bundle.warnings.iter().for_each(|warning| log.warn(warning));
    let spec = &mut bundle.spec;
    let terminal = spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
    console::check(terminal, purpose != Use::Foreground, options.console_socket.as_deref())?;
    if let (Some(count), Some(process)) = (console::listen_fds(), spec.process_mut()) {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend([format!("LISTEN_FDS={count}"), "LISTEN_PID=1".into()]);
        process.set_env(Some(env));
    }
    let preserve_fds = console::inherited(options.preserve_fds)?;
    let rootfs = if bundle.spec.root().is_some() { bundle.rootfs()? } else { bundle.path.clone() };
    let state = store.reserve(&id)?;
    let cache = store.seccomp_cache();
    // A container that is started by this very process needs no socket for others.
    let own_start = purpose != Use::Detached { started: false };
    let request = CreateRequest {
        stdio: if terminal {
            Stdio::Terminal { size: None, plain_line_feeds: purpose == Use::Foreground }
        } else {
            Stdio::Inherit
        },
        preserve_fds,
        state_dir: (!own_start).then(|| state.path()),
        seccomp_cache: Some(&cache),
        new_keyring: !options.no_new_keyring,
        no_pivot: options.no_pivot,
        ignore_cgroup_refusals: store.ignore_cgroup_refusals,
        cgroup_driver: store.cgroup_driver,
        trace: log.trace(),
        ..CreateRequest::new(id, &bundle.path, &bundle.spec, Rootfs::Path(rootfs))
    };
    let container = Container::create(request).map_err(not_started)?;
    container.warnings().iter().for_each(|warning| log.warn(warning));
    let told = Announcement {
        pidfd_socket: options.pidfd_socket.as_deref(),
        console_socket: options.console_socket.as_deref(),
        pid_file: options.pid_file.as_deref(),
    };
    let container = announced(container, &state, &told)?;
    if log.is_debug()
        && let Some(seccomp) = bundle.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref())
    {
        log.debug(&format!("seccomp filter flags: {}", FilterSource::compile(seccomp)?.flags));
    }
    log.debug(&format!("created container {} with init {}", container.id(), container.pid()));
    Ok(Made { container, state })
}

/// Where a caller hears of a new container.
pub(crate) struct Announcement<'a> {
    pub(crate) pidfd_socket: Option<&'a Path>,
    pub(crate) console_socket: Option<&'a Path>,
    pub(crate) pid_file: Option<&'a Path>,
}

/// Saves the container's state and tells the caller; a container of which that cannot be told goes again.
pub(crate) fn announced(container: Container, state: &NewState, to: &Announcement<'_>) -> Result<Container, Fault> {
    let announce = || -> Result<(), Fault> {
        container.save(state.path())?;
        if let Some(path) = to.pidfd_socket {
            console::send(path, "pidfd", container.pidfd())?;
        }
        if let (Some(path), Some(terminal)) = (to.console_socket, &container.terminal) {
            console::send(path, "/dev/ptmx", terminal.as_fd())?;
        }
        to.pid_file.map_or(Ok(()), |path| write_pid(path, container.pid()))
    };
    match announce() {
        Ok(()) => Ok(container),
        Err(fault) => {
            destroy(container)?;
            Err(fault)
        }
    }
}

/// What kept a process from running: a failure in it reads as it does from runc, which callers look into.
pub(crate) fn not_started(error: wharf_runtime::Error) -> Fault {
    use wharf_runtime::handshake::{Failure, Step};
    if let wharf_runtime::Error::Step(failure @ Failure { step: Step::Exec, .. }) = &error {
        return Fault { bare: true, ..Fault::new(failure.to_string()) };
    }
    let during = match &error {
        wharf_runtime::Error::Step(_) => "unable to start container process: error during container init: ",
        wharf_runtime::Error::InitEnded { .. } => "unable to start container process: ",
        _ => "",
    };
    Fault::new(format!("{during}{error}"))
}

/// Takes back a container that this process has created.
pub(crate) fn destroy(container: Container) -> Result<(), Fault> {
    const SIGKILL: i32 = 9;
    let _ = container.kill(SIGKILL);
    // Only a child of this process can be reaped here; another's is its parent's.
    let _ = wharf_sys::pidfd::wait(container.pidfd());
    Ok(container.delete()?)
}

/// Writes a pid file: whole under its name, never half.
pub(crate) fn write_pid(path: &Path, pid: i32) -> Result<(), Fault> {
    let fail = |error: std::io::Error| Fault::new(format!("write pid file {}: {error}", path.display()));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = path.with_file_name(format!(".{name}"));
    let write = || fs::File::create(&temporary)?.write_all(pid.to_string().as_bytes());
    write().and_then(|()| fs::rename(&temporary, path)).map_err(fail)
}
