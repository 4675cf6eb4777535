//! `exec` and `attach`: the streams of a process on those of a client, whatever the transport.

mod client;
mod status;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use bytes::Bytes;
use http::request::Parts;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinSet;
use wharf_specs::streaming::channel::{ChannelProtocol, TerminalSize};

use self::client::{Client, Sink, Source};
use self::status::Outcome;
use super::activity::Activity;
use super::upgrade::{self, Transport, UpgradeError};
use super::{CHUNK_BYTES, IDLE_LIMIT, SETUP_LIMIT, spdy};
use crate::pod::{AttachSession, ExecSession, Input, Output, PodError, SessionControl};

/// After the process ended: how long its output may stand still before it is given up. Something that the process
/// left in the background may hold its pipes for ever.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// Streams that a session has beside the one for errors.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

/// A request for a session, with transport and protocol agreed on.
pub struct RemoteCommand(Transport);

/// What a client is connected to.
pub enum Session {
    /// Ends with its process; a client that leaves first takes the process with it.
    Exec(ExecSession),
    /// Ends with the container's outputs; the container goes on without the client.
    Attach(AttachSession),
}

impl RemoteCommand {
    /// Claims and starts nothing: after a refusal the client may come back.
    pub async fn negotiate(parts: &mut Parts) -> Result<Self, UpgradeError> {
        upgrade::negotiate(parts, &client::OFFER).await.map(Self)
    }

    /// Switches protocols and carries the session that `start` gives, once the client's `streams` are there, to its end.
    /// Why there is none the client is told on its error stream.
    pub fn accept<F>(self, streams: Streams, start: F) -> Response
    where
        F: Future<Output = Result<Session, PodError>> + Send + 'static,
    {
        match self.0 {
            Transport::Spdy { protocol, upgrade } => upgrade::accept_spdy(protocol, upgrade, move |io| async move {
                let connection = spdy::Connection::start(io, IDLE_LIMIT);
                if let Some(client) = Client::over_spdy(connection, protocol, streams, SETUP_LIMIT).await {
                    serve(client, start).await;
                }
            }),
            Transport::WebSocket { protocol, upgrade } => {
                upgrade::accept_websocket(protocol, upgrade, move |socket| async move {
                    if let Some(protocol) = ChannelProtocol::from_name(protocol) {
                        serve(Client::over_websocket(socket, protocol, streams, IDLE_LIMIT).await, start).await;
                    }
                })
            }
        }
    }
}

async fn serve(client: Client, start: impl Future<Output = Result<Session, PodError>>) {
    match start.await {
        Ok(Session::Exec(session)) => serve_exec(client, session).await,
        Ok(Session::Attach(session)) => serve_attach(client, session).await,
        Err(error) => client.finish(&Outcome::Failure(error.to_string())).await,
    }
}

/// Dropping the session ends a process that still runs.
async fn serve_exec(client: Client, mut session: ExecSession) {
    let pumps = Pumps {
        stdin: session.stdin.take(),
        outputs: [session.stdout.take(), session.stderr.take()],
        control: session.control.clone(),
        stdin_once: false,
    };
    let ended = async {
        match (&mut session.exit).await {
            Ok(exit) if exit.code == 0 => Outcome::Success,
            Ok(exit) => Outcome::ExitCode(exit.code),
            Err(_) => Outcome::Failure("the pod's shim is gone".into()),
        }
    };
    pumps.carry(client, Some(ended)).await;
}

async fn serve_attach(client: Client, session: AttachSession) {
    let AttachSession { stdin, stdout, stderr, stdin_once, control, .. } = session;
    let pumps = Pumps { stdin, outputs: [stdout, stderr], control, stdin_once };
    pumps.carry(client, None::<std::future::Ready<Outcome>>).await;
}

/// A process' ends of the streams.
struct Pumps {
    stdin: Option<Input>,
    outputs: [Option<Output>; 2],
    control: SessionControl,
    /// The end of the client's input is the end of the container's.
    stdin_once: bool,
}

impl Pumps {
    /// `ended` says how the session ended; without it, it ends with its outputs. Returns early where the client leaves.
    async fn carry(self, mut client: Client, ended: Option<impl Future<Output = Outcome>>) {
        let progress = Arc::new(Activity::default());
        let mut outputs = JoinSet::new();
        let sinks = [client.stdout.take(), client.stderr.take()].map(|sink| sink.map(Arc::new));
        for (output, sink) in self.outputs.into_iter().zip(&sinks) {
            if let (Some(output), Some(sink)) = (output, sink) {
                outputs.spawn(pump_output(output, sink.clone(), progress.clone()));
            }
        }
        let has_outputs = !outputs.is_empty();
        let mut resizes = JoinSet::new();
        resizes.spawn(pump_sizes(client.sizes.clone(), self.control.clone()));
        let once = self.stdin_once.then_some(self.control);
        if let (Some(source), Some(stdin)) = (client.stdin.take(), self.stdin) {
            // On its own: what a client wrote before it left is the process' all the same.
            tokio::spawn(pump_input(source, stdin, once));
        }
        let ended = async {
            match ended {
                Some(ended) => ended.await,
                None if has_outputs => {
                    while outputs.join_next().await.is_some() {}
                    Outcome::Success
                }
                None => std::future::pending().await,
            }
        };
        let outcome = tokio::select! {
            outcome = ended => outcome,
            () = client.left.cancelled() => return,
        };
        tokio::select! {
            () = drain(&mut outputs, &progress) => {}
            () = client.left.cancelled() => return,
        }
        for sink in sinks.iter().flatten() {
            sink.finish().await;
        }
        client.finish(&outcome).await;
    }
}

async fn pump_output(mut output: Output, sink: Arc<Sink>, progress: Arc<Activity>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = output.read(&mut buffer).await {
        if sink.send(Bytes::copy_from_slice(&buffer[..count])).await.is_err() {
            return;
        }
        progress.note();
    }
}

/// Ends with the client's input, and the process' input with it.
async fn pump_input(mut source: Source, mut stdin: Input, once: Option<SessionControl>) {
    let mut buffer = vec![0; CHUNK_BYTES];
    while let Ok(count @ 1..) = source.read(&mut buffer).await {
        if stdin.write_all(&buffer[..count]).await.is_err() {
            // What still comes has nowhere to go, and must not hold the client.
            while let Ok(1..) = source.read(&mut buffer).await {}
            return;
        }
    }
    drop(stdin);
    if let Some(control) = once
        && let Err(error) = control.close_stdin().await
    {
        tracing::debug!(%error, "close stdin");
    }
}

async fn pump_sizes(mut sizes: watch::Receiver<Option<TerminalSize>>, control: SessionControl) {
    loop {
        let size = *sizes.borrow_and_update();
        if let Some(TerminalSize { width, height }) = size {
            // Without a terminal there is nothing to resize.
            let _ = control.resize(height, width).await;
        }
        if sizes.changed().await.is_err() {
            return;
        }
    }
}

/// Waits for what is still in the pipes, as long as something moves.
async fn drain(outputs: &mut JoinSet<()>, progress: &Activity) {
    let all = async { while outputs.join_next().await.is_some() {} };
    tokio::select! {
        () = all => {}
        () = progress.ceased(DRAIN_GRACE) => {}
    }
    outputs.abort_all();
}
