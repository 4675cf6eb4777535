//! An application of three tiers as people have it: pages, an API behind them, a database with its volume; rolled forward
//! and back under load, and scaled.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::{Value, json};

use crate::kubectl::Kubectl;
use crate::kubectl_objects::{kubectl_on, said};
use crate::network::fetch_path;
use crate::replicas::{LIMIT, is_ready, list, wharf, wharf_with};
use crate::services::{cluster_ip, end, wait_for_endpoints};
use crate::testnode::{self, TestNode, append, wait_for, write_archive};

const IMAGE: &str = "wharf.test/tiers:1";
/// Of Debian's redis-tools: the server's program under the name of a tool.
const REDIS: [(&str, &str); 2] =
    [("/usr/bin/redis-check-rdb", "bin/redis-server"), ("/usr/bin/redis-cli", "bin/redis-cli")];
const APPLETS: [&str; 4] = ["sh", "httpd", "wget", "printf"];
const PAGE: &str = "/cgi-bin/page";
/// One line of a page, or an error that clients see as such.
const API: &str = r#"#!/bin/sh
hits=$(redis-cli -h db incr hits) && [ "$hits" -gt 0 ] || { printf 'Status: 503 Service Unavailable\r\n\r\n'; exit; }
printf 'Content-Length: %d\r\nConnection: close\r\n\r\n%s' ${#hits} "$hits"
"#;
const WEB: &str = r#"#!/bin/sh
hits=$(wget -q -O - http://api/cgi-bin/hits) || { printf 'Status: 502 Bad Gateway\r\n\r\n'; exit; }
page="$VERSION: $hits"
printf 'Content-Length: %d\r\nConnection: close\r\n\r\n%s' ${#page} "$page"
"#;

/// Libraries of a program and what loads them, as `ldd` finds them.
fn libraries(program: &str) -> Vec<PathBuf> {
    let output = Command::new("ldd").arg(program).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let path = |line: &str| {
        let path = line.split("=>").last()?.split_whitespace().next()?.to_owned();
        path.starts_with('/').then_some(path.into())
    };
    text.lines().filter_map(path).collect()
}

/// A docker-archive with Redis as Debian has it, and a shell that serves pages.
fn write_image(path: &Path) {
    let mut layer = tar::Builder::new(Vec::new());
    for (program, name) in REDIS {
        append(&mut layer, name, &std::fs::read(program).unwrap(), 0o755);
    }
    let mut libraries: Vec<PathBuf> = REDIS.iter().flat_map(|(program, _)| libraries(program)).collect();
    libraries.sort();
    libraries.dedup();
    for library in libraries {
        let name = library.to_str().unwrap().trim_start_matches('/');
        append(&mut layer, name, &std::fs::read(&library).unwrap(), 0o755);
    }
    append(&mut layer, "bin/busybox", &std::fs::read("/bin/busybox").unwrap(), 0o755);
    for applet in APPLETS {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_size(0);
        layer.append_link(&mut header, format!("bin/{applet}"), "busybox").unwrap();
    }
    write_archive(path, IMAGE, &json!({"Env": ["PATH=/bin"]}), &layer.into_inner().unwrap());
}

fn service(name: &str, port: u16, target: u16) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}})
}

fn deployment(name: &str, replicas: u32, strategy: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name},
        "spec": {
            "replicas": replicas, "strategy": {"type": strategy}, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    })
}

/// Serves the script of the ConfigMap `pages` as `/cgi-bin/NAME`; whoever is served when it ends is served to the end.
fn pages(script: &str, version: &str) -> Value {
    json!({
        "terminationGracePeriodSeconds": 2,
        "containers": [{
            "name": "main", "image": IMAGE, "command": ["httpd", "-f", "-p", "8080", "-h", "/srv"],
            "env": [
                {"name": "VERSION", "value": version},
                {"name": "REDISCLI_AUTH", "valueFrom": {"secretKeyRef": {"name": "database", "key": "password"}}},
            ],
            "volumeMounts": [{"name": "pages", "mountPath": "/srv/cgi-bin"}],
            "readinessProbe": {"tcpSocket": {"port": 8080}, "periodSeconds": 1},
            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
        }],
        "volumes": [{"name": "pages", "configMap": {"name": "pages", "defaultMode": 0o755,
            "items": [{"key": script, "path": script}]}}],
    })
}

fn database() -> Value {
    let command =
        "exec redis-server --dir /data --appendonly yes --appendfsync always --requirepass \"$PASSWORD\" --save ''";
    json!({
        "terminationGracePeriodSeconds": 2,
        "containers": [{
            "name": "main", "image": IMAGE, "command": ["sh", "-c", command],
            "env": [{"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "database", "key": "password"}}}],
            "readinessProbe": {"tcpSocket": {"port": 6379}, "periodSeconds": 1},
            "volumeMounts": [{"name": "data", "mountPath": "/data"}],
        }],
        "volumes": [{"name": "data", "persistentVolumeClaim": {"claimName": "data"}}],
    })
}

fn application(version: &str) -> Vec<Value> {
    vec![
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "database"}, "stringData": {"password": "s3cret"}}),
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "pages"}, "data": {"hits": API, "page": WEB}}),
        json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "64Mi"}}}}),
        service("db", 6379, 6379),
        service("api", 80, 8080),
        service("web", 80, 8080),
        deployment("db", 1, "Recreate", database()),
        deployment("api", 2, "RollingUpdate", pages("hits", version)),
        deployment("web", 2, "RollingUpdate", pages("page", version)),
    ]
}

