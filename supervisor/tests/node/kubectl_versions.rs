//! Every command that kubectl has for a node, typed for the newest and for 1.32, which people still have: both at the same
//! time, each in a namespace of its own. What the newest does beyond it has tests of its own.

use std::io::{BufRead, BufReader, Write};
use std::process::Child;

use serde_json::{Value, json};

use crate::kubectl::{Kubectl, port_forward, proxy};
use crate::kubectl_objects::{get, outcome, said};
use crate::kubectl_verbs::executable;
use crate::replicas::{LIMIT, assert_nothing_left, deployment, pod};
use crate::testnode::{self, IMAGE, wait_for};

/// Programs, and the namespace of each.
const VERSIONS: [(&str, &str); 2] = [("kubectl", "newest"), ("kubectl-1.32", "older")];

/// Does the same with each version.
async fn with_each(test: &str, short: &str, commands: fn(&Kubectl)) {
    let missing = VERSIONS.iter().find(|(program, _)| testnode::tool(program).is_none());
    if let Some((program, _)) = missing {
        println!("SKIP {test}: no {program}: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    }
    let Some(node) = testnode::start(short).await else { return };
    let address = proxy(node.path("run/api.sock"));
    std::thread::scope(|scope| {
        for (program, namespace) in VERSIONS {
            let (program, home) = (testnode::tool(program).unwrap(), node.path(namespace));
            std::fs::create_dir_all(home.join(".kube")).unwrap();
            let config = json!({
                "apiVersion": "v1", "kind": "Config", "current-context": "node",
                "clusters": [{"name": "node", "cluster": {"server": format!("http://{address}")}}],
                "contexts": [{"name": "node", "context": {"cluster": "node", "user": "", "namespace": namespace}}],
            });
            std::fs::write(home.join(".kube/config"), config.to_string()).unwrap();
            let kubectl = Kubectl { program, address, websockets: true, home };
            scope.spawn(move || {
                said(&kubectl, &["create", "namespace", namespace], &Value::Null);
                commands(&kubectl);
                said(&kubectl, &["delete", "namespace", namespace, "--timeout=60s"], &Value::Null);
            });
        }
    });
    assert_nothing_left(node);
}

fn end(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

#[tokio::test]
async fn kubectl_1_32_and_the_newest_declare_change_show_and_delete() {
    const TEST: &str = "kubectl_1_32_and_the_newest_declare_change_show_and_delete";
    with_each(TEST, "kubeboth", |kubectl| {
        declare(kubectl);
        change(kubectl);
        build_from_a_folder(kubectl);
        show(kubectl);
        delete(kubectl);
    })
    .await;
}

/// apply, diff, create, replace.
fn declare(kubectl: &Kubectl) {
    let mut web = deployment(1, "exec sleep 1000");
    assert!(said(kubectl, &["apply", "-f", "-"], &web).contains("created"));
    assert!(said(kubectl, &["apply", "-f", "-"], &web).contains("unchanged"));
    web["metadata"]["labels"] = json!({"team": "a"});
    let (code, diff, error) = outcome(kubectl, &["diff", "-f", "-"], &web);
    assert!(code == 1 && diff.contains("+    team: a"), "{diff}{error}");
    assert!(said(kubectl, &["apply", "-f", "-"], &web).contains("configured"));
    assert_eq!(outcome(kubectl, &["diff", "-f", "-"], &web).0, 0);
    assert!(said(kubectl, &["apply", "--server-side", "--force-conflicts", "-f", "-"], &web).contains("applied"));
    said(kubectl, &["create", "configmap", "settings", "--from-literal=colour=red"], &Value::Null);
    let mut read = get(kubectl, "configmap/settings");
    read["data"]["colour"] = "blue".into();
    assert!(said(kubectl, &["replace", "-f", "-"], &read).contains("configmap/settings replaced"));
    assert_eq!(get(kubectl, "configmap/settings")["data"]["colour"], "blue");
    let (code, _, error) = outcome(kubectl, &["create", "-f", "-"], &web);
    assert!(code == 1 && error.contains("deployments.apps \"web\" already exists"), "{error}");
}

/// label, annotate, patch, edit, set.
fn change(kubectl: &Kubectl) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    run(&["label", "deployment", "web", "tier=one", "team-"]);
    run(&["annotate", "deployment", "web", "note=x"]);
    run(&["patch", "deployment", "web", "-p", r#"{"spec":{"revisionHistoryLimit":9}}"#]);
    run(&["patch", "deployment", "web", "--type=merge", "-p", r#"{"spec":{"minReadySeconds":1}}"#]);
    run(&["patch", "deployment", "web", "--type=json", "-p", r#"[{"op":"remove","path":"/spec/minReadySeconds"}]"#]);
    let editor = kubectl.home.join("editor");
    executable(&editor, "#!/bin/sh\nexec sed -i 's/revisionHistoryLimit: 9/revisionHistoryLimit: 7/' \"$1\"\n");
    assert!(kubectl.edit(&editor, "deployment/web").contains("web edited"));
    assert_eq!(kubectl.edit(&editor, "deployment/web").trim(), "Edit cancelled, no changes made.");
    // What an editor makes of it may be wrong: it is opened again, with what is wrong at the top.
    let script = "#!/bin/sh\nsed -i 's/replicas: 1/replicas: -1/' \"$1\"\ncp \"$1\" \"$HOME/opened\"\n";
    executable(&editor, script);
    let refused = kubectl.edit(&editor, "deployment/web");
    let opened = std::fs::read_to_string(kubectl.home.join("opened")).unwrap();
    assert!(refused.contains("\"web\" is invalid"), "{refused}");
    assert!(opened.contains("# * spec.replicas: Invalid value: -1: must be greater than or equal to 0"), "{opened}");
    run(&["set", "image", "deployment/web", "main=wharf.test/other:1"]);
    run(&["set", "resources", "deployment/web", "--limits=memory=64Mi"]);
    let live = get(kubectl, "deployment/web");
    let main = &live["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(
        (&main["image"], &main["resources"]["limits"]["memory"]),
        (&"wharf.test/other:1".into(), &"64Mi".into())
    );
    let metadata = &live["metadata"];
    assert_eq!((&metadata["labels"], &metadata["annotations"]["note"]), (&json!({"tier": "one"}), &"x".into()));
    assert_eq!(live["spec"]["revisionHistoryLimit"], 7);
    run(&["set", "image", "deployment/web", &format!("main={IMAGE}")]);
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
}

/// kustomize, apply -k, delete -k.
fn build_from_a_folder(kubectl: &Kubectl) {
    let folder = kubectl.home.join("kustomization");
    std::fs::create_dir(&folder).unwrap();
    let kustomization = "namePrefix: site-\nconfigMapGenerator:\n- {name: settings, literals: [colour=red]}\ngeneratorOptions: {disableNameSuffixHash: true}\n";
    std::fs::write(folder.join("kustomization.yaml"), kustomization).unwrap();
    let path = folder.to_str().unwrap();
    assert!(said(kubectl, &["kustomize", path], &Value::Null).contains("name: site-settings\n"));
    assert_eq!(said(kubectl, &["apply", "-k", path], &Value::Null), "configmap/site-settings created\n");
    assert!(said(kubectl, &["delete", "-k", path], &Value::Null).contains("\"site-settings\" deleted"));
}

/// get in its forms, describe, explain, api-resources, events.
fn show(kubectl: &Kubectl) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    for what in ["pods", "deployments", "replicasets", "configmaps", "nodes", "events", "namespaces"] {
        assert!(run(&["get", what, "-o", "wide"]).lines().count() > 1, "{what}");
        assert!(run(&["get", what, "-o", "yaml"]).contains("kind: List"), "{what}");
        assert!(!run(&["describe", what]).is_empty(), "{what}");
    }
    let read: Value = serde_json::from_str(&run(&["get", "deployment", "web", "-o", "json"])).unwrap();
    assert_eq!(read["kind"], "Deployment");
    let name = "jsonpath={.items[0].metadata.name}";
    assert!(run(&["get", "pods", "-l", "app=web", "-o", name]).starts_with("web-"));
    assert!(run(&["get", "pods", "-o", "custom-columns=N:.metadata.name"]).starts_with("N\nweb-"));
    assert_eq!(run(&["get", "deployments", "-o", "name"]), "deployment.apps/web\n");
    assert!(run(&["explain", "pod.spec.containers"]).contains("image"));
    assert!(run(&["api-resources", "-o", "name"]).contains("deployments.apps\n"));
    assert!(run(&["api-versions"]).contains("apps/v1\n"));
    assert!(run(&["events", "--for", "deployment/web"]).contains("ScalingReplicaSet"));
}

/// Owners with what they own, before it, without it; pods at once.
fn delete(kubectl: &Kubectl) {
    let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
    let names = |what: &str| run(&["get", what, "-o", "name"]);
    run(&["delete", "deployment", "web", "--cascade=foreground", "--timeout=30s"]);
    assert_eq!((names("replicasets"), names("pods")), (String::new(), String::new()), "the owner went before them");
    said(kubectl, &["apply", "-f", "-"], &deployment(1, "exec sleep 1000"));
    run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
    run(&["delete", "deployment", "web", "--cascade=orphan"]);
    assert_eq!((names("replicasets").lines().count(), names("pods").lines().count()), (1, 1));
    run(&["delete", "replicasets", "--all", "--cascade=orphan"]);
    let forced = run(&["delete", "pods", "--all", "--force", "--grace-period=0"]);
    assert!(forced.contains("force deleted") && names("pods").is_empty(), "{forced}");
    let (code, _, error) = outcome(kubectl, &["delete", "deployment", "web"], &Value::Null);
    assert!(code == 1 && error.contains("deployments.apps \"web\" not found"), "{error}");
}

#[tokio::test]
async fn kubectl_1_32_and_the_newest_talk_to_containers() {
    const TEST: &str = "kubectl_1_32_and_the_newest_talk_to_containers";
    with_each(TEST, "kubetalk", |kubectl| {
        let image = format!("--image={IMAGE}");
        let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
        run(&["run", "box", &image, "-i", "--attach=false", "--leave-stdin-open", "--", "cat"]);
        run(&["wait", "--for=condition=Ready", "pod/box", "--timeout=30s"]);
        exec_attach_and_cp(kubectl);
        logs(kubectl);
        debug_and_forward(kubectl);
        wait_for("figures", LIMIT, || outcome(kubectl, &["top", "pod", "box"], &Value::Null).0 == 0);
        assert!(run(&["top", "node", "--no-headers"]).contains('%'));
        run(&["delete", "pods", "--all", "--force", "--grace-period=0"]);
    })
    .await;
}

fn exec_attach_and_cp(kubectl: &Kubectl) {
    let output = kubectl.run(&["exec", "-i", "box", "--", "sh", "-c", "cat; exit 7"], b"sent");
    assert_eq!((output.stdout.as_slice(), output.status.code()), (&b"sent"[..], Some(7)), "{output:?}");
    let shown = kubectl.on_a_terminal("exec -it box -- sh -c 'test -t 0 && test -t 1 && echo on a terminal'");
    assert!(shown.contains("on a terminal\r\n"), "{shown}");
    let mut attached = kubectl.start(&["attach", "-i", "box", "-q"]);
    attached.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut line = String::new();
    BufReader::new(attached.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "hello\n");
    end(attached);
    let (there, back) = (kubectl.home.join("there"), kubectl.home.join("back"));
    std::fs::write(&there, "copied").unwrap();
    said(kubectl, &["cp", there.to_str().unwrap(), "box:/tmp/there"], &Value::Null);
    said(kubectl, &["cp", "box:/tmp/there", back.to_str().unwrap()], &Value::Null);
    assert_eq!(std::fs::read_to_string(back).unwrap(), "copied");
}

/// Of a container that runs for the second time: both runs, followed, by label.
fn logs(kubectl: &Kubectl) {
    let script = "echo begun; [ -e /data/again ] && { echo again; exec sleep 1000; }; touch /data/again; exit 3";
    let mut object = pod("twice", "Always", script);
    object["metadata"]["labels"] = json!({"app": "twice"});
    object["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
    object["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "data", "mountPath": "/data"}]);
    said(kubectl, &["create", "-f", "-"], &object);
    wait_for("the second run", LIMIT, || outcome(kubectl, &["logs", "twice"], &Value::Null).1 == "begun\nagain\n");
    assert_eq!(said(kubectl, &["logs", "twice", "--previous"], &Value::Null), "begun\n");
    let marked = said(kubectl, &["logs", "-l", "app=twice", "--prefix", "--tail=1"], &Value::Null);
    assert_eq!(marked, "[pod/twice/main] again\n");
    let mut follower = kubectl.start(&["logs", "-f", "-l", "app=twice"]);
    let mut lines = BufReader::new(follower.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.by_ref().take(2).collect::<Vec<_>>(), ["begun", "again"]);
    said(kubectl, &["exec", "twice", "--", "sh", "-c", "echo later > /proc/1/fd/1"], &Value::Null);
    assert_eq!(lines.next().unwrap(), "later");
    end(follower);
}

fn debug_and_forward(kubectl: &Kubectl) {
    let debug = ["debug", "box", "--image", IMAGE, "--image-pull-policy=IfNotPresent", "--profile=general"];
    let output = kubectl.run(&[&debug[..], &["-i", "-q", "--", "sh"]].concat(), b"echo typed; exit\n");
    assert!(String::from_utf8_lossy(&output.stdout).contains("typed"), "{output:?}");
    let mut web = pod("web", "Always", "exec httpd -f -p 8080");
    web["metadata"]["labels"] = json!({"app": "web"});
    said(kubectl, &["create", "-f", "-"], &web);
    said(kubectl, &["expose", "pod", "web", "--port", "80", "--target-port", "8080"], &Value::Null);
    said(kubectl, &["wait", "--for=condition=Ready", "pod/web", "--timeout=30s"], &Value::Null);
    wait_for("the port", LIMIT, || {
        let listeners = outcome(kubectl, &["exec", "web", "--", "busybox", "netstat", "-ltn"], &Value::Null).1;
        listeners.contains(":8080 ")
    });
    port_forward(kubectl, "pod/web", ":8080");
    port_forward(kubectl, "service/web", ":80");
}

#[tokio::test]
async fn kubectl_1_32_and_the_newest_roll_out() {
    const TEST: &str = "kubectl_1_32_and_the_newest_roll_out";
    with_each(TEST, "kuberoll", |kubectl| {
        let run = |arguments: &[&str]| said(kubectl, arguments, &Value::Null);
        said(kubectl, &["apply", "-f", "-"], &deployment(1, "exec sleep 1000"));
        run(&["scale", "deployment", "web", "--replicas", "2"]);
        run(&["wait", "--for=jsonpath={.status.availableReplicas}=2", "deployment/web", "--timeout=30s"]);
        run(&["wait", "--for=condition=Available", "deployment/web", "--timeout=30s"]);
        run(&["rollout", "pause", "deployment/web"]);
        run(&["set", "env", "deployment/web", "LATER=1"]);
        run(&["annotate", "deployment", "web", "kubernetes.io/change-cause=a variable"]);
        assert_eq!(run(&["get", "replicasets", "-o", "name"]).lines().count(), 1);
        run(&["rollout", "resume", "deployment/web"]);
        run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
        wait_for("the cause", LIMIT, || {
            run(&["rollout", "history", "deployment/web"]).contains("2         a variable")
        });
        assert!(run(&["rollout", "history", "deployment/web", "--revision=2"]).contains("LATER"));
        run(&["rollout", "undo", "deployment/web"]);
        run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
        run(&["rollout", "restart", "deployment/web"]);
        run(&["rollout", "status", "deployment/web", "--timeout=30s"]);
        assert!(run(&["rollout", "history", "deployment/web"]).contains("\n4  "));
        run(&["delete", "deployment", "web"]);
        run(&["wait", "--for=delete", "pods", "--all", "--timeout=30s"]);
    })
    .await;
}
