//! Pods on the networks of Debian's CNI plugins: bridge with host-local, portmap, bandwidth and loopback, chained.

use std::path::Path;
use std::time::Duration;

use crate::network::{SERVE, fetch};
use crate::testnode::{self, Client, Options, TestNode, container, pod, wait_for};
use wharf_specs::cri;

const PLUGINS: &str = "/usr/lib/cni";
const PREFIXES: [&str; 2] = ["10.76.0.", "fd76::"];

/// Offered in a version that these plugins do not speak, too: the newest common one is taken.
fn list(folder: &Path) -> String {
    let leases = folder.join("leases");
    let ipam = format!(
        r#"{{"type": "host-local", "dataDir": {leases:?}, "routes": [{{"dst": "0.0.0.0/0"}}, {{"dst": "::/0"}}],
            "ranges": [[{{"subnet": "10.76.0.0/24"}}], [{{"subnet": "fd76::/64"}}]]}}"#
    );
    format!(
        r#"{{"cniVersion": "1.0.0", "cniVersions": ["0.4.0", "1.0.0", "1.1.0"], "name": "pods", "plugins": [
            {{"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true, "ipam": {ipam}}},
            {{"type": "portmap", "snat": true, "capabilities": {{"portMappings": true}}}},
            {{"type": "bandwidth", "capabilities": {{"bandwidth": true}}}},
            {{"type": "loopback"}}
        ]}}"#
    )
}

async fn start(test: &str) -> Option<TestNode> {
    for plugin in ["bridge", "host-local", "portmap", "bandwidth", "loopback"] {
        if !Path::new(PLUGINS).join(plugin).exists() {
            println!("SKIP {test}: needs {PLUGINS}/{plugin} of Debian's containernetworking-plugins");
            return None;
        }
    }
    let options = |folder: &Path| Options {
        network: format!("cni.plugins = [{PLUGINS:?}]\n"),
        keys: String::new(),
        files: vec![("net.d/10-pods.conflist", list(folder))],
    };
    testnode::start_with(test, options).await
}

/// Addresses that host-local has given away.
fn given(node: &TestNode) -> Vec<String> {
    let entries = std::fs::read_dir(node.path("leases/pods")).into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    let mut given: Vec<String> = names.filter(|name| name != "lock" && !name.starts_with("last_reserved")).collect();
    given.sort();
    given
}

/// What is left, but for the bridge and the tables, which these plugins leave to the next pod.
fn leftovers(node: &TestNode) -> Vec<String> {
    let own = |entry: &String| !entry.contains("cni0") && !entry.starts_with("nft ");
    node.leftovers().into_iter().filter(own).collect()
}

