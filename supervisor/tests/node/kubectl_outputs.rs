//! What the stock kubectl prints, and goes on printing: pages of every kind, forms of output, logs that are followed.

use std::io::{BufRead, BufReader};

use serde_json::{Value, json};
use wharf_supervisor::api::kinds::KINDS;

use crate::kubectl_objects::{get, outcome, said, start};
use crate::replicas::{LIMIT, assert_nothing_left, container, list, pod, wait_ready};
use crate::testnode::{IMAGE, wait_for};

#[tokio::test]
async fn kubectl_describes_every_kind_and_prints_figures_as_tables() {
    const TEST: &str = "kubectl_describes_every_kind_and_prints_figures_as_tables";
    let Some((node, kubectl)) = start(TEST, "kubepages").await else { return };
    let run = |arguments: &[&str]| said(&kubectl, arguments, &Value::Null);
    let create = |object: &Value| said(&kubectl, &["create", "-f", "-"], object);
    run(&["create", "configmap", "settings", "--from-literal=colour=red"]);
    run(&["create", "secret", "generic", "login", "--from-literal=password=hidden"]);
    run(&["create", "deployment", "web", "--image", IMAGE, "--port", "80", "--", "sleep", "1000"]);
    run(&["expose", "deployment", "web", "--port", "80"]);
    create(&json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "robot"},
        "spec": {"holderIdentity": "robot-1", "leaseDurationSeconds": 15}}));
    run(&["create", "job", "once", "--image", IMAGE, "--", "true"]);
    run(&["create", "role", "reader", "--verb=get", "--resource=pods"]);
    run(&["create", "rolebinding", "readers", "--role=reader", "--user=alice"]);
    create(&json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": {
        "selector": {"matchLabels": {"app": "agent"}}, "template": {"metadata": {"labels": {"app": "agent"}},
            "spec": {"terminationGracePeriodSeconds": 0, "containers": [container("sleep 1000")]}}}}));
    create(&json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}}));
    let mut user = pod("user", "Always", "sleep 1000");
    user["spec"]["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    user["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    create(&user);
    run(&["wait", "--for=condition=Ready", "pod/user", "--timeout=30s"]);
    run(&["wait", "--for=condition=complete", "job/once", "--timeout=30s"]);
    run(&["rollout", "status", "daemonset/agent", "--timeout=30s"]);
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);

    for kind in KINDS {
        let described = run(&["describe", &kind.resource(), "--all-namespaces"]);
        assert!(described.starts_with("Name:"), "{}: {described}", kind.plural);
        let table = run(&["get", &kind.resource(), "--all-namespaces", "-o", "wide"]);
        assert!(table.lines().count() > 1, "{}: {table}", kind.plural);
    }
    let leases = run(&["get", "leases"]);
    let words: Vec<Vec<&str>> = leases.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!((&words[0][..], &words[1][..2]), (&["NAME", "HOLDER", "AGE"][..], &["robot", "robot-1"][..]));
    // Of two groups, one is meant where none is named.
    let events = run(&["get", "events.events.k8s.io"]);
    assert!(events.starts_with("LAST SEEN") && events.contains("SuccessfulCreate"), "{events}");
    assert!(run(&["get", "events", "-o", "yaml"]).contains("\n  involvedObject:\n"));
    let described = run(&["describe", "pvc", "data"]);
    assert!(described.contains("Used By:       user") && described.contains("Bound"), "{described}");

    // The same figures as `top`, as a table and as objects.
    let has_figures =
        |arguments: &[&str]| outcome(&kubectl, &[&["top", "pod"], arguments].concat(), &Value::Null).0 == 0;
    wait_for("figures", LIMIT, || has_figures(&["user"]) && has_figures(&["-l", "app=web"]));
    let shown = run(&["get", "pods.metrics.k8s.io", "user"]);
    let lines: Vec<Vec<&str>> = shown.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "CPU", "MEMORY", "WINDOW"]);
    assert!(lines[1][0] == "user" && lines[1][1].ends_with('m') && lines[1][2].ends_with("Ki"), "{shown}");
    assert!(run(&["get", "nodes.metrics.k8s.io", "--no-headers"]).contains("ms\n"));
    let containers = "jsonpath={.items[*].containers[*].name}";
    assert!(run(&["get", "pods.metrics.k8s.io", "-o", containers]).contains("main"));
    let figures = run(&["top", "pod", "--containers", "--sum", "-l", "app=web"]);
    assert!(figures.contains("busybox") && figures.contains("________"), "{figures}");
    run(&["delete", "deployments,daemonsets,jobs,services,pods,persistentvolumeclaims", "--all", "--wait"]);
    wait_ready(&node, 0);
    wait_for("the end of the volume", LIMIT, || list(&node, "pv").is_empty());
    assert_nothing_left(node);
}

