//! Kubernetes' channel protocols over a WebSocket: `v4.channel.k8s.io` and `v5.channel.k8s.io`.
//!
//! Each binary message begins with the number of its channel: 0 stdin, 1 stdout, 2 stderr, 3 error (one `Status`
//! in JSON at the end), 4 resize (`{"Width":80,"Height":24}`), and in v5 255: the channel in the next byte is
//! closed, which is how a client ends stdin while it goes on reading.
//!
//! Memory is bounded: a client that does not read stops the process' output in its pipe, a process that does not
//! read stops the client.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::body::Bytes;
use axum::extract::ws::{CloseFrame, Message, WebSocket, close_code};
use futures_util::stream::SplitStream;
use futures_util::{SinkExt, StreamExt};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};

use crate::pod::{AttachSession, ExecSession, Input, Output, PodError, SessionControl};

/// Subprotocols to offer in the upgrade, best first.
pub const PROTOCOLS: [&str; 2] = ["v5.channel.k8s.io", "v4.channel.k8s.io"];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChannelProtocol {
    V4,
    V5,
}

impl ChannelProtocol {
    /// `None` for a name that is not one of [`PROTOCOLS`].
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "v4.channel.k8s.io" => Some(Self::V4),
            "v5.channel.k8s.io" => Some(Self::V5),
            _ => None,
        }
    }
}

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Read from a process at a time.
const CHUNK_BYTES: usize = 32 << 10;

/// Messages under way in each direction.
const QUEUE: usize = 16;

/// After the process ended: how long its output may stand still before it is given up. Something that the process
/// left in the background may hold its pipes for ever.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// For the last message and the closing handshake.
const CLOSE_GRACE: Duration = Duration::from_secs(5);

/// Carries an exec session to its end: streams both ways, resizes, the exit status on the error channel. A client
/// that leaves first takes the process with it.
pub async fn serve_exec(socket: WebSocket, session: ExecSession, protocol: ChannelProtocol) {
    let ExecSession { stdin, stdout, stderr, exit, control, .. } = session;
    let ended = async {
        match exit.await {
            Ok(exit) => exit_status(exit.code),
            Err(_) => failure("InternalError", "the pod's shim is gone"),
        }
    };
    let channels = Channels { stdin, outputs: [stdout, stderr], control: control.clone(), stdin_once: false };
    if channels.carry(socket, protocol, Some(ended)).await == Ending::ClientLeft
        && let Err(error) = control.kill().await
    {
        tracing::debug!(%error, "kill an exec whose client left");
    }
}

/// Carries an attach session until the container's output ends or the client leaves; the container goes on.
pub async fn serve_attach(socket: WebSocket, session: AttachSession, protocol: ChannelProtocol) {
    let AttachSession { stdin, stdout, stderr, stdin_once, control, .. } = session;
    let channels = Channels { stdin, outputs: [stdout, stderr], control, stdin_once };
    channels.carry(socket, protocol, None::<std::future::Ready<Value>>).await;
}

/// Tells the client of a session that could not be started.
pub async fn refuse(socket: WebSocket, error: &PodError) {
    let (frames, writer, _source) = start_writer(socket);
    finish(frames, writer, failure("InternalError", &error.to_string())).await;
}

#[derive(Debug, PartialEq, Eq)]
enum Ending {
    ProcessEnded,
    ClientLeft,
}

struct Channels {
    stdin: Option<Input>,
    outputs: [Option<Output>; 2],
    control: SessionControl,
    stdin_once: bool,
}

impl Channels {
    /// `ended` gives the final status; without it the session ends with its outputs.
    async fn carry(
        self,
        socket: WebSocket,
        protocol: ChannelProtocol,
        ended: Option<impl Future<Output = Value>>,
    ) -> Ending {
        let (frames, mut writer, mut source) = start_writer(socket);
        let progress = Arc::new(AtomicU64::new(0));
        let mut outputs = JoinSet::new();
        let has_outputs = self.outputs.iter().any(Option::is_some);
        for (channel, output) in [STDOUT, STDERR].into_iter().zip(self.outputs) {
            if let Some(output) = output {
                outputs.spawn(pump_output(channel, output, frames.clone(), progress.clone()));
            }
        }
        let (mut stdin, input) = mpsc::channel(QUEUE);
        let once = self.stdin_once.then(|| self.control.clone());
        let input = tokio::spawn(pump_input(self.stdin, input, once));
        // Tells the client that the session is up, as the API server does.
        let first = if has_outputs { STDOUT } else { ERROR };
        let _ = frames.send(Message::Binary(Bytes::copy_from_slice(&[first]))).await;

        let status = {
            let ended = async {
                match ended {
                    Some(ended) => ended.await,
                    None if has_outputs => {
                        while outputs.join_next().await.is_some() {}
                        success()
                    }
                    None => std::future::pending().await,
                }
            };
            tokio::pin!(ended);
            loop {
                tokio::select! {
                    status = &mut ended => break Some(status),
                    message = source.next() => match message {
                        Some(Ok(Message::Binary(message))) => {
                            if !self.control.receive(message, protocol, &mut stdin).await {
                                break None;
                            }
                        }
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                        // Text has no place in these protocols.
                        Some(Ok(Message::Text(_) | Message::Close(_)) | Err(_)) | None => break None,
                    },
                    _ = &mut writer => break None,
                }
            }
        };
        input.abort();
        let Some(status) = status else {
            outputs.abort_all();
            writer.abort();
            return Ending::ClientLeft;
        };
        drain(&mut outputs, &progress, source).await;
        finish(frames, writer, status).await;
        Ending::ProcessEnded
    }
}

