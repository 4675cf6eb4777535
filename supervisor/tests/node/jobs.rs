//! Jobs: indexes, rules of failure and of success, replacement and suspension.

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::replicas::{LIMIT, apply, assert_nothing_left, container, is_ready, list, wharf};
use crate::testnode::{self, TestNode, wait_for};

fn job(name: &str, script: &str, spec: Value) -> Value {
    let mut job = json!({
        "apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": name},
        "spec": {"template": {"spec": {
            "restartPolicy": "Never", "terminationGracePeriodSeconds": 0, "containers": [container(script)]}}},
    });
    for (field, value) in spec.as_object().unwrap() {
        job["spec"][field] = value.clone();
    }
    job
}

fn object(node: &TestNode, name: &str) -> Value {
    serde_json::from_str(&wharf(node, &["get", "job", name, "-o", "json"])).unwrap()
}

fn pods(node: &TestNode, job: &str) -> Vec<Value> {
    let mut pods = list(node, "pods");
    pods.retain(|pod| pod["metadata"]["labels"]["job-name"] == job);
    pods
}

fn index(pod: &Value) -> &str {
    pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"].as_str().unwrap()
}

/// Type, reason and message of each condition, once the last of them is there.
fn end(node: &TestNode, name: &str, last: &str) -> Vec<[String; 3]> {
    let conditions = || object(node, name)["status"]["conditions"].as_array().cloned().unwrap_or_default();
    wait_for(name, LIMIT, || conditions().iter().any(|condition| condition["type"] == last));
    let text = |condition: &Value, field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    conditions().iter().map(|c| ["type", "reason", "message"].map(|field| text(c, field))).collect()
}

fn conditions(types: [&str; 2], reason: &str, message: &str) -> Vec<[String; 3]> {
    types.map(|kind| [kind, reason, message].map(str::to_owned)).to_vec()
}

