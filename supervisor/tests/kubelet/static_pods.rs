//! A kubelet without an API server, and pods from its folder.

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::kubelet::{self, Kubelet};
use crate::testnode::IMAGE;

/// Puts a pod down for the kubelet to find, as one that writes a file whole does.
fn declare(kubelet: &Kubelet, name: &str, container: Value) {
    let mut container = container;
    for (key, value) in [("name", "main"), ("image", IMAGE), ("imagePullPolicy", "Never")] {
        container[key] = json!(value);
    }
    let pod = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "containers": [container], "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1,
            "enableServiceLinks": false, "automountServiceAccountToken": false,
        },
    });
    let folder = kubelet.node().path("manifests-of-kubelet");
    std::fs::write(kubelet.node().path("pod.json"), pod.to_string()).unwrap();
    std::fs::rename(kubelet.node().path("pod.json"), folder.join(format!("{name}.json"))).unwrap();
}

fn withdraw(kubelet: &Kubelet, name: &str) {
    std::fs::remove_file(kubelet.node().path("manifests-of-kubelet").join(format!("{name}.json"))).unwrap();
}

fn is_ready(kubelet: &Kubelet, pod: &str) -> bool {
    kubelet.container(pod, "main").is_some_and(|container| container["ready"] == true)
}

fn restarts(kubelet: &Kubelet, pod: &str) -> u64 {
    kubelet.container(pod, "main").and_then(|container| container["restartCount"].as_u64()).unwrap_or(0)
}

fn quick(probe: Value) -> Value {
    let mut probe = probe;
    for (key, value) in [("periodSeconds", 1), ("failureThreshold", 1), ("timeoutSeconds", 10)] {
        probe[key] = json!(value);
    }
    probe
}

#[tokio::test]
async fn a_kubelet_runs_static_pods_with_all_that_it_does_with_them() {
    const TEST: &str = "a_kubelet_runs_static_pods_with_all_that_it_does_with_them";
    let Some(mut kubelet) = kubelet::node(TEST, "kubelet").await else { return };
    kubelet.start(json!({"featureGates": {"PodAndContainerStatsFromCRI": true}}));
    let script = "mkdir -p /www; echo page >/www/index.html; touch /tmp/alive; echo from the pod; httpd -f -p 8080 -h /www & \
                  while read line; do echo \"heard $line\"; done; wait";
    let web = json!({
        "command": ["sh", "-c", script], "stdin": true,
        "startupProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1, "failureThreshold": 60},
        "readinessProbe": quick(json!({"httpGet": {"port": 8080, "path": "/index.html"}})),
        "livenessProbe": quick(json!({"exec": {"command": ["cat", "/tmp/alive"]}})),
        "resources": {"requests": {"cpu": "50m", "memory": "16Mi"}, "limits": {"memory": "64Mi"}},
    });
    declare(&kubelet, "web", web);
    kubelet.wait_for("the pod to be ready", |kubelet| is_ready(kubelet, "web-node"));
    assert_eq!(kubelet.get("/containerLogs/default/web-node/main"), "from the pod\n");
    assert_eq!(kubelet.post("/run/default/web-node/main?cmd=cat%20/www/index.html"), "page\n");
    streams(&kubelet).await;
    figures(&kubelet);
    checkpoints(&kubelet);
    probes(&kubelet);

    // A kubelet that is replaced finds its pods as they were.
    let started = kubelet.container("web-node", "main").unwrap()["containerID"].clone();
    kubelet.stop();
    kubelet.start(json!({}));
    kubelet.wait_for("the pod to be ready", |kubelet| is_ready(kubelet, "web-node"));
    assert_eq!(kubelet.container("web-node", "main").unwrap()["containerID"], started);

    withdraw(&kubelet, "web");
    kubelet.wait_for("the pod to be gone", |kubelet| {
        let pods = kubelet.node().path("run/pods");
        kubelet.pod("web-node").is_none() && std::fs::read_dir(pods).unwrap().next().is_none()
    });
    assert_eq!(kubelet.finish(), Vec::<String>::new());
}