impl SessionControl {
    /// False where the client breaks the protocol.
    async fn receive(&self, message: Bytes, protocol: ChannelProtocol, stdin: &mut mpsc::Sender<Bytes>) -> bool {
        match (message.first(), protocol) {
            (Some(&STDIN), _) => {
                // After the end of stdin, or where there is none, input goes nowhere.
                let _ = stdin.send(message.slice(1..)).await;
                true
            }
            (Some(&RESIZE), _) => {
                if let Ok(size) = serde_json::from_slice::<TerminalSize>(&message[1..]) {
                    // Without a terminal there is nothing to resize.
                    let _ = self.resize(size.height, size.width).await;
                }
                true
            }
            (Some(&CLOSE), ChannelProtocol::V5) => {
                if message.get(1) == Some(&STDIN) {
                    *stdin = mpsc::channel(1).0;
                }
                true
            }
            // Some clients begin with an empty message to see whether the connection is up.
            (None, _) => true,
            _ => false,
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct TerminalSize {
    width: u16,
    height: u16,
}

type Writer = JoinHandle<()>;

fn start_writer(socket: WebSocket) -> (mpsc::Sender<Message>, Writer, SplitStream<WebSocket>) {
    let (mut sink, source) = socket.split();
    let (frames, mut queue) = mpsc::channel(QUEUE);
    let writer = tokio::spawn(async move {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        let _ = sink.close().await;
    });
    (frames, writer, source)
}

async fn pump_output(channel: u8, mut output: Output, frames: mpsc::Sender<Message>, progress: Arc<AtomicU64>) {
    let mut buffer = vec![channel; CHUNK_BYTES + 1];
    while let Ok(count) = output.read(&mut buffer[1..]).await {
        if count == 0 {
            return;
        }
        let message = Message::Binary(Bytes::copy_from_slice(&buffer[..=count]));
        if frames.send(message).await.is_err() {
            return;
        }
        progress.fetch_add(1, Ordering::Relaxed);
    }
}

/// Ends when the sender is dropped, and the process' input with it.
async fn pump_input(stdin: Option<Input>, mut chunks: mpsc::Receiver<Bytes>, once: Option<SessionControl>) {
    let Some(mut stdin) = stdin else { return };
    while let Some(chunk) = chunks.recv().await {
        if stdin.write_all(&chunk).await.is_err() {
            break;
        }
    }
    drop(stdin);
    if let Some(control) = once
        && let Err(error) = control.close_stdin().await
    {
        tracing::debug!(%error, "close stdin");
    }
}

/// Waits for what is still in the pipes, as long as something moves. The client's messages are read on and thrown
/// away: its pings want answers.
async fn drain(outputs: &mut JoinSet<()>, progress: &AtomicU64, mut source: SplitStream<WebSocket>) {
    let reading = tokio::spawn(async move { while let Some(Ok(_)) = source.next().await {} });
    let mut seen = progress.load(Ordering::Relaxed);
    loop {
        let all = async { while outputs.join_next().await.is_some() {} };
        if tokio::time::timeout(DRAIN_GRACE, all).await.is_ok() {
            break;
        }
        let now = progress.load(Ordering::Relaxed);
        if now == seen {
            outputs.abort_all();
            break;
        }
        seen = now;
    }
    reading.abort();
}

async fn finish(frames: mpsc::Sender<Message>, writer: Writer, status: Value) {
    let mut message = vec![ERROR];
    message.extend(status.to_string().into_bytes());
    let end = async {
        let _ = frames.send(Message::Binary(message.into())).await;
        // Without the code of a normal closure clients take their streams for broken.
        let normal = CloseFrame { code: close_code::NORMAL, reason: "".into() };
        let _ = frames.send(Message::Close(Some(normal))).await;
        drop(frames);
        let _ = writer.await;
    };
    let _ = tokio::time::timeout(CLOSE_GRACE, end).await;
}

fn success() -> Value {
    json!({"metadata": {}, "status": "Success"})
}

fn exit_status(code: i32) -> Value {
    if code == 0 {
        return success();
    }
    json!({
        "metadata": {}, "status": "Failure", "reason": "NonZeroExitCode",
        "message": format!("command terminated with non-zero exit code: exit status {code}"),
        "details": {"causes": [{"reason": "ExitCode", "message": code.to_string()}]},
    })
}

fn failure(reason: &str, message: &str) -> Value {
    json!({"metadata": {}, "status": "Failure", "reason": reason, "message": message, "code": 500})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_causes() {
        assert_eq!(exit_status(0)["status"], "Success");
        let status = exit_status(7);
        assert_eq!(status["reason"], "NonZeroExitCode");
        assert_eq!(status["details"]["causes"][0]["message"], "7");
    }

    #[test]
    fn protocols_are_known_by_name() {
        assert_eq!(ChannelProtocol::from_name(PROTOCOLS[0]), Some(ChannelProtocol::V5));
        assert_eq!(ChannelProtocol::from_name(PROTOCOLS[1]), Some(ChannelProtocol::V4));
        assert_eq!(ChannelProtocol::from_name("channel.k8s.io"), None);
    }
}
