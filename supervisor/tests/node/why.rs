//! `wharf why`: what a pod's page says of a crash loop, a container out of memory, a failing probe and changes; and that it
//! stays when daemon and pod go.

use serde_json::{Value, json};

use crate::replicas::{LIMIT, apply, assert_nothing_left, pod, pod_object, wharf, wharf_with};
use crate::testnode::{self, TestNode, wait_for};

fn why(node: &TestNode, name: &str) -> String {
    wharf(node, &["why", name])
}

fn entries(node: &TestNode, name: &str) -> Vec<Value> {
    let page: Value = serde_json::from_str(&wharf(node, &["why", name, "-o", "json"])).unwrap();
    assert_eq!((&page["kind"], &page["apiVersion"]), (&json!("PodExplanation"), &json!("wharf/v1")));
    page["entries"].as_array().unwrap().clone()
}

fn ends(node: &TestNode, name: &str) -> Vec<Value> {
    entries(node, name).into_iter().filter(|entry| entry["what"] == "ended").collect()
}

#[tokio::test]
async fn a_page_explains_a_crash_loop_and_outlives_daemon_and_pod() {
    let Some(mut node) = testnode::start("whycrash").await else { return };
    apply(&node, &pod("crash", "Always", "echo no database; echo gone wrong > /dev/termination-log; exit 3"));
    wait_for("two ends", LIMIT, || ends(&node, "crash").len() >= 2);
    let page = why(&node, "crash");
    for expected in ["waits: CrashLoopBackOff", "main ended: Error, exit code 3", "| no database", "| gone wrong"] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    node.kill_wharfd();
    node.start_wharfd();
    wait_for("what was known", LIMIT, || ends(&node, "crash").len() >= 2);
    let ids: Vec<String> = ends(&node, "crash").iter().map(|entry| entry["id"].to_string()).collect();
    assert_eq!(ids.len(), ids.iter().collect::<std::collections::BTreeSet<_>>().len(), "each is told once: {ids:?}");
    wharf(&node, &["delete", "pod", "crash"]);
    let page = why(&node, "crash");
    assert!(page.contains("pod default/crash: Gone") && page.contains("the pod was deleted"), "{page}");
    let none = wharf_with(&node, &["why", "none"], "");
    assert_eq!(none.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&none.stderr).contains("pods \"none\" not found"), "{none:?}");
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_page_names_the_limit_that_was_hit_the_probe_that_failed_and_what_was_changed() {
    let Some(node) = testnode::start("whyoom").await else { return };
    // A shell that forks would outlive its child.
    let mut object = pod("hungry", "Never", "exec busybox dd if=/dev/zero of=/dev/null bs=64M count=1");
    object["spec"]["containers"][0]["resources"] = json!({"limits": {"memory": "16Mi"}});
    apply(&node, &object);
    wait_for("the end", LIMIT, || !ends(&node, "hungry").is_empty());
    let end = ends(&node, "hungry").remove(0);
    let status = pod_object(&node, "hungry")["status"]["containerStatuses"][0]["state"].clone();
    assert_eq!(end["reason"], "OOMKilled", "{end} {status}");
    assert_eq!((&end["oom"]["level"], &end["oom"]["limitBytes"]), (&json!("container"), &json!(16 << 20)), "{end}");
    assert!(end["oom"]["group"].as_str().unwrap().contains(end["id"].as_str().unwrap()), "{end}");
    assert!(why(&node, "hungry").contains("16.00 MiB, was hit"));

    let settings = |value: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"colour": value}});
    apply(&node, &settings("red"));
    let mut object = pod("probed", "Always", "trap 'exit 0' TERM; sleep 1000 & wait");
    object["spec"]["containers"][0]["livenessProbe"] = json!({
        "exec": {"command": ["sh", "-c", "echo no answer from the database; exit 1"]}, "periodSeconds": 1, "failureThreshold": 2,
    });
    object["spec"]["volumes"] = json!([{"name": "settings", "configMap": {"name": "settings"}}]);
    apply(&node, &object);
    wait_for("the restart", LIMIT, || !ends(&node, "probed").is_empty());
    apply(&node, &settings("green-is-not-told"));
    wait_for("the change", LIMIT, || {
        why(&node, "probed").contains("configmap settings, which it uses, was changed: colour")
    });
    let page = why(&node, "probed");
    for expected in
        ["Unhealthy: Liveness probe failed: no answer from the database", "failed liveness probe, will be restarted"]
    {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(!page.contains("green-is-not-told"), "{page}");
    wharf(&node, &["delete", "pod", "hungry", "probed"]);
    assert_nothing_left(node);
}