#[tokio::test]
async fn kubectl_replaces_prints_and_follows() {
    let Some((node, kubectl)) = start("kubectl_replaces_prints_and_follows", "kubeprint").await else { return };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    let script = "echo begun; [ -e /data/again ] && { echo again; exec sleep 1000; }; touch /data/again; exit 3";
    let mut object = pod("web", "Always", script);
    object["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    said(&kubectl, &["create", "-f", "-"], &object);

    // A log is followed over the end of its reader's patience, and the one before is kept.
    wait_for("the restart", LIMIT, || outcome(&kubectl, &["logs", "web", "--previous"], &none).1 == "begun\n");
    wait_for("the second run", LIMIT, || run(&["logs", "web"]) == "begun\nagain\n");
    let mut follower = kubectl.start(&["logs", "-f", "web", "--timestamps"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().ends_with("Z begun") && lines.next().unwrap().ends_with("Z again"));
    run(&["exec", "web", "--", "sh", "-c", "echo later > /proc/1/fd/1"]);
    assert!(lines.next().unwrap().ends_with("Z later"));
    let mut watcher = kubectl.start(&["get", "pod", "web", "--watch", "--output-watch-events", "--no-headers"]);
    let mut events = BufReader::new(watcher.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(events.next().unwrap().starts_with("ADDED "));

    // Replaced as it was read; with --force deleted and made anew.
    let read = run(&["get", "pod", "web", "-o", "yaml"]);
    assert!(read.contains("\n  uid: ") && read.starts_with("apiVersion: v1\nkind: Pod\n"), "{read}");
    let mut live = get(&kubectl, "pod/web");
    let uid = live["metadata"]["uid"].clone();
    live["metadata"]["labels"] = json!({"tier": "one"});
    assert!(said(&kubectl, &["replace", "-f", "-"], &live).contains("pod/web replaced"));
    assert!(events.by_ref().any(|line| line.starts_with("MODIFIED ")), "the watch ended");
    let (code, _, error) = outcome(&kubectl, &["replace", "-f", "-"], &live);
    assert!(code == 1 && error.contains("the object has been modified"), "{error}");
    assert!(said(&kubectl, &["replace", "--force", "-f", "-"], &object).contains("pod/web replaced"));
    assert!(events.by_ref().any(|line| line.starts_with("DELETED ")), "the watch ended");
    assert_ne!(get(&kubectl, "pod/web")["metadata"]["uid"], uid);
    assert_eq!(lines.last(), None, "the log of a pod that is gone ends");
    follower.wait().unwrap();
    watcher.kill().unwrap();
    watcher.wait().unwrap();

    assert_eq!(run(&["get", "pod", "web", "-o", "name"]), "pod/web\n");
    assert_eq!(run(&["get", "pods", "-o", "jsonpath={.items[*].metadata.name}"]), "web");
    assert_eq!(run(&["get", "pods", "-o", "go-template={{range .items}}{{.kind}}{{end}}"]), "Pod");
    assert!(run(&["get", "all"]).contains("pod/web "));
    assert!(run(&["get", "pods", "--show-labels"]).contains("<none>"));
    assert!(run(&["get", "pods", "--field-selector", "status.phase=Failed"]).contains("No resources found"));
    run(&["delete", "pod", "web", "--now"]);
    wait_ready(&node, 0);
    assert_nothing_left(node);
}
