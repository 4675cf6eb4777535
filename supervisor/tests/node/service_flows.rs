//! Datagrams of clients that go on from the same port, whatever has happened to the rules meanwhile.

use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::replicas::{LIMIT, apply, wait_ready};
use crate::services::{cluster_ip, end, rules, service, wait_for_endpoints, web};
use crate::testnode::{self, TestNode, wait_for};

/// A Service of UDP, what is behind it at `port`, and the network's bridge, by which its address is reached.
fn serve_datagrams(node: &TestNode, port: u16) -> String {
    let mut outer = service(json!({"ports": [{"name": "echo", "port": 7, "protocol": "UDP"}]}));
    outer["spec"].as_object_mut().unwrap().remove("selector");
    apply(node, &outer);
    for command in [
        &["ip", "link", "add", "far0", "type", "bridge"][..],
        &["ip", "address", "add", "198.51.100.7/24", "dev", "far0"],
        &["ip", "link", "set", "far0", "up"],
    ] {
        assert!(node.inside(command).status.success(), "{command:?}");
    }
    apply(node, &slice(port));
    apply(node, &web(1));
    wait_ready(node, 1);
    wait_for_endpoints(node, "in-default/web/udp/7", 1);
    cluster_ip(node, "web")
}

fn slice(port: u16) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-far", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"name": "echo", "port": port, "protocol": "UDP"}], "endpoints": [{"addresses": ["198.51.100.7"]}]})
}

fn bound(node: &TestNode, address: &'static str) -> UdpSocket {
    let socket = node.inside_thread(move || UdpSocket::bind(address).unwrap());
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
}

/// Sends until something comes.
fn wait_until_heard(client: &UdpSocket, address: &str, server: &UdpSocket) {
    server.set_nonblocking(true).unwrap();
    wait_for("what the client sends", LIMIT, || {
        // What was sent to nowhere before may be told now.
        let _ = client.send_to(b"on", address);
        server.recv_from(&mut [0; 64]).is_ok()
    });
}

#[tokio::test]
async fn a_client_that_sent_while_the_rules_were_gone_is_heard_once_they_are_back() {
    let Some(node) = testnode::start("flowsflush").await else { return };
    let address = format!("{}:7", serve_datagrams(&node, 7007));
    let (server, client) = (bound(&node, "198.51.100.7:7007"), bound(&node, "0.0.0.0:0"));
    // The daemon sees the deletion later than the client.
    node.signal_wharfd(rustix::process::Signal::STOP);
    assert!(node.inside(&["nft", "delete", "table", "ip", "wharf-services-wt0"]).status.success());
    client.send_to(b"lost", &*address).unwrap();
    node.signal_wharfd(rustix::process::Signal::CONT);
    wait_for_endpoints(&node, "in-default/web/udp/7", 1);
    wait_until_heard(&client, &address, &server);
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,endpointslices,deployments");
}

#[tokio::test]
async fn a_client_goes_to_the_new_endpoint_though_the_rules_were_refused_at_first() {
    let Some(node) = testnode::start("flowsretry").await else { return };
    let address = format!("{}:7", serve_datagrams(&node, 7007));
    let (old, new) = (bound(&node, "198.51.100.7:7007"), bound(&node, "198.51.100.7:7008"));
    let client = bound(&node, "0.0.0.0:0");
    client.send_to(b"first", &*address).unwrap();
    old.recv_from(&mut [0; 64]).unwrap();
    // Seen by this node alone, in its mounts.
    let nft = String::from_utf8(node.inside(&["sh", "-c", "readlink -f $(command -v nft)"]).stdout).unwrap();
    let refusing = node.path("plugins/nft");
    testnode::write_file(&refusing, "#!/bin/sh\necho not now >&2\nexit 1\n");
    assert!(node.inside(&["mount", "--bind", refusing.to_str().unwrap(), nft.trim()]).status.success());
    apply(&node, &slice(7008));
    wait_for("the refusal", LIMIT, || node.log().contains("not now"));
    assert!(node.inside(&["umount", nft.trim()]).status.success());
    wait_for("the new endpoint", LIMIT, || rules(&node).contains("198.51.100.7 . 7008"));
    wait_until_heard(&client, &address, &new);
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,endpointslices,deployments");
}
