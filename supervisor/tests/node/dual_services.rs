//! Services of IPv6, and of both families: addresses, rules, names.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::UdpSocket;
use std::time::Duration;

use serde_json::{Value, json};

use crate::dns::{lookup, said};
use crate::dual_network::{GATEWAY, start};
use crate::network::fetch;
use crate::replicas::{LIMIT, apply, container_id, list, wait_ready, wharf, wharf_with};
use crate::services::{answers, end, fetch_from, get, name_of, refused, rules, service, wait_for_endpoints, web};
use crate::testnode::{self, Client, Options, wait_for};

fn cluster_ips(service: &Value) -> [String; 2] {
    [0, 1].map(|index| service["spec"]["clusterIPs"][index].as_str().unwrap_or_default().to_owned())
}

#[tokio::test]
async fn a_service_of_both_families_leads_to_its_pods_from_everywhere() {
    let Some(node) = start("dualsvc").await else { return };
    apply(&node, &service(json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack"})));
    let object = get(&node, "service", "web");
    let ([four, six], node_port) = (cluster_ips(&object), object["spec"]["ports"][0]["nodePort"].clone());
    assert!(six.starts_with("fd00:96::") && object["spec"]["ipFamilies"] == json!(["IPv4", "IPv6"]), "{object}");
    apply(&node, &web(2));
    let pods = wait_ready(&node, 2);
    for chain in ["in-default/web/tcp/80", "in6-default/web/tcp/80", "ex6-default/web/tcp/80"] {
        wait_for_endpoints(&node, chain, 2);
    }
    let names: BTreeSet<String> = pods.iter().map(name_of).collect();
    let slices = list(&node, "endpointslices");
    let mut types: Vec<&str> = slices.iter().map(|slice| slice["addressType"].as_str().unwrap()).collect();
    types.sort_unstable();
    assert_eq!(types, ["IPv4", "IPv6"]);
    let ips = pods[0]["status"]["podIPs"].as_array().unwrap();
    assert!(ips.len() == 2 && ips[0]["ip"] == pods[0]["status"]["podIP"], "{ips:?}");

    let at = |address: &str| format!("[{address}]:{node_port}");
    for address in [format!("{four}:80"), format!("[{six}]:80"), at(GATEWAY), format!("127.0.0.1:{node_port}")] {
        assert_eq!(answers(&node, &address, 20), names, "{address}");
    }
    // Nobody is at the Service's other ports, at other addresses of Services, and at the loopback of IPv6.
    for address in [format!("[{six}]:81"), "[fd00:96::f:fff0]:80".into(), at("::1")] {
        assert_eq!(refused(&node, &address), ErrorKind::ConnectionRefused, "{address}");
    }
    let mut client = Client::of(&node).await;
    let visitor = container_id(&pods[0]);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(fetch_from(&mut client, &visitor, &format!("[{six}]:80")).await);
    }
    assert_eq!(seen, names);
    assert!(names.contains(&fetch_from(&mut client, &visitor, &at(GATEWAY)).await));

    // Rules that somebody flushes come back, of both.
    for _ in 0..2 {
        assert!(node.inside(&["nft", "flush", "ruleset"]).status.success());
        wait_for("the rules", LIMIT, || rules(&node).contains("@services6"));
        assert!(names.is_superset(&answers(&node, &format!("[{six}]:80"), 4)));
        assert!(names.is_superset(&answers(&node, &format!("{four}:80"), 4)));
    }
    assert_eq!(String::from_utf8_lossy(&wharf_with(&node, &["leaks"], "").stderr), "");
    let shown = wharf(&node, &["get", "services", "-o", "wide"]);
    assert!(shown.contains(&four), "{shown}");

    // The second address goes, and so do its rules and its slices.
    apply(&node, &service(json!({"type": "NodePort", "ipFamilyPolicy": "SingleStack"})));
    assert_eq!(cluster_ips(&get(&node, "service", "web")), [four.clone(), String::new()]);
    wait_for("one slice", LIMIT, || list(&node, "endpointslices").len() == 1);
    wait_for("the end of the rules", LIMIT, || !rules(&node).contains("chain in6-"));
    assert_eq!(refused(&node, &format!("[{six}]:80")), ErrorKind::ConnectionRefused);
    assert_eq!(answers(&node, &format!("{four}:80"), 20), names);
    end(node, "services,deployments");
}

#[tokio::test]
async fn clients_of_ipv6_stay_with_their_endpoint_and_are_refused_where_there_is_none() {
    let Some(node) = start("dualstick").await else { return };
    apply(
        &node,
        &service(json!({"ipFamilies": ["IPv6"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}}})),
    );
    let object = get(&node, "service", "web");
    assert_eq!(object["spec"]["clusterIPs"].as_array().unwrap().len(), 1, "{object}");
    let address = format!("[{}]:80", cluster_ips(&object)[0]);
    apply(&node, &web(2));
    wait_ready(&node, 2);
    wait_for_endpoints(&node, "in6-default/web/tcp/80", 2);
    let first = answers(&node, &address, 20);
    assert_eq!(first.len(), 1, "{first:?}");
    // Other Services' changes take nobody's place away.
    let mut other = service(json!({"ipFamilyPolicy": "PreferDualStack"}));
    other["metadata"]["name"] = "other".into();
    apply(&node, &other);
    wait_for_endpoints(&node, "in6-default/other/tcp/80", 2);
    assert_eq!(answers(&node, &address, 20), first);
    wharf(&node, &["delete", "pod", first.first().unwrap()]);
    wait_ready(&node, 2);
    wait_for_endpoints(&node, "in6-default/web/tcp/80", 2);
    let second = answers(&node, &address, 20);
    assert!(second.len() == 1 && second != first, "{second:?}");
    wharf(&node, &["scale", "deployment/web", "--replicas", "0"]);
    wait_for("no pods", LIMIT, || list(&node, "pods").is_empty());
    wait_for_endpoints(&node, "in6-default/web/tcp/80", 0);
    assert_eq!(refused(&node, &address), ErrorKind::ConnectionRefused);
    end(node, "services,deployments");
}

