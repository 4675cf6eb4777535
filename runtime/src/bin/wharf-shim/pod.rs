//! The pod: its containers and what clients ask of them.

mod making;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use wharf_specs::shim::{
    self, Answer, ContainerPhase, Event, Failure, FailureKind, Operation, PROTOCOL_VERSION, SandboxSetup,
};
use wharf_sys::event::{EPOLLIN, EPOLLOUT};
use wharf_sys::{pidfd, process, terminal};

use crate::checkpoint::Checkpoint;
use crate::connection::Connection;
use crate::container::{Exec, PodContainer, Stdio};
use crate::cri_log::Stream;
use crate::engine::Engine;
use crate::exec_tree;
use crate::exit_record;
use crate::foreign::{ForeignRuntime, Streams};
use crate::sandbox::Sandbox;
use crate::server::{Asker, Source, Watch, failure};

/// What an operation gives back beside its answer.
pub(crate) struct Outcome {
    /// `None`: it comes later.
    pub(crate) answer: Option<Answer>,
    pub(crate) descriptors: Vec<OwnedFd>,
    pub(crate) event: Option<Event>,
}

impl From<Answer> for Outcome {
    fn from(answer: Answer) -> Self {
        Self { answer: Some(answer), descriptors: Vec::new(), event: None }
    }
}

type Performed = Result<Outcome, Failure>;

pub(crate) struct Pod {
    setup: SandboxSetup,
    sandbox: Sandbox,
    /// `None`: the runtime in this process.
    foreign: Option<ForeignRuntime>,
    /// Boxed: a node of the map has room for eleven.
    containers: BTreeMap<String, Box<PodContainer>>,
    /// Checkpoints that are being written, by container.
    checkpoints: BTreeMap<String, Checkpoint>,
}

impl Pod {
    pub(crate) fn new(setup: SandboxSetup, sandbox: Sandbox, foreign: Option<ForeignRuntime>) -> Self {
        Self { setup, sandbox, foreign, containers: BTreeMap::new(), checkpoints: BTreeMap::new() }
    }

    pub(crate) fn perform(
        &mut self,
        watch: &mut Watch,
        client: &mut Connection,
        asker: Asker,
        operation: Operation,
    ) -> Performed {
        match operation {
            Operation::Version => Ok(version().into()),
            Operation::Status => {
                let containers = self.containers.values().map(|container| container.state()).collect();
                Ok(Answer::Status { containers }.into())
            }
            Operation::Namespaces => self.namespaces(),
            Operation::Create(request) => self.create(watch, request),
            Operation::Restore(request) => self.restore(watch, request),
            Operation::Checkpoint(request) => {
                let socket = client.take_descriptors(1).pop();
                self.checkpoint(watch, asker, request, socket)
            }
            Operation::Start { container } => self.start(&container),
            Operation::Kill { container, signal, all } => self.kill(&container, signal, all),
            Operation::Delete { container } => self.delete(watch, &container),
            Operation::Exec(request) => {
                let tty = request.process.terminal().unwrap_or(false);
                let descriptors = client.take_descriptors(if tty { 0 } else { 3 });
                self.exec(watch, request, descriptors)
            }
            Operation::KillExec { exec, signal, all } => self.kill_exec(&exec, signal, all),
            Operation::Attach { container, stdin, stdout, stderr } => {
                let descriptors = client.take_descriptors(usize::from(stdout) + usize::from(stderr));
                self.attach(watch, &container, stdin, [stdout, stderr], descriptors)
            }
            Operation::CloseStdin { container } => {
                self.find(&container)?.stdio.stdin = None;
                Ok(Answer::Done.into())
            }
            Operation::Resize { container, exec, rows, columns } => self.resize(&container, exec, rows, columns),
            Operation::ReopenLog { container } => self.reopen_log(&container),
            Operation::Update { container, resources } => {
                let container = self.find(&container)?;
                container.runtime.update(&resources).map_err(internal)?;
                Ok(Answer::Done.into())
            }
            Operation::Subscribe => Ok(Answer::Done.into()),
            Operation::Shutdown => self.shut_down(),
        }
    }

