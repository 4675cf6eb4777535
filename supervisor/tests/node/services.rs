//! Services: addresses that stay, endpoints that are ready, rules that come back.

use std::collections::BTreeSet;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::network::fetch;
use crate::replicas::{LIMIT, apply, assert_nothing_left, list, wait_ready, wharf, wharf_with};
use crate::testnode::{self, Client, IMAGE, TestNode, wait_for};

const TABLE: &str = "wharf-services-wt0";

/// A Deployment `web` of pods that serve their name at 8080, once they are there.
pub fn web(replicas: u32) -> Value {
    let script =
        "mkdir /tmp/w; hostname > /tmp/w/index.html; httpd -p 8080 -h /tmp/w; trap 'exit 0' TERM; sleep 10000 & wait";
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
        "spec": {
            "replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {
                "metadata": {"labels": {"app": "web"}},
                "spec": {"terminationGracePeriodSeconds": 3, "containers": [{
                    "name": "main", "image": IMAGE, "command": ["sh", "-c", script],
                    "ports": [{"name": "http", "containerPort": 8080}],
                    "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 1},
                }]},
            },
        },
    })
}

/// A Service `web` before it, and what else it shall say.
pub fn service(more: Value) -> Value {
    let mut service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": "http"}]}});
    for (field, value) in more.as_object().unwrap() {
        service["spec"][field] = value.clone();
    }
    service
}

pub fn get(node: &TestNode, kind: &str, name: &str) -> Value {
    serde_json::from_str(&wharf(node, &["get", kind, name, "-o", "json"])).unwrap()
}

pub fn cluster_ip(node: &TestNode, name: &str) -> String {
    get(node, "service", name)["spec"]["clusterIP"].as_str().unwrap().to_owned()
}

pub fn rules(node: &TestNode) -> String {
    // A node has one of them: with IPv6, or without.
    let tables = ["ip", "inet"].map(|family| node.inside(&["nft", "list", "table", family, TABLE]).stdout);
    // Where nobody has told nft their names, protocols are numbers.
    let named = [(". 6 .", ". tcp ."), (". 17 .", ". udp ."), (". 132 .", ". sctp .")];
    let rules = String::from_utf8(tables.concat()).unwrap();
    named.iter().fold(rules, |rules, (number, name)| rules.replace(number, name))
}

/// Waits until the rules lead to so many endpoints.
pub fn wait_for_endpoints(node: &TestNode, chain: &str, count: usize) {
    wait_for("the endpoints", LIMIT, || match count {
        0 => !rules(node).contains(&format!("chain {chain} {{")),
        count => {
            let rules = rules(node);
            let rule = rules.split(&format!("chain {chain} {{")).nth(1).and_then(|rest| rest.split("\n\t}").next());
            rule.is_some_and(|rule| rule.contains(&format!("mod {count} ")))
        }
    });
}

/// What the node gets there in so many tries, each of which has to succeed.
pub fn answers(node: &TestNode, address: &str, tries: usize) -> BTreeSet<String> {
    let answers: Vec<String> = (0..tries).map(|_| fetch(node, address)).collect();
    assert!(answers.iter().all(|answer| !answer.is_empty()), "{address}: {answers:?}");
    answers.into_iter().collect()
}

pub fn refused(node: &TestNode, address: &str) -> ErrorKind {
    let address: SocketAddr = address.parse().unwrap();
    let connect = move || TcpStream::connect_timeout(&address, Duration::from_secs(5)).map(drop);
    node.inside_thread(connect).unwrap_err().kind()
}

/// One request out of a container.
pub async fn fetch_from(client: &mut Client, container: &str, target: &str) -> String {
    let (address, port) = target.rsplit_once(':').unwrap();
    let address = address.trim_matches(['[', ']']);
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {address} {port}");
    let output = client.exec(container, &["sh", "-c", &script], 10).await.unwrap();
    String::from_utf8_lossy(&output.stdout).lines().last().unwrap_or_default().to_owned()
}

pub fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap().to_owned()
}

