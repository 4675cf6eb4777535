//! `wharfd`, the node supervisor: opens the node, serves its doors, reads its configuration again on SIGHUP, ends on
//! SIGTERM and leaves the pods running.

use std::fs::{self, DirBuilder, File};
use std::io::IsTerminal as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use rustix::io::Errno;
use serde_json::json;
use tokio::net::UnixListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;
use wharf_images::credentials::NODE_AUTH_FILE;
use wharf_images::{Keychain, Registries, Store, StoreOptions};
use wharf_runtime::cgroup::unit;
use wharf_specs::config::{CgroupDriver, Config};
use wharf_supervisor::api::object_store::ObjectStore;
use wharf_supervisor::api::objects::Objects;
use wharf_supervisor::api::server::Api;
use wharf_supervisor::api::service_address::ServiceRanges;
use wharf_supervisor::api::tls::{self, Bound, Door};
use wharf_supervisor::controller::kubernetes_service;
use wharf_supervisor::dns::Dns;
use wharf_supervisor::pod::{CgroupOptions, Node, NodeOptions};
use wharf_supervisor::service_manager::{self, Sockets, State};
use wharf_supervisor::streaming::StreamingServer;
use wharf_supervisor::{controller, cri, idle_memory, journal};

/// The Wharf node supervisor.
#[derive(Parser)]
#[command(name = "wharfd", version)]
struct Arguments {
    /// Images and objects: what survives a reboot [default: /var/lib/wharf].
    #[arg(long, value_name = "DATA")]
    root: Option<PathBuf>,
    /// Sockets and running pods: what does not [default: /run/wharf].
    #[arg(long, value_name = "RUN")]
    state: Option<PathBuf>,
    /// Configuration; every key is optional, and so is the file at its default place.
    #[arg(long, value_name = "FILE", default_value = DEFAULT_CONFIG)]
    config: PathBuf,
    /// Folder of objects to apply at start and when they change [default: /etc/wharf/manifests].
    #[arg(long, value_name = "DIR")]
    manifests: Option<PathBuf>,
    /// error, warn, info, debug or trace [default: info].
    #[arg(long, value_name = "LEVEL")]
    log_level: Option<tracing::Level>,
    /// End the pods of a node whose daemon does not run any more, and exit: for when the machine goes down.
    #[arg(long)]
    end_pods: bool,
}

/// What a container has to end by itself when the machine goes down.
const END_GRACE: std::time::Duration = std::time::Duration::from_secs(10);

const DEFAULT_CONFIG: &str = "/etc/wharf/wharfd.toml";

/// For all threads: they allocate little at a time, and what is left over in each heap adds up.
const HEAPS: u16 = 2;

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
    let log_level = start_log(&arguments, &config)?;
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
        false => runtime.block_on(serve(&arguments, config, &log_level, sockets)),
    };
    // Blocking work (a hung mount, say) must not keep the daemon from ending.
    runtime.shutdown_background();
    outcome
}

fn read_config(arguments: &Arguments) -> anyhow::Result<Config> {
    let path = &arguments.config;
    let mut config = match fs::read_to_string(path) {
        Ok(text) => Config::parse(&text).with_context(|| path.display().to_string())?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && path == Path::new(DEFAULT_CONFIG) => {
            Config::default()
        }
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    let overrules = [
        (&arguments.root, &mut config.root),
        (&arguments.state, &mut config.state),
        (&arguments.manifests, &mut config.manifests),
    ];
    for (given, key) in overrules {
        if let Some(path) = given {
            *key = std::path::absolute(path).with_context(|| path.display().to_string())?;
        }
    }
    Ok(config)
}

fn log_filter(arguments: &Arguments, config: &Config) -> EnvFilter {
    EnvFilter::new(arguments.log_level.map_or_else(|| config.log_level.as_str().into(), |level| level.to_string()))
}

/// Changes what is logged.
type LogLevel = Box<dyn Fn(EnvFilter) -> anyhow::Result<()>>;

fn start_log(arguments: &Arguments, config: &Config) -> anyhow::Result<LogLevel> {
    let subscriber = tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .with_env_filter(log_filter(arguments, config))
        .with_filter_reloading();
    let handle = subscriber.reload_handle();
    subscriber.init();
    Ok(Box::new(move |filter| handle.reload(filter).context("change the log level")))
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

fn shim_program(config: &Config) -> anyhow::Result<PathBuf> {
    let path = match &config.shim {
        Some(path) => path.clone(),
        None => {
            let own = std::env::current_exe().context("find this program")?;
            own.with_file_name("wharf-shim")
        }
    };
    if !path.is_file() {
        bail!("{}: no such program; the key `shim` says where wharf-shim is", path.display());
    }
    Ok(path)
}

fn cgroup_options(config: &Config) -> anyhow::Result<CgroupOptions> {
    if config.cgroup_driver == CgroupDriver::Systemd && !unit::is_available() {
        bail!("cgroup_driver: \"systemd\" wants systemd as process 1, which this machine has not");
    }
    Ok(CgroupOptions { driver: config.cgroup_driver, parent: config.cgroup_parent.clone() })
}

/// Opens the image store with the node's logins and registries; a broken file is better known now than at the first pull.
fn open_store(config: &Config) -> anyhow::Result<Store> {
    let node_file = Keychain::default().and_file(NODE_AUTH_FILE);
    let keychain = config.auth_files.iter().fold(node_file, Keychain::and_required_file);
    keychain.check()?;
    let node = Registries::of_node(|name| std::env::var(name).ok());
    let registries = match &config.registries {
        Some(file) => node.with_file(file),
        None => node,
    };
    registries.check()?;
    let snapshots = config.snapshots;
    let options = StoreOptions { keychain, registries, snapshots, ..StoreOptions::default() };
    Store::open_with(&config.root, options).context("open the image store")
}

async fn serve(
    arguments: &Arguments,
    mut config: Config,
    log_level: &LogLevel,
    mut sockets: Sockets,
) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup()).context("handle SIGHUP")?;
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let node = open_node(&config).await?;
    let _memory = AbortOnDrop(tokio::spawn(idle_memory::give_back(node.subscribe())));
    let streaming = StreamingServer::start(node.clone()).await.context("start the streaming server")?;
    // Both sockets exist before either answers: whoever sees one can use the other.
    let api_socket = config.state.join("api.sock");
    let (mut context, keeper) = controller_context(&config, &node).await?;
    let _keeper = AbortOnDrop(tokio::spawn(keeper.run()));
    let bound = Bound::open(&config.api, &config.root.join(tls::FOLDER), &context.node_name)
        .await
        .context("open the API over TLS")?;
    let tokens = bound.as_ref().map(Bound::tokens);
    let names = open_to_pods(&mut context, bound.as_ref()).await?;
    let tls = bound.map(|bound| bound.with_names(names)).transpose().context("open the API over TLS")?;
    let (objects, pod_logs) = (context.objects.clone(), context.pod_logs.clone().into());
    let journal = context.journal.clone();
    let api = Api { objects, node: node.clone(), pod_logs, usage: Default::default(), journal, tokens };
    let socket = config.state.join("wharfd.sock");
    let (api_listener, api_is_ours) = listen(&mut sockets, &api_socket)?;
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
        doors.spawn(async move {
            ending.run_until_cancelled(served).await;
            Ok(())
        });
    }
    let ending = shutdown.clone();
    doors.spawn(async move {
        tokio::select! {
            ended = wharf_supervisor::api::server::serve(api_listener, api) => ended.context("serve the API"),
            () = ending.cancelled() => Ok(()),
        }
    });
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

