//! Declared pods, through the `wharf` command: counts kept, restarts, back-off, roll-outs, manifests, deletion.

use std::io::Write;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::testnode::{self, IMAGE, TestNode, wait_for};

pub const LIMIT: Duration = Duration::from_secs(30);

/// Runs `wharf`, with `input` on its standard input.
pub fn wharf_with(node: &TestNode, arguments: &[&str], input: &str) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_wharf"))
        .arg("--state")
        .arg(node.path("run"))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A command that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

/// Runs `wharf`, which must succeed, and gives back what it printed.
pub fn wharf(node: &TestNode, arguments: &[&str]) -> String {
    let output = wharf_with(node, arguments, "");
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub fn apply(node: &TestNode, object: &Value) {
    let output = wharf_with(node, &["apply", "-f", "-"], &object.to_string());
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

pub fn list(node: &TestNode, kind: &str) -> Vec<Value> {
    let list: Value = serde_json::from_str(&wharf(node, &["get", kind, "-o", "json"])).unwrap();
    list["items"].as_array().unwrap().clone()
}

pub fn pod_object(node: &TestNode, name: &str) -> Value {
    serde_json::from_str(&wharf(node, &["get", "pod", name, "-o", "json"])).unwrap()
}

pub fn is_ready(pod: &Value) -> bool {
    let live = pod["metadata"]["deletionTimestamp"].is_null();
    live && pod["status"]["conditions"]
        .as_array()
        .is_some_and(|all| all.iter().any(|c| c["type"] == "Ready" && c["status"] == "True"))
}

pub fn wait_ready(node: &TestNode, count: usize) -> Vec<Value> {
    wait_for("the pods", LIMIT, || {
        let pods = list(node, "pods");
        pods.len() == count && pods.iter().all(is_ready)
    });
    list(node, "pods")
}

pub fn container_id(pod: &Value) -> String {
    pod["status"]["containerStatuses"][0]["containerID"].as_str().unwrap().trim_start_matches("wharf://").to_owned()
}

pub fn deployment(replicas: u32, script: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container(script)]},
            },
        },
    })
}

pub fn container(script: &str) -> Value {
    json!({"name": "main", "image": IMAGE, "command": ["sh", "-c", script]})
}

pub fn pod(name: &str, policy: &str, script: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": name},
        "spec": {"restartPolicy": policy, "terminationGracePeriodSeconds": 0, "containers": [container(script)]},
    })
}

pub fn phase(node: &TestNode, name: &str) -> String {
    pod_object(node, name)["status"]["phase"].as_str().unwrap_or_default().to_owned()
}