    fn find(&mut self, id: &str) -> Result<&mut PodContainer, Failure> {
        let pod = &self.setup.id;
        self.containers
            .get_mut(id)
            .map(Box::as_mut)
            .ok_or_else(|| failure(FailureKind::NotFound, format_args!("pod {pod} has no container {id}")))
    }

    /// Gives up room that only output needs that comes.
    pub(crate) fn tidy_up(&mut self) {
        for log in self.containers.values_mut().filter_map(|container| container.stdio.log.as_mut()) {
            log.tidy_up();
        }
    }

    pub(crate) fn stdio(&mut self, container: &str) -> Option<&mut Stdio> {
        self.containers.get_mut(container).map(|container| &mut container.stdio)
    }

    fn namespaces(&self) -> Performed {
        let mut types = Vec::new();
        let mut descriptors = Vec::new();
        for (namespace, fd) in self.sandbox.namespaces() {
            types.push(namespace);
            descriptors.push(fd.try_clone_to_owned().map_err(internal)?);
        }
        Ok(Outcome { answer: Some(Answer::Namespaces { types }), descriptors, event: None })
    }

    fn start(&mut self, id: &str) -> Performed {
        let container = self.find(id)?;
        if container.phase != ContainerPhase::Created {
            return Err(wrong_state(container, "start"));
        }
        container.runtime.start().map_err(|error| failure(FailureKind::Invalid, error))?;
        container.phase = ContainerPhase::Running;
        container.started_at = exit_record::now();
        let pid = container.runtime.pid() as u32;
        let event = Event::Started { container: id.into(), pid, at: container.started_at };
        Ok(Outcome { answer: Some(Answer::Done), descriptors: Vec::new(), event: Some(event) })
    }

    fn kill(&mut self, id: &str, signal: i32, all: bool) -> Performed {
        let container = self.find(id)?;
        if container.phase == ContainerPhase::Exited {
            return Err(wrong_state(container, "signal"));
        }
        if all {
            // Another runtime may have processes elsewhere than in the group.
            if let Engine::Foreign(foreign) = &container.runtime {
                let _ = foreign.kill(signal);
            }
            container.runtime.cgroup().signal_all(signal).map_err(internal)?;
        } else {
            container.runtime.kill(signal).map_err(internal)?;
        }
        Ok(Answer::Done.into())
    }

    fn delete(&mut self, watch: &mut Watch, id: &str) -> Performed {
        let container = self.find(id)?;
        if container.phase != ContainerPhase::Exited {
            return Err(wrong_state(container, "delete"));
        }
        if let Some(mut container) = self.containers.remove(id) {
            container.stdio.let_go_of_all(watch);
            for (exec, Exec { process, .. }) in container.execs.drain() {
                watch.remove_source(process.pidfd, &Source::Exec { container: id.into(), exec });
            }
            container.runtime.delete().map_err(internal)?;
        }
        Ok(Answer::Done.into())
    }

    fn exec(&mut self, watch: &mut Watch, request: shim::ExecProcess, descriptors: Vec<OwnedFd>) -> Performed {
        let seccomp_cache = self.setup.seccomp_cache.clone();
        let container = self.find(&request.container)?;
        if container.phase != ContainerPhase::Running {
            return Err(wrong_state(container, "run a process in"));
        }
        if container.execs.contains_key(&request.exec) {
            let message = format_args!("container {} has an exec {} already", container.id, request.exec);
            return Err(failure(FailureKind::AlreadyExists, message));
        }
        let tty = request.process.terminal().unwrap_or(false);
        let streams = match <[OwnedFd; 3]>::try_from(descriptors) {
            _ if tty => Streams::Terminal,
            Ok(descriptors) => Streams::Descriptors(descriptors),
            Err(_) => return Err(failure(FailureKind::Invalid, "an exec without terminal needs three descriptors")),
        };
        let executed = container.runtime.exec(&request.process, streams, seccomp_cache.as_deref());
        let mut process = executed.map_err(|error| failure(FailureKind::Invalid, error))?;
        let pid = process.pid as u32;
        let mut descriptors = Vec::new();
        let terminal = process.terminal.take();
        if let Some(master) = &terminal {
            descriptors.push(master.try_clone().map_err(internal)?);
        }
        let source = Source::Exec { container: request.container, exec: request.exec.clone() };
        watch.add(&process.pidfd, source, EPOLLIN).map_err(internal)?;
        container.execs.insert(request.exec, Exec { process, terminal });
        Ok(Outcome { answer: Some(Answer::Executing { pid }), descriptors, event: None })
    }

