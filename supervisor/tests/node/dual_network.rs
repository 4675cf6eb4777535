//! The embedded network with IPv6: two addresses for each pod, and what other pods may not do to them.

use std::net::{Ipv6Addr, SocketAddrV6};
use std::time::Duration;

use rustix::net::{AddressFamily, SendFlags, SocketType, bind, ipproto, sendto, socket, sockopt};
use wharf_specs::cri;

use crate::network::{SERVE, fetch};
use crate::testnode::{self, Client, Options, TestNode, container, pod, wait_for, wait_for_async};

pub const SUBNETS: &str = "subnet6 = \"fd00:77::/64\"\nservice_subnet6 = \"fd00:96::/108\"\n";
pub const GATEWAY: &str = "fd00:77::1";

pub async fn start(test: &str) -> Option<TestNode> {
    testnode::start_with(test, |_| Options { network: SUBNETS.into(), ..Options::default() }).await
}

/// One page out of a container.
async fn fetch_from(client: &mut Client, container: &str, address: &str, port: u16) -> String {
    crate::services::fetch_from(client, container, &format!("[{address}]:{port}")).await
}

fn nft_tables(node: &TestNode) -> String {
    String::from_utf8(node.inside(&["nft", "list", "tables"]).stdout).unwrap()
}

#[tokio::test]
async fn pods_have_addresses_of_both_families_and_serve_host_ports_at_both() {
    let Some(mut node) = start("dualnet").await else { return };
    let mut client = Client::of(&node).await;
    let mapping = |host_port: i32, host_ip: &str| cri::PortMapping {
        container_port: 80,
        host_port,
        host_ip: host_ip.into(),
        ..Default::default()
    };
    let mut one = pod(&node, "one");
    one.port_mappings = vec![
        mapping(8080, ""),
        mapping(8081, GATEWAY),
        mapping(8082, "127.0.0.1"),
        mapping(8083, "0.0.0.0"),
        mapping(8084, "::"),
    ];
    let one = client.run_pod(one).await;
    let two = client.run_pod(pod(&node, "two")).await;
    let addresses = client.addresses(&one).await;
    let number: u8 = addresses[0].strip_prefix(testnode::SUBNET_PREFIX).unwrap().parse().unwrap();
    let six = format!("fd00:77::{number:x}");
    assert_eq!((addresses.len(), &addresses[1]), (2, &six));
    let other = client.addresses(&two).await[1].clone();
    let server = client.run(&one, container("main", SERVE)).await;
    let visitor = client.run(&two, container("main", &["sleep", "1000"])).await;

    // Of use from the first moment on: nobody asks whether somebody else has it.
    let shown = client.exec(&visitor, &["cat", "/proc/net/if_inet6"], 5).await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let own: String = other.parse::<Ipv6Addr>().unwrap().octets().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = shown.lines().find(|line| line.starts_with(&own)).unwrap();
    assert_eq!(line.split_whitespace().skip(2).take(3).collect::<Vec<_>>(), ["40", "00", "82"], "{line}");
    let hosts = client.exec(&server, &["cat", "/etc/hosts"], 5).await.unwrap();
    let hosts = String::from_utf8(hosts.stdout).unwrap();
    assert!(hosts.ends_with(&format!("\n{}\tone\n{six}\tone\n", addresses[0])), "{hosts}");
    let looped = client.exec(&visitor, &["ping", "-c", "1", "-W", "2", "::1"], 5).await.unwrap();
    assert_eq!(looped.exit_code, 0, "{looped:?}");

    testnode::wait_for("the server", Duration::from_secs(5), || fetch(&node, &format!("[{six}]:80")) == "one");
    for address in [
        "127.0.0.1:8080",
        "[fd00:77::1]:8080",
        "[fd00:77::1]:8081",
        "127.0.0.1:8082",
        "127.0.0.1:8083",
        "[fd00:77::1]:8084",
    ] {
        assert_eq!(fetch(&node, address), "one", "{address}");
    }
    // What is of one address, or of all of one family, is not of others, and at the node's loopback of IPv6 there is
    // nothing.
    for address in
        ["[::1]:8080", "127.0.0.1:8081", "[fd00:77::1]:8082", "[fd00:77::1]:8083", "127.0.0.1:8084", "10.77.0.1:8084"]
    {
        assert_eq!(fetch(&node, address), "", "{address}");
    }
    assert_eq!(fetch_from(&mut client, &visitor, &six, 80).await, "one");
    assert_eq!(fetch_from(&mut client, &visitor, GATEWAY, 8080).await, "one");
    assert_eq!(fetch_from(&mut client, &server, GATEWAY, 8080).await, "one");
    assert_eq!(nft_tables(&node), "table inet wharf-wt0\n");

    let mut taken = pod(&node, "three");
    taken.port_mappings = vec![mapping(8081, "fd00:77::1")];
    let error = client.run_pod_of(taken, "").await.unwrap_err();
    assert!(error.message().contains("host port 8081/tcp is in use"), "{error}");

    client.remove_pod(&one).await;
    assert_ne!(fetch(&node, "[fd00:77::1]:8080"), "one");
    client.remove_pod(&two).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn pods_reach_the_world_as_the_node() {
    let Some(mut node) = start("dualout").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "one")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    // Somewhere else, which knows nothing of the pods' addresses.
    let holder = std::process::Command::new("unshare").args(["--net", "sleep", "1000"]).spawn();
    let mut holder = holder.unwrap();
    let pid = holder.id().to_string();
    wait_for("the namespace", Duration::from_secs(5), || {
        let link = |process: &str| std::fs::read_link(format!("/proc/{process}/ns/net")).ok();
        link(&pid) != link("self")
    });
    let done = |output: std::process::Output| assert!(output.status.success(), "{output:?}");
    done(node.inside(&["ip", "link", "add", "out0", "type", "veth", "peer", "name", "out1", "netns", &pid]));
    done(node.inside(&["ip", "address", "add", "2001:db8::1/64", "dev", "out0", "nodad"]));
    done(node.inside(&["ip", "link", "set", "out0", "up"]));
    let there = |command: &[&str]| {
        std::process::Command::new("nsenter").args(["-t", &pid, "-n", "--"]).args(command).output().unwrap()
    };
    done(there(&["ip", "address", "add", "2001:db8::2/64", "dev", "out1", "nodad"]));
    done(there(&["ip", "link", "set", "out1", "up"]));
    let output = client.exec(&main, &["ping", "-c", "1", "-W", "5", "2001:db8::2"], 10).await.unwrap();
    assert_eq!(output.exit_code, 0, "{output:?}");
    done(node.inside(&["ip", "link", "delete", "out0"]));
    holder.kill().unwrap();
    holder.wait().unwrap();
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// A router advertisement (RFC 4861, 4.2): a router for an hour, and a prefix for addresses of one's own making.
fn advertisement() -> Vec<u8> {
    let router = [134, 0, 0, 0, 64, 0, 0x0e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0];
    let prefix = [3, 4, 64, 0xc0, 0, 0, 0x0e, 0x10, 0, 0, 0x0e, 0x10, 0, 0, 0, 0];
    let network: Ipv6Addr = "2001:db8:bad::".parse().unwrap();
    [&router[..], &prefix, &network.octets()].concat()
}

/// Sends it to everybody on the link, from the address that the kernel has given this interface.
fn advertise(interface: u32, own: Ipv6Addr) {
    let socket = socket(AddressFamily::INET6, SocketType::RAW, Some(ipproto::ICMPV6)).unwrap();
    // Nobody forwards such a message: it comes with all of its hops, or is none.
    sockopt::set_ipv6_multicast_hops(&socket, 255).unwrap();
    bind(&socket, &SocketAddrV6::new(own, 0, 0, interface)).unwrap();
    let everybody = SocketAddrV6::new("ff02::1".parse().unwrap(), 0, 0, interface);
    sendto(&socket, &advertisement(), SendFlags::empty(), &everybody).unwrap();
}

/// The interface `eth0` in `/proc/net/if_inet6`: its number and its address of the link, once that is of use.
fn link_address(if_inet6: &str) -> Option<(u32, Ipv6Addr)> {
    let fields = if_inet6.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let found = fields.into_iter().find(|fields| fields[0].starts_with("fe80") && fields[5] == "eth0")?;
    let is_tentative = u8::from_str_radix(found[4], 16).ok()? & 0x40 != 0;
    let address = u128::from_str_radix(found[0], 16).ok()?.into();
    (!is_tentative).then_some((u32::from_str_radix(found[1], 16).ok()?, address))
}

fn advertisements_heard(snmp6: &str) -> u64 {
    let line = snmp6.lines().find(|line| line.starts_with("Icmp6InRouterAdvertisements"));
    line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok()).unwrap_or(0)
}