#[tokio::test]
async fn datagrams_of_ipv6_go_to_the_new_endpoint_and_external_addresses_are_served() {
    let Some(node) = start("dualudp").await else { return };
    let mut outer = service(json!({"ipFamilies": ["IPv6"], "externalIPs": ["2001:db8:1::77"],
        "ports": [{"name": "echo", "port": 7, "protocol": "UDP"}]}));
    outer["spec"].as_object_mut().unwrap().remove("selector");
    apply(&node, &outer);
    let ip = cluster_ips(&get(&node, "service", "web"))[0].clone();
    // Of the node's own, as something of another machine would be.
    for command in [
        &["ip", "link", "add", "far0", "type", "bridge"][..],
        &["ip", "address", "add", "2001:db8:2::7/64", "dev", "far0", "nodad"],
        &["ip", "link", "set", "far0", "up"],
        &["ip", "-6", "route", "add", "2001:db8:1::/64", "dev", "far0"],
    ] {
        assert!(node.inside(command).status.success(), "{command:?}");
    }
    let bound = |address: &'static str| {
        let socket = node.inside_thread(move || UdpSocket::bind(address).unwrap());
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    };
    let slice = |port: u16| {
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": "web-far", "labels": {"kubernetes.io/service-name": "web"}}, "addressType": "IPv6",
            "ports": [{"name": "echo", "port": port, "protocol": "UDP"}], "endpoints": [{"addresses": ["2001:db8:2::7"]}]})
    };
    let (echo, other) = (bound("[2001:db8:2::7]:7007"), bound("[2001:db8:2::7]:7008"));
    apply(&node, &slice(7007));
    // What reaches it needs the network's bridge, and that a pod.
    apply(&node, &web(1));
    wait_ready(&node, 1);
    wait_for_endpoints(&node, "in6-default/web/udp/7", 1);
    let client = bound("[::]:0");
    for address in [format!("[{ip}]:7"), "[2001:db8:1::77]:7".to_owned()] {
        client.send_to(address.as_bytes(), &*address).unwrap();
        let mut buffer = [0; 64];
        let (count, _) = echo.recv_from(&mut buffer).unwrap();
        assert_eq!(String::from_utf8_lossy(&buffer[..count]), address);
    }
    // A client that goes on from the same port goes to the new endpoint, too.
    apply(&node, &slice(7008));
    wait_for("the new endpoint", LIMIT, || rules(&node).contains("2001:db8:2::7 . 7008"));
    other.set_nonblocking(true).unwrap();
    wait_for("the flow's end", LIMIT, || {
        client.send_to(b"on", (&*ip, 7)).unwrap();
        other.recv_from(&mut [0; 64]).is_ok()
    });
    assert!(node.inside(&["ip", "link", "delete", "far0"]).status.success());
    end(node, "services,endpointslices,deployments");
}

