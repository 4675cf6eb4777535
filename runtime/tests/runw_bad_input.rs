//! Wrong input: one clear line on standard error, exit code 1, and nothing left.

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Bundle, Outcome};

fn assert_refused(bundle: &Bundle, outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "one line was expected: {outcome:?}");
    for word in words {
        assert!(outcome.stderr.contains(word), "{word:?} is missing: {outcome:?}");
    }
    bundle.assert_nothing_left();
}

#[test]
fn a_wrong_field_is_named_with_what_is_allowed() {
    require_root!("a_wrong_field_is_named_with_what_is_allowed");
    let table: Vec<(&str, Value, &[&str])> = vec![
        (
            "/linux/namespaces/0/type",
            json!("foo"),
            &["linux.namespaces[0].type", "\"foo\" is not a namespace", "allowed: mount"],
        ),
        ("/linux/namespaces/-", json!({"type": "pid"}), &["stands in the list twice", "twice"]),
        ("/linux/namespaces/0/path", json!("/nonexistent"), &["open namespace /nonexistent", "ENOENT"]),
        ("/linux/namespaces/0/path", json!("/etc/passwd"), &["/etc/passwd is not a namespace"]),
        ("/linux/namespaces/0/path", json!("relative"), &["linux.namespaces[0].path", "absolute"]),
        (
            "/linux/uidMappings",
            json!([{"containerID": 0, "hostID": 0, "size": 1}]),
            &["linux.uidMappings", "user namespace"],
        ),
        ("/linux/namespaces/-", json!({"type": "user"}), &["linux.uidMappings", "is empty"]),
        ("/linux/timeOffsets", json!({"monotonic": {"secs": 1}}), &["linux.timeOffsets", "time namespace"]),
        ("/process/args", json!([]), &["process.args", "missing or empty"]),
        ("/process/args", json!([""]), &["process.args[0]", "empty"]),
        ("/process/args", json!("sh"), &["process.args", "invalid type"]),
        ("/process/args", json!(["no-such-program"]), &["executable file not found in $PATH"]),
        ("/process/args", json!(["/etc"]), &["find program /etc", "is a directory"]),
        ("/process/cwd", json!("tmp"), &["process.cwd", "absolute path"]),
        ("/process/cwd", json!("/no/such/directory"), &["/no/such/directory", "ENOENT"]),
        ("/process/env", json!(["A"]), &["process.env[0]", "NAME=value"]),
        ("/process/user/uid", json!(-1), &["process.user.uid", "invalid value"]),
        ("/process/user/uid", json!(4_294_967_296u64), &["process.user.uid", "invalid value"]),
        ("/process/user/umask", json!(0o1000), &["process.user.umask"]),
        (
            "/process/rlimits",
            json!([{"type": "RLIMIT_X", "soft": 1, "hard": 1}]),
            &["process.rlimits[0].type", "RLIMIT_CPU"],
        ),
        ("/process/rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), &["process.rlimits[0].soft"]),
        ("/process/oomScoreAdj", json!(2000), &["process.oomScoreAdj", "-1000 to 1000"]),
        ("/process/ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 9}), &["process.ioPriority.priority"]),
        ("/process/scheduler", json!({"policy": "SCHED_OTHER", "nice": 99}), &["process.scheduler.nice"]),
        ("/root/path", json!("nowhere"), &["rootfs", "nowhere", "ENOENT"]),
        ("/root/path", json!("config.json"), &["is not a directory"]),
        ("/ociVersion", json!("2.0.0"), &["ociVersion", "\"2.0.0\""]),
        ("/windows", json!({"layerFolders": ["x"]}), &["windows", "another platform"]),
        (
            "/mounts/-",
            json!({"destination": "/m", "source": "/nonexistent", "options": ["bind"]}),
            &["open source /nonexistent", "ENOENT"],
        ),
        ("/mounts/-", json!({"destination": "/m", "options": ["bind"]}), &["mounts[7].source"]),
        ("/mounts/-", json!({"destination": "/m"}), &["mounts[7].type"]),
        ("/mounts/-", json!({"destination": "", "type": "tmpfs"}), &["mounts[7].destination"]),
        (
            "/mounts/-",
            json!({"destination": "/m", "type": "nofs", "source": "x"}),
            &["error mounting nofs on /m", "ENODEV"],
        ),
        (
            "/mounts/-",
            json!({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["nonsense"]}),
            &["error mounting tmpfs on /m", "EINVAL"],
        ),
        (
            "/mounts/-",
            json!({"destination": "/proc/self", "type": "tmpfs", "source": "x"}),
            &["mounts[7].destination", "inside /proc"],
        ),
        ("/linux/rootfsPropagation", json!("sideways"), &["linux.rootfsPropagation", "\"sideways\"", "allowed"]),
        ("/linux/maskedPaths/-", json!("relative"), &["linux.maskedPaths[10]", "absolute"]),
        (
            "/linux/sysctl",
            json!({"kernel.core_pattern": "|/x"}),
            &["linux.sysctl", "kernel.core_pattern", "separate kernel namespace"],
        ),
        ("/linux/sysctl", json!({"net.no.such": "1"}), &["write sysctl net.no.such", "ENOENT"]),
        (
            "/linux/devices",
            json!([{"path": "/dev/x", "type": "z", "major": 1, "minor": 1}]),
            &["linux.devices[0].type", "\"z\""],
        ),
        ("/linux/devices", json!([{"path": "x", "type": "c", "major": 1, "minor": 1}]), &["linux.devices[0].path"]),
        ("/linux/resources/devices", json!([{"allow": true, "access": "rwx"}]), &["devices[0].access", "'x'"]),
        ("/linux/resources/memory", json!({"limit": -5}), &["memory.limit", "EINVAL"]),
        ("/linux/resources/memory", json!({"limit": 4096}), &["memory.limit"]),
        ("/linux/resources/memory", json!({"limit": "1m"}), &["linux.resources.memory.limit", "invalid type"]),
        ("/linux/resources/cpu", json!({"cpus": "9999"}), &["cpu.cpus"]),
        ("/linux/resources/hugepageLimits", json!([{"pageSize": "3MB", "limit": 1}]), &["hugepageLimits"]),
        (
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_MAYBE"}),
            &["linux.seccomp.defaultAction", "SCMP_ACT_ALLOW"],
        ),
        ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), &["linux.seccomp.defaultAction"]),
        ("/linux/personality", json!({"domain": "BSD"}), &["linux.personality.domain", "LINUX"]),
        ("/hooks", json!({"poststart": [{"path": "relative"}]}), &["hooks.poststart[0].path", "absolute"]),
        ("/hooks", json!({"poststop": [{"path": "/x", "timeout": 0}]}), &["hooks.poststop[0].timeout"]),
        (
            "/hooks",
            json!({"createRuntime": [{"path": "/no/such/hook"}]}),
            &["error running createRuntime hook #0: /no/such/hook", "ENOENT"],
        ),
        ("/hostname", json!("x".repeat(65)), &["hostname", "64 bytes"]),
    ];
    for (pointer, value, words) in table {
        let bundle = Bundle::new(&["true"]).set(pointer, value.clone());
        let outcome = bundle.run();
        println!("{pointer} = {value}: {}", outcome.stderr.trim());
        assert_refused(&bundle, &outcome, words);
    }
}