async fn open_node(config: &Config) -> anyhow::Result<Node> {
    let shim = shim_program(config)?;
    let store = open_store(config)?;
    Node::open(NodeOptions {
        root: config.root.clone(),
        state: config.state.clone(),
        shim,
        network: config.network.clone(),
        store,
        cgroups: cgroup_options(config)?,
        cdi_folders: config.cdi_folders.clone(),
        checkpoint: config.checkpoint,
        runtimes: config.runtimes.iter().map(|(name, runtime)| (name.clone(), runtime.path.clone())).collect(),
    })
    .await
    .context("open the node")
}

/// Pods outlive their daemon, so it is not enough to end that: what they have mounted would keep file systems busy.
/// What was declared stays so, and runs again after the next start.
async fn end_pods(config: &Config) -> anyhow::Result<()> {
    let node = open_node(config).await?;
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
    log_level(log_filter(arguments, &new))?;
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

/// Opens the objects and says where the controllers keep what is theirs.
async fn controller_context(config: &Config, node: &Node) -> anyhow::Result<(controller::Context, journal::Keeper)> {
    let database = config.root.join("objects.redb");
    let store =
        tokio::task::spawn_blocking(move || ObjectStore::open(&database)).await.context("open the objects")??;
    let host_name = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    let node_name = host_name.trim().to_lowercase();
    let dns = Dns::new(&config.dns, store.clone());
    let ranges = ServiceRanges::of_config(&config.network)?;
    let objects = Objects::open(store, &node_name).await.context("open the objects")?.with_service_ranges(ranges);
    let folders =
        [config.root.join("logs"), config.root.join("pods"), config.root.join("volumes"), config.root.join("journal")];
    folders.iter().try_for_each(|folder| private_directory(folder))?;
    let [pod_logs, pod_volumes, volumes, journal] = folders;
    let (journal, keeper) = journal::open(journal, objects.clone());
    let context = controller::Context {
        objects,
        journal,
        node: node.clone(),
        dns,
        node_name: node_name.into(),
        host_ips: controller::node_addresses(config.network.has_ipv6()),
        pod_logs,
        pod_volumes,
        volumes,
        manifests: config.manifests.clone(),
        services: Default::default(),
        pod_api: None,
    };
    Ok((context, keeper))
}

/// Gives pods a way to the API where they can reach it; returns the names by which they do.
async fn open_to_pods(context: &mut controller::Context, bound: Option<&Bound>) -> anyhow::Result<Vec<String>> {
    context.pod_api = match bound {
        Some(bound) => bound.for_pods(context.node.network().gateway().await),
        None => None,
    };
    let Some(api) = &context.pod_api else {
        kubernetes_service::withdraw(&context.objects).await.context("withdraw the service of the API")?;
        return Ok(Vec::new());
    };
    context.objects = context.objects.clone().with_tokens_for_pods();
    let service = kubernetes_service::ensure(&context.objects, api.address, None).await;
    let address = service.context("make the service of the API")?;
    let domain = context.dns.domain().trim_end_matches('.').to_owned();
    let names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc"].map(str::to_owned);
    let more = [format!("kubernetes.default.svc.{domain}"), address, api.address.ip().to_string()];
    Ok(names.into_iter().chain(more).collect())
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
