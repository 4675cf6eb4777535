//! A SPDY/3.1 connection: its streams as readers and writers over the pure [`Session`].
//!
//! Two tasks own the directions of the connection. A stream's reader has a buffer of its own; once that is full, which a
//! client that minds its windows does not bring about, the connection is not read on until there is room.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use wharf_specs::streaming::spdy::headers::{Deflater, Headers};
use wharf_specs::streaming::spdy::session::Room;
use wharf_specs::streaming::spdy::{Event, Frame, FrameReader, Session, SpdyError, reset};

use super::activity::Activity;
use super::{CHUNK_BYTES, CLOSE_GRACE, LINGER_LIMIT};

/// Held for a stream whose reader is slow: twice the window that the client begins with.
const STREAM_BUFFER_BYTES: usize = 128 << 10;

/// Frames that wait to be written.
const QUEUE: usize = 16;

/// Streams that were opened and not looked at.
const BACKLOG: usize = 16;

pub(super) struct Connection {
    streams: mpsc::Receiver<Stream>,
    shared: Arc<Shared>,
}

/// One stream that the client opened; it is answered already.
pub(super) struct Stream {
    pub(super) headers: Headers,
    pub(super) reader: StreamReader,
    pub(super) writer: StreamWriter,
}

struct Shared {
    session: Mutex<Session>,
    outgoing: mpsc::Sender<Outgoing>,
    /// More may be sent, or a stream has ended.
    room: Notify,
    /// The client should be told what was consumed.
    updates: Notify,
    activity: Activity,
    /// The connection is over.
    ended: CancellationToken,
}

enum Outgoing {
    Frame(Frame),
    /// `SYN_REPLY`, whose headers are compressed in the order of the frames.
    Reply(u32),
}

impl Shared {
    fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn send(&self, outgoing: Outgoing) -> io::Result<()> {
        tokio::select! {
            sent = self.outgoing.send(outgoing) => sent.map_err(|_| gone()),
            () = self.ended.cancelled() => Err(gone()),
        }
    }
}

fn gone() -> io::Error {
    io::ErrorKind::BrokenPipe.into()
}

impl Connection {
    /// Serves `io` until it ends, stands still for `idle` or is [closed](Self::close).
    pub(super) fn start(io: impl AsyncRead + AsyncWrite + Send + 'static, idle: Duration) -> Self {
        let (outgoing, queue) = mpsc::channel(QUEUE);
        let (opened, streams) = mpsc::channel(BACKLOG);
        let shared = Arc::new(Shared {
            session: Mutex::default(),
            outgoing,
            room: Notify::new(),
            updates: Notify::new(),
            activity: Activity::default(),
            ended: CancellationToken::new(),
        });
        let (read, write) = tokio::io::split(io);
        tokio::spawn(run_reader(shared.clone(), read, opened, idle));
        tokio::spawn(run_writer(shared.clone(), write, queue));
        Self { streams, shared }
    }

    /// The next stream that the client opens; `None` once the connection is over.
    pub(super) async fn accept(&mut self) -> Option<Stream> {
        self.streams.recv().await
    }

    /// Cancelled when the connection is over.
    pub(super) fn ended(&self) -> CancellationToken {
        self.shared.ended.clone()
    }

    /// Sends what is on its way, says good-bye and waits for the client to close the connection: Kubernetes' clients throw
    /// away what they have not looked at yet when the server is the first to close.
    pub(super) async fn close(self) {
        let go_away = self.shared.session().go_away();
        let end = async {
            let _ = self.shared.send(Outgoing::Frame(go_away)).await;
            self.shared.ended.cancelled().await;
        };
        let _ = tokio::time::timeout(LINGER_LIMIT, end).await;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.ended.cancel();
        self.shared.room.notify_waiters();
    }
}

/// Where what the client sends on a stream is put.
struct Inbox {
    /// `None` after the client's end of the stream.
    buffer: Option<DuplexStream>,
    over: CancellationToken,
}

async fn run_reader(shared: Arc<Shared>, io: impl AsyncRead + Unpin, opened: mpsc::Sender<Stream>, idle: Duration) {
    tokio::select! {
        outcome = read(&shared, io, opened) => match outcome {
            Ok(()) => {}
            Err(error) => tracing::debug!(%error, "streaming client"),
        },
        () = shared.activity.ceased(idle) => tracing::info!(?idle, "streaming client stands still, closing"),
        () = shared.ended.cancelled() => {}
    }
    shared.ended.cancel();
    shared.room.notify_waiters();
}

