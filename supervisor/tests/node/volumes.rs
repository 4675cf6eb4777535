//! Claims and their volumes: bound, used, kept over pods and daemons, given back; and what pods wait for meanwhile.

use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

use serde_json::{Value, json};

use crate::leaks::leaks;
use crate::replicas::{LIMIT, apply, assert_nothing_left, list, phase, pod, pod_object, wharf, wharf_with};
use crate::testnode::{self, TestNode, wait_for};

fn claim(name: &str, class: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}},
            "storageClassName": class},
    })
}

/// A pod that mounts the claim at /data.
fn user(name: &str, claim: &str, script: &str) -> Value {
    let mut object = pod(name, "Never", script);
    object["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": claim}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    object
}

fn object(node: &TestNode, kind: &str, name: &str) -> Value {
    list(node, kind).into_iter().find(|object| object["metadata"]["name"] == name).unwrap_or_default()
}

fn wait_phase(node: &TestNode, kind: &str, name: &str, wanted: &str) -> Value {
    wait_for(&format!("{kind} {name} {wanted}"), LIMIT, || object(node, kind, name)["status"]["phase"] == wanted);
    object(node, kind, name)
}

/// What a pod wrote by its end; the pod is deleted.
fn outcome(node: &TestNode, object: &Value) -> String {
    let name = object["metadata"]["name"].as_str().unwrap();
    apply(node, object);
    wait_for("the pod's end", LIMIT, || matches!(phase(node, name).as_str(), "Succeeded" | "Failed"));
    let said = wharf(node, &["logs", name]);
    wharf(node, &["delete", "pod", name]);
    wait_for("the pod's deletion", LIMIT, || self::object(node, "pods", name).is_null());
    said
}

fn why_unscheduled(node: &TestNode, name: &str) -> String {
    let conditions = pod_object(node, name)["status"]["conditions"].clone();
    let conditions = conditions.as_array().cloned().unwrap_or_default();
    let found = conditions.iter().find(|c| c["type"] == "PodScheduled" && c["reason"] == "Unschedulable");
    found.and_then(|condition| condition["message"].as_str()).unwrap_or_default().to_owned()
}

fn wait_why(node: &TestNode, name: &str, expected: &str) {
    wait_for(expected, LIMIT, || why_unscheduled(node, name) == format!("0/1 nodes are available: {expected}."));
}

fn tell_events(node: &TestNode, reason: &str) -> bool {
    list(node, "events").iter().any(|event| event["reason"] == reason)
}

#[tokio::test]
async fn data_outlives_pods_and_daemons_and_goes_with_its_claim() {
    let Some(mut node) = testnode::start("claims").await else { return };
    // The pod comes first, and waits.
    let mut writer = user("writer", "data", "cat /data/word; echo kept > /data/word; sleep 1000");
    writer["spec"]["containers"][0]["securityContext"] = json!({"runAsUser": 1000});
    apply(&node, &writer);
    wait_why(&node, "writer", "persistentvolumeclaim \"data\" not found");
    wait_for("the event", LIMIT, || tell_events(&node, "FailedScheduling"));
    let mut plain = claim("data", Value::Null);
    plain["spec"].as_object_mut().unwrap().remove("storageClassName");
    apply(&node, &plain);
    wait_for("the pod", LIMIT, || phase(&node, "writer") == "Running");
    let bound = wait_phase(&node, "pvc", "data", "Bound");
    assert_eq!(bound["spec"]["storageClassName"], "local-path");
    let volume = bound["spec"]["volumeName"].as_str().unwrap().to_owned();
    assert_eq!(object(&node, "pv", &volume)["spec"]["claimRef"]["name"], "data");
    assert!(wharf(&node, &["get", "pvc"]).contains(&volume));
    assert!(wharf(&node, &["get", "sc"]).contains("local-path (default)"));
    let folder = node.path("data/volumes").join(&volume);
    let metadata = std::fs::metadata(&folder).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o7777, 0o777);
    wait_for("the data", LIMIT, || folder.join("word").exists());

    // A claim in use stays until it is not.
    wharf(&node, &["delete", "pvc", "data", "--wait=false"]);
    node.kill_wharfd();
    node.start_wharfd();
    assert_eq!(phase(&node, "writer"), "Running");
    assert!(object(&node, "pvc", "data")["metadata"]["deletionTimestamp"].is_string());
    // Whoever filled the volume would like to take something else along.
    let outside = node.path("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("kept"), "").unwrap();
    symlink(&outside, folder.join("link")).unwrap();
    std::fs::create_dir_all(folder.join("a/b/c")).unwrap();
    let none = leaks(&node);
    assert!(none.status.success(), "{none:?}");
    wharf(&node, &["delete", "pod", "writer"]);
    wait_for("the volume's end", LIMIT, || list(&node, "pv").is_empty() && list(&node, "pvc").is_empty());
    assert!(!folder.exists() && outside.join("kept").exists());

    // A directory without its volume is nobody's.
    std::fs::create_dir(&folder).unwrap();
    let found = leaks(&node);
    let text = String::from_utf8(found.stdout).unwrap();
    assert!(text.lines().any(|line| line.starts_with("volume") && line.contains(&volume)), "{text}");
    std::fs::remove_dir(&folder).unwrap();
    assert_nothing_left(node);
}