#[tokio::test]
async fn of_each_index_one_pod_succeeds() {
    let Some(node) = testnode::start("indexed").await else { return };
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2});
    apply(&node, &job("work", "echo $JOB_COMPLETION_INDEX $(hostname)", spec));
    let reached = "Reached expected number of succeeded pods";
    let expected = conditions(["SuccessCriteriaMet", "Complete"], "CompletionsReached", reached);
    assert_eq!(end(&node, "work", "Complete"), expected);
    let status = object(&node, "work")["status"].clone();
    assert_eq!((&status["completedIndexes"], &status["succeeded"]), (&json!("0-3"), &json!(4)), "{status}");
    let mut said: Vec<String> = pods(&node, "work")
        .iter()
        .map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap();
            assert!(name.starts_with(&format!("work-{}-", index(pod))), "{name}");
            wharf(&node, &["logs", name])
        })
        .collect();
    said.sort();
    assert_eq!(said, ["0 work-0\n", "1 work-1\n", "2 work-2\n", "3 work-3\n"]);

    let odd = "exit $(($JOB_COMPLETION_INDEX % 2))";
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 4, "backoffLimitPerIndex": 0});
    apply(&node, &job("odd", odd, spec.clone()));
    let expected = conditions(["FailureTarget", "Failed"], "FailedIndexes", "Job has failed indexes");
    assert_eq!(end(&node, "odd", "Failed"), expected);
    let status = object(&node, "odd")["status"].clone();
    assert_eq!((&status["completedIndexes"], &status["failedIndexes"]), (&json!("0,2"), &json!("1,3")), "{status}");
    let mut spec = spec;
    spec["maxFailedIndexes"] = 1.into();
    apply(&node, &job("bounded", odd, spec));
    let message = "Job has exceeded the specified maximal number of failed indexes";
    let expected = conditions(["FailureTarget", "Failed"], "MaxFailedIndexesExceeded", message);
    assert_eq!(end(&node, "bounded", "Failed"), expected);

    // Each index counts its own failures, from pod to pod.
    let spec = json!({"completionMode": "Indexed", "completions": 1, "backoffLimitPerIndex": 1});
    apply(&node, &job("twice", "exit 1", spec));
    end(&node, "twice", "Failed");
    let failures = |pod: &Value| {
        pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"].as_str().unwrap().to_owned()
    };
    let mut counted: Vec<String> = pods(&node, "twice").iter().map(failures).collect();
    counted.sort();
    assert_eq!((counted, &object(&node, "twice")["status"]["failed"]), (vec!["0".into(), "1".into()], &json!(2)));

    let rules = json!({"rules": [{"succeededIndexes": "1-3", "succeededCount": 1}]});
    let spec = json!({"completionMode": "Indexed", "completions": 4, "parallelism": 2, "successPolicy": rules});
    apply(&node, &job("enough", "[ $JOB_COMPLETION_INDEX = 0 ] && exec sleep 1000; exit 0", spec));
    let expected = conditions(["SuccessCriteriaMet", "Complete"], "SuccessPolicy", "Matched rules at index 0");
    assert_eq!(end(&node, "enough", "Complete"), expected);
    // The others are not needed any more.
    wait_for("the end of the rest", LIMIT, || {
        pods(&node, "enough").iter().all(|pod| pod["status"]["phase"] == "Succeeded")
    });
    for name in ["work", "odd", "bounded", "twice", "enough"] {
        wharf(&node, &["delete", "job", name, "--cascade", "foreground"]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn rules_say_what_a_failure_means() {
    let Some(node) = testnode::start("jobrules").await else { return };
    let rules = json!({"rules": [
        {"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [42]}},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
    ]});
    apply(&node, &job("fatal", "exit 42", json!({"podFailurePolicy": rules})));
    let told = end(&node, "fatal", "Failed");
    let name = pods(&node, "fatal")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let message =
        format!("Container main for pod default/{name} failed with exit code 42 matching FailJob rule at index 0");
    assert_eq!(told, conditions(["FailureTarget", "Failed"], "PodFailurePolicy", &message));
    assert_eq!(object(&node, "fatal")["status"]["failed"], 1);

    // A pod that somebody ends is replaced once it has failed, and that failure does not count.
    apply(&node, &job("moved", "sleep 1000", json!({"podFailurePolicy": rules, "backoffLimit": 0})));
    wait_for("the pod", LIMIT, || pods(&node, "moved").iter().any(is_ready));
    let first = pods(&node, "moved")[0]["metadata"]["name"].as_str().unwrap().to_owned();
    let eviction = json!({"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": first}}).to_string();
    let path = format!("/api/v1/namespaces/default/pods/{first}/eviction");
    assert_eq!(request(&node, "POST", &path, &["Content-Type: application/json"], eviction.as_bytes()).code, 201);
    wait_for("its successor", LIMIT, || {
        pods(&node, "moved").iter().any(|pod| is_ready(pod) && pod["metadata"]["name"] != first)
    });
    let status = object(&node, "moved")["status"].clone();
    assert_eq!((&status["failed"], &status["active"]), (&Value::Null, &json!(1)), "{status}");
    for name in ["fatal", "moved"] {
        wharf(&node, &["delete", "job", name, "--cascade", "foreground"]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn pods_that_a_job_takes_back_have_not_failed() {
    let Some(node) = testnode::start("jobback").await else { return };
    apply(&node, &job("work", "sleep 1000", json!({"parallelism": 2, "completions": 4, "backoffLimit": 0})));
    let running = || pods(&node, "work").iter().filter(|pod| is_ready(pod)).count();
    let change = |spec: Value| {
        let path = "/apis/batch/v1/namespaces/default/jobs/work";
        let patch = json!({"spec": spec}).to_string();
        let answer = request(&node, "PATCH", path, &["Content-Type: application/merge-patch+json"], patch.as_bytes());
        assert_eq!(answer.code, 200, "{}", answer.body);
    };
    wait_for("both pods", LIMIT, || running() == 2);
    change(json!({"parallelism": 1}));
    wait_for("the end of one", LIMIT, || pods(&node, "work").len() == 1);
    change(json!({"suspend": true}));
    wait_for("the end of the other", LIMIT, || pods(&node, "work").is_empty());
    let told = end(&node, "work", "Suspended");
    assert_eq!(told, [["Suspended", "JobSuspended", "Job suspended"].map(str::to_owned)]);
    change(json!({"suspend": false}));
    wait_for("a new pod", LIMIT, || running() == 1);
    let status = object(&node, "work")["status"].clone();
    assert_eq!((&status["failed"], &status["conditions"][0]["status"]), (&Value::Null, &json!("False")), "{status}");
    // One that somebody else takes has, and may be no more than one too many.
    wharf(&node, &["delete", "pod", pods(&node, "work")[0]["metadata"]["name"].as_str().unwrap()]);
    assert_eq!(end(&node, "work", "Failed")[1][1], "BackoffLimitExceeded");
    wharf(&node, &["delete", "job", "work", "--cascade", "foreground"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_job_of_another_controller_is_left_to_it() {
    let Some(node) = testnode::start("jobmanaged").await else { return };
    let spec = json!({"managedBy": "example.com/other", "ttlSecondsAfterFinished": 0});
    apply(&node, &job("foreign", "exit 0", spec));
    apply(&node, &job("own", "exit 0", json!({"managedBy": "kubernetes.io/job-controller"})));
    end(&node, "own", "Complete");
    // What has been done of the one is not done of the other.
    assert_eq!((object(&node, "foreign")["status"].clone(), pods(&node, "foreign").len()), (json!({}), 0));
    let send = |path: &str, body: Value| {
        let path = format!("/apis/batch/v1/namespaces/default/jobs/foreign{path}");
        let headers = ["Content-Type: application/merge-patch+json"];
        request(&node, "PATCH", &path, &headers, body.to_string().as_bytes())
    };
    let refused = send("", json!({"spec": {"managedBy": "example.com/third"}}));
    assert_eq!((refused.code, &refused.body["details"]["causes"][0]["field"]), (422, &json!("spec.managedBy")));
    assert_eq!(send("", json!({"spec": {"managedBy": null}})).code, 422);
    // The end that it is given by its own controller is one.
    let time = "2026-01-01T00:00:00Z";
    let complete = json!({"type": "Complete", "status": "True", "lastTransitionTime": time});
    assert_eq!(
        send("/status", json!({"status": {"startTime": time, "completionTime": time, "conditions": [complete]}})).code,
        200
    );
    wait_for("the end of what is not kept", LIMIT, || list(&node, "jobs").len() == 1);
    wharf(&node, &["delete", "job", "own"]);
    wait_for("the end of its pods", LIMIT, || list(&node, "pods").is_empty());
    assert_nothing_left(node);
}
