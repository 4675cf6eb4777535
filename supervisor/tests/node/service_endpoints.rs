//! Services whose endpoints are no pods of the embedded network: those that people name, and those that plugins connect.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;

use serde_json::json;

use crate::replicas::{LIMIT, apply, container_id, list, wait_ready, wharf};
use crate::services::{
    answers, cluster_ip, end, fetch_from, get, name_of, refused, rules, service, wait_for_endpoints, web,
};
use crate::testnode::{self, Client, Options, wait_for};

#[tokio::test]
async fn people_say_what_is_behind_a_service_without_a_selector() {
    let Some(node) = testnode::start("slices").await else { return };
    let ports = json!([{"name": "echo", "port": 7, "protocol": "UDP"}, {"name": "web", "port": 80}]);
    let mut outer = service(json!({"ports": ports, "externalIPs": ["192.0.2.77"]}));
    outer["spec"].as_object_mut().unwrap().remove("selector");
    apply(&node, &outer);
    let ip = cluster_ip(&node, "web");
    // Of the node's own, as something of another machine would be.
    assert!(node.inside(&["ip", "link", "add", "far0", "type", "bridge"]).status.success());
    assert!(node.inside(&["ip", "address", "add", "198.51.100.7/24", "dev", "far0"]).status.success());
    assert!(node.inside(&["ip", "link", "set", "far0", "up"]).status.success());
    assert!(node.inside(&["ip", "route", "add", "192.0.2.0/24", "dev", "far0"]).status.success());
    let echo = node.inside_thread(|| UdpSocket::bind("198.51.100.7:7007").unwrap());
    echo.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    let slice = |port: u16| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-far", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
            "ports": [{"name": "echo", "port": port, "protocol": "UDP"}, {"name": "web", "port": 8008}],
            "endpoints": [{"addresses": ["198.51.100.7"]}]})
    };
    apply(&node, &slice(7007));
    // What reaches it needs the network's bridge, and that a pod.
    apply(&node, &web(1));
    wait_ready(&node, 1);
    wait_for_endpoints(&node, "in-default/web/udp/7", 1);
    let client = node.inside_thread(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    let heard = |socket: &UdpSocket| {
        let mut buffer = [0; 64];
        let (count, _) = socket.recv_from(&mut buffer).unwrap();
        String::from_utf8_lossy(&buffer[..count]).into_owned()
    };
    for address in [format!("{ip}:7"), "192.0.2.77:7".to_owned()] {
        client.send_to(address.as_bytes(), &*address).unwrap();
        assert_eq!(heard(&echo), address);
    }
    // A client that goes on from the same port goes to the new endpoint, too.
    let other = node.inside_thread(|| UdpSocket::bind("198.51.100.7:7008").unwrap());
    other.set_read_timeout(Some(std::time::Duration::from_secs(5))).unwrap();
    apply(&node, &slice(7008));
    wait_for("the new endpoint", LIMIT, || rules(&node).contains("198.51.100.7 . 7008"));
    wait_for("the flow's end", LIMIT, || {
        client.send_to(b"on", (&*ip, 7)).unwrap();
        other.set_nonblocking(true).unwrap();
        let mut buffer = [0; 64];
        other.recv_from(&mut buffer).is_ok()
    });
    // Nobody listens there: the connection is refused by the endpoint.
    assert_eq!(refused(&node, &format!("{ip}:80")), ErrorKind::ConnectionRefused);
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,endpointslices,deployments");
}

