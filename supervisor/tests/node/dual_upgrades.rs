//! IPv6 that comes to a node, leaves it, or is not there.

use std::time::Duration;

use serde_json::json;

use crate::dual_network::SUBNETS;
use crate::network::{SERVE, fetch};
use crate::replicas::{LIMIT, apply, assert_nothing_left, list, wait_ready, wharf};
use crate::services::{answers, cluster_ip, end, get, rules, service, wait_for_endpoints, web};
use crate::testnode::{self, Client, TestNode, container, pod, wait_for};

fn tables(node: &TestNode) -> Vec<String> {
    let output = node.inside(&["nft", "list", "tables"]);
    let mut tables: Vec<String> = String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
    tables.sort_unstable();
    tables
}

fn configure(node: &TestNode, change: impl FnOnce(String) -> String) {
    let path = node.path("wharfd.toml");
    std::fs::write(&path, change(std::fs::read_to_string(&path).unwrap())).unwrap();
}

#[tokio::test]
async fn a_node_with_pods_gets_ipv6_and_loses_it() {
    let Some(mut node) = testnode::start("dualcome").await else { return };
    apply(&node, &service(json!({"ipFamilyPolicy": "PreferDualStack"})));
    apply(&node, &web(1));
    let pods = wait_ready(&node, 1);
    let address = format!("{}:80", cluster_ip(&node, "web"));
    wait_for_endpoints(&node, "in-default/web/tcp/80", 1);
    let first = answers(&node, &address, 1);
    assert_eq!(tables(&node), ["table ip wharf-services-wt0", "table ip wharf-wt0"]);
    assert_eq!(pods[0]["status"]["podIPs"].as_array().unwrap().len(), 1);
    assert_eq!(get(&node, "service", "web")["spec"]["ipFamilies"], json!(["IPv4"]));

    node.kill_wharfd();
    configure(&node, |text| text + SUBNETS);
    node.start_wharfd();
    // The rules are one table each, and none is left of before. What is there goes on as it was.
    let both = ["table inet wharf-services-wt0", "table inet wharf-wt0"];
    wait_for("the tables", LIMIT, || tables(&node) == both);
    wait_for_endpoints(&node, "in-default/web/tcp/80", 1);
    assert_eq!(answers(&node, &address, 4), first);
    assert_eq!(get(&node, "service", "web")["spec"]["ipFamilies"], json!(["IPv4"]));
    wharf(&node, &["scale", "deployment/web", "--replicas", "2"]);
    let pods = wait_ready(&node, 2);
    let mut counts: Vec<usize> = pods.iter().map(|pod| pod["status"]["podIPs"].as_array().unwrap().len()).collect();
    counts.sort_unstable();
    assert_eq!(counts, [1, 2]);
    let dual = pods.iter().find(|pod| pod["status"]["podIPs"][1].is_object()).unwrap();
    let six = dual["status"]["podIPs"][1]["ip"].as_str().unwrap();
    assert_eq!(fetch(&node, &format!("[{six}]:8080")), dual["metadata"]["name"].as_str().unwrap());
    apply(&node, &service(json!({"ipFamilyPolicy": "RequireDualStack"})));
    wait_for_endpoints(&node, "in6-default/web/tcp/80", 1);
    let second = get(&node, "service", "web")["spec"]["clusterIPs"][1].as_str().unwrap().to_owned();
    assert_eq!(answers(&node, &format!("[{second}]:80"), 4).len(), 1);

    node.kill_wharfd();
    configure(&node, |text| text.replace(SUBNETS, ""));
    node.start_wharfd();
    let four = ["table ip wharf-services-wt0", "table ip wharf-wt0"];
    wait_for("the tables", LIMIT, || tables(&node) == four && !rules(&node).contains("ip6"));
    wait_for_endpoints(&node, "in-default/web/tcp/80", 2);
    assert_eq!(answers(&node, &address, 20).len(), 2);
    // The Service keeps what it has, and can be changed and deleted.
    let mut labelled = service(json!({"ipFamilyPolicy": "RequireDualStack"}));
    labelled["metadata"]["labels"] = json!({"seen": "yes"});
    apply(&node, &labelled);
    assert_eq!(get(&node, "service", "web")["metadata"]["labels"]["seen"], "yes");
    assert_eq!(list(&node, "services")[0]["spec"]["clusterIPs"][1], second.as_str());
    end(node, "services,deployments");
}

