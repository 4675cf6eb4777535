//! `wharfd`, the node supervisor: opens the node, serves its doors, reads its configuration again on SIGHUP, ends on
//! SIGTERM and leaves the pods running.

mod configuration;
mod log;
mod node;
mod objects;

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use rustix::io::Errno;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::runtime::{Handle, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_specs::config::Config;
use wharf_supervisor::api::server::Api;
use wharf_supervisor::api::tls::{self, Bound, Door};
use wharf_supervisor::pod::Node;
use wharf_supervisor::service_manager::{self, Sockets, State};
use wharf_supervisor::streaming::StreamingServer;
use wharf_supervisor::{controller, cri, idle_memory};

use configuration::{Arguments, read_config};
use log::LogLevel;

/// What a container has to end by itself when the machine goes down.
const END_GRACE: std::time::Duration = std::time::Duration::from_secs(10);

/// For all threads: they allocate little at a time, and what is left over in each heap adds up.
const HEAPS: u16 = 2;

/// A request is short; who sends many at a time waits for some of them.
const REQUEST_THREADS: usize = 2;

/// Three times the share of whoever brings pods to run.
const REQUEST_NICENESS: i32 = -5;

fn main() -> ExitCode {
    match run(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("wharfd: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: Arguments) -> anyhow::Result<()> {
    let config = read_config(&arguments)?;
    let log_level = log::start_log(&arguments, &config)?;
    let sockets = Sockets::inherited().context("take the service manager's sockets")?;
    // Files that containers read must come out as their modes say, whoever starts the daemon.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for directory in [&config.root, &config.state] {
        private_directory(directory)?;
    }
    let _lock = lock(&config.state)?;
    wharf_sys::memory::limit_heaps(HEAPS);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start tokio")?;
    let outcome = match arguments.end_pods {
        true => runtime.block_on(end_pods(&config)),
        false => {
            let requests = request_runtime().context("start tokio")?;
            let outcome = runtime.block_on(serve(&arguments, config, &log_level, sockets, requests.handle()));
            requests.shutdown_background();
            outcome
        }
    };
    // Blocking work (a hung mount, say) must not keep the daemon from ending.
    runtime.shutdown_background();
    outcome
}

/// Where requests to the Kubernetes API are answered: on threads that bring no pod to run, and that go before those that
/// do. Nothing that runs there starts a program, which would go before others too.
fn request_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(REQUEST_THREADS)
        .thread_name("api")
        .on_thread_start(|| {
            // Of this thread alone. Without the right to it requests take their turn.
            if let Err(error) = rustix::process::setpriority_process(None, REQUEST_NICENESS) {
                tracing::debug!(%error, "raise the priority of requests");
            }
        })
        .enable_all()
        .build()
}

fn private_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .and_then(|()| fs::set_permissions(path, fs::Permissions::from_mode(0o700)))
        .with_context(|| format!("create {}", path.display()))
}

