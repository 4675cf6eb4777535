//! Probes of declared pods: what they make of readiness, restarts, roll-outs; each way of probing against a real server.

use std::process::{Child, Stdio};

use serde_json::{Value, json};
use tonic::{Request, Response, Status};

use crate::api_requests::request;
use crate::replicas::{
    LIMIT, apply, assert_nothing_left, deployment, is_ready, list, pod, pod_object, wait_ready, wharf, wharf_with,
};
use crate::testnode::{self, TestNode, wait_for};

/// Serves `/www` and whatever is put there.
const WEB: &str = "mkdir -p /www; exec httpd -f -p 80 -h /www";

fn condition(pod: &Value, condition_type: &str) -> Value {
    let conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
    conditions.into_iter().find(|condition| condition["type"] == condition_type).unwrap_or_default()
}

fn container_status(node: &TestNode, name: &str) -> Value {
    pod_object(node, name)["status"]["containerStatuses"][0].clone()
}

fn in_pod(node: &TestNode, name: &str, script: &str) {
    wharf(node, &["exec", name, "--", "sh", "-c", script]);
}

/// A pod with one container and a probe every second.
fn probed(name: &str, script: &str, probe: &str, handler: Value) -> Value {
    let mut object = pod(name, "Always", script);
    let mut declared = handler;
    declared["periodSeconds"] = 1.into();
    declared["failureThreshold"] = 1.into();
    object["spec"]["containers"][0][probe] = declared;
    object
}

