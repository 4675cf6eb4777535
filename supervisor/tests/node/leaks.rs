//! `wharf leaks`: nothing on a node at work, and each kind of thing that somebody left there; a new daemon takes it all away.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Output, Stdio};

use crate::testnode::{self, Client, TestNode, container, pod};

/// No pod's: what is left of it is planted.
const GONE: &str = "ffffffffffffffffffffffffffffffff";

pub fn leaks(node: &TestNode) -> Output {
    let run = node.path("run");
    node.inside(&[env!("CARGO_BIN_EXE_wharf"), "--state", run.to_str().unwrap(), "leaks"])
}

/// As root would by hand.
fn shell(node: &TestNode, script: &str) {
    let output = node.inside(&["sh", "-ec", script]);
    assert!(output.status.success(), "{script}: {output:?}");
}

fn plant(node: &TestNode) -> PathBuf {
    let pod = node.path(&format!("run/pods/{GONE}"));
    let directory = pod.display();
    std::fs::create_dir_all(pod.join("shm")).unwrap();
    std::fs::write(pod.join("sandbox.json"), format!(r#"{{"id":"{GONE}","hostname":"","namespaces":["network"]}}"#))
        .unwrap();
    let shim = PathBuf::from(env!("CARGO_BIN_EXE_wharfd")).with_file_name("wharf-shim");
    let mut shim = node.enter().arg(shim).arg("--dir").arg(&pod).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(shim.stdout.take().unwrap()).read_line(&mut said).unwrap();
    assert_eq!(said, "ready\n");
    // It is reaped when the daemon has ended it.
    std::thread::spawn(move || shim.wait());
    shell(node, &format!("mount -t tmpfs shm {directory}/shm"));
    let pins = node.path("run/network/netns");
    let pin = pins.join(GONE);
    std::fs::create_dir_all(&pins).unwrap();
    shell(node, &format!("touch {0}; mount --bind /proc/self/ns/net {0}", pin.display()));
    std::fs::create_dir_all(node.path(&format!("data/containers/{GONE}/upper"))).unwrap();
    let leases = node.path("run/network/leases.json");
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(&leases).unwrap()).unwrap();
    text["leases"][GONE] = serde_json::json!({"address": format!("{}99", testnode::SUBNET_PREFIX), "ports": []});
    std::fs::write(&leases, text.to_string()).unwrap();
    let veth = &GONE[..11];
    shell(node, &format!("ip link add veth{veth} type veth peer name left0; ip link set veth{veth} master wt0"));
    shell(node, &format!("nft add rule ip wharf-wt0 ports tcp dport 99 dnat to {}99:99", testnode::SUBNET_PREFIX));
    pod
}

#[tokio::test]
async fn leaks_names_what_is_left_and_a_new_daemon_takes_it_away() {
    let Some(mut node) = testnode::start("leaks").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let none = leaks(&node);
    assert!(none.status.success(), "{none:?}");
    assert_eq!(String::from_utf8(none.stdout).unwrap(), "nothing is left: 1 pod sandboxes, 1 containers\n");

    let directory = plant(&node);
    node.plant_group(GONE);
    let found = leaks(&node);
    assert_eq!(found.status.code(), Some(1), "{found:?}");
    let text = String::from_utf8(found.stdout).unwrap();
    let line = |kind: &str, what: &str| {
        let line = text.lines().find(|line| line.starts_with(kind) && line.contains(what));
        line.unwrap_or_else(|| panic!("no {kind} {what} in\n{text}")).to_owned()
    };
    for (kind, what) in [
        ("process", "wharf-shim --dir"),
        ("process", "sleep 1234"),
        ("mount", "/shm"),
        ("namespace", "network/netns"),
        ("cgroup", GONE),
        ("address", "10.77.0.99"),
        ("snapshot", "data/containers"),
        ("directory", directory.to_str().unwrap()),
    ] {
        assert!(line(kind, what).trim_end().ends_with(GONE), "{text}");
    }
    assert!(line("interface", &GONE[..11]).trim_end().ends_with(&GONE[..11]), "{text}");
    // Its address is still in the books.
    assert!(!text.contains("nft rule") && !text.contains(&id) && !text.contains(&main), "{text}");

    node.kill_wharfd();
    let down = leaks(&node);
    let message = String::from_utf8(down.stderr).unwrap();
    assert!(down.status.code() == Some(1) && message.contains("no node answers at"), "{message}");
    node.start_wharfd();
    let none = leaks(&node);
    assert!(none.status.success(), "{none:?}");

    shell(&node, &format!("nft add rule ip wharf-wt0 ports tcp dport 99 dnat to {}99:99", testnode::SUBNET_PREFIX));
    let found = leaks(&node);
    assert!(String::from_utf8(found.stdout).unwrap().contains("tcp dport 99 dnat to 10.77.0.99:99"));
    let mut client = Client::of(&node).await;
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
