//! A kubelet in a test node's namespaces, and its API.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;

use crate::testnode::{self, Options, TestNode};

const PORT: u16 = 10250;

/// What a kubelet writes to where it finds another value; it takes these for its own.
const SYSCTLS: [(&str, &str); 6] = [
    ("vm/overcommit_memory", "1"),
    ("vm/panic_on_oom", "0"),
    ("kernel/panic", "10"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/keys/root_maxkeys", "1000000"),
    ("kernel/keys/root_maxbytes", "25000000"),
];

pub struct Kubelet {
    node: TestNode,
    program: PathBuf,
    /// Relative to each hierarchy's root.
    cgroup: String,
    child: Option<Child>,
    /// Connects it with an API server.
    arguments: Vec<String>,
}

/// Of the node, beside its loopback address, which a kubelet does not take for one.
const NODE_ADDRESS: &str = "10.78.0.1";

/// `None`, with a line that says why, where the test cannot run here.
pub async fn node(test: &str, name: &str) -> Option<Kubelet> {
    let Some(program) = testnode::built("kubelet") else {
        println!("SKIP {test}: no kubelet: `make kubelet` builds it and runs this; WHARF_TEST_TOOLS says where it is");
        return None;
    };
    let node = testnode::start_with(name, |_| Options::default()).await?;
    let cgroup = format!("{}/kubelet", node.cgroup());
    let kubelet = Kubelet { node, program, cgroup, child: None, arguments: Vec::new() };
    kubelet.set_up();
    Some(kubelet)
}

impl Kubelet {
    pub fn node(&self) -> &TestNode {
        &self.node
    }

    /// The machine's own logs and settings are kept from the kubelet, and groups are made for it.
    fn set_up(&self) {
        let mut script = String::from("set -e\nmount -t tmpfs none /var/log\nmkdir /var/log/sysctl\n");
        for (name, value) in SYSCTLS {
            let file = format!("/var/log/sysctl/{}", name.replace('/', "."));
            script += &format!("echo {value} >{file}\nmount --bind {file} /proc/sys/{name}\n");
        }
        let output = self.node.inside(&["sh", "-c", &script]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        for group in self.groups() {
            std::fs::create_dir_all(&group).unwrap();
            // One of v1 takes nobody before it has processors and memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                for group in [group.parent().unwrap(), &group] {
                    let of_parent = std::fs::read(group.parent().unwrap().join(file)).unwrap_or_default();
                    let _ = std::fs::write(group.join(file), of_parent);
                }
            }
        }
        for folder in ["manifests-of-kubelet", "kubelet"] {
            std::fs::create_dir(self.node.path(folder)).unwrap();
        }
    }

    /// Where the kubelet's pods are, in every hierarchy.
    pub fn groups(&self) -> Vec<PathBuf> {
        let root = Path::new("/sys/fs/cgroup");
        if root.join("cgroup.controllers").exists() {
            return vec![root.join(&self.cgroup)];
        }
        let hierarchies = std::fs::read_dir(root).unwrap().flatten();
        let own = hierarchies.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
        own.map(|entry| entry.path().join(&self.cgroup)).collect()
    }

    /// Starts it with `more` in its configuration; returns once it answers.
    pub fn start(&mut self, more: Value) {
        let path = |name: &str| self.node.path(name).display().to_string();
        let mut config = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
            "address": "127.0.0.1", "port": PORT, "healthzPort": 10248,
            "authentication": {"anonymous": {"enabled": true}, "webhook": {"enabled": false}},
            "authorization": {"mode": "AlwaysAllow"},
            "staticPodPath": path("manifests-of-kubelet"), "fileCheckFrequency": "1s", "syncFrequency": "1s",
            "containerRuntimeEndpoint": format!("unix://{}", path("run/wharfd.sock")),
            "cgroupRoot": format!("/{}", self.cgroup), "failCgroupV1": false, "failSwapOn": false,
            "protectKernelDefaults": true, "oomScoreAdj": 0,
            "podLogsDir": path("podlogs"), "volumePluginDir": path("plugins-of-kubelet"),
            "imageMinimumGCAge": "1s", "nodeStatusUpdateFrequency": "1s", "makeIPTablesUtilChains": false,
            // However full this machine's disk is: what is short of it says so.
            "imageGCHighThresholdPercent": 100, "evictionHard": {"memory.available": "1Mi"},
            "contentType": "application/json",
            // What is there by one answer, what comes by another: the simple way to begin a watch.
            "featureGates": {"WatchListClient": false},
        });
        for (key, value) in more.as_object().unwrap() {
            config[key] = value.clone();
        }
        let file = self.node.path("kubelet.yaml");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::options().create(true).append(true).open(self.node.path("kubelet.log")).unwrap();
        let child = self
            .node
            .enter()
            .arg(&self.program)
            .arg(format!("--config={}", file.display()))
            .arg(format!("--root-dir={}", path("kubelet")))
            .arg(format!("--cert-dir={}", path("kubelet/pki")))
            .args(["--hostname-override=node", "--v=2"])
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
        self.wait_for("the kubelet", |kubelet| kubelet.try_get("/healthz").is_some_and(|text| text == "ok"));
    }

    /// From its next start on.
    pub fn use_api_server(&mut self, port: u16) {
        let cluster = json!({"name": "c", "cluster": {"server": format!("http://127.0.0.1:{port}")}});
        let context = json!({"name": "c", "context": {"cluster": "c", "user": "u"}});
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context], "current-context": "c",
            "users": [{"name": "u", "user": {}}],
        });
        let file = self.node.path("kubeconfig");
        std::fs::write(&file, config.to_string()).unwrap();
        self.node.inside(&["ip", "address", "add", &format!("{NODE_ADDRESS}/32"), "dev", "lo"]);
        self.arguments = vec![format!("--kubeconfig={}", file.display()), format!("--node-ip={NODE_ADDRESS}")];
    }

    /// Ends the kubelet alone.
    pub fn stop(&mut self) {
        let mut child = self.child.take().unwrap();
        rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::TERM).unwrap();
        child.wait().unwrap();
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.node.path("kubelet.log")).unwrap_or_default()
    }

    /// Until `done`; a kubelet does everything at intervals of its own.
    pub fn wait_for(&self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        testnode::wait_for(what, Duration::from_secs(180), || done(self));
    }

    fn curl(&self, path: &str) -> Command {
        let mut command = self.node.enter();
        command.args(["curl", "--silent", "--insecure", "--fail", "--max-time", "60"]);
        command.arg(format!("https://127.0.0.1:{PORT}{path}"));
        command
    }

    pub fn try_get(&self, path: &str) -> Option<String> {
        let output = self.curl(path).stdin(Stdio::null()).output().unwrap();
        output.status.success().then(|| String::from_utf8(output.stdout).unwrap())
    }

    pub fn get(&self, path: &str) -> String {
        self.try_get(path).unwrap_or_else(|| panic!("GET {path}"))
    }

    pub fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path)).unwrap()
    }

    pub fn post(&self, path: &str) -> String {
        let output = self.curl(path).args(["--request", "POST"]).stdin(Stdio::null()).output().unwrap();
        assert!(output.status.success(), "POST {path}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// What it answers to a request that it refuses, and the status of HTTP.
    pub fn refusal(&self, path: &str) -> (String, String) {
        let mut command = self.node.enter();
        command.args(["curl", "--silent", "--insecure", "--max-time", "60", "--write-out", "\\n%{http_code}"]);
        command.args(["--request", "POST"]).arg(format!("https://127.0.0.1:{PORT}{path}"));
        let output = String::from_utf8(command.stdin(Stdio::null()).output().unwrap().stdout).unwrap();
        let (answer, status) = output.rsplit_once('\n').unwrap();
        (answer.to_owned(), status.to_owned())
    }

    /// The pod as the kubelet has it, of the namespace `default`; a static one's name has the node's after it.
    pub fn pod(&self, name: &str) -> Option<Value> {
        let pods = self.try_get("/pods").and_then(|text| serde_json::from_str::<Value>(&text).ok())?;
        pods["items"].as_array()?.iter().find(|pod| pod["metadata"]["name"] == *name).cloned()
    }

    /// What is known of one of the pod's containers.
    pub fn container(&self, pod: &str, name: &str) -> Option<Value> {
        let pod = self.pod(pod)?;
        pod["status"]["containerStatuses"].as_array()?.iter().find(|one| one["name"] == *name).cloned()
    }

    /// A WebSocket that the kubelet has upgraded to, over TLS by openssl, in the node's network.
    pub async fn websocket(
        &self,
        path: &str,
        protocol: &str,
    ) -> (tokio::process::Child, WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>>) {
        let mut command = tokio::process::Command::from(self.node.enter());
        command.args(["openssl", "s_client", "-quiet", "-connect", &format!("127.0.0.1:{PORT}")]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let stream = tokio::io::join(child.stdout.take().unwrap(), child.stdin.take().unwrap());
        let mut request = format!("ws://127.0.0.1:{PORT}{path}").into_client_request().unwrap();
        request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
        let (socket, answer) = tokio_tungstenite::client_async(request, stream).await.unwrap();
        assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], protocol);
        (child, socket)
    }

    /// Ends the kubelet, then the daemon; what is left of either on the machine, beyond what a kubelet keeps for good.
    pub fn finish(mut self) -> Vec<String> {
        self.stop();
        // It mounts its own folder over itself, to share it.
        self.node.inside(&["umount", self.node.path("kubelet").to_str().unwrap()]);
        // A kubelet's groups of pods by class, which are empty.
        let classes = ["kubepods/burstable", "kubepods/besteffort", "kubepods"];
        for group in self.groups() {
            for class in classes.map(|class| group.join(class)).into_iter().chain([group.clone()]) {
                let _ = std::fs::remove_dir(class);
            }
        }
        self.node.terminate_wharfd();
        for group in self.groups() {
            // The daemon's own parent, where it made none of its own pods.
            let _ = std::fs::remove_dir(group.parent().unwrap());
        }
        self.node.leftovers()
    }
}

impl Drop for Kubelet {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- kubelet.log\n{}", self.log());
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
