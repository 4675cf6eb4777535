//! `pods/resize`: limits that change under containers that run, or by their restart, or not at all.

use serde_json::{Value, json};

use crate::api_requests::{Answer, request};
use crate::replicas::{LIMIT, apply, assert_nothing_left, container, container_id, is_ready, pod, pod_object, wharf};
use crate::testnode::{self, TestNode, wait_for};

pub fn resize(node: &TestNode, name: &str, resources: &[(&str, Value)]) -> Answer {
    let containers: Vec<Value> =
        resources.iter().map(|(name, resources)| json!({"name": name, "resources": resources})).collect();
    let path = format!("/api/v1/namespaces/default/pods/{name}/resize");
    let patch = json!({"spec": {"containers": containers}}).to_string();
    request(node, "PATCH", &path, &["Content-Type: application/strategic-merge-patch+json"], patch.as_bytes())
}

fn limits(cpu: &str, memory: &str) -> Value {
    json!({"limits": {"cpu": cpu, "memory": memory}, "requests": {"cpu": cpu, "memory": memory}})
}

/// The memory limits that the kernel keeps for a pod and for a container of it.
fn kernel_limits(node: &TestNode, pod: &Value, index: usize) -> (String, String) {
    let id = pod["status"]["containerStatuses"][index]["containerID"].as_str().unwrap();
    let id = id.trim_start_matches("wharf://");
    let read = |group: &std::path::Path| {
        let files = ["memory.limit_in_bytes", "memory.max"].map(|file| group.join(file));
        files.iter().find_map(|file| std::fs::read_to_string(file).ok()).map(|limit| limit.trim().to_owned())
    };
    let groups = node.groups_of(id);
    let limits = groups.iter().find_map(|group| read(group.parent()?).zip(read(group)));
    limits.unwrap_or_else(|| panic!("no limit of {id} in {groups:?}"))
}

fn condition(node: &TestNode, name: &str, kind: &str) -> Option<Value> {
    let conditions = pod_object(node, name)["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == kind)
}

fn resized(node: &TestNode, memory: &str) -> bool {
    pod_object(node, "web")["status"]["containerStatuses"][0]["allocatedResources"]["memory"] == memory
}

#[tokio::test]
async fn limits_change_under_containers_that_run() {
    let Some(mut node) = testnode::start("resize").await else { return };
    const MIB: u64 = 1 << 20;
    let mut object = pod("web", "Always", "sleep 1000");
    let mut other = container("trap 'exit 0' TERM; sleep 1000 & wait");
    other["name"] = "other".into();
    other["resizePolicy"] = json!([{"resourceName": "memory", "restartPolicy": "RestartContainer"}]);
    object["spec"]["containers"].as_array_mut().unwrap().push(other);
    for container in object["spec"]["containers"].as_array_mut().unwrap() {
        container["resources"] = limits("100m", "32Mi");
    }
    apply(&node, &object);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "web")));
    let before = pod_object(&node, "web");
    assert_eq!(before["status"]["containerStatuses"][0]["resources"]["limits"]["memory"], "32Mi");
    assert_eq!(kernel_limits(&node, &before, 0), ((64 * MIB).to_string(), (32 * MIB).to_string()));

    assert_eq!(resize(&node, "web", &[("main", limits("200m", "48Mi"))]).code, 200);
    wait_for("the new limits", LIMIT, || resized(&node, "48Mi"));
    let after = pod_object(&node, "web");
    assert_eq!(kernel_limits(&node, &after, 0), ((80 * MIB).to_string(), (48 * MIB).to_string()));
    assert_eq!(container_id(&before), container_id(&after), "nothing was restarted");
    assert_eq!(after["metadata"]["generation"], 2);

    // By a restart, where that is the policy.
    assert_eq!(resize(&node, "web", &[("other", limits("100m", "16Mi"))]).code, 200);
    wait_for("the restart", LIMIT, || {
        let pod = pod_object(&node, "web");
        is_ready(&pod) && pod["status"]["containerStatuses"][1]["restartCount"] == 1
    });
    let after = pod_object(&node, "web");
    assert_eq!(kernel_limits(&node, &after, 1), ((64 * MIB).to_string(), (16 * MIB).to_string()));
    assert_eq!(container_id(&before), container_id(&after));

    // More than there is: the pod stays as it is, for a daemon that comes later too.
    assert_eq!(resize(&node, "web", &[("main", limits("100k", "48Mi"))]).code, 200);
    wait_for("the refusal", LIMIT, || condition(&node, "web", "PodResizePending").is_some());
    let pending = condition(&node, "web", "PodResizePending").unwrap();
    assert_eq!(pending["reason"], "Infeasible", "{pending}");
    node.kill_wharfd();
    node.start_wharfd();
    assert!(condition(&node, "web", "PodResizePending").is_some());
    assert_eq!(resize(&node, "web", &[("main", limits("200m", "1Mi"))]).code, 200);
    wait_for("the end of the refusal", LIMIT, || condition(&node, "web", "PodResizePending").is_none());
    // Below what is in use, or so near that the kernel takes it: never a kill.
    assert_eq!(resize(&node, "web", &[("main", limits("200m", "32Mi"))]).code, 200);
    wait_for("the limits of before", LIMIT, || resized(&node, "32Mi"));
    assert_eq!(pod_object(&node, "web")["status"]["containerStatuses"][0]["restartCount"], 0);

    let classless = resize(&node, "web", &[("main", json!({"requests": {"cpu": "100m"}}))]);
    let message = classless.body["message"].as_str().unwrap_or_default().to_owned();
    assert!(classless.code == 422 && message.contains("Pod QOS Class may not change"), "{message}");
    wharf(&node, &["delete", "pod", "web"]);
    assert_nothing_left(node);
}
