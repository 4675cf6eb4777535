//! A client's end of a session: its streams, over either transport.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use axum::extract::ws::WebSocket;
use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wharf_specs::streaming::channel::{self, ChannelMessage, ChannelProtocol, SizeReader, TerminalSize};
use wharf_specs::streaming::spdy::reset;

use super::Streams;
use super::status::Outcome;
use crate::streaming::spdy::{Connection, Stream, StreamReader, StreamWriter};
use crate::streaming::upgrade::Offer;
use crate::streaming::websocket::{self, ChannelReader, ChannelWriter, Channels};

pub(super) const OFFER: Offer = Offer {
    spdy: &["v4.channel.k8s.io", "v3.channel.k8s.io", "v2.channel.k8s.io", "channel.k8s.io", ""],
    websocket: &[
        channel::REMOTE_COMMAND[0],
        channel::REMOTE_COMMAND[1],
        channel::REMOTE_COMMAND[2],
        channel::REMOTE_COMMAND[3],
        channel::REMOTE_COMMAND[4],
        "",
    ],
};

/// Names the kind of a stream in its headers.
const STREAM_TYPE: &str = "streamtype";

/// Input of a client that waits for the process.
const STDIN_BUFFER_BYTES: usize = 64 << 10;

pub(super) type Source = Pin<Box<dyn AsyncRead + Send>>;

/// Where a stream of ours goes.
pub(super) enum Sink {
    Spdy(StreamWriter),
    WebSocket(ChannelWriter),
}

impl Sink {
    pub(super) async fn send(&self, data: Bytes) -> io::Result<()> {
        match self {
            Self::Spdy(stream) => stream.send(data).await,
            Self::WebSocket(channel) => channel.send(data).await,
        }
    }

    /// No more comes; a WebSocket says so with its own end.
    pub(super) async fn finish(&self) {
        if let Self::Spdy(stream) = self {
            stream.finish().await;
        }
    }
}

pub(super) struct Client {
    /// `None` where the session has none, as for the outputs.
    pub(super) stdin: Option<Source>,
    pub(super) stdout: Option<Sink>,
    pub(super) stderr: Option<Sink>,
    /// The latest size of the client's terminal.
    pub(super) sizes: watch::Receiver<Option<TerminalSize>>,
    /// Cancelled once the client has left.
    pub(super) left: CancellationToken,
    /// Our half of the stream for input. Clients take its end for the end of the process, and send no more.
    stdin_end: Option<StreamWriter>,
    error: Sink,
    /// The error stream takes a `Status`.
    status: bool,
    transport: Transport,
}

enum Transport {
    Spdy(tokio::task::JoinHandle<Connection>, CancellationToken),
    WebSocket(Channels),
}

impl Client {
    /// Waits for the streams of the session, at most for `limit`; `None` where they do not come.
    pub(super) async fn over_spdy(
        mut connection: Connection,
        protocol: &str,
        wanted: Streams,
        limit: Duration,
    ) -> Option<Self> {
        let mut opened = Opened::default();
        let all = async {
            while !opened.has(wanted) {
                match connection.accept().await {
                    Some(stream) => opened.take(stream, wanted).await,
                    None => return false,
                }
            }
            true
        };
        if !tokio::time::timeout(limit, all).await.unwrap_or(false) {
            tracing::debug!("a streaming client did not open its streams");
            return None;
        }
        let left = connection.ended();
        let (sizes, latest) = watch::channel(None);
        let stop = CancellationToken::new();
        let error = opened.error?;
        let more = tokio::spawn(further_streams(connection, opened.resize, sizes, stop.clone()));
        let (stdin, stdin_end) = opened.stdin.unzip();
        Some(Self {
            stdin: stdin.map(|stdin| Box::pin(stdin) as Source),
            stdin_end,
            stdout: opened.stdout.map(Sink::Spdy),
            stderr: opened.stderr.map(Sink::Spdy),
            sizes: latest,
            left,
            error: Sink::Spdy(error),
            status: protocol.starts_with("v4."),
            transport: Transport::Spdy(more, stop),
        })
    }

