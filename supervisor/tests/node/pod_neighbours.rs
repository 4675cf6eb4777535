//! Which pods the node takes beside those that have it: affinities between pods, their spread, and how many there are.

use serde_json::{Value, json};

use crate::pod_placement::{label, label_of, node_name, obstacle};
use crate::replicas::{LIMIT, apply, assert_nothing_left, is_ready, list, pod, pod_object, wharf, wharf_with};
use crate::testnode::{self, Options, TestNode, wait_for};

const REQUIRED: &str = "requiredDuringSchedulingIgnoredDuringExecution";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn labelled(name: &str, app: &str) -> Value {
    let mut object = pod(name, "Always", "exec sleep 1000");
    object["metadata"]["labels"] = json!({"app": app});
    object
}

/// A pod with one required term, which is about the pods of another application on this node.
fn affine(name: &str, app: &str, affinity: &str, other: &str) -> Value {
    let mut object = labelled(name, app);
    let selector = json!({"matchLabels": {"app": other}});
    object["spec"]["affinity"][affinity] =
        json!({REQUIRED: [{"topologyKey": "kubernetes.io/hostname", "labelSelector": selector}]});
    object
}

fn waits_as(node: &TestNode, name: &str, reason: &str) {
    let expected = format!("0/1 nodes are available: 1 {reason}.");
    wait_for("the reason", LIMIT, || obstacle(node, name) == expected);
}

fn runs(node: &TestNode, name: &str) {
    wait_for("the pod", LIMIT, || is_ready(&pod_object(node, name)));
}

fn end(node: TestNode) {
    for pod in list(&node, "pods") {
        wharf(&node, &["delete", "pod", pod["metadata"]["name"].as_str().unwrap()]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn pods_that_are_not_to_be_beside_each_other_wait_for_each_other() {
    let Some(node) = testnode::start("antiaffinity").await else { return };
    node_name(&node);
    apply(&node, &affine("first", "solo", "podAntiAffinity", "solo"));
    apply(&node, &affine("second", "solo", "podAntiAffinity", "solo"));
    apply(&node, &labelled("guest", "solo"));
    runs(&node, "first");
    waits_as(&node, "second", "node(s) didn't match pod anti-affinity rules");
    waits_as(&node, "guest", "node(s) didn't satisfy existing pods anti-affinity rules");
    label_of(&node, &format!("{PODS}/guest"), json!({"app": "other"}));
    runs(&node, "guest");
    assert!(!is_ready(&pod_object(&node, "second")));
    wharf(&node, &["delete", "pod", "first"]);
    runs(&node, "second");
    end(node);
}

#[tokio::test]
async fn a_pod_waits_for_those_that_it_wants_to_be_beside() {
    let Some(node) = testnode::start("podaffinity").await else { return };
    node_name(&node);
    // Beside its own kind the first one may be alone.
    apply(&node, &affine("alone", "alone", "podAffinity", "alone"));
    runs(&node, "alone");
    apply(&node, &affine("web", "web", "podAffinity", "db"));
    waits_as(&node, "web", "node(s) didn't match pod affinity rules");
    apply(&node, &labelled("db", "db"));
    runs(&node, "web");
    // Of other namespaces, by their labels; these are the pod's own value of the key.
    let mut tenant = affine("tenant", "web", "podAffinity", "db");
    tenant["metadata"]["labels"]["version"] = "1".into();
    tenant["spec"]["affinity"]["podAffinity"][REQUIRED][0]["namespaceSelector"] =
        json!({"matchLabels": {"team": "data"}});
    tenant["spec"]["affinity"]["podAffinity"][REQUIRED][0]["matchLabelKeys"] = json!(["version"]);
    apply(&node, &tenant);
    waits_as(&node, "tenant", "node(s) didn't match pod affinity rules");
    label_of(&node, "/api/v1/namespaces/default", json!({"team": "data"}));
    label_of(&node, &format!("{PODS}/db"), json!({"version": "2"}));
    waits_as(&node, "tenant", "node(s) didn't match pod affinity rules");
    label_of(&node, &format!("{PODS}/db"), json!({"version": "1"}));
    runs(&node, "tenant");
    end(node);
}

#[tokio::test]
async fn pods_are_spread_over_the_one_domain_there_is() {
    let Some(node) = testnode::start("podspread").await else { return };
    node_name(&node);
    let spread = |name: &str, more: Value| {
        let mut object = labelled(name, "web");
        let mut constraint = json!({"maxSkew": 1, "topologyKey": "kubernetes.io/hostname",
            "whenUnsatisfiable": "DoNotSchedule", "labelSelector": {"matchLabels": {"app": "web"}}});
        more.as_object().unwrap().iter().for_each(|(field, value)| constraint[field] = value.clone());
        object["spec"]["topologySpreadConstraints"] = json!([constraint]);
        object
    };
    apply(&node, &spread("one", json!({})));
    apply(&node, &spread("two", json!({})));
    ["one", "two"].iter().for_each(|name| runs(&node, name));
    apply(&node, &spread("zoned", json!({"topologyKey": "zone"})));
    waits_as(&node, "zoned", "node(s) didn't match pod topology spread constraints (missing required label)");
    label(&node, json!({"zone": "a"}));
    runs(&node, "zoned");
    apply(&node, &spread("apart", json!({"minDomains": 2})));
    waits_as(&node, "apart", "node(s) didn't match pod topology spread constraints");
    for name in ["one", "two", "zoned"] {
        wharf(&node, &["delete", "pod", name]);
    }
    runs(&node, "apart");
    end(node);
}

#[tokio::test]
async fn the_node_has_no_more_pods_than_it_says() {
    let keys = || Options { keys: "max_pods = 2\n".into(), ..Options::default() };
    let Some(node) = testnode::start_with("maxpods", |_| keys()).await else { return };
    node_name(&node);
    let status = list(&node, "nodes")[0]["status"].clone();
    assert_eq!((&status["capacity"]["pods"], &status["allocatable"]["pods"]), (&json!("2"), &json!("2")));
    for name in ["one", "two", "three"] {
        apply(&node, &pod(name, "Always", "exec sleep 1000"));
    }
    ["one", "two"].iter().for_each(|name| runs(&node, name));
    waits_as(&node, "three", "Too many pods");
    wharf(&node, &["delete", "pod", "one"]);
    runs(&node, "three");
    end(node);
}

#[tokio::test]
async fn affinities_between_pods_of_no_form_are_refused() {
    let Some(mut node) = testnode::start("affinitywrong").await else { return };
    let mut keyless = affine("wrong", "web", "podAntiAffinity", "db");
    keyless["spec"]["affinity"]["podAntiAffinity"][REQUIRED][0]["topologyKey"] = "".into();
    let mut odd = affine("wrong", "web", "podAffinity", "db");
    odd["spec"]["affinity"]["podAffinity"][REQUIRED][0]["labelSelector"] =
        json!({"matchExpressions": [{"key": "a", "operator": "Gt", "values": ["1"]}]});
    let mut skewed = labelled("wrong", "web");
    skewed["spec"]["topologySpreadConstraints"] =
        json!([{"maxSkew": 0, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"}]);
    for (object, expected) in [
        (keyless, format!("spec.affinity.podAntiAffinity.{REQUIRED}[0].topologyKey: Required value: can not be empty")),
        (
            odd,
            format!(
                "spec.affinity.podAffinity.{REQUIRED}[0].labelSelector.matchExpressions[0].operator: Invalid value: \"Gt\": \
                 not a valid selector operator"
            ),
        ),
        (skewed, "spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero".to_owned()),
    ] {
        let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(&expected), "{said}");
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
