//! The daemon's end of a shim's socket: requests out, replies and events in, descriptors with both.
//!
//! Two tasks own the socket's directions, so that a caller that goes away mid-request leaves no half frame
//! behind. Ends of exec'd processes go straight to their sessions, every other event to the pod's owner.

use std::collections::HashMap;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags,
};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot, watch};
use wharf_specs::shim::{
    Answer, Event, Exit, Failure, FromShim, MAX_FRAME_BYTES, MAX_FRAME_DESCRIPTORS, Operation, Reply, Request,
};

use super::error::{PodError, Result};

/// How long a shim may take for one request. Creating a container may mount slow file systems.
const REQUEST_DEADLINE: Duration = Duration::from_secs(120);

/// How long one that is to end may take for it. Whoever stops a pod waits no longer for a shim that is stuck in a file
/// system that hangs.
const HURRIED_DEADLINE: Duration = Duration::from_secs(5);

/// What the pod's owner hears of its shim.
#[derive(Debug)]
pub(crate) enum FromPodShim {
    Event(Box<Event>),
    /// The connection ended: the shim is dead or was shut down.
    Gone,
}

/// What is sent in one piece; descriptors go with its first byte.
struct Frame {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
}

type Outcome = (std::result::Result<Answer, Failure>, Vec<OwnedFd>);

#[derive(Clone)]
pub(crate) struct ShimClient {
    shared: Arc<Shared>,
    /// Boxed, as all that goes over a channel that a pod keeps: it has room for 32 at the least.
    outgoing: mpsc::UnboundedSender<Box<Frame>>,
}

struct Shared {
    next_id: AtomicU64,
    /// 0 until the shim was asked.
    protocol: AtomicU32,
    pending: Mutex<Pending>,
    /// The shim's; `None` where the kernel does not say.
    process: Option<OwnedFd>,
    /// True once the pod is to end.
    hurried: watch::Sender<bool>,
    events: mpsc::UnboundedSender<FromPodShim>,
}

#[derive(Default)]
struct Pending {
    replies: HashMap<u64, oneshot::Sender<Outcome>>,
    execs: HashMap<String, oneshot::Sender<Exit>>,
    /// Nothing will be answered any more.
    gone: bool,
}

impl Shared {
    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nothing will be answered any more; the owner is told once.
    fn give_up(&self) {
        let mut pending = self.pending();
        if !std::mem::replace(&mut *pending, Pending { gone: true, ..Pending::default() }).gone {
            let _ = self.events.send(FromPodShim::Gone);
        }
    }
}

impl ShimClient {
    /// Connects to `socket`; events are sent to `events` once [`Operation::Subscribe`] was requested.
    pub(crate) async fn connect(socket: &Path, events: mpsc::UnboundedSender<FromPodShim>) -> io::Result<Self> {
        let stream = Arc::new(UnixStream::connect(socket).await?);
        let peer = rustix::net::sockopt::socket_peercred(&stream);
        let process = peer.and_then(|peer| pidfd_open(peer.pid, PidfdFlags::empty())).ok();
        let shared = Arc::new(Shared {
            process,
            next_id: AtomicU64::default(),
            protocol: AtomicU32::default(),
            pending: Mutex::default(),
            hurried: watch::Sender::new(false),
            events,
        });
        let (outgoing, frames) = mpsc::unbounded_channel();
        tokio::spawn(write_frames(stream.clone(), frames));
        tokio::spawn(read_frames(stream, shared.clone()));
        Ok(Self { shared, outgoing })
    }

    /// Version of the protocol that the shim speaks.
    pub(crate) fn protocol(&self) -> u32 {
        self.shared.protocol.load(Ordering::Relaxed)
    }

    pub(crate) fn set_protocol(&self, version: u32) {
        self.shared.protocol.store(version, Ordering::Relaxed);
    }

    /// Asks the shim to do `operation`; `name` and `id` are for the error.
    pub(crate) async fn request(
        &self,
        name: &str,
        id: &str,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        self.request_within(REQUEST_DEADLINE, name, id, operation, descriptors).await
    }

