//! Which pods the node takes: those whose selectors and affinities its labels meet.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::replicas::{
    LIMIT, apply, assert_nothing_left, is_ready, list, pod, pod_object, wait_ready, wharf, wharf_with,
};
use crate::testnode::{self, TestNode, wait_for};

const NOT_WANTED: &str = "0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector.";

/// The node's name, once its object is there.
pub fn node_name(node: &TestNode) -> String {
    wait_for("the node", LIMIT, || wharf(node, &["get", "nodes"]).contains("Ready"));
    list(node, "nodes")[0]["metadata"]["name"].as_str().unwrap().to_owned()
}

/// Sets labels of the node, or takes away those that are null.
pub fn label(node: &TestNode, labels: Value) {
    label_of(node, &format!("/api/v1/nodes/{}", node_name(node)), labels);
}

/// Likewise of the object at a path.
pub fn label_of(node: &TestNode, path: &str, labels: Value) {
    let body = json!({"metadata": {"labels": labels}}).to_string();
    let answer = request(node, "PATCH", path, &["Content-Type: application/merge-patch+json"], body.as_bytes());
    assert_eq!(answer.code, 200, "{}", answer.body);
}

/// Why a pod has no node.
pub fn obstacle(node: &TestNode, name: &str) -> String {
    let conditions = pod_object(node, name)["status"]["conditions"].clone();
    let found = conditions.as_array().and_then(|all| all.iter().find(|c| c["reason"] == "Unschedulable").cloned());
    found.unwrap_or_default()["message"].as_str().unwrap_or_default().to_owned()
}

fn selecting(name: &str, labels: Value) -> Value {
    let mut object = pod(name, "Always", "exec sleep 1000");
    object["spec"]["nodeSelector"] = labels;
    object
}