    pub(super) async fn over_websocket(
        socket: WebSocket,
        protocol: ChannelProtocol,
        wanted: Streams,
        idle: Duration,
    ) -> Self {
        let (reader, channels) = websocket::channels(socket, protocol, idle);
        let (sizes, latest) = watch::channel(None);
        let (near, far) = tokio::io::duplex(STDIN_BUFFER_BYTES);
        tokio::spawn(read_channels(reader, wanted.stdin.then_some(far), sizes));
        let output = |wanted: bool, channel| wanted.then(|| Sink::WebSocket(channels.writer(channel)));
        let client = Self {
            stdin: wanted.stdin.then(|| Box::pin(near) as Source),
            stdin_end: None,
            stdout: output(wanted.stdout, channel::STDOUT),
            stderr: output(wanted.stderr, channel::STDERR),
            sizes: latest,
            left: channels.ended(),
            error: Sink::WebSocket(channels.writer(channel::ERROR)),
            status: protocol.status,
            transport: Transport::WebSocket(channels),
        };
        // Tells the client that the session is up, as the API server does.
        let first = client.stdout.as_ref().or(client.stderr.as_ref()).unwrap_or(&client.error);
        let _ = first.send(Bytes::new()).await;
        client
    }

    /// Says how the session ended and closes the connection in order.
    pub(super) async fn finish(self, outcome: &Outcome) {
        let text = if self.status { outcome.status().to_string() } else { outcome.line() };
        if let Some(stdin) = &self.stdin_end {
            stdin.finish().await;
        }
        let _ = self.error.send(text.into()).await;
        self.error.finish().await;
        match self.transport {
            Transport::Spdy(connection, stop) => {
                stop.cancel();
                if let Ok(connection) = connection.await {
                    connection.close().await;
                }
            }
            Transport::WebSocket(channels) => channels.close().await,
        }
    }
}

/// The streams that a client has opened.
#[derive(Default)]
struct Opened {
    stdin: Option<(StreamReader, StreamWriter)>,
    stdout: Option<StreamWriter>,
    stderr: Option<StreamWriter>,
    error: Option<StreamWriter>,
    resize: Option<StreamReader>,
}

impl Opened {
    fn has(&self, wanted: Streams) -> bool {
        self.error.is_some()
            && self.stdin.is_some() >= wanted.stdin
            && self.stdout.is_some() >= wanted.stdout
            && self.stderr.is_some() >= wanted.stderr
    }

    /// A stream of another kind than those wanted, or a second of its kind, is refused.
    async fn take(&mut self, stream: Stream, wanted: Streams) {
        let Stream { headers, reader, writer } = stream;
        match headers.get(STREAM_TYPE) {
            Some("stdin") if wanted.stdin && self.stdin.is_none() => {
                self.stdin = Some((reader, writer));
            }
            Some("resize") if self.resize.is_none() => {
                self.resize = Some(reader);
                writer.finish().await;
            }
            Some("stdout") if wanted.stdout && self.stdout.is_none() => self.stdout = Some(writer),
            Some("stderr") if wanted.stderr && self.stderr.is_none() => self.stderr = Some(writer),
            Some("error") if self.error.is_none() => self.error = Some(writer),
            _ => writer.reset(reset::REFUSED_STREAM).await,
        }
    }
}