async fn shell(client: &mut Client, container: &str, script: &str) -> String {
    let output = client.exec(container, &["sh", "-c", script], 10).await.unwrap();
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[tokio::test]
async fn pods_reach_each_other_serve_host_ports_and_give_their_addresses_back() {
    let Some(mut node) = start("cniplugins").await else { return };
    let mut client = Client::of(&node).await;
    let mut one = pod(&node, "one");
    one.port_mappings = vec![cri::PortMapping { container_port: 80, host_port: 8080, ..Default::default() }];
    one.annotations = [("kubernetes.io/ingress-bandwidth".to_string(), "100M".to_string())].into();
    let one = client.run_pod(one).await;
    let two = client.run_pod(pod(&node, "two")).await;
    let server = client.run(&one, container("main", SERVE)).await;
    let visitor = client.run(&two, container("main", &["sleep", "1000"])).await;
    let first = client.addresses(&one).await;
    assert_eq!(first.len(), 2, "{first:?}");
    assert!(first.iter().zip(PREFIXES).all(|(address, prefix)| address.starts_with(prefix)), "{first:?}");
    assert_eq!(given(&node).len(), 4);
    let hosts = shell(&mut client, &server, "cat /etc/hosts").await;
    assert!(first.iter().all(|address| hosts.contains(&format!("{address}\tone\n"))), "{hosts}");

    wait_for("the server", Duration::from_secs(20), || fetch(&node, &format!("{}:80", first[0])) == "one");
    for target in [format!("{} 80", first[0]), format!("{} 80", first[1]), "10.76.0.1 8080".to_string()] {
        let script = format!("printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w 3 {target}");
        let page = shell(&mut client, &visitor, &script).await;
        assert!(page.ends_with("\r\n\r\none\n"), "{target}: {page}");
    }
    assert_eq!(fetch(&node, "127.0.0.1:8080"), "one");
    let shaped = String::from_utf8(node.inside(&["tc", "qdisc"]).stdout).unwrap();
    assert!(shaped.contains("tbf") && shaped.contains("rate 100Mbit"), "{shaped}");

    client.stop_pod(&one).await;
    assert_eq!(given(&node).len(), 2);
    assert_ne!(fetch(&node, "127.0.0.1:8080"), "one");
    client.remove_pod(&one).await;
    client.remove_pod(&two).await;
    assert_eq!(given(&node), Vec::<String>::new());
    node.terminate_wharfd();
    assert_eq!(leftovers(&node), Vec::<String>::new());
}

#[tokio::test]
async fn a_killed_daemon_s_pods_keep_their_network_until_the_next_one_gives_it_back() {
    let Some(mut node) = start("cnirestart").await else { return };
    let mut client = Client::of(&node).await;
    let mut config = pod(&node, "web");
    // CHECK of Debian's bandwidth 1.1.1 crashes for a pod that asks for none.
    config.annotations =
        ["ingress", "egress"].map(|way| (format!("kubernetes.io/{way}-bandwidth"), "100M".to_string())).into();
    let id = client.run_pod(config).await;
    let main = client.run(&id, container("main", SERVE)).await;
    let before = client.addresses(&id).await;
    node.kill_wharfd();
    wait_for("the server", Duration::from_secs(20), || fetch(&node, &format!("{}:80", before[0])) == "web");
    node.start_wharfd();

    let mut client = Client::of(&node).await;
    assert_eq!(client.addresses(&id).await, before);
    assert_eq!(fetch(&node, &format!("{}:80", before[0])), "web");
    client.stop(&main, 0).await;
    client.remove_pod(&id).await;
    assert_eq!(given(&node), Vec::<String>::new());
    // The plugins' own CHECK, before anything else was done with the pod.
    assert!(!node.log().contains("network is not as it was left"), "{}", node.log());
    node.terminate_wharfd();
    assert_eq!(leftovers(&node), Vec::<String>::new());
}

#[tokio::test]
async fn addresses_come_back_where_the_namespace_went_first() {
    let Some(mut node) = start("cnigone").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    assert_eq!(given(&node).len(), 2);
    remove_namespace(&node, &mut client, &id).await;
    client.stop_pod(&id).await;
    assert_eq!(given(&node), Vec::<String>::new());
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(leftovers(&node), Vec::<String>::new());
}

/// Takes the path to the pod's network namespace away, and then the process that holds it.
async fn remove_namespace(node: &TestNode, client: &mut Client, id: &str) {
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.into(), verbose: true };
    let info = client.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    let path = node.path("run/network/netns").join(id);
    assert!(node.inside(&["umount", path.to_str().unwrap()]).status.success());
    let shim = rustix::process::Pid::from_raw(info["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
}

#[tokio::test]
async fn addresses_come_back_after_a_reboot() {
    let Some(mut node) = start("cnireboot").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let request = cri::PodSandboxStatusRequest { pod_sandbox_id: id.clone(), verbose: true };
    let info = client.runtime.pod_sandbox_status(request).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    // What a power loss leaves: the disk, and neither processes nor mounts nor RUN.
    node.kill_wharfd();
    let shim = rustix::process::Pid::from_raw(info["pid"].as_i64().unwrap() as i32).unwrap();
    rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
    for path in [format!("run/network/netns/{id}"), format!("run/pods/{id}/shm")] {
        assert!(node.inside(&["umount", node.path(&path).to_str().unwrap()]).status.success(), "{path}");
    }
    std::fs::remove_dir_all(node.path("run")).unwrap();
    assert_eq!(given(&node).len(), 2);
    node.start_wharfd();
    wait_for("the addresses", Duration::from_secs(60), || given(&node).is_empty());
    wait_for("the record's end", Duration::from_secs(60), || {
        std::fs::read_dir(node.path("data/network/attachments")).unwrap().next().is_none()
    });
    node.terminate_wharfd();
    assert_eq!(leftovers(&node), Vec::<String>::new());
}