#[tokio::test]
async fn a_pod_waits_for_the_labels_that_it_wants_of_the_node_and_then_stays() {
    let Some(node) = testnode::start("nodelabels").await else { return };
    let name = node_name(&node);
    let labels = list(&node, "nodes")[0]["metadata"]["labels"].clone();
    assert_eq!((&labels["kubernetes.io/hostname"], &labels["kubernetes.io/os"]), (&json!(name), &json!("linux")));
    apply(&node, &selecting("here", json!({"kubernetes.io/hostname": name, "kubernetes.io/os": "linux"})));
    apply(&node, &selecting("waiting", json!({"disk": "ssd"})));
    let mut affine = pod("affine", "Always", "exec sleep 1000");
    let terms = json!([
        {"matchExpressions": [{"key": "cores", "operator": "Gt", "values": ["4"]}]},
        {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["elsewhere"]}]},
    ]);
    let preferred = json!([{"weight": 1, "preference": {"matchExpressions": [{"key": "none", "operator": "Exists"}]}}]);
    affine["spec"]["affinity"]["nodeAffinity"] = json!({
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms},
        "preferredDuringSchedulingIgnoredDuringExecution": preferred,
    });
    apply(&node, &affine);
    for waiting in ["waiting", "affine"] {
        wait_for("the reason", LIMIT, || obstacle(&node, waiting) == NOT_WANTED);
    }
    wait_for("the first", LIMIT, || is_ready(&pod_object(&node, "here")));
    label(&node, json!({"disk": "ssd"}));
    wait_for("the one with a selector", LIMIT, || is_ready(&pod_object(&node, "waiting")));
    label(&node, json!({"disk": null, "cores": "8"}));
    wait_for("the one with an affinity", LIMIT, || is_ready(&pod_object(&node, "affine")));
    label(&node, json!({"cores": null}));
    assert!(["waiting", "affine"].iter().all(|name| is_ready(&pod_object(&node, name))), "they stay");
    for name in ["here", "waiting", "affine"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_that_is_given_to_a_node_which_it_does_not_want_fails() {
    let Some(node) = testnode::start("nodegiven").await else { return };
    let name = node_name(&node);
    let given = |pod: &str, labels: Value| {
        let mut object = selecting(pod, labels);
        object["spec"]["nodeName"] = name.as_str().into();
        object
    };
    apply(&node, &given("fitting", json!({"kubernetes.io/os": "linux"})));
    apply(&node, &given("unfit", json!({"disk": "ssd"})));
    let status = pod_object(&node, "unfit")["status"].clone();
    let message = "Pod was rejected: Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector";
    assert_eq!(
        (&status["phase"], &status["reason"], &status["message"]),
        (&json!("Failed"), &json!("NodeAffinity"), &json!(message))
    );
    wait_for("the event", LIMIT, || {
        wharf(&node, &["events", "--for", "pod/unfit"]).lines().any(|line| line.contains("NodeAffinity"))
    });
    wait_for("the fitting one", LIMIT, || is_ready(&pod_object(&node, "fitting")));
    // Labels that come later change nothing of it.
    label(&node, json!({"disk": "ssd"}));
    assert_eq!(pod_object(&node, "unfit")["status"]["phase"], "Failed");
    label(&node, json!({"disk": null}));
    // Who makes such pods does not do so without end.
    let mut owner = crate::replicas::deployment(2, "exec sleep 1000");
    owner["spec"]["template"]["spec"] = given("", json!({"disk": "ssd"}))["spec"].clone();
    apply(&node, &owner);
    let of_owner = || {
        let mut pods = list(&node, "pods");
        pods.retain(|pod| !pod["metadata"]["ownerReferences"].is_null());
        pods
    };
    wait_for("the rejected pod of the deployment", LIMIT, || of_owner().len() == 1);
    label(&node, json!({"disk": "ssd"}));
    wait_for("its successors", LIMIT, || of_owner().iter().filter(|pod| is_ready(pod)).count() == 2);
    wait_for("the end of the rejected one", LIMIT, || of_owner().len() == 2);
    wharf(&node, &["delete", "deployment", "web"]);
    for name in ["fitting", "unfit"] {
        wharf(&node, &["delete", "pod", name]);
    }
    wait_ready(&node, 0);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_daemon_set_follows_the_labels_of_the_node() {
    let Some(node) = testnode::start("nodedaemon").await else { return };
    node_name(&node);
    let mut set = crate::replicas::deployment(1, "exec sleep 1000");
    set["kind"] = "DaemonSet".into();
    set["spec"].as_object_mut().unwrap().remove("replicas");
    set["spec"]["template"]["spec"]["nodeSelector"] = json!({"disk": "ssd"});
    apply(&node, &set);
    let status = || list(&node, "daemonsets")[0]["status"].clone();
    let counts = || {
        let status = status();
        ["desiredNumberScheduled", "currentNumberScheduled", "numberReady", "numberMisscheduled"]
            .map(|field| status[field].as_i64())
    };
    wait_for("none", LIMIT, || counts() == [0, 0, 0, 0].map(Some));
    assert!(wharf(&node, &["get", "daemonsets"]).contains("disk=ssd"));
    assert_eq!(list(&node, "pods"), Vec::<Value>::new());
    label(&node, json!({"disk": "ssd"}));
    wait_ready(&node, 1);
    wait_for("one", LIMIT, || counts() == [1, 1, 1, 0].map(Some));
    label(&node, json!({"disk": null}));
    wait_ready(&node, 0);
    wait_for("none again", LIMIT, || counts() == [0, 0, 0, 0].map(Some));
    wharf(&node, &["delete", "daemonset", "web"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn selectors_that_no_node_can_meet_by_their_form_are_refused() {
    let Some(mut node) = testnode::start("nodewrong").await else { return };
    let required = |term: Value| {
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
            {"nodeSelectorTerms": [term]}}}})
    };
    let place = "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]";
    for (fields, expected) in [
        (json!({"nodeSelector": {"a b": "c"}}), "nodeSelector: Invalid value".to_owned()),
        (
            required(json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1", "2"]}]})),
            format!("{place}.matchExpressions[0].values: Required value: must be specified single value"),
        ),
        (
            required(json!({"matchFields": [{"key": "spec.x", "operator": "In", "values": ["a"]}]})),
            format!("{place}.matchFields[0].key: Invalid value: \"spec.x\": not a valid field selector key"),
        ),
    ] {
        let mut object = pod("wrong", "Always", "exec sleep 1000");
        fields.as_object().unwrap().iter().for_each(|(field, value)| object["spec"][field] = value.clone());
        let mut owner = crate::replicas::deployment(1, "exec sleep 1000");
        owner["spec"]["template"]["spec"] = object["spec"].clone();
        for (object, path) in [(object, "spec."), (owner, "spec.template.spec.")] {
            let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
            let said = String::from_utf8_lossy(&output.stderr);
            assert!(output.status.code() == Some(1) && said.contains(&format!("{path}{expected}")), "{said}");
        }
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