#[tokio::test]
async fn services_of_ipv6_lead_to_pods_that_plugins_connect() {
    const TEST: &str = "services_of_ipv6_lead_to_pods_that_plugins_connect";
    if !["bridge", "host-local"].iter().all(|plugin| std::path::Path::new("/usr/lib/cni").join(plugin).exists()) {
        println!("SKIP {TEST}: needs Debian's containernetworking-plugins");
        return;
    }
    let options = |folder: &std::path::Path| {
        let ipam = json!({"type": "host-local", "dataDir": folder.join("leases"),
            "ranges": [[{"subnet": "10.76.0.0/24"}], [{"subnet": "fd76::/64"}]],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}]});
        let list = json!({"cniVersion": "1.0.0", "name": "pods", "plugins": [
            {"type": "bridge", "bridge": "cni0", "isGateway": true, "hairpinMode": true, "ipam": ipam}]});
        Options {
            network: "cni.plugins = [\"/usr/lib/cni\"]\nservice_subnet6 = \"fd00:99::/112\"\n".into(),
            files: vec![("net.d/10-pods.conflist", list.to_string())],
            ..Options::default()
        }
    };
    let Some(mut node) = testnode::start_with("dualcni", options).await else { return };
    apply(&node, &service(json!({"type": "NodePort", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]})));
    let object = get(&node, "service", "web");
    let [six, four] = cluster_ips(&object);
    assert!(six.starts_with("fd00:99::") && four.starts_with("10.96."), "{object}");
    apply(&node, &web(2));
    let pods = wait_ready(&node, 2);
    wait_for_endpoints(&node, "in6-default/web/tcp/80", 2);
    let names: BTreeSet<String> = pods.iter().map(name_of).collect();
    let node_port = &object["spec"]["ports"][0]["nodePort"];
    let at_the_bridge = format!("[fd76::1]:{node_port}");
    // The plugin has the kernel ask first whether somebody else has the bridge's address.
    wait_for("the bridge's address", LIMIT, || !fetch(&node, &at_the_bridge).is_empty());
    assert_eq!(answers(&node, &at_the_bridge, 20), names);
    // The node finds its way by its default route, which this one gets for the purpose.
    assert!(node.inside(&["ip", "-6", "route", "add", "default", "dev", "cni0"]).status.success());
    assert_eq!(answers(&node, &format!("[{six}]:80"), 20), names);
    let mut client = Client::of(&node).await;
    let visitor = container_id(&pods[0]);
    let mut seen = BTreeSet::new();
    for _ in 0..20 {
        seen.insert(fetch_from(&mut client, &visitor, &format!("[{six}]:80")).await);
    }
    assert_eq!(seen, names);
    wharf(&node, &["delete", "services,deployments", "--all"]);
    wait_for("the end of the pods", LIMIT, || list(&node, "pods").is_empty());
    wait_for("no table", LIMIT, || rules(&node).is_empty());
    node.terminate_wharfd();
}

