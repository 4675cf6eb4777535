//! A throwaway node: its own wharfd in its own network and mount namespaces, its own DATA and RUN, its own cgroups,
//! and an image made from the machine's static busybox. Dropping it ends and removes all of it.

mod client;
mod groups;
mod image;
mod leftovers;
mod wait;

pub use client::{Client, connect, container, own_namespaces, pod};
pub use image::{append, write_archive};
pub use wait::{wait_for, wait_for_async};

use groups::{slice_directory, with_systemd};
use image::write_image;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tonic::transport::Channel;
use wait::wait_for_or;
use wharf_specs::cri::image_service_client::ImageServiceClient;
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;

pub const IMAGE: &str = "wharf.test/busybox:1";
pub const SUBNET_PREFIX: &str = "10.77.0.";

pub struct TestNode {
    dir: tempfile::TempDir,
    cgroup: String,
    /// Keeps the namespaces while wharfd is down.
    holder: Child,
    wharfd: Option<Child>,
}

/// What a node has beside its defaults.
#[derive(Default)]
pub struct Options {
    /// Lines at the top of its configuration.
    pub keys: String,
    /// Lines of `[network]` in its configuration.
    pub network: String,
    /// Made in the node's folder before its daemon starts: path and text, executable under `plugins/`.
    pub files: Vec<(&'static str, String)>,
}

/// `None`, with a line that says why, where the test cannot run here.
pub async fn start(test: &str) -> Option<TestNode> {
    start_with(test, |_| Options::default()).await
}

/// As [`start`]; `options` are made for the node's folder.
pub async fn start_with(test: &str, options: impl FnOnce(&Path) -> Options) -> Option<TestNode> {
    let missing = if !rustix::process::geteuid().is_root() {
        "needs root"
    } else if !Path::new("/bin/busybox").exists() {
        "needs /bin/busybox"
    } else if !shim().is_file() {
        "needs wharf-shim beside wharfd: cargo build -p wharf-runtime"
    } else {
        let node = TestNode::start(test, options).await;
        return Some(node);
    };
    println!("SKIP {test}: {missing}");
    None
}

fn wharfd() -> PathBuf {
    env!("CARGO_BIN_EXE_wharfd").into()
}

fn shim() -> PathBuf {
    wharfd().with_file_name("wharf-shim")
}

/// A program of the CRI's own tools: where `make test` has built them, or where it is installed.
pub fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let installed = || std::env::split_paths(&path).map(|folder| folder.join(name)).find(|path| path.is_file());
    built(name).or_else(installed)
}

/// What `make test` has put into the folder of test tools.
pub fn built(name: &str) -> Option<PathBuf> {
    Some(PathBuf::from(std::env::var_os("WHARF_TEST_TOOLS")?).join(name)).filter(|path| path.is_file())
}

