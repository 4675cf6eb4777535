//! The channels of a WebSocket (see [`wharf_specs::streaming::channel`]), and a WebSocket as a plain stream of bytes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use bytes::Bytes;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use wharf_specs::streaming::channel::{ChannelMessage, ChannelProtocol};

use super::activity::Activity;
use super::{CHUNK_BYTES, CLOSE_GRACE};

/// Largest message a client may send; clients write 32 KiB at a time.
pub(super) const MESSAGE_BYTES: usize = 1 << 20;

/// Messages under way to the client.
const QUEUE: usize = 16;

/// What the client sends. Dropping it ends the connection.
pub(super) struct ChannelReader {
    protocol: ChannelProtocol,
    source: SplitStream<WebSocket>,
    activity: Arc<Activity>,
    ended: CancellationToken,
}

/// The connection, and the way to the client.
pub(super) struct Channels {
    protocol: ChannelProtocol,
    outgoing: mpsc::Sender<Message>,
    ended: CancellationToken,
}

/// Takes a WebSocket for one of a channel protocol. One on which nothing moves for `idle` is ended.
pub(super) fn channels(socket: WebSocket, protocol: ChannelProtocol, idle: Duration) -> (ChannelReader, Channels) {
    let (sink, source) = socket.split();
    let (outgoing, queue) = mpsc::channel(QUEUE);
    let activity = Arc::new(Activity::default());
    let ended = CancellationToken::new();
    tokio::spawn(write(sink, queue, activity.clone(), ended.clone()));
    let (watched, over) = (activity.clone(), ended.clone());
    tokio::spawn(async move {
        tokio::select! {
            () = watched.ceased(idle) => tracing::info!(?idle, "streaming client stands still, closing"),
            () = over.cancelled() => {}
        }
        over.cancel();
    });
    let reader = ChannelReader { protocol, source, activity, ended: ended.clone() };
    (reader, Channels { protocol, outgoing, ended })
}

impl ChannelReader {
    /// `None` once the client has left or broken the protocol, or the connection was ended.
    pub(super) async fn next(&mut self) -> Option<ChannelMessage> {
        loop {
            let message = tokio::select! {
                message = self.source.next() => message?.ok()?,
                () = self.ended.cancelled() => return None,
            };
            self.activity.note();
            let bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) if self.protocol.base64 => text.into(),
                Message::Ping(_) | Message::Pong(_) => continue,
                Message::Text(_) | Message::Close(_) => return None,
            };
            return self.protocol.read(bytes);
        }
    }
}

impl Drop for ChannelReader {
    fn drop(&mut self) {
        self.ended.cancel();
    }
}

impl Channels {
    /// Where what is sent on `channel` goes.
    pub(super) fn writer(&self, channel: u8) -> ChannelWriter {
        ChannelWriter { channel, protocol: self.protocol, outgoing: self.outgoing.clone() }
    }

    /// Cancelled when the connection is over.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Sends a normal closure after what is on its way and waits for the client's own.
    pub(super) async fn close(self) {
        let end = async {
            // Without this code clients take their streams for broken.
            let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
            let _ = self.outgoing.send(Message::Close(Some(normal))).await;
            self.ended.cancelled().await;
        };
        let _ = tokio::time::timeout(CLOSE_GRACE, end).await;
        self.ended.cancel();
    }
}

/// One channel to the client.
pub(super) struct ChannelWriter {
    channel: u8,
    protocol: ChannelProtocol,
    outgoing: mpsc::Sender<Message>,
}

impl ChannelWriter {
    pub(super) async fn send(&self, data: Bytes) -> io::Result<()> {
        let message = self.protocol.write(self.channel, &data);
        let message = match String::from_utf8(message) {
            Ok(text) if self.protocol.base64 => Message::Text(text.into()),
            Ok(text) => Message::Binary(text.into_bytes().into()),
            Err(binary) => Message::Binary(binary.into_bytes().into()),
        };
        self.outgoing.send(message).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

async fn write(
    mut sink: SplitSink<WebSocket, Message>,
    mut queue: mpsc::Receiver<Message>,
    activity: Arc<Activity>,
    ended: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            message = queue.recv() => message,
            () = ended.cancelled() => None,
        };
        let Some(message) = message else { break };
        let sent = tokio::select! {
            sent = sink.send(message) => sent.is_ok(),
            () = ended.cancelled() => false,
        };
        if !sent {
            break;
        }
        activity.note();
    }
    ended.cancel();
}

/// The bytes of a WebSocket's binary messages as one stream, both ways: how a client speaks another protocol through
/// whatever lets only WebSockets pass.
pub(super) fn tunnel(socket: WebSocket) -> DuplexStream {
    let (near, far) = tokio::io::duplex(2 * CHUNK_BYTES);
    let (mut sink, mut source) = socket.split();
    let (mut from_us, mut to_us) = tokio::io::split(far);
    tokio::spawn(async move {
        while let Some(Ok(message)) = source.next().await {
            let written = match message {
                Message::Binary(bytes) => to_us.write_all(&bytes).await,
                Message::Ping(_) | Message::Pong(_) => Ok(()),
                Message::Text(_) | Message::Close(_) => break,
            };
            if written.is_err() {
                break;
            }
        }
        let _ = to_us.shutdown().await;
    });
    tokio::spawn(async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        while let Ok(count @ 1..) = from_us.read(&mut buffer).await {
            if sink.send(Message::Binary(Bytes::copy_from_slice(&buffer[..count]))).await.is_err() {
                return;
            }
        }
        let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = sink.send(Message::Close(Some(normal))).await;
    });
    near
}
