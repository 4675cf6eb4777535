//! Sessions with a process in a container: its standard streams, its terminal, its end.

use std::io;
use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::unix::pipe;
use tokio::sync::oneshot;
use wharf_specs::shim::{Exit, Operation};

use super::error::{PodError, Result};
use super::shim_client::ShimClient;

/// Where a client writes what the process reads. Dropping it is end of file, except on a terminal.
pub type Input = Box<dyn AsyncWrite + Send + Unpin>;
/// Where a client reads what the process wrote.
pub type Output = Box<dyn AsyncRead + Send + Unpin>;

/// A process started in a container by `exec`. Dropping the session ends what still runs of it.
pub struct ExecSession {
    /// `None` unless asked for.
    pub stdin: Option<Input>,
    /// The terminal's output where there is one.
    pub stdout: Option<Output>,
    /// `None` on a terminal.
    pub stderr: Option<Output>,
    pub tty: bool,
    /// Resolves once the process is gone; fails when the shim went first.
    pub exit: oneshot::Receiver<Exit>,
    pub control: SessionControl,
    pub(crate) guard: KillOnDrop,
}

/// Ends an exec'd process that nobody waits for any more. One that has ended already is fine.
pub(crate) struct KillOnDrop {
    control: SessionControl,
    armed: bool,
}

impl KillOnDrop {
    pub(crate) fn new(control: SessionControl) -> Self {
        Self { control, armed: true }
    }

    /// The process is known to be gone.
    pub(crate) fn disarm(&mut self) {
        self.armed = false;
    }
}

impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if self.armed {
            let control = self.control.clone();
            tokio::spawn(async move {
                if let Err(error) = control.kill().await {
                    tracing::warn!(container = %control.container, %error, "kill an exec that was given up");
                }
            });
        }
    }
}

/// A connection to the streams of a container's own process.
pub struct AttachSession {
    pub stdin: Option<Input>,
    pub stdout: Option<Output>,
    pub stderr: Option<Output>,
    pub tty: bool,
    /// The end of client's input is the end of the container's.
    pub stdin_once: bool,
    pub control: SessionControl,
}

/// What can be done to a session's process while its streams are in use elsewhere.
#[derive(Clone)]
pub struct SessionControl {
    pub(crate) shim: ShimClient,
    pub(crate) container: String,
    /// `None` for the container's own process.
    pub(crate) exec: Option<String>,
}

impl SessionControl {
    /// Sets the terminal's size.
    pub async fn resize(&self, rows: u16, columns: u16) -> Result<()> {
        let operation = Operation::Resize { container: self.container.clone(), exec: self.exec.clone(), rows, columns };
        self.shim.done("resize", &self.container, operation).await
    }

    /// Ends the exec'd process and everything it started. Nothing happens to a container's own process.
    pub async fn kill(&self) -> Result<()> {
        match &self.exec {
            Some(exec) => {
                let operation = Operation::KillExec { exec: exec.clone(), signal: SIGKILL, all: true };
                match self.shim.done("kill exec", &self.container, operation).await {
                    Err(PodError::NotFound { .. }) => Ok(()),
                    other => other,
                }
            }
            None => Ok(()),
        }
    }

    /// Tells the shim that no more input will come: with the client's end gone too the process reads end of file.
    pub async fn close_stdin(&self) -> Result<()> {
        let operation = Operation::CloseStdin { container: self.container.clone() };
        self.shim.done("close stdin", &self.container, operation).await
    }
}

pub(crate) const SIGKILL: i32 = 9;

/// What a process run to its end left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecOutput {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    pub code: i32,
}

/// Most bytes of each stream that `exec_sync` keeps; what follows is read and thrown away.
pub const EXEC_SYNC_OUTPUT_BYTES: usize = 16 << 20;

/// Time for output to arrive after a process ended, in case something it left behind holds the pipes.
pub(crate) const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Wraps the write end of a pipe or a terminal's master.
pub(crate) fn input(fd: OwnedFd) -> io::Result<Input> {
    set_nonblocking(&fd)?;
    Ok(Box::new(pipe::Sender::from_owned_fd_unchecked(fd)?))
}

/// Wraps the read end of a pipe or a terminal's master.
pub(crate) fn output(fd: OwnedFd) -> io::Result<Output> {
    set_nonblocking(&fd)?;
    Ok(Box::new(TerminalOutput(pipe::Receiver::from_owned_fd_unchecked(fd)?)))
}

fn set_nonblocking(fd: &OwnedFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(fd)?;
    Ok(rustix::fs::fcntl_setfl(fd, flags | rustix::fs::OFlags::NONBLOCK)?)
}

/// A terminal's master reads EIO once the last process closed the other side: that is its end of file.
struct TerminalOutput(pipe::Receiver);

impl AsyncRead for TerminalOutput {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match Pin::new(&mut self.0).poll_read(cx, buffer) {
            Poll::Ready(Err(error)) if error.raw_os_error() == Some(rustix::io::Errno::IO.raw_os_error()) => {
                Poll::Ready(Ok(()))
            }
            other => other,
        }
    }
}
