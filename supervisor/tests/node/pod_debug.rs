//! `kubectl debug`: ephemeral containers in pods that run.

use serde_json::json;

use crate::api_requests::request;
use crate::kubectl_objects::kubectl_on;
use crate::replicas::{LIMIT, apply, assert_nothing_left, is_ready, pod, pod_object, wharf};
use crate::testnode::{self, IMAGE, wait_for};

#[tokio::test]
async fn kubectl_debug_looks_into_a_pod_that_runs() {
    let Some(node) = testnode::start("debug").await else { return };
    let Some(kubectl) = kubectl_on(&node) else {
        println!("SKIP kubectl_debug_looks_into_a_pod_that_runs: no kubectl: scripts/go-tools builds it");
        return;
    };
    apply(&node, &pod("box", "Always", "exec sleep 4321"));
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "box")));
    let debug = ["debug", "box", "--image", IMAGE, "--image-pull-policy", "IfNotPresent", "--target", "main"];
    let script = "busybox ps -o args | grep -c '[s]leep 4321'; echo seen";
    let arguments = [&debug[..], &["-c", "eye", "--profile", "general", "--", "sh", "-c", script]].concat();
    let output = kubectl.run(&arguments, b"");
    assert!(output.status.success(), "{output:?}");
    let status = || pod_object(&node, "box")["status"]["ephemeralContainerStatuses"][0].clone();
    wait_for("its end", LIMIT, || !status()["state"]["terminated"].is_null());
    assert_eq!((&status()["state"]["terminated"]["exitCode"], &status()["restartCount"]), (&json!(0), &json!(0)));
    assert_eq!(wharf(&node, &["logs", "box", "-c", "eye"]), "1\nseen\n");
    assert!(is_ready(&pod_object(&node, "box")), "the pod is as ready as it was");

    // With input, as a person uses it.
    let arguments = [&debug[..], &["-i", "-q", "-c", "hand", "--profile", "general", "--", "sh"]].concat();
    let output = kubectl.run(&arguments, b"echo typed; exit\n");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.contains("typed"), "{output:?}");

    // What is there stays; a pod has none when it is made.
    for (method, path, body, expected) in [
        (
            "PUT",
            "/api/v1/namespaces/default/pods/box/ephemeralcontainers",
            {
                let mut object = pod_object(&node, "box");
                object["spec"]["ephemeralContainers"].as_array_mut().unwrap().remove(0);
                object["metadata"].as_object_mut().unwrap().remove("resourceVersion");
                object
            },
            "existing ephemeral containers \"eye\" may not be removed",
        ),
        (
            "POST",
            "/api/v1/namespaces/default/pods",
            {
                let mut object = pod("other", "Always", "true");
                object["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": IMAGE}]);
                object
            },
            "spec.ephemeralContainers: Forbidden: cannot be set on create",
        ),
    ] {
        let answer = request(&node, method, path, &["Content-Type: application/json"], body.to_string().as_bytes());
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 422 && message.contains(expected), "{} {message}", answer.code);
    }
    wharf(&node, &["delete", "pod", "box"]);
    assert_nothing_left(node);
}