/// Held as long as the daemon lives: two would take each other's pods for their own.
fn lock(state: &Path) -> anyhow::Result<File> {
    let path = state.join("wharfd.lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("open {}", path.display()))?;
    // The lock of a process, not of a descriptor: a program that a killed daemon was about to start has its descriptors
    // for a moment more.
    match rustix::fs::fcntl_lock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::AGAIN | Errno::ACCESS) => bail!("another wharfd runs on {}", state.display()),
        Err(error) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

async fn serve(
    arguments: &Arguments,
    mut config: Config,
    log_level: &LogLevel,
    mut sockets: Sockets,
    requests: &Handle,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let node = node::open(&config).await?;
    let _memory = AbortOnDrop(tokio::spawn(idle_memory::give_back(node.subscribe())));
    let streaming = StreamingServer::start(node.clone()).await.context("start the streaming server")?;
    // Both sockets exist before either answers: whoever sees one can use the other.
    let api_socket = config.state.join("api.sock");
    let (mut context, keeper) = objects::controller_context(&config, &node).await?;
    let _keeper = AbortOnDrop(tokio::spawn(keeper.run()));
    let bound = Bound::open(&config.api, &config.root.join(tls::FOLDER), &context.node_name)
        .await
        .context("open the API over TLS")?;
    let tokens = bound.as_ref().map(Bound::tokens);
    let names = objects::open_to_pods(&mut context, bound.as_ref()).await?;
    let tls = bound.map(|bound| bound.with_names(names)).transpose().context("open the API over TLS")?;
    let (objects, pod_logs) = (context.objects.clone(), context.pod_logs.clone().into());
    let journal = context.journal.clone();
    let api = Api { objects, node: node.clone(), pod_logs, usage: Default::default(), journal, tokens };
    let socket = config.state.join("wharfd.sock");
    let (api_listener, api_is_ours) = {
        // Whoever answers waits for its connections, too.
        let _here = requests.enter();
        listen(&mut sockets, &api_socket)?
    };
    let (listener, cri_is_ours) = listen(&mut sockets, &socket)?;
    write_node_file(&config, tls.as_ref())?;

    let shutdown = CancellationToken::new();
    let mut doors = tokio::task::JoinSet::new();
    let ending = shutdown.clone();
    let cri_node = node.clone();
    doors.spawn(async move {
        cri::serve(cri_node, streaming, listener, async move { ending.cancelled().await })
            .await
            .context("serve the CRI")
    });

    if let Some(door) = tls {
        tracing::info!(url = door.url(), "the API over TLS");
        let (ending, served) = (shutdown.clone(), door.serve(api.clone()));
        let serving = async move {
            ending.run_until_cancelled(served).await;
            Ok(())
        };
        doors.spawn_on(serving, requests);
    }
    let ending = shutdown.clone();
    let serving = async move {
        tokio::select! {
            ended = wharf_supervisor::api::server::serve(api_listener, api) => ended.context("serve the API"),
            () = ending.cancelled() => Ok(()),
        }
    };
    doors.spawn_on(serving, requests);
    // Controllers stop with it, pods run on.
    let controllers = controller::start(&context);

    tracing::info!(state = %config.state.display(), root = %config.root.display(), "ready");
    service_manager::notify(State::Ready);
    let _watchdog =
        service_manager::watchdog_interval().map(|every| AbortOnDrop(tokio::spawn(watch(node.clone(), every))));
    let outcome = loop {
        tokio::select! {
            _ = terminate.recv() => break Ok(()),
            _ = interrupt.recv() => break Ok(()),
            _ = hangup.recv() => {
                service_manager::notify(State::Reloading);
                // What runs is not stopped by a slip in a file.
                if let Err(error) = reload(arguments, &mut config, log_level) {
                    tracing::error!("the configuration stays as it was: {error:#}");
                }
                service_manager::notify(State::Ready);
            }
            Some(ended) = doors.join_next() => break ended.context("a door's task").and_then(|outcome| outcome),
        }
    };
    service_manager::notify(State::Stopping);
    tracing::info!("ending; pods run on");
    shutdown.cancel();
    while doors.join_next().await.is_some() {}
    drop(controllers);
    node.close().await;
    if let Err(error) = context.objects.store().settle().await {
        tracing::warn!(%error, "write the version of the objects");
    }
    let node_file = config.state.join("node.json");
    for (file, ours) in [(&socket, cri_is_ours), (&api_socket, api_is_ours), (&node_file, true)] {
        if ours {
            let _ = fs::remove_file(file);
        }
    }
    outcome
}

/// Pods outlive their daemon, so it is not enough to end that: what they have mounted would keep file systems busy.
/// What was declared stays so, and runs again after the next start.
async fn end_pods(config: &Config) -> anyhow::Result<()> {
    let node = node::open(config).await?;
    let mut pods = tokio::task::JoinSet::new();
    for sandbox in node.pick_sandboxes(|sandbox| Some(sandbox.id.clone())) {
        let node = node.clone();
        pods.spawn(async move {
            let containers = node.containers_of(&sandbox);
            let stops = containers.iter().map(|container| node.stop_container(&container.id, END_GRACE));
            // Whatever came of that: what is left of the pod is killed.
            for error in futures_util::future::join_all(stops).await.into_iter().filter_map(Result::err) {
                tracing::warn!(pod = %sandbox, %error, "stop a container");
            }
            node.stop_sandbox(&sandbox).await
        });
    }
    let ended = pods.join_all().await;
    node.close().await;
    ended.into_iter().collect::<Result<(), _>>().context("end the pods")
}

/// The service manager's socket at `path`, or one of our own (true), which goes when the daemon ends.
fn listen(sockets: &mut Sockets, path: &Path) -> anyhow::Result<(UnixListener, bool)> {
    let failed = || format!("bind {}", path.display());
    let Some(inherited) = sockets.take(path) else { return Ok((cri::bind(path).with_context(failed)?, true)) };
    inherited.set_nonblocking(true).with_context(failed)?;
    Ok((UnixListener::from_std(inherited).with_context(failed)?, false))
}

/// Takes from the configuration what can change while the daemon runs, which is the log level.
fn reload(arguments: &Arguments, config: &mut Config, log_level: &LogLevel) -> anyhow::Result<()> {
    let new = read_config(arguments)?;
    log_level(log::log_filter(arguments, &new))?;
    config.log_level = new.log_level;
    match *config == new {
        true => tracing::info!(log_level = config.log_level.as_str(), "configuration read again"),
        false => tracing::warn!(
            log_level = config.log_level.as_str(),
            "configuration read again; of what has changed, all but log_level needs a restart"
        ),
    }
    Ok(())
}

/// Says that all is well as long as tasks are run and the table of pods can be read.
async fn watch(node: Node, every: std::time::Duration) {
    let mut ticks = tokio::time::interval(every);
    loop {
        ticks.tick().await;
        node.pick_sandboxes(|_| None::<()>);
        service_manager::notify(State::Alive);
    }
}

struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// So that `wharf --state RUN` finds the rest.
fn write_node_file(config: &Config, tls: Option<&Door>) -> anyhow::Result<()> {
    let path = config.state.join("node.json");
    let node = json!({
        "root": config.root, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION"),
        "url": tls.map(Door::url),
    });
    let temporary = config.state.join("node.json.new");
    fs::write(&temporary, node.to_string())
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("write {}", path.display()))
}