#[tokio::test]
async fn a_machine_without_ipv6_says_so_once_and_serves_ipv4_as_ever() {
    let Some(mut node) = testnode::start("nosix").await else { return };
    node.terminate_wharfd();
    let refused = |node: &TestNode, network: &str| {
        configure(node, |text| text + network);
        let output = node
            .enter()
            .arg(env!("CARGO_BIN_EXE_wharfd"))
            .args([
                "--root".as_ref(),
                node.path("data").as_os_str(),
                "--state".as_ref(),
                node.path("run").as_os_str(),
                "--config".as_ref(),
                node.path("wharfd.toml").as_os_str(),
                "--manifests".as_ref(),
                node.path("manifests").as_os_str(),
            ])
            .output()
            .unwrap();
        configure(node, |text| text.replace(network, ""));
        let said = String::from_utf8(output.stderr).unwrap();
        let line = said.lines().filter(|line| line.contains("network.")).collect::<Vec<_>>().join("\n");
        assert!(output.status.code() == Some(1) && line.lines().count() == 1, "{said}");
        line
    };
    // Off, in the node's network namespace.
    let off = |value: &str| {
        let script =
            format!("for name in all default; do echo {value} > /proc/sys/net/ipv6/conf/$name/disable_ipv6; done");
        assert!(node.inside(&["sh", "-c", &script]).status.success());
    };
    off("1");
    for (key, subnet) in [("subnet6", "fd00:77::/64"), ("service_subnet6", "fd00:96::/108")] {
        let line = refused(&node, &format!("{key} = \"{subnet}\"\n"));
        let words = format!("network.{key}: \"{subnet}\" cannot be used: IPv6 is switched off on this machine");
        assert!(line.contains(&words), "{line}");
    }
    off("0");
    for (network, words) in [
        ("subnet6 = \"fd00::/128\"\n", "network.subnet6: \"fd00::/128\" has a prefix length outside 16 to 126"),
        ("subnet6 = \"fd00::/125\"\n", "network.subnet6: \"fd00::/125\" has fewer addresses than 10.77.0.0/24"),
        ("service_subnet6 = \"::/0\"\n", "network.service_subnet6: \"::/0\" has a prefix length outside 16 to 126"),
        (
            "subnet6 = \"fd00::/64\"\nservice_subnet6 = \"fd00::1:0/112\"\n",
            "network.subnet6: \"fd00::/64\" and service_subnet6 \"fd00::1:0/112\" have addresses in common",
        ),
    ] {
        let line = refused(&node, network);
        assert!(line.contains(words), "{line}");
    }
    // Not there at all, as with a kernel that has been told so when it was started.
    let hide = ["mount", "-t", "tmpfs", "tmpfs", "/proc/sys/net/ipv6"];
    assert!(node.inside(&hide).status.success());
    let line = refused(&node, "subnet6 = \"fd00:77::/64\"\n");
    assert!(line.contains("cannot be used: this machine's kernel has no IPv6"), "{line}");
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "four")).await;
    let addresses = client.addresses(&id).await;
    assert_eq!(addresses.len(), 1);
    client.run(&id, container("main", SERVE)).await;
    wait_for("the server", Duration::from_secs(5), || fetch(&node, &format!("{}:80", addresses[0])) == "four");
    assert_eq!(tables(&node), ["table ip wharf-wt0"]);
    client.remove_pod(&id).await;
    assert!(node.inside(&["umount", "/proc/sys/net/ipv6"]).status.success());
    assert_nothing_left(node);
}

#[tokio::test]
async fn a_node_tells_both_of_its_addresses_and_goes_on_hearing_its_own_routers() {
    let Some(mut node) = testnode::start("dualuplink").await else { return };
    for command in [
        &["ip", "link", "add", "up0", "type", "bridge"][..],
        &["ip", "link", "set", "up0", "up"],
        &["ip", "address", "add", "192.0.2.9/24", "dev", "up0"],
        &["ip", "address", "add", "2001:db8::9/64", "dev", "up0", "nodad"],
    ] {
        assert!(node.inside(command).status.success(), "{command:?}");
    }
    let told = |node: &TestNode| {
        let addresses = list(node, "nodes")[0]["status"]["addresses"].clone();
        let internal = addresses.as_array().unwrap().iter().filter(|address| address["type"] == "InternalIP");
        internal.map(|address| address["address"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    node.terminate_wharfd();
    configure(&node, |text| text + SUBNETS);
    node.start_wharfd();
    wait_for("the node's addresses", LIMIT, || told(&node) == ["192.0.2.9", "2001:db8::9"]);
    let mut client = Client::of(&node).await;
    let read = |name: &'static str| {
        let path = format!("/proc/sys/net/ipv6/conf/{name}");
        node.inside_thread(move || std::fs::read_to_string(path).unwrap().trim().to_owned())
    };
    assert_eq!((read("all/forwarding"), read("up0/accept_ra")), ("0".into(), "1".into()));
    let id = client.run_pod(pod(&node, "web")).await;
    assert_eq!(
        (read("all/forwarding"), read("up0/accept_ra"), read("wt0/accept_ra")),
        ("1".into(), "2".into(), "0".into())
    );
    client.remove_pod(&id).await;
    assert!(node.inside(&["ip", "link", "delete", "up0"]).status.success());
    assert_nothing_left(node);
}
