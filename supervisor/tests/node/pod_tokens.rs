//! Programs in pods that use the API, with the token of their service account; and kubectl's commands about rights.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kubectl_objects::{kubectl_on, outcome, said};
use crate::replicas::{LIMIT, apply, assert_nothing_left, phase, pod, pod_object, wharf, wharf_with};
use crate::rights::{binding, role};
use crate::testnode::{self, Options, TestNode, wait_for};

/// A node whose API pods reach: in its own network there is no other way to it than the bridge.
async fn start(test: &str) -> Option<TestNode> {
    testnode::start_with(test, |_| Options { keys: "api.listen = \"0.0.0.0:6443\"\n".into(), ..Options::default() })
        .await
}

#[tokio::test]
async fn a_pod_may_what_its_service_account_may() {
    const TEST: &str = "a_pod_may_what_its_service_account_may";
    let Some(kubectl) = testnode::tool("kubectl") else {
        println!("SKIP {TEST}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(node) = start("podtokens").await else { return };
    apply(&node, &json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "robot"}}));
    let rules = json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list"]}]);
    apply(&node, &role("reader", rules));
    let robot = json!({"kind": "ServiceAccount", "name": "robot", "namespace": "default"});
    apply(&node, &binding("robots", "Role", "reader", robot));
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let script = format!(
        "export HOME=/tmp; mkdir -p /tmp; cat {folder}/namespace; echo; \
         /kubectl get pods -o name; /kubectl get secrets 2>&1; \
         /kubectl auth whoami -o 'jsonpath={{.status.userInfo.username}}'; echo; \
         /kubectl --server https://kubernetes.default.svc --certificate-authority {folder}/ca.crt \
         --token \"$(cat {folder}/token)\" get pods -o name; echo ready; sleep 1000"
    );
    let mut object = pod("client", "Never", &script);
    object["spec"]["serviceAccountName"] = "robot".into();
    object["spec"]["volumes"] = json!([{"name": "kubectl", "hostPath": {"path": kubectl}}]);
    object["spec"]["containers"][0]["volumeMounts"] =
        json!([{"name": "kubectl", "mountPath": "/kubectl", "readOnly": true}]);
    apply(&node, &object);
    let logs = || String::from_utf8_lossy(&wharf_with(&node, &["logs", "client"], "").stdout).into_owned();
    wait_for("the pod's requests", Duration::from_secs(120), || logs().ends_with("ready\n"));
    let expected = "default\npod/client\nError from server (Forbidden): secrets is forbidden: \
        User \"system:serviceaccount:default:robot\" cannot list resource \"secrets\" in API group \"\" in the namespace \"default\"\n\
        system:serviceaccount:default:robot\npod/client\nready\n";
    assert_eq!(logs(), expected);

    // Without its account it is nobody.
    wharf(&node, &["delete", "serviceaccount", "robot"]);
    let asked = wharf_with(&node, &["exec", "client", "--", "env", "HOME=/tmp", "/kubectl", "get", "pods"], "");
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    assert!(!asked.status.success() && said.contains("Unauthorized"), "{said}");
    wharf(&node, &["delete", "pod", "client"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn tokens_are_files_of_pods_that_want_them() {
    let Some(node) = start("tokenfiles").await else { return };
    let folder = "/var/run/secrets/kubernetes.io/serviceaccount";
    let mut own =
        pod("own", "Never", "cat /tokens/mine; echo; busybox ls /var/run/secrets 2>&1; echo $KUBERNETES_SERVICE_PORT");
    own["spec"]["automountServiceAccountToken"] = false.into();
    let source = json!({"serviceAccountToken": {"path": "mine", "audience": "vault", "expirationSeconds": 600}});
    own["spec"]["volumes"] = json!([{"name": "tokens", "projected": {"sources": [source]}}]);
    own["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "tokens", "mountPath": "/tokens"}]);
    own["spec"]["enableServiceLinks"] = false.into();
    apply(&node, &own);
    let script = format!(
        "busybox ls {folder}; cat {folder}/ca.crt | busybox head -n 1; (echo > {folder}/token) 2>/dev/null || echo read-only"
    );
    apply(&node, &pod("plain", "Never", &script));
    for name in ["own", "plain"] {
        wait_for("the pod's end", LIMIT, || phase(&node, name) == "Succeeded");
    }
    let said = wharf(&node, &["logs", "own"]);
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines.len() == 3 && lines[0].split('.').count() == 3 && lines[2] == "443", "{said}");
    let claims =
        base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, lines[0].split('.').nth(1).unwrap());
    let claims: Value = serde_json::from_slice(&claims.unwrap()).unwrap();
    assert_eq!((&claims["aud"], &claims["sub"]), (&json!(["vault"]), &json!("system:serviceaccount:default:default")));
    assert_eq!(claims["kubernetes.io"]["pod"]["uid"], pod_object(&node, "own")["metadata"]["uid"]);
    assert_eq!(claims["exp"].as_i64().unwrap() - claims["iat"].as_i64().unwrap(), 600);
    assert_eq!(wharf(&node, &["logs", "plain"]), "ca.crt\nnamespace\ntoken\n-----BEGIN CERTIFICATE-----\nread-only\n");
    let stranger = pod("stranger", "Never", "true");
    let mut stranger = stranger;
    stranger["spec"]["serviceAccountName"] = "nobody".into();
    let refused = wharf_with(&node, &["apply", "-f", "-"], &stranger.to_string());
    assert!(String::from_utf8_lossy(&refused.stderr).contains("serviceaccount \"nobody\" not found"));

    // What the node makes for its pods comes back when somebody takes it away, with the address that pods know.
    let service = |field: &str| -> Value {
        let text = wharf_with(&node, &["get", "service", "kubernetes", "-o", "json"], "").stdout;
        serde_json::from_slice::<Value>(&text).map(|service| service[field].clone()).unwrap_or_default()
    };
    let (address, uid) = (service("spec")["clusterIP"].clone(), service("metadata")["uid"].clone());
    wharf(&node, &["delete", "service", "kubernetes"]);
    wharf(&node, &["delete", "configmap", "kube-root-ca.crt"]);
    wait_for("the service", LIMIT, || service("metadata")["uid"].is_string() && service("metadata")["uid"] != uid);
    assert_eq!(service("spec")["clusterIP"], address);
    wait_for("the config map", LIMIT, || {
        wharf_with(&node, &["get", "configmap", "kube-root-ca.crt"], "").status.success()
    });
    wharf(&node, &["delete", "pod", "own", "plain"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_node_that_pods_do_not_reach_gives_them_no_token() {
    let Some(node) = testnode::start("notokens").await else { return };
    let mut object = pod("plain", "Never", "busybox ls /var/run/secrets 2>&1; echo done");
    apply(&node, &object);
    wait_for("the pod's end", LIMIT, || phase(&node, "plain") == "Succeeded");
    assert!(wharf(&node, &["logs", "plain"]).contains("No such file"));
    assert!(!wharf_with(&node, &["get", "service", "kubernetes"], "").status.success());
    // One that insists waits, and says for what.
    object["metadata"]["name"] = "wanting".into();
    let source = json!({"serviceAccountToken": {"path": "token"}});
    object["spec"]["volumes"] = json!([{"name": "tokens", "projected": {"sources": [source]}}]);
    apply(&node, &object);
    wait_for("the reason", LIMIT, || {
        pod_object(&node, "wanting")["status"]["containerStatuses"][0]["state"]["waiting"]["message"]
            .as_str()
            .is_some_and(|message| message.contains("`api.listen`"))
    });
    wharf(&node, &["delete", "pod", "plain", "wanting"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn kubectl_gives_rights_and_asks_for_them() {
    const TEST: &str = "kubectl_gives_rights_and_asks_for_them";
    let Some(node) = crate::kube_doors::start("kubectlauth").await else { return };
    let Some(kubectl) = kubectl_on(&node) else {
        println!("SKIP {TEST}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    run(&["create", "role", "reader", "--verb=get,list", "--resource=pods,pods/log"]);
    run(&[
        "create",
        "rolebinding",
        "readers",
        "--role=reader",
        "--user=alice",
        "--group=staff",
        "--serviceaccount=default:robot",
    ]);
    run(&["create", "clusterrole", "prober", "--verb=get", "--non-resource-url=/metrics"]);
    run(&["create", "clusterrolebinding", "probers", "--clusterrole=prober", "--group=staff"]);
    run(&["create", "serviceaccount", "robot"]);
    assert_eq!(run(&["auth", "can-i", "list", "pods", "--as", "alice"]), "yes\n");
    let (code, out, _) = outcome(&kubectl, &["auth", "can-i", "create", "pods", "--as", "alice"], &none);
    assert_eq!((code, out.trim()), (1, "no"));
    assert_eq!(run(&["auth", "can-i", "get", "/metrics", "--as", "bob", "--as-group", "staff"]), "yes\n");
    assert_eq!(run(&["auth", "can-i", "*", "*"]), "yes\n");
    let list = run(&["auth", "can-i", "--list", "--as", "alice"]);
    assert!(list.lines().any(|line| line.starts_with("pods ") && line.contains("[get list]")), "{list}");
    let whoami = run(&["auth", "whoami"]);
    assert!(whoami.contains("root") && whoami.contains("system:masters"), "{whoami}");
    let (code, _, error) = outcome(&kubectl, &["get", "secrets", "--as", "alice"], &none);
    assert!(code == 1 && error.contains("secrets is forbidden: User \"alice\""), "{error}");
    let token = run(&["create", "token", "robot", "--duration=1h", "--audience=vault"]);
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    let (code, _, error) = outcome(&kubectl, &["create", "token", "robot", "--duration=1m"], &none);
    assert!(code == 1 && error.contains("may not specify a duration less than 10 minutes"), "{error}");
    let shown = run(&["get", "rolebindings", "-o", "wide"]);
    assert!(shown.contains("Role/reader") && shown.contains("default/robot"), "{shown}");
    assert!(run(&["get", "roles"]).contains("CREATED AT"));
    assert!(run(&["describe", "role", "reader"]).contains("pods/log"));
    assert!(
        run(&["get", "clusterroles", "-o", "name"]).contains("clusterrole.rbac.authorization.k8s.io/cluster-admin\n")
    );
    assert!(run(&["explain", "role.rules"]).contains("nonResourceURLs"));
    let resources = run(&["api-resources", "-o", "name"]);
    for name in [
        "rolebindings.rbac.authorization.k8s.io",
        "selfsubjectaccessreviews.authorization.k8s.io",
        "tokenreviews.authentication.k8s.io",
    ] {
        assert!(resources.lines().any(|line| line == name), "{resources}");
    }
    // kubectl brings roles and bindings to what a file says.
    let mut object = role("reader", json!([{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]));
    object["metadata"]["namespace"] = "default".into();
    said(&kubectl, &["auth", "reconcile", "-f", "-", "--remove-extra-permissions"], &object);
    let (code, _, _) = outcome(&kubectl, &["auth", "can-i", "list", "pods", "--as", "alice"], &none);
    assert_eq!(code, 1);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_stream_into_a_container_needs_the_right_to_create_it() {
    const TEST: &str = "a_stream_into_a_container_needs_the_right_to_create_it";
    let Some(program) = testnode::tool("kubectl") else {
        println!("SKIP {TEST}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(node) = crate::kube_doors::start("execright").await else { return };
    apply(&node, &pod("web", "Never", "echo begun; sleep 1000"));
    wait_for("the pod", LIMIT, || phase(&node, "web") == "Running");
    let file = node.path("kubeconfig");
    wharf(&node, &["kubeconfig", "--user", "eve", "--group", "runners", "--output", file.to_str().unwrap()]);
    let kubectl = |arguments: &[&str], websockets: &str| {
        let mut command = node.enter();
        command.arg(&program).arg("--kubeconfig").arg(&file).args(arguments).env("HOME", node.path("home"));
        command.env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websockets).stdin(std::process::Stdio::null());
        let output = command.output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    };
    let exec = ["exec", "web", "--", "echo", "inside"];
    let rule = |resource: &str, verb: &str| json!({"apiGroups": [""], "resources": [resource], "verbs": [verb]});
    apply(&node, &binding("runners", "Role", "runner", json!({"kind": "Group", "name": "runners"})));
    // To read the sub-resource is not enough, though a WebSocket is asked for by GET.
    apply(&node, &role("runner", json!([rule("pods", "get"), rule("pods/exec", "get"), rule("pods/log", "get")])));
    for websockets in ["true", "false"] {
        let (success, out, error) = kubectl(&exec, websockets);
        assert!(!success && out.is_empty() && error.contains("cannot create resource \"pods/exec\""), "{error}");
    }
    assert_eq!(kubectl(&["logs", "web"], "true").1, "begun\n");
    apply(&node, &role("runner", json!([rule("pods", "get"), rule("pods/exec", "create")])));
    for websockets in ["true", "false"] {
        let (success, out, error) = kubectl(&exec, websockets);
        assert!(success && out == "inside\n", "websockets {websockets}: {out}{error}");
    }
    assert!(kubectl(&["logs", "web"], "true").2.contains("cannot get resource \"pods/log\""));
    let debugged = kubectl(&["debug", "web", "--image", testnode::IMAGE, "--", "true"], "true").2;
    assert!(debugged.contains("forbidden") && debugged.contains("pods/ephemeralcontainers"), "{debugged}");
    wharf(&node, &["delete", "pod", "web"]);
    assert_nothing_left(node);
}
