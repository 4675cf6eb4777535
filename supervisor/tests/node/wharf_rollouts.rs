//! The `wharf` command's roll-outs, events and figures.

use serde_json::json;

use crate::replicas::{LIMIT, apply, assert_nothing_left, deployment, list, wait_ready, wharf, wharf_with};
use crate::testnode::{self, wait_for};

const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

#[tokio::test]
async fn wharf_rolls_out_tells_of_it_and_goes_back() {
    let Some(node) = testnode::start("rollout").await else { return };
    let mut object = deployment(2, SLEEP);
    object["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "first"});
    apply(&node, &object);
    let status = wharf(&node, &["rollout", "status", "deployment/web", "--timeout", "30"]);
    assert!(status.ends_with("deployment.apps/web is rolled out\n"), "{status}");
    object["metadata"]["annotations"] = json!({"kubernetes.io/change-cause": "second"});
    object["spec"]["template"]["spec"]["containers"][0]["env"] = json!([{"name": "A", "value": "1"}]);
    apply(&node, &object);
    wharf(&node, &["rollout", "status", "deployment", "web", "--timeout", "30"]);
    let history = wharf(&node, &["rollout", "history", "deployment/web"]);
    let versions: Vec<Vec<&str>> = history.lines().skip(1).map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(versions.iter().map(|line| (line[0], line[2])).collect::<Vec<_>>(), [("1", "first"), ("2", "second")]);

    let env = || list(&node, "deployments")[0]["spec"]["template"]["spec"]["containers"][0]["env"].clone();
    assert_eq!(wharf(&node, &["rollout", "undo", "deployment/web"]), "deployment.apps/web goes back to revision 1\n");
    assert!(env().is_null());
    wharf(&node, &["rollout", "undo", "deployment/web", "--to-revision", "2"]);
    assert_eq!(env()[0]["value"], "1");
    let wrong = wharf_with(&node, &["rollout", "undo", "deployment/web", "--to-revision", "9"], "");
    let expected = "wharf: deployment.apps/web has no revision 9; `wharf rollout history` lists them\n";
    assert_eq!((wrong.status.code(), String::from_utf8_lossy(&wrong.stderr).as_ref()), (Some(1), expected));
    wharf(&node, &["rollout", "status", "deployment/web", "--timeout", "30"]);

    let uids = || wait_ready(&node, 2).iter().map(|pod| pod["metadata"]["uid"].to_string()).collect::<Vec<_>>();
    let before = uids();
    wharf(&node, &["rollout", "restart", "deployment/web"]);
    wharf(&node, &["rollout", "status", "deployment/web", "--timeout", "30"]);
    assert!(uids().iter().all(|uid| !before.contains(uid)));
    wharf(&node, &["rollout", "pause", "deployment/web"]);
    let wrong = wharf_with(&node, &["rollout", "pause", "deployment/web"], "");
    assert_eq!(String::from_utf8_lossy(&wrong.stderr), "wharf: deployment.apps/web is already paused\n");
    wharf(&node, &["rollout", "resume", "deployment/web"]);
    let wrong = wharf_with(&node, &["rollout", "history", "pod/web"], "");
    assert_eq!(
        String::from_utf8_lossy(&wrong.stderr),
        "wharf: a pod has no roll-outs to do that with; a deployment has\n"
    );

    wait_for("the events", LIMIT, || {
        wharf(&node, &["events", "--for", "deployment/web"]).contains("ScalingReplicaSet")
    });
    let warnings = wharf_with(&node, &["events", "--type", "Warning", "--for", "deployment/web"], "");
    assert_eq!(String::from_utf8_lossy(&warnings.stderr), "No events found\n");
    wait_for("the figures", LIMIT, || wharf(&node, &["top"]).lines().count() == 3);
    let top = wharf(&node, &["top", "node"]);
    assert!(top.starts_with("NAME") && top.lines().count() == 2 && top.trim_end().ends_with("Mi"), "{top}");
    wharf(&node, &["delete", "deployment", "web"]);
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    assert_nothing_left(node);
}
