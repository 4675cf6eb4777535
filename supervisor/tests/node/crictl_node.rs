//! crictl's commands for figures, events, limits and the node itself.

use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout, Stdio};

use serde_json::{Value, json};

use crate::crictl::{self, Crictl};
use crate::testnode::{self, TestNode};

/// `crictl events`, which goes on until it is ended.
struct Events {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Events {
    fn start(crictl: &Crictl<'_>) -> Self {
        let mut child = crictl.command(&["events"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// What the next event is, and of whom.
    fn next(&mut self) -> (String, String) {
        // An object over several lines, each closing brace at its own depth.
        let mut text = String::new();
        loop {
            text += &self.lines.next().expect("an event").unwrap();
            if let Ok(event) = serde_json::from_str::<Value>(&text) {
                let field = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
                return (field("containerEventType"), field("containerId"));
            }
        }
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn write(node: &TestNode, name: &str, object: &Value) -> String {
    let path = node.path(name);
    std::fs::write(&path, object.to_string()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn crictl_shows_figures_and_events_and_sets_limits_and_ranges() {
    const TEST: &str = "crictl_shows_figures_and_events_and_sets_limits_and_ranges";
    let Some(program) = crictl::program() else {
        println!("SKIP {TEST}: no crictl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(mut node) = testnode::start("crictlnode").await else { return };
    {
        let crictl = Crictl { node: &node, program };
        of_the_node(&crictl);
        of_a_pod(&crictl);
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

fn of_the_node(crictl: &Crictl<'_>) {
    let driver = crictl.run(&["runtime-config"]);
    assert!(driver.contains("CGROUPFS") || driver.contains("SYSTEMD"), "{driver}");
    crictl.run(&["update-runtime-config", "--pod-cidr", "10.79.0.0/24"]);
    let wrong = crictl.output(&["update-runtime-config", "--pod-cidr", "10.79.0.1/24"]);
    let message = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && message.contains("runtime_config.network_config.pod_cidr"), "{message}");
    let usage = crictl.json(&["imagefsinfo", "-o", "json"])["status"]["imageFilesystems"][0].clone();
    assert!(usage["usedBytes"]["value"].as_str().unwrap().parse::<u64>().unwrap() > 0, "{usage}");
    let described = crictl.json(&["metricdescs"]);
    assert!(described.to_string().contains("container_cpu_usage_seconds_total"), "{described}");
    // What concerns crictl alone works beside it.
    assert!(crictl.run(&["completion", "bash"]).contains("crictl"));
    let config = crictl.node.path("crictl.yaml");
    let config = config.to_str().unwrap();
    std::fs::write(config, "").unwrap();
    crictl.run(&["--config", config, "config", "--set", "timeout=7"]);
    assert_eq!(crictl.run(&["--config", config, "config", "--get", "timeout"]), "7");
}

fn of_a_pod(crictl: &Crictl<'_>) {
    let mut events = Events::start(crictl);
    // crictl says nothing once it listens: the first pod is one that it may miss.
    let probe = write(
        crictl.node,
        "probe.json",
        &json!({"metadata": {"name": "probe", "namespace": "default", "uid": "p", "attempt": 0}, "linux": {}}),
    );
    let pod_file = write(
        crictl.node,
        "pod.json",
        &json!({"metadata": {"name": "box", "namespace": "default", "uid": "u", "attempt": 0}, "linux": {}}),
    );
    let container_file = write(
        crictl.node,
        "container.json",
        &json!({
            "metadata": {"name": "main"}, "image": {"image": testnode::IMAGE}, "linux": {},
            "command": ["sleep", "1000"],
        }),
    );
    let mut probes = Vec::new();
    testnode::wait_for("crictl to listen", std::time::Duration::from_secs(20), || {
        let pod = crictl.run(&["runp", &probe]);
        crictl.run(&["rmp", "-f", &pod]);
        probes.push(pod);
        crictl.node.log().contains("a client observes the node")
    });
    // One more, which it sees whole.
    let container = crictl.run(&["run", "--no-pull", &container_file, &pod_file]);
    let pods = crictl.json(&["pods", "-o", "json", "--name", "box"]);
    let pod = pods["items"][0]["id"].as_str().unwrap().to_owned();
    assert!(pods.to_string().contains("SANDBOX_READY"), "{pods}");
    let mut seen = Vec::new();
    while !seen.contains(&("CONTAINER_STARTED_EVENT".to_owned(), container.clone())) {
        seen.push(events.next());
    }
    let of_box: Vec<_> = seen.iter().filter(|(_, id)| !probes.contains(id)).collect();
    let event = |kind: &str, id: &String| (format!("CONTAINER_{kind}_EVENT"), id.clone());
    let expected =
        [event("CREATED", &pod), event("STARTED", &pod), event("CREATED", &container), event("STARTED", &container)];
    assert_eq!(of_box, expected.iter().collect::<Vec<_>>());
    drop(events);

    crictl.run(&["update", "--memory", "67108864", "--cpu-share", "512", &container]);
    let limits = crictl.json(&["inspect", &container])["status"]["resources"]["linux"].clone();
    assert_eq!((&limits["memoryLimitInBytes"], &limits["cpuShares"]), (&json!("67108864"), &json!("512")), "{limits}");
    let stats = crictl.json(&["stats", "-o", "json", "--id", &container])["stats"][0].clone();
    assert_eq!(stats["attributes"]["id"], json!(container));
    let number = |value: &Value| value["value"].as_str().unwrap().parse::<u64>().unwrap();
    assert!(number(&stats["memory"]["availableBytes"]) <= 67_108_864, "{stats}");
    let stats = crictl.json(&["statsp", "-o", "json", "--id", &pod])["stats"][0].clone();
    assert_eq!(stats["linux"]["network"]["defaultInterface"]["name"], json!("eth0"), "{stats}");
    assert!(crictl.run(&["statsp"]).contains("box"), "a table for people");
    let metrics = crictl.json(&["metricsp", "-o", "json"]).to_string();
    assert!(metrics.contains(&pod) && metrics.contains("container_memory_working_set_bytes"), "{metrics}");
    let inspected = crictl.json(&["inspectp", &pod])["status"].clone();
    assert_eq!((&inspected["id"], &inspected["state"]), (&json!(pod), &json!("SANDBOX_READY")));
    assert!(inspected["network"]["ip"].as_str().unwrap().starts_with("10.79.0."), "{inspected}");

    let archive = crictl.node.path("checkpoint.tar");
    let refused = crictl.output(&["checkpoint", "--export", archive.to_str().unwrap(), &container]);
    let message = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && message.contains("CheckpointContainer"), "{message}");
    assert!(!archive.exists());
    crictl.run(&["rmp", "-f", &pod]);
}
