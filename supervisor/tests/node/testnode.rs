//! A throwaway node: its own wharfd in its own network and mount namespaces, its own DATA and RUN, its own cgroups,
//! and an image made from the machine's static busybox. Dropping it ends and removes all of it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use wharf_specs::cri;
use wharf_specs::cri::image_service_client::ImageServiceClient;
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;

pub const IMAGE: &str = "wharf.test/busybox:1";
pub const SUBNET_PREFIX: &str = "10.77.0.";

/// Applets the image has links for.
const APPLETS: [&str; 17] = [
    "sh", "sleep", "echo", "cat", "true", "false", "id", "hostname", "ps", "nc", "wget", "httpd", "ping", "kill",
    "env", "mkdir", "tar",
];

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
        let text = format!(
            "{}cgroup_parent = {parent:?}\ncgroup_driver = {driver:?}\n[network]\nbridge = \"wt0\"\nsubnet = \"{SUBNET_PREFIX}0/24\"\n\
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

    /// The group of all that is the node's, relative to each hierarchy's root.
    pub fn cgroup(&self) -> &str {
        &self.cgroup
    }

    /// A group below that: a pod's, or one that a client makes.
    pub fn group_below(&self, name: &str) -> String {
        match self.cgroup.rsplit('/').next().and_then(|last| last.strip_suffix(".slice")) {
            Some(stem) => format!("{}/{stem}-{name}.slice", self.cgroup),
            None => format!("{}/{name}", self.cgroup),
        }
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

    /// As a service manager ends it; returns once it is gone.
    pub fn terminate_wharfd(&mut self) {
        let mut child = self.wharfd.take().unwrap();
        let pid = rustix::process::Pid::from_child(&child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// Ends the init of a container from outside, as the kernel's OOM killer would.
    pub fn kill_container(&self, id: &str) {
        let pid = self.processes_of(id).into_iter().next().and_then(rustix::process::Pid::from_raw);
        let pid = pid.unwrap_or_else(|| panic!("container {id} has no process in {}", self.cgroup));
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }

    /// Those in the group of a container.
    pub fn processes_of(&self, id: &str) -> Vec<i32> {
        let read = |group: PathBuf| std::fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let found = self.groups_of(id).into_iter().map(read).find(|pids| !pids.is_empty()).unwrap_or_default();
        found.lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The group of a container, in every hierarchy that has it.
    pub fn groups_of(&self, id: &str) -> Vec<PathBuf> {
        let name = if with_systemd() { format!("wharf-{id}.scope") } else { id.to_string() };
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(&self.cgroup));
        let mut left: Vec<PathBuf> = roots.collect();
        let mut found = Vec::new();
        while let Some(directory) = left.pop() {
            let below = std::fs::read_dir(directory).into_iter().flatten().flatten();
            for group in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
                let list = if *group.file_name() == *name { &mut found } else { &mut left };
                list.push(group.path());
            }
        }
        found
    }

    /// Makes a group below the node's own, as one of a container, with a process in it.
    pub fn plant_group(&self, name: &str) {
        let name = if with_systemd() { format!("wharf-{name}.scope") } else { name.to_string() };
        let mut sleep = Command::new("sleep").arg("1234").spawn().unwrap();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        let roots = hierarchies.chain([PathBuf::from("/sys/fs/cgroup")]).map(|path| path.join(&self.cgroup));
        for group in roots.filter(|root| root.join("cgroup.procs").exists()).map(|root| root.join(&name)) {
            std::fs::create_dir(&group).unwrap();
            // A cpuset of v1 takes nobody before it has processors; the others suffice.
            let _ = std::fs::write(group.join("cgroup.procs"), sleep.id().to_string());
        }
        std::thread::spawn(move || sleep.wait());
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

    /// Whatever of this node is left on the machine; each entry names one thing.
    pub fn leftovers(&self) -> Vec<String> {
        let mut found = Vec::new();
        let own = self.dir.path().to_str().unwrap();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let numeric = entry.file_name().to_string_lossy().parse::<u32>().is_ok();
            if numeric && command.contains(own) {
                found.push(format!("process {command}"));
            }
        }
        let mounts = std::fs::read_to_string(format!("/proc/{}/mountinfo", self.holder.id())).unwrap();
        found.extend(mounts.lines().filter(|line| line.contains(own)).map(|line| format!("mount {line}")));
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
            let cgroup = hierarchy.path().join(&self.cgroup);
            if cgroup.exists() {
                found.push(format!("cgroup {}", cgroup.display()));
            }
        }
        let links = String::from_utf8_lossy(&self.inside(&["ip", "-o", "link"]).stdout).into_owned();
        found.extend(links.lines().filter(|line| !line.contains(": lo:")).map(|line| format!("interface {line}")));
        let tables = String::from_utf8_lossy(&self.inside(&["nft", "list", "tables"]).stdout).into_owned();
        found.extend(tables.lines().map(|line| format!("nft {line}")));
        for directory in [
            "run/pods",
            "run/network/netns",
            "data/containers",
            "data/network/attachments",
            "data/pods",
            "data/volumes",
        ] {
            let entries = std::fs::read_dir(self.path(directory)).into_iter().flatten().flatten();
            found.extend(entries.map(|entry| format!("file {}", entry.path().display())));
        }
        found
    }
}

/// Fails where nobody listens.
pub async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    };
    Endpoint::from_static("http://wharf").connect_with_connector(tower::service_fn(connect)).await
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- wharfd.log\n{}", self.log());
            for entry in std::fs::read_dir(self.path("run/pods")).into_iter().flatten().flatten() {
                let log = std::fs::read_to_string(entry.path().join("shim.log")).unwrap_or_default();
                eprintln!("--- {}/shim.log\n{log}", entry.path().display());
            }
        }
        if std::thread::panicking() {
            for pod in std::fs::read_dir(self.path("logs")).into_iter().flatten().flatten() {
                for log in std::fs::read_dir(pod.path()).into_iter().flatten().flatten() {
                    let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                    eprintln!("--- {}\n{text}", log.path().display());
                }
            }
        }
        if let Some(mut wharfd) = self.wharfd.take() {
            let _ = wharfd.kill();
            let _ = wharfd.wait();
        }
        // Only where a test failed is there anything left to end: shims are found by this node's own directory, and
        // containers by its own cgroup.
        let own = self.dir.path().to_str().unwrap_or("/nonexistent").to_string();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let pid = entry.file_name().to_string_lossy().parse::<i32>().ok().and_then(rustix::process::Pid::from_raw);
            let is_shim = command.starts_with(shim().to_str().unwrap_or("?").as_bytes());
            if let (Some(pid), true) = (pid, is_shim && String::from_utf8_lossy(&command).contains(&own)) {
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
            // A CNI plugin leads a group of processes.
            let is_plugin = String::from_utf8_lossy(&command).contains(&format!("{own}/plugins/"));
            if let (Some(pid), true) = (pid, is_plugin) {
                let _ = rustix::process::kill_process_group(pid, rustix::process::Signal::KILL);
            }
        }
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
            end_cgroup(&hierarchy.path().join(&self.cgroup));
        }
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// The node's control groups are made by systemd, if it is asked for and process 1.
fn with_systemd() -> bool {
    std::env::var_os("WHARF_TEST_CGROUP_DRIVER").is_some_and(|driver| driver == "systemd")
}