    async fn request_within(
        &self,
        deadline: Duration,
        name: &str,
        id: &str,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        self.begin(deadline, name, id, operation, descriptors)?.await
    }

    /// Puts a request on its way before it returns: requests are done in the order of these calls.
    fn begin(
        &self,
        deadline: Duration,
        name: &str,
        id: &str,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<impl Future<Output = Result<(Answer, Vec<OwnedFd>)>> + Send + use<>> {
        let (number, outcome) = self.send(name, id, operation, descriptors)?;
        let (client, name, id) = (self.clone(), name.to_string(), id.to_string());
        Ok(async move {
            let seconds = tokio::select! {
                outcome = outcome => return answered(&name, &id, outcome),
                () = tokio::time::sleep(deadline) => deadline.as_secs(),
                () = client.hurried() => {
                    client.shared.give_up();
                    HURRIED_DEADLINE.as_secs()
                }
            };
            client.shared.pending().replies.remove(&number);
            Err(PodError::DeadlineExceeded { operation: format!("{name} {id}"), seconds })
        })
    }

    /// As [`request`](Self::request), for what takes its time while the shim serves others: that the pod is to end gives
    /// nobody up.
    pub(crate) async fn request_beside(
        &self,
        deadline: Duration,
        name: &str,
        id: &str,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Answer, Vec<OwnedFd>)> {
        let (number, outcome) = self.send(name, id, operation, descriptors)?;
        match tokio::time::timeout(deadline, outcome).await {
            Ok(outcome) => answered(name, id, outcome),
            Err(_) => {
                self.shared.pending().replies.remove(&number);
                Err(PodError::DeadlineExceeded { operation: format!("{name} {id}"), seconds: deadline.as_secs() })
            }
        }
    }

    /// Puts a request on its way; the number is its id.
    fn send(
        &self,
        name: &str,
        id: &str,
        operation: Operation,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(u64, oneshot::Receiver<Outcome>)> {
        let request = Request { id: self.shared.next_id.fetch_add(1, Ordering::Relaxed), operation };
        let body = serde_json::to_vec(&request).map_err(|error| PodError::internal(name, error))?;
        if body.len() > MAX_FRAME_BYTES {
            let reason = format!("the request has {} bytes, a shim takes {MAX_FRAME_BYTES}", body.len());
            return Err(PodError::invalid("config", reason));
        }
        let mut bytes = Vec::with_capacity(4 + body.len());
        bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
        bytes.extend_from_slice(&body);

        let (reply, outcome) = oneshot::channel();
        {
            let mut pending = self.shared.pending();
            if pending.gone {
                return Err(gone(name, id));
            }
            pending.replies.insert(request.id, reply);
        }
        self.outgoing.send(Box::new(Frame { bytes, descriptors })).map_err(|_| gone(name, id))?;
        Ok((request.id, outcome))
    }

    /// Ends the shim itself. One that waits for a file system that hangs ends with that.
    pub(crate) fn kill(&self) {
        if let Some(process) = &self.shared.process {
            let _ = pidfd_send_signal(process, Signal::KILL);
        }
    }

    /// The pod is to end: from now on a shim that does not answer soon is given up.
    pub(crate) fn hurry(&self) {
        self.shared.hurried.send_replace(true);
    }

    /// The connection ended, or the shim was given up.
    pub(crate) fn is_gone(&self) -> bool {
        self.shared.pending().gone
    }

    async fn hurried(&self) {
        self.ending().await;
        tokio::time::sleep(HURRIED_DEADLINE).await;
    }

    /// Resolves once the pod is to end.
    pub(crate) async fn ending(&self) {
        // The sender lives as long as this client.
        let _ = self.shared.hurried.subscribe().wait_for(|hurried| *hurried).await;
    }

    /// As [`request`](Self::request) where the answer holds nothing.
    pub(crate) async fn done(&self, name: &str, id: &str, operation: Operation) -> Result<()> {
        self.request(name, id, operation, Vec::new()).await.map(|_| ())
    }

    /// As [`done`](Self::done), for who waits elsewhere: the request is on its way before this returns.
    pub(crate) fn begin_done(
        &self,
        name: &str,
        id: &str,
        operation: Operation,
    ) -> Result<impl Future<Output = Result<()>> + Send + use<>> {
        let outcome = self.begin(REQUEST_DEADLINE, name, id, operation, Vec::new())?;
        Ok(async move { outcome.await.map(|_| ()) })
    }

    /// As [`done`](Self::done), for what a shim does at once.
    pub(crate) async fn done_within(
        &self,
        deadline: Duration,
        name: &str,
        id: &str,
        operation: Operation,
    ) -> Result<()> {
        self.request_within(deadline, name, id, operation, Vec::new()).await.map(|_| ())
    }

    /// Registers for the end of the exec'd process `exec`, before it is asked for.
    pub(crate) fn watch_exec(&self, exec: &str) -> oneshot::Receiver<Exit> {
        let (sender, receiver) = oneshot::channel();
        let mut pending = self.shared.pending();
        if !pending.gone {
            pending.execs.insert(exec.into(), sender);
        }
        receiver
    }

    pub(crate) fn forget_exec(&self, exec: &str) {
        self.shared.pending().execs.remove(exec);
    }
}

fn gone(name: &str, id: &str) -> PodError {
    PodError::internal(format!("{name} {id}"), "the pod's shim is gone")
}

fn answered(
    name: &str,
    id: &str,
    outcome: std::result::Result<Outcome, oneshot::error::RecvError>,
) -> Result<(Answer, Vec<OwnedFd>)> {
    match outcome {
        Ok((Ok(answer), descriptors)) => Ok((answer, descriptors)),
        Ok((Err(failure), _)) => Err(PodError::from_shim(name, id, failure)),
        Err(_) => Err(gone(name, id)),
    }
}

async fn write_frames(stream: Arc<UnixStream>, mut frames: mpsc::UnboundedReceiver<Box<Frame>>) {
    while let Some(frame) = frames.recv().await {
        if let Err(error) = write_frame(&stream, &frame.bytes, &frame.descriptors).await {
            tracing::debug!(%error, "write to shim");
            return;
        }
    }
}

async fn write_frame(stream: &UnixStream, frame: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut sent = 0;
    while sent < frame.len() {
        sent += stream
            .async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_DESCRIPTORS))];
                let mut control = SendAncillaryBuffer::new(&mut space);
                let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                if sent == 0 && !borrowed.is_empty() && !control.push(SendAncillaryMessage::ScmRights(&borrowed)) {
                    return Err(io::Error::other("too many descriptors for one frame"));
                }
                let bytes = [IoSlice::new(&frame[sent..])];
                Ok(rustix::net::sendmsg(stream, &bytes, &mut control, SendFlags::NOSIGNAL)?)
            })
            .await?;
    }
    Ok(())
}

