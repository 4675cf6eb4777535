//! Services of the type LoadBalancer: who may come in by the balancer's address, and what the balancer is told.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::replicas::{LIMIT, apply, list, wait_ready, wharf};
use crate::services::{end, get, refused, rules, service, wait_for_endpoints, web};
use crate::testnode::{self, TestNode, wait_for};

/// Both are addresses of the node.
const FRIEND: &str = "198.51.100.7";
const STRANGER: &str = "198.51.100.8";
const BALANCER: &str = "192.0.2.77:80";

/// The last line of what `target` answers to somebody at the address `source`.
fn fetch_as(node: &TestNode, source: &str, target: &str) -> Result<String, ErrorKind> {
    let source: SocketAddr = format!("{source}:0").parse().unwrap();
    let target: SocketAddr = target.parse().unwrap();
    let asked = async move {
        let socket = tokio::net::TcpSocket::new_v4()?;
        socket.bind(source)?;
        let stream = tokio::time::timeout(Duration::from_secs(2), socket.connect(target)).await??.into_std()?;
        stream.set_nonblocking(false)?;
        ask(stream, "/")
    };
    let run = move || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(asked);
    let answer: std::io::Result<String> = node.inside_thread(run);
    answer.map(|text| text.lines().last().unwrap_or_default().to_owned()).map_err(|error| error.kind())
}

fn ask(mut stream: TcpStream, path: &str) -> std::io::Result<String> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text).map(|_| text)
}

/// What the node says there of its endpoints: the code, their number, and that in the header.
fn health(node: &TestNode, address: &str) -> (u16, Value, String) {
    let address: SocketAddr = address.parse().unwrap();
    let answer = node.inside_thread(move || ask(TcpStream::connect(address).unwrap(), "/healthz").unwrap());
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let body: Value = serde_json::from_str(body).unwrap();
    assert_eq!(body["service"], json!({"namespace": "default", "name": "web"}));
    assert_eq!(body["serviceProxyHealthy"], true);
    let head = head.to_lowercase();
    let weight = head.lines().find_map(|line| line.strip_prefix("x-load-balancing-endpoint-weight: ")).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body["localEndpoints"].clone(), weight.to_owned())
}

#[tokio::test]
async fn a_load_balancer_learns_of_endpoints_and_leads_in_those_alone_who_may() {
    let Some(mut node) = testnode::start("balancer").await else { return };
    let done = |arguments: &[&str]| assert!(node.inside(arguments).status.success(), "{arguments:?}");
    done(&["ip", "link", "add", "far0", "type", "bridge"]);
    done(&["ip", "address", "add", &format!("{FRIEND}/24"), "dev", "far0"]);
    done(&["ip", "address", "add", &format!("{STRANGER}/24"), "dev", "far0"]);
    done(&["ip", "link", "set", "far0", "up"]);
    done(&["ip", "route", "add", "192.0.2.0/24", "dev", "far0"]);
    let balanced = |policy: &str, ranges: Value| {
        let more = json!({"type": "LoadBalancer", "externalTrafficPolicy": policy, "loadBalancerSourceRanges": ranges});
        service(more)
    };
    let friends = json!([format!("{FRIEND}/32"), format!("{FRIEND}/31"), "fd00::/8"]);
    apply(&node, &balanced("Local", json!([format!("{FRIEND}/32"), format!("{FRIEND}/32"), "fd00::/8"])));
    let given = json!({"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.77"}]}}}).to_string();
    let merge = ["Content-Type: application/merge-patch+json"];
    let path = "/api/v1/namespaces/default/services/web/status";
    assert_eq!(request(&node, "PATCH", path, &merge, given.as_bytes()).code, 200);
    apply(&node, &web(1));
    let name = wait_ready(&node, 1)[0]["metadata"]["name"].clone();
    wait_for_endpoints(&node, "ex-default/web/tcp/80", 1);

    let spec = get(&node, "service", "web")["spec"].clone();
    let (port, node_port) = (&spec["healthCheckNodePort"], &spec["ports"][0]["nodePort"]);
    assert_eq!(fetch_as(&node, FRIEND, BALANCER).as_deref(), Ok(name.as_str().unwrap()));
    assert_eq!(fetch_as(&node, STRANGER, BALANCER), Err(ErrorKind::TimedOut));
    assert_eq!(fetch_as(&node, STRANGER, &format!("{FRIEND}:{node_port}")).as_deref(), Ok(name.as_str().unwrap()));
    let at = |ip: &str| format!("{ip}:{port}");
    wait_for("the endpoint's count", LIMIT, || health(&node, &at("127.0.0.1")) == (200, json!(1), "1".into()));
    assert_eq!(health(&node, &at(FRIEND)).0, 200);

    // Ranges that have something in common are one rule.
    apply(&node, &balanced("Local", friends));
    wait_for("the ranges", LIMIT, || rules(&node).contains(&format!("{}/31", FRIEND.replace(".7", ".6"))));
    assert_eq!(fetch_as(&node, STRANGER, BALANCER), Err(ErrorKind::TimedOut));
    assert_eq!(fetch_as(&node, FRIEND, BALANCER).as_deref(), Ok(name.as_str().unwrap()));

    // Without endpoints, strangers do not learn even that.
    wharf(&node, &["scale", "deployment/web", "--replicas", "0"]);
    wait_for("no pods", LIMIT, || list(&node, "pods").is_empty());
    wait_for_endpoints(&node, "ex-default/web/tcp/80", 0);
    wait_for("none counted", LIMIT, || health(&node, &at("127.0.0.1")) == (503, json!(0), "0".into()));
    assert_eq!(fetch_as(&node, FRIEND, BALANCER), Err(ErrorKind::ConnectionRefused));
    assert_eq!(fetch_as(&node, STRANGER, BALANCER), Err(ErrorKind::TimedOut));

    // A new daemon listens there again; who is not asked about endpoints of this node alone does not.
    node.kill_wharfd();
    node.start_wharfd();
    wait_for("the new daemon's port", LIMIT, || {
        let address: SocketAddr = at("127.0.0.1").parse().unwrap();
        node.inside_thread(move || TcpStream::connect(address).is_ok())
    });
    assert_eq!(health(&node, &at("127.0.0.1")).0, 503);
    apply(&node, &balanced("Cluster", json!([])));
    wait_for("no port", LIMIT, || {
        let address: SocketAddr = at("127.0.0.1").parse().unwrap();
        node.inside_thread(move || TcpStream::connect(address).is_err())
    });
    assert_eq!(refused(&node, &at("127.0.0.1")), ErrorKind::ConnectionRefused);
    assert_eq!(get(&node, "service", "web")["spec"].get("healthCheckNodePort"), None);
    wait_for("no ranges", LIMIT, || !rules(&node).contains("guard-"));
    assert_eq!(fetch_as(&node, STRANGER, BALANCER), Err(ErrorKind::ConnectionRefused));
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,deployments");
}
