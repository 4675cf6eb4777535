//! Pods that somebody else ends: the node, because they take more room than they may, or a client by `pods/eviction`.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::replicas::{
    LIMIT, apply, assert_nothing_left, container_id, is_ready, list, phase, pod, pod_object, wharf, wharf_with,
};
use crate::testnode::{self, Options, wait_for};

fn disruption(pod: &Value) -> Option<(String, String)> {
    let conditions = pod["status"]["conditions"].as_array()?;
    let condition = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget")?;
    let field = |name: &str| condition[name].as_str().unwrap_or_default().to_owned();
    Some((field("reason"), field("message")))
}

fn with_scratch(name: &str, script: &str) -> Value {
    let mut object = pod(name, "Always", script);
    object["spec"]["terminationGracePeriodSeconds"] = 1000.into();
    object["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {"sizeLimit": "1Mi"}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "scratch", "mountPath": "/scratch"}]);
    object
}

#[tokio::test]
async fn a_pod_whose_volume_has_grown_too_large_is_evicted() {
    let Some(node) = testnode::start("evicted").await else { return };
    let fill = |kib: u32| format!("busybox dd if=/dev/zero of=/scratch/file bs=1k count={kib}; exec sleep 1000");
    apply(&node, &with_scratch("modest", &fill(900)));
    // It does not heed its stop signal, and has a grace period that is not for such an end.
    apply(&node, &with_scratch("greedy", &format!("trap '' TERM; {}", fill(2000))));
    wait_for("the eviction", LIMIT, || phase(&node, "greedy") == "Failed");
    let status = pod_object(&node, "greedy");
    let message = "Usage of EmptyDir volume \"scratch\" exceeds the limit \"1Mi\".";
    assert_eq!((&status["status"]["reason"], &status["status"]["message"]), (&json!("Evicted"), &json!(message)));
    assert_eq!(disruption(&status), Some(("TerminationByKubelet".into(), message.into())));
    let terminated = &status["status"]["containerStatuses"][0]["state"]["terminated"];
    assert_eq!(terminated["exitCode"], 137, "{status}");
    wait_for("the event", LIMIT, || {
        wharf(&node, &["events", "--for", "pod/greedy"]).lines().any(|line| line.contains("Evicted"))
    });
    assert!(is_ready(&pod_object(&node, "modest")));
    assert_eq!(pod_object(&node, "modest")["status"]["containerStatuses"][0]["restartCount"], 0);
    for name in ["modest", "greedy"] {
        wharf(&node, &["delete", "pod", name, "--grace-period", "0"]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_or_container_that_writes_more_than_its_limit_is_evicted() {
    let Some(node) = testnode::start("evictedlimit").await else { return };
    let fill = |file: &str, kib: u32| format!("busybox dd if=/dev/zero of={file} bs=1k count={kib}; exec sleep 1000");
    let limited = |name: &str, script: &str| {
        let mut object = with_scratch(name, script);
        object["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
        object["spec"]["containers"][0]["resources"] = json!({"limits": {"ephemeral-storage": "1Mi"}});
        object
    };
    apply(&node, &limited("modest", &fill("/scratch/file", 900)));
    // More than its own, and less than the two of the pod may have together.
    let mut layer = limited("layer", &fill("/file", 1500));
    let mut beside = limited("", "exec sleep 1000")["spec"]["containers"][0].clone();
    beside["name"] = "beside".into();
    layer["spec"]["containers"].as_array_mut().unwrap().push(beside);
    apply(&node, &layer);
    apply(&node, &limited("talker", "busybox yes 'a line' | busybox head -c 2000000; exec sleep 1000"));
    // Its volume is nobody's by itself; another container of the pod has no limit.
    let mut whole = limited("whole", "exec sleep 1000");
    let mut beside = limited("", &fill("/scratch/file", 2000))["spec"]["containers"][0].clone();
    beside["name"] = "beside".into();
    beside.as_object_mut().unwrap().remove("resources");
    whole["spec"]["containers"].as_array_mut().unwrap().push(beside);
    apply(&node, &whole);
    let of_container = "Container main exceeded its local ephemeral storage limit \"1Mi\".";
    let of_pod = "Pod ephemeral local storage usage exceeds the total limit of containers 1Mi.";
    for (name, message) in [("layer", of_container), ("talker", of_pod), ("whole", of_pod)] {
        wait_for("the eviction", LIMIT, || phase(&node, name) == "Failed");
        let status = pod_object(&node, name)["status"].clone();
        assert_eq!((&status["reason"], &status["message"]), (&json!("Evicted"), &json!(message)), "{name}");
    }
    assert!(is_ready(&pod_object(&node, "modest")));
    for name in ["modest", "layer", "talker", "whole"] {
        wharf(&node, &["delete", "pod", name, "--grace-period", "0"]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_that_asks_for_more_than_the_node_has_left_waits() {
    let Some(node) = testnode::start("insufficient").await else { return };
    let asking = |name: &str, requests: Value| {
        let mut object = pod(name, "Always", "exec sleep 1000");
        object["spec"]["containers"][0]["resources"] = json!({"requests": requests});
        object
    };
    wait_for("the node", LIMIT, || wharf(&node, &["get", "nodes"]).contains("Ready"));
    let all = list(&node, "nodes")[0]["status"]["allocatable"].clone();
    let message = |name: &str| {
        let conditions = pod_object(&node, name)["status"]["conditions"].clone();
        let found = conditions.as_array().and_then(|all| all.iter().find(|c| c["reason"] == "Unschedulable").cloned());
        found.unwrap_or_default()["message"].as_str().unwrap_or_default().to_owned()
    };
    apply(&node, &asking("large", json!({"ephemeral-storage": "8Ei", "memory": "8Ei"})));
    let expected = "0/1 nodes are available: 1 Insufficient ephemeral-storage, 1 Insufficient memory.";
    wait_for("the reason", LIMIT, || message("large") == expected);
    wait_for("the event", LIMIT, || {
        wharf(&node, &["events", "--for", "pod/large"]).lines().any(|line| line.contains("FailedScheduling"))
    });
    // All of the disk is the first one's; the second has it after that.
    let whole = json!({"ephemeral-storage": all["ephemeral-storage"]});
    apply(&node, &asking("first", whole.clone()));
    wait_for("the first", LIMIT, || is_ready(&pod_object(&node, "first")));
    apply(&node, &asking("second", whole));
    wait_for("the second's reason", LIMIT, || message("second").contains("1 Insufficient ephemeral-storage."));
    wharf(&node, &["delete", "pod", "first"]);
    wait_for("the second", LIMIT, || is_ready(&pod_object(&node, "second")));
    let mut wrong = asking("wrong", json!({"ephemeral-storage": "2Gi"}));
    wrong["spec"]["containers"][0]["resources"]["limits"] = json!({"ephemeral-storage": "1Gi"});
    let output = wharf_with(&node, &["apply", "-f", "-"], &wrong.to_string());
    let said = String::from_utf8_lossy(&output.stderr);
    let expected = "resources.requests.ephemeral-storage: Invalid value: \"2Gi\": must be less than or equal to \
                    ephemeral-storage limit of 1Gi";
    assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    for name in ["large", "second"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_node_that_is_short_of_memory_ends_pods_and_takes_none_that_asks_for_none() {
    // No machine has as much.
    let keys = || Options { keys: "eviction = {memory_mib = 1073741824}\n".into(), ..Options::default() };
    let Some(node) = testnode::start_with("pressure", |_| keys()).await else { return };
    let pressure = || {
        let conditions = list(&node, "nodes").first().map(|node| node["status"]["conditions"].clone());
        let mut conditions = conditions.iter().filter_map(Value::as_array).flatten();
        conditions.any(|condition| condition["type"] == "MemoryPressure" && condition["status"] == "True")
    };
    wait_for("the pressure", LIMIT, pressure);
    apply(&node, &pod("careless", "Always", "exec sleep 1000"));
    let asking = |name: &str| {
        let mut object = pod(name, "Always", "exec sleep 1000");
        object["spec"]["containers"][0]["resources"] = json!({"requests": {"memory": "1Ki"}});
        object
    };
    let mut critical = asking("critical");
    critical["spec"]["priorityClassName"] = "system-node-critical".into();
    apply(&node, &critical);
    apply(&node, &asking("greedy"));
    wait_for("the eviction", LIMIT, || phase(&node, "greedy") == "Failed");
    let status = pod_object(&node, "greedy");
    let message = status["status"]["message"].as_str().unwrap();
    assert_eq!(status["status"]["reason"], "Evicted");
    assert!(
        message.starts_with("The node was low on resource: memory. Threshold quantity: 1Pi, available: "),
        "{message}"
    );
    assert!(message.ends_with("request is 1Ki, has larger consumption of memory."), "{message}");
    assert_eq!(disruption(&status), Some(("TerminationByKubelet".into(), message.into())));
    let waiting = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/memory-pressure: }.";
    wait_for("the reason", LIMIT, || crate::pod_placement::obstacle(&node, "careless") == waiting);
    wait_for("the one that is critical", LIMIT, || is_ready(&pod_object(&node, "critical")));
    for name in ["careless", "critical", "greedy"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_node_whose_disk_is_full_ends_who_has_most_of_it_and_takes_nobody() {
    let Some(mut node) = testnode::start("fulldisk").await else { return };
    let fill = "busybox dd if=/dev/zero of=/scratch/large bs=1k count=4096; echo filled; exec sleep 1000";
    let mut greedy = with_scratch("greedy", fill);
    greedy["spec"]["volumes"] = json!([{"name": "scratch", "emptyDir": {}}]);
    apply(&node, &greedy);
    apply(&node, &pod("modest", "Always", "exec sleep 1000"));
    for name in ["greedy", "modest"] {
        wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, name)));
    }
    wait_for("the file", LIMIT, || wharf(&node, &["logs", "greedy"]).contains("filled"));
    // No disk is as empty.
    let config = node.path("wharfd.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    std::fs::write(&config, text.replace("eviction.disk_percent = 0", "eviction.disk_percent = 99")).unwrap();
    node.terminate_wharfd();
    node.start_wharfd();
    wait_for("the eviction", LIMIT, || phase(&node, "greedy") == "Failed");
    let status = pod_object(&node, "greedy")["status"].clone();
    let message = status["message"].as_str().unwrap();
    assert_eq!(status["reason"], "Evicted");
    assert!(message.starts_with("The node was low on resource: ephemeral-storage. Threshold quantity: "), "{message}");
    assert!(is_ready(&pod_object(&node, "modest")), "one at a time, who has most first");
    apply(&node, &pod("late", "Always", "exec sleep 1000"));
    let waiting = "0/1 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/disk-pressure: }.";
    wait_for("the reason", LIMIT, || crate::pod_placement::obstacle(&node, "late") == waiting);
    for name in ["greedy", "modest", "late"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_that_a_client_evicts_says_so_while_it_ends() {
    let Some(node) = testnode::start("evictapi").await else { return };
    apply(&node, &with_scratch("web", "trap '' TERM; sleep 1000 & wait; wait"));
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "web")));
    let id = container_id(&pod_object(&node, "web"));
    let evict = |options: Value| {
        let body = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "web"},
            "deleteOptions": options});
        let path = "/api/v1/namespaces/default/pods/web/eviction";
        request(&node, "POST", path, &["Content-Type: application/json"], body.to_string().as_bytes()).code
    };
    assert_eq!(evict(json!({"preconditions": {"uid": "another"}})), 409);
    assert_eq!(evict(json!({"dryRun": ["All"]})), 201);
    assert_eq!(disruption(&pod_object(&node, "web")), None);
    assert_eq!(evict(json!({})), 201);
    let leaving = pod_object(&node, "web");
    assert!(leaving["metadata"]["deletionTimestamp"].is_string() && container_id(&leaving) == id, "{leaving}");
    let expected = ("EvictionByEvictionAPI".to_owned(), "Eviction API: evicting".to_owned());
    assert_eq!(disruption(&leaving), Some(expected));
    wharf(&node, &["delete", "pod", "web", "--grace-period", "0"]);
    assert_nothing_left(node);
}
