//! The embedded network on a real kernel, in a network namespace of its own.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::testnode::{self, Client, TestNode, container, pod};
use wharf_specs::cri;

pub const SERVE: &[&str] = &["sh", "-c", "mkdir /tmp/w; hostname > /tmp/w/index.html; exec httpd -f -p 80 -h /tmp/w"];

/// Body of the page that `address` serves to the node itself; empty where it serves none.
pub fn fetch(node: &TestNode, address: &str) -> String {
    fetch_path(node, address, "/")
}

/// Likewise of another page than the first.
pub fn fetch_path(node: &TestNode, address: &str, path: &str) -> String {
    let (address, request) = (address.parse().unwrap(), format!("GET {path} HTTP/1.0\r\n\r\n"));
    node.inside_thread(move || {
        let Ok(mut stream) = TcpStream::connect_timeout(&address, Duration::from_secs(2)) else { return String::new() };
        stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
        let _ = stream.write_all(request.as_bytes());
        let mut text = String::new();
        let _ = stream.read_to_string(&mut text);
        text.split_once("\r\n\r\n").map(|(_, body)| body.trim().to_string()).unwrap_or_default()
    })
}

#[tokio::test]
async fn pods_reach_each_other_and_the_node_and_serve_host_ports() {
    let Some(mut node) = testnode::start("network").await else { return };
    let mut client = Client::of(&node).await;
    let mut one = pod(&node, "one");
    one.port_mappings = vec![cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    let one = client.run_pod(one).await;
    let two = client.run_pod(pod(&node, "two")).await;
    let server = client.run(&one, container("main", SERVE)).await;
    let visitor = client.run(&two, container("main", &["sleep", "1000"])).await;
    let (first, second) = (client.address(&one).await, client.address(&two).await);
    assert!(first.starts_with(testnode::SUBNET_PREFIX) && second.starts_with(testnode::SUBNET_PREFIX));
    assert_ne!(first, second);
    testnode::wait_for("the server", Duration::from_secs(5), || fetch(&node, &format!("{first}:80")) == "one");

    let gateway = format!("{}1", testnode::SUBNET_PREFIX);
    // From the node by every address of its own, and from pods: another one and the serving one itself.
    assert_eq!(fetch(&node, "127.0.0.1:8080"), "one");
    assert_eq!(fetch(&node, &format!("{gateway}:8080")), "one");
    for (from, target) in
        [(&visitor, format!("{first} 80")), (&visitor, format!("{gateway} 8080")), (&server, format!("{gateway} 8080"))]
    {
        // Debian's static wget crashes in name resolution; nc has none to do.
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {target}");
        let output = client.exec(from, &["sh", "-c", &script], 5).await.unwrap();
        assert!(String::from_utf8_lossy(&output.stdout).ends_with("\r\n\r\none\n"), "{target}: {output:?}");
    }
    let output = client.exec(&visitor, &["ping", "-c", "1", "-W", "2", &gateway], 5).await.unwrap();
    assert_eq!(output.exit_code, 0, "{output:?}");

    // The node's own loopback is not reachable from a pod, though route_localnet is on.
    let listener = node.inside(&["sh", "-c", "busybox nc -l -p 9999 -s 127.0.0.1 >/dev/null 2>&1 & echo $!"]);
    let output = client.exec(&visitor, &["nc", "-w", "1", &gateway, "9999"], 5).await.unwrap();
    assert_ne!(output.exit_code, 0);
    let pid = String::from_utf8_lossy(&listener.stdout).trim().to_string();
    node.inside(&["kill", &pid]);

    let mut taken = pod(&node, "three");
    taken.port_mappings = vec![cri::PortMapping { container_port: 81, host_port: 8080, ..Default::default() }];
    let request = cri::RunPodSandboxRequest { config: Some(taken), runtime_handler: String::new() };
    let error = client.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(error.message().contains("host port 8080/tcp is in use"), "{error}");

    client.remove_pod(&one).await;
    assert_ne!(fetch(&node, "127.0.0.1:8080"), "one");
    client.remove_pod(&two).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_on_the_host_network_has_the_node_s_interfaces() {
    let Some(mut node) = testnode::start("hostnet").await else { return };
    let mut client = Client::of(&node).await;
    let mut config = pod(&node, "host");
    let options = cri::NamespaceOption { network: cri::NamespaceMode::Node.into(), ..testnode::own_namespaces() };
    config.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    let id = client.run_pod(config).await;
    assert_eq!(client.address(&id).await, "");
    let mut main = container("main", &["sleep", "1000"]);
    main.linux.as_mut().unwrap().security_context.as_mut().unwrap().namespace_options = Some(options);
    let main = client.run(&id, main).await;
    let output = client.exec(&main, &["sh", "-c", "cat /proc/net/dev"], 5).await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("lo:") && !text.contains("eth0:"), "{text}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn addresses_of_pods_that_died_with_the_daemon_are_given_back() {
    let Some(mut node) = testnode::start("leases").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    node.kill_wharfd();
    let leases = node.path("run/network/leases.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&leases).unwrap()).unwrap();
    text["leases"]["00000000000000000000000000000000"] = text["leases"][&id].clone();
    text["leases"]["00000000000000000000000000000000"]["address"] = format!("{}9", testnode::SUBNET_PREFIX).into();
    std::fs::write(&leases, text.to_string()).unwrap();
    node.start_wharfd();
    let text = std::fs::read_to_string(&leases).unwrap();
    assert!(text.contains(&id) && !text.contains("00000000000000000000000000000000"), "{text}");
    let mut client = Client::of(&node).await;
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// As `kill -9` in the middle of the first pod leaves it, or after it and with another subnet than the next daemon's.
#[tokio::test]
async fn half_a_bridge_of_an_earlier_daemon_is_made_whole() {
    let Some(mut node) = testnode::start("halfbridge").await else { return };
    node.kill_wharfd();
    assert!(node.inside(&["ip", "link", "add", "wt0", "type", "bridge"]).status.success());
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "one")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let gateway = format!("{}1", testnode::SUBNET_PREFIX);
    let output = client.exec(&main, &["ping", "-c", "1", "-W", "5", &gateway], 10).await.unwrap();
    assert_eq!(output.exit_code, 0, "{output:?}");
    let local = node.inside_thread(|| std::fs::read_to_string("/proc/sys/net/ipv4/conf/wt0/route_localnet").unwrap());
    assert_eq!(local.trim(), "1");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn rules_go_with_the_daemon_though_somebody_deleted_the_bridge() {
    let Some(mut node) = testnode::start("nobridge").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "one")).await;
    assert!(node.inside(&["ip", "link", "delete", "wt0"]).status.success());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn host_ports_are_of_any_protocol_and_what_needs_ipv6_is_refused() {
    let Some(mut node) = testnode::start("hostports").await else { return };
    let mut client = Client::of(&node).await;
    let port = |protocol: cri::Protocol, host_ip: &str| cri::PortMapping {
        protocol: protocol.into(),
        container_port: 7000,
        host_port: 7001,
        host_ip: host_ip.into(),
    };
    let mut config = pod(&node, "ports");
    config.port_mappings =
        vec![port(cri::Protocol::Tcp, ""), port(cri::Protocol::Udp, ""), port(cri::Protocol::Sctp, "127.0.0.1")];
    let id = client.run_pod(config).await;
    let address = client.address(&id).await;
    let rules = String::from_utf8(node.inside(&["nft", "list", "ruleset"]).stdout).unwrap();
    for rule in ["tcp dport 7001", "udp dport 7001", "ip daddr 127.0.0.1 sctp dport 7001"] {
        assert!(rules.contains(&format!("{rule} dnat to {address}:7000")), "{rules}");
    }

    for host_ip in ["fd00::1", "::"] {
        let mut config = pod(&node, "six");
        config.port_mappings = vec![port(cri::Protocol::Tcp, host_ip)];
        let error = client.run_pod_of(config, "").await.unwrap_err();
        assert!(error.message().contains("config.port_mappings[0].host_ip of IPv6"), "{error}");
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn pods_get_addresses_of_the_range_that_the_client_tells() {
    let Some(mut node) = testnode::start("podcidr").await else { return };
    let mut client = Client::of(&node).await;
    let request = |pod_cidr: &str| cri::UpdateRuntimeConfigRequest {
        runtime_config: Some(cri::RuntimeConfig {
            network_config: Some(cri::NetworkConfig { pod_cidr: pod_cidr.into() }),
        }),
    };
    client.runtime.update_runtime_config(request("10.78.3.0/24,fd00:3::/64")).await.unwrap();
    // It is no matter of this daemon's memory.
    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let addresses = client.addresses(&id).await;
    let number = addresses[0].strip_prefix("10.78.3.").unwrap().parse::<u8>().unwrap();
    assert_eq!(addresses[1..], [format!("fd00:3::{number:x}")]);

    client.runtime.update_runtime_config(request("fd00:3::/64, 10.78.3.0/24")).await.unwrap();
    for other in ["10.78.4.0/24", "10.78.3.0/24", "10.78.3.0/24,fd00:4::/64"] {
        let error = client.runtime.update_runtime_config(request(other)).await.unwrap_err();
        assert!(error.code() == tonic::Code::FailedPrecondition && error.message().contains(&id), "{error}");
    }
    for wrong in [
        "fd00::/64",
        "10.78.4.0",
        "10.78.4.1/24",
        "x",
        "10.78.4.0/24,fd00::/128",
        "10.78.4.0/24,fe80::/64",
        "10.78.4.0/24,::/0",
    ] {
        let error = client.runtime.update_runtime_config(request(wrong)).await.unwrap_err();
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{wrong}");
        assert!(error.message().starts_with("runtime_config.network_config.pod_cidr: "), "{error}");
    }
    client.remove_pod(&id).await;
    client.runtime.update_runtime_config(request("10.78.4.0/24")).await.unwrap();
    let id = client.run_pod(pod(&node, "web")).await;
    let addresses = client.addresses(&id).await;
    assert!(addresses.len() == 1 && addresses[0].starts_with("10.78.4."), "{addresses:?}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
