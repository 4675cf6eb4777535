//! Names that pods find: services, endpoints, other pods, and whatever the node's own resolvers know.

use std::net::UdpSocket;

use serde_json::{Value, json};

use crate::replicas::{LIMIT, apply, assert_nothing_left, list, phase, pod, pod_object, wait_ready, wharf, wharf_with};
use crate::testnode::{self, Options, TestNode, wait_for};

/// Answers every question for addresses with 192.0.2.7, in the node's network, until the test ends.
fn serve_everything_else(node: &TestNode) {
    let socket = node.inside_thread(|| UdpSocket::bind("127.0.0.1:5300").unwrap());
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((length, client)) = socket.recv_from(&mut query) {
            // The header, the question (a name, its type, its class) and one record of that name.
            let end = 12 + query[12..length].iter().position(|byte| *byte == 0).unwrap() + 5;
            let is_address = query[end - 4..end] == [0, 1, 0, 1];
            let mut answer = query[..end].to_vec();
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_address), 0, 0, 0, 0]);
            if is_address {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4, 192, 0, 2, 7]);
            }
            let _ = socket.send_to(&answer, client);
        }
    });
}

/// What `script` writes in a pod of its own.
pub fn said(node: &TestNode, name: &str, script: &str, change: impl FnOnce(&mut Value)) -> String {
    let mut object = pod(name, "Never", script);
    change(&mut object);
    apply(node, &object);
    wait_for("the pod's end", LIMIT, || matches!(phase(node, name).as_str(), "Succeeded" | "Failed"));
    let said = wharf(node, &["logs", name]);
    wharf(node, &["delete", "pod", name]);
    said
}

/// The names of a test, from busybox's nslookup: the answers without the server's own lines.
pub fn lookup(names: &[&str]) -> String {
    let one =
        |name: &&str| format!("echo {name}; busybox nslookup {name} 2>&1 | busybox sed '1,3d;/^$/d;/^\\*\\*/s/:.*//'");
    names.iter().map(one).collect::<Vec<_>>().join("; ")
}

#[tokio::test]
async fn pods_find_services_endpoints_pods_and_the_rest_of_the_world() {
    let with_upstream = |_: &std::path::Path| Options {
        network: "[dns]\nupstream = [\"127.0.0.1:5300\"]\n".into(),
        ..Options::default()
    };
    let Some(mut node) = testnode::start_with("dns", with_upstream).await else { return };
    serve_everything_else(&node);
    let mut member = pod("member", "Always", "exec sleep 1000");
    member["metadata"]["labels"] = json!({"app": "db"});
    member["spec"]["hostname"] = "db-0".into();
    member["spec"]["subdomain"] = "db".into();
    apply(&node, &member);
    let port = json!([{"name": "sql", "port": 5432}]);
    for (name, spec) in [
        ("db", json!({"clusterIP": "None", "selector": {"app": "db"}, "ports": port})),
        ("front", json!({"clusterIP": "10.96.7.7", "selector": {"app": "none"}, "ports": port})),
        ("far", json!({"type": "ExternalName", "externalName": "db.example.com"})),
    ] {
        apply(&node, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}));
    }
    let address = wait_ready(&node, 1)[0]["status"]["podIP"].as_str().unwrap().to_owned();
    wait_for("the endpoint", LIMIT, || list(&node, "endpointslices").iter().any(|s| s.to_string().contains(&address)));

    let member = "db-0.db.default.svc.cluster.local";
    let names = ["front", "db", member, "nobody.default.svc.cluster.local", "-type=a far", "-type=a example.com"];
    let answers = said(&node, "asker", &lookup(&names), |_| {});
    for expected in [
        "front\nName:\tfront.default.svc.cluster.local\nAddress: 10.96.7.7\n",
        &format!("\ndb\nName:\tdb.default.svc.cluster.local\nAddress: {address}\n"),
        &format!("\n{member}\nName:\t{member}\nAddress: {address}\n"),
        "\nnobody.default.svc.cluster.local\n** server can't find nobody.default.svc.cluster.local\n",
        "far.default.svc.cluster.local\tcanonical name = db.example.com\n",
        "Name:\tdb.example.com\nAddress: 192.0.2.7\n",
        "Name:\texample.com\nAddress: 192.0.2.7\n",
    ] {
        assert!(answers.contains(expected), "{expected}{answers}");
    }

    let reverse = lookup(&[&address, &format!("{}.default.pod.cluster.local", address.replace('.', "-"))]);
    let answers = said(&node, "reverse", &format!("{reverse}; cat /etc/hosts | busybox tail -n 1"), |_| {});
    assert!(answers.contains("name = db-0.db.default.svc.cluster.local\n"), "{answers}");
    assert!(answers.contains(&format!(".default.pod.cluster.local\nAddress: {address}\n")), "{answers}");
    let hosts = wharf(&node, &["exec", "member", "--", "busybox", "tail", "-n", "1", "/etc/hosts"]);
    assert_eq!(hosts, format!("{address}\tdb-0.db.default.svc.cluster.local\tdb-0\n"));

    // Another daemon serves the pods of the one before it.
    node.kill_wharfd();
    node.start_wharfd();
    wait_for("names again", LIMIT, || {
        let command = ["exec", "member", "--", "sh", "-c", "busybox nslookup front 2>&1 | busybox grep -c 10.96.7.7"];
        wharf_with(&node, &command, "").stdout == b"1\n"
    });
    assert_eq!(pod_object(&node, "member")["status"]["containerStatuses"][0]["restartCount"], 0);
    wharf(&node, &["delete", "pod", "member"]);
    for name in ["db", "front", "far"] {
        wharf(&node, &["delete", "service", name]);
    }
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_pod_s_policy_says_whom_it_asks() {
    let Some(node) = testnode::start("dnspolicy").await else { return };
    let read = "cat /etc/resolv.conf";
    let of_cluster = said(&node, "cluster", read, |_| {});
    let expected = "search default.svc.cluster.local svc.cluster.local cluster.local";
    assert!(of_cluster.starts_with(expected) && of_cluster.contains("\noptions ndots:5\n"), "{of_cluster}");
    let of_node = said(&node, "default", read, |pod| pod["spec"]["dnsPolicy"] = "Default".into());
    assert!(!of_node.contains("cluster.local"), "{of_node}");
    let own = said(&node, "none", read, |pod| {
        pod["spec"]["dnsPolicy"] = "None".into();
        pod["spec"]["dnsConfig"] = json!({"nameservers": ["192.0.2.1"], "searches": ["corp.example"],
            "options": [{"name": "ndots", "value": "2"}, {"name": "edns0"}]});
    });
    assert_eq!(own, "search corp.example\nnameserver 192.0.2.1\noptions ndots:2 edns0\n");
    let on_host = said(&node, "host", read, |pod| pod["spec"]["hostNetwork"] = true.into());
    assert!(!on_host.contains("cluster.local"), "{on_host}");
    assert_nothing_left(node);
}
