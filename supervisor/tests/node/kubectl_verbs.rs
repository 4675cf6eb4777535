//! The stock kubectl's ways for a person at a terminal: run, edit, set image, exec -it, kustomize, deletions that wait or
//! leave behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::kubectl_objects::{get, outcome, said, start};
use crate::replicas::{LIMIT, list, wait_ready};
use crate::testnode::{IMAGE, TestNode, wait_for};

const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

fn end(mut node: TestNode, kubectl: &Kubectl) {
    said(kubectl, &["delete", "deployments,replicasets,pods,configmaps", "--all", "--wait"], &Value::Null);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

pub fn executable(path: &Path, script: &str) {
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn kubectl_runs_a_pod_and_talks_to_it_on_a_terminal() {
    const TEST: &str = "kubectl_runs_a_pod_and_talks_to_it_on_a_terminal";
    let Some((node, kubectl)) = start(TEST, "kuberun").await else { return };
    let none = Value::Null;
    let image = format!("--image={IMAGE}");
    let labels = ["--labels", "app=web,tier=one", "--env", "COLOUR=red"];
    said(&kubectl, &[&["run", "web", &image][..], &labels, &["--", "sh", "-c", SLEEP]].concat(), &none);
    wait_ready(&node, 1);
    let live = get(&kubectl, "pod/web");
    assert_eq!(
        (&live["metadata"]["labels"]["tier"], &live["spec"]["restartPolicy"]),
        (&json!("one"), &json!("Always"))
    );

    let shown = kubectl.on_a_terminal("exec -it web -- sh -c 'test -t 0 && test -t 1 && echo on a terminal: $COLOUR'");
    assert!(shown.contains("on a terminal: red\r\n"), "{shown}");
    // One that is gone when it has answered, with its code.
    let arguments =
        ["run", "once", &image, "--restart=Never", "--rm", "-i", "--quiet", "--", "sh", "-c", "read a; echo got $a"];
    let output = kubectl.run(&arguments, b"hello\n");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && text.contains("got hello\n"),
        "{text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    wait_for("its end", LIMIT, || list(&node, "pods").len() == 1);

    // Several pods by label, each line with its pod's name.
    said(
        &kubectl,
        &["run", "other", &image, "--labels", "app=web", "--", "sh", "-c", "echo from other; sleep 1000"],
        &none,
    );
    wait_ready(&node, 2);
    let logs = || said(&kubectl, &["logs", "-l", "app=web", "--prefix", "--tail", "5"], &none);
    wait_for("the log", LIMIT, || logs().contains("[pod/other/other] from other\n"));
    let wide = said(&kubectl, &["get", "pods", "-o", "wide", "-l", "app=web", "--sort-by", ".metadata.name"], &none);
    assert!(wide.lines().nth(1).is_some_and(|line| line.starts_with("other ")), "{wide}");
    assert!(wide.lines().next().is_some_and(|header| header.contains("NOMINATED NODE")), "{wide}");
    let events = said(&kubectl, &["events", "--for", "pod/web"], &none);
    assert!(events.contains("Started"), "{events}");
    let forced = said(&kubectl, &["delete", "pod", "other", "--force", "--grace-period", "0"], &none);
    assert!(forced.contains("\"other\" force deleted"), "{forced}");
    assert!(said(&kubectl, &["api-versions"], &none).lines().any(|line| line == "apps/v1"));
    assert!(said(&kubectl, &["get", "--raw", "/version"], &none).contains("\"gitVersion\":\"v1."));
    end(node, &kubectl);
}

#[tokio::test]
async fn kubectl_edits_sets_and_builds_from_kustomizations() {
    const TEST: &str = "kubectl_edits_sets_and_builds_from_kustomizations";
    let Some((node, kubectl)) = start(TEST, "kubeedit").await else { return };
    let none = Value::Null;
    let folder = node.path("kustomization");
    std::fs::create_dir(&folder).unwrap();
    let deployment = json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {"replicas": 1, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "main", "image": "wharf.test/none:1", "command": ["sh", "-c", SLEEP],
                "envFrom": [{"configMapRef": {"name": "settings"}}]}]},
        }},
    });
    std::fs::write(folder.join("web.yaml"), deployment.to_string()).unwrap();
    let kustomization =
        "namePrefix: site-\nresources: [web.yaml]\nconfigMapGenerator:\n- {name: settings, literals: [COLOUR=red]}\n";
    std::fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    let path = folder.to_str().unwrap();
    assert!(said(&kubectl, &["kustomize", path], &none).contains("name: site-web\n"));
    let applied = said(&kubectl, &["apply", "-k", path], &none);
    assert!(
        applied.contains("deployment.apps/site-web created") && applied.contains("configmap/site-settings-"),
        "{applied}"
    );

    // The image is not there: another one takes its place.
    said(&kubectl, &["set", "image", "deployment/site-web", &format!("main={IMAGE}")], &none);
    said(&kubectl, &["rollout", "status", "deployment/site-web", "--timeout", "30s"], &none);
    said(&kubectl, &["set", "resources", "deployment/site-web", "--limits=memory=64Mi"], &none);
    said(&kubectl, &["rollout", "status", "deployment/site-web", "--timeout", "30s"], &none);
    let container = get(&kubectl, "deployment/site-web")["spec"]["template"]["spec"]["containers"][0].clone();
    assert_eq!((&container["image"], &container["resources"]["limits"]["memory"]), (&json!(IMAGE), &json!("64Mi")));

    // An editor, whose change is sent as a patch; and one that changes nothing.
    let editor = node.path("editor");
    executable(&editor, "#!/bin/sh\nexec sed -i 's/replicas: 1/replicas: 2/' \"$1\"\n");
    assert!(kubectl.edit(&editor, "deployment/site-web").contains("site-web edited"));
    assert_eq!(get(&kubectl, "deployment/site-web")["spec"]["replicas"], 2);
    assert_eq!(kubectl.edit(&editor, "deployment/site-web").trim(), "Edit cancelled, no changes made.");
    wait_ready(&node, 2);
    said(
        &kubectl,
        &[
            "patch",
            "deployment",
            "site-web",
            "--subresource",
            "scale",
            "--type",
            "merge",
            "-p",
            r#"{"spec":{"replicas":1}}"#,
        ],
        &none,
    );
    wait_ready(&node, 1);
    said(&kubectl, &["delete", "-k", path], &none);
    end(node, &kubectl);
}