/// Through the kubelet, which connects its own client with our streaming server.
async fn streams(kubelet: &Kubelet) {
    const PROTOCOL: &str = "v5.channel.k8s.io";
    let path = "/exec/default/web-node/main?command=cat&input=1&output=1&error=1";
    let (_openssl, mut socket) = kubelet.websocket(path, PROTOCOL).await;
    socket.send(Message::binary(b"\0through the kubelet".to_vec())).await.unwrap();
    // The end of stdin.
    socket.send(Message::binary(vec![255, 0])).await.unwrap();
    let (mut output, mut status) = (Vec::new(), Vec::new());
    while let Some(Ok(message)) = socket.next().await {
        let Message::Binary(data) = message else { continue };
        match data.split_first() {
            Some((1, text)) => output.extend_from_slice(text),
            Some((3, text)) => status.extend_from_slice(text),
            _ => {}
        }
    }
    assert_eq!(String::from_utf8_lossy(&output), "through the kubelet");
    assert!(String::from_utf8_lossy(&status).contains("Success"), "{status:?}");

    let (_openssl, mut socket) = kubelet.websocket("/attach/default/web-node/main?input=1&output=1", PROTOCOL).await;
    socket.send(Message::binary(b"\0attached\n".to_vec())).await.unwrap();
    let mut output = Vec::new();
    while !String::from_utf8_lossy(&output).contains("heard attached\n") {
        if let Message::Binary(data) = socket.next().await.expect("what the process says").unwrap()
            && let Some((1, text)) = data.split_first()
        {
            output.extend_from_slice(text);
        }
    }
    drop(socket);

    let path = "/portForward/default/web-node?port=8080";
    let (_openssl, mut socket) = kubelet.websocket(path, "v4.channel.k8s.io").await;
    socket.send(Message::binary(b"\0GET /index.html HTTP/1.0\r\n\r\n".to_vec())).await.unwrap();
    let mut answer = Vec::new();
    while !String::from_utf8_lossy(&answer).contains("page\n") {
        if let Message::Binary(data) = socket.next().await.expect("what the pod serves").unwrap()
            && let Some((0, text)) = data.split_first()
        {
            answer.extend_from_slice(text);
        }
    }
}

fn figures(kubelet: &Kubelet) {
    let figures = |kubelet: &Kubelet| -> Option<Value> {
        let summary = kubelet.json("/stats/summary");
        summary["pods"].as_array()?.iter().find(|pod| pod["podRef"]["name"] == "web-node").cloned()
    };
    let mut found = Value::Null;
    kubelet.wait_for("the pod's figures", |kubelet| {
        found = figures(kubelet).unwrap_or_default();
        found["network"]["rxBytes"].as_u64().is_some_and(|bytes| bytes > 0)
            && found["containers"][0]["cpu"]["usageCoreNanoSeconds"].as_u64().is_some_and(|time| time > 0)
    });
    assert_eq!(found["network"]["name"], "eth0", "{found}");
    assert!(found["containers"][0]["memory"]["workingSetBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{found}");
    assert!(found["containers"][0]["rootfs"]["usedBytes"].as_u64().is_some_and(|bytes| bytes > 0), "{found}");
}

/// Of which the kubelet keeps the archive, where the node is configured for it and criu can dump on its kernel.
fn checkpoints(kubelet: &Kubelet) {
    let (answer, status) = kubelet.refusal("/checkpoint/default/web-node/main");
    assert_eq!(status, "500", "{answer}");
    assert!(answer.contains("checkpoint.enabled in wharfd's configuration is not true"), "{answer}");
    let (answer, status) = kubelet.refusal("/checkpoint/default/web-node/none");
    assert_eq!(status, "404", "{answer}");
    let kept = std::fs::read_dir(kubelet.node().path("kubelet/checkpoints")).into_iter().flatten().count();
    assert_eq!(kept, 0, "nothing is left of it");
    assert!(is_ready(kubelet, "web-node"));
}

fn probes(kubelet: &Kubelet) {
    assert_eq!(restarts(kubelet, "web-node"), 0);
    // What readiness asks for.
    kubelet.post("/run/default/web-node/main?cmd=busybox%20mv%20/www/index.html%20/www/away");
    kubelet.wait_for("the pod not to be ready", |kubelet| !is_ready(kubelet, "web-node"));
    assert_eq!(restarts(kubelet, "web-node"), 0, "it is left alone");
    // And what liveness asks for.
    kubelet.post("/run/default/web-node/main?cmd=busybox%20mv%20/tmp/alive%20/tmp/dead");
    kubelet.wait_for("the restart", |kubelet| restarts(kubelet, "web-node") == 1 && is_ready(kubelet, "web-node"));
    let before = kubelet.get("/containerLogs/default/web-node/main?previous=true");
    assert!(before.starts_with("from the pod\n"), "{before}");
}
