//! The rest of `linux`: devices, paths, sysctls, personality, memory policy, cgroups path.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, assert_refused, require_root};
use serde_json::{Value, json};

#[test]
fn a_wrong_device_or_path_is_named() {
    require_root!("a_wrong_device_or_path_is_named");
    let device = |path: &str, kind: &str, major: i64| json!([{"path": path, "type": kind, "major": major, "minor": 1}]);
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/devices", device("/dev/x", "z", 1), &["linux.devices[0].type", "\"z\"", "allowed"]),
            ("/linux/devices", device("/dev/x", "a", 1), &["linux.devices[0].type", "allowed: b, c, u, p"]),
            ("/linux/devices", device("x", "c", 1), &["linux.devices[0].path", "\"x\"", "absolute"]),
            ("/linux/devices", device("/dev/x\0", "c", 1), &["linux.devices[0].path", "NUL"]),
            ("/linux/devices", device("/dev/x", "c", -1), &["linux.devices[0].major", "-1"]),
            ("/linux/devices", device("/dev/x", "c", 1 << 40), &["linux.devices[0].major"]),
            ("/linux/devices", device("/etc", "c", 1), &["linux.devices", "/etc", "EEXIST"]),
            ("/linux/devices", json!([{"type": "c"}]), &["linux.devices[0].path", "absolute"]),
            ("/linux/devices", json!({}), &["linux.devices", "invalid type"]),
            ("/linux/rootfsPropagation", json!("sideways"), &["linux.rootfsPropagation", "\"sideways\"", "allowed"]),
            ("/linux/maskedPaths/-", json!("relative"), &["linux.maskedPaths[10]", "\"relative\"", "absolute"]),
            ("/linux/maskedPaths/0", json!("/a\0"), &["linux.maskedPaths[0]", "NUL"]),
            ("/linux/maskedPaths/0", json!(5), &["linux.maskedPaths[0]", "invalid type"]),
            ("/linux/readonlyPaths/0", json!("x"), &["linux.readonlyPaths[0]", "absolute"]),
            ("/linux/readonlyPaths", json!("/x"), &["linux.readonlyPaths", "invalid type"]),
            ("/linux/mountLabel", json!(5), &["linux.mountLabel", "invalid type"]),
            ("/linux/intelRdt", json!({"closID": 5}), &["linux.intelRdt.closID", "invalid type"]),
            ("/linux/netDevices", json!(["eth0"]), &["linux.netDevices", "invalid type"]),
            ("/linux/cgroupsPath", json!("/"), &["linux.cgroupsPath", "\"/\"", "a path below it"]),
            ("/linux/cgroupsPath", json!("/a/../.."), &["linux.cgroupsPath", "a path below it"]),
            ("/linux/cgroupsPath", json!("."), &["linux.cgroupsPath", "a path below it"]),
            ("/linux/cgroupsPath", json!("/a\0"), &["linux.cgroupsPath", "NUL"]),
            ("/linux/cgroupsPath", json!(5), &["linux.cgroupsPath", "invalid type"]),
        ],
    );
}

#[test]
fn a_wrong_sysctl_is_named() {
    require_root!("a_wrong_sysctl_is_named");
    let host = "not in a separate kernel namespace";
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/sysctl", json!({"kernel.core_pattern": "|/x"}), &["linux.sysctl", "kernel.core_pattern", host]),
            ("/linux/sysctl", json!({"kernel/core_pattern": "|/x"}), &["linux.sysctl", "kernel/core_pattern", host]),
            ("/linux/sysctl", json!({"vm.overcommit_memory": "1"}), &["linux.sysctl", "vm.overcommit_memory", host]),
            ("/linux/sysctl", json!({"user.max_user_namespaces": "1"}), &["linux.sysctl", "user namespace", host]),
            ("/linux/sysctl", json!({"net.no.such": "1"}), &["linux.sysctl", "net.no.such", "ENOENT"]),
            ("/linux/sysctl", json!({"net.ipv4.ip_forward": "maybe"}), &["linux.sysctl", "ip_forward", "EINVAL"]),
            ("/linux/sysctl", json!({"net/../kernel/x": "1"}), &["linux.sysctl", "not the name"]),
            ("/linux/sysctl", json!({"net..x": "1"}), &["linux.sysctl", "not the name"]),
            ("/linux/sysctl", json!({"net.x\0": "1"}), &["linux.sysctl", "NUL"]),
            ("/linux/sysctl", json!({"": "1"}), &["linux.sysctl", "not the name"]),
            ("/linux/sysctl", json!({"kernel.hostname": "x"}), &["linux.sysctl", "the field hostname"]),
            ("/linux/sysctl", json!({"net.ipv4.ip_forward": 1}), &["linux.sysctl", "invalid type"]),
        ],
    );
}

/// The namespace is joined, as a pod's would be, but it is the host's.
#[test]
fn a_sysctl_does_not_reach_the_host_through_a_namespace_that_is_joined() {
    require_root!("a_sysctl_does_not_reach_the_host_through_a_namespace_that_is_joined");
    let mut bundle = Bundle::new(&["true"]).set("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": "99"}));
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if namespace["type"] == "network" {
            namespace["path"] = json!("/proc/self/ns/net");
        }
    }
    let words = ["linux.sysctl[\"net.ipv4.ip_default_ttl\"]", "would change the host"];
    assert_refused(&bundle, &bundle.run(), &words);
    assert_ne!(std::fs::read_to_string("/proc/sys/net/ipv4/ip_default_ttl").expect("sysctl").trim(), "99");
}

#[test]
fn a_wrong_personality_or_memory_policy_is_named() {
    require_root!("a_wrong_personality_or_memory_policy_is_named");
    let policy = |mode: &str, nodes: &str, flags: Value| json!({"mode": mode, "nodes": nodes, "flags": flags});
    let (mode, nodes) = ("linux.memoryPolicy.mode", "linux.memoryPolicy.nodes");
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/personality", json!({"domain": "BSD"}), &["linux.personality.domain", "\"BSD\"", "LINUX"]),
            ("/linux/personality", json!({"domain": "LINUX", "flags": ["X"]}), &["linux.personality.flags", "none"]),
            ("/linux/personality", json!({}), &["linux.personality", "missing field \"domain\""]),
            ("/linux/memoryPolicy", policy("MPOL_X", "0", json!([])), &[mode, "MPOL_X", "MPOL_BIND"]),
            ("/linux/memoryPolicy", policy("MPOL_BIND", "a-b", json!([])), &[nodes, "a-b"]),
            ("/linux/memoryPolicy", policy("MPOL_DEFAULT", "0", json!([])), &[nodes, "requires 0 nodes"]),
            ("/linux/memoryPolicy", policy("MPOL_BIND", "4000", json!([])), &["linux.memoryPolicy", "EINVAL"]),
            (
                "/linux/memoryPolicy",
                policy("MPOL_BIND", "0", json!(["MPOL_F_X"])),
                &["linux.memoryPolicy.flags[0]", "MPOL_F_X", "MPOL_F_STATIC_NODES"],
            ),
        ],
    );
}