fn apply_all(node: &TestNode, objects: &[Value]) {
    let documents: Vec<String> = objects.iter().map(Value::to_string).collect();
    let output = wharf_with(node, &["apply", "-f", "-"], &documents.join("\n---\n"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// The page's version and its number; none where there is an error instead.
fn page(node: &TestNode, address: &str) -> Option<(String, u64)> {
    let text = fetch_path(node, address, PAGE);
    let (version, hits) = text.split_once(": ")?;
    Some((version.to_owned(), hits.parse().ok()?))
}

fn rolled_out(kubectl: &Kubectl) {
    for name in ["deployment/db", "deployment/api", "deployment/web"] {
        said(kubectl, &["rollout", "status", name, "--timeout", "60s"], &Value::Null);
    }
}

/// Requests from the node's network, until it is asked for its figures.
struct Load(Child);

impl Load {
    fn start(node: &TestNode, address: &str) -> Self {
        let mut command = node.enter();
        command
            .args(["wrk", "-t", "1", "-c", "4", "-d", "600", "--timeout", "10"])
            .arg(format!("http://{address}{PAGE}"));
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
    }

    /// How many there were, of which none has failed.
    fn end(mut self) -> u64 {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
        let mut text = String::new();
        self.0.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        self.0.wait().unwrap();
        assert!(!text.contains("Socket errors") && !text.contains("Non-2xx"), "{text}");
        let line = text.lines().find_map(|line| line.split_once(" requests in ")).unwrap_or_else(|| panic!("{text}"));
        line.0.trim().parse().unwrap()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // Where a test failed; otherwise it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn an_application_of_three_tiers_is_rolled_scaled_and_keeps_its_data() {
    const NAME: &str = "an_application_of_three_tiers_is_rolled_scaled_and_keeps_its_data";
    let missing = ["/usr/bin/redis-check-rdb", "/usr/bin/redis-cli", "/usr/bin/wrk"];
    if let Some(missing) = missing.iter().find(|program| !Path::new(program).exists()) {
        return println!("SKIP {NAME}: needs {missing} (scripts/install test)");
    }
    let Some(node) = testnode::start("tiers").await else { return };
    let Some(kubectl) = kubectl_on(&node) else { return println!("SKIP {NAME}: needs kubectl") };
    let archive = node.path("tiers.tar");
    write_image(&archive);
    wharf(&node, &["load", "-q", "-i", archive.to_str().unwrap()]);

    apply_all(&node, &application("one"));
    rolled_out(&kubectl);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let address = format!("{}:80", cluster_ip(&node, "web"));
    wait_for("a page", LIMIT, || page(&node, &address).is_some());
    let (version, first) = page(&node, &address).unwrap();
    assert_eq!(version, "one");

    // Forward, back and to another size, and nobody notices.
    let load = Load::start(&node, &address);
    apply_all(&node, &application("two"));
    rolled_out(&kubectl);
    wait_for("the new version", LIMIT, || page(&node, &address).is_some_and(|(version, _)| version == "two"));
    for name in ["deployment/api", "deployment/web"] {
        said(&kubectl, &["rollout", "undo", name], &Value::Null);
    }
    rolled_out(&kubectl);
    wait_for("the old version", LIMIT, || page(&node, &address).is_some_and(|(version, _)| version == "one"));
    for (replicas, name) in [("4", "deployment/web"), ("1", "deployment/api"), ("1", "deployment/web")] {
        wharf(&node, &["scale", name, "--replicas", replicas]);
        rolled_out(&kubectl);
    }
    let requests = load.end();
    println!("{requests} requests, none failed");
    assert!(requests > 0);

    // The database's process, then its pod.
    let (_, counted) = page(&node, &address).unwrap();
    assert!(counted > first + requests, "{first} {requests} {counted}");
    let database = || list(&node, "pods").into_iter().find(|pod| pod["metadata"]["labels"]["app"] == "db");
    let before = database().unwrap();
    node.kill_container(&crate::replicas::container_id(&before));
    wait_for("the database again", LIMIT, || {
        database().is_some_and(|pod| is_ready(&pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 1)
    });
    wait_for("its data", LIMIT, || page(&node, &address).is_some_and(|(_, hits)| hits > counted));
    wharf(&node, &["delete", "pod", before["metadata"]["name"].as_str().unwrap(), "--grace-period", "0"]);
    wait_for("another pod", LIMIT, || {
        database().is_some_and(|pod| pod["metadata"]["uid"] != before["metadata"]["uid"] && is_ready(&pod))
    });
    wait_for("its data", LIMIT, || page(&node, &address).is_some_and(|(_, hits)| hits > counted + 1));
    end(node, "deployments,services,persistentvolumeclaims,configmaps,secrets");
}
