//! States that a container gets into on less usual ways: paused before its start, killed while it is frozen, its making
//! broken off, its state damaged.

mod support;

use serde_json::json;
use std::fs;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use support::Bundle;
use wharf_sys::pidfd;

const PATIENCE_MILLISECONDS: i32 = 10_000;

/// Whether the process goes, or has gone.
fn ends(pid: i32) -> bool {
    pidfd::open(pid).is_err()
        || pidfd::open(pid).is_ok_and(|process| pidfd::poll_exit(process.as_fd(), PATIENCE_MILLISECONDS).expect("poll"))
}

fn pid(bundle: &Bundle) -> i32 {
    bundle.state()["pid"].as_i64().expect("pid") as i32
}

/// How many processes are in the container's groups.
fn processes(bundle: &Bundle) -> usize {
    let outcome = bundle.runw(&["ps", "-f", "json", &bundle.id]);
    serde_json::from_str::<Vec<i32>>(&outcome.stdout).unwrap_or_else(|_| panic!("{outcome:?}")).len()
}

fn create(bundle: &Bundle) {
    let created = bundle.command(&["create", &bundle.id]).stdout(Stdio::null()).status();
    assert!(created.expect("create").success());
}

#[test]
fn a_container_that_waits_for_its_start_can_be_paused_and_resumed() {
    require_root!("a_container_that_waits_for_its_start_can_be_paused_and_resumed");
    let bundle = Bundle::new(&["sleep", "1000"]);
    create(&bundle);
    assert_eq!(bundle.runw(&["pause", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "paused");
    for (command, word) in [("start", "paused"), ("delete", "not stopped"), ("checkpoint", "paused")] {
        let refused = bundle.runw(&[command, &bundle.id]);
        assert!(refused.code == Some(1) && refused.stderr.contains(word), "{command}: {refused:?}");
    }
    assert_eq!(bundle.runw(&["resume", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "created");
    assert_eq!(bundle.runw(&["start", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "running");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    create(&bundle);
    assert_eq!(bundle.runw(&["pause", &bundle.id]).code, Some(0));
    let deleted = bundle.runw(&["delete", "-f", &bundle.id]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    bundle.assert_nothing_left();
}

/// The freezer of cgroup v1 keeps alive even what is killed.
#[test]
fn what_is_frozen_dies_when_all_are_killed() {
    require_root!("what_is_frozen_dies_when_all_are_killed");
    for (own_pids, kill) in [(true, &["kill", "--all"][..]), (false, &["kill"])] {
        let mut bundle = Bundle::new(&["sleep", "1000"]);
        if !own_pids {
            let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
            namespaces.retain(|namespace| namespace["type"] != "pid");
        }
        bundle.start();
        assert_eq!(bundle.runw(&["exec", "-d", &bundle.id, "sleep", "1001"]).code, Some(0));
        let init = pid(&bundle);
        assert_eq!(bundle.runw(&["pause", &bundle.id]).code, Some(0));
        let killed = bundle.runw(&[kill, &[&bundle.id, "KILL"]].concat());
        assert_eq!(killed.code, Some(0), "{killed:?}");
        assert!(ends(init), "the init is still there, with a pid namespace: {own_pids}");
        assert_eq!(bundle.state()["status"], "stopped");
        assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
        bundle.assert_nothing_left();
    }
}

/// The process that it has cloned waits for it, and must hear that it has gone.
#[test]
fn a_create_that_is_killed_leaves_no_process() {
    require_root!("a_create_that_is_killed_leaves_no_process");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let state = bundle.scratch().join("state");
    let script = format!("cat > {}; kill -9 $PPID", state.display());
    let hooks = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let bundle = bundle.set("/hooks", hooks);
    let created = bundle.runw(&["create", &bundle.id]);
    assert_eq!(created.code, None, "killed by its hook: {created:?}");
    let state: serde_json::Value = serde_json::from_slice(&fs::read(&state).expect("state")).expect("JSON");
    assert!(ends(state["pid"].as_i64().expect("pid") as i32), "the init waits for ever");
    let deleted = bundle.runw(&["delete", &bundle.id]);
    assert_eq!(deleted.code, Some(1), "{deleted:?}");
    let bundle = bundle.remove("/hooks");
    create(&bundle);
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
}

#[test]
fn a_process_that_cannot_be_announced_does_not_stay() {
    require_root!("a_process_that_cannot_be_announced_does_not_stay");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    for detached in [&["-d"][..], &[]] {
        let nowhere = ["--pid-file", "/nonexistent/pid", &bundle.id, "sleep", "1001"];
        let refused = bundle.runw(&[&["exec"], detached, &nowhere].concat());
        assert!(refused.code == Some(255) && refused.stderr.contains("/nonexistent/pid"), "{refused:?}");
        assert_eq!(processes(&bundle), 1);
    }
}

/// What cannot be read may well be running: it is forgotten only by force.
#[test]
fn a_damaged_state_is_said_and_kept() {
    require_root!("a_damaged_state_is_said_and_kept");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let file = bundle.root().join(&bundle.id).join("state.json");
    let sound = fs::read(&file).expect("state.json");
    fs::write(&file, "{\"ociVersion\":").expect("write");
    let listed = bundle.runw(&["list"]);
    assert!(listed.code == Some(0) && listed.stderr.contains("state.json"), "{listed:?}");
    let refused = bundle.runw(&["delete", &bundle.id]);
    assert!(refused.code == Some(1) && refused.stderr.contains("state.json"), "{refused:?}");
    fs::write(&file, &sound).expect("write");
    assert_eq!(bundle.state()["status"], "running");
    let init = pid(&bundle);
    fs::write(&file, "").expect("write");
    let forced = bundle.runw(&["delete", "-f", &bundle.id]);
    assert!(forced.code == Some(0) && forced.stderr.contains("processes"), "{forced:?}");
    assert!(!file.exists());
    fs::create_dir(bundle.root().join(&bundle.id)).expect("mkdir");
    assert!(bundle.runw(&["list"]).stderr.is_empty(), "one that is being made");
    fs::write(&file, &sound).expect("write");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    assert!(ends(init));
    bundle.assert_nothing_left();
}

/// Whoever comes to the gate too late for the init must not think that the container was started for them.
#[test]
fn of_those_who_start_a_container_at_once_one_does() {
    require_root!("of_those_who_start_a_container_at_once_one_does");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let pipe = bundle.rootfs().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    // The gate stays open until the pipe is written to.
    let hook = json!({"startContainer": [{"path": "/bin/sh", "args": ["sh", "-c", "read line < /pipe"]}]});
    let bundle = bundle.set("/hooks", hook);
    for _ in 0..3 {
        create(&bundle);
        let start = || {
            let mut command = bundle.command(&["start", &bundle.id]);
            command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("start")
        };
        let starts: Vec<_> = (0..6).map(|_| start()).collect();
        fs::write(&pipe, "go\n").expect("write");
        let codes: Vec<_> = starts.into_iter().map(|mut start| start.wait().expect("wait").code()).collect();
        assert_eq!(codes.iter().filter(|code| **code == Some(0)).count(), 1, "{codes:?}");
        assert_eq!(bundle.state()["status"], "running");
        assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    }
    bundle.assert_nothing_left();
}
