//! The event loop: one epoll over the listener, the clients, the containers' output and their processes' ends.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use wharf_specs::shim::{Answer, Event, Failure, FailureKind, FromShim, Operation, Reply, Request};
use wharf_sys::event::{EPOLLIN, EPOLLOUT, Epoll, Ready};
use wharf_sys::{fs as sysfs, memory, socket};

use crate::connection::Connection;
use crate::container::{Pumped, WIDE_PIPE_BYTES};
use crate::cri_log::Stream;
use crate::pod::{Outcome, Pod};

/// Read at once from a container or a client.
const BUFFER_BYTES: usize = WIDE_PIPE_BYTES;

/// When nothing has happened for so long, memory that requests needed goes back to the kernel.
const IDLE_MS: i32 = 50;

/// What an epoll token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Source {
    Listener,
    Client,
    Output {
        container: String,
        stream: Stream,
    },
    /// A client of the container's output that was too slow and can take more.
    Attached {
        container: String,
    },
    Init {
        container: String,
    },
    Exec {
        container: String,
        exec: String,
    },
    /// The process that writes a checkpoint.
    Checkpoint {
        container: String,
    },
}

/// Who asked, and how the answer is to be numbered.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    client: u64,
    request: u64,
}

/// The epoll set, with what each token means.
pub(crate) struct Watch {
    epoll: Epoll,
    sources: HashMap<u64, Source>,
    next_token: u64,
}

impl Watch {
    fn new() -> io::Result<Self> {
        Ok(Self { epoll: Epoll::new()?, sources: HashMap::new(), next_token: 0 })
    }

    /// Watches `fd`, until [`Watch::remove`]: that it is closed here is not enough where others hold it open too.
    pub(crate) fn add(&mut self, fd: impl AsFd, source: Source, events: i32) -> io::Result<u64> {
        let token = self.next_token;
        self.epoll.add(fd.as_fd(), token, events)?;
        self.next_token += 1;
        self.sources.insert(token, source);
        Ok(token)
    }

    /// Changes what `fd` is watched for.
    pub(crate) fn change(&mut self, fd: impl AsFd, token: u64, events: i32) {
        let _ = self.epoll.modify(fd.as_fd(), token, events);
    }

    /// Stops watching `fd`. What has ended stays ready for ever: whoever went on watching it would never sleep again.
    pub(crate) fn remove(&mut self, fd: impl AsFd, token: u64) {
        let _ = self.epoll.remove(fd.as_fd());
        self.sources.remove(&token);
    }

    /// Stops watching `fd`, which stands for `source`.
    pub(crate) fn remove_source(&mut self, fd: impl AsFd, source: &Source) {
        let _ = self.epoll.remove(fd.as_fd());
        self.sources.retain(|_, other| other != source);
    }
}

pub(crate) struct Server {
    pod: Pod,
    listener: OwnedFd,
    watch: Watch,
    clients: HashMap<u64, Connection>,
    /// Empty while nothing happens.
    buffer: Vec<u8>,
    /// Something has happened since memory was last given back.
    untidy: bool,
}

impl Server {
    pub(crate) fn new(pod: Pod, listener: OwnedFd) -> io::Result<Self> {
        let mut watch = Watch::new()?;
        watch.add(&listener, Source::Listener, EPOLLIN)?;
        Ok(Self { pod, listener, watch, clients: HashMap::new(), buffer: Vec::new(), untidy: true })
    }

