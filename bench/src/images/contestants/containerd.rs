//! A containerd of its own for each run, and `ctr images pull`, which unpacks.

use std::path::Path;
use std::process::{Command, Stdio};
use std::rc::Rc;

use anyhow::Context as _;
use rustix::fs::inotify;

use super::super::CONTAINERD;
use super::super::registry::Registry;
use super::synced;
use crate::comparison::{Contestant, Sample};
use crate::filesystem::FileSystem;
use crate::measure::{Daemon, peak_bytes_of, run};
use crate::peer::Peer;

const SOCKET: &str = "containerd.sock";

pub(in super::super) fn pull(registry: &Rc<Registry>) -> Contestant {
    let registry = registry.clone();
    contestant(|containerd, ctr| {
        Ok(Box::new(move || {
            let disk = FileSystem::fresh()?;
            let daemon = start(&containerd, &disk.path())?;
            let mut command = command(&ctr, &disk.path(), &registry);
            synced(&disk, || Ok(run(&mut command)?.peak_bytes.max(peak_bytes_of(daemon.pid())?)))
        }))
    })
}

pub(in super::super) fn pull_again(registry: &Rc<Registry>) -> Contestant {
    let registry = registry.clone();
    contestant(|containerd, ctr| {
        let disk = FileSystem::fresh().map_err(|error| format!("{error:#}"))?;
        let daemon = start(&containerd, &disk.path()).map_err(|error| format!("{error:#}"))?;
        let first = run(&mut command(&ctr, &disk.path(), &registry));
        first.map_err(|error| format!("{error:#}"))?;
        Ok(Box::new(move || {
            // The daemon before the disk that it is on.
            let _both = (&daemon, &disk);
            Ok(run(&mut command(&ctr, &disk.path(), &registry))?.sample())
        }))
    })
}

type Run = Box<dyn FnMut() -> anyhow::Result<Sample>>;

fn contestant(make: impl FnOnce(Peer, Peer) -> Result<Run, String>) -> Contestant {
    let programs = Peer::find("containerd").and_then(|containerd| Ok((containerd, Peer::find("ctr")?)));
    let (containerd, ctr) = match programs {
        Ok(programs) => programs,
        Err(reason) => return Contestant::missing(CONTAINERD, reason),
    };
    let version = containerd.version.clone();
    let command = "ctr images pull --plain-http REFERENCE".into();
    Contestant { name: CONTAINERD, version, command, run: make(containerd, ctr) }
}

/// Returns when it listens: the socket comes to its name by a rename, complete.
fn start(containerd: &Peer, disk: &Path) -> anyhow::Result<Daemon> {
    let config = disk.join("containerd.toml");
    // Without Kubernetes' side of it, which would look at the machine's network.
    std::fs::write(&config, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
    let watch = inotify::init(inotify::CreateFlags::CLOEXEC)?;
    inotify::add_watch(&watch, disk, inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO)?;
    let mut command = containerd.command();
    command
        .arg("--config")
        .arg(config)
        .arg("--root")
        .arg(disk.join("root"))
        .arg("--state")
        .arg(disk.join("state"))
        .arg("--address")
        .arg(disk.join(SOCKET))
        .args(["--log-level", "error"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let daemon = Daemon::start(&mut command)?;
    wait_for_socket(&watch, &disk.join(SOCKET))?;
    Ok(daemon)
}

fn wait_for_socket(watch: &impl std::os::fd::AsFd, socket: &Path) -> anyhow::Result<()> {
    let mut events = [0; 4096];
    while std::os::unix::net::UnixStream::connect(socket).is_err() {
        let timeout = rustix::event::Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
        let mut poll = [rustix::event::PollFd::new(watch, rustix::event::PollFlags::IN)];
        // Between the socket's name and its first listen there is no event.
        if rustix::event::poll(&mut poll, Some(&timeout))? > 0 {
            rustix::io::read(watch, &mut events).context("read inotify")?;
        }
    }
    Ok(())
}

fn command(ctr: &Peer, disk: &Path, registry: &Registry) -> Command {
    let mut command = ctr.command();
    command.arg("--address").arg(disk.join(SOCKET)).args(["images", "pull", "--plain-http", registry.reference()]);
    command
}