#[tokio::test]
async fn kubectl_deletes_with_what_is_owned_before_it_or_without() {
    const TEST: &str = "kubectl_deletes_with_what_is_owned_before_it_or_without";
    let Some((node, kubectl)) = start(TEST, "kubedelete").await else { return };
    let none = Value::Null;
    let image = format!("--image={IMAGE}");
    let create = |name: &str| {
        said(&kubectl, &["create", "deployment", name, &image, "--", "sh", "-c", SLEEP], &none);
        wait_ready(&node, 1);
    };
    create("first");
    said(&kubectl, &["delete", "deployment", "first", "--cascade=foreground", "--timeout", "30s"], &none);
    assert_eq!(
        (list(&node, "pods"), list(&node, "replicasets")),
        (Vec::new(), Vec::new()),
        "the owner went before them"
    );

    create("second");
    said(&kubectl, &["delete", "deployment", "second", "--cascade=orphan"], &none);
    let sets = list(&node, "replicasets");
    let owners = sets[0]["metadata"].get("ownerReferences");
    assert!(owners.is_none_or(|owners| owners.as_array().unwrap().is_empty()), "{owners:?}");
    // It keeps its pod by itself.
    let pod = list(&node, "pods")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    said(&kubectl, &["delete", "pod", &pod], &none);
    let other = wait_ready(&node, 1)[0]["metadata"]["name"].as_str().unwrap().to_owned();
    assert_ne!(other, pod);
    let (code, _, error) = outcome(&kubectl, &["delete", "deployment", "second"], &none);
    assert!(code == 1 && error.contains("deployments.apps \"second\" not found"), "{error}");
    end(node, &kubectl);
}