    /// Serves until a client asks for the shutdown.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut ready = Vec::new();
        loop {
            self.watch.epoll.wait(&mut ready, if self.untidy { IDLE_MS } else { -1 })?;
            if ready.is_empty() {
                self.tidy_up();
                continue;
            }
            self.untidy = true;
            if self.buffer.is_empty() {
                // From the kernel with zeros in it: only what is read into becomes memory.
                self.buffer = vec![0; BUFFER_BYTES];
            }
            for &event in &ready {
                let Some(source) = self.watch.sources.get(&event.token).cloned() else { continue };
                if self.handle(event, source)? {
                    return Ok(());
                }
            }
        }
    }

    /// A pod lives for months after the megabyte that its creation took.
    fn tidy_up(&mut self) {
        self.untidy = false;
        self.buffer = Vec::new();
        self.pod.tidy_up();
        if let Err(error) = memory::trim() {
            eprintln!("give memory back: {error}");
        }
    }

    /// Returns `true` when the shim is to end.
    fn handle(&mut self, ready: Ready, source: Source) -> io::Result<bool> {
        match source {
            Source::Listener => self.accept()?,
            Source::Client => return self.client_ready(ready),
            Source::Output { container, stream } => self.output_ready(ready.token, &container, stream),
            Source::Attached { container } => self.pod.flush_attached(&mut self.watch, &container, ready.token),
            Source::Init { container } => {
                let event = self.pod.init_ended(&mut self.watch, &container, ready.token, &mut self.buffer);
                self.publish(event);
            }
            Source::Exec { container, exec } => {
                let event = self.pod.exec_ended(&mut self.watch, &container, &exec, ready.token);
                self.publish(event);
            }
            Source::Checkpoint { container } => {
                if let Some((asker, result)) = self.pod.checkpoint_ended(&mut self.watch, &container, ready.token) {
                    self.reply(asker, result, Vec::new());
                    self.rearm(asker.client);
                }
            }
        }
        Ok(false)
    }

    fn accept(&mut self) -> io::Result<()> {
        match socket::accept(self.listener.as_fd()) {
            Ok(client) => {
                sysfs::set_nonblocking(client.as_fd(), true)?;
                let token = self.watch.add(&client, Source::Client, EPOLLIN)?;
                self.clients.insert(token, Connection::new(client));
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => eprintln!("accept a client: {error}"),
        }
        Ok(())
    }

    fn output_ready(&mut self, token: u64, container: &str, stream: Stream) {
        let Some(stdio) = self.pod.stdio(container) else { return };
        if stdio.pump(stream, &mut self.buffer) == Pumped::Ended {
            if let Some((_, fd)) = stdio.watched().find(|(watched, _)| *watched == stream) {
                self.watch.remove(fd, token);
            }
            stdio.close(stream);
        }
        self.pod.watch_attached(&mut self.watch, container);
    }

    fn client_ready(&mut self, ready: Ready) -> io::Result<bool> {
        let Some(client) = self.clients.get_mut(&ready.token) else { return Ok(false) };
        let mut alive = client.flush().is_ok();
        let mut shut_down = false;
        if ready.events & EPOLLIN as u32 != 0 {
            match client.receive(&mut self.buffer) {
                Ok(requests) => {
                    for request in requests {
                        shut_down |= self.answer(ready.token, request);
                    }
                }
                Err(_) => alive = false,
            }
        } else if ready.events & EPOLLOUT as u32 == 0 {
            alive = false;
        }
        if alive {
            self.rearm(ready.token)
        } else {
            self.drop_client(ready.token)
        }
        Ok(shut_down)
    }

    fn answer(&mut self, token: u64, request: Request) -> bool {
        let Some(client) = self.clients.get_mut(&token) else { return false };
        let shut_down = matches!(request.operation, Operation::Shutdown);
        if matches!(request.operation, Operation::Subscribe) {
            client.subscribed = true;
        }
        let asker = Asker { client: token, request: request.id };
        let outcome = self.pod.perform(&mut self.watch, client, asker, request.operation);
        let ends = shut_down && outcome.is_ok();
        let event = match outcome {
            Ok(Outcome { answer: Some(answer), descriptors, event }) => {
                self.reply(asker, Ok(answer), descriptors);
                event
            }
            // The answer comes later.
            Ok(Outcome { event, .. }) => event,
            Err(failure) => {
                self.reply(asker, Err(failure), Vec::new());
                None
            }
        };
        self.publish(event);
        ends
    }

    /// Answers, unless the client has gone.
    fn reply(&mut self, asker: Asker, result: Result<Answer, Failure>, descriptors: Vec<OwnedFd>) {
        let Some(client) = self.clients.get_mut(&asker.client) else { return };
        let reply = FromShim::Reply(Reply { id: asker.request, result });
        if client.send(&reply, descriptors).is_err() {
            self.drop_client(asker.client);
        }
    }

    /// Tells every subscriber.
    fn publish(&mut self, event: Option<Event>) {
        let Some(event) = event else { return };
        let message = FromShim::Event(event);
        let subscribers: Vec<u64> =
            self.clients.iter().filter(|(_, c)| c.subscribed).map(|(&token, _)| token).collect();
        for token in subscribers {
            let sent = self.clients.get_mut(&token).is_some_and(|client| client.send(&message, Vec::new()).is_ok());
            if sent { self.rearm(token) } else { self.drop_client(token) }
        }
    }

    /// Waits for room in the client's socket only while something is to be sent.
    fn rearm(&mut self, token: u64) {
        let Some(client) = self.clients.get(&token) else { return };
        let events = if client.wants_to_write() { EPOLLIN | EPOLLOUT } else { EPOLLIN };
        if self.watch.epoll.modify(client.as_fd(), token, events).is_err() {
            self.drop_client(token);
        }
    }

    fn drop_client(&mut self, token: u64) {
        if let Some(client) = self.clients.remove(&token) {
            self.watch.remove(&client, token);
        }
    }
}

/// A refusal with its kind.
pub(crate) fn failure(kind: FailureKind, message: impl std::fmt::Display) -> Failure {
    Failure { kind, message: message.to_string() }
}
