//! SCTP at Services and host ports. Kernels need no SCTP of their own for that: what a pod would be asked is seen as it comes
//! over the wire.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketType, ipproto, socket};
use serde_json::json;
use wharf_specs::cri;

use crate::dual_network::{GATEWAY, start};
use crate::replicas::{apply, container_id, wait_ready};
use crate::services::{end, get, service, wait_for_endpoints, web};
use crate::testnode::{Client, TestNode, container, pod, wait_for};

/// CRC32c (RFC 9260, appendix A).
fn checksum(bytes: &[u8]) -> u32 {
    let step = |crc: u32, _| if crc & 1 == 1 { crc >> 1 ^ 0x82f6_3b78 } else { crc >> 1 };
    !bytes.iter().fold(!0, |crc, byte| (0..8).fold(crc ^ u32::from(*byte), step))
}

/// INIT, with which an association begins (RFC 9260, 3.3.2).
fn init(from: u16, to: u16) -> Vec<u8> {
    let chunk = [1, 0, 0, 20, 1, 2, 3, 4, 0, 1, 0, 0, 0, 1, 0, 1, 5, 6, 7, 8];
    let mut packet = [&from.to_be_bytes()[..], &to.to_be_bytes(), &[0; 8], &chunk].concat();
    let sum = checksum(&packet);
    packet[8..12].copy_from_slice(&sum.to_le_bytes());
    packet
}

/// Speaks and hears SCTP as it is on the wire.
fn raw(is_ipv4: bool) -> UdpSocket {
    let family = if is_ipv4 { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = UdpSocket::from(socket(family, SocketType::RAW, Some(ipproto::SCTP)).unwrap());
    socket.set_nonblocking(true).unwrap();
    socket
}

/// Begins an association with `address` and `port`, until a pod is asked for one; the port that it is asked for then.
fn asked_for(node: &TestNode, pod: i64, address: &str, port: u16) -> u16 {
    let address: IpAddr = address.parse().unwrap();
    let is_ipv4 = address.is_ipv4();
    let (client, server) = (node.inside_thread(move || raw(is_ipv4)), node.inside_thread_of(pod, move || raw(is_ipv4)));
    let (mut buffer, mut own) = ([0; 256], 20_000);
    let mut found = None;
    wait_for("the association's begin", Duration::from_secs(10), || {
        own += 1;
        client.send_to(&init(own, port), SocketAddr::new(address, 0)).unwrap();
        while let (None, Ok((length, _))) = (found, server.recv_from(&mut buffer)) {
            // Of IPv4 with its header.
            let packet = if is_ipv4 { &buffer[20..length] } else { &buffer[..length] };
            let mut bare = packet.to_vec();
            bare[8..12].fill(0);
            assert_eq!(checksum(&bare).to_le_bytes(), packet[8..12], "{packet:?}");
            found = Some(u16::from_be_bytes([packet[2], packet[3]]));
        }
        found.is_some()
    });
    found.unwrap()
}

#[tokio::test]
async fn associations_are_brought_to_pods_by_services_and_host_ports_of_both_families() {
    let Some(node) = start("sctp").await else { return };
    let ports = json!([{"port": 80, "targetPort": 7000, "protocol": "SCTP"}]);
    apply(&node, &service(json!({"type": "NodePort", "ipFamilyPolicy": "RequireDualStack", "ports": ports})));
    apply(&node, &web(1));
    let server = container_id(&wait_ready(&node, 1)[0]);
    for chain in ["in-default/web/sctp/80", "in6-default/web/sctp/80"] {
        wait_for_endpoints(&node, chain, 1);
    }
    if !node.inside(&["test", "-e", "/proc/sys/net/netfilter/nf_conntrack_sctp_timeout_closed"]).status.success() {
        println!("SKIP associations_are_brought_to_pods, the rest: this kernel does not follow SCTP");
        return end(node, "services,deployments");
    }
    let mut client = Client::of(&node).await;
    let server = client.verbose_pid(&server).await;
    let spec = get(&node, "service", "web")["spec"].clone();
    let node_port = spec["ports"][0]["nodePort"].as_u64().unwrap() as u16;
    for ip in spec["clusterIPs"].as_array().unwrap() {
        assert_eq!(asked_for(&node, server, ip.as_str().unwrap(), 80), 7000, "{ip}");
    }
    for gateway in ["10.77.0.1", GATEWAY] {
        assert_eq!(asked_for(&node, server, gateway, node_port), 7000, "{gateway}");
    }

    let mut config = pod(&node, "ports");
    config.port_mappings = vec![cri::PortMapping {
        protocol: cri::Protocol::Sctp.into(),
        container_port: 7000,
        host_port: 7001,
        host_ip: String::new(),
    }];
    let id = client.run_pod(config).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let main = client.verbose_pid(&main).await;
    for gateway in ["10.77.0.1", GATEWAY] {
        assert_eq!(asked_for(&node, main, gateway, 7001), 7000, "{gateway}");
    }
    client.remove_pod(&id).await;
    end(node, "services,deployments");
}
