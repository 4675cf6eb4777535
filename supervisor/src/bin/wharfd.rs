//! `wharfd`, the node supervisor: opens the node, serves its doors, ends on SIGTERM and leaves the pods running.

use std::fs::{self, DirBuilder, File};
use std::io::IsTerminal as _;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Parser;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_runtime::cgroup::unit;
use wharf_specs::config::{CgroupDriver, Config};
use wharf_supervisor::api::object_store::ObjectStore;
use wharf_supervisor::api::objects::Objects;
use wharf_supervisor::api::server::Api;
use wharf_supervisor::pod::{CgroupOptions, Node, NodeOptions};
use wharf_supervisor::streaming::StreamingServer;
use wharf_supervisor::{controller, cri, ready};

/// The Wharf node supervisor.
#[derive(Parser)]
#[command(version)]
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
}

const DEFAULT_CONFIG: &str = "/etc/wharf/wharfd.toml";

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
    start_log(&arguments, &config)?;
    // Files that containers read must come out as their modes say, whoever starts the daemon.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    for directory in [&config.root, &config.state] {
        private_directory(directory)?;
    }
    let _lock = lock(&config.state)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start tokio")?;
    let outcome = runtime.block_on(serve(config));
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

fn start_log(arguments: &Arguments, config: &Config) -> anyhow::Result<()> {
    let level = match arguments.log_level {
        Some(level) => level,
        None => config.log_level.as_str().parse().context("log_level")?,
    };
    tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    Ok(())
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
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => bail!("another wharfd runs on {}", state.display()),
        Err(fs::TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
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

async fn serve(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let shim = shim_program(&config)?;
    let store = wharf_images::Store::open(&config.root).context("open the image store")?;
    let node = Node::open(NodeOptions {
        root: config.root.clone(),
        state: config.state.clone(),
        shim,
        network: config.network.clone(),
        store,
        cgroups: cgroup_options(&config)?,
        runtimes: config.runtimes.iter().map(|(name, runtime)| (name.clone(), runtime.path.clone())).collect(),
    })
    .await
    .context("open the node")?;
    let streaming = StreamingServer::start(node.clone()).await.context("start the streaming server")?;
    // Both sockets exist before either answers: whoever sees one can use the other.
    let api_socket = config.state.join("api.sock");
    let context = controller_context(&config, &node).await?;
    let api = Api { objects: context.objects.clone(), node: node.clone(), pod_logs: context.pod_logs.clone().into() };
    let api_listener = cri::bind(&api_socket).with_context(|| format!("bind {}", api_socket.display()))?;
    let socket = config.state.join("wharfd.sock");
    let listener = cri::bind(&socket).with_context(|| format!("bind {}", socket.display()))?;
    write_node_file(&config)?;

    let shutdown = CancellationToken::new();
    let mut doors = tokio::task::JoinSet::new();
    let ending = shutdown.clone();
    let cri_node = node.clone();
    doors.spawn(async move {
        cri::serve(cri_node, streaming, listener, async move { ending.cancelled().await })
            .await
            .context("serve the CRI")
    });

    let ending = shutdown.clone();
    doors.spawn(async move {
        tokio::select! {
            ended = wharf_supervisor::api::server::serve(api_listener, api) => ended.context("serve the API"),
            () = ending.cancelled() => Ok(()),
        }
    });
    // Dropped at the end: controllers stop, pods run on.
    let _controllers = controller::start(&context);

    tracing::info!(state = %config.state.display(), root = %config.root.display(), "ready");
    ready::notify();
    let outcome = tokio::select! {
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        Some(ended) = doors.join_next() => ended.context("a door's task").and_then(|outcome| outcome),
    };
    tracing::info!("ending; pods run on");
    shutdown.cancel();
    while doors.join_next().await.is_some() {}
    node.close().await;
    for file in [&socket, &api_socket, &config.state.join("node.json")] {
        let _ = fs::remove_file(file);
    }
    outcome
}

/// Opens the objects and says where the controllers keep what is theirs.
async fn controller_context(config: &Config, node: &Node) -> anyhow::Result<controller::Context> {
    let database = config.root.join("objects.redb");
    let store =
        tokio::task::spawn_blocking(move || ObjectStore::open(&database)).await.context("open the objects")??;
    let objects = Objects::open(store).await.context("open the objects")?;
    let node_name = fs::read_to_string("/proc/sys/kernel/hostname").context("read the host name")?;
    let folders = [config.root.join("logs"), config.root.join("pods")];
    folders.iter().try_for_each(|folder| private_directory(folder))?;
    let [pod_logs, pod_volumes] = folders;
    Ok(controller::Context {
        objects,
        node: node.clone(),
        node_name: node_name.trim().to_lowercase().into(),
        host_ip: controller::node_address(),
        pod_logs,
        pod_volumes,
        manifests: config.manifests.clone(),
    })
}

/// So that `wharf --state RUN` finds the rest.
fn write_node_file(config: &Config) -> anyhow::Result<()> {
    let path = config.state.join("node.json");
    let node = json!({"root": config.root, "pid": std::process::id(), "version": env!("CARGO_PKG_VERSION")});
    let temporary = config.state.join("node.json.new");
    fs::write(&temporary, node.to_string())
        .and_then(|()| fs::rename(&temporary, &path))
        .with_context(|| format!("write {}", path.display()))
}
