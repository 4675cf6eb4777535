//! Images of declared pods: what is told while they are pulled, found or missed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::registry::{self, LOGIN, REGISTRY, Registry};
use crate::replicas::{
    LIMIT, apply, assert_nothing_left, container_id, is_ready, list, pod, pod_object, wharf, wharf_with,
};
use crate::testnode::{self, IMAGE, TestNode, wait_for};

/// Reason and message of what was told of a pod's container, in the order of their times.
fn told(node: &TestNode, pod: &str) -> Vec<(String, String)> {
    let mut events = list(node, "events");
    events.retain(|event| {
        let part = &event["involvedObject"];
        part["name"] == pod && part["fieldPath"] == "spec.containers{main}"
    });
    let text = |event: &Value, field: &str| event[field].as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| (text(event, "reason"), text(event, "message"))).collect()
}

#[tokio::test]
async fn a_pod_says_where_its_image_is_from() {
    if let Some(missing) = registry::missing() {
        println!("SKIP a_pod_says_where_its_image_is_from: {missing}");
        return;
    }
    let Some(node) = testnode::start("podimages").await else { return };
    let registry = Registry::start(&node);
    registry.push(&node, "image.tar", IMAGE, "web:1");
    let image = format!("{REGISTRY}/web:1");
    let declare = |name: &str, image: &str, policy: &str| {
        let mut object = pod(name, "Always", "sleep 1000");
        object["spec"]["containers"][0]["image"] = image.into();
        object["spec"]["containers"][0]["imagePullPolicy"] = policy.into();
        apply(&node, &object);
    };
    let says = |pod: &str, reason: &str, part: &str| {
        wait_for(reason, LIMIT, || told(&node, pod).iter().any(|(r, message)| r == reason && message.contains(part)));
    };
    declare("pulled", &image, "IfNotPresent");
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "pulled")));
    says("pulled", "Pulling", &format!("Pulling image \"{image}\""));
    says("pulled", "Pulled", &format!("Successfully pulled image \"{image}\" in "));
    says("pulled", "Started", "Started container main");
    declare("found", &image, "IfNotPresent");
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "found")));
    says("found", "Pulled", &format!("Container image \"{image}\" already present on machine"));
    assert!(told(&node, "found").iter().all(|(reason, _)| reason != "Pulling"));
    declare("missing", "none.test/none:1", "Never");
    let message = "Container image \"none.test/none:1\" is not present with pull policy of Never";
    says("missing", "ErrImageNeverPull", message);
    says("missing", "Failed", "Error: ErrImageNeverPull");
    declare("refused", &format!("{REGISTRY}/none:1"), "IfNotPresent");
    says("refused", "Failed", &format!("Failed to pull image \"{REGISTRY}/none:1\": "));
    for name in ["pulled", "found", "missing", "refused"] {
        wharf(&node, &["delete", "pod", name]);
    }
    drop(registry);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_pulls_with_the_logins_of_its_secrets() {
    if let Some(missing) = registry::missing() {
        println!("SKIP a_pod_pulls_with_the_logins_of_its_secrets: {missing}");
        return;
    }
    let Some(node) = testnode::start("podlogins").await else { return };
    let registry = Registry::start_closed(&node);
    registry.push(&node, "image.tar", IMAGE, "web:1");
    let image = format!("{REGISTRY}/web:1");
    let login = |name: &str, login: &str| {
        let config = json!({"auths": {REGISTRY: {"auth": STANDARD.encode(login)}}});
        apply(
            &node,
            &json!({
                "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name},
                "type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": config.to_string()},
            }),
        );
    };
    login("right", LOGIN);
    login("wrong", "somebody:open-barley");
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "puller"},
        "imagePullSecrets": [{"name": "right"}]});
    apply(&node, &account);
    let declare = |name: &str, account: &str, secrets: &[&str]| {
        let mut object = pod(name, "Always", "sleep 1000");
        object["spec"]["containers"][0]["image"] = image.as_str().into();
        object["spec"]["containers"][0]["imagePullPolicy"] = "Always".into();
        object["spec"]["serviceAccountName"] = account.into();
        object["spec"]["imagePullSecrets"] = secrets.iter().map(|name| json!({"name": name})).collect();
        apply(&node, &object);
    };
    let says = |pod: &str, reason: &str, part: &str| {
        wait_for(reason, LIMIT, || told(&node, pod).iter().any(|(r, message)| r == reason && message.contains(part)));
    };
    // The second login is let in, and who names none has those of the account.
    declare("named", "default", &["wrong", "right"]);
    declare("inherited", "puller", &[]);
    for name in ["named", "inherited"] {
        wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, name)));
    }
    declare("nobody", "default", &[]);
    says("nobody", "Failed", "it wants a login, give credentials");
    declare("stranger", "default", &["wrong"]);
    says("stranger", "Failed", "the credentials are wrong or do not reach this repository");
    declare("forgetful", "default", &["none"]);
    says("forgetful", "FailedToRetrieveImagePullSecret", "Unable to retrieve some image pull secrets (none);");
    // What is missing is looked for again at the next try.
    login("none", LOGIN);
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "forgetful")));
    for name in ["named", "inherited", "nobody", "stranger", "forgetful"] {
        wharf(&node, &["delete", "pod", name]);
    }
    drop(registry);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_goes_on_with_another_image() {
    let Some(node) = testnode::start("podimage").await else { return };
    let other = "wharf.test/other:2";
    wharf(&node, &["tag", IMAGE, other]);
    let declare = |image: &str, policy: &str| {
        // It does not run again by itself, however it ends.
        let mut object = pod("web", "Never", "echo $0; trap 'exit 0' TERM; sleep 1000 & wait");
        object["spec"]["terminationGracePeriodSeconds"] = 10.into();
        object["spec"]["containers"][0]["image"] = image.into();
        object["spec"]["containers"][0]["imagePullPolicy"] = policy.into();
        wharf_with(&node, &["apply", "-f", "-"], &object.to_string())
    };
    assert!(declare("none.test/none:1", "Never").status.success());
    let first_status = || pod_object(&node, "web")["status"]["containerStatuses"][0].clone();
    wait_for("the failure", LIMIT, || first_status()["state"]["waiting"]["reason"] == "ErrImageNeverPull");
    // A name that was wrong is set right, and nothing waits for the next try of the wrong one.
    assert!(declare(IMAGE, "Never").status.success());
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "web")));
    let before = first_status();
    assert_eq!((&before["restartCount"], &before["image"]), (&0.into(), &IMAGE.into()));
    assert!(declare(other, "Never").status.success());
    wait_for("the restart", LIMIT, || first_status()["restartCount"] == 1 && is_ready(&pod_object(&node, "web")));
    let after = first_status();
    assert_eq!((&after["image"], &after["lastState"]["terminated"]["exitCode"]), (&other.into(), &0.into()));
    assert_eq!(pod_object(&node, "web")["status"]["phase"], "Running");
    let message = "Container main definition changed, will be restarted";
    wait_for("the event", LIMIT, || told(&node, "web").contains(&("Killing".into(), message.into())));
    let refused = declare(other, "Always");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(said.contains("pod updates may not change fields other than `spec.containers[*].image`"), "{said}");
    // A daemon that comes later restarts nothing.
    let id = container_id(&pod_object(&node, "web"));
    let mut node = node;
    node.kill_wharfd();
    node.start_wharfd();
    wait_for("the pod", LIMIT, || is_ready(&pod_object(&node, "web")));
    assert_eq!(container_id(&pod_object(&node, "web")), id);
    wharf(&node, &["delete", "pod", "web"]);
    assert_nothing_left(node);
}