/// `a-b` as `a.slice/a-b.slice` (systemd.slice(5)).
fn slice_directory(name: &str) -> String {
    let ends = name.match_indices('-').map(|(index, _)| index).chain([name.len()]);
    ends.map(|end| format!("{}.slice", &name[..end])).collect::<Vec<_>>().join("/")
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

fn end_cgroup(directory: &Path) {
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            end_cgroup(&entry.path());
        }
    }
    for _ in 0..50 {
        let pids = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().ok()?)) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
        if std::fs::remove_dir(directory).is_ok() || !directory.exists() {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    wait_for_or(what, limit, &mut done, String::new);
}

/// As [`wait_for`], for what has to be asked for.
pub async fn wait_for_async(what: &str, limit: Duration, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done().await {
        assert!(Instant::now() < end, "{what}: not there after {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn wait_for_or(what: &str, limit: Duration, mut done: impl FnMut() -> bool, more: impl Fn() -> String) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not there after {limit:?}\n{}", more());
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A docker-archive with one layer: busybox, its links, and account files.
fn write_image(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    let directory = |layer: &mut tar::Builder<Vec<u8>>, name: &str, mode| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Directory);
        header.set_mode(mode);
        header.set_size(0);
        layer.append_data(&mut header, name, std::io::empty()).unwrap();
    };
    for name in ["bin/", "etc/", "dev/", "proc/", "sys/", "root/"] {
        directory(&mut layer, name, 0o755);
    }
    directory(&mut layer, "tmp/", 0o1777);
    append(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755);
    append(&mut layer, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/home/web:/bin/sh\n", 0o644);
    append(&mut layer, "etc/group", b"root:x:0:\nweb:x:1000:\nmail:x:12:web\n", 0o644);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    let image = serde_json::json!({"Cmd": ["sh"], "Env": ["FROM_IMAGE=yes"]});
    write_archive(path, IMAGE, &image, &layer.into_inner().unwrap());
}

/// A docker-archive of one layer, whose containers are what `config` says.
pub fn write_archive(path: &Path, name: &str, config: &serde_json::Value, layer: &[u8]) {
    let config = serde_json::json!({
        "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux", "config": config,
        "rootfs": {"type": "layers", "diff_ids": [wharf_images::Digest::of(layer).to_string()]},
    });
    let manifest = serde_json::json!([{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]);
    let mut archive = tar::Builder::new(Vec::new());
    append(&mut archive, "config.json", config.to_string().as_bytes(), 0o644);
    append(&mut archive, "layer.tar", layer, 0o644);
    append(&mut archive, "manifest.json", manifest.to_string().as_bytes(), 0o644);
    std::fs::File::create(path).unwrap().write_all(&archive.into_inner().unwrap()).unwrap();
}

pub fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8], mode: u32) {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    archive.append_data(&mut header, name, content).unwrap();
}

