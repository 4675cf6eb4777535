//! `linux.resources`, in `config.json` and as `update` takes them.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, problem, require_root};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

#[test]
fn a_wrong_limit_is_named() {
    require_root!("a_wrong_limit_is_named");
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/resources/devices", json!([{"allow": true, "access": "rwx"}]), &["devices[0].access", "'x'"]),
            (
                "/linux/resources/devices",
                json!([{"allow": true, "type": "x", "access": "r"}]),
                &["linux.resources.devices[0].type", "\"x\"", "allowed"],
            ),
            ("/linux/resources/memory", json!({"limit": -5}), &["linux.resources.memory.limit", "EINVAL"]),
            ("/linux/resources/memory", json!({"limit": 4096}), &["linux.resources.memory.limit"]),
            ("/linux/resources/memory", json!({"limit": "1m"}), &["linux.resources.memory.limit", "invalid type"]),
            ("/linux/resources/memory", json!({"limit": 1e30}), &["linux.resources.memory.limit", "invalid"]),
            ("/linux/resources/cpu", json!({"cpus": "9999"}), &["linux.resources.cpu.cpus"]),
            ("/linux/resources/cpu", json!({"cpus": "a-b"}), &["linux.resources.cpu.cpus", "a-b"]),
            ("/linux/resources/cpu", json!({"mems": "77"}), &["linux.resources.cpu.mems", "77"]),
            ("/linux/resources/cpu", json!({"shares": -1}), &["linux.resources.cpu.shares", "invalid value"]),
            ("/linux/resources/cpu", json!({"quota": 1}), &["linux.resources.cpu.quota", "EINVAL"]),
            ("/linux/resources/cpu", json!({"period": 1}), &["linux.resources.cpu.period", "EINVAL"]),
            ("/linux/resources/cpu", json!({"idle": 7}), &["linux.resources.cpu.idle", "EINVAL"]),
            ("/linux/resources/cpu", json!({"burst": 1u64 << 60}), &["linux.resources.cpu.burst", "EINVAL"]),
            ("/linux/resources/pids", json!({"limit": "many"}), &["linux.resources.pids.limit", "invalid type"]),
            ("/linux/resources/blockIO", json!({"weight": 100_000}), &["linux.resources.blockIO.weight"]),
            (
                "/linux/resources/blockIO",
                json!({"throttleReadBpsDevice": [{"major": 4095, "minor": 1, "rate": 1}]}),
                &["linux.resources.blockIO.throttle", "4095:1"],
            ),
            ("/linux/resources/hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}]), &["hugepageLimits"]),
            ("/linux/resources/network", json!({"classID": "x"}), &["linux.resources.network.classID", "invalid type"]),
            ("/linux/resources/rdma", json!({"mlx9": {"hcaHandles": 1}}), &["linux.resources.rdma"]),
            ("/linux/resources/unified", json!({"no/file": "1"}), &["linux.resources.unified"]),
            ("/linux/resources/unified", json!({"memory.max": 1}), &["linux.resources.unified", "invalid type"]),
        ],
    );
}

/// What these mean differs between the versions of cgroups.
#[test]
fn a_limit_that_v1_refuses_is_named() {
    require_root!("a_limit_that_v1_refuses_is_named");
    if !Path::new("/sys/fs/cgroup/memory").exists() {
        println!("SKIP a_limit_that_v1_refuses_is_named: no cgroup v1 here");
        return;
    }
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/resources/memory", json!({"swappiness": 101}), &["linux.resources.memory.swappiness", "0 to 100"]),
            ("/linux/resources/memory", json!({"reservation": -9}), &["linux.resources.memory.reservation", "EINVAL"]),
            ("/linux/resources/cpu", json!({"shares": 1}), &["linux.resources.cpu.shares", "minimum", "2"]),
            ("/linux/resources/cpu", json!({"shares": 1u64 << 40}), &["linux.resources.cpu.shares", "maximum"]),
            (
                "/linux/resources/network",
                json!({"priorities": [{"name": "nosuch0", "priority": 5}]}),
                &["linux.resources.network.priorities"],
            ),
            ("/linux/resources/unified", json!({"memory.max": "1"}), &["linux.resources.unified", "cgroup v2"]),
        ],
    );
}

#[test]
fn wrong_resources_for_update_are_named_and_change_nothing() {
    require_root!("wrong_resources_for_update_are_named_and_change_nothing");
    let bundle = Bundle::new(&["sleep", "1000"]).set("/linux/resources/pids", json!({"limit": 77}));
    bundle.start();
    let file = bundle.scratch().join("resources.json");
    let path = file.to_str().expect("path");
    let table: &[(&str, &[&str])] = &[
        ("", &["resources: not JSON"]),
        ("{\"pids\": {\"limit\": \"x\"}}", &["resources: pids.limit", "invalid type"]),
        ("{\"memory\": {\"limit\": \"1m\"}}", &["resources: memory.limit", "invalid type"]),
        ("{\"cpu\": {\"cpus\": \"9999\"}, \"pids\": {\"limit\": 77}}", &["cpu.cpus", "9999"]),
        ("{\"cpu\": {\"quota\": 1}}", &["cpu.quota", "EINVAL"]),
        ("{\"hugepageLimits\": [{\"pageSize\": \"3MB\", \"limit\": 1}]}", &["hugepageLimits"]),
        ("{\"blockIO\": 5}", &["resources: blockIO", "invalid type"]),
    ];
    for (text, words) in table {
        fs::write(&file, text).expect("write");
        let outcome = bundle.runw(&["update", "-r", path, &bundle.id]);
        assert_eq!(problem(&outcome, words), None, "{text}");
    }
    let flags: &[(&[&str], &str)] = &[
        (&["--memory", "12x"], "--memory: \"12x\" is not a size"),
        (&["--memory", "-7"], "--memory: \"-7\" is not a size"),
        (&["--memory-swap", "9999999999t"], "--memory-swap"),
        (&["--cpuset-cpus", "77-99"], "cpu.cpus"),
    ];
    for (flags, words) in flags {
        let outcome = bundle.runw(&[&["update"], *flags, &[&bundle.id]].concat());
        assert_eq!(problem(&outcome, &[words]), None, "{flags:?}");
    }
    let pids = fs::read_to_string(support::cgroup_file(&bundle.id, "pids", "pids.max", "pids.max")).expect("pids.max");
    assert_eq!(pids.trim(), "77");
    assert_eq!(Value::from("running"), bundle.state()["status"]);
}
