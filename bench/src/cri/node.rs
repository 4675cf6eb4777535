//! A node of one's own: a daemon with its disk, in a network namespace where nothing else is.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

use super::client::{Client, Pod};
use super::image;
use crate::Context;
use crate::filesystem::FileSystem;
use crate::measure::{Daemon, run};
use crate::peer::Peer;

/// Who serves the CRI.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Wharf,
    Containerd,
}

/// Dropping it ends its pods, then the daemon, then the disk.
pub(crate) struct Node {
    pub(super) client: Client,
    pub(crate) version: String,
    kind: Kind,
    daemon: Daemon,
    disk: FileSystem,
    pods_made: usize,
}

/// How long a daemon has until it is ready.
const PATIENCE: Duration = Duration::from_secs(30);
/// What a daemon that stood still has to do takes no longer.
const AWAKE: Duration = Duration::from_millis(50);
/// Plugins of Debian's package.
const CNI_PLUGINS: &str = "/usr/lib/cni";

impl Kind {
    /// The parent of its pods' control groups.
    fn cgroup(self) -> &'static str {
        match self {
            Self::Wharf => "wharf-bench",
            Self::Containerd => "wharf-bench-containerd",
        }
    }
}

impl Node {
    /// Ours, with the embedded network.
    pub(crate) fn wharf(context: &Context) -> anyhow::Result<Self> {
        let disk = FileSystem::fresh()?;
        let (data, state, config) =
            (disk.path().join("data"), disk.path().join("run"), disk.path().join("wharfd.toml"));
        let archive = disk.path().join("image.tar");
        image::write(&archive)?;
        let wharf = context.programs.join("wharf");
        run(Command::new(&wharf).arg("--root").arg(&data).args(["load", "-q", "-i"]).arg(&archive))?;
        let parent = Kind::Wharf.cgroup();
        let text = format!("cgroup_parent = {parent:?}\nlog_level = \"error\"\n[network]\nmode = \"embedded\"\n");
        std::fs::write(&config, text)?;
        let mut command = alone(&context.programs.join("wharfd"));
        command.arg("--root").arg(&data).arg("--state").arg(&state).arg("--config").arg(&config);
        command.arg("--manifests").arg(disk.path().join("manifests"));
        let version = "wharfd of this tree".into();
        Self::start(Kind::Wharf, version, command, &state.join("wharfd.sock"), disk)
    }

    /// The other one, with the CNI plugin `bridge`. The outer error says why it cannot take part.
    pub(super) fn containerd() -> Result<anyhow::Result<Self>, String> {
        let (containerd, ctr) = (Peer::find("containerd")?, Peer::find("ctr")?);
        for plugin in ["bridge", "host-local", "loopback"] {
            if !Path::new(CNI_PLUGINS).join(plugin).is_file() {
                return Err(format!("{CNI_PLUGINS}/{plugin} is not there (`scripts/install bench`)"));
            }
        }
        Ok(Self::start_containerd(&containerd, &ctr))
    }

    fn start_containerd(containerd: &Peer, ctr: &Peer) -> anyhow::Result<Self> {
        let disk = FileSystem::fresh()?;
        let path = disk.path();
        let (config, socket, networks) = (path.join("config.toml"), path.join("containerd.sock"), path.join("net.d"));
        std::fs::create_dir(&networks)?;
        std::fs::write(networks.join("10-bench.conflist"), bridge_network(&path.join("leases")))?;
        let text = format!(
            "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = {:?}\nrestrict_oom_score_adj = true\n\
             stream_server_address = \"127.0.0.1\"\n[plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {CNI_PLUGINS:?}\n\
             conf_dir = {networks:?}\n",
            image::IMAGE,
        );
        std::fs::write(&config, text)?;
        let mut command = alone(&containerd.path);
        command.arg("--config").arg(&config).arg("--root").arg(path.join("root"));
        command.arg("--state").arg(path.join("state")).arg("--address").arg(&socket).args(["--log-level", "error"]);
        let archive = path.join("image.tar");
        image::write(&archive)?;
        let node = Self::start(Kind::Containerd, containerd.version.clone(), command, &socket, disk)?;
        let mut import = ctr.command();
        run(import.arg("--address").arg(&socket).args(["--namespace", "k8s.io", "images", "import"]).arg(&archive))?;
        Ok(node)
    }

