//! The stock kubectl on the API's objects: what it declares, changes, explains and is refused.

use std::time::Duration;

use serde_json::{Value, json};

use crate::kubectl::{Kubectl, proxy};
use crate::replicas::wait_ready;
use crate::testnode::{self, IMAGE, TestNode, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

pub fn kubectl_on(node: &TestNode) -> Option<Kubectl> {
    let program = testnode::tool("kubectl")?;
    let home = node.path("home");
    std::fs::create_dir(&home).unwrap();
    Some(Kubectl { program, address: proxy(node.path("run/api.sock")), websockets: true, home })
}

/// What a command that succeeds prints.
pub fn said(kubectl: &Kubectl, arguments: &[&str], input: &Value) -> String {
    let (code, out, error) = outcome(kubectl, arguments, input);
    assert_eq!(code, 0, "{arguments:?}: {out}{error}");
    out + &error
}

pub fn outcome(kubectl: &Kubectl, arguments: &[&str], input: &Value) -> (i32, String, String) {
    let input = if input.is_null() { String::new() } else { input.to_string() };
    let output = kubectl.run(arguments, input.as_bytes());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

pub fn get(kubectl: &Kubectl, object: &str) -> Value {
    serde_json::from_str(&said(kubectl, &["get", object, "-o", "json", "--show-managed-fields"], &Value::Null)).unwrap()
}

fn deployment(script: &str) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": 1, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [
                    {"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}]},
            },
        },
    })
}

fn configured_pod() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": {"name": "configured", "labels": {"tier": "one"}},
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{
                "name": "main", "image": IMAGE, "command": ["sh", "-c", "echo $COLOUR $PASSWORD $TIER; sleep 1000"],
                "envFrom": [{"configMapRef": {"name": "settings"}}],
                "env": [
                    {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}}},
                    {"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}},
                ],
                "volumeMounts": [{"name": "all", "mountPath": "/all"}],
            }],
            "volumes": [{"name": "all", "projected": {"defaultMode": 0o440, "sources": [
                {"configMap": {"name": "settings"}},
                {"secret": {"name": "login", "items": [{"key": "password", "path": "private/password"}]}},
                {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}},
            ]}}],
        },
    })
}

