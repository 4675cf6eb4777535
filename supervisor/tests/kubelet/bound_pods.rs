//! A kubelet with an API server, and pods that are bound to its node.

use serde_json::{Value, json};

use crate::api_server::{self, ApiServer};
use crate::kubelet::{self, Kubelet};
use crate::testnode::IMAGE;

fn pod(name: &str, script: &str, limits: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "uid": format!("0000-{name}")},
        "spec": {
            "nodeName": "node", "dnsPolicy": "Default", "terminationGracePeriodSeconds": 1, "enableServiceLinks": false,
            "automountServiceAccountToken": false, "restartPolicy": "Always",
            // What an API server fills in.
            "securityContext": {}, "schedulerName": "default-scheduler",
            "containers": [{
                "name": "main", "image": IMAGE, "imagePullPolicy": "Never", "command": ["sh", "-c", script],
                "resources": {"limits": limits, "requests": limits},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
                "resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "NotRequired"},
                    {"resourceName": "memory", "restartPolicy": "NotRequired"},
                ],
            }],
        },
        "status": {"phase": "Pending"},
    })
}

/// Of the container's group, as the kernel has it.
fn memory_limit(kubelet: &Kubelet, pod: &str) -> Option<String> {
    let container = kubelet.container(pod, "main")?;
    let id = container["containerID"].as_str()?.strip_prefix("wharf://")?.to_owned();
    let below = format!("kubepods/pod0000-{pod}/{id}");
    let files = ["memory.max", "memory.limit_in_bytes"];
    let mut paths = kubelet.groups().into_iter().flat_map(|group| files.map(|file| group.join(&below).join(file)));
    paths.find_map(|path| std::fs::read_to_string(path).ok()).map(|text| text.trim().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubelet_resizes_evicts_and_ends_pods_and_collects_images() {
    const TEST: &str = "a_kubelet_resizes_evicts_and_ends_pods_and_collects_images";
    let Some(mut kubelet) = kubelet::node(TEST, "kubeletapi").await else { return };
    let server = ApiServer::start(kubelet.node()).await;
    kubelet.use_api_server(api_server::PORT);
    kubelet.start(json!({}));

    let steady = |memory: &str| json!({"cpu": "100m", "memory": memory, "ephemeral-storage": "50Mi"});
    server.add(pod("steady", "exec sleep 10000", steady("64Mi")));
    kubelet.wait_for("the pod to run", |kubelet| memory_limit(kubelet, "steady").is_some());
    let before = kubelet.container("steady", "main").unwrap();
    assert_eq!(memory_limit(&kubelet, "steady").unwrap(), (64 << 20).to_string());
    server.edit("steady", |pod| {
        pod["metadata"]["generation"] = json!(2);
        for kind in ["limits", "requests"] {
            pod["spec"]["containers"][0]["resources"][kind] = steady("96Mi");
        }
    });
    kubelet.wait_for("the resize", |kubelet| {
        memory_limit(kubelet, "steady").is_some_and(|limit| limit == (96 << 20).to_string())
    });
    kubelet.wait_for("the kubelet to know of it", |kubelet| {
        kubelet
            .container("steady", "main")
            .is_some_and(|container| container["resources"]["limits"]["memory"] == "96Mi")
    });
    let after = kubelet.container("steady", "main").unwrap();
    assert_eq!((&after["containerID"], &after["restartCount"]), (&before["containerID"], &json!(0)), "in place");
    assert!(!kubelet.log().contains("UpdatePodSandboxResources from runtime service failed"));

    // More in its file system than it may have.
    let script = "busybox dd if=/dev/zero of=/tmp/file bs=1M count=8; exec sleep 10000";
    server.add(pod("greedy", script, json!({"cpu": "10m", "memory": "64Mi", "ephemeral-storage": "2Mi"})));
    kubelet.wait_for("the eviction", |kubelet| {
        kubelet.pod("greedy").is_some_and(|pod| pod["status"]["reason"] == "Evicted")
    });
    let state = kubelet.container("greedy", "main").unwrap()["state"].clone();
    assert!(state["terminated"].is_object(), "{state}");

    server.delete("greedy");
    server.delete("steady");
    kubelet.wait_for("the pods to be gone", |kubelet| {
        let none = |folder| std::fs::read_dir(kubelet.node().path(folder)).unwrap().next().is_none();
        server.pod("steady").is_none() && server.pod("greedy").is_none() && none("run/pods")
    });

    // Short of disk, by a threshold that no disk in use keeps, a kubelet removes the images that nothing uses.
    let images = |kubelet: &Kubelet| kubelet.node().path("data/images/index.json");
    let listed = |kubelet: &Kubelet| std::fs::read_to_string(images(kubelet)).unwrap();
    assert!(listed(&kubelet).contains(IMAGE));
    kubelet.stop();
    kubelet.start(json!({"evictionHard": {"imagefs.available": "99%", "nodefs.available": "99%"}}));
    kubelet.wait_for("the image to be collected", |kubelet| !listed(kubelet).contains(IMAGE));
    assert_eq!(kubelet.finish(), Vec::<String>::new());
}