    fn kill_exec(&mut self, id: &str, signal: i32, all: bool) -> Performed {
        let not_found = || failure(FailureKind::NotFound, format_args!("no exec {id}"));
        let mut found = self.containers.values().filter_map(|c| Some((c, c.execs.get(id)?)));
        let (container, exec) = found.next().ok_or_else(not_found)?;
        if all {
            signal_tree(container, exec.process.pid, signal).map_err(internal)?;
        }
        pidfd::send_signal(exec.process.pidfd.as_fd(), signal).map_err(internal)?;
        Ok(Answer::Done.into())
    }

    fn attach(
        &mut self,
        watch: &mut Watch,
        id: &str,
        stdin: bool,
        outputs: [bool; 2],
        descriptors: Vec<OwnedFd>,
    ) -> Performed {
        let container = self.find(id)?;
        if container.phase == ContainerPhase::Exited {
            return Err(wrong_state(container, "attach to"));
        }
        let streams = [Stream::Stdout, Stream::Stderr].into_iter().zip(outputs).filter(|(_, wanted)| *wanted);
        let streams: Vec<Stream> = streams.map(|(stream, _)| stream).collect();
        if streams.len() != descriptors.len() {
            return Err(failure(FailureKind::Invalid, "attach: a descriptor for each output is needed"));
        }
        for (stream, fd) in streams.into_iter().zip(descriptors) {
            // Watched for nothing until there is a backlog; a hang-up is reported all the same.
            let source = Source::Attached { container: id.into() };
            let token = watch.add(&fd, source, 0).map_err(internal)?;
            container.stdio.attach(token, stream, fd).map_err(internal)?;
        }
        let stdin = if stdin { container.stdio.stdin_for_client().map_err(internal)? } else { None };
        self.watch_attached(watch, id);
        Ok(Outcome { answer: Some(Answer::Done), descriptors: stdin.into_iter().collect(), event: None })
    }

    fn resize(&mut self, id: &str, exec: Option<String>, rows: u16, columns: u16) -> Performed {
        let container = self.find(id)?;
        let master = match &exec {
            None => container.stdio.terminal.as_ref(),
            Some(exec) => container.execs.get(exec).and_then(|exec| exec.terminal.as_ref()),
        };
        let master = master.ok_or_else(|| failure(FailureKind::WrongState, "no terminal to resize"))?;
        terminal::set_size(master.as_fd(), terminal::Size { rows, columns }).map_err(internal)?;
        Ok(Answer::Done.into())
    }

    fn reopen_log(&mut self, id: &str) -> Performed {
        let container = self.find(id)?;
        if container.phase == ContainerPhase::Exited {
            return Err(wrong_state(container, "reopen the log of"));
        }
        if let Some(log) = &mut container.stdio.log {
            log.reopen().map_err(|error| internal(format_args!("reopen the log of {id}: {error}")))?;
        }
        Ok(Answer::Done.into())
    }

    fn shut_down(&mut self) -> Performed {
        if let Some(running) = self.containers.values().find(|c| c.phase != ContainerPhase::Exited) {
            return Err(wrong_state(running, "shut down around"));
        }
        for (id, container) in std::mem::take(&mut self.containers) {
            if let Err(error) = container.runtime.delete() {
                eprintln!("container {id}: delete: {error}");
            }
        }
        self.sandbox.end();
        Ok(Answer::Done.into())
    }

    /// The container's init has ended.
    pub(crate) fn init_ended(&mut self, watch: &mut Watch, id: &str, token: u64, buffer: &mut [u8]) -> Option<Event> {
        let container = self.containers.get_mut(id)?;
        let ended = pidfd::try_wait(container.runtime.pidfd()).ok()??;
        watch.remove(container.runtime.pidfd(), token);
        for (stream, fd) in container.stdio.watched() {
            watch.remove_source(fd, &Source::Output { container: id.into(), stream });
        }
        let exit = container.ended(ended, buffer);
        self.reap_strays();
        self.watch_attached(watch, id);
        Some(Event::Exited { container: id.into(), exit })
    }

