//! Hooks (runtime-spec, config.md#posix-platform-hooks): programs given the container's state on standard input.
//!
//! Hooks of the runtime's namespaces are run by the runtime, those of the container's by the child; both the
//! same way. The environment is the hook's own and nothing else.

use crate::handshake::{At, Failure, Step};
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;
use wharf_specs::oci;
use wharf_sys::clone::{CloneOptions, spawn};
use wharf_sys::pidfd::{self, Exit};
use wharf_sys::process::{self, CStringArray};
use wharf_sys::{errno, fs};

const SIGKILL: i32 = 9;

/// A hook with everything made ready for exec.
#[derive(Debug)]
pub(crate) struct Hook {
    /// Its kind and place in the list, such as `prestart hook #0`.
    name: String,
    path: CString,
    args: CStringArray,
    /// None where the configuration says nothing.
    env: Option<CStringArray>,
    timeout: Option<Duration>,
}

/// Prepares the hooks of one moment.
pub(crate) fn prepare(kind: &str, hooks: Option<&Vec<oci::Hook>>) -> Vec<Hook> {
    let text = |text: &str| CString::new(text).unwrap_or_default();
    hooks
        .into_iter()
        .flatten()
        .enumerate()
        .map(|(index, hook)| {
            let path = CString::new(hook.path().as_os_str().as_encoded_bytes()).unwrap_or_default();
            let args = match hook.args().as_deref() {
                None | Some([]) => vec![path.clone()],
                Some(args) => args.iter().map(|arg| text(arg)).collect(),
            };
            let env = hook.env().as_ref().map(|env| CStringArray::new(env.iter().map(|entry| text(entry)).collect()));
            let timeout = hook.timeout().and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
            Hook { name: format!("{kind} hook #{index}"), path, args: CStringArray::new(args), env, timeout }
        })
        .collect()
}

/// Runs hooks one after the other; the first failure ends it. `state` is a file with the state's JSON, `env` the
/// environment of those that have none of their own.
pub(crate) fn run_all(hooks: &[Hook], state: BorrowedFd<'_>, env: Option<&CStringArray>) -> Result<(), Failure> {
    run_all_confined(hooks, state, env, &|| Ok(()))
}

/// As [`run_all`]; `confine` is called in each hook's process before its program is executed.
pub(crate) fn run_all_confined(
    hooks: &[Hook],
    state: BorrowedFd<'_>,
    env: Option<&CStringArray>,
    confine: &dyn Fn() -> io::Result<()>,
) -> Result<(), Failure> {
    let empty = CStringArray::new(Vec::new());
    hooks.iter().try_for_each(|hook| run(hook, state, hook.env.as_ref().or(env).unwrap_or(&empty), confine))
}

fn run(
    hook: &Hook,
    state: BorrowedFd<'_>,
    env: &CStringArray,
    confine: &dyn Fn() -> io::Result<()>,
) -> Result<(), Failure> {
    let name = format!("{}: {}", hook.name, hook.path.to_string_lossy());
    // What it says of its failure belongs into the message: nobody may be reading its standard error.
    let complaint = fs::memfd(c"hook").at(Step::Hook, &name)?;
    let fail = |number, problem: &str| {
        let said = said(complaint.as_fd());
        Failure { step: Step::Hook, errno: number, object: format!("{name}{problem}{said}") }
    };
    fs::rewind(state).at(Step::Hook, &name)?;
    // The pipe closes by exec, or carries the error of exec.
    let (told, tell) = process::pipe().at(Step::Hook, &name)?;
    let child = spawn(CloneOptions::default(), || {
        crate::identity::reset_signals();
        let ready =
            process::place(state, 0).and_then(|()| process::place(complaint.as_fd(), 2)).and_then(|()| confine());
        let error = match ready {
            Ok(()) => process::exec(&hook.path, &hook.args, env),
            Err(error) => error,
        };
        let _ = fs::write_once(tell.as_fd(), &errno::number(&error).to_le_bytes());
        127
    })
    .at(Step::Hook, &name)?;
    drop(tell);
    let timeout = hook.timeout.map_or(-1, |timeout| timeout.as_millis().min(i32::MAX as u128) as i32);
    if !pidfd::poll_exit(child.pidfd.as_fd(), timeout).at(Step::Hook, &name)? {
        let _ = pidfd::send_signal(child.pidfd.as_fd(), SIGKILL);
        let _ = pidfd::wait(child.pidfd.as_fd());
        return Err(fail(errno::ETIMEDOUT, ""));
    }
    let exit = pidfd::wait(child.pidfd.as_fd()).at(Step::Hook, &name)?;
    let mut number = [0u8; 4];
    if fs::read(told.as_fd(), &mut number).is_ok_and(|length| length == number.len()) {
        return Err(fail(i32::from_le_bytes(number), ""));
    }
    match exit {
        Exit::Code(0) => Ok(()),
        Exit::Code(code) => Err(fail(0, &format!(": exit status {code}"))),
        Exit::Signal(signal) => Err(fail(0, &format!(": killed by signal {signal}{}", signal_sentence(signal)))),
    }
}

/// The beginning of what was written, as the end of a message.
fn said(complaint: BorrowedFd<'_>) -> String {
    const MAX_BYTES: usize = 512;
    let mut buffer = [0u8; MAX_BYTES];
    let length = fs::rewind(complaint).and_then(|()| fs::read(complaint, &mut buffer)).unwrap_or(0);
    match String::from_utf8_lossy(&buffer[..length]).trim() {
        "" => String::new(),
        text => format!(", stderr: {text}"),
    }
}

/// What the signals mean that say why a program was stopped.
fn signal_sentence(signal: i32) -> &'static str {
    match signal {
        6 => " (aborted)",
        9 => " (killed)",
        11 => " (segmentation fault)",
        31 => " (bad system call)",
        _ => "",
    }
}
