//! Where two fields of the configuration meet, or a value means something of its own.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::UnixListener;
use support::{Bundle, cgroup_file};

fn in_user_namespace(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    let bundle = bundle.set("/linux/namespaces/-", json!({"type": "user"}));
    chown(bundle.rootfs(), Some(100_000), Some(100_000)).expect("chown");
    fs::set_permissions(bundle.scratch(), fs::Permissions::from_mode(0o755)).expect("chmod");
    bundle.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
}

/// The rules are written line by line, after all was forbidden; the init makes and opens devices itself.
#[test]
fn the_terminal_is_opened_however_many_rules_there_are_for_devices() {
    require_root!("the_terminal_is_opened_however_many_rules_there_are_for_devices");
    /// Far more than can be written before the init has made its mounts.
    const RULES: u32 = 5000;
    let allow = |minor| json!({"allow": true, "type": "c", "major": 200, "minor": minor, "access": "r"});
    let rules: Vec<Value> =
        [json!({"allow": false, "access": "rwm"})].into_iter().chain((0..RULES).map(allow)).collect();
    let bundle = Bundle::new(&["tty"])
        .set("/process/terminal", json!(true))
        .set("/linux/resources/devices", json!(if is_v1() { rules } else { rules[..100].to_vec() }));
    let outcome = bundle.run();
    assert_eq!((outcome.code, outcome.stdout.trim()), (Some(0), "/dev/pts/0"), "{outcome:?}");
}

/// A program for devices on cgroup v2 cannot be as long as a list on v1.
fn is_v1() -> bool {
    std::path::Path::new("/sys/fs/cgroup/devices").exists()
}

/// The offsets are written by a process of the new user namespace.
#[test]
fn time_offsets_are_set_in_a_user_namespace_too() {
    require_root!("time_offsets_are_set_in_a_user_namespace_too");
    const OFFSET: f64 = 5_000_000.0;
    for user_namespace in [false, true] {
        let bundle = Bundle::new(&["cat", "/proc/uptime"]);
        let bundle = if user_namespace { in_user_namespace(bundle) } else { bundle };
        let bundle = bundle
            .set("/linux/namespaces/-", json!({"type": "time"}))
            .set("/linux/timeOffsets", json!({"boottime": {"secs": OFFSET as i64}}));
        let uptime = bundle.output();
        let seconds: f64 = uptime.split(' ').next().and_then(|text| text.parse().ok()).expect("a number");
        assert!(seconds > OFFSET, "{uptime}, in a user namespace: {user_namespace}");
    }
}

#[test]
fn no_processes_means_one_and_a_negative_number_no_limit() {
    require_root!("no_processes_means_one_and_a_negative_number_no_limit");
    for (limit, written) in [(0, "1"), (-1, "max"), (-7, "max"), (5, "5")] {
        let bundle = Bundle::new(&["sleep", "1000"]).set("/linux/resources/pids", json!({"limit": limit}));
        bundle.start();
        let found = fs::read_to_string(cgroup_file(&bundle.id, "pids", "pids.max", "pids.max")).expect("pids.max");
        assert_eq!(found.trim(), written, "limit {limit}");
    }
}

/// While the program is looked for its capabilities are not in effect yet.
#[test]
fn a_program_that_only_dac_override_may_execute_is_found_by_those_who_have_it() {
    require_root!("a_program_that_only_dac_override_may_execute_is_found_by_those_who_have_it");
    let mut bundle = Bundle::new(&["tool"]).set("/process/env", json!(["PATH=/private"]));
    let (directory, tool) = (bundle.rootfs().join("private"), bundle.rootfs().join("private/tool"));
    fs::create_dir(&directory).expect("mkdir");
    fs::write(&tool, "#!/bin/sh\necho found\n").expect("write");
    chown(&tool, Some(5), Some(5)).expect("chown");
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o500)).expect("chmod");
    let refused = bundle.run();
    assert!(refused.code == Some(1) && refused.stderr.contains("permission denied"), "{refused:?}");
    for set in ["bounding", "effective", "permitted"] {
        bundle.change(&format!("/process/capabilities/{set}"), json!(["CAP_DAC_OVERRIDE"]));
    }
    assert_eq!(bundle.output(), "found\n");
}

