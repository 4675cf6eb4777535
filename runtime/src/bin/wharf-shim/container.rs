//! One container of the pod: its process, its stdio and its log.
//!
//! ```text
//! Created ──start──▶ Running ──init ends──▶ Exited ──delete──▶ (gone)
//!    └────────────────killed──────────────────▲
//! ```

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use wharf_runtime::ExecProcess;
use wharf_specs::shim::{ContainerPhase, ContainerState, Exit, OomOrigin, PodNamespace};
use wharf_sys::fs as sysfs;

use crate::cri_log::{CriLog, Stream};
use crate::engine::Engine;
use crate::exit_record;
use crate::server::Watch;

/// Output that an attached client has not read yet, beyond which it is let go: a container never waits for a reader.
const MAX_ATTACHED_BACKLOG_BYTES: usize = 1 << 20;

/// Output of a terminal that is kept for the first client to attach, which comes after the start: a prompt would be
/// lost to it, and the log has no unfinished lines. More than a pipe takes at once is not kept.
const MAX_UNCLAIMED_BYTES: usize = 64 << 10;
/// What a pipe has room for. Who fills it writes faster than it is read.
const PIPE_BYTES: usize = 64 << 10;
/// Of such a container: writer and reader wait for each other a quarter as often.
pub(crate) const WIDE_PIPE_BYTES: usize = 256 << 10;

pub(crate) struct PodContainer {
    pub(crate) id: String,
    pub(crate) bundle: PathBuf,
    pub(crate) phase: ContainerPhase,
    pub(crate) runtime: Engine,
    pub(crate) created_at: i64,
    pub(crate) started_at: i64,
    pub(crate) exit: Option<Exit>,
    pub(crate) execs: HashMap<String, Exec>,
    pub(crate) stdio: Stdio,
    /// Ends with the container's init.
    pub(crate) owns_pid_namespace: bool,
    /// Namespaces of the pod that it is in.
    pub(crate) joined: Vec<PodNamespace>,
    /// It is in the PID namespace of another container.
    pub(crate) shares_pid: bool,
}

/// A process beside the container's init.
pub(crate) struct Exec {
    pub(crate) process: ExecProcess,
    /// Kept to change the terminal's size.
    pub(crate) terminal: Option<OwnedFd>,
}

/// The shim's ends of the container's standard streams.
pub(crate) struct Stdio {
    /// Write end of the pipe; `None` without stdin, or once given up.
    pub(crate) stdin: Option<OwnedFd>,
    pub(crate) stdin_once: bool,
    pub(crate) outputs: [Option<OwnedFd>; 2],
    /// Which of them have been given a wide pipe.
    widened: [bool; 2],
    /// Stands for all three streams.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) log: Option<CriLog>,
    pub(crate) attached: Vec<Attached>,
    /// Clients that were let go, and are still to be taken out of the watch.
    pub(crate) gone: Vec<Attached>,
    /// What a terminal showed so far, until somebody attaches or it is too much.
    unclaimed: Option<VecDeque<u8>>,
}

/// A client that gets a copy of one output stream.
pub(crate) struct Attached {
    pub(crate) token: u64,
    stream: Stream,
    reader: File,
    backlog: VecDeque<u8>,
}

impl PodContainer {
    pub(crate) fn state(&self) -> ContainerState {
        ContainerState {
            id: self.id.clone(),
            phase: self.phase,
            pid: if self.exit.is_some() { 0 } else { self.runtime.pid() as u32 },
            created_at: self.created_at,
            started_at: self.started_at,
            exit: self.exit.clone(),
        }
    }

    /// Takes note of the init's end: nothing of the container lives on, all output is in the log, the record is on disk.
    pub(crate) fn ended(&mut self, ended: wharf_sys::pidfd::Exit, buffer: &mut [u8]) -> Exit {
        let oom_killed = self.runtime.cgroup().oom_kills() > 0;
        let origin = if oom_killed { self.runtime.cgroup().oom_origin() } else { None };
        let origin = origin.map(|(group, limit_bytes)| OomOrigin { group, limit_bytes });
        if !self.owns_pid_namespace
            && let Err(error) = self.runtime.cgroup().kill_all()
        {
            eprintln!("container {}: end what its init left behind: {error}", self.id);
        }
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.stdio.pump(stream, buffer) == Pumped::Some {}
        }
        self.stdio.finish();
        let exit = exit_record::exit_of(ended, oom_killed, origin);
        if let Err(error) = exit_record::write(&self.bundle, &exit) {
            eprintln!("container {}: write its exit record: {error}", self.id);
        }
        self.phase = ContainerPhase::Exited;
        self.exit = Some(exit.clone());
        exit
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pumped {
    Some,
    NothingNow,
    Ended,
}

impl Stdio {
    /// Of a container with pipes; the ends given are the shim's.
    pub(crate) fn pipes(stdin: Option<OwnedFd>, outputs: [OwnedFd; 2]) -> io::Result<Self> {
        for output in &outputs {
            sysfs::set_nonblocking(output.as_fd(), true)?;
        }
        let outputs = outputs.map(Some);
        Ok(Self {
            stdin,
            stdin_once: false,
            outputs,
            widened: [false; 2],
            terminal: None,
            log: None,
            attached: Vec::new(),
            gone: Vec::new(),
            unclaimed: None,
        })
    }

