//! Processes in running containers, and connections to a container's own. None of this passes the pod's owner:
//! a probe neither waits for the pod nor holds it.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use oci_spec::runtime::{Process, Spec};
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::io::AsyncReadExt;
use tokio::sync::oneshot;
use wharf_specs::shim::{Answer, ExecProcess, Exit, Operation};

use super::container::wrong_state;
use super::error::{PodError, Result};
use super::ids::new_id;
use super::node::Inner;
use super::record::read_json;
use super::session::{
    AttachSession, DRAIN_GRACE, EXEC_SYNC_OUTPUT_BYTES, ExecOutput, ExecSession, KillOnDrop, Output, SessionControl,
    input, output,
};
use super::shim_client::ShimClient;
use super::shim_process::unexpected;
use super::spec::ExecConfig;
use super::status::{ContainerState, ContainerStatus};

/// How long the end of a killed process is waited for.
const KILLED_DEADLINE: Duration = Duration::from_secs(5);

pub(crate) async fn start(inner: &Inner, id: &str, config: ExecConfig) -> Result<ExecSession> {
    if config.argv.first().is_none_or(String::is_empty) {
        return Err(PodError::invalid("cmd", "is empty"));
    }
    if config.tty && config.stderr {
        return Err(PodError::invalid("stderr", "a terminal has no standard error of its own"));
    }
    let (status, shim) = running(inner, id)?;
    let exec = new_id();
    let process = Box::new(process(inner, &status, &config)?);
    let control = SessionControl { shim: shim.clone(), container: status.id.clone(), exec: Some(exec.clone()) };
    let streams = if config.tty { Streams::default() } else { Streams::open(&config).map_err(on_pipe)? };
    let exit = shim.watch_exec(&exec);
    let operation = Operation::Exec(ExecProcess { container: status.id.clone(), exec: exec.clone(), process });
    let answer = shim.request("exec in container", &status.id, operation, streams.theirs).await;
    let mut descriptors = match answer {
        Ok((Answer::Executing { .. }, descriptors)) => descriptors,
        other => {
            shim.forget_exec(&exec);
            return Err(other.err().unwrap_or_else(|| unexpected("exec in container", &status.id)));
        }
    };
    let guard = KillOnDrop::new(control.clone());
    let mut session = ExecSession { stdin: None, stdout: None, stderr: None, tty: config.tty, exit, control, guard };
    if config.tty {
        let master = descriptors.pop().ok_or_else(|| unexpected("exec in container", &status.id))?;
        let copy = master.try_clone().map_err(on_pipe)?;
        session.stdin = if config.stdin { Some(input(master).map_err(on_pipe)?) } else { None };
        session.stdout = Some(output(copy).map_err(on_pipe)?);
    } else {
        session.stdin = streams.stdin.map(input).transpose().map_err(on_pipe)?;
        session.stdout = streams.stdout.map(output).transpose().map_err(on_pipe)?;
        session.stderr = streams.stderr.map(output).transpose().map_err(on_pipe)?;
    }
    if let Some(timeout) = config.timeout {
        session.exit = kill_after(timeout, session.exit, session.control.clone());
    }
    Ok(session)
}

/// Our ends of the pipes, and the three descriptors that the process gets.
#[derive(Default)]
struct Streams {
    stdin: Option<OwnedFd>,
    stdout: Option<OwnedFd>,
    stderr: Option<OwnedFd>,
    theirs: Vec<OwnedFd>,
}

impl Streams {
    fn open(config: &ExecConfig) -> io::Result<Self> {
        let mut streams = Self::default();
        if config.stdin {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
            streams.stdin = Some(writer);
            streams.theirs.push(reader);
        } else {
            streams.theirs.push(File::open("/dev/null")?.into());
        }
        for (wanted, ours) in [(config.stdout, &mut streams.stdout), (config.stderr, &mut streams.stderr)] {
            if wanted {
                let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
                *ours = Some(reader);
                streams.theirs.push(writer);
            } else {
                streams.theirs.push(File::options().write(true).open("/dev/null")?.into());
            }
        }
        Ok(streams)
    }
}

fn on_pipe(error: io::Error) -> PodError {
    PodError::internal("open streams", error)
}

fn running(inner: &Inner, id: &str) -> Result<(ContainerStatus, ShimClient)> {
    let status = inner.container(id)?;
    if status.state != ContainerState::Running {
        return Err(wrong_state(id, status.state, "a running one"));
    }
    let shim = inner.shim_of(&status)?;
    Ok((status, shim))
}

/// The container's own process with another command: same user, environment, capabilities and filters.
fn process(inner: &Inner, status: &ContainerStatus, config: &ExecConfig) -> Result<Process> {
    let path = inner.pod_dir(&status.sandbox).container(&status.id).join("config.json");
    let on_read = |reason: String| PodError::internal(format!("read {}", path.display()), reason);
    let spec: Spec = read_json(&path).map_err(|error| on_read(error.to_string()))?;
    let mut process = spec.process().clone().ok_or_else(|| on_read("it has no process".into()))?;
    process.set_args(Some(config.argv.clone()));
    process.set_terminal(Some(config.tty));
    process.set_console_size(None);
    Ok(process)
}