#[tokio::test]
async fn a_pod_is_ready_while_its_readiness_probe_passes() {
    let Some(mut node) = testnode::start("readiness").await else { return };
    let mut object = probed("web", WEB, "readinessProbe", json!({"httpGet": {"path": "/ok", "port": "http"}}));
    object["spec"]["containers"][0]["ports"] = json!([{"name": "http", "containerPort": 80}]);
    apply(&node, &object);
    wait_for("the container", LIMIT, || container_status(&node, "web")["started"] == true);
    let waiting = pod_object(&node, "web");
    assert_eq!((&waiting["status"]["phase"], is_ready(&waiting)), (&json!("Running"), false));
    assert_eq!(condition(&waiting, "Ready")["reason"], "ContainersNotReady");
    assert_eq!(condition(&waiting, "ContainersReady")["message"], "containers with unready status: [main]");
    assert!(wharf(&node, &["get", "pods"]).contains("0/1"));
    wait_for("the failing probe", LIMIT, || {
        node.log().contains("Readiness probe failed: HTTP probe failed with statuscode: 404")
    });

    in_pod(&node, "web", "echo yes > /www/ok");
    wait_for("the probe to pass", LIMIT, || is_ready(&pod_object(&node, "web")));
    // A daemon that comes after this one takes nothing from service.
    let version = pod_object(&node, "web")["metadata"]["resourceVersion"].clone();
    node.kill_wharfd();
    node.start_wharfd();
    // Pods that were there are looked at before one that comes later.
    apply(&node, &pod("later", "Always", "sleep 1000"));
    wait_for("the later pod", LIMIT, || is_ready(&pod_object(&node, "later")));
    assert_eq!(pod_object(&node, "web")["metadata"]["resourceVersion"], version);

    in_pod(&node, "web", "busybox rm /www/ok");
    wait_for("the probe to fail", LIMIT, || !is_ready(&pod_object(&node, "web")));
    let status = container_status(&node, "web");
    assert_eq!((&status["restartCount"], &status["started"]), (&json!(0), &json!(true)), "{status}");
    for name in ["web", "later"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_container_whose_liveness_probe_fails_is_restarted() {
    let Some(node) = testnode::start("liveness").await else { return };
    // Told to end, it says so and goes on: only the probe's own grace period ends it.
    let script = "trap 'echo told' TERM; echo > /tmp/alive; while true; do sleep 0.1; done";
    let command = ["sh", "-c", "echo the patient said no; cat /tmp/alive"];
    let mut object = probed("sick", script, "livenessProbe", json!({"exec": {"command": command}}));
    object["spec"]["terminationGracePeriodSeconds"] = 600.into();
    object["spec"]["containers"][0]["livenessProbe"]["terminationGracePeriodSeconds"] = 1.into();
    apply(&node, &object);
    wait_for("the container", LIMIT, || is_ready(&pod_object(&node, "sick")));
    in_pod(&node, "sick", "busybox rm /tmp/alive");
    wait_for("the restart", LIMIT, || container_status(&node, "sick")["restartCount"] == 1);
    let status = container_status(&node, "sick");
    assert_eq!(status["lastState"]["terminated"]["exitCode"], 137, "{status}");
    assert_eq!(wharf(&node, &["logs", "sick", "--previous"]), "told\n");
    let log = node.log();
    assert!(log.contains("Liveness probe failed: the patient said no"), "{log}");
    assert!(log.contains("Container main failed liveness probe, will be restarted"), "{log}");
    wharf(&node, &["delete", "pod", "sick", "--grace-period", "0"]);
    assert_nothing_left(node);
}

#[tokio::test]
async fn nothing_else_is_probed_before_the_startup_probe_has_passed() {
    let Some(node) = testnode::start("startup").await else { return };
    let mut object =
        probed("slow", "sleep 1000", "startupProbe", json!({"exec": {"command": ["cat", "/tmp/started"]}}));
    object["spec"]["containers"][0]["startupProbe"]["failureThreshold"] = 1000.into();
    let liveness = json!({"exec": {"command": ["sh", "-c", "echo >> /tmp/probed"]}, "periodSeconds": 1});
    object["spec"]["containers"][0]["livenessProbe"] = liveness;
    apply(&node, &object);
    wait_for("some startup probes", LIMIT, || node.log().matches("Startup probe failed").count() >= 3);
    let status = container_status(&node, "slow");
    assert_eq!((&status["started"], &status["ready"]), (&json!(false), &json!(false)), "{status}");
    let early = wharf_with(&node, &["exec", "slow", "--", "cat", "/tmp/probed"], "");
    assert!(!early.status.success(), "the liveness probe has run");
    in_pod(&node, "slow", "echo > /tmp/started");
    wait_for("the start", LIMIT, || is_ready(&pod_object(&node, "slow")));
    wait_for("the liveness probe", LIMIT, || {
        wharf_with(&node, &["exec", "slow", "--", "cat", "/tmp/probed"], "").status.success()
    });

    // One that never starts is restarted.
    let object = probed("never", "sleep 1000", "startupProbe", json!({"tcpSocket": {"port": 81}}));
    apply(&node, &object);
    wait_for("the restart", LIMIT, || container_status(&node, "never")["restartCount"] == 1);
    assert!(node.log().contains("Container main failed startup probe, will be restarted"));
    for name in ["slow", "never"] {
        wharf(&node, &["delete", "pod", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_rollout_waits_for_pods_that_are_ready_for_long_enough() {
    let Some(node) = testnode::start("minready").await else { return };
    let mut object = deployment(2, "sleep 1000");
    object["spec"]["minReadySeconds"] = 3600.into();
    object["spec"]["progressDeadlineSeconds"] = 7200.into();
    object["spec"]["strategy"] = json!({"rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}});
    apply(&node, &object);
    wait_ready(&node, 2);
    let counts = |node: &TestNode| {
        let status = list(node, "deployments")[0]["status"].clone();
        (status["readyReplicas"].as_i64().unwrap_or(0), status["availableReplicas"].as_i64().unwrap_or(0))
    };
    wait_for("readiness", LIMIT, || counts(&node) == (2, 0));
    object["spec"]["minReadySeconds"] = 2.into();
    apply(&node, &object);
    wait_for("availability", LIMIT, || counts(&node) == (2, 2));

    // A version that never gets ready takes nobody's place.
    let old: Vec<Value> = list(&node, "pods").iter().map(|pod| pod["metadata"]["name"].clone()).collect();
    let probe = json!({"exec": {"command": ["false"]}, "periodSeconds": 1});
    object["spec"]["template"]["spec"]["containers"][0]["readinessProbe"] = probe;
    apply(&node, &object);
    wait_for("the failing probe", LIMIT, || node.log().matches("Readiness probe failed").count() >= 2);
    let pods = list(&node, "pods");
    assert_eq!((pods.len(), pods.iter().filter(|pod| is_ready(pod)).count()), (3, 2));
    assert!(old.iter().all(|name| pods.iter().any(|pod| pod["metadata"]["name"] == *name)));
    assert_eq!(counts(&node), (2, 2));
    wharf(&node, &["delete", "deployment", "web"]);
    wait_ready(&node, 0);
    assert_nothing_left(node);
}

#[tokio::test]
async fn readiness_gates_are_opened_by_others() {
    let Some(node) = testnode::start("gates").await else { return };
    let mut object = pod("gated", "Always", "sleep 1000");
    object["spec"]["readinessGates"] = json!([{"conditionType": "example.com/balanced"}]);
    apply(&node, &object);
    wait_for("the containers", LIMIT, || condition(&pod_object(&node, "gated"), "ContainersReady")["status"] == "True");
    assert_eq!(condition(&pod_object(&node, "gated"), "Ready")["reason"], "ReadinessGatesNotReady");
    let patch = json!({"status": {"conditions": [{"type": "example.com/balanced", "status": "True"}]}});
    let answer = request(
        &node,
        "PATCH",
        "/api/v1/namespaces/default/pods/gated/status",
        &["Content-Type: application/strategic-merge-patch+json"],
        patch.to_string().as_bytes(),
    );
    assert_eq!(answer.code, 200, "{}", answer.body);
    wait_for("the gate", LIMIT, || is_ready(&pod_object(&node, "gated")));
    assert_eq!(condition(&pod_object(&node, "gated"), "example.com/balanced")["status"], "True");
    wharf(&node, &["delete", "pod", "gated"]);
    assert_nothing_left(node);
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

#[derive(Clone, PartialEq, prost::Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.Health`: only the service `db` serves.
#[derive(Clone)]
struct Health;

impl tonic::server::NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tonic::server::UnaryService<HealthCheckRequest> for Health {
    type Response = HealthCheckResponse;
    type Future = std::future::Ready<Result<Response<HealthCheckResponse>, Status>>;

    fn call(&mut self, request: Request<HealthCheckRequest>) -> Self::Future {
        let status = if request.into_inner().service == "db" { 1 } else { 2 };
        std::future::ready(Ok(Response::new(HealthCheckResponse { status })))
    }
}

impl<B> tower::Service<http::Request<B>> for Health
where
    B: hyper::body::Body + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
{
    type Response = http::Response<tonic::body::Body>;
    type Error = std::convert::Infallible;
    type Future = std::pin::Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Self::Error>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tonic_prost::ProstCodec::default());
            Ok(grpc.unary(Health, request).await)
        })
    }
}

/// Ends with the test.
struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A web server with a certificate that nobody vouches for, at 8443 of the node.
fn tls_server(node: &TestNode) -> Option<Server> {
    let (key, certificate) = (node.path("key.pem"), node.path("cert.pem"));
    let made = std::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1"])
        .args(["-subj", "/CN=nobody", "-keyout"])
        .arg(&key)
        .arg("-out")
        .arg(&certificate)
        .stderr(Stdio::null())
        .status();
    if !made.is_ok_and(|status| status.success()) {
        println!("SKIP pod_probes https: needs openssl");
        return None;
    }
    let mut server = node.enter();
    server.args(["openssl", "s_server", "-accept", "127.0.0.1:8443", "-www", "-quiet", "-key"]).arg(&key);
    server.arg("-cert").arg(&certificate).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    Some(Server(server.spawn().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_are_asked_over_https_and_grpc() {
    let Some(node) = testnode::start("servers").await else { return };
    let listener = node.inside_thread(|| std::net::TcpListener::bind("127.0.0.1:9090").unwrap());
    listener.set_nonblocking(true).unwrap();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
    let server = tokio::spawn(tonic::transport::Server::builder().add_service(Health).serve_with_incoming(incoming));
    let tls = tls_server(&node);

    let mut object = pod("host", "Always", "sleep 1000");
    object["spec"]["hostNetwork"] = true.into();
    let mut container = object["spec"]["containers"][0].clone();
    let mut add = |name: &str, handler: Value| {
        container["name"] = name.into();
        container["readinessProbe"] = handler;
        container["readinessProbe"]["periodSeconds"] = 1.into();
        container.clone()
    };
    let mut containers = vec![
        add("serving", json!({"grpc": {"port": 9090, "service": "db"}})),
        add("idle", json!({"grpc": {"port": 9090, "service": "other"}})),
        add("deaf", json!({"grpc": {"port": 9}})),
    ];
    if tls.is_some() {
        containers.push(add("secure", json!({"httpGet": {"port": 8443, "scheme": "HTTPS"}})));
        containers.push(add("plain", json!({"httpGet": {"port": 8443}, "timeoutSeconds": 1})));
    }
    object["spec"]["containers"] = containers.into();
    apply(&node, &object);
    let ready = |node: &TestNode| -> Vec<String> {
        let statuses = pod_object(node, "host")["status"]["containerStatuses"].as_array().cloned().unwrap_or_default();
        let ready = statuses.into_iter().filter(|status| status["ready"] == true);
        ready.map(|status| status["name"].as_str().unwrap().to_owned()).collect()
    };
    let expected: &[&str] = if tls.is_some() { &["serving", "secure"] } else { &["serving"] };
    wait_for("the servers' answers", LIMIT, || ready(&node) == expected);
    let says = |words: &str| wait_for(words, LIMIT, || node.log().contains(words));
    says(r#"Readiness probe failed: service unhealthy (responded with "NOT_SERVING")"#);
    says("Readiness probe failed: failed to connect service");
    if tls.is_some() {
        says("Readiness probe failed: Get");
    }
    wharf(&node, &["delete", "pod", "host"]);
    server.abort();
    drop(tls);
    assert_nothing_left(node);
}

#[tokio::test]
async fn wrong_probes_are_refused_by_their_field() {
    let Some(node) = testnode::start("wrongprobes").await else { return };
    for (probe, handler, expected) in [
        ("livenessProbe", json!({}), "spec.containers[0].livenessProbe: Required value: must specify a handler type"),
        (
            "readinessProbe",
            json!({"tcpSocket": {"port": 0}}),
            "spec.containers[0].readinessProbe.tcpSocket.port: Invalid value: 0: must be between 1 and 65535, inclusive",
        ),
        (
            "startupProbe",
            json!({"exec": {"command": ["true"]}, "successThreshold": 2}),
            "spec.containers[0].startupProbe.successThreshold: Invalid value: 2: must be 1",
        ),
    ] {
        let mut object = pod("wrong", "Always", "true");
        object["spec"]["containers"][0][probe] = handler;
        let output = wharf_with(&node, &["apply", "-f", "-"], &object.to_string());
        let message = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{message}");
        assert!(message.contains(expected) && message.lines().count() == 1, "wanted {expected:?}, got {message}");
    }
    assert_nothing_left(node);
}
