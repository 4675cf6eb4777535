//! Beginning and end of declared pods: hooks, stop signals, grace periods, sidecars, deadlines.

use serde_json::{Value, json};

use crate::replicas::{LIMIT, apply, assert_nothing_left, is_ready, phase, pod, pod_object, wharf, wharf_with};
use crate::testnode::{self, IMAGE, TestNode, wait_for};

/// Writes a line into the file that the test reads.
fn say(word: &str) -> String {
    format!("echo {word} >> /shared/said")
}

fn said(node: &TestNode) -> Vec<String> {
    let text = std::fs::read_to_string(node.path("shared/said")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

fn container(name: &str, script: &str) -> Value {
    json!({"name": name, "image": IMAGE, "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "shared", "mountPath": "/shared"}]})
}

fn sidecar(name: &str, script: &str) -> Value {
    let mut sidecar = container(name, script);
    sidecar["restartPolicy"] = "Always".into();
    sidecar
}

/// Runs until it is told to end, and says both.
fn faithful(name: &str) -> String {
    format!(
        "trap '{}; exit 0' TERM; {}; while true; do sleep 0.05; done",
        say(&format!("{name}-ends")),
        say(&format!("{name}-runs"))
    )
}

/// A pod whose containers share a folder with the test.
fn sharing(node: &TestNode, name: &str, policy: &str, init: Vec<Value>, containers: Vec<Value>) -> Value {
    let mut object = pod(name, policy, "true");
    object["spec"]["terminationGracePeriodSeconds"] = 30.into();
    object["spec"]["initContainers"] = init.into();
    object["spec"]["containers"] = containers.into();
    let folder = node.path("shared").display().to_string();
    object["spec"]["volumes"] = json!([{"name": "shared", "hostPath": {"path": folder, "type": "DirectoryOrCreate"}}]);
    object
}

fn exec(script: &str) -> Value {
    json!({"exec": {"command": ["sh", "-c", script]}})
}

#[tokio::test]
async fn hooks_run_after_the_start_and_before_the_end() {
    let Some(node) = testnode::start("hooks").await else { return };
    let mut main = container("main", &faithful("main"));
    // The second container begins once the first one's hook is done.
    main["lifecycle"] =
        json!({"postStart": exec(&format!("sleep 0.3; {}", say("hooked"))), "preStop": exec(&say("told"))});
    let second = container("second", &format!("{}; exec sleep 1000", say("second-runs")));
    let mut object = sharing(&node, "hooks", "Always", vec![], vec![main, second]);
    object["spec"]["containers"][1]["lifecycle"] =
        json!({"preStop": {"sleep": {"seconds": 0}}, "stopSignal": "SIGKILL"});
    object["spec"]["os"] = json!({"name": "linux"});
    apply(&node, &object);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "hooks")));
    wait_for("both", LIMIT, || said(&node).len() == 3);
    let mut begun = said(&node);
    assert_eq!(begun.pop().as_deref(), Some("second-runs"));
    begun.sort();
    assert_eq!(begun, ["hooked", "main-runs"]);
    wharf(&node, &["delete", "pod", "hooks"]);
    assert_eq!(said(&node)[3..], ["told", "main-ends"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_container_whose_hook_fails_after_its_start_is_ended() {
    let Some(node) = testnode::start("hookfails").await else { return };
    let mut main = container("main", &faithful("main"));
    main["lifecycle"] = json!({"postStart": exec("echo not today; exit 3")});
    apply(&node, &sharing(&node, "hooks", "Never", vec![], vec![main]));
    wait_for("the end", LIMIT, || phase(&node, "hooks") == "Succeeded");
    assert_eq!(said(&node), ["main-runs", "main-ends"]);
    assert!(node.log().contains("PostStartHook failed: exec"), "{}", node.log());
    assert!(node.log().contains("exited with 3: not today"), "{}", node.log());
    wharf(&node, &["delete", "pod", "hooks"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_hook_before_the_end_has_the_grace_period_and_no_more() {
    let Some(node) = testnode::start("hookgrace").await else { return };
    let mut main = container("main", &faithful("main"));
    main["lifecycle"] = json!({"preStop": exec("sleep 1000")});
    let mut object = sharing(&node, "hooks", "Always", vec![], vec![main]);
    object["spec"]["terminationGracePeriodSeconds"] = 1.into();
    apply(&node, &object);
    wait_for("the pod", LIMIT, || said(&node) == ["main-runs"]);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "hooks")));
    wharf(&node, &["delete", "pod", "hooks"]);
    // The hook was given up, the container told all the same.
    assert_eq!(said(&node), ["main-runs", "main-ends"]);
    assert!(node.log().contains("PreStopHook failed: not done within the grace period of 1 s"));
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_second_deletion_makes_the_end_quicker() {
    let Some(node) = testnode::start("quicker").await else { return };
    let stubborn = format!("trap '{}' TERM; {}; while true; do sleep 0.05; done", say("no"), say("runs"));
    let mut object = sharing(&node, "hooks", "Always", vec![], vec![container("main", &stubborn)]);
    object["spec"]["terminationGracePeriodSeconds"] = 1000.into();
    apply(&node, &object);
    wait_for("the pod", LIMIT, || said(&node) == ["runs"]);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "hooks")));
    let path = "/api/v1/namespaces/default/pods/hooks";
    crate::api_requests::request(&node, "DELETE", path, &[], b"");
    wait_for("the signal", LIMIT, || said(&node).contains(&"no".to_owned()));
    wharf(&node, &["delete", "pod", "hooks", "--grace-period", "1"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn sidecars_begin_one_by_one_and_end_the_other_way_round() {
    let Some(node) = testnode::start("sidecars").await else { return };
    // The first one counts as started when the test says so.
    let mut first = sidecar("first", &faithful("first"));
    first["startupProbe"] =
        json!({"exec": {"command": ["cat", "/shared/go"]}, "periodSeconds": 1, "failureThreshold": 1000});
    first["readinessProbe"] = json!({"exec": {"command": ["cat", "/shared/ready"]}, "periodSeconds": 1});
    let init = vec![first, container("step", &say("step")), sidecar("second", &faithful("second"))];
    let object = sharing(&node, "crew", "Always", init, vec![container("main", &faithful("main"))]);
    apply(&node, &object);
    wait_for("the first", LIMIT, || node.log().matches("Startup probe failed").count() >= 2);
    assert_eq!(said(&node), ["first-runs"]);
    assert!(wharf(&node, &["get", "pods"]).contains("Init:0/3"));

    std::fs::write(node.path("shared/go"), "").unwrap();
    wait_for("the others", LIMIT, || said(&node).len() == 4);
    assert_eq!(said(&node), ["first-runs", "step", "second-runs", "main-runs"]);
    wait_for("the phase", LIMIT, || phase(&node, "crew") == "Running");
    let crew = pod_object(&node, "crew");
    assert!(!is_ready(&crew), "a sidecar that is not ready keeps the pod from being so");
    std::fs::write(node.path("shared/ready"), "").unwrap();
    wait_for("readiness", LIMIT, || is_ready(&pod_object(&node, "crew")));
    assert!(wharf(&node, &["get", "pods"]).contains("3/3"), "{}", wharf(&node, &["get", "pods"]));

    // One that ends is started again, whatever else runs on.
    let statuses = pod_object(&node, "crew")["status"]["initContainerStatuses"].clone();
    let id = statuses[2]["containerID"].as_str().unwrap().trim_start_matches("wharf://").to_owned();
    node.kill_container(&id);
    wait_for("the restart", LIMIT, || {
        pod_object(&node, "crew")["status"]["initContainerStatuses"][2]["restartCount"] == 1
    });
    wait_for("its word", LIMIT, || said(&node).len() == 5);
    wharf(&node, &["delete", "pod", "crew"]);
    assert_eq!(said(&node)[5..], ["main-ends", "second-ends", "first-ends"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_is_done_when_its_containers_are_though_sidecars_run() {
    let Some(node) = testnode::start("sidecarjob").await else { return };
    let init = vec![sidecar("helper", &faithful("helper"))];
    apply(&node, &sharing(&node, "job", "Never", init, vec![container("main", &say("worked"))]));
    wait_for("the end", LIMIT, || phase(&node, "job") == "Succeeded");
    assert_eq!(said(&node), ["helper-runs", "worked", "helper-ends"]);

    let init = vec![sidecar("helper", &faithful("helper")), container("step", "exit 4")];
    apply(&node, &sharing(&node, "broken", "Never", init, vec![container("main", &say("never"))]));
    wait_for("the failure", LIMIT, || phase(&node, "broken") == "Failed");
    assert_eq!(said(&node)[3..], ["helper-runs", "helper-ends"]);
    for name in ["job", "broken"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn wrong_lifecycles_are_refused_by_their_field() {
    let Some(node) = testnode::start("wronghooks").await else { return };
    let mut step = container("step", "true");
    step["lifecycle"] = json!({"preStop": exec("true")});
    let mut always = container("main", "true");
    always["restartPolicy"] = "Always".into();
    let mut signal = container("main", "true");
    signal["lifecycle"] = json!({"stopSignal": "SIGTERM"});
    let plain = || container("main", "true");
    for (init, main, expected) in [
        (
            vec![step],
            plain(),
            "spec.initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
        ),
        (vec![], always, "spec.containers[0].restartPolicy: Forbidden: may not be set for non-init containers"),
        (
            vec![],
            signal,
            "spec.containers[0].lifecycle.stopSignal: Forbidden: may not be set for containers with empty",
        ),
    ] {
        let object = sharing(&node, "wrong", "Always", init, vec![main]);
        let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "wanted {expected:?}, got {message}");
    }
    assert_nothing_left(node);
}