    fn start(
        kind: Kind,
        version: String,
        mut command: Command,
        socket: &Path,
        disk: FileSystem,
    ) -> anyhow::Result<Self> {
        let mut daemon = Daemon::start(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()))?;
        let begin = Instant::now();
        loop {
            // Neither says of itself when it can be asked.
            if let Ok(client) = Client::connect(socket)
                && client.is_ready().is_ok_and(|is_ready| is_ready)
            {
                return Ok(Self { client, version, kind, daemon, disk, pods_made: 0 });
            }
            if let Some(status) = daemon.child().try_wait()? {
                bail!("{command:?} ended, {status}");
            }
            if begin.elapsed() > PATIENCE {
                bail!("{command:?} is not ready after {} s", PATIENCE.as_secs());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Stops the daemon, so that another one is measured by itself.
    pub(super) fn stand_still(&self) {
        self.daemon.stand_still();
    }

    /// After it stood still; what it has missed meanwhile is done before this returns.
    pub(super) fn go_on(&self) {
        self.daemon.go_on();
        std::thread::sleep(AWAKE);
    }

    /// Brings so many pods of one container to run, all at a time.
    pub(super) fn start_pods(&mut self, count: usize) -> anyhow::Result<Vec<String>> {
        let pods = (0..count).map(|_| self.next_pod(1)).collect();
        self.client.start(pods)
    }

    /// One pod of several containers, which stays.
    pub(super) fn start_pod_of(&mut self, containers: usize) -> anyhow::Result<()> {
        let pod = self.next_pod(containers);
        self.client.start(vec![pod]).map(drop)
    }

    /// Has a container write the file `lines` to its log; how long that took, and the log.
    pub(super) fn write_log(&mut self, lines: &Path) -> anyhow::Result<(Duration, PathBuf)> {
        let pod = self.next_pod(1);
        let taken = self.client.write_log(&pod, lines)?;
        Ok((taken, pod.log_folder().join(Pod::log_name(0))))
    }

    pub(super) fn disk(&self) -> PathBuf {
        self.disk.path()
    }

    pub(super) fn end_pods(&mut self, pods: Vec<String>) -> anyhow::Result<()> {
        self.client.end(pods)
    }

    fn next_pod(&mut self, containers: usize) -> Pod {
        self.pods_made += 1;
        Pod {
            name: format!("pod-{}", self.pods_made),
            logs: self.disk.path().join("logs"),
            // Of its own, as a kubelet does it.
            cgroup_parent: format!("/{}/pod-{}", self.kind.cgroup(), self.pods_made),
            containers,
        }
    }

    /// Where ours serves the Kubernetes API.
    pub(crate) fn api_socket(&self) -> PathBuf {
        self.disk.path().join("run/api.sock")
    }

    /// Of the daemon, since it was started; to 10 ms.
    pub(crate) fn daemon_processor_time(&self) -> anyhow::Result<Duration> {
        processor_time_of(self.daemon.pid())
    }

    /// Of the daemon and all shims, since they were started; to 10 ms for each.
    pub(super) fn processor_time(&self) -> anyhow::Result<Duration> {
        self.processes()?.into_iter().map(processor_time_of).sum()
    }

    /// All that is mapped in the daemon, in bytes: its PSS on a node where it is the only one, whatever runs beside it here.
    pub(crate) fn daemon_memory_bytes(&self) -> anyhow::Result<u64> {
        memory_of(self.daemon.pid(), "Rss:")
    }

    /// Of everything that is the node's and no container's, in bytes; of the daemon what is no file's, as that of its program
    /// which is mapped differs from moment to moment by more than a pod has.
    pub(super) fn memory_bytes(&self) -> anyhow::Result<u64> {
        let daemon = self.daemon.pid();
        let size_of = |pid| memory_of(pid, if pid == daemon { "Pss_Anon:" } else { "Pss:" });
        // One may be gone by now.
        Ok(self.processes()?.into_iter().map(|pid| size_of(pid).unwrap_or(0)).sum())
    }

    /// Whatever is the node's and no container's.
    fn processes(&self) -> anyhow::Result<Vec<u32>> {
        let (daemon, shim, pause) = match self.kind {
            Kind::Wharf => ("wharfd", "wharf-shim", ""),
            Kind::Containerd => ("containerd", "containerd-shim", "busybox"),
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let entry = entry?;
            let Ok(pid) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            // It may be gone by now.
            let Ok(name) = std::fs::read_to_string(entry.path().join("comm")) else { continue };
            let name = name.trim();
            if [daemon, shim, pause].contains(&name) {
                found.push(pid);
            }
        }
        Ok(found)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.daemon.go_on();
        if let Err(error) = self.client.end_all() {
            eprintln!("bench: end the pods of a node: {error:#}");
        }
        // Ours takes its own things back, given the time.
        self.daemon.end();
        let hierarchies = std::fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten();
        for hierarchy in hierarchies.map(|entry| entry.path()).chain([PathBuf::from("/sys/fs/cgroup")]) {
            remove_groups(&hierarchy.join(self.kind.cgroup()));
        }
    }
}

/// A control group with all beneath it; there may be none.
fn remove_groups(group: &Path) {
    for entry in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            remove_groups(&entry.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}

fn processor_time_of(pid: u32) -> anyhow::Result<Duration> {
    /// `USER_HZ` is 100 on every architecture Linux exports it for.
    const TICK: Duration = Duration::from_millis(10);
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    // After the name in parentheses, from the state on (proc_pid_stat(5)): utime and stime.
    let fields =
        text.rsplit_once(')').map(|(_, rest)| rest.split_whitespace().skip(11).take(2)).with_context(|| path)?;
    let ticks = fields.map(str::parse::<u32>).sum::<Result<u32, _>>()?;
    Ok(TICK * ticks)
}

/// A line of proc_pid_smaps(5) for the process as a whole.
fn memory_of(pid: u32, size: &str) -> anyhow::Result<u64> {
    let path = PathBuf::from(format!("/proc/{pid}/smaps_rollup"));
    let text = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let line = text.lines().find_map(|line| line.strip_prefix(size)).with_context(|| format!("no {size}"))?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

/// `program` where only a loopback interface is.
fn alone(program: &Path) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "sh", "-c", "ip link set lo up && exec \"$@\"", "sh"]).arg(program);
    command
}

fn bridge_network(leases: &Path) -> String {
    let ipam = serde_json::json!({"type": "host-local", "subnet": "10.99.0.0/16", "dataDir": leases,
        "routes": [{"dst": "0.0.0.0/0"}]});
    let bridge = serde_json::json!({"type": "bridge", "bridge": "bench0", "isGateway": true, "ipam": ipam});
    serde_json::json!({"cniVersion": "0.4.0", "name": "bench", "plugins": [bridge]}).to_string()
}