#[test]
fn missing_fields_are_named() {
    require_root!("missing_fields_are_named");
    for (pointer, words) in [
        ("/process/args", &["process.args", "missing"]),
        ("/process", &["process", "missing"]),
        ("/root", &["root", "missing"]),
    ] {
        let bundle = Bundle::new(&["true"]).remove(pointer);
        assert_refused(&bundle, &bundle.run(), words);
    }
}

#[test]
fn a_configuration_that_is_no_json_is_called_so() {
    require_root!("a_configuration_that_is_no_json_is_called_so");
    let bundle = Bundle::new(&["true"]);
    for text in ["", "hello", "{", "{} trailing"] {
        fs::write(bundle.path().join("config.json"), text).expect("write");
        let outcome = support::outcome(bundle.raw_command(&["run", &bundle.id]).output().expect("run"));
        assert_refused(&bundle, &outcome, &["config.json: not JSON"]);
    }
    fs::remove_file(bundle.path().join("config.json")).expect("remove");
    let outcome = support::outcome(bundle.raw_command(&["run", &bundle.id]).output().expect("run"));
    assert_refused(&bundle, &outcome, &["config.json", "ENOENT"]);
}

#[test]
fn an_id_that_could_leave_the_state_directory_is_refused() {
    require_root!("an_id_that_could_leave_the_state_directory_is_refused");
    let bundle = Bundle::new(&["true"]);
    for id in ["a/b", "..", ".", "../x", "a b", "é", &"x".repeat(300)] {
        assert_refused(&bundle, &bundle.runw(&["run", id]), &["container id"]);
    }
}

#[test]
fn an_id_in_use_is_refused_and_its_container_stays() {
    require_root!("an_id_in_use_is_refused_and_its_container_stays");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let outcome = bundle.run();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("container with given ID already exists"), "{outcome:?}");
    assert_eq!(bundle.state()["status"], "running");
}

#[test]
fn a_bundle_that_is_not_there_is_named() {
    require_root!("a_bundle_that_is_not_there_is_named");
    let bundle = Bundle::new(&["true"]);
    assert_refused(
        &bundle,
        &bundle.runw(&["run", "-b", "/no/such/bundle", &bundle.id]),
        &["/no/such/bundle", "ENOENT"],
    );
}