/// Hands on the end of a process that is killed when `timeout` passes first.
fn kill_after(timeout: Duration, exit: oneshot::Receiver<Exit>, control: SessionControl) -> oneshot::Receiver<Exit> {
    let (forward, forwarded) = oneshot::channel();
    tokio::spawn(async move {
        let mut exit = exit;
        let outcome = match tokio::time::timeout(timeout, &mut exit).await {
            Ok(outcome) => outcome,
            Err(_) => {
                if let Err(error) = control.kill().await {
                    tracing::warn!(container = %control.container, %error, "kill an exec whose time is over");
                }
                exit.await
            }
        };
        if let Ok(outcome) = outcome {
            let _ = forward.send(outcome);
        }
    });
    forwarded
}

pub(crate) async fn run_to_end(
    inner: &Inner,
    id: &str,
    argv: Vec<String>,
    timeout: Option<Duration>,
) -> Result<ExecOutput> {
    let config = ExecConfig { argv, tty: false, stdin: false, stdout: true, stderr: true, timeout: None };
    let mut session = start(inner, id, config).await?;
    let mut stdout = tokio::spawn(collect(session.stdout.take()));
    let mut stderr = tokio::spawn(collect(session.stderr.take()));
    // A caller that goes away (its own deadline, a closed connection) leaves no process behind: the session's guard.
    let ended = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, &mut session.exit).await,
        None => Ok((&mut session.exit).await),
    };
    let Ok(ended) = ended else {
        session.control.kill().await?;
        let _ = tokio::time::timeout(KILLED_DEADLINE, &mut session.exit).await;
        session.guard.disarm();
        stdout.abort();
        stderr.abort();
        return Err(PodError::DeadlineExceeded {
            operation: format!("exec in container {id}"),
            seconds: timeout.unwrap_or_default().as_secs(),
        });
    };
    session.guard.disarm();
    let exit = ended.map_err(|_| PodError::internal(format!("exec in container {id}"), "the pod's shim is gone"))?;
    // What the process left in the background may hold the pipes for ever.
    let drained = tokio::time::timeout(DRAIN_GRACE, async { ((&mut stdout).await, (&mut stderr).await) }).await;
    let (stdout, stderr) = match drained {
        Ok((stdout, stderr)) => (stdout.unwrap_or_default(), stderr.unwrap_or_default()),
        Err(_) => {
            stdout.abort();
            stderr.abort();
            (Vec::new(), Vec::new())
        }
    };
    Ok(ExecOutput { stdout, stderr, code: exit.code })
}

/// Reads to the end and keeps the first [`EXEC_SYNC_OUTPUT_BYTES`].
async fn collect(stream: Option<Output>) -> Vec<u8> {
    let mut kept = Vec::new();
    let Some(mut stream) = stream else { return kept };
    let mut buffer = vec![0; 16 << 10];
    while let Ok(count) = stream.read(&mut buffer).await {
        if count == 0 {
            break;
        }
        let room = EXEC_SYNC_OUTPUT_BYTES - kept.len();
        kept.extend_from_slice(&buffer[..count.min(room)]);
    }
    kept
}

pub(crate) async fn attach(inner: &Inner, id: &str, stdin: bool, stdout: bool, stderr: bool) -> Result<AttachSession> {
    let (status, shim) = running(inner, id)?;
    let config = &status.config;
    if stdin && !config.stdin {
        return Err(PodError::invalid("stdin", "the container was made without standard input"));
    }
    let stderr = stderr && !config.tty;
    if !(stdin || stdout || stderr) {
        return Err(PodError::invalid("stdin", "at least one stream is needed"));
    }
    let mut theirs = Vec::new();
    let mut ours = [None, None];
    for (wanted, end) in [stdout, stderr].into_iter().zip(&mut ours) {
        if wanted {
            let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| on_pipe(error.into()))?;
            theirs.push(writer);
            *end = Some(output(reader).map_err(on_pipe)?);
        }
    }
    let operation = Operation::Attach { container: status.id.clone(), stdin, stdout, stderr };
    let (_, mut descriptors) = shim.request("attach to container", &status.id, operation, theirs).await?;
    let stdin = match (stdin, descriptors.pop()) {
        (true, Some(descriptor)) => Some(input(descriptor).map_err(on_pipe)?),
        (true, None) => return Err(unexpected("attach to container", &status.id)),
        (false, _) => None,
    };
    let [stdout, stderr] = ours;
    let control = SessionControl { shim, container: status.id.clone(), exec: None };
    Ok(AttachSession { stdin, stdout, stderr, tty: config.tty, stdin_once: config.stdin_once, control })
}

pub(crate) async fn resize(inner: &Inner, id: &str, rows: u16, columns: u16) -> Result<()> {
    let (status, shim) = running(inner, id)?;
    if !status.config.tty {
        return Err(PodError::invalid("tty", "the container has no terminal"));
    }
    SessionControl { shim, container: status.id, exec: None }.resize(rows, columns).await
}

pub(crate) async fn reopen_log(inner: &Inner, id: &str) -> Result<()> {
    let (status, shim) = running(inner, id)?;
    shim.done("reopen log of container", &status.id, Operation::ReopenLog { container: status.id.clone() }).await
}