impl TestNode {
    async fn start(test: &str, options: impl FnOnce(&Path) -> Options) -> Self {
        // Short: a unix socket's path has 108 bytes.
        let dir = tempfile::Builder::new().prefix("wt-").tempdir_in("/tmp").unwrap();
        let options = options(dir.path());
        for (name, text) in &options.files {
            write_file(&dir.path().join(name), text);
        }
        let archive = dir.path().join("image.tar");
        write_image(&archive);
        let store = wharf_images::Store::open(&dir.path().join("data")).unwrap();
        store.load(&archive, None).await.unwrap();
        drop(store);
        let holder = Command::new("unshare")
            .args(["--net", "--ipc", "--mount", "--propagation", "private", "--", "sleep", "infinity"])
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let parent = format!("wharf-test-{}-{}", std::process::id(), test);
        let cgroup = if with_systemd() { slice_directory(&parent) } else { parent.clone() };
        let driver = if with_systemd() { "systemd" } else { "cgroupfs" };
        let config = dir.path().join("wharfd.toml");
        // A folder of its own: the machine may have a configuration for other programs.
        let folder = dir.path().join("net.d");
        // How full the machine's own disk is does not matter to a test.
        let eviction = match options.keys.contains("eviction") {
            true => "",
            false => "eviction.disk_percent = 0\n",
        };
        let text = format!(
            "{}{eviction}cgroup_parent = {parent:?}\ncgroup_driver = {driver:?}\n[network]\nbridge = \"wt0\"\nsubnet = \"{SUBNET_PREFIX}0/24\"\n\
             cni.folder = {folder:?}\n{}",
            options.keys, options.network
        );
        std::fs::write(&config, text).unwrap();
        let mut node = Self { dir, cgroup, holder, wharfd: None };
        wait_for("the namespaces", Duration::from_secs(5), || {
            let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
            link(&node.holder.id().to_string()) != link("self")
        });
        node.inside(&["ip", "link", "set", "lo", "up"]);
        node.start_wharfd();
        node
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start_wharfd(&mut self) {
        self.spawn_wharfd();
        let socket = self.path("run/wharfd.sock");
        let log = self.path("wharfd.log");
        wait_for_or(
            "wharfd.sock",
            Duration::from_secs(20),
            || std::os::unix::net::UnixStream::connect(&socket).is_ok(),
            || std::fs::read_to_string(&log).unwrap_or_default(),
        );
    }

    /// Does not wait until it answers.
    pub fn spawn_wharfd(&mut self) {
        let log = std::fs::File::options().create(true).append(true).open(self.path("wharfd.log")).unwrap();
        let child = self
            .enter()
            .arg(wharfd())
            .arg("--root")
            .arg(self.path("data"))
            .arg("--state")
            .arg(self.path("run"))
            .arg("--config")
            .arg(self.path("wharfd.toml"))
            .arg("--manifests")
            .arg(self.path("manifests"))
            .args(["--log-level", "debug"])
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.wharfd = Some(child);
    }

    /// As `kill -9` does: nothing is told to anyone.
    pub fn kill_wharfd(&mut self) {
        let mut child = self.wharfd.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Stops it, say, and lets it run on.
    pub fn signal_wharfd(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.wharfd.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// As a service manager ends it; returns once it is gone.
    pub fn terminate_wharfd(&mut self) {
        let mut child = self.wharfd.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// A command that will run in the node's namespaces.
    pub fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg("-t").arg(self.holder.id().to_string()).args(["-n", "-i", "-m", "--"]);
        command
    }

    /// Runs a program in the node's namespaces.
    pub fn inside(&self, command: &[&str]) -> Output {
        self.enter().args(command).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs `work` on a thread of its own in the node's network namespace.
    pub fn inside_thread<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        self.inside_thread_of(self.holder.id().into(), work)
    }

    /// As [`inside_thread`](Self::inside_thread), in the network namespace of a process: of a container, say.
    pub fn inside_thread_of<T: Send + 'static>(&self, pid: i64, work: impl FnOnce() -> T + Send + 'static) -> T {
        let namespace = std::fs::File::open(format!("/proc/{pid}/ns/net")).unwrap();
        let thread = std::thread::spawn(move || {
            use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&namespace), Some(LinkNameSpaceType::Network)).unwrap();
            work()
        });
        thread.join().unwrap()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("wharfd.log")).unwrap_or_default()
    }

    async fn channel(&self) -> Channel {
        connect(self.path("run/wharfd.sock")).await.unwrap()
    }

    pub async fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel().await).max_decoding_message_size(32 << 20)
    }

    pub async fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel().await)
    }
}

/// Executable beneath a folder `plugins`. Written by another process: what this one has open for writing, a fork of
/// another test has too, and such a program cannot be executed.
pub fn write_file(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    if path.parent().is_none_or(|parent| !parent.ends_with("plugins")) {
        return std::fs::write(path, text).unwrap();
    }
    let script = r#"printf %s "$1" > "$0" && chmod 755 "$0""#;
    assert!(Command::new("/bin/sh").arg("-c").arg(script).arg(path).arg(text).status().unwrap().success());
}
