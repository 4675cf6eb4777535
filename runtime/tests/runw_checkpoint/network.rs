//! Connections, and networks of others.

use super::*;

/// A network namespace that a process holds.
struct Network(Child);

impl Network {
    fn new() -> Self {
        let mut command = Command::new(BUSYBOX);
        command.args(["unshare", "-n", BUSYBOX, "sh", "-c", "ip link set lo up; echo up; exec sleep 1000"]);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("unshare");
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().expect("stdout")).read_line(&mut line).expect("read");
        assert_eq!(line, "up\n");
        Self(child)
    }

    fn path(&self) -> String {
        format!("/proc/{}/ns/net", self.0.id())
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.0.kill().expect("kill");
        self.0.wait().expect("wait");
    }
}

#[test]
fn a_connection_survives() {
    require_criu!("a_connection_survives");
    // Each number has gone to the server and come back.
    let talk = "busybox nc -l -p 7000 -e cat & i=0
        until grep -q ':1B58 ' /proc/net/tcp /proc/net/tcp6; do :; done
        while :; do i=$((i+1)); echo $i; sleep 0.1; done | busybox nc 127.0.0.1 7000 |
        while read line; do echo $line > /data/new; mv /data/new /data/count; done";
    let counter = Counter::running(talk);
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(3);
    assert_one_line(&checkpoint(bundle, &[]), &["criu dump failed", "--tcp-established", "work/dump.log"]);
    let count = counter.above(0);
    let count = counter.above(count);
    ok(bundle, &checkpoint(bundle, &["--tcp-established"]));
    ok(bundle, &restore(bundle, &["--tcp-established"]));
    counter.above(count + 5);
}

#[test]
fn a_network_namespace_by_path_is_joined_again() {
    require_criu!("a_network_namespace_by_path_is_joined_again");
    let network = Network::new();
    let mut counter = Counter::new();
    for namespace in counter.bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if namespace["type"] == "network" {
            namespace["path"] = json!(network.path());
        }
    }
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(1);
    let first = checkpoint(bundle, &[]);
    if first.stderr.contains("install iptables-restore") {
        println!("SKIP a_network_namespace_by_path_is_joined_again: {}", first.stderr.trim());
        return;
    }
    ok(bundle, &first);
    ok(bundle, &restore(bundle, &[]));
    let inode = |path: String| fs::read_link(path).expect("namespace");
    assert_eq!(inode(format!("/proc/{}/ns/net", bundle.state()["pid"])), inode(network.path()));
}
