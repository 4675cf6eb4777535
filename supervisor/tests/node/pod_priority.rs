//! Which pods matter more than others: classes of priority, who is first, and who ends for whom.

use serde_json::{Value, json};

use crate::kubectl_objects::{get, outcome, said, start};
use crate::pod_placement::{node_name, obstacle};
use crate::replicas::{LIMIT, apply, assert_nothing_left, is_ready, list, pod, pod_object, wharf};
use crate::testnode::{self, TestNode, wait_for};

fn class(name: &str, value: i64, more: Value) -> Value {
    let mut class = json!({"apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
        "value": value});
    more.as_object().into_iter().flatten().for_each(|(field, value)| class[field] = value.clone());
    class
}

/// A pod of a class that asks for all of the node's disk.
fn greedy(node: &TestNode, name: &str, class: &str, script: &str) -> Value {
    let all = list(node, "nodes")[0]["status"]["allocatable"]["ephemeral-storage"].clone();
    let mut object = pod(name, "Always", script);
    object["spec"]["priorityClassName"] = class.into();
    object["spec"]["containers"][0]["resources"] = json!({"requests": {"ephemeral-storage": all}});
    object
}

const FULL: &str = "0/1 nodes are available: 1 Insufficient ephemeral-storage.";

#[tokio::test]
async fn a_pod_that_matters_more_has_others_ended_with_their_grace() {
    let Some(node) = testnode::start("preemption").await else { return };
    let host = node_name(&node);
    apply(&node, &class("low", 10, json!({})));
    apply(&node, &class("high", 1000, json!({})));
    apply(&node, &class("polite", 2000, json!({"preemptionPolicy": "Never"})));
    let mut low = greedy(&node, "low", "low", "trap '' TERM; sleep 1000 & wait; wait");
    low["spec"]["terminationGracePeriodSeconds"] = 1000.into();
    apply(&node, &low);
    let mut beside = pod("beside", "Always", "exec sleep 1000");
    beside["spec"]["priorityClassName"] = "low".into();
    apply(&node, &beside);
    for name in ["low", "beside"] {
        wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, name)));
    }
    apply(&node, &greedy(&node, "polite", "polite", "exec sleep 1000"));
    wait_for("the reason", LIMIT, || obstacle(&node, "polite") == FULL);
    assert!(pod_object(&node, "low")["metadata"]["deletionTimestamp"].is_null(), "it ends nobody");
    wharf(&node, &["delete", "pod", "polite"]);

    apply(&node, &greedy(&node, "high", "high", "exec sleep 1000"));
    wait_for("the promise", LIMIT, || pod_object(&node, "high")["status"]["nominatedNodeName"] == host.as_str());
    wait_for("the end", LIMIT, || pod_object(&node, "low")["metadata"]["deletionTimestamp"].is_string());
    let victim = pod_object(&node, "low");
    let conditions = victim["status"]["conditions"].as_array().unwrap();
    let disruption = conditions.iter().find(|condition| condition["type"] == "DisruptionTarget").unwrap();
    assert_eq!(
        (&disruption["reason"], &disruption["message"]),
        (&json!("PreemptionByScheduler"), &json!("default-scheduler: preempting to accommodate a higher priority pod"))
    );
    wait_for("the event", LIMIT, || wharf(&node, &["events", "--for", "pod/low"]).contains("Preempted by pod"));
    // Who comes meanwhile and matters less does not take what is promised.
    apply(&node, &greedy(&node, "late", "low", "exec sleep 1000"));
    assert_eq!(obstacle(&node, "high"), FULL);
    wharf(&node, &["delete", "pod", "low", "--grace-period", "0"]);
    wait_for("the one that matters", LIMIT, || is_ready(&pod_object(&node, "high")));
    assert!(pod_object(&node, "high")["status"]["nominatedNodeName"].is_null());
    wait_for("the late one's reason", LIMIT, || obstacle(&node, "late") == FULL);
    assert!(is_ready(&pod_object(&node, "beside")), "its end would have helped nobody");
    for name in ["high", "late", "beside"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn of_pods_that_wait_the_one_that_matters_most_is_first() {
    let Some((node, kubectl)) = start("of_pods_that_wait_the_one_that_matters_most_is_first", "priorityorder").await
    else {
        return;
    };
    let host = node_name(&node);
    apply(&node, &class("usual", 5, json!({"globalDefault": true})));
    apply(&node, &class("high", 1000, json!({})));
    said(&kubectl, &["cordon", &host], &Value::Null);
    let mut first = greedy(&node, "first", "", "exec sleep 1000");
    first["spec"].as_object_mut().unwrap().remove("priorityClassName");
    apply(&node, &first);
    apply(&node, &greedy(&node, "second", "high", "exec sleep 1000"));
    let spec = pod_object(&node, "first")["spec"].clone();
    assert_eq!(
        (&spec["priority"], &spec["priorityClassName"], &spec["preemptionPolicy"]),
        (&json!(5), &json!("usual"), &json!("PreemptLowerPriority"))
    );
    // What it was given is kept by who says nothing of it.
    assert!(said(&kubectl, &["replace", "-f", "-"], &first).contains("replaced"));
    assert_eq!(pod_object(&node, "first")["spec"]["priority"], 5);
    said(&kubectl, &["uncordon", &host], &Value::Null);
    wait_for("the second", LIMIT, || is_ready(&pod_object(&node, "second")));
    wait_for("the first one's reason", LIMIT, || obstacle(&node, "first") == FULL);
    for name in ["first", "second"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn classes_of_priority_are_kept_and_checked() {
    let Some((mut node, kubectl)) = start("classes_of_priority_are_kept_and_checked", "priorityclass").await else {
        return;
    };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    let refused = |arguments: &[&str], input: &Value, expected: &str| {
        let (code, _, error) = outcome(&kubectl, arguments, input);
        assert!(code == 1 && error.contains(expected), "{arguments:?}: {error}");
    };
    run(&["create", "priorityclass", "high", "--value=1000", "--description=matters", "--preemption-policy=Never"]);
    let high = get(&kubectl, "priorityclass/high");
    assert_eq!(
        (&high["value"], &high["description"], &high["preemptionPolicy"]),
        (&json!(1000), &json!("matters"), &json!("Never"))
    );
    let table = run(&["get", "pc"]);
    let row = |name: &str| -> Vec<String> {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name}: {table}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    assert_eq!(row("system-node-critical")[1], "2000001000");
    assert_eq!(row("system-cluster-critical")[1], "2000000000");
    assert_eq!((&row("high")[2][..], &row("high")[4][..]), ("false", "Never"));
    assert!(run(&["explain", "priorityclass.globalDefault"]).contains("boolean"));
    refused(
        &["delete", "priorityclass", "system-node-critical"],
        &none,
        "priorityclasses.scheduling.k8s.io \"system-node-critical\" is forbidden: this is a system priority class and cannot be \
         deleted",
    );
    refused(
        &["patch", "pc", "high", "-p", r#"{"value":5}"#],
        &none,
        "value: Forbidden: may not be changed in an update.",
    );
    let apply = ["apply", "-f", "-"];
    refused(
        &apply,
        &class("vast", 1_000_000_001, json!({})),
        "maximum allowed value of a user defined priority is 1000000000",
    );
    refused(&apply, &class("system-mine", 1, json!({})), "system-mine is not a known system priority class");
    said(&kubectl, &apply, &class("usual", 5, json!({"globalDefault": true})));
    refused(
        &apply,
        &class("other", 6, json!({"globalDefault": true})),
        "PriorityClass usual is already marked as default. Only one default can exist",
    );
    refused(
        &["patch", "pc", "high", "-p", r#"{"globalDefault":true}"#],
        &none,
        "PriorityClass usual is already marked as default",
    );
    let mut unknown = pod("unknown", "Always", "exec sleep 1000");
    unknown["spec"]["priorityClassName"] = "none".into();
    refused(&apply, &unknown, "pods \"unknown\" is forbidden: no PriorityClass with name none was found");
    // Who makes pods of a class that is not there yet makes them once it is.
    let mut owner = crate::replicas::deployment(1, "exec sleep 1000");
    owner["spec"]["template"]["spec"]["priorityClassName"] = "later".into();
    said(&kubectl, &apply, &owner);
    wait_for("the failure", LIMIT, || run(&["get", "events"]).contains("no PriorityClass with name later was found"));
    said(&kubectl, &apply, &class("later", 7, json!({})));
    let pods = crate::replicas::wait_ready(&node, 1);
    assert_eq!(pods[0]["spec"]["priority"], 7);
    run(&["delete", "deployment", "web", "--wait"]);
    crate::replicas::wait_ready(&node, 0);
    run(&["delete", "pc", "high", "usual", "later"]);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