#[tokio::test]
async fn the_next_pod_finds_the_data_of_the_one_before() {
    let Some(mut node) = testnode::start("nextpod").await else { return };
    apply(&node, &claim("data", json!("local-path")));
    wait_for("the event", LIMIT, || tell_events(&node, "WaitForFirstConsumer"));
    assert_eq!(outcome(&node, &user("one", "data", "mkdir /data/part; echo one > /data/part/word")), "");
    node.terminate_wharfd();
    node.start_wharfd();
    let mut reader =
        user("two", "data", "cat /all/part/word /part/word; (echo x > /all/x) 2>/dev/null || echo read-only");
    reader["spec"]["volumes"][0]["persistentVolumeClaim"]["readOnly"] = true.into();
    reader["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "data", "mountPath": "/all"}, {"name": "data", "mountPath": "/part", "subPath": "part"}]);
    assert_eq!(outcome(&node, &reader), "one\none\nread-only\n");

    let mut grouped =
        user("three", "data", "id -G; busybox stat -c '%g %a' /data /data/part/word /secret/k; echo > /data/new");
    grouped["spec"]["securityContext"] = json!({"runAsUser": 1000, "runAsGroup": 1000, "fsGroup": 2000});
    apply(&node, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "data": {"k": "eA=="}}));
    grouped["spec"]["volumes"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "s", "secret": {"secretName": "s", "defaultMode": 0o400}}));
    grouped["spec"]["containers"][0]["volumeMounts"]
        .as_array_mut()
        .unwrap()
        .push(json!({"name": "s", "mountPath": "/secret"}));
    let secret = "busybox stat -L -c '%g %a' /secret/k; cat /secret/k";
    let script = format!("id -G; busybox stat -c '%g %a' /data /data/part/word; echo > /data/new; {secret}");
    grouped["spec"]["containers"][0]["command"][2] = script.into();
    assert_eq!(outcome(&node, &grouped), "1000 12 2000\n2000 2777\n2000 664\n2000 440\nx");
    let volume = object(&node, "pvc", "data")["spec"]["volumeName"].as_str().unwrap().to_owned();
    let folder = node.path("data/volumes").join(volume);
    assert_eq!(std::fs::metadata(folder.join("new")).unwrap().gid(), 2000);
    wharf(&node, &["delete", "pvc", "data"]);
    wait_for("the volume's end", LIMIT, || list(&node, "pv").is_empty());
    assert_nothing_left(node);
}

fn volume(name: &str, path: &PathBuf, policy: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name, "labels": {"disk": name}},
        "spec": {"capacity": {"storage": "5Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path},
            "persistentVolumeReclaimPolicy": policy, "storageClassName": "by-hand"},
    })
}