async fn read_frames(stream: Arc<UnixStream>, shared: Arc<Shared>) {
    loop {
        match read_frame(&stream).await {
            Ok(Some((FromShim::Reply(Reply { id, result }), descriptors))) => {
                if let Some(waiting) = shared.pending().replies.remove(&id) {
                    // The caller may have gone away; its descriptors are closed with the value.
                    let _ = waiting.send((result, descriptors));
                }
            }
            Ok(Some((FromShim::Event(Event::ExecExited { exec, exit, .. }), _))) => {
                if let Some(waiting) = shared.pending().execs.remove(&exec) {
                    let _ = waiting.send(exit);
                }
            }
            Ok(Some((FromShim::Event(event), _))) => {
                let _ = shared.events.send(FromPodShim::Event(Box::new(event)));
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "read from shim");
                break;
            }
        }
    }
    shared.give_up();
}

/// `None` at a clean end. Descriptors come with a frame's first byte, so the header is read by itself.
async fn read_frame(stream: &UnixStream) -> io::Result<Option<(FromShim, Vec<OwnedFd>)>> {
    let mut descriptors = Vec::new();
    let mut header = [0; 4];
    if !read_exact(stream, &mut header, &mut descriptors).await? {
        return Ok(None);
    }
    let length = u32::from_le_bytes(header) as usize;
    if length > MAX_FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes")));
    }
    let mut body = vec![0; length];
    if !read_exact(stream, &mut body, &mut descriptors).await? {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(Some((serde_json::from_slice(&body)?, descriptors)))
}

