//! Classes of service: which group a pod is in, what that weighs, and what the kernel kills first.

use serde_json::{Value, json};

use crate::leaks::leaks;
use crate::pod_resize::resize;
use crate::replicas::{LIMIT, apply, assert_nothing_left, container_id, is_ready, list, pod, pod_object, wharf};
use crate::testnode::{self, TestNode, wait_for};

fn declare(node: &TestNode, name: &str, resources: Value) {
    let mut object = pod(name, "Always", "sleep 1000");
    object["spec"]["containers"][0]["resources"] = resources;
    apply(node, &object);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(node, name)));
}

/// Of a group, in the hierarchy that shares the processors out: `cpu.shares`, or the weight of v2.
#[derive(Debug, PartialEq)]
enum Weight {
    Shares(u64),
    Unified(u64),
}

/// That of a pod's container, of the pod, and of the group that the pod is in.
fn weights(node: &TestNode, name: &str) -> Vec<Weight> {
    let id = container_id(&pod_object(node, name));
    let read = |file: std::path::PathBuf| std::fs::read_to_string(file).ok()?.trim().parse().ok();
    let weight = |group: &std::path::Path| {
        let shares = read(group.join("cpu.shares")).map(Weight::Shares);
        shares.or_else(|| read(group.join("cpu.weight")).map(Weight::Unified))
    };
    let groups = node.groups_of(&id);
    let weighed = groups.iter().find(|group| weight(group).is_some());
    let weighed = weighed.unwrap_or_else(|| panic!("{name} weighs nothing: {groups:?}"));
    weighed.ancestors().take(3).filter_map(weight).collect()
}

/// These shares, as the kernel at hand has them.
fn is_weight(weight: &Weight, shares: u64, unified: u64) -> bool {
    *weight == Weight::Shares(shares) || *weight == Weight::Unified(unified)
}

fn oom_score(node: &TestNode, name: &str) -> i32 {
    score_of(&node.processes_of(&container_id(&pod_object(node, name)))[0].to_string())
}

fn score_of(process: &str) -> i32 {
    std::fs::read_to_string(format!("/proc/{process}/oom_score_adj")).unwrap().trim().parse().unwrap()
}

/// Whether the node has CAP_SYS_RESOURCE (capabilities(7)), without which no process is made safer than it is.
fn may_spare() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:")).unwrap();
    u64::from_str_radix(effective.trim(), 16).unwrap() >> 24 & 1 == 1
}

/// Name of the group that the pod's is in.
fn parent(node: &TestNode, name: &str) -> String {
    let groups = node.groups_of(&container_id(&pod_object(node, name)));
    groups[0].ancestors().nth(2).unwrap().file_name().unwrap().to_str().unwrap().to_owned()
}

#[tokio::test]
async fn pods_share_the_processors_by_their_class_of_service() {
    let Some(mut node) = testnode::start("qos").await else { return };
    // All of them fit on a node with one processor.
    let most = json!({"requests": {"cpu": "375m"}});
    declare(&node, "sure", json!({"limits": {"cpu": "250m", "memory": "32Mi"}}));
    declare(&node, "one", most.clone());
    declare(&node, "two", most);
    declare(&node, "rest", json!({}));
    let class = |name: &str| pod_object(&node, name)["status"]["qosClass"].as_str().unwrap().to_owned();
    assert_eq!(["sure", "one", "rest"].map(class), ["Guaranteed", "Burstable", "BestEffort"]);
    let own = std::path::Path::new(node.cgroup()).file_name().unwrap().to_str().unwrap().to_owned();
    assert_eq!(parent(&node, "sure"), own);
    assert!(parent(&node, "one").contains("burstable") && parent(&node, "rest").contains("besteffort"));

    let [container, pod, class] = &weights(&node, "one")[..] else { panic!("a group without a weight") };
    assert!(is_weight(container, 384, 47) && is_weight(pod, 384, 47) && is_weight(class, 768, 80), "{class:?}");
    assert!(is_weight(&weights(&node, "sure")[1], 256, 35), "{:?}", weights(&node, "sure"));
    assert!(weights(&node, "rest").iter().all(|weight| is_weight(weight, 2, 1)), "{:?}", weights(&node, "rest"));
    // The kernel's killer takes what is least sure of its memory.
    let spared = if may_spare() { -997 } else { score_of("self") };
    assert_eq!(["sure", "one", "rest"].map(|name| oom_score(&node, name)), [spared, 999, 1000]);

    // A pod that goes takes its part of the weight with it; a new daemon goes on from there.
    wharf(&node, &["delete", "pod", "two"]);
    assert!(is_weight(&weights(&node, "one")[2], 384, 47), "{:?}", weights(&node, "one"));
    assert_eq!(resize(&node, "one", &[("main", json!({"requests": {"cpu": "250m"}}))]).code, 200);
    wait_for("the new weight", LIMIT, || is_weight(&weights(&node, "one")[2], 256, 35));
    let before = container_id(&pod_object(&node, "one"));
    node.kill_wharfd();
    node.start_wharfd();
    assert_eq!(container_id(&pod_object(&node, "one")), before);
    let none = leaks(&node);
    assert!(none.status.success(), "{none:?}");
    declare(&node, "two", json!({"requests": {"cpu": "250m"}}));
    assert!(is_weight(&weights(&node, "one")[2], 512, 59), "{:?}", weights(&node, "one"));

    for name in ["sure", "one", "two", "rest"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_eq!(list(&node, "pods"), Vec::<Value>::new());
    assert_nothing_left(node);
}

#[tokio::test]
async fn what_is_left_of_a_pod_in_its_class_is_found_and_taken_away() {
    let Some(mut node) = testnode::start("qosleft").await else { return };
    declare(&node, "rest", json!({}));
    let id = container_id(&pod_object(&node, "rest"));
    // A pod that nobody knows of any more, with what runs in it: its record was damaged.
    let pods = std::fs::read_dir(node.path("run/pods")).unwrap().flatten().map(|entry| entry.path());
    let sandbox = pods.into_iter().next().unwrap();
    node.kill_wharfd();
    std::fs::write(sandbox.join("pod.json"), "{").unwrap();
    node.start_wharfd();
    wait_for("another container", LIMIT, || {
        let pod = pod_object(&node, "rest");
        is_ready(&pod) && container_id(&pod) != id
    });
    assert_eq!(node.groups_of(&id), Vec::<std::path::PathBuf>::new());
    let none = leaks(&node);
    assert!(none.status.success(), "{none:?}");
    wharf(&node, &["delete", "pod", "rest"]);
    assert_nothing_left(node);
}