#[tokio::test]
async fn names_stand_for_addresses_of_both_families_and_back() {
    let Some(node) = start("dualdns").await else { return };
    let mut member = crate::replicas::pod("member", "Always", "exec sleep 1000");
    member["metadata"]["labels"] = json!({"app": "db"});
    member["spec"]["hostname"] = "db-0".into();
    member["spec"]["subdomain"] = "db".into();
    apply(&node, &member);
    let port = json!([{"name": "sql", "port": 5432}]);
    for (name, spec) in [
        (
            "db",
            json!({"clusterIP": "None", "selector": {"app": "db"}, "ports": port, "ipFamilyPolicy": "PreferDualStack"}),
        ),
        ("four", json!({"clusterIP": "None", "selector": {"app": "db"}, "ports": port})),
        (
            "front",
            json!({"clusterIPs": ["fd00:96::77", "10.96.7.7"], "ipFamilyPolicy": "RequireDualStack", "ports": port}),
        ),
    ] {
        apply(&node, &json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}));
    }
    let ips = wait_ready(&node, 1)[0]["status"]["podIPs"].clone();
    let [four, six] = [0, 1].map(|index| ips[index]["ip"].as_str().unwrap().to_owned());
    wait_for("the endpoints", LIMIT, || {
        list(&node, "endpointslices").iter().filter(|s| s.to_string().contains(&format!("\"{six}\""))).count() == 1
    });
    let member = "db-0.db.default.svc.cluster.local";
    let names = ["-type=aaaa front", "-type=a front", "-type=aaaa db", "-type=a db", &format!("-type=aaaa {member}")];
    let answers = said(&node, "asker", &lookup(&names), |_| {});
    for expected in [
        "-type=aaaa front\nName:\tfront.default.svc.cluster.local\nAddress: fd00:96::77\n",
        "-type=a front\nName:\tfront.default.svc.cluster.local\nAddress: 10.96.7.7\n",
        &format!("-type=aaaa db\nName:\tdb.default.svc.cluster.local\nAddress: {six}\n"),
        &format!("-type=a db\nName:\tdb.default.svc.cluster.local\nAddress: {four}\n"),
        &format!("\nName:\t{member}\nAddress: {six}\n"),
    ] {
        assert!(answers.contains(expected), "{expected}{answers}");
    }
    let label = six.replace(':', "-");
    let back = [&*six, "fd00:96::77", &format!("-type=aaaa {label}.default.pod.cluster.local"), "-type=aaaa four"];
    let answers = said(&node, "reverse", &lookup(&back), |_| {});
    for expected in [
        "name = db-0.db.default.svc.cluster.local\n",
        "name = front.default.svc.cluster.local\n",
        &format!("{label}.default.pod.cluster.local\nAddress: {six}\n"),
    ] {
        assert!(answers.contains(expected), "{expected}{answers}");
    }
    // A name of one family has nothing of the other.
    assert!(!answers.contains("Name:\tfour"), "{answers}");
    let told = crate::dns::said(&node, "told", "echo $IPS $HOST; echo $FRONT_PORT_5432_TCP", |pod| {
        pod["spec"]["containers"][0]["env"] = json!([
            {"name": "IPS", "valueFrom": {"fieldRef": {"fieldPath": "status.podIPs"}}},
            {"name": "HOST", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}]);
    });
    assert!(told.contains(",fd00:77::") && told.ends_with("tcp://[fd00:96::77]:5432\n"), "{told}");
    wharf(&node, &["delete", "pods", "--all"]);
    end(node, "services");
}

#[tokio::test]
async fn what_is_wrong_with_families_is_refused_in_kubernetes_words() {
    let Some(node) = start("dualwrong").await else { return };
    for (spec, words) in [
        (
            json!({"ipFamilies": ["IPv4", "IPv6"]}),
            "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be RequireDualStack or PreferDualStack when multiple 'ipFamilies' are specified",
        ),
        (
            json!({"ipFamilies": ["IPv6"], "clusterIP": "10.96.0.9"}),
            "spec.clusterIPs[0]: Invalid value: \"10.96.0.9\": expected an IPv6 value as indicated by `ipFamilies[0]`",
        ),
        (
            json!({"clusterIPs": ["fd00:96::9", "fd00:96::8"], "ipFamilyPolicy": "RequireDualStack"}),
            "may specify no more than one IP for each IP family",
        ),
        (
            json!({"clusterIP": "fd00:96::"}),
            "the provided IP (fd00:96::) is not in the valid range. The range of valid IPs is fd00:96::/108",
        ),
        (json!({"clusterIP": "fd00:96::9%wt0"}), "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
        (json!({"clusterIP": "::ffff:10.96.0.9"}), "is not in the valid range"),
        (
            json!({"externalIPs": ["fe80::1"], "ipFamilies": ["IPv6"]}),
            "spec.externalIPs[0]: Invalid value: \"fe80::1\": may not be in the link-local range",
        ),
        (
            json!({"externalIPs": ["2001:db8::1"]}),
            "spec.externalIPs[0]: Invalid value: \"2001:db8::1\": is IPv6, which is none of the `ipFamilies` of the Service",
        ),
        (json!({"externalIPs": ["1".repeat(100_000)]}), "must be a valid IP address"),
    ] {
        let output = wharf_with(&node, &["apply", "-f", "-"], &service(spec).to_string());
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(words) && said.len() < 1000, "{words}: {said:.1000}");
    }
    end(node, "services");
}