pub fn end(node: TestNode, kinds: &str) {
    wharf(&node, &["delete", kinds, "--all"]);
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_service_leads_to_its_ready_pods_from_everywhere() {
    let Some(node) = testnode::start("service").await else { return };
    apply(&node, &service(json!({"type": "NodePort"})));
    let (ip, node_port) =
        (cluster_ip(&node, "web"), get(&node, "service", "web")["spec"]["ports"][0]["nodePort"].clone());
    apply(&node, &web(2));
    let pods = wait_ready(&node, 2);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let names: BTreeSet<String> = pods.iter().map(name_of).collect();

    // From the node: the address, and the port at every address of its own.
    let at = |address: &str| format!("{address}:{node_port}");
    let gateway = format!("{}1", testnode::SUBNET_PREFIX);
    for address in [format!("{ip}:80"), at("127.0.0.1"), at(&gateway)] {
        assert_eq!(answers(&node, &address, 20), names, "{address}");
    }
    // Nobody is at the Service's other ports, and at other addresses of Services.
    assert_eq!(refused(&node, &format!("{ip}:81")), ErrorKind::ConnectionRefused);
    assert_eq!(refused(&node, "10.96.255.250:80"), ErrorKind::ConnectionRefused);

    // From pods, which may be behind it themselves.
    let mut client = Client::of(&node).await;
    let visitor = crate::replicas::container_id(&pods[0]);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(fetch_from(&mut client, &visitor, &format!("{ip}:80")).await);
    }
    assert_eq!(seen, names);
    assert!(names.contains(&fetch_from(&mut client, &visitor, &at(&gateway)).await));

    // From outside, by the port.
    let outside = std::process::Command::new("unshare").args(["--net", "sleep", "1000"]).spawn();
    let mut outside = outside.unwrap();
    let pid = outside.id().to_string();
    wait_for("the namespace", LIMIT, || {
        let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        link(&pid) != link("self")
    });
    let done = |output: std::process::Output| assert!(output.status.success(), "{output:?}");
    done(node.inside(&["ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", &pid]));
    done(node.inside(&["ip", "address", "add", "192.0.2.1/24", "dev", "out0"]));
    done(node.inside(&["ip", "link", "set", "out0", "up"]));
    let there = |command: &[&str]| {
        std::process::Command::new("nsenter").args(["-t", &pid, "-n", "--"]).args(command).output().unwrap()
    };
    done(there(&["ip", "address", "add", "192.0.2.2/24", "dev", "out1"]));
    done(there(&["ip", "link", "set", "out1", "up"]));
    let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | busybox nc -w 3 192.0.2.1 {node_port}");
    let output = there(&["sh", "-c", &script]);
    let page = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(names.contains(page.lines().last().unwrap_or_default()), "{page}");
    done(node.inside(&["ip", "link", "delete", "out0"]));
    outside.kill().unwrap();
    outside.wait().unwrap();

    // Without endpoints it is refused at once, by both.
    wharf(&node, &["scale", "deployment/web", "--replicas", "0"]);
    wait_for("no pods", LIMIT, || list(&node, "pods").is_empty());
    wait_for_endpoints(&node, "in-default/web/tcp/80", 0);
    assert_eq!(refused(&node, &at("127.0.0.1")), ErrorKind::ConnectionRefused);
    wharf(&node, &["delete", "service", "web"]);
    wait_for("no table", LIMIT, || rules(&node).is_empty());
    end(node, "deployments");
}

#[tokio::test]
async fn a_client_stays_with_its_endpoint_as_long_as_that_is_there() {
    let Some(node) = testnode::start("affinity").await else { return };
    let sticky = json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}});
    apply(&node, &service(sticky));
    apply(&node, &web(2));
    wait_ready(&node, 2);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let address = format!("{}:80", cluster_ip(&node, "web"));
    let first = answers(&node, &address, 20);
    assert_eq!(first.len(), 1, "{first:?}");
    // Other Services' changes take nobody's place away.
    let mut other = service(json!({}));
    other["metadata"]["name"] = "other".into();
    apply(&node, &other);
    wait_for_endpoints(&node, "in-default/other/tcp/80", 2);
    assert_eq!(answers(&node, &address, 20), first);
    let gone = first.first().unwrap();
    wharf(&node, &["delete", "pod", gone]);
    wait_ready(&node, 2);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let second = answers(&node, &address, 20);
    assert!(second.len() == 1 && second != first, "{second:?}");
    end(node, "services,deployments");
}

#[tokio::test]
async fn flushed_rules_come_back_by_themselves() {
    let Some(node) = testnode::start("flush").await else { return };
    apply(&node, &service(json!({})));
    apply(&node, &web(1));
    wait_ready(&node, 1);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 1);
    let tables = |node: &TestNode| String::from_utf8(node.inside(&["nft", "list", "tables"]).stdout).unwrap();
    let before = tables(&node);
    assert_eq!(before.lines().count(), 2, "{before}");
    for _ in 0..3 {
        assert!(node.inside(&["nft", "flush", "ruleset"]).status.success());
        let flushed = Instant::now();
        wait_for("both tables", LIMIT, || tables(&node).lines().count() == 2 && rules(&node).contains("@services"));
        println!("both tables are back after {:?}", flushed.elapsed());
        assert_eq!(answers(&node, &format!("{}:80", cluster_ip(&node, "web")), 1).len(), 1);
    }
    end(node, "services,deployments");
}

