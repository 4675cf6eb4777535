//! The stock kubectl's commands that make objects out of flags: it sends them as protobuf.

use serde_json::{Value, json};

use crate::kubectl_objects::{get, outcome, said, start};
use crate::replicas::wait_ready;
use crate::testnode::{IMAGE, wait_for};

const LIMIT: std::time::Duration = std::time::Duration::from_secs(30);

/// Ends when it is asked to.
const SLEEP: &str = "trap 'exit 0' TERM; sleep 1000 & wait";

#[tokio::test]
async fn kubectl_makes_objects_out_of_flags() {
    let Some((mut node, kubectl)) = start("kubectl_makes_objects_out_of_flags", "kubetyped").await else { return };
    let none = Value::Null;
    let create = |arguments: &[&str]| said(&kubectl, &[&["create"], arguments].concat(), &none);
    assert_eq!(create(&["namespace", "side"]), "namespace/side created\n");
    create(&["configmap", "settings", "--from-literal=colour=red", "--from-literal=empty="]);
    assert_eq!(get(&kubectl, "configmap/settings")["data"]["colour"], "red");
    assert_eq!(get(&kubectl, "configmap/settings")["data"]["empty"], "");
    create(&["secret", "generic", "login", "--from-literal=password=hidden"]);
    assert_eq!(get(&kubectl, "secret/login")["data"]["password"], "aGlkZGVu");
    create(&["serviceaccount", "robot"]);
    let accounts = said(&kubectl, &["get", "serviceaccounts", "-o", "name"], &none);
    assert!(accounts.contains("serviceaccount/robot"), "{accounts}");
    wait_for("the default account", LIMIT, || {
        said(&kubectl, &["get", "serviceaccounts", "-n", "side", "-o", "name"], &none) == "serviceaccount/default\n"
    });

    create(&["deployment", "web", "--image", IMAGE, "--replicas", "2", "--port", "80", "--", "sh", "-c", SLEEP]);
    let live = get(&kubectl, "deployment/web");
    assert_eq!((&live["spec"]["replicas"], &live["spec"]["strategy"]["type"]), (&2.into(), &"RollingUpdate".into()));
    let container = &live["spec"]["template"]["spec"]["containers"][0];
    assert_eq!((&container["ports"][0]["containerPort"], &container["command"][0]), (&80.into(), &"sh".into()));
    wait_ready(&node, 2);
    said(&kubectl, &["rollout", "restart", "deployment/web"], &none);
    said(&kubectl, &["rollout", "status", "deployment/web", "--timeout", "30s"], &none);

    let (code, _, error) = outcome(&kubectl, &["create", "configmap", "settings"], &none);
    assert!(code == 1 && error.contains("configmaps \"settings\" already exists"), "{error}");
    let (code, _, error) = outcome(&kubectl, &["create", "deployment", "Web", "--image", IMAGE], &none);
    assert!(code == 1 && error.contains("metadata.name"), "{error}");

    said(&kubectl, &["delete", "deployments,configmaps,secrets", "--all", "--wait"], &none);
    said(&kubectl, &["delete", "namespace", "side"], &none);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn kubectl_shows_the_node_its_events_and_figures_and_drains_it() {
    const TEST: &str = "kubectl_shows_the_node_its_events_and_figures_and_drains_it";
    let Some((mut node, kubectl)) = start(TEST, "kubenode").await else { return };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    wait_for("the node's object", LIMIT, || run(&["get", "nodes", "--no-headers"]).contains(" Ready "));
    let name = run(&["get", "nodes", "-o", "name"]).trim().trim_start_matches("node/").to_owned();
    run(&["create", "deployment", "web", "--image", IMAGE, "--", "sh", "-c", SLEEP]);
    let first = wait_ready(&node, 1)[0]["metadata"]["name"].as_str().unwrap().to_owned();

    let described = run(&["describe", "node", &name]);
    for part in ["InternalIP:", "MemoryPressure", "Container Runtime Version:", &first] {
        assert!(described.contains(part), "{part}: {described}");
    }
    wait_for("the events", LIMIT, || {
        let described = run(&["describe", "deployment", "web"]) + &run(&["describe", "pod", &first]);
        ["ScalingReplicaSet", "Scheduled", "Created", "Started"].iter().all(|reason| described.contains(reason))
    });
    assert!(run(&["events", "--for", "deployment/web"]).contains("Scaled up replica set"));
    assert!(run(&["get", "events", "-o", "wide"]).contains("SuccessfulCreate"));
    // Rates need two samples of the node's sampler.
    wait_for("figures of the pod", LIMIT, || outcome(&kubectl, &["top", "pod", &first, "--no-headers"], &none).0 == 0);
    assert!(run(&["top", "node", "--no-headers"]).contains('%'));

    // New pods wait while the node is cordoned.
    run(&["cordon", &name]);
    assert!(run(&["get", "nodes"]).contains("SchedulingDisabled"));
    run(&["scale", "deployment", "web", "--replicas", "2"]);
    wait_for("a pod without a node", LIMIT, || run(&["get", "pods"]).contains("Pending"));
    wait_for("the reason", LIMIT, || run(&["get", "events"]).contains("FailedScheduling"));
    let drained = run(&["drain", &name, "--grace-period=0", "--timeout=30s"]);
    assert!(drained.contains("evicted") && drained.contains("drained"), "{drained}");
    wait_for("an empty node", LIMIT, || !run(&["get", "pods"]).contains("Running"));
    run(&["uncordon", &name]);
    wait_ready(&node, 2);

    let (code, _, error) = outcome(&kubectl, &["delete", "node", &name], &none);
    assert!(code == 1 && error.contains("DELETE is not supported"), "{error}");
    let (code, _, error) = outcome(&kubectl, &["taint", "node", &name, "a=b:NoSchedule"], &none);
    assert!(code == 1 && error.contains("spec.taints"), "{error}");
    run(&["delete", "deployments", "--all", "--wait"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn jobs_run_to_their_end_and_daemon_sets_roll() {
    let Some((mut node, kubectl)) = start("jobs_run_to_their_end_and_daemon_sets_roll", "kubejob").await else {
        return;
    };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    run(&["create", "job", "once", "--image", IMAGE, "--", "echo", "done"]);
    run(&["wait", "--for=condition=complete", "job/once", "--timeout=30s"]);
    assert_eq!(run(&["logs", "job/once"]), "done\n");
    assert!(run(&["get", "job", "once"]).contains("1/1"));
    assert!(run(&["describe", "job", "once"]).contains("1 Succeeded / 0 Failed"));
    // A pod that was counted is done with: taking it away runs nothing again.
    run(&["delete", "pods", "-l", "job-name=once"]);
    assert_eq!(get(&kubectl, "job/once")["status"]["succeeded"], 1);

    let job = |name: &str, script: &str, spec: Value| {
        let mut job = json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
            "spec": {"template": {"spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": IMAGE, "command": ["sh", "-c", script]}]}}},
        });
        for (field, value) in spec.as_object().unwrap() {
            job["spec"][field] = value.clone();
        }
        job
    };
    let create = |job: &Value| said(&kubectl, &["create", "-f", "-"], job);
    create(&job("many", "exit 0", json!({"completions": 4, "parallelism": 2})));
    create(&job("broken", "exit 3", json!({"backoffLimit": 0})));
    create(&job("late", "exec sleep 1000", json!({"activeDeadlineSeconds": 1})));
    create(&job("brief", "exit 0", json!({"ttlSecondsAfterFinished": 0})));
    run(&["wait", "--for=condition=complete", "job/many", "--timeout=30s"]);
    assert_eq!(get(&kubectl, "job/many")["status"]["succeeded"], 4);
    for (name, reason) in [("broken", "BackoffLimitExceeded"), ("late", "DeadlineExceeded")] {
        run(&["wait", "--for=condition=failed", &format!("job/{name}"), "--timeout=30s"]);
        let conditions = get(&kubectl, &format!("job/{name}"))["status"]["conditions"].clone();
        assert_eq!(conditions[1]["reason"], reason, "{conditions}");
    }
    wait_for("the end of what is not kept", LIMIT, || {
        outcome(&kubectl, &["get", "job", "brief"], &none).2.contains("not found")
    });
    create(&job("indexed", "exit 0", json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3})));
    run(&["wait", "--for=condition=complete", "job/indexed", "--timeout=30s"]);
    let described = run(&["describe", "job", "indexed"]);
    assert!(described.contains("Completed Indexes:  0-2"), "{described}");
    let refused = job("no", "exit 0", json!({"managedBy": "other"}));
    let (code, _, error) = outcome(&kubectl, &["create", "-f", "-"], &refused);
    assert!(code == 1 && error.contains("spec.managedBy"), "{error}");
    run(&["delete", "jobs", "--all"]);

    let set = json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet", "metadata": {"name": "agent"},
        "spec": {"selector": {"matchLabels": {"app": "agent"}}, "template": {
            "metadata": {"labels": {"app": "agent"}}, "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": IMAGE, "command": ["sleep", "1000"]}]}}},
    });
    said(&kubectl, &["apply", "-f", "-"], &set);
    run(&["rollout", "status", "daemonset/agent", "--timeout=30s"]);
    let first = run(&["get", "pods", "-l", "app=agent", "-o", "name"]);
    run(&["set", "env", "daemonset/agent", "CHANGED=1"]);
    run(&["rollout", "status", "daemonset/agent", "--timeout=30s"]);
    let second = run(&["get", "pods", "-l", "app=agent", "-o", "name"]);
    assert!(second.lines().count() == 1 && second != first, "{first}{second}");
    assert!(run(&["describe", "daemonset", "agent"]).contains("SuccessfulDelete"));
    run(&["annotate", "daemonset", "agent", "kubernetes.io/change-cause=a variable"]);
    wait_for("the cause", LIMIT, || run(&["rollout", "history", "daemonset/agent"]).contains("2         a variable"));
    assert!(run(&["rollout", "history", "daemonset/agent", "--revision", "2"]).contains("CHANGED"));
    assert!(run(&["get", "controllerrevisions"]).contains("daemonset.apps/agent   1"));
    run(&["rollout", "undo", "daemonset/agent"]);
    run(&["rollout", "status", "daemonset/agent", "--timeout=30s"]);
    let template = &get(&kubectl, "daemonset/agent")["spec"]["template"]["spec"]["containers"][0];
    assert!(template.get("env").is_none_or(|variables| variables == &json!([])), "{template}");
    let history = run(&["rollout", "history", "daemonset/agent"]);
    assert!(history.contains("\n2         a variable\n3 ") && !history.contains("\n1 "), "{history}");
    run(&["delete", "daemonset", "agent"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_rollout_that_stands_still_fails_and_can_be_taken_back() {
    const TEST: &str = "a_rollout_that_stands_still_fails_and_can_be_taken_back";
    let Some((mut node, kubectl)) = start(TEST, "kubestuck").await else { return };
    let none = Value::Null;
    let run = |arguments: &[&str]| said(&kubectl, arguments, &none);
    run(&["create", "deployment", "web", "--image", IMAGE, "--", "sh", "-c", SLEEP]);
    run(&["rollout", "status", "deployment/web", "--timeout", "30s"]);
    run(&["patch", "deployment", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":1}}"#]);
    let container = r#"{"name":"busybox","image":"none.test/none:1","imagePullPolicy":"Never"}"#;
    let patch = format!(r#"{{"spec":{{"template":{{"spec":{{"containers":[{container}]}}}}}}}}"#);
    run(&["patch", "deployment", "web", "-p", &patch]);
    let (code, _, error) = outcome(&kubectl, &["rollout", "status", "deployment/web", "--timeout", "30s"], &none);
    assert!(code == 1 && error.contains("exceeded its progress deadline"), "{code} {error}");
    let described = run(&["describe", "deployment", "web"]);
    assert!(described.contains("ProgressDeadlineExceeded"), "{described}");
    wait_for("the event", LIMIT, || run(&["get", "events"]).contains("Warning   Failed"));
    run(&["annotate", "deployment", "web", "kubernetes.io/change-cause=a slip"]);
    wait_for("the cause", LIMIT, || run(&["rollout", "history", "deployment/web"]).contains("2         a slip"));
    // The way back may take longer than a roll-out that has to fail.
    run(&["patch", "deployment", "web", "-p", r#"{"spec":{"progressDeadlineSeconds":600}}"#]);
    run(&["rollout", "undo", "deployment/web"]);
    run(&["rollout", "status", "deployment/web", "--timeout", "30s"]);
    let history = run(&["rollout", "history", "deployment/web"]);
    assert!(history.contains("\n2         a slip\n3         <none>"), "{history}");
    run(&["delete", "deployment", "web"]);
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
