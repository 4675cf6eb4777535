//! `linux.netDevices` with a veth pair, in a network namespace of the test's own.

mod support;

use serde_json::json;
use std::process::Command;
use support::{Bundle, Outcome};

const PAIR: &str = "ip link add wharf0 type veth peer name wharf1
    ip address add 192.0.2.7/24 dev wharf0
    ip address add 2001:db8::7/64 dev wharf0
    ip address add 169.254.3.3/16 scope link dev wharf0
    ip link set wharf0 mtu 1404 up";

/// Whether this test cannot run here; says why.
fn skip(test: &str) -> bool {
    let script = format!("{PAIR}; ip link show wharf0");
    match Command::new("unshare").args(["-n", "sh", "-e", "-c", &script]).output() {
        Ok(output) if output.status.success() => support::skip(test),
        Ok(output) => {
            println!("SKIP {test}: veth devices cannot be made: {}", String::from_utf8_lossy(&output.stderr).trim());
            true
        }
        Err(error) => {
            println!("SKIP {test}: unshare: {error}");
            true
        }
    }
}

/// Makes the pair, runs the bundle with `$@`, and then what `after` says.
fn run(bundle: &Bundle, before: &str, after: &str) -> Outcome {
    let script = format!("{PAIR}\n{before}\n\"$@\" || echo \"exit $?\"\n{after}");
    let command = bundle.command(&["run", &bundle.id]);
    let mut outer = Command::new("unshare");
    outer.args(["-n", "-m", "sh", "-e", "-c", &script, "sh"]).arg(command.get_program()).args(command.get_args());
    support::outcome(outer.current_dir(bundle.path()).output().expect("run unshare"))
}

#[test]
fn a_device_moves_with_its_name_addresses_and_settings() {
    if skip("a_device_moves_with_its_name_addresses_and_settings") {
        return;
    }
    let bundle =
        Bundle::script("ip address show dev net0").set("/linux/netDevices", json!({"wharf0": {"name": "net0"}}));
    let outcome = run(&bundle, ":", "! ip link show wharf0 2>/dev/null");
    for expected in ["192.0.2.7/24", "2001:db8::7/64", "mtu 1404", "UP"] {
        assert!(outcome.stdout.contains(expected), "{expected}: {outcome:?}");
    }
    // An address of the link alone means nothing elsewhere.
    assert!(!outcome.stdout.contains("169.254.3.3"), "{outcome:?}");
    assert_eq!(outcome.code, Some(0), "the device is still on the host: {outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_creation_that_fails_gives_the_devices_back() {
    if skip("a_creation_that_fails_gives_the_devices_back") {
        return;
    }
    // A namespace that outlives the container: the kernel brings nothing back by itself.
    let kept = ": > kept; unshare -n mount --bind /proc/self/ns/net kept";
    let mut bundle = Bundle::new(&["no-such-program"]).set("/linux/netDevices", json!({"wharf0": {"name": "net0"}}));
    let namespace = bundle.path().join("kept");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "network");
    namespaces.push(json!({"type": "network", "path": namespace}));
    let outcome = run(&bundle, kept, "ip address show dev wharf0; umount kept");
    for expected in ["exit 1", "192.0.2.7/24", "mtu 1404", "UP"] {
        assert!(outcome.stdout.contains(expected), "{expected}: {outcome:?}");
    }
    assert!(outcome.stderr.contains("no-such-program"), "{outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_device_that_is_not_there_is_named() {
    require_root!("a_device_that_is_not_there_is_named");
    let bundle = Bundle::new(&["true"]).set("/linux/netDevices", json!({"nodev0": {}}));
    let outcome = bundle.run();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("find network device nodev0: ENODEV"), "{outcome:?}");
    bundle.assert_nothing_left();
}
