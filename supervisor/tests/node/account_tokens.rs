//! Whoever shows a token or a certificate: tokens of service accounts, and kubeconfigs for groups.

use serde_json::{Value, json};
use wharf_supervisor::api::tls::MASTERS;

use crate::kube_doors::start;
use crate::replicas::{LIMIT, apply, assert_nothing_left, pod, wharf, wharf_with};
use crate::rights::{Asker, binding, has_curl};
use crate::testnode::wait_for;

#[tokio::test]
async fn tokens_of_service_accounts_are_good_as_long_as_what_they_are_for() {
    if !has_curl("tokens_of_service_accounts_are_good_as_long_as_what_they_are_for") {
        return;
    }
    let Some(node) = start("tokens").await else { return };
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}});
    apply(&node, &account);
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    apply(&node, &binding("robots", "ClusterRole", "view", robot));
    let root = Asker::named(&node, "root", &[MASTERS]);
    let request = "/api/v1/namespaces/default/serviceaccounts/robot/token";
    let given = |spec: Value| root.ask("POST", request, &json!({"spec": spec}));
    let token = |spec: Value| {
        let (code, answer) = given(spec);
        assert_eq!(code, 201, "{answer}");
        assert!(answer["status"]["expirationTimestamp"].is_string());
        answer["status"]["token"].as_str().unwrap().to_owned()
    };
    let listing = |token: &str| Asker::with_token(&node, token).get("/api/v1/namespaces/default/pods").0;
    let plain = token(json!({}));
    assert_eq!(listing(&plain), 200);
    let robots = Asker::with_token(&node, &plain);
    assert_eq!(robots.get("/api/v1/namespaces/kube-system/pods").0, 403);
    let (_, whoami) = robots.ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews", &json!({}));
    let groups = json!(["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]);
    assert_eq!(whoami["status"]["userInfo"]["username"], "system:serviceaccount:default:robot");
    assert_eq!(whoami["status"]["userInfo"]["groups"], groups);
    // It gives itself no other token, and forged ones are none.
    assert_eq!(robots.code("POST", request, &json!({"spec": {}})), 403);
    let parts: Vec<&str> = plain.split('.').collect();
    for forged in [format!("{}.{}.", parts[0], parts[1]), format!("{}.{}.{}", parts[0], parts[0], parts[2])] {
        assert_eq!(listing(&forged), 401);
    }

    // For somebody else: not here, unless it is reviewed for them.
    let foreign = token(json!({"audiences": ["vault"]}));
    assert_eq!(listing(&foreign), 401);
    let review = |spec: Value| {
        root.ask("POST", "/apis/authentication.k8s.io/v1/tokenreviews", &json!({"spec": spec})).1["status"].clone()
    };
    assert_eq!(review(json!({"token": foreign}))["authenticated"], false);
    let known = review(json!({"token": foreign, "audiences": ["vault", "other"]}));
    assert_eq!((known["authenticated"].as_bool(), &known["audiences"]), (Some(true), &json!(["vault"])));
    for (spec, field) in [
        (json!({"expirationSeconds": 599}), "spec.expirationSeconds"),
        (json!({"expirationSeconds": 1_u64 << 33}), "spec.expirationSeconds"),
        (json!({"audiences": ["x".repeat(2000)]}), "spec.audiences"),
        (json!({"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "x"}}), "spec.boundObjectRef"),
    ] {
        let (code, status) = given(spec);
        assert_eq!((code, status["details"]["causes"][0]["field"].as_str()), (422, Some(field)), "{status}");
    }

    // Bound to a pod, and to a secret.
    let mut object = pod("web", "Never", "sleep 1000");
    object["spec"]["serviceAccountName"] = "robot".into();
    apply(&node, &object);
    apply(&node, &pod("other", "Never", "sleep 1000"));
    apply(&node, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}}));
    let bound = |kind: &str, name: &str| json!({"boundObjectRef": {"kind": kind, "apiVersion": "v1", "name": name}});
    assert_eq!(given(bound("Pod", "none")).0, 404);
    assert_eq!(given(bound("Pod", "other")).0, 400);
    let mut strange = bound("Pod", "web");
    strange["boundObjectRef"]["uid"] = "x".into();
    assert_eq!(given(strange).0, 409);
    let (of_pod, of_secret) = (token(bound("Pod", "web")), token(bound("Secret", "key")));
    assert_eq!((listing(&of_pod), listing(&of_secret)), (200, 200));
    wharf(&node, &["delete", "pod", "web", "other"]);
    wharf(&node, &["delete", "secret", "key"]);
    apply(&node, &json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}}));
    wait_for("the end of the pod", LIMIT, || listing(&of_pod) == 401);
    assert_eq!((listing(&of_secret), listing(&plain)), (401, 200));

    // Another account of that name is another.
    wharf(&node, &["delete", "serviceaccount", "robot"]);
    assert_eq!(listing(&plain), 401);
    apply(&node, &account);
    assert_eq!(listing(&plain), 401);
    assert_eq!(listing(&token(json!({}))), 200);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_kubeconfig_is_for_groups() {
    let Some(node) = start("groups").await else { return };
    apply(&node, &binding("readers", "ClusterRole", "view", json!({"kind": "Group", "name": "readers"})));
    let certificate = wharf(&node, &["kubeconfig", "--user", "alice", "--group", "staff", "--group", "readers"]);
    let token = wharf(&node, &["kubeconfig", "--user", "alice", "--group", "readers", "--token"]);
    for kubeconfig in [certificate, token] {
        crate::kube_doors::inside(&node, move || async move {
            let client = crate::kube_doors::of_kubeconfig(&kubeconfig).await;
            let pods: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::default_namespaced(client.clone());
            assert!(pods.list(&kube::api::ListParams::default()).await.unwrap().items.is_empty());
            let all: kube::Api<k8s_openapi::api::core::v1::Pod> = kube::Api::all(client);
            let refused = all.list(&kube::api::ListParams::default()).await.unwrap_err().to_string();
            assert!(refused.contains("User \"alice\" cannot list resource \"pods\""), "{refused}");
        });
    }
    for (arguments, expected) in [
        (&["kubeconfig", "--group", ""][..], "the name of a group \"\""),
        (&["kubeconfig", "--group", "a b", "--token"], "the name of a group \"a b\""),
    ] {
        let output = wharf_with(&node, arguments, "");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(1) && said.contains(expected), "{said}");
    }
    assert_nothing_left(node);
}