    /// Children that came to this process when their parent ended: as a subreaper it gets those of containers in the
    /// node's PID namespace, whom nobody else waits for.
    fn reap_strays(&self) {
        if self.foreign.is_none() {
            return;
        }
        let own = std::process::id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
        let known: Vec<i32> = self
            .containers
            .values()
            .flat_map(|container| {
                let execs = container.execs.values().map(|exec| exec.process.pid);
                execs.chain([container.runtime.pid()])
            })
            .chain(self.sandbox.reaper_pid())
            .chain(self.checkpoints.values().map(Checkpoint::pid))
            .collect();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()).filter(|pid| !known.contains(pid)) {
            if let Ok(stray) = pidfd::open(pid) {
                let _ = pidfd::try_wait(stray.as_fd());
            }
        }
    }

    pub(crate) fn exec_ended(&mut self, watch: &mut Watch, id: &str, exec: &str, token: u64) -> Option<Event> {
        let container = self.containers.get_mut(id)?;
        let process = &container.execs.get(exec)?.process;
        let ended = pidfd::try_wait(process.pidfd.as_fd()).ok()??;
        watch.remove(&process.pidfd, token);
        container.execs.remove(exec);
        let exit = exit_record::exit_of(ended, false, None);
        Some(Event::ExecExited { container: id.into(), exec: exec.into(), exit })
    }

    /// Waits for room at those attached clients that have a backlog, and lets go of those that have gone.
    pub(crate) fn watch_attached(&mut self, watch: &mut Watch, id: &str) {
        let Some(stdio) = self.stdio(id) else { return };
        for client in stdio.gone.drain(..) {
            watch.remove(client.fd(), client.token);
        }
        for client in &stdio.attached {
            watch.change(client.fd(), client.token, if client.waits() { EPOLLOUT } else { 0 });
        }
    }

    /// An attached client can take more, or has gone.
    pub(crate) fn flush_attached(&mut self, watch: &mut Watch, id: &str, token: u64) {
        let Some(container) = self.containers.get_mut(id) else { return };
        let ended = container.phase == ContainerPhase::Exited;
        let Some(index) = container.stdio.attached.iter().position(|client| client.token == token) else { return };
        let client = &mut container.stdio.attached[index];
        // Without a backlog, readiness can only mean that the reader has gone.
        let reads_on = client.waits() && client.flush();
        let has_all = ended && !client.waits();
        if reads_on && !has_all {
            watch.change(client.fd(), token, if client.waits() { EPOLLOUT } else { 0 });
        } else {
            let client = container.stdio.attached.remove(index);
            watch.remove(client.fd(), token);
        }
    }
}

/// Signals what an exec'd process has started, and what that starts meanwhile. The process itself, which is not reaped
/// yet, is left for last: its end is the end of the exec.
fn signal_tree(container: &PodContainer, root: i32, signal: i32) -> io::Result<()> {
    /// What forks faster than it is killed is left to the container's end.
    const ROUNDS: usize = 16;
    let mut signalled = vec![root];
    for _ in 0..ROUNDS {
        let new: Vec<i32> = exec_tree::of(root, &container.runtime.cgroup().pids()?)
            .into_iter()
            .filter(|pid| !signalled.contains(pid))
            .collect();
        if new.is_empty() {
            break;
        }
        for pid in &new {
            // Gone meanwhile is fine.
            let _ = process::kill(*pid, signal);
        }
        signalled.extend(new);
    }
    Ok(())
}

fn version() -> Answer {
    let version = env!("CARGO_PKG_VERSION").into();
    Answer::Version { protocol: PROTOCOL_VERSION, version, pid: std::process::id() }
}

pub(crate) fn internal(error: impl std::fmt::Display) -> Failure {
    failure(FailureKind::Internal, error)
}

fn wrong_state(container: &PodContainer, operation: &str) -> Failure {
    let phase = match container.phase {
        ContainerPhase::Created => "created",
        ContainerPhase::Running => "running",
        ContainerPhase::Exited => "exited",
    };
    failure(FailureKind::WrongState, format_args!("cannot {operation} container {}: it is {phase}", container.id))
}