#[tokio::test]
async fn a_pod_that_says_it_is_a_router_is_believed_by_nobody() {
    let Some(node) = start("dualra").await else { return };
    advertise_in_vain(node, &["default via fd00:77::1 dev eth0"]).await;
}

/// Who has no address of IPv6 would get one, and send what he can by the liar, as IPv6 is preferred.
#[tokio::test]
async fn without_ipv6_a_pod_that_says_it_is_a_router_is_believed_by_nobody_either() {
    let Some(node) = testnode::start("loneera").await else { return };
    advertise_in_vain(node, &[]).await;
}

/// One pod says that it is a router; another has but these routes out all the same.
async fn advertise_in_vain(mut node: TestNode, expected: &[&str]) {
    let mut client = Client::of(&node).await;
    let one = client.run_pod(pod(&node, "one")).await;
    let two = client.run_pod(pod(&node, "two")).await;
    let liar = client.run(&one, container("main", &["sleep", "1000"])).await;
    let victim = client.run(&two, container("main", &["sleep", "1000"])).await;
    let (liar, victim) = (client.verbose_pid(&liar).await, client.verbose_pid(&victim).await);
    let read = |path: &'static str| move || std::fs::read_to_string(path).unwrap();
    let mut found = None;
    wait_for_async("the link's address", Duration::from_secs(10), async || {
        found = link_address(&node.inside_thread_of(liar, read("/proc/thread-self/net/if_inet6")));
        found.is_some()
    })
    .await;
    let (interface, own) = found.unwrap();
    let heard = |pid: Option<i64>| {
        let read = read("/proc/thread-self/net/snmp6");
        advertisements_heard(&pid.map_or_else(|| node.inside_thread(read), |pid| node.inside_thread_of(pid, read)))
    };
    // A bridge that has just got a port may not hear the first one.
    wait_for("that both hear it", Duration::from_secs(10), || {
        node.inside_thread_of(liar, move || advertise(interface, own));
        heard(None) > 0 && heard(Some(victim)) > 0
    });
    let routes = |pid: &str| {
        let output = std::process::Command::new("nsenter")
            .args(["-t", pid, "-n", "--", "ip", "-6", "route", "show"])
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let of_node = String::from_utf8(node.inside(&["ip", "-6", "route", "show"]).stdout).unwrap();
    assert!(!of_node.contains("default") && !of_node.contains("bad"), "{of_node}");
    let of_victim = routes(&victim.to_string());
    let defaults: Vec<&str> = of_victim.lines().filter(|line| line.starts_with("default")).collect();
    assert_eq!(defaults.len(), expected.len(), "{of_victim}");
    assert!(defaults.iter().zip(expected).all(|(route, expected)| route.starts_with(expected)), "{of_victim}");
    assert!(!of_victim.contains("2001:db8:bad"), "{of_victim}");
    client.remove_pod(&one).await;
    client.remove_pod(&two).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_that_switches_ipv6_off_has_one_address() {
    let Some(mut node) = start("dualoff").await else { return };
    let mut client = Client::of(&node).await;
    let mut config = pod(&node, "four");
    let sysctls = &mut config.linux.as_mut().unwrap().sysctls;
    sysctls.insert("net.ipv6.conf.all.disable_ipv6".into(), "1".into());
    sysctls.insert("net.ipv6.conf.default.disable_ipv6".into(), "1".into());
    let four = client.run_pod(config).await;
    let addresses = client.addresses(&four).await;
    assert!(addresses.len() == 1 && addresses[0].starts_with(testnode::SUBNET_PREFIX), "{addresses:?}");
    client.run(&four, container("main", SERVE)).await;
    testnode::wait_for("the server", Duration::from_secs(5), || {
        fetch(&node, &format!("{}:80", addresses[0])) == "four"
    });
    client.remove_pod(&four).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_with_users_of_its_own_has_both_addresses() {
    let Some(mut node) = start("dualusers").await else { return };
    let mut client = Client::of(&node).await;
    let mut config = pod(&node, "users");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(crate::user_namespaces::options(cri::NamespaceMode::Container));
    let id = client.run_pod(config).await;
    let addresses = client.addresses(&id).await;
    assert!(addresses.len() == 2 && addresses[1].starts_with("fd00:77::"), "{addresses:?}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