#[derive(Debug, thiserror::Error)]
enum ReadError {
    #[error(transparent)]
    Protocol(#[from] SpdyError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

async fn read(
    shared: &Arc<Shared>,
    mut io: impl AsyncRead + Unpin,
    opened: mpsc::Sender<Stream>,
) -> Result<(), ReadError> {
    let mut frames = FrameReader::default();
    let mut inboxes = HashMap::new();
    loop {
        while let Some(frame) = frames.next_frame()? {
            let events = shared.session().receive(frame)?;
            for event in events {
                on_event(shared, &mut inboxes, &opened, event).await?;
            }
            if shared.session().owes_updates() {
                shared.updates.notify_one();
            }
        }
        frames.buffer().reserve(CHUNK_BYTES);
        if io.read_buf(frames.buffer()).await? == 0 {
            return Ok(());
        }
        shared.activity.note();
    }
}

async fn on_event(
    shared: &Arc<Shared>,
    inboxes: &mut HashMap<u32, Inbox>,
    opened: &mpsc::Sender<Stream>,
    event: Event,
) -> Result<(), ReadError> {
    match event {
        Event::Opened { stream: id, headers } => {
            shared.send(Outgoing::Reply(id)).await?;
            let (buffer, near) = tokio::io::duplex(STREAM_BUFFER_BYTES);
            let over = shared.ended.child_token();
            inboxes.retain(|id, _| shared.session().is_open(*id));
            inboxes.insert(id, Inbox { buffer: Some(buffer), over: over.clone() });
            let reader = StreamReader { id, buffer: near, shared: shared.clone() };
            let writer = StreamWriter { id, shared: shared.clone(), over };
            let stream = Stream { headers, reader, writer };
            // Nobody takes streams any more: this one is of no use.
            if let Err(unwanted) = opened.send(stream).await {
                unwanted.0.writer.reset(reset::REFUSED_STREAM).await;
            }
        }
        Event::Data { stream, data } => {
            let taken = match inboxes.get_mut(&stream).and_then(|inbox| inbox.buffer.as_mut()) {
                Some(buffer) => buffer.write_all(&data).await.is_ok(),
                None => false,
            };
            if !taken && shared.session().consumed(stream, data.len()) {
                shared.updates.notify_one();
            }
        }
        Event::Finished { stream } => {
            if let Some(inbox) = inboxes.get_mut(&stream) {
                inbox.buffer = None;
            }
        }
        Event::Reset { stream } => {
            if let Some(inbox) = inboxes.remove(&stream) {
                inbox.over.cancel();
            }
            shared.room.notify_waiters();
        }
        Event::Answer(frame) => shared.send(Outgoing::Frame(frame)).await?,
        Event::WindowGrew => shared.room.notify_waiters(),
        Event::GoAway => {}
    }
    Ok(())
}

async fn run_writer(shared: Arc<Shared>, mut io: impl AsyncWrite + Unpin, mut queue: mpsc::Receiver<Outgoing>) {
    let mut deflater = Deflater::default();
    let mut buffer = BytesMut::new();
    while !shared.ended.is_cancelled() {
        tokio::select! {
            Some(outgoing) = queue.recv() => encode(&outgoing, &mut deflater, &mut buffer),
            () = shared.updates.notified() => {
                shared.session().take_updates().iter().for_each(|frame| frame.encode(&mut buffer));
            }
            () = shared.ended.cancelled() => break,
        }
        let written = async {
            io.write_all_buf(&mut buffer).await?;
            io.flush().await
        };
        tokio::select! {
            outcome = written => if outcome.is_err() { shared.ended.cancel() },
            () = shared.ended.cancelled() => break,
        }
        shared.activity.note();
    }
    let _ = tokio::time::timeout(CLOSE_GRACE, io.shutdown()).await;
}

fn encode(outgoing: &Outgoing, deflater: &mut Deflater, buffer: &mut BytesMut) {
    match outgoing {
        Outgoing::Frame(frame) => frame.encode(buffer),
        Outgoing::Reply(stream) => {
            let block = deflater.write(&Headers::default());
            Frame::SynReply { stream: *stream, fin: false, block }.encode(buffer);
        }
    }
}

/// What the client sends on a stream, up to its end or its reset.
pub(super) struct StreamReader {
    id: u32,
    buffer: DuplexStream,
    shared: Arc<Shared>,
}

impl AsyncRead for StreamReader {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.buffer).poll_read(cx, buffer);
        let read = buffer.filled().len() - before;
        if read > 0 && self.shared.session().consumed(self.id, read) {
            self.shared.updates.notify_one();
        }
        outcome
    }
}

/// Our half of a stream. Dropping it ends nothing: see [`finish`](Self::finish) and [`reset`](Self::reset).
pub(super) struct StreamWriter {
    id: u32,
    shared: Arc<Shared>,
    over: CancellationToken,
}

impl StreamWriter {
    /// Cancelled when the client resets the stream or the connection is over.
    pub(super) fn over(&self) -> &CancellationToken {
        &self.over
    }

    /// Waits for room where the client asks for that.
    pub(super) async fn send(&self, mut data: Bytes) -> io::Result<()> {
        while !data.is_empty() {
            let more = self.shared.room.notified();
            tokio::pin!(more);
            more.as_mut().enable();
            let room = self.shared.session().take_room(self.id, data.len().min(CHUNK_BYTES));
            match room {
                Room::Closed => return Err(gone()),
                Room::None if self.over.is_cancelled() => return Err(gone()),
                Room::None => more.await,
                Room::Bytes(count) => {
                    let data = data.split_to(count);
                    let frame = Frame::Data { stream: self.id, fin: false, data };
                    self.shared.send(Outgoing::Frame(frame)).await?;
                }
            }
        }
        Ok(())
    }

    /// Says that nothing more comes on the stream.
    pub(super) async fn finish(&self) {
        let frame = self.shared.session().finish(self.id);
        if let Some(frame) = frame {
            let _ = self.shared.send(Outgoing::Frame(frame)).await;
        }
    }

    /// Gives up both halves, unless both are finished.
    pub(super) async fn reset(&self, status: u32) {
        let frame = self.shared.session().reset(self.id, status);
        if let Some(frame) = frame {
            let _ = self.shared.send(Outgoing::Frame(frame)).await;
        }
    }
}

#[cfg(test)]
#[path = "spdy_tests.rs"]
pub(super) mod tests;
