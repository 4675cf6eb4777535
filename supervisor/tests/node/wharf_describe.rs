//! `wharf describe`: a page for an object of each kind, with what belongs to it and its events.

use serde_json::{Value, json};
use wharf_supervisor::api::kinds::KINDS;

use crate::replicas::{LIMIT, apply, assert_nothing_left, deployment, is_ready, list, wait_ready, wharf, wharf_with};
use crate::testnode::{self, wait_for};

/// The lines of a page that begin so, without the name.
fn field<'a>(page: &'a str, name: &str) -> Option<&'a str> {
    page.lines().find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

#[tokio::test]
async fn every_kind_has_a_page() {
    let Some(node) = testnode::start("describe").await else { return };
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings", "labels": {"tier": "one"},
        "annotations": {"note": "x", "kubectl.kubernetes.io/last-applied-configuration": "{}"}},
        "data": {"colour": "red", "motd": "one\ntwo\u{1b}[2J\n"}, "binaryData": {"raw": "AAEC"}});
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"password": "hidden"}});
    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": 8080}]}});
    let claim = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}});
    let mut web = deployment(1, "sleep 1000");
    let pod = &mut web["spec"]["template"]["spec"];
    pod["containers"][0]["env"] =
        json!([{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}}]);
    pod["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    pod["containers"][0]["resources"] = json!({"requests": {"cpu": "100m", "memory": "16Mi"}});
    pod["volumes"] = json!([{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}]);
    let job = json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "once"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [crate::replicas::container("true")]}}}});
    let mut agent = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"}, "spec": web["spec"].clone()});
    agent["spec"].as_object_mut().unwrap().remove("replicas");
    agent["spec"]["template"]["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    for labels in ["/spec/selector/matchLabels", "/spec/template/metadata/labels"] {
        *agent.pointer_mut(labels).unwrap() = json!({"app": "agent"});
    }
    let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": "robot"},
        "spec": {"holderIdentity": "robot-1"}});
    for object in [&map, &secret, &service, &claim, &web, &agent, &job, &lease] {
        apply(&node, object);
    }
    wait_for("all of it", LIMIT, || {
        let is_ready_of =
            |app: &str| list(&node, "pods").iter().any(|pod| pod["metadata"]["labels"]["app"] == app && is_ready(pod));
        wharf(&node, &["get", "jobs", "--no-headers"]).contains("Complete")
            && wharf(&node, &["get", "endpointslices"]).contains("8080")
            && wharf(&node, &["get", "deployments", "--no-headers"]).contains("1/1")
            && is_ready_of("web")
            && is_ready_of("agent")
    });
    let page = |what: &str| wharf(&node, &["describe", what]);

    let shown = page("configmap/settings");
    assert_eq!((field(&shown, "Labels"), field(&shown, "Annotations")), (Some("tier=one"), Some("note=x")), "{shown}");
    assert!(shown.contains("  colour:  red\n  motd:    one\n           two [2J\n"), "{shown}");
    assert!(shown.contains("Binary Data:\n  raw:  3 bytes\n") && shown.ends_with("Events:       <none>\n"), "{shown}");
    let shown = page("secret/login");
    assert!(
        shown.contains("  password:  6 bytes\n") && !shown.contains("hidden") && !shown.contains("aGlkZGVu"),
        "{shown}"
    );
    let pod = name_of(&node, "web");
    let shown = page(&format!("pod/{pod}"));
    for part in [
        "State:          Running",
        "PASSWORD=<key password of Secret login>",
        "/data from data (rw)",
        "claimName:  data",
        "Scheduled",
    ] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    assert!(field(&shown, "Owned By").is_some_and(|owner| owner.starts_with("ReplicaSet/web-")), "{shown}");
    let shown = page("deployment/web");
    assert_eq!(field(&shown, "Replicas"), Some("1 desired | 1 updated | 1 total | 1 available | 0 unavailable"));
    let sets = shown.split("Replica Sets:\n").nth(1).unwrap();
    assert!(sets.lines().nth(1).is_some_and(|line| line.contains(" 1 ") && line.contains("1/1")), "{shown}");
    assert!(shown.contains("ScalingReplicaSet"), "{shown}");
    let shown = page("service/web");
    assert!(shown.contains("http   TCP        80     8080") && shown.contains(&pod), "{shown}");
    let shown = page("pvc/data");
    assert_eq!((field(&shown, "Used By"), field(&shown, "Status")), (Some(pod.as_str()), Some("Bound")), "{shown}");
    let shown = page("node");
    assert!(shown.contains("MemoryPressure") && shown.contains(&pod) && shown.contains(" pods   "), "{shown}");
    assert_eq!(field(&page("namespace/default"), "Status"), Some("Active"));

    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]);
    apply(&node, &crate::rights::role("reader", rules));
    let alice = json!({"kind": "User", "name": "alice"});
    apply(&node, &crate::rights::binding("readers", "Role", "reader", alice));
    assert!(page("role/reader").contains("pods"));
    assert!(page("clusterrolebinding/system:basic-user").contains("system:authenticated"));

    // Whatever is served, all of them.
    for kind in KINDS {
        let shown = wharf(&node, &["describe", kind.plural, "-A"]);
        let names: Vec<Value> = serde_json::from_str::<Value>(&wharf(&node, &["get", kind.plural, "-A", "-o", "json"]))
            .unwrap()["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|object| object["metadata"]["name"].clone())
            .collect();
        assert!(!names.is_empty(), "{}", kind.plural);
        if kind.kind != "Event" {
            assert_eq!(
                shown.lines().filter(|line| line.starts_with("Name: ")).count(),
                names.len(),
                "{}: {shown}",
                kind.plural
            );
        }
        assert!(!shown.contains("hidden"));
    }
    assert!(wharf(&node, &["describe", "configmaps", "-l", "tier=one"]).starts_with("Name:"));
    let quiet = wharf(&node, &["describe", "pod", &pod, "--show-events", "false"]);
    assert!(!quiet.contains("Events:"), "{quiet}");

    for (arguments, expected) in [
        (&["describe"][..], "required"),
        (&["describe", "podz"], "no kind \"podz\""),
        (&["describe", "pod", "none"], "\"none\" not found"),
        (&["describe", "pod", "a", "-l", "x=y"], "do not go together"),
        (&["describe", "pod/a", "-A"], "do not go together"),
    ] {
        let output = wharf_with(&node, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{arguments:?}: {said}");
    }
    for what in ["deployments", "daemonsets", "jobs", "services", "pvc"] {
        wharf(&node, &["delete", what, "--all"]);
    }
    wait_ready(&node, 0);
    wait_for("the end of the volume", LIMIT, || list(&node, "pv").is_empty());
    assert_nothing_left(node);
}

fn name_of(node: &testnode::TestNode, app: &str) -> String {
    let pods = list(node, "pods");
    let pod = pods.iter().find(|pod| pod["metadata"]["labels"]["app"] == app).unwrap();
    pod["metadata"]["name"].as_str().unwrap().to_owned()
}