#[tokio::test]
async fn a_rolling_update_under_load_fails_no_connection() {
    let Some(node) = testnode::start("rolling").await else { return };
    let node = Arc::new(node);
    apply(&node, &service(json!({})));
    let mut deployment = web(3);
    // In its last second a pod asks the Service who is there: it is not one of them any more.
    let told = node.path("told");
    std::fs::create_dir(&told).unwrap();
    let ask = "for i in 1 2 3 4 5 6 7 8 9 10; do printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 2 $WEB_SERVICE_HOST $WEB_SERVICE_PORT \
               | busybox tail -n 1; done > /told/$(hostname).new; busybox mv /told/$(hostname).new /told/$(hostname); sleep 1";
    let spec = &mut deployment["spec"]["template"]["spec"];
    spec["volumes"] = json!([{"name": "told", "hostPath": {"path": told}}]);
    spec["containers"][0]["volumeMounts"] = json!([{"name": "told", "mountPath": "/told"}]);
    spec["containers"][0]["lifecycle"] = json!({"preStop": {"exec": {"command": ["sh", "-c", ask]}}});
    spec["terminationGracePeriodSeconds"] = 20.into();
    apply(&node, &deployment);
    let first: BTreeSet<String> = wait_ready(&node, 3).iter().map(name_of).collect();
    wait_for_endpoints(&node, "in-default/web/tcp/80", 3);
    let address: SocketAddr = format!("{}:80", cluster_ip(&node, "web")).parse().unwrap();

    let over = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (over, node) = (over.clone(), node.clone());
            std::thread::spawn(move || node.inside_thread(move || ask_until(address, &over)))
        })
        .collect();
    for round in ["1", "2"] {
        deployment["spec"]["template"]["metadata"]["annotations"] = json!({"round": round});
        apply(&node, &deployment);
        wait_for("the update", LIMIT * 2, || {
            let status = &get(&node, "deployment", "web")["status"];
            let pods = list(&node, "pods");
            status["updatedReplicas"] == 3 && status["availableReplicas"] == 3 && pods.len() == 3
        });
    }
    over.store(true, Ordering::Relaxed);
    let mut made = 0;
    for client in clients {
        let (count, failures) = client.join().unwrap();
        assert_eq!(failures, Vec::<String>::new(), "of {count} connections");
        made += count;
    }
    println!("{made} connections over two updates");
    assert!(made > 100, "{made}");
    for name in &first {
        let answers = std::fs::read_to_string(told.join(name)).unwrap();
        assert_eq!(answers.lines().count(), 10, "{name}: {answers}");
        assert!(!answers.contains(name.as_str()), "{name} is asked while it ends: {answers}");
    }
    end(Arc::into_inner(node).unwrap(), "services,deployments");
}

/// Connects anew for each request; gives back how many there were, and what went wrong.
fn ask_until(address: SocketAddr, over: &AtomicBool) -> (usize, Vec<String>) {
    let (mut count, mut failures) = (0, Vec::new());
    let ask = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n")?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map(|_| text)
    };
    while !over.load(Ordering::Relaxed) {
        count += 1;
        match ask() {
            Ok(text) if text.starts_with("HTTP/1.0 200") || text.starts_with("HTTP/1.1 200") => {}
            other => failures.push(format!("{other:?}")),
        }
    }
    (count, failures)
}

#[tokio::test]
async fn rules_and_addresses_outlive_the_daemon() {
    let Some(mut node) = testnode::start("svckill").await else { return };
    apply(&node, &service(json!({"type": "NodePort"})));
    apply(&node, &web(2));
    wait_ready(&node, 2);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let before = get(&node, "service", "web")["spec"].clone();
    let address = format!("{}:80", before["clusterIP"].as_str().unwrap());
    node.kill_wharfd();
    assert_eq!(answers(&node, &address, 20).len(), 2);
    // Somebody cleans up meanwhile.
    assert!(node.inside(&["nft", "flush", "ruleset"]).status.success());
    node.start_wharfd();
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    assert_eq!(get(&node, "service", "web")["spec"], before);
    assert_eq!(answers(&node, &address, 20).len(), 2);
    assert_eq!(String::from_utf8_lossy(&wharf_with(&node, &["leaks"], "").stderr), "");
    end(node, "services,deployments");
}

#[tokio::test]
async fn containers_are_told_of_services_in_variables() {
    let Some(node) = testnode::start("svcenv").await else { return };
    apply(&node, &service(json!({})));
    let ip = cluster_ip(&node, "web");
    let pod = |name: &str, links: bool| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "enableServiceLinks": links, "terminationGracePeriodSeconds": 0, "containers": [{"name": "main", "image": IMAGE,
                "command": ["sh", "-c", "env; echo $(AT); sleep 1000"], "env": [{"name": "AT", "value": "at=$(WEB_PORT_80_TCP)"}]}]}})
    };
    apply(&node, &pod("with", true));
    apply(&node, &pod("without", false));
    wait_ready(&node, 2);
    let told = |name: &str| wharf(&node, &["logs", name]);
    wait_for("the log", LIMIT, || told("with").contains("at=tcp") && told("without").contains("at=$"));
    let with = told("with");
    for line in [format!("WEB_SERVICE_HOST={ip}"), "WEB_SERVICE_PORT=80".into(), format!("at=tcp://{ip}:80")] {
        assert!(with.lines().any(|found| found == line), "{line}: {with}");
    }
    assert!(!told("without").contains("WEB_SERVICE"));
    end(node, "services,pods");
}
