//! `wharf exec` and `wharf attach`: a container's streams on ours.

use std::process::ExitCode;

use anyhow::{Context, bail};
use futures_util::SinkExt;
use http::StatusCode;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{AttachParams, AttachedProcess, TerminalSize};
use kube::client::UpgradeConnectionError;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

use crate::client::Client;
use crate::logs::pod_name;
use crate::terminal;

#[derive(clap::Args)]
pub(crate) struct ExecArguments {
    /// POD, or KIND/NAME for the first pod of a Deployment or ReplicaSet
    pod: String,
    /// Command with its arguments
    #[arg(last = true, required = true)]
    command: Vec<String>,
    #[command(flatten)]
    streams: Streams,
}

#[derive(clap::Args)]
pub(crate) struct AttachArguments {
    /// POD, or KIND/NAME for the first pod of a Deployment or ReplicaSet
    pod: String,
    #[command(flatten)]
    streams: Streams,
}

#[derive(clap::Args)]
struct Streams {
    /// Pass standard input on
    #[arg(short = 'i', long)]
    stdin: bool,
    /// The process has a terminal
    #[arg(short, long)]
    tty: bool,
    /// Container of the pod; needed where it has several
    #[arg(short, long)]
    container: Option<String>,
    #[command(flatten)]
    namespace: crate::Namespace,
}

impl Streams {
    fn parameters(&self) -> AttachParams {
        // A terminal has one output stream.
        let parameters = AttachParams::default().stdin(self.stdin).stdout(true).stderr(!self.tty).tty(self.tty);
        match &self.container {
            Some(container) => parameters.container(container),
            None => parameters,
        }
    }
}

pub(crate) async fn exec(client: &Client, arguments: ExecArguments) -> anyhow::Result<ExitCode> {
    let namespace = &arguments.streams.namespace.namespace;
    let pod = pod_name(client, namespace, &arguments.pod).await?;
    let pods: Api<Pod> = Api::namespaced(client.kube(), namespace);
    let parameters = arguments.streams.parameters();
    let process = pods.exec(&pod, arguments.command.clone(), &parameters).await;
    let process = process.map_err(|error| client.explain(error))?;
    session(process, &arguments.streams).await
}

pub(crate) async fn attach(client: &Client, arguments: AttachArguments) -> anyhow::Result<ExitCode> {
    let namespace = &arguments.streams.namespace.namespace;
    let pod = pod_name(client, namespace, &arguments.pod).await?;
    let pods: Api<Pod> = Api::namespaced(client.kube(), namespace);
    let parameters = arguments.streams.parameters();
    let process = pods.attach(&pod, &parameters).await.map_err(|error| client.explain(error))?;
    session(process, &arguments.streams).await
}

/// Attaches to the terminal of a pod's only container until its process ends.
pub(crate) async fn attach_terminal(client: &Client, namespace: &str, pod: &str, stdin: bool) -> anyhow::Result<()> {
    let namespace = crate::Namespace { namespace: namespace.to_owned() };
    let streams = Streams { stdin, tty: true, container: None, namespace };
    let pods: Api<Pod> = Api::namespaced(client.kube(), &streams.namespace.namespace);
    let process = pods.attach(pod, &streams.parameters()).await.map_err(|error| client.explain(error))?;
    session(process, &streams).await.map(drop)
}

/// Passes standard input on to a pod's only container. Does not return when input ends: what is under way would be
/// lost with the session.
pub(crate) async fn attach_input(client: &Client, namespace: &str, pod: &str) -> anyhow::Result<()> {
    let pods: Api<Pod> = Api::namespaced(client.kube(), namespace);
    let parameters = AttachParams::default().stdin(true).stdout(false).stderr(false);
    let mut process = pods.attach(pod, &parameters).await.map_err(|error| client.explain(error))?;
    if let Some(stdin) = process.stdin() {
        copy(tokio::io::stdin(), stdin).await?;
    }
    std::future::pending().await
}

/// Whether an attach was refused because there is nothing (any more) to attach to.
pub(crate) fn is_not_running(error: &anyhow::Error) -> bool {
    matches!(
        error.downcast_ref::<kube::Error>(),
        Some(kube::Error::UpgradeConnection(UpgradeConnectionError::ProtocolSwitch(StatusCode::BAD_REQUEST)))
    )
}

/// Carries a session to its end and gives back the process's exit code.
async fn session(mut process: AttachedProcess, streams: &Streams) -> anyhow::Result<ExitCode> {
    let interactive = streams.tty && terminal::is_interactive();
    // Keys that go nowhere must keep their meaning here: ^C ends this program.
    let _raw =
        if interactive && streams.stdin { Some(terminal::raw().context("make the terminal raw")?) } else { None };
    if interactive {
        follow_window(&mut process);
    }
    let input = process.stdin().map(|stdin| tokio::spawn(copy(tokio::io::stdin(), stdin)));
    let outputs = [
        process.stdout().map(|stdout| tokio::spawn(copy(stdout, tokio::io::stdout()))),
        process.stderr().map(|stderr| tokio::spawn(copy(stderr, tokio::io::stderr()))),
    ];
    let status = process.take_status();
    for output in outputs.into_iter().flatten() {
        let _: Result<std::io::Result<()>, _> = output.await;
    }
    let status = match status {
        Some(status) => status.await,
        None => None,
    };
    if let Some(input) = input {
        JoinHandle::abort(&input);
    }
    let Some(status) = status else { return Ok(ExitCode::SUCCESS) };
    if status.status.as_deref() == Some("Success") {
        return Ok(ExitCode::SUCCESS);
    }
    let causes = status.details.and_then(|details| details.causes).unwrap_or_default();
    let code = causes.iter().find(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = code.and_then(|cause| cause.message.as_deref()).and_then(|code| code.parse::<u8>().ok());
    match code {
        Some(code) => Ok(ExitCode::from(code)),
        None => bail!("{}", status.message.unwrap_or_else(|| "the session failed".into())),
    }
}

/// Tells the container's terminal its size now and at each change.
fn follow_window(process: &mut AttachedProcess) {
    let (Some(mut sizes), Ok(mut changes)) = (process.terminal_size(), signal(SignalKind::window_change())) else {
        return;
    };
    tokio::spawn(async move {
        loop {
            if let Some(size) = terminal::window()
                && sizes.send(TerminalSize { width: size.columns, height: size.rows }).await.is_err()
            {
                return;
            }
            if changes.recv().await.is_none() {
                return;
            }
        }
    });
}

async fn copy(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) -> std::io::Result<()> {
    let mut buffer = vec![0; 32 * 1024];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            length => {
                to.write_all(&buffer[..length]).await?;
                to.flush().await?;
            }
        }
    }
}