/// False where the stream ends before the first byte.
async fn read_exact(stream: &UnixStream, buffer: &mut [u8], descriptors: &mut Vec<OwnedFd>) -> io::Result<bool> {
    let mut filled = 0;
    while filled < buffer.len() {
        let count = stream
            .async_io(Interest::READABLE, || {
                let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FRAME_DESCRIPTORS))];
                let mut control = RecvAncillaryBuffer::new(&mut space);
                let mut bytes = [IoSliceMut::new(&mut buffer[filled..])];
                let received = rustix::net::recvmsg(stream, &mut bytes, &mut control, RecvFlags::CMSG_CLOEXEC)?;
                for message in control.drain() {
                    if let RecvAncillaryMessage::ScmRights(fds) = message {
                        descriptors.extend(fds);
                    }
                }
                Ok(received.bytes)
            })
            .await?;
        if count == 0 {
            return if filled == 0 { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
        }
        filled += count;
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    /// A shim that answers the first request with the read end of a pipe that holds `hello`, then goes.
    async fn answer_once(listener: tokio::net::UnixListener) {
        let (stream, _) = listener.accept().await.unwrap();
        let mut descriptors = Vec::new();
        let mut header = [0; 4];
        assert!(read_exact(&stream, &mut header, &mut descriptors).await.unwrap());
        let mut body = vec![0; u32::from_le_bytes(header) as usize];
        assert!(read_exact(&stream, &mut body, &mut descriptors).await.unwrap());
        let request: Request = serde_json::from_slice(&body).unwrap();
        assert!(matches!(request.operation, Operation::Namespaces));
        assert_eq!(descriptors.len(), 1);

        let (reader, mut writer) = std::io::pipe().unwrap();
        std::io::Write::write_all(&mut writer, b"hello").unwrap();
        let reply = Reply { id: request.id, result: Ok(Answer::Done) };
        for message in [
            serde_json::to_vec(&Event::Oom { container: "c".into(), at: 1 }).unwrap(),
            serde_json::to_vec(&reply).unwrap(),
        ] {
            let mut frame = (message.len() as u32).to_le_bytes().to_vec();
            frame.extend(message);
            write_frame(&stream, &frame, &[reader.try_clone().unwrap().into()]).await.unwrap();
        }
    }

    #[tokio::test]
    async fn replies_bring_their_descriptors_and_events_reach_the_owner() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("shim.sock");
        let shim = tokio::spawn(answer_once(tokio::net::UnixListener::bind(&socket).unwrap()));
        let (events, mut heard) = mpsc::unbounded_channel();
        let client = ShimClient::connect(&socket, events).await.unwrap();
        let null = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
        let (answer, mut fds) = client.request("namespaces", "p", Operation::Namespaces, vec![null]).await.unwrap();
        assert!(matches!(answer, Answer::Done));
        let mut text = [0; 5];
        std::fs::File::from(fds.remove(0)).read_exact(&mut text).unwrap();
        assert_eq!(&text, b"hello");
        let Some(FromPodShim::Event(event)) = heard.recv().await else { panic!("an event") };
        assert!(matches!(*event, Event::Oom { .. }));
        shim.await.unwrap();
        assert!(matches!(heard.recv().await, Some(FromPodShim::Gone)));
        let error = client.done("version", "p", Operation::Version).await.unwrap_err();
        assert!(error.to_string().contains("shim is gone"), "{error}");
    }
}