/// A pod with its own log directory and nothing else asked for.
pub fn pod(node: &TestNode, name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            attempt: 0,
        }),
        log_directory: node.path("logs").join(name).display().to_string(),
        labels: [("app".to_string(), name.to_string())].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(own_namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Network and IPC of the pod, a PID namespace for each container.
pub fn own_namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

pub fn container(name: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: command.iter().map(|word| word.to_string()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(own_namespaces()),
                seccomp: Some(cri::SecurityProfile::default()),
                ..Default::default()
            }),
            resources: None,
        }),
        ..Default::default()
    }
}

/// Calls that most tests make.
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
}

impl Client {
    pub async fn of(node: &TestNode) -> Self {
        Self { runtime: node.runtime().await }
    }

    pub async fn run_pod(&mut self, config: cri::PodSandboxConfig) -> String {
        self.run_pod_of(config, "").await.unwrap()
    }

    /// A pod of another runtime than the node's own.
    pub async fn run_pod_of(&mut self, config: cri::PodSandboxConfig, handler: &str) -> Result<String, tonic::Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn create(&mut self, pod: &str, config: cri::ContainerConfig) -> Result<String, tonic::Status> {
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn run(&mut self, pod: &str, config: cri::ContainerConfig) -> String {
        let container_id = self.create(pod, config).await.unwrap();
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.runtime.start_container(request).await.unwrap();
        container_id
    }

    pub async fn status(&mut self, container: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// The pid of a container's first process, as `crictl inspect` shows it.
    pub async fn verbose_pid(&mut self, container: &str) -> i64 {
        let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: true };
        let info = self.runtime.container_status(request).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        info["pid"].as_i64().unwrap()
    }

    pub async fn wait_exit(&mut self, container: &str) -> cri::ContainerStatus {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(container).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < end, "{container} does not exit: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn exec(
        &mut self,
        container: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: container.into(),
            cmd: command.iter().map(|word| word.to_string()).collect(),
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// Until something in the container's network listens at each of the ports.
    pub async fn wait_for_ports(&mut self, container: &str, ports: &[u16]) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let shown = self.exec(container, &["busybox", "netstat", "-ltn"], 5).await.unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            if ports.iter().all(|port| shown.contains(&format!(":{port} "))) {
                return;
            }
            assert!(Instant::now() < end, "{container} does not listen at {ports:?}: {shown}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn address(&mut self, pod: &str) -> String {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
        answer.status.unwrap().network.unwrap().ip
    }

    /// Of both families, where the pod has them.
    pub async fn addresses(&mut self, pod: &str) -> Vec<String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
        let network = answer.status.unwrap().network.unwrap();
        [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
    }

    pub async fn stop(&mut self, container: &str, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: container.into(), timeout };
        self.runtime.stop_container(request).await.unwrap();
    }

    pub async fn stop_pod(&mut self, pod: &str) {
        self.runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
    }

    pub async fn remove_pod(&mut self, pod: &str) {
        self.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
    }
}
