//! `exec`.

use super::create::{not_started, write_pid};
use crate::cli::ExecOptions;
use crate::log::Log;
use crate::store::Store;
use crate::{Fault, console, foreground};
use std::os::fd::AsFd;
use std::path::Path;
use wharf_runtime::bundle::{Bundle, load_process};
use wharf_runtime::capabilities::ALL;
use wharf_runtime::cgroup::SubGroup;
use wharf_runtime::{ExecProcess, ExecRequest, Stdio};
use wharf_specs::oci::{Capability, LinuxCapabilities, Process};
use wharf_sys::pidfd;

/// What `exec` exits with where the process could not be run.
const CANNOT_RUN: u8 = 255;
const SIGKILL: i32 = 9;

pub(crate) fn run(options: &ExecOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    execute(options, store, log).map_err(|fault| Fault {
        code: CANNOT_RUN,
        message: format!("exec failed: {}", fault.message),
        bare: false,
    })
}

fn execute(options: &ExecOptions, store: &Store, log: &Log) -> Result<u8, Fault> {
    let container = store.load(&options.id)?;
    if options.no_subreaper {
        log.debug("--no-subreaper: exec adopts nobody anyway");
    }
    let process = process(options, &container.state().bundle, log)?;
    let terminal = process.terminal().unwrap_or(false);
    console::check(terminal, options.detach, options.console_socket.as_deref())?;
    let signals = if options.detach { None } else { Some(foreground::Signals::block()?) };
    let cache = store.seccomp_cache();
    let stdio =
        if terminal { Stdio::Terminal { size: None, plain_line_feeds: !options.detach } } else { Stdio::Inherit };
    let request = ExecRequest {
        preserve_fds: console::inherited(options.preserve_fds)?,
        seccomp_cache: Some(&cache),
        sub_cgroups: options.cgroup.iter().map(|text| SubGroup::parse(text)).collect(),
        ignore_paused: options.ignore_paused,
        trace: log.trace(),
        ..ExecRequest::new(&process, stdio)
    };
    let executed = container.exec(request).map_err(not_started)?;
    executed.warnings.iter().for_each(|warning| log.warn(warning));
    log.debug(&format!("process {} runs in container {}", executed.pid, options.id));
    if let Err(fault) = announce(options, &executed) {
        // Nobody knows of it.
        let _ = pidfd::send_signal(executed.pidfd.as_fd(), SIGKILL);
        let _ = pidfd::wait(executed.pidfd.as_fd());
        return Err(fault);
    }
    match signals {
        Some(signals) => foreground::attend(executed.pidfd.as_fd(), executed.terminal, &signals),
        None => Ok(0),
    }
}

fn announce(options: &ExecOptions, executed: &ExecProcess) -> Result<(), Fault> {
    if let Some(path) = &options.pidfd_socket {
        console::send(path, "pidfd", executed.pidfd.as_fd())?;
    }
    if let (Some(path), Some(terminal)) = (&options.console_socket, &executed.terminal) {
        console::send(path, "/dev/ptmx", terminal.as_fd())?;
    }
    options.pid_file.as_ref().map_or(Ok(()), |path| write_pid(path, executed.pid))
}

/// The process: from its own file, or that of the container with the changes of the command line.
fn process(options: &ExecOptions, bundle: &Path, log: &Log) -> Result<Process, Fault> {
    if let Some(path) = &options.process {
        let parsed = load_process(path)?;
        parsed.warnings.iter().for_each(|warning| log.warn(warning));
        let mut process = parsed.value;
        if options.tty {
            process.set_terminal(Some(true));
        }
        return Ok(process);
    }
    if options.command.is_empty() {
        return Err(Fault::new("process args cannot be empty: exec needs a program or --process"));
    }
    let bundle = Bundle::load(bundle)?;
    let mut process = bundle.spec.process().clone().ok_or_else(|| Fault::new("config.json: process: is missing"))?;
    process.set_args(Some(options.command.clone())).set_terminal(Some(options.tty));
    process.set_exec_cpu_affinity(process.exec_cpu_affinity().clone());
    if let Some(cwd) = &options.cwd {
        process.set_cwd(cwd.clone());
    }
    if let Some(profile) = &options.apparmor {
        process.set_apparmor_profile(Some(profile.clone()));
    }
    if let Some(label) = &options.process_label {
        process.set_selinux_label(Some(label.clone()));
    }
    if let Some(switch) = options.no_new_privs {
        process.set_no_new_privileges(Some(switch.0));
    }
    if !options.env.is_empty() {
        let mut env = process.env().clone().unwrap_or_default();
        env.extend(options.env.iter().cloned());
        process.set_env(Some(env));
    }
    if let Some(user) = &options.user {
        let (uid, gid) = parse_user(user)?;
        process.user_mut().set_uid(uid);
        if let Some(gid) = gid {
            process.user_mut().set_gid(gid);
        }
    }
    if !options.additional_gids.is_empty() {
        process.user_mut().set_additional_gids(Some(options.additional_gids.clone()));
    }
    if !options.cap.is_empty() {
        let sets = process.capabilities().clone();
        process.set_capabilities(Some(with_capabilities(sets, &options.cap)?));
    }
    Ok(process)
}

/// `UID` or `UID:GID`, digits only: a name would have to be looked up in a file the container can write.
fn parse_user(text: &str) -> Result<(u32, Option<u32>), Fault> {
    let number = |text: &str| {
        let digits = text.bytes().all(|byte| byte.is_ascii_digit());
        digits
            .then(|| text.parse::<u32>().ok())
            .flatten()
            .ok_or_else(|| Fault::new(format!("--user: {text:?} is not a number; allowed: UID or UID:GID")))
    };
    match text.split_once(':') {
        Some((uid, gid)) => Ok((number(uid)?, Some(number(gid)?))),
        None => Ok((number(text)?, None)),
    }
}

fn with_capabilities(sets: Option<LinuxCapabilities>, names: &[String]) -> Result<LinuxCapabilities, Fault> {
    let mut added = Vec::new();
    for name in names {
        let upper = name.to_ascii_uppercase();
        let short = upper.strip_prefix("CAP_").unwrap_or(&upper);
        let known = ALL.iter().find(|known| known.to_string() == short);
        added.push(*known.ok_or_else(|| Fault::new(format!("--cap: {name:?} is not a capability")))?);
    }
    let mut sets = sets.unwrap_or_else(|| {
        let mut empty = LinuxCapabilities::default();
        empty.set_bounding(None).set_effective(None).set_inheritable(None).set_permitted(None).set_ambient(None);
        empty
    });
    let with = |set: &Option<std::collections::HashSet<Capability>>| {
        let mut set = set.clone().unwrap_or_default();
        set.extend(added.iter().copied());
        Some(set)
    };
    let (bounding, effective, permitted) = (with(sets.bounding()), with(sets.effective()), with(sets.permitted()));
    sets.set_bounding(bounding).set_effective(effective).set_permitted(permitted);
    // Inheritable only where the configuration has some, and ambient where it has that: an inheritable
    // capability by itself would come back through files of the image.
    if sets.ambient().as_ref().is_some_and(|set| !set.is_empty()) {
        let (inheritable, ambient) = (with(sets.inheritable()), with(sets.ambient()));
        sets.set_inheritable(inheritable).set_ambient(ambient);
    }
    Ok(sets)
}
