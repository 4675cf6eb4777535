//! The node's own Lease: renewed for those who watch it, and not on the disk.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;

use serde_json::{Value, json};

use crate::api_requests::request;
use crate::testnode::{self, TestNode};

const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases";

fn only_lease(node: &TestNode) -> Value {
    let mut found = Value::Null;
    testnode::wait_for("the lease", std::time::Duration::from_secs(20), || {
        found = request(node, "GET", LEASES, &[], b"").body.pointer("/items/0").cloned().unwrap_or_default();
        !found.is_null()
    });
    found
}

#[tokio::test]
async fn the_node_holds_a_lease_that_is_renewed_for_watchers() {
    let Some(mut node) = testnode::start("nodelease").await else { return };
    let made = only_lease(&node);
    let name = made["metadata"]["name"].as_str().unwrap().to_owned();
    let nodes = request(&node, "GET", "/api/v1/nodes", &[], b"").body;
    let owner = &nodes["items"][0]["metadata"];
    assert_eq!(made["metadata"]["ownerReferences"][0]["uid"], owner["uid"]);
    assert_eq!((&made["spec"]["holderIdentity"], &json!(name)), (&owner["name"], &owner["name"]));
    assert_eq!(made["spec"]["leaseDurationSeconds"], 40);

    let version = made["metadata"]["resourceVersion"].as_str().unwrap();
    let mut stream = UnixStream::connect(node.path("run/api.sock")).unwrap();
    let head = format!("GET {LEASES}?watch=1&resourceVersion={version} HTTP/1.0\r\nHost: x\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
    stream.set_read_timeout(Some(std::time::Duration::from_secs(40))).unwrap();
    let mut lines = BufReader::new(stream).lines();
    let event = lines.find_map(|line| serde_json::from_str::<Value>(&line.unwrap()).ok().filter(Value::is_object));
    let event = event.unwrap();
    let renewed = &event["object"];
    assert_eq!((&event["type"], &renewed["metadata"]["uid"]), (&json!("MODIFIED"), &made["metadata"]["uid"]));
    let time = |lease: &Value| lease["spec"]["renewTime"].as_str().unwrap().to_owned();
    assert!(time(renewed) > time(&made), "{} {}", time(renewed), time(&made));

    // Versions that renewals had are not given out again, whatever becomes of the daemon.
    let number = |object: &Value| object["metadata"]["resourceVersion"].as_str().unwrap().parse::<u64>().unwrap();
    let seen = number(renewed);
    drop(lines);
    node.kill_wharfd();
    node.start_wharfd();
    let maps = "/api/v1/namespaces/default/configmaps";
    let map = request(&node, "POST", maps, &["Content-Type: application/json"], br#"{"metadata":{"name":"m"}}"#);
    assert!(map.code == 201 && number(&map.body) > seen, "{} after {seen}", map.body);
    testnode::wait_for("another renewal", std::time::Duration::from_secs(20), || {
        time(&only_lease(&node)) > time(renewed)
    });
    let kept = only_lease(&node);
    assert_eq!(kept["metadata"]["uid"], made["metadata"]["uid"]);

    // It cannot be taken away for long, nor its namespace at all.
    let path = "/api/v1/namespaces/kube-node-lease";
    assert_eq!(request(&node, "DELETE", path, &[], b"").code, 403);
    assert_eq!(request(&node, "DELETE", &format!("{LEASES}/{name}"), &[], b"").code, 200);
    assert_ne!(only_lease(&node)["metadata"]["uid"], made["metadata"]["uid"]);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