#[tokio::test]
async fn an_address_that_two_services_claim_is_the_older_one_s_and_all_others_are_served() {
    let Some(node) = testnode::start("claims").await else { return };
    let claiming = |name: &str, ips: &[&str], port: u16| {
        let mut service = service(json!({"externalIPs": ips, "ports": [{"port": 80, "targetPort": port}]}));
        service["metadata"]["name"] = name.into();
        service
    };
    let victim = claiming("victim", &[], 8080);
    apply(&node, &victim);
    let own = cluster_ip(&node, "victim");
    apply(&node, &claiming("one", &["192.0.2.7"], 8080));
    // Younger, and the first by name; nobody listens at the port.
    wait_for("another second", LIMIT, || {
        apply(&node, &claiming("another", &["192.0.2.7", &own], 8081));
        let created = |name: &str| get(&node, "service", name)["metadata"]["creationTimestamp"].clone();
        let is_younger = created("another").as_str() > created("one").as_str();
        if !is_younger {
            wharf(&node, &["delete", "service", "another"]);
        }
        is_younger
    });
    assert!(node.inside(&["ip", "link", "add", "far0", "type", "bridge"]).status.success());
    assert!(node.inside(&["ip", "link", "set", "far0", "up"]).status.success());
    assert!(node.inside(&["ip", "route", "add", "192.0.2.0/24", "dev", "far0"]).status.success());
    apply(&node, &web(1));
    let name = name_of(&wait_ready(&node, 1)[0]);
    for chain in ["in-default/one/tcp/80", "in-default/another/tcp/80", "in-default/victim/tcp/80"] {
        wait_for_endpoints(&node, chain, 1);
    }
    for address in [format!("{own}:80"), format!("{}:80", cluster_ip(&node, "one")), "192.0.2.7:80".to_owned()] {
        assert_eq!(answers(&node, &address, 4), BTreeSet::from([name.clone()]), "{address}");
    }
    // Who has the address gives it to the other.
    wharf(&node, &["delete", "service", "one"]);
    wait_for("the other one", LIMIT, || !rules(&node).contains("chain in-default/one/"));
    assert_eq!(refused(&node, "192.0.2.7:80"), ErrorKind::ConnectionRefused);
    assert!(rules(&node).contains("192.0.2.7 . tcp . 80 : goto ex-default/another/tcp/80"), "{}", rules(&node));
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,deployments");
}

#[tokio::test]
async fn a_local_service_without_any_endpoint_is_refused_and_with_others_alone_says_nothing() {
    let Some(node) = testnode::start("local").await else { return };
    let mut local = service(json!({"internalTrafficPolicy": "Local"}));
    local["spec"].as_object_mut().unwrap().remove("selector");
    apply(&node, &local);
    let address = format!("{}:80", cluster_ip(&node, "web"));
    // Its address is found by the network's bridge, and that is there with a pod.
    apply(&node, &web(1));
    wait_ready(&node, 1);
    wait_for("the rules", LIMIT, || rules(&node).contains(". tcp . 80 : goto refuse"));
    assert_eq!(refused(&node, &address), ErrorKind::ConnectionRefused);
    let elsewhere = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {"name": "web-far", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv4",
        "ports": [{"port": 80}], "endpoints": [{"addresses": ["198.51.100.7"]}]});
    apply(&node, &elsewhere);
    wait_for("the rules", LIMIT, || rules(&node).contains(". tcp . 80 : drop"));
    end(node, "services,endpointslices,deployments");
}

#[tokio::test]
async fn services_lead_to_pods_that_plugins_connect() {
    const TEST: &str = "services_lead_to_pods_that_plugins_connect";
    if !["bridge", "host-local"].iter().all(|plugin| std::path::Path::new("/usr/lib/cni").join(plugin).exists()) {
        println!("SKIP {TEST}: needs Debian's containernetworking-plugins");
        return;
    }
    let options = |folder: &std::path::Path| {
        Options {
        network: "cni.plugins = [\"/usr/lib/cni\"]\nservice_subnet = \"10.99.0.0/24\"\n".into(),
        files: vec![(
            "net.d/10-pods.conflist",
            json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "bridge", "bridge": "cni0", "isGateway": true,
                "ipMasq": true, "hairpinMode": true, "ipam": {"type": "host-local", "dataDir": folder.join("leases"),
                    "ranges": [[{"subnet": "10.76.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}}]})
            .to_string(),
        )],
        ..Options::default()
    }
    };
    let Some(node) = testnode::start_with("svccni", options).await else { return };
    apply(&node, &service(json!({"type": "NodePort"})));
    let spec = get(&node, "service", "web")["spec"].clone();
    let ip = spec["clusterIP"].as_str().unwrap();
    assert!(ip.starts_with("10.99.0."), "{ip}");
    apply(&node, &web(2));
    let pods = wait_ready(&node, 2);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    let names: BTreeSet<String> = pods.iter().map(name_of).collect();
    assert_eq!(answers(&node, &format!("10.76.0.1:{}", spec["ports"][0]["nodePort"]), 20), names);
    // The node finds its way by its default route, which this one gets for the purpose.
    assert!(node.inside(&["ip", "route", "add", "default", "dev", "cni0"]).status.success());
    assert_eq!(answers(&node, &format!("{ip}:80"), 20), names);
    let mut client = Client::of(&node).await;
    let visitor = container_id(&pods[0]);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(fetch_from(&mut client, &visitor, &format!("{ip}:80")).await);
    }
    assert_eq!(seen, names);
    wharf(&node, &["delete", "services,deployments", "--all"]);
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    wait_for("no table", LIMIT, || rules(&node).is_empty());
    let mut node = node;
    node.terminate_wharfd();
}