    /// Of a container with a terminal.
    pub(crate) fn terminal(master: OwnedFd) -> io::Result<Self> {
        sysfs::set_nonblocking(master.as_fd(), true)?;
        let terminal = Some(master);
        let unclaimed = Some(VecDeque::new());
        Ok(Self {
            stdin: None,
            stdin_once: false,
            outputs: [None, None],
            widened: [false; 2],
            terminal,
            log: None,
            attached: Vec::new(),
            gone: Vec::new(),
            unclaimed,
        })
    }

    /// What is to be watched for output.
    pub(crate) fn watched(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let terminal = self.terminal.iter().map(|fd| (Stream::Stdout, fd.as_fd()));
        let [stdout, stderr] = &self.outputs;
        let pipes = [(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
        terminal.chain(pipes.into_iter().filter_map(|(stream, fd)| Some((stream, fd.as_ref()?.as_fd()))))
    }

    /// Reads once and hands the bytes to the log and to every attached client.
    pub(crate) fn pump(&mut self, stream: Stream, buffer: &mut [u8]) -> Pumped {
        let source = match (&self.terminal, &self.outputs[stream as usize]) {
            (Some(terminal), _) if stream == Stream::Stdout => terminal.as_fd(),
            (_, Some(output)) => output.as_fd(),
            _ => return Pumped::Ended,
        };
        let length = match sysfs::read(source, buffer) {
            Ok(0) => return Pumped::Ended,
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Pumped::NothingNow,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Pumped::Some,
            // EIO is how a terminal says that its last user has gone.
            Err(_) => return Pumped::Ended,
        };
        if length >= PIPE_BYTES && !std::mem::replace(&mut self.widened[stream as usize], true) {
            // Where it may not be wider, output comes in smaller pieces.
            let _ = sysfs::set_pipe_size(source, WIDE_PIPE_BYTES as i32);
        }
        let output = &buffer[..length];
        if let Some(log) = &mut self.log
            && let Err(error) = log.append(stream, exit_record::now(), output)
        {
            eprintln!("write the container's log: {error}");
        }
        if let Some(unclaimed) = &mut self.unclaimed {
            unclaimed.extend(output);
            if unclaimed.len() > MAX_UNCLAIMED_BYTES {
                self.unclaimed = None;
            }
        }
        self.keep_attached(|client| client.stream != stream || client.push(output));
        Pumped::Some
    }

    /// Lets go of a stream that has ended.
    pub(crate) fn close(&mut self, stream: Stream) {
        self.outputs[stream as usize] = None;
        self.keep_attached(|client| client.stream != stream || client.waits());
    }

    /// Lets go of every client that `stays` is false of.
    fn keep_attached(&mut self, mut stays: impl FnMut(&mut Attached) -> bool) {
        self.gone.extend(self.attached.extract_if(.., |client| !stays(client)));
    }

    /// Nobody is attached any more.
    pub(crate) fn let_go_of_all(&mut self, watch: &mut Watch) {
        for client in self.gone.drain(..).chain(self.attached.drain(..)) {
            watch.remove(client.fd(), client.token);
        }
    }

    /// Ends the log and every client that has read all.
    fn finish(&mut self) {
        if let Some(log) = &mut self.log
            && let Err(error) = log.finish(exit_record::now())
        {
            eprintln!("write the container's log: {error}");
        }
        self.stdin = None;
        self.outputs = [None, None];
        self.keep_attached(|client| client.waits());
    }

    pub(crate) fn attach(&mut self, token: u64, stream: Stream, fd: OwnedFd) -> io::Result<()> {
        sysfs::set_nonblocking(fd.as_fd(), true)?;
        let kept = if stream == Stream::Stdout { self.unclaimed.take() } else { None };
        let backlog = kept.unwrap_or_default();
        let mut client = Attached { token, stream, reader: fd.into(), backlog };
        if client.flush() {
            self.attached.push(client);
        }
        Ok(())
    }

    /// The end that writes to the container's stdin, for a client that attaches.
    pub(crate) fn stdin_for_client(&mut self) -> io::Result<Option<OwnedFd>> {
        match (&self.terminal, self.stdin_once) {
            (Some(terminal), _) => terminal.try_clone().map(Some),
            (None, true) => Ok(self.stdin.take()),
            (None, false) => self.stdin.as_ref().map(OwnedFd::try_clone).transpose(),
        }
    }
}

impl Attached {
    /// Gives output to the client; `false` when it has gone or is too slow.
    fn push(&mut self, output: &[u8]) -> bool {
        self.backlog.extend(output);
        self.flush() && self.backlog.len() <= MAX_ATTACHED_BACKLOG_BYTES
    }

    /// Writes what the client takes now; `false` when it has gone.
    pub(crate) fn flush(&mut self) -> bool {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.reader.write(front) {
                Ok(length) => drop(self.backlog.drain(..length)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
        true
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }

    pub(crate) fn waits(&self) -> bool {
        !self.backlog.is_empty()
    }
}

/// Opens the log, with the folder it lies in.
pub(crate) fn open_log(path: &Path) -> io::Result<CriLog> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    CriLog::open(path)
}

/// /dev/null for a container without stdin.
pub(crate) fn no_stdin() -> io::Result<OwnedFd> {
    File::open("/dev/null").map(OwnedFd::from)
}
