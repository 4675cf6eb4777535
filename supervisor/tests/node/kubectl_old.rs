//! An older stock kubectl, 1.32, which people still have: each of its commands once. The newest has tests of its own.

use std::io::{BufRead, BufReader, Write};

use serde_json::{Value, json};

use crate::kubectl::{Kubectl, port_forward};
use crate::kubectl_objects::{kubectl_on, outcome, said};
use crate::replicas::{LIMIT, assert_nothing_left, deployment, wait_ready};
use crate::testnode::{self, IMAGE, wait_for};

#[tokio::test]
async fn kubectl_1_32_does_all_that_the_newest_does() {
    const TEST: &str = "kubectl_1_32_does_all_that_the_newest_does";
    let Some(program) = testnode::built("kubectl-1.32") else {
        println!("SKIP {TEST}: no kubectl 1.32: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(node) = testnode::start("kubeold").await else { return };
    let Some(newest) = kubectl_on(&node) else { return println!("SKIP {TEST}: no kubectl") };
    let kubectl = Kubectl { program, ..newest };
    objects(&kubectl);
    wait_ready(&node, 2);
    versions(&kubectl);
    containers(&kubectl, node.path("home").to_str().unwrap());
    shows(&kubectl);
    said(&kubectl, &["delete", "deployment", "web", "--cascade=foreground", "--timeout=30s"], &Value::Null);
    said(&kubectl, &["delete", "services,pods,configmaps", "--all", "--force", "--grace-period=0"], &Value::Null);
    wait_ready(&node, 0);
    assert_nothing_left(node);
}

fn objects(kubectl: &Kubectl) {
    let none = Value::Null;
    let run = |arguments: &[&str]| said(kubectl, arguments, &none);
    let mut web = deployment(1, "echo up; exec httpd -f -p 8080");
    assert!(said(kubectl, &["apply", "-f", "-"], &web).contains("created"));
    assert!(said(kubectl, &["apply", "-f", "-"], &web).contains("unchanged"));
    web["metadata"]["labels"] = json!({"team": "a"});
    let (code, diff, error) = outcome(kubectl, &["diff", "-f", "-"], &web);
    assert!(code == 1 && diff.contains("+    team: a"), "{diff}{error}");
    assert!(said(kubectl, &["apply", "--server-side", "--force-conflicts", "-f", "-"], &web).contains("applied"));
    run(&["create", "configmap", "settings", "--from-literal=colour=red"]);
    let read: Value = serde_json::from_str(&run(&["get", "configmap", "settings", "-o", "json"])).unwrap();
    assert!(said(kubectl, &["replace", "-f", "-"], &read).contains("replaced"));
    run(&["label", "deployment", "web", "tier=one"]);
    run(&["annotate", "deployment", "web", "note=x"]);
    run(&["patch", "deployment", "web", "-p", r#"{"spec":{"revisionHistoryLimit":9}}"#]);
    run(&["scale", "deployment", "web", "--replicas", "2"]);
    run(&["expose", "deployment", "web", "--port", "80", "--target-port", "8080"]);
    run(&["wait", "--for=jsonpath={.status.availableReplicas}=2", "deployment/web", "--timeout=30s"]);
}

fn versions(kubectl: &Kubectl) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    run(&["rollout", "pause", "deployment/web"]);
    run(&["set", "env", "deployment/web", "LATER=1"]);
    run(&["rollout", "resume", "deployment/web"]);
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    run(&["rollout", "undo", "deployment/web"]);
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    run(&["rollout", "restart", "deployment/web"]);
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    assert!(run(&["rollout", "history", "deployment/web"]).contains("REVISION"));
}

fn containers(kubectl: &Kubectl, folder: &str) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    let image = format!("--image={IMAGE}");
    run(&["run", "box", &image, "-i", "--attach=false", "--leave-stdin-open", "--", "cat"]);
    run(&["wait", "--for=condition=Ready", "pod/box", "--timeout=30s"]);
    let output = kubectl.run(&["exec", "-i", "box", "--", "sh", "-c", "cat; exit 7"], b"sent");
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"sent"[..], Some(7)), "{output:?}");
    std::fs::write(format!("{folder}/there"), "copied").unwrap();
    run(&["cp", &format!("{folder}/there"), "box:/tmp/there"]);
    run(&["cp", "box:/tmp/there", &format!("{folder}/back")]);
    assert_eq!(std::fs::read_to_string(format!("{folder}/back")).unwrap(), "copied");
    let mut attached = kubectl.start(&["attach", "-i", "box", "-q"]);
    attached.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut line = String::new();
    BufReader::new(attached.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    attached.kill().unwrap();
    attached.wait().unwrap();
    wait_for("the log", LIMIT, || run(&["logs", "-l", "app=web", "--prefix"]).matches("] up\n").count() >= 2);

    port_forward(kubectl, "service/web", ":80");
    let debug = ["debug", "box", "--image", IMAGE, "--image-pull-policy=IfNotPresent", "--profile=general"];
    let output = kubectl.run(&[&debug[..], &["-i", "-q", "--", "sh"]].concat(), b"echo typed; exit\n");
    assert!(String::from_utf8_lossy(&output.stdout).contains("typed"), "{output:?}");
}

fn shows(kubectl: &Kubectl) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    for what in ["pods", "deployments", "replicasets", "services", "configmaps", "nodes", "events", "namespaces"] {
        assert!(run(&["get", what, "-o", "wide"]).lines().count() > 1, "{what}");
        assert!(run(&["get", what, "-o", "yaml"]).contains("kind: List"), "{what}");
        assert!(!run(&["describe", what]).is_empty(), "{what}");
    }
    assert!(run(&["get", "pods", "-o", "custom-columns=N:.metadata.name"]).contains("box"));
    assert!(run(&["explain", "pod.spec.containers"]).contains("image"));
    assert!(run(&["api-resources", "-o", "name"]).contains("deployments.apps\n"));
    assert!(run(&["events", "--for", "deployment/web"]).contains("ScalingReplicaSet"));
    wait_for("figures", LIMIT, || outcome(kubectl, &["top", "pod", "box"], &Value::Null).0 == 0);
    assert!(run(&["top", "node", "--no-headers"]).contains('%'));
}
