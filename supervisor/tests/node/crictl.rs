//! The CRI's own test client against the node: every command that people type first, on an image from a real registry.

use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::registry::{self, REGISTRY, Registry};
use crate::testnode::{self, TestNode, tool, wait_for};

pub fn program() -> Option<PathBuf> {
    tool("crictl")
}

pub struct Crictl<'a> {
    pub node: &'a TestNode,
    pub program: PathBuf,
}

impl Crictl<'_> {
    /// A command that will run in the node's namespaces.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command: Command = self.node.enter();
        let endpoint = format!("unix://{}", self.node.path("run/wharfd.sock").display());
        command.arg(&self.program).args(["--runtime-endpoint", &endpoint, "--image-endpoint", &endpoint]);
        // Its own two seconds are few where the machine does something else too.
        command.args(["--timeout", "60s"]);
        command.args(arguments);
        command
    }

    pub fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).stdin(Stdio::null()).output().unwrap()
    }

    /// Runs a command, which must succeed, and gives back what it printed.
    pub fn run(&self, arguments: &[&str]) -> String {
        let output = self.output(arguments);
        assert!(output.status.success(), "crictl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    pub fn json(&self, arguments: &[&str]) -> Value {
        serde_json::from_str(&self.run(arguments)).unwrap()
    }
}

#[tokio::test]
async fn crictl_pulls_runs_inspects_and_removes() {
    const TEST: &str = "crictl_pulls_runs_inspects_and_removes";
    let Some(program) = program() else {
        println!("SKIP {TEST}: no crictl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    if let Some(missing) = registry::missing() {
        println!("SKIP {TEST}: {missing}");
        return;
    }
    let Some(mut node) = testnode::start("crictl").await else { return };
    {
        let registry = Registry::start(&node);
        registry.push(&node, "image.tar", testnode::IMAGE, "busybox:1");
        let crictl = Crictl { node: &node, program };
        images(&crictl);
        pod(&crictl);
        crictl.run(&["rmi", &format!("{REGISTRY}/busybox:1")]);
        drop(registry);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

fn images(crictl: &Crictl<'_>) {
    let info = crictl.json(&["info"]);
    let conditions = info["status"]["conditions"].as_array().unwrap();
    assert!(conditions.iter().all(|condition| condition["status"] == true), "{conditions:?}");
    assert!(crictl.run(&["version"]).contains("RuntimeApiVersion:  v1"));

    let image = format!("{REGISTRY}/busybox:1");
    crictl.run(&["pull", &image]);
    assert!(crictl.run(&["images"]).contains(&format!("{REGISTRY}/busybox")));
    let tags = crictl.json(&["inspecti", &image])["status"]["repoTags"].clone();
    assert!(tags.as_array().unwrap().contains(&json!(image)), "{tags}");
    let missing = crictl.output(&["pull", &format!("{REGISTRY}/busybox:none")]);
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && message.contains("busybox:none"), "{message}");
}

fn pod(crictl: &Crictl<'_>) {
    let write = |name: &str, object: Value| {
        let path = crictl.node.path(name);
        std::fs::write(&path, object.to_string()).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let logs = crictl.node.path("crilogs");
    let pod_file = write(
        "pod.json",
        json!({"metadata": {"name": "box", "namespace": "default", "uid": "u", "attempt": 0}, "log_directory": logs, "linux": {}}),
    );
    let container_file = write(
        "container.json",
        json!({
            "metadata": {"name": "main"}, "image": {"image": format!("{REGISTRY}/busybox:1")}, "log_path": "main.log",
            "command": ["sh", "-c", "echo from crictl; exec sleep 1000"], "linux": {},
        }),
    );
    let pod = crictl.run(&["runp", &pod_file]);
    assert!(crictl.run(&["pods"]).contains("Ready"));
    let container = crictl.run(&["create", &pod, &container_file, &pod_file]);
    crictl.run(&["start", &container]);
    assert!(crictl.run(&["ps"]).contains("Running"));
    let status = crictl.json(&["inspect", &container])["status"].clone();
    assert_eq!((&status["state"], &status["metadata"]["name"]), (&json!("CONTAINER_RUNNING"), &json!("main")));

    assert_eq!(crictl.run(&["exec", "-s", &container, "sh", "-c", "echo hi $((1+1))"]), "hi 2");
    let failed = crictl.output(&["exec", "-s", &container, "sh", "-c", "exit 3"]);
    assert_eq!(failed.status.code(), Some(1), "crictl reports the code in its message");
    assert!(String::from_utf8_lossy(&failed.stderr).contains('3'), "{failed:?}");
    wait_for("the log", Duration::from_secs(5), || crictl.run(&["logs", &container]) == "from crictl");
    assert!(crictl.run(&["stats", "--id", &container]).contains(&container[..13]));

    crictl.run(&["stop", "--timeout", "0", &container]);
    assert!(crictl.run(&["ps", "-a"]).contains("Exited"));
    crictl.run(&["rm", &container]);
    crictl.run(&["stopp", &pod]);
    assert!(crictl.run(&["pods"]).contains("NotReady"));
    crictl.run(&["rmp", &pod]);
    assert_eq!(crictl.run(&["pods", "-q"]), "");
}
