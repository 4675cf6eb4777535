//! `linux.namespaces`, the id mappings and the time offsets.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, assert_refused, require_root};
use serde_json::{Value, json};
use std::process::Command;

#[test]
fn a_wrong_namespace_is_named() {
    require_root!("a_wrong_namespace_is_named");
    let bundle = Bundle::new(&["true"]);
    let pipe = bundle.scratch().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    let path = "linux.namespaces[1].path";
    // On cgroup v2 there is one namespace more by default.
    let last =
        format!("linux.namespaces[{}].type", bundle.config["linux"]["namespaces"].as_array().expect("a list").len());
    assert_all_refused(
        bundle,
        &[
            (
                "/linux/namespaces/0/type",
                json!("foo"),
                &["linux.namespaces[0].type", "\"foo\" is not a namespace", "allowed: mount"],
            ),
            ("/linux/namespaces/0", json!({"path": "/x"}), &["linux.namespaces[0]", "missing field \"type\""]),
            ("/linux/namespaces", json!({"type": "pid"}), &["linux.namespaces", "invalid type"]),
            ("/linux/namespaces/-", json!({"type": "pid"}), &[&last, "\"pid\"", "twice"]),
            ("/linux/namespaces/1/path", json!("/nonexistent"), &[path, "open namespace /nonexistent", "ENOENT"]),
            ("/linux/namespaces/1/path", json!("/etc/passwd"), &[path, "/etc/passwd is not a namespace"]),
            ("/linux/namespaces/1/path", json!("/dev/zero"), &[path, "/dev/zero is not a namespace"]),
            ("/linux/namespaces/1/path", json!("/proc/self/ns"), &[path, "/proc/self/ns is not a namespace"]),
            ("/linux/namespaces/1/path", json!(pipe), &[path, "is not a namespace"]),
            ("/linux/namespaces/1/path", json!("/proc/self/ns/uts"), &[path, "is not a network namespace"]),
            ("/linux/namespaces/1/path", json!("relative"), &[path, "\"relative\"", "absolute"]),
            ("/linux/namespaces/1/path", json!("/a\0b"), &[path]),
            ("/linux/namespaces/1/path", json!(5), &[path, "invalid type"]),
        ],
    );
}

#[test]
fn the_runtimes_own_mount_namespace_is_not_joined() {
    require_root!("the_runtimes_own_mount_namespace_is_not_joined");
    let mut bundle = Bundle::new(&["true"]);
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if namespace["type"] == "mount" {
            namespace["path"] = json!("/proc/self/ns/mnt");
        }
    }
    assert_refused(&bundle, &bundle.run(), &["linux.namespaces", "would change the host"]);
}

#[test]
fn a_wrong_id_mapping_is_named() {
    require_root!("a_wrong_id_mapping_is_named");
    let entry = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/uidMappings", json!([entry(0, 0, 1)]), &["linux.uidMappings", "no user namespace"]),
            ("/linux/gidMappings", json!([entry(0, 0, 1)]), &["linux.gidMappings", "no user namespace"]),
            ("/linux/namespaces/-", json!({"type": "user"}), &["linux.uidMappings", "empty"]),
        ],
    );
    let maps = json!([entry(0, 100_000, 65_536)]);
    let bundle = Bundle::new(&["true"])
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", maps.clone())
        .set("/linux/gidMappings", maps);
    let many: Vec<Value> = (0..341).map(|number| entry(number, number, 1)).collect();
    assert_all_refused(
        bundle,
        &[
            ("/linux/gidMappings", json!([]), &["linux.gidMappings", "empty"]),
            ("/linux/uidMappings", json!([entry(0, 0, 0)]), &["linux.uidMappings[0].size", "allowed: 1 and more"]),
            ("/linux/uidMappings", json!([entry(0, 0, 5), entry(4, 9, 5)]), &["linux.uidMappings[1]", "overlaps"]),
            ("/linux/gidMappings", json!([entry(0, 0, 5), entry(9, 4, 5)]), &["linux.gidMappings[1]", "overlaps"]),
            ("/linux/uidMappings", json!([entry(0, u32::MAX, 1)]), &["linux.uidMappings[0]", "beyond"]),
            ("/linux/uidMappings", json!(many), &["linux.uidMappings", "341", "allowed: up to 340"]),
            (
                "/linux/uidMappings",
                json!([{"containerID": -1, "hostID": 0, "size": 1}]),
                &["uidMappings[0].containerID"],
            ),
        ],
    );
}

#[test]
fn wrong_time_offsets_are_named() {
    require_root!("wrong_time_offsets_are_named");
    let own = json!({"monotonic": {"secs": 1}});
    assert_all_refused(
        Bundle::new(&["true"]),
        &[("/linux/timeOffsets", own, &["linux.timeOffsets", "no new time namespace"])],
    );
    let of = |secs: i64, nanosecs: u32| json!({"monotonic": {"secs": secs, "nanosecs": nanosecs}});
    assert_all_refused(
        Bundle::new(&["true"]).set("/linux/namespaces/-", json!({"type": "time"})),
        &[
            ("/linux/timeOffsets", json!({"realtime": {"secs": 1}}), &["linux.timeOffsets", "realtime", "boottime"]),
            ("/linux/timeOffsets", of(i64::MAX, 0), &["linux.timeOffsets", "ERANGE"]),
            ("/linux/timeOffsets", of(0, 1_000_000_000), &["linux.timeOffsets.monotonic.nanosecs", "999999999"]),
            ("/linux/timeOffsets", json!({"monotonic": {"secs": "1"}}), &["linux.timeOffsets.monotonic.secs"]),
        ],
    );
}
