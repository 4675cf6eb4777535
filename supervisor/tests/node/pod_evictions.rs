//! Pods that somebody else ends: the node, because they take more room than they may, or a client by `pods/eviction`.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::replicas::{LIMIT, apply, assert_nothing_left, container_id, is_ready, phase, pod, pod_object, wharf};
use crate::testnode::{self, wait_for};

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
