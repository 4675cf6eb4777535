//! Objects that say another name or namespace than the path that they are sent to.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::testnode;

const JSON: &str = "Content-Type: application/json";
const MERGE: &str = "Content-Type: application/merge-patch+json";
const STRATEGIC: &str = "Content-Type: application/strategic-merge-patch+json";
const JSON_PATCH: &str = "Content-Type: application/json-patch+json";
const APPLY: &str = "Content-Type: application/apply-patch+yaml";

const CORE: &str = "/api/v1/namespaces/default";
const NAMESPACE: &str = "the namespace of the provided object does not match the namespace sent on the request";

#[tokio::test]
async fn an_object_is_taken_only_where_it_says_that_it_is() {
    let Some(mut node) = testnode::start("apiident").await else { return };
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "none"}]}});
    let deployment = json!({"metadata": {"name": "d"}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"a": "b"}}, "template": template}});
    let pod = json!({"metadata": {"name": "p", "finalizers": ["test/kept"]}, "spec": template["spec"]});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let post = |path: &str, object: &Value| request(&node, "POST", path, &[JSON], object.to_string().as_bytes());
    assert_eq!(post("/api/v1/namespaces", &json!({"metadata": {"name": "other"}})).code, 201);
    assert_eq!(post(&format!("{CORE}/configmaps"), &json!({"metadata": {"name": "m"}})).code, 201);
    assert_eq!(post(deployments, &deployment).code, 201);
    assert_eq!(post(&format!("{CORE}/pods"), &pod).code, 201);

    // Sends `metadata` in every way that there is to change the object at `path`, and expects one answer.
    let refused = |path: &str, metadata: Value, part: &str| {
        let object = json!({"metadata": metadata}).to_string();
        let operations: Vec<Value> = ["name", "namespace"]
            .iter()
            .filter(|field| !metadata[**field].is_null())
            .map(|field| json!({"op": "replace", "path": format!("/metadata/{field}"), "value": metadata[*field]}))
            .collect();
        for (method, media_type, body) in [
            ("PUT", JSON, object.clone()),
            ("PATCH", MERGE, object.clone()),
            ("PATCH", STRATEGIC, object),
            ("PATCH", JSON_PATCH, json!(operations).to_string()),
        ] {
            // Of a merge a name that is left out is kept.
            if metadata["name"].is_null() && method == "PATCH" && metadata["namespace"].is_null() {
                continue;
            }
            let answer = request(&node, method, path, &[media_type], body.as_bytes());
            let message = answer.body["message"].as_str().unwrap_or_default();
            assert_eq!((answer.code, &answer.body["reason"]), (400, &json!("BadRequest")), "{path} {body}: {message}");
            assert!(message.contains(part), "{method} {path} {media_type} {body}: {message}");
        }
    };
    for (path, name) in [
        (format!("{CORE}/configmaps/m"), "m"),
        (format!("{deployments}/d"), "d"),
        (format!("{deployments}/d/status"), "d"),
        (format!("{deployments}/d/scale"), "d"),
        (format!("{CORE}/pods/p"), "p"),
        (format!("{CORE}/pods/p/status"), "p"),
        (format!("{CORE}/pods/p/resize"), "p"),
        (format!("{CORE}/pods/p/ephemeralcontainers"), "p"),
    ] {
        refused(&path, json!({"name": name, "namespace": "other"}), NAMESPACE);
        let message = format!("the name of the object (x) does not match the name on the URL ({name})");
        refused(&path, json!({"name": "x", "namespace": "default"}), &message);
        refused(&path, json!({}), &format!("the name of the object ({name} based on URL) was undeterminable"));
        assert_eq!(request(&node, "PUT", &path, &[JSON], b"[]").code, 400);
        let other_kind = json!({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": name}}).to_string();
        let answer = request(&node, "PUT", &path, &[JSON], other_kind.as_bytes());
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 400 && message.contains("does not match the expected"), "{path}: {message}");
    }
    // Before it is looked whether there is such an object.
    refused_put(&node, &format!("{CORE}/configmaps/none"), json!({"name": "none", "namespace": "other"}), NAMESPACE);
    refused_put(
        &node,
        &format!("{deployments}/none/scale"),
        json!({"name": "x"}),
        "does not match the name on the URL",
    );

    // What is made, is made where it was sent to, or nowhere.
    let here =
        |metadata: Value, kind: &str, version: &str| json!({"kind": kind, "apiVersion": version, "metadata": metadata});
    let elsewhere = json!({"name": "p", "namespace": "other"});
    for (path, kind, version) in [
        (format!("{CORE}/configmaps"), "ConfigMap", "v1"),
        (format!("{CORE}/pods/p/eviction"), "Eviction", "policy/v1"),
        (format!("{CORE}/serviceaccounts/default/token"), "TokenRequest", "authentication.k8s.io/v1"),
        (
            "/apis/authorization.k8s.io/v1/namespaces/default/localsubjectaccessreviews".into(),
            "LocalSubjectAccessReview",
            "authorization.k8s.io/v1",
        ),
    ] {
        let answer =
            request(&node, "POST", &path, &[JSON], here(elsewhere.clone(), kind, version).to_string().as_bytes());
        assert_eq!((answer.code, &answer.body["message"]), (400, &json!(NAMESPACE)), "{path}");
    }
    for (metadata, kind, part) in [
        (json!({"name": "x"}), "Eviction", "the name of the object (x) does not match"),
        (json!({}), "Eviction", "undeterminable"),
        (json!({"name": "p"}), "Pod", "the kind in the data (Pod) does not match"),
    ] {
        let body = here(metadata, kind, "policy/v1").to_string();
        let answer = request(&node, "POST", &format!("{CORE}/pods/p/eviction"), &[JSON], body.as_bytes());
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 400 && message.contains(part), "{body}: {} {message}", answer.code);
    }
    for (name, metadata, part) in [
        ("m", json!({"name": "m", "namespace": "other"}), NAMESPACE),
        ("new", json!({"name": "new", "namespace": "other"}), NAMESPACE),
        ("m", json!({"name": "x"}), "the name of the object (x) does not match the name on the URL (m)"),
    ] {
        let path = format!("{CORE}/configmaps/{name}?fieldManager=t");
        let body = here(metadata, "ConfigMap", "v1").to_string();
        let answer = request(&node, "PATCH", &path, &[APPLY], body.as_bytes());
        let message = answer.body["message"].as_str().unwrap_or_default();
        assert!(answer.code == 400 && message.contains(part), "{body}: {} {message}", answer.code);
    }
    // One that is meant to be there already, and what is sent to be deleted with.
    let gone = here(json!({"name": "gone", "uid": "u"}), "ConfigMap", "v1").to_string();
    let path = format!("{CORE}/configmaps/gone?fieldManager=t");
    assert_eq!(request(&node, "PATCH", &path, &[APPLY], gone.as_bytes()).code, 409);
    for body in [&br#"{"kind":"Pod","apiVersion":"v1"}"#[..], b"[]", b"7"] {
        assert_eq!(request(&node, "DELETE", &format!("{CORE}/configmaps/m"), &[JSON], body).code, 400);
    }
    // A kind without namespaces has none, whatever an object says.
    let class = json!({"metadata": {"name": "c", "namespace": "other"}, "provisioner": "wharf/none"});
    let made = post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &json!({"metadata": class["metadata"]}));
    assert_eq!((made.code, made.body["metadata"].get("namespace")), (201, None), "{}", made.body);

    // What only the node says of an object is not taken from whoever makes it.
    let ended = json!({"metadata": {"name": "new", "deletionTimestamp": "2026-01-01T00:00:00Z",
        "deletionGracePeriodSeconds": 1, "selfLink": "/x", "uid": "u"}});
    let made = post(&format!("{CORE}/configmaps"), &ended).body["metadata"].clone();
    for field in ["deletionTimestamp", "deletionGracePeriodSeconds", "selfLink"] {
        assert_eq!(made.get(field), None, "{made}");
    }
    assert_ne!(made["uid"], "u");

    // Nothing of all that was done.
    assert_eq!(request(&node, "GET", "/api/v1/namespaces/other/configmaps/m", &[], b"").code, 404);
    let scale = request(&node, "GET", &format!("{deployments}/d/scale"), &[], b"").body;
    assert_eq!((&scale["spec"]["replicas"], &scale["metadata"]["name"]), (&json!(0), &json!("d")));
    let mut wanted = scale;
    wanted["spec"]["replicaz"] = 2.into();
    let strict = format!("{deployments}/d/scale?fieldValidation=Strict");
    let answer = request(&node, "PUT", &strict, &[JSON], wanted.to_string().as_bytes());
    assert_eq!(answer.body["message"], "strict decoding error: unknown field \"spec.replicaz\"");
    let pod = request(&node, "PATCH", &format!("{CORE}/pods/p"), &[MERGE], br#"{"metadata":{"finalizers":null}}"#);
    assert_eq!((pod.code, pod.body["metadata"].get("deletionTimestamp")), (200, None), "{}", pod.body);
    assert_eq!(request(&node, "DELETE", &format!("{CORE}/pods/p?gracePeriodSeconds=0"), &[], b"").code, 200);
    testnode::wait_for("the pod's end", std::time::Duration::from_secs(30), || {
        request(&node, "GET", &format!("{CORE}/pods/p"), &[], b"").code == 404
    });
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

fn refused_put(node: &testnode::TestNode, path: &str, metadata: Value, part: &str) {
    let answer = request(node, "PUT", path, &[JSON], json!({"metadata": metadata}).to_string().as_bytes());
    let message = answer.body["message"].as_str().unwrap_or_default();
    assert!(answer.code == 400 && message.contains(part), "{path}: {} {message}", answer.code);
}