#[test]
fn an_executed_process_has_the_affinity_it_was_given() {
    require_root!("an_executed_process_has_the_affinity_it_was_given");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let file = bundle.scratch().join("process.json");
    let last = std::thread::available_parallelism().map_or(0, |count| count.get() - 1).to_string();
    for (affinity, cpus) in [(json!({"final": "0"}), "0"), (json!({"initial": "0", "final": last}), last.as_str())] {
        let args = ["/bin/grep", "Cpus_allowed_list", "/proc/self/status"];
        let process = json!({"cwd": "/", "args": args, "execCPUAffinity": affinity});
        fs::write(&file, process.to_string()).expect("write");
        let outcome = bundle.runw(&["exec", "-p", file.to_str().expect("path"), &bundle.id]);
        assert_eq!(outcome.stdout, format!("Cpus_allowed_list:\t{cpus}\n"), "{affinity}: {outcome:?}");
    }
}

#[test]
fn the_seccomp_agent_gets_the_listener_with_state_and_metadata() {
    require_root!("the_seccomp_agent_gets_the_listener_with_state_and_metadata");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let path = bundle.scratch().join("agent.sock");
    let agent = UnixListener::bind(&path).expect("bind");
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": path, "listenerMetadata": "the metadata",
        "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_NOTIFY"}],
    });
    let bundle = bundle.set("/linux/seccomp", profile).set("/annotations", json!({"key": "value"}));
    bundle.start();
    let (connection, _) = agent.accept().expect("accept");
    let mut buffer = [0; 16_384];
    let (length, descriptors) = wharf_sys::socket::receive(connection.as_fd(), &mut buffer).expect("receive");
    let message: Value = serde_json::from_slice(&buffer[..length]).expect("JSON");
    assert_eq!(descriptors.len(), 1);
    assert_eq!(message["metadata"], "the metadata");
    assert_eq!(message["fds"], json!(["seccompFd"]));
    assert_eq!(message["state"]["id"], bundle.id.as_str());
    assert_eq!(message["state"]["annotations"], json!({"key": "value"}));
    assert_eq!(message["pid"], bundle.state()["pid"]);
}

/// The ids of a mount can be those of a user namespace that is joined, whose mappings the configuration does not name.
#[test]
fn a_mount_takes_the_ids_of_a_user_namespace_that_is_joined() {
    require_root!("a_mount_takes_the_ids_of_a_user_namespace_that_is_joined");
    if let Some(reason) = support::no_id_maps() {
        println!("SKIP a_mount_takes_the_ids_of_a_user_namespace_that_is_joined: {reason}");
        return;
    }
    let owner = in_user_namespace(Bundle::new(&["sleep", "1000"]));
    owner.start();
    let namespace = format!("/proc/{}/ns/user", owner.state()["pid"]);
    for (options, uid) in [(json!(["bind", "idmap"]), "0\n"), (json!(["bind"]), "65534\n")] {
        let bundle = Bundle::new(&["stat", "-c", "%u", "/m/file"])
            .set("/linux/namespaces/-", json!({"type": "user", "path": namespace}));
        let source = bundle.scratch().join("source");
        fs::create_dir(&source).expect("mkdir");
        fs::write(source.join("file"), "").expect("write");
        chown(bundle.rootfs(), Some(100_000), Some(100_000)).expect("chown");
        fs::set_permissions(bundle.scratch(), fs::Permissions::from_mode(0o755)).expect("chmod");
        let bundle = bundle.set("/mounts/-", json!({"destination": "/m", "source": source, "options": options}));
        let outcome = bundle.run();
        assert_eq!(outcome.stdout, uid, "{options}: {outcome:?}");
    }
}

/// `swap` is the sum of memory and swap, on cgroup v2 as on v1: what is written there is the difference.
#[test]
fn a_container_swaps_as_far_as_it_is_allowed() {
    const NAME: &str = "a_container_swaps_as_far_as_it_is_allowed";
    const MIB: u64 = 1 << 20;
    require_root!("a_container_swaps_as_far_as_it_is_allowed");
    let swaps = fs::read_to_string("/proc/swaps").expect("read /proc/swaps");
    if swaps.lines().count() < 2 {
        println!("SKIP {NAME}: this machine has no swap");
        return;
    }
    // dd fills a buffer of twice the memory that it is given.
    for (swap, code) in [(128 * MIB, 0), (24 * MIB, 137)] {
        let bundle = Bundle::new(&["busybox", "dd", "if=/dev/zero", "of=/dev/null", "bs=48M", "count=1"])
            .set("/linux/resources/memory", json!({"limit": 24 * MIB, "swap": swap}));
        let ended = bundle.run();
        assert_eq!(ended.code, Some(code), "with {swap} bytes of memory and swap: {ended:?}");
    }
}