pub fn assert_nothing_left(mut node: TestNode) {
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_deployment_keeps_its_count_whatever_dies() {
    let Some(mut node) = testnode::start("deployment").await else { return };
    apply(&node, &deployment(3, "sleep 1000"));
    let pods = wait_ready(&node, 3);

    // A container.
    let name = pods[0]["metadata"]["name"].as_str().unwrap();
    node.kill_container(&container_id(&pods[0]));
    wait_for("the restart", LIMIT, || {
        let pod = pod_object(&node, name);
        is_ready(&pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1
    });
    let status = &pod_object(&node, name)["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137);

    // A pod.
    wharf(&node, &["delete", "pod", name]);
    let pods = wait_ready(&node, 3);
    assert!(pods.iter().all(|pod| pod["metadata"]["name"] != name));

    // The daemon, and a container while it is down.
    let before: Vec<String> = pods.iter().map(container_id).collect();
    node.kill_wharfd();
    node.kill_container(&before[0]);
    node.start_wharfd();
    wait_for("the lost container", LIMIT, || {
        let pods = list(&node, "pods");
        let now: Vec<String> = pods.iter().map(container_id).collect();
        pods.iter().all(is_ready) && !now.contains(&before[0]) && before[1..].iter().all(|id| now.contains(id))
    });

    wharf(&node, &["scale", "deployment/web", "--replicas", "5"]);
    wait_ready(&node, 5);
    wharf(&node, &["scale", "deployment/web", "--replicas", "1"]);
    wait_ready(&node, 1);
    wharf(&node, &["delete", "deployment", "web"]);
    wait_ready(&node, 0);
    assert_eq!(list(&node, "replicasets"), Vec::<Value>::new());
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_rollout_replaces_every_pod_and_keeps_what_must_be_available() {
    let Some(node) = testnode::start("rollout").await else { return };
    apply(&node, &deployment(3, "echo one; sleep 1000"));
    let old: Vec<Value> = wait_ready(&node, 3).iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    apply(&node, &deployment(3, "echo two; sleep 1000"));
    wait_for("the rollout", LIMIT, || {
        let pods = list(&node, "pods");
        let ready = pods.iter().filter(|pod| is_ready(pod)).count();
        assert!(ready >= 3, "only {ready} pods are ready: of three none may be missing");
        pods.len() == 3 && pods.iter().all(|pod| !old.contains(&pod["metadata"]["name"]))
    });
    wait_ready(&node, 3);
    assert_eq!(wharf(&node, &["logs", "deployment/web"]), "two\n");
    // Going back takes the ReplicaSet that is still there.
    apply(&node, &deployment(3, "echo one; sleep 1000"));
    wait_for("the way back", LIMIT, || {
        let sets = list(&node, "replicasets");
        sets.len() == 2 && wait_ready(&node, 3).len() == 3 && wharf(&node, &["logs", "deployment/web"]) == "one\n"
    });
    wharf(&node, &["delete", "deployment", "web", "--cascade", "foreground"]);
    assert_eq!(list(&node, "pods"), Vec::<Value>::new(), "foreground: the owner goes last");
    assert_nothing_left(node);
}

#[tokio::test]
async fn restart_policies_decide_what_a_pods_end_is() {
    let Some(node) = testnode::start("policies").await else { return };
    apply(&node, &pod("fine", "Never", "exit 0"));
    apply(&node, &pod("broken", "Never", "exit 3"));
    apply(&node, &pod("once", "OnFailure", "exit 0"));
    apply(&node, &pod("looping", "Always", "echo again; exit 1"));
    let looks = |name: &str, wanted: &str| wait_for(name, LIMIT, || phase(&node, name) == wanted);
    looks("fine", "Succeeded");
    looks("broken", "Failed");
    looks("once", "Succeeded");
    assert_eq!(pod_object(&node, "broken")["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"], 3);

    // The first restart is free, the second waits.
    wait_for("the back-off", LIMIT, || {
        let status = pod_object(&node, "looping")["status"]["containerStatuses"][0].clone();
        status["restartCount"] == 1 && status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
    });
    assert!(wharf(&node, &["get", "pods"]).contains("CrashLoopBackOff"));
    assert_eq!(wharf(&node, &["logs", "looping", "--previous"]), "again\n");
    for name in ["fine", "broken", "once", "looping"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn init_containers_run_first_and_volumes_are_shared() {
    let Some(node) = testnode::start("init").await else { return };
    let mut object = pod("steps", "Never", "cat /data/made");
    let mount = json!([{"name": "data", "mountPath": "/data"}]);
    object["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    object["spec"]["containers"][0]["volumeMounts"] = mount.clone();
    let init = |name: &str, script: &str| json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script], "volumeMounts": mount});
    object["spec"]["initContainers"] =
        json!([init("first", "echo 1 >/data/made"), init("second", "echo 2 >>/data/made")]);
    apply(&node, &object);
    wait_for("the pod's end", LIMIT, || phase(&node, "steps") == "Succeeded");
    assert_eq!(wharf(&node, &["logs", "steps"]), "1\n2\n");
    wharf(&node, &["delete", "pod", "steps"]);
    let left: Vec<_> = std::fs::read_dir(node.path("data/pods")).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    assert_nothing_left(node);
}

#[tokio::test]
async fn exec_passes_input_output_and_exit_code() {
    let Some(node) = testnode::start("exec").await else { return };
    apply(&node, &pod("box", "Always", "echo started; sleep 1000"));
    wait_ready(&node, 1);
    let output = wharf_with(&node, &["exec", "-i", "box", "--", "sh", "-c", "cat; echo no >&2; exit 7"], "over here");
    assert_eq!(output.status.code(), Some(7));
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"over here"[..], &b"no\n"[..]));
    let missing = wharf_with(&node, &["exec", "box", "--", "/no/such/program"], "");
    let message = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert!(!missing.status.success() && message.contains("/no/such/program"), "{message}");
    let other = wharf_with(&node, &["exec", "box", "-c", "nobody", "--", "true"], "");
    assert_eq!(other.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&other.stderr).contains("choose one of: main"), "{other:?}");
    wharf(&node, &["delete", "pod", "box"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn the_manifest_folder_is_what_runs() {
    let Some(mut node) = testnode::start("folder").await else { return };
    // The folder is followed from the start of the daemon that finds it.
    node.terminate_wharfd();
    let folder = node.path("manifests");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("web.json");
    std::fs::write(&file, deployment(1, "sleep 1000").to_string()).unwrap();
    node.start_wharfd();
    wait_ready(&node, 1);

    std::fs::write(&file, deployment(2, "sleep 1000").to_string()).unwrap();
    wait_ready(&node, 2);

    // What cannot be read changes nothing.
    std::fs::write(&file, "kind: [").unwrap();
    wait_for("the complaint", LIMIT, || node.log().contains("web.json"));
    assert_eq!(wait_ready(&node, 2).len(), 2);

    std::fs::remove_file(&file).unwrap();
    wait_ready(&node, 0);
    assert_nothing_left(node);
}

#[tokio::test]
async fn wrong_manifests_get_one_line_and_change_nothing() {
    let Some(node) = testnode::start("wrong").await else { return };
    let valid = serde_yaml_ng::to_string(&deployment(1, "true")).unwrap();
    let cases = [
        (valid.replace("kind: Deployment", "kind: Deploymint"), "line 2: kind \"Deploymint\""),
        (valid.replace("replicas: 1", "replicas: many"), "spec.replicas: invalid type"),
        (valid.replace("replicas: 1", "replicas: 1\n  replica: 2"), "unknown field spec.replica"),
        (valid.replace("replicas: 1", "replicas: 1\n  minReadySeconds: -9"), "spec.minReadySeconds: Invalid value: -9"),
        (valid.replace("replicas: 1", "replicas: -1"), "spec.replicas: Invalid value: -1"),
        (valid.replace("name: web", "name: Web"), "metadata.name"),
        ("kind: [".into(), "line"),
        (String::new(), "no objects"),
    ];
    for (manifest, expected) in cases {
        let output = wharf_with(&node, &["apply", "-f", "-"], &manifest);
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{manifest}: {message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "wanted {expected:?}, got {message}");
    }
    assert_eq!(list(&node, "deployments"), Vec::<Value>::new());
    for (arguments, expected) in [
        (&["get", "podz"][..], "no kind \"podz\""),
        (&["get", "pod", "none"], "\"none\" not found"),
        (&["delete", "pod", "none"], "\"none\" not found"),
        (&["scale", "pod/x", "--replicas", "2"], "a pod has no replicas"),
        (&["logs", "none"], "\"none\" not found"),
        (&["apply", "-f", "/no/such/file"], "/no/such/file"),
    ] {
        let output = wharf_with(&node, arguments, "");
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{arguments:?}: {message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "wanted {expected:?}, got {message}");
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_namespace_takes_what_is_in_it_along() {
    let Some(node) = testnode::start("namespace").await else { return };
    apply(&node, &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "side"}}));
    let mut object = deployment(2, "sleep 1000");
    object["metadata"]["namespace"] = "side".into();
    apply(&node, &object);
    wait_for("the pods", LIMIT, || wharf(&node, &["get", "pods", "-n", "side"]).matches("1/1").count() == 2);
    wharf(&node, &["delete", "namespace", "side"]);
    assert!(!wharf(&node, &["get", "namespaces"]).contains("side"));
    assert!(!wharf(&node, &["get", "pods", "-A"]).contains("side"));
    assert_nothing_left(node);
}