#[tokio::test]
async fn volumes_made_by_hand_are_bound_released_and_never_emptied() {
    let Some(node) = testnode::start("byhand").await else { return };
    let folder = node.path("disk");
    std::fs::create_dir(&folder).unwrap();
    apply(&node, &volume("one", &folder, "Retain"));
    apply(&node, &volume("two", &folder, "Delete"));
    wait_phase(&node, "pv", "one", "Available");
    let mut picky = claim("data", json!("by-hand"));
    picky["spec"]["selector"] = json!({"matchLabels": {"disk": "one"}});
    apply(&node, &picky);
    assert_eq!(wait_phase(&node, "pvc", "data", "Bound")["status"]["capacity"]["storage"], "5Gi");
    wait_phase(&node, "pv", "one", "Bound");
    assert_eq!(outcome(&node, &user("writer", "data", "echo kept > /data/word")), "");
    wharf(&node, &["delete", "pvc", "data"]);
    wait_phase(&node, "pv", "one", "Released");
    assert_eq!(std::fs::read_to_string(folder.join("word")).unwrap(), "kept\n");

    // A claim that loses its volume says so; what this node has not made it does not remove.
    let mut named = claim("named", json!("by-hand"));
    named["spec"]["volumeName"] = "two".into();
    apply(&node, &named);
    wait_phase(&node, "pvc", "named", "Bound");
    wharf(&node, &["delete", "pvc", "named"]);
    let failed = wait_phase(&node, "pv", "two", "Failed");
    assert!(failed["status"]["message"].as_str().unwrap().contains("not made"), "{failed}");
    assert!(folder.join("word").exists());
    let annotation = json!({"metadata": {"annotations": {"pv.kubernetes.io/provisioned-by": "wharf/local-path"}}});
    let patched = wharf_with(&node, &["apply", "-f", "-"], &{
        let mut lying = volume("two", &folder, "Delete");
        lying["metadata"]["annotations"] = annotation["metadata"]["annotations"].clone();
        lying.to_string()
    });
    assert!(patched.status.success(), "{patched:?}");
    wharf(&node, &["delete", "pv", "one", "two"]);
    wait_for("no volumes", LIMIT, || list(&node, "pv").is_empty());
    assert!(folder.join("word").exists(), "an annotation removes nothing");

    apply(&node, &claim("never", json!("none")));
    wait_for("the event", LIMIT, || tell_events(&node, "ProvisioningFailed"));
    apply(&node, &user("waits", "never", "true"));
    wait_why(&node, "waits", "pod has unbound immediate PersistentVolumeClaims");
    wharf(&node, &["delete", "pod", "waits"]);
    wharf(&node, &["delete", "pvc", "never"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_claim_for_one_pod_is_one_pods_and_ephemeral_ones_go_with_theirs() {
    let Some(node) = testnode::start("onepod").await else { return };
    let mut one = claim("one", json!("local-path"));
    one["spec"]["accessModes"] = json!(["ReadWriteOncePod"]);
    apply(&node, &one);
    apply(&node, &user("first", "one", "sleep 1000"));
    wait_for("the pod", LIMIT, || phase(&node, "first") == "Running");
    apply(&node, &user("second", "one", "sleep 1000"));
    let reason = "1 node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode";
    wait_why(&node, "second", reason);
    wharf(&node, &["delete", "pod", "first"]);
    wait_for("the pod", LIMIT, || phase(&node, "second") == "Running");
    wharf(&node, &["delete", "pod", "second"]);
    wharf(&node, &["delete", "pvc", "one"]);

    let mut scratch = pod("scratch", "Never", "echo x > /data/x; sleep 1000");
    let spec = claim("", json!("local-path"))["spec"].clone();
    scratch["spec"]["volumes"] = json!([{"name": "data", "ephemeral": {"volumeClaimTemplate": {"spec": spec}}}]);
    scratch["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    apply(&node, &scratch);
    wait_for("the pod", LIMIT, || phase(&node, "scratch") == "Running");
    wait_phase(&node, "pvc", "scratch-data", "Bound");
    wharf(&node, &["delete", "pod", "scratch"]);
    wait_for("no claims", LIMIT, || list(&node, "pvc").is_empty() && list(&node, "pv").is_empty());
    assert_nothing_left(node);
}

#[tokio::test]
async fn wrong_claims_and_volumes_are_refused_by_name() {
    let Some(node) = testnode::start("wrongclaims").await else { return };
    let mut none = claim("a", json!("local-path"));
    none["spec"]["accessModes"] = json!([]);
    let mut nfs = volume("b", &"/srv".into(), "Retain");
    nfs["spec"]["hostPath"] = Value::Null;
    nfs["spec"]["nfs"] = json!({"server": "x", "path": "/"});
    let class = json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": "c"},
        "provisioner": "wharf/local-path", "parameters": {"path": "/"}});
    for (object, expected) in [
        (none, "spec.accessModes: Required value"),
        (nfs, "spec.nfs: Unsupported value"),
        (class, "parameters: Unsupported value"),
        (user("d", "A b", "true"), "spec.volumes[0].persistentVolumeClaim.claimName: Invalid value"),
    ] {
        let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && message.contains(expected), "wanted {expected}, got {message}");
    }
    apply(&node, &claim("data", json!("local-path")));
    let mut larger = claim("data", json!("local-path"));
    larger["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    let output = wharf_with(&node, &["apply", "-f", "-"], &larger.to_string());
    assert!(String::from_utf8_lossy(&output.stderr).contains("spec: Forbidden: spec is immutable"), "{output:?}");
    wharf(&node, &["delete", "pvc", "data"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn the_folder_of_a_pod_that_went_while_nobody_looked_is_taken_away() {
    let Some(mut node) = testnode::start("strange").await else { return };
    node.terminate_wharfd();
    let folder = node.path("data/pods/0b0b0b0b-0000-0000-0000-000000000000");
    std::fs::create_dir_all(folder.join("volumes/scratch/deep")).unwrap();
    let outside = node.path("outside");
    std::fs::write(&outside, "kept").unwrap();
    symlink(&outside, folder.join("volumes/scratch/link")).unwrap();
    let memory = folder.join("volumes/memory");
    std::fs::create_dir(&memory).unwrap();
    assert!(node.inside(&["mount", "-t", "tmpfs", "tmpfs", memory.to_str().unwrap()]).status.success());
    node.start_wharfd();
    wait_for("the folder's end", LIMIT, || !folder.exists());
    assert_eq!(std::fs::read_to_string(&outside).unwrap(), "kept");
    assert!(leaks(&node).status.success());
    assert_nothing_left(node);
}