/// Starts a node and its kubectl, or says why the test is skipped.
pub async fn start(test: &str, short: &str) -> Option<(TestNode, Kubectl)> {
    if testnode::tool("kubectl").is_none() {
        println!("SKIP {test}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return None;
    }
    let node = testnode::start(short).await?;
    let kubectl = kubectl_on(&node)?;
    Some((node, kubectl))
}

fn end(mut node: TestNode, kubectl: &Kubectl) {
    said(kubectl, &["delete", "deployments,pods,configmaps,secrets", "--all", "--wait"], &Value::Null);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn kubectl_declares_and_changes_objects() {
    let Some((node, kubectl)) = start("kubectl_declares_and_changes_objects", "kubeobj").await else { return };
    let none = Value::Null;
    let resources = said(&kubectl, &["api-resources", "-o", "name"], &none);
    for name in ["configmaps", "deployments.apps", "namespaces", "pods", "replicasets.apps", "secrets"] {
        assert!(resources.lines().any(|line| line == name), "{name}: {resources}");
    }
    let explained = said(&kubectl, &["explain", "deployment.spec.strategy.rollingUpdate"], &none);
    assert!(explained.contains("maxSurge") && explained.contains("GROUP:      apps"), "{explained}");

    // Client-side apply: three-way, by strategic merge patch.
    let sleep = "exec sleep 1000";
    assert!(said(&kubectl, &["apply", "-f", "-"], &deployment(sleep)).contains("web created"));
    assert!(said(&kubectl, &["apply", "-f", "-"], &deployment(sleep)).contains("web unchanged"));
    said(&kubectl, &["set", "env", "deployment/web", "BESIDE=1"], &none);
    let mut labelled = deployment(sleep);
    labelled["metadata"]["labels"] = json!({"team": "a"});
    let (code, diff, error) = outcome(&kubectl, &["diff", "-f", "-"], &labelled);
    assert!(code == 1 && diff.contains("+    team: a") && !diff.contains("BESIDE"), "{code} {diff}{error}");
    said(&kubectl, &["apply", "-f", "-"], &labelled);
    let live = get(&kubectl, "deployment/web");
    let main = &live["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&main["env"][0]["name"], &main["name"]), (&json!("BESIDE"), &json!("main")));
    assert_eq!(live["metadata"]["labels"]["team"], "a");

    // Single changes, by each kind of patch.
    said(&kubectl, &["label", "deployment", "web", "team=b", "--overwrite"], &none);
    said(&kubectl, &["annotate", "deployment", "web", "note=x"], &none);
    said(&kubectl, &["scale", "deployment", "web", "--replicas", "2"], &none);
    said(
        &kubectl,
        &[
            "patch",
            "deployment",
            "web",
            "-p",
            r#"{"spec":{"template":{"spec":{"containers":[{"name":"main","stdin":true}]}}}}"#,
        ],
        &none,
    );
    said(
        &kubectl,
        &["patch", "deployment", "web", "--type", "merge", "-p", r#"{"metadata":{"annotations":{"note":null}}}"#],
        &none,
    );
    let json_patch = r#"[{"op":"replace","path":"/spec/revisionHistoryLimit","value":9}]"#;
    said(&kubectl, &["patch", "deployment", "web", "--type", "json", "-p", json_patch], &none);
    let live = get(&kubectl, "deployment/web");
    let template = &live["spec"]["template"]["spec"];
    assert_eq!(template["containers"][0]["stdin"], true);
    assert_eq!(template["containers"][0]["command"][2], sleep);
    assert_eq!((&live["spec"]["replicas"], &live["spec"]["revisionHistoryLimit"]), (&json!(2), &json!(9)));
    assert_eq!(live["metadata"]["annotations"].get("note"), None);
    said(&kubectl, &["rollout", "status", "deployment/web", "--timeout", "30s"], &none);
    said(&kubectl, &["wait", "--for=condition=Available", "deployment/web", "--timeout", "30s"], &none);
    let history = said(&kubectl, &["rollout", "history", "deployment/web"], &none);
    assert!(history.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_digit())).count() >= 2, "{history}");
    said(&kubectl, &["rollout", "undo", "deployment/web", "--to-revision=1"], &none);
    assert_eq!(get(&kubectl, "deployment/web")["spec"]["template"]["spec"]["containers"][0].get("env"), None);
    said(&kubectl, &["rollout", "restart", "deployment/web"], &none);
    said(&kubectl, &["rollout", "status", "deployment/web", "--timeout", "30s"], &none);

    // Paused, it has no new version; resumed, one for all changes.
    said(&kubectl, &["rollout", "pause", "deployment/web"], &none);
    let versions = || said(&kubectl, &["get", "replicasets", "-o", "name"], &none).lines().count();
    let before = versions();
    said(&kubectl, &["set", "env", "deployment/web", "LATER=1"], &none);
    said(&kubectl, &["scale", "deployment", "web", "--replicas", "3"], &none);
    wait_ready(&node, 3);
    let condition = r#"jsonpath={.status.conditions[?(@.type=="Progressing")].reason}"#;
    assert_eq!(said(&kubectl, &["get", "deployment", "web", "-o", condition], &none), "DeploymentPaused");
    assert_eq!(versions(), before);
    said(&kubectl, &["rollout", "resume", "deployment/web"], &none);
    said(
        &kubectl,
        &["wait", &format!("--for={condition}=NewReplicaSetAvailable"), "deployment/web", "--timeout=30s"],
        &none,
    );
    said(&kubectl, &["rollout", "status", "deployment/web", "--timeout", "30s"], &none);
    assert_eq!(versions(), before + 1);

    // In parts, as a table, as columns.
    let paged = said(&kubectl, &["get", "replicasets", "--chunk-size", "1", "-o", "name"], &none);
    assert!(paged.lines().count() >= 3, "{paged}");
    let columns = "custom-columns=N:.metadata.name,R:.spec.replicas";
    assert!(said(&kubectl, &["get", "deployment", "-o", columns], &none).contains("web   3"));
    let described = said(&kubectl, &["describe", "deployment", "web"], &none);
    assert!(described.contains("StrategyType:           RollingUpdate"), "{described}");
    let tried = said(&kubectl, &["delete", "deployment", "web", "--dry-run=server"], &none);
    assert!(tried.contains("(server dry run)") && get(&kubectl, "deployment/web").is_object(), "{tried}");
    end(node, &kubectl);
}

#[tokio::test]
async fn kubectl_applies_on_the_server() {
    let Some((node, kubectl)) = start("kubectl_applies_on_the_server", "kubessa").await else { return };
    let none = Value::Null;
    let by = |manager: &str| format!("--field-manager={manager}");
    let mut object = deployment("exec sleep 1000");
    let one = ["apply", "--server-side", "-f", "-", &by("one")];
    assert!(said(&kubectl, &one, &object).contains("web serverside-applied"));
    said(&kubectl, &["scale", "deployment", "web", "--replicas", "2"], &none);
    let (code, _, error) = outcome(&kubectl, &one, &object);
    assert!(code == 1 && error.contains("conflict with \"kubectl\"") && error.contains(".spec.replicas"), "{error}");
    // Who leaves a field to others has no conflict, and takes nothing away.
    object["spec"].as_object_mut().unwrap().remove("replicas");
    said(&kubectl, &one, &object);
    assert_eq!(get(&kubectl, "deployment/web")["spec"]["replicas"], 2);
    object["spec"]["replicas"] = 1.into();
    said(&kubectl, &["apply", "--server-side", "-f", "-", &by("one"), "--force-conflicts"], &object);
    let live = get(&kubectl, "deployment/web");
    assert_eq!(live["spec"]["replicas"], 1);
    let managers = live["metadata"]["managedFields"].as_array().unwrap();
    assert!(managers.iter().any(|m| m["manager"] == "one" && m["operation"] == "Apply"), "{managers:?}");
    // What nobody applies any more goes.
    object["metadata"]["labels"] = json!({"a": "1"});
    said(&kubectl, &one, &object);
    object["metadata"].as_object_mut().unwrap().remove("labels");
    said(&kubectl, &one, &object);
    assert_eq!(get(&kubectl, "deployment/web")["metadata"].get("labels"), None);
    object["spec"]["repliccas"] = 1.into();
    let (code, _, error) = outcome(&kubectl, &one, &object);
    assert!(code == 1 && error.contains("unknown field \"spec.repliccas\""), "{error}");
    end(node, &kubectl);
}

#[tokio::test]
async fn config_maps_and_secrets_reach_containers_and_follow_changes() {
    const TEST: &str = "config_maps_and_secrets_reach_containers_and_follow_changes";
    let Some((node, kubectl)) = start(TEST, "kubecfg").await else { return };
    let none = Value::Null;
    said(&kubectl, &["apply", "-f", "-"], &configured_pod());
    let waiting = "jsonpath={.status.containerStatuses[0].state.waiting.message}";
    wait_for("the reason", LIMIT, || {
        said(&kubectl, &["get", "pod", "configured", "-o", waiting], &none)
            .contains("configmaps \"settings\" not found")
    });
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}, "data": {"COLOUR": "red", "gone": "1"}});
    said(&kubectl, &["create", "-f", "-"], &map);
    let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "login"}, "stringData": {"password": "hidden"}});
    said(&kubectl, &["create", "-f", "-"], &secret);
    wait_ready(&node, 1);
    wait_for("the log", LIMIT, || said(&kubectl, &["logs", "configured"], &none) == "red hidden one\n");
    let read = |path: &str| {
        let (_, out, error) = outcome(&kubectl, &["exec", "configured", "--", "cat", path], &none);
        out + &error
    };
    assert_eq!((read("/all/COLOUR").as_str(), read("/all/private/password").as_str()), ("red", "hidden"));
    assert_eq!(read("/all/labels"), "tier=\"one\"\n");
    let (code, _, error) = outcome(&kubectl, &["exec", "configured", "--", "sh", "-c", "echo x > /all/COLOUR"], &none);
    assert!(code != 0 && error.contains("Read-only file system"), "{error}");

    let change = r#"{"data":{"COLOUR":"blue","gone":null}}"#;
    said(&kubectl, &["patch", "configmap", "settings", "-p", change], &none);
    said(&kubectl, &["label", "pod", "configured", "tier=two", "--overwrite"], &none);
    wait_for("the new files", LIMIT, || read("/all/COLOUR") == "blue" && read("/all/labels") == "tier=\"two\"\n");
    assert!(read("/all/gone").contains("No such file"));
    let restarts = "jsonpath={.status.containerStatuses[0].restartCount}";
    assert_eq!(said(&kubectl, &["get", "pod", "configured", "-o", restarts], &none), "0");
    let described = said(&kubectl, &["describe", "secret", "login"], &none);
    assert!(described.contains("password:  6 bytes") && !described.contains("hidden"), "{described}");
    assert!(!node.log().contains("hidden"), "a secret stands in the log");
    end(node, &kubectl);
}
