//! What declared pods find around them: volumes in memory, parts of volumes, images, host aliases, their own limits; and
//! what they leave behind as their last words.

use serde_json::{Value, json};

use crate::replicas::{LIMIT, apply, assert_nothing_left, phase, pod, pod_object, wharf, wharf_with};
use crate::testnode::{self, IMAGE, TestNode, wait_for};

/// Runs a pod to its end and gives back what it wrote; it is left for the caller to look at.
fn outcome(node: &TestNode, object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    apply(node, object);
    wait_for("the pod's end", LIMIT, || matches!(phase(node, name).as_str(), "Succeeded" | "Failed"));
    wharf(node, &["logs", name])
}

fn terminated(node: &TestNode, name: &str) -> Value {
    pod_object(node, name)["status"]["containerStatuses"][0]["state"]["terminated"].clone()
}

#[tokio::test]
async fn volumes_are_in_memory_parts_of_others_or_images() {
    let Some(node) = testnode::start("parts").await else { return };
    let shared = node.path("shared");
    std::fs::create_dir_all(shared.join("kept")).unwrap();
    std::fs::write(shared.join("kept/word"), "kept\n").unwrap();
    // Whoever filled the volume would like to lead out of it.
    std::os::unix::fs::symlink("/", shared.join("out")).unwrap();
    std::os::unix::fs::symlink("../../..", shared.join("up")).unwrap();
    let script = "grep ' /memory ' /proc/mounts | cut -d' ' -f3; \
        busybox dd if=/dev/zero of=/memory/large bs=1M count=2 2>/dev/null || echo full; \
        cat /kept/word; echo own > /mine/word; busybox ls -A /out /up; cat /image/etc/group | busybox head -n 1; \
        (echo > /image/x) 2>/dev/null || echo read-only; cat /passwd | busybox head -n 1";
    let mut object = pod("parts", "Never", script);
    object["spec"]["volumes"] = json!([
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
        {"name": "shared", "hostPath": {"path": shared}},
        {"name": "image", "image": {"reference": IMAGE}},
    ]);
    object["spec"]["containers"][0]["env"] =
        json!([{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([
        {"name": "memory", "mountPath": "/memory"},
        {"name": "shared", "mountPath": "/kept", "subPath": "kept"},
        {"name": "shared", "mountPath": "/mine", "subPathExpr": "pods/$(POD)"},
        {"name": "shared", "mountPath": "/out", "subPath": "out/etc"},
        {"name": "shared", "mountPath": "/up", "subPath": "up/tmp"},
        {"name": "image", "mountPath": "/image"},
        {"name": "image", "mountPath": "/passwd", "subPath": "etc/passwd"},
    ]);
    let said = outcome(&node, &object);
    let expected = "tmpfs\nfull\nkept\n/out:\n\n/up:\nroot:x:0:\nread-only\nroot:x:0:0:root:/root:/bin/sh\n";
    assert_eq!(said, expected);
    wharf(&node, &["delete", "pod", "parts"]);
    // What was mounted is gone, and nothing of it was removed through the mounts.
    assert_eq!(std::fs::read_to_string(shared.join("kept/word")).unwrap(), "kept\n");
    assert_eq!(std::fs::read_to_string(shared.join("pods/parts/word")).unwrap(), "own\n");
    assert!(shared.join("etc").is_dir() && shared.join("tmp").is_dir(), "links were resolved in the volume");
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_knows_its_limits_and_the_names_it_was_given() {
    let Some(node) = testnode::start("limits").await else { return };
    let script = "echo $CPU $MEMORY; cat /etc/downward/memory; echo; busybox tail -n 1 /etc/hosts";
    let mut object = pod("limits", "Never", script);
    let resource = |name: &str, divisor: &str| json!({"resourceFieldRef": {"resource": name, "divisor": divisor}});
    object["spec"]["containers"][0]["env"] = json!([
        {"name": "CPU", "valueFrom": resource("limits.cpu", "1m")},
        {"name": "MEMORY", "valueFrom": resource("requests.memory", "1Mi")},
    ]);
    object["spec"]["containers"][0]["resources"] = json!({"limits": {"cpu": "250m", "memory": "64Mi"}});
    let mut file = resource("limits.memory", "1");
    file["path"] = "memory".into();
    file["resourceFieldRef"]["containerName"] = "main".into();
    object["spec"]["volumes"] = json!([{"name": "downward", "downwardAPI": {"items": [file]}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "downward", "mountPath": "/etc/downward"}]);
    object["spec"]["hostAliases"] = json!([{"ip": "10.9.8.7", "hostnames": ["db", "db.local"]}]);
    assert_eq!(outcome(&node, &object), "250 64\n67108864\n10.9.8.7\tdb\tdb.local\n");
    assert_eq!(pod_object(&node, "limits")["status"]["qosClass"], "Guaranteed");
    wharf(&node, &["delete", "pod", "limits"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn last_words_are_in_the_status() {
    let Some(node) = testnode::start("lastwords").await else { return };
    outcome(&node, &pod("told", "Never", "echo out of memory > /dev/termination-log; exit 3"));
    assert_eq!(terminated(&node, "told")["message"], "out of memory\n");
    let mut object = pod("logged", "Never", "echo one; echo two; exit 4");
    object["spec"]["containers"][0]["terminationMessagePolicy"] = "FallbackToLogsOnError".into();
    object["spec"]["containers"][0]["terminationMessagePath"] = "/tmp/words".into();
    outcome(&node, &object);
    assert_eq!(terminated(&node, "logged")["message"], "one\ntwo\n");
    // Of best effort: the first to be killed when memory runs out.
    let said = outcome(&node, &pod("silent", "Never", "cat /proc/self/oom_score_adj; exit 4"));
    assert_eq!((said.as_str(), &pod_object(&node, "silent")["status"]["qosClass"]), ("1000\n", &json!("BestEffort")));
    assert_eq!(terminated(&node, "silent")["message"], Value::Null);
    for name in ["told", "logged", "silent"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_ends_at_its_deadline() {
    let Some(node) = testnode::start("deadline").await else { return };
    let mut object = pod("late", "Always", "trap 'echo told; exit 0' TERM; while true; do sleep 0.05; done");
    object["spec"]["activeDeadlineSeconds"] = 1.into();
    object["spec"]["terminationGracePeriodSeconds"] = 30.into();
    assert_eq!(outcome(&node, &object), "told\n");
    let status = pod_object(&node, "late")["status"].clone();
    assert_eq!((&status["phase"], &status["reason"]), (&json!("Failed"), &json!("DeadlineExceeded")));
    assert_eq!(status["message"], "Pod was active on the node longer than the specified deadline");
    wharf(&node, &["delete", "pod", "late"]);

    object["spec"]["activeDeadlineSeconds"] = 0.into();
    let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    let expected = "spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive";
    assert!(message.contains(expected), "{message}");
    assert_nothing_left(node);
}