/// Reads sizes from the resize stream, also from one that is opened later, and refuses every other stream. Gives the
/// connection back when the session is over.
async fn further_streams(
    mut connection: Connection,
    mut resize: Option<StreamReader>,
    sizes: watch::Sender<Option<TerminalSize>>,
    stop: CancellationToken,
) -> Connection {
    let none = Streams { stdin: false, stdout: false, stderr: false };
    let mut reader = SizeReader::default();
    let mut buffer = [0; 256];
    loop {
        let read = async {
            match &mut resize {
                Some(stream) => stream.read(&mut buffer).await.unwrap_or(0),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            count = read => match count {
                0 => resize = None,
                count => send_size(&sizes, reader.push(&buffer[..count])),
            },
            stream = connection.accept() => match stream {
                Some(stream) => {
                    let mut opened = Opened { resize: resize.take(), ..Opened::default() };
                    opened.take(stream, none).await;
                    resize = opened.resize;
                }
                None => return connection,
            },
            () = stop.cancelled() => return connection,
        }
    }
}

fn send_size(sizes: &watch::Sender<Option<TerminalSize>>, size: Option<TerminalSize>) {
    if size.is_some() {
        sizes.send_replace(size);
    }
}

/// Gives a client's messages to where they belong until it leaves. What a process does not take holds the client.
async fn read_channels(
    mut reader: ChannelReader,
    mut stdin: Option<DuplexStream>,
    sizes: watch::Sender<Option<TerminalSize>>,
) {
    while let Some(message) = reader.next().await {
        match message {
            ChannelMessage::Data { channel: channel::STDIN, data } => {
                // After its end, or where there is none, input goes nowhere.
                if let Some(input) = &mut stdin
                    && input.write_all(&data).await.is_err()
                {
                    stdin = None;
                }
            }
            ChannelMessage::Data { channel: channel::RESIZE, data } => {
                send_size(&sizes, SizeReader::default().push(&data));
            }
            ChannelMessage::Close { channel: channel::STDIN } => stdin = None,
            ChannelMessage::Close { .. } | ChannelMessage::Nothing => {}
            // A client has nothing to say on the others.
            ChannelMessage::Data { .. } => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::streaming::spdy::tests::connected;
    use wharf_specs::streaming::spdy::Frame;

    const LONG: Duration = Duration::from_secs(600);
    const OUTPUT: Streams = Streams { stdin: false, stdout: true, stderr: false };

    #[tokio::test]
    async fn a_client_that_does_not_open_its_streams_is_given_up() {
        let (mut client, connection) = connected(LONG);
        client.open_with(1, &[(STREAM_TYPE, "error")]).await;
        let opened = Client::over_spdy(connection, "v4.channel.k8s.io", OUTPUT, Duration::from_millis(10)).await;
        assert!(opened.is_none());
        assert_eq!(client.next().await, None);
    }

    #[tokio::test]
    async fn streams_of_no_use_are_refused_and_sizes_read_from_one_that_comes_late() {
        let (mut client, connection) = connected(LONG);
        let opening = tokio::spawn(Client::over_spdy(connection, "v4.channel.k8s.io", OUTPUT, LONG));
        client.open_with(1, &[(STREAM_TYPE, "stdin")]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { stream: 1, status: reset::REFUSED_STREAM }));
        client.open_with(3, &[(STREAM_TYPE, "error")]).await;
        client.open_with(5, &[(STREAM_TYPE, "stdout")]).await;
        let mut opened = opening.await.unwrap().unwrap();
        client.open_with(7, &[(STREAM_TYPE, "resize")]).await;
        client.data(7, br#"{"Width":80,"Height":24}"#, false).await;
        opened.sizes.changed().await.unwrap();
        assert_eq!(*opened.sizes.borrow(), Some(TerminalSize { width: 80, height: 24 }));
    }

    #[tokio::test]
    async fn the_error_stream_has_a_status_since_v4_and_a_line_before() {
        for (protocol, expected) in [("v4.channel.k8s.io", "{"), ("channel.k8s.io", "command terminated")] {
            let (mut client, connection) = connected(LONG);
            let wanted = Streams { stdin: false, stdout: false, stderr: false };
            let opening = tokio::spawn(Client::over_spdy(connection, protocol, wanted, LONG));
            client.open_with(1, &[(STREAM_TYPE, "error")]).await;
            let opened = opening.await.unwrap().unwrap();
            let finishing = tokio::spawn(async move { opened.finish(&Outcome::ExitCode(3)).await });
            let said = String::from_utf8(client.rest_of(1).await).unwrap();
            assert!(said.starts_with(expected), "{said}");
            drop(client);
            finishing.await.unwrap();
        }
    }
}
