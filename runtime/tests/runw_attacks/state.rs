//! State that is not the runtime's own, and processes that have got another's number.

use crate::require_root;
use crate::support::{self, Bundle};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::process::{Command, Stdio};

fn rewrite(bundle: &Bundle, change: impl Fn(&mut Value)) {
    let path = bundle.root().join(&bundle.id).join("state.json");
    let mut state: Value = serde_json::from_slice(&fs::read(&path).expect("read")).expect("parse");
    change(&mut state);
    fs::write(&path, state.to_string()).expect("write");
}

/// Its hooks would be run, and its processes killed, as root.
#[test]
fn state_that_others_own_or_can_write_is_not_acted_on() {
    require_root!("state_that_others_own_or_can_write_is_not_acted_on");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let directory = bundle.root().join(&bundle.id);
    let file = directory.join("state.json");
    let mark = bundle.scratch().join("mark");
    let hook = json!([{"path": "/bin/touch", "args": ["touch", mark]}]);
    let refused = |words: &str| {
        for command in [&["state"][..], &["kill"], &["delete"], &["pause"], &["exec"]] {
            let outcome =
                bundle.runw(&[command, &[&bundle.id, "true"][..if command == ["exec"] { 2 } else { 1 }]].concat());
            assert!(
                matches!(outcome.code, Some(1 | 255)) && outcome.stderr.contains(words),
                "{command:?}: {outcome:?}"
            );
            assert!(file.exists(), "{command:?} has removed the state");
        }
    };
    rewrite(&bundle, |state| state["hooks"] = json!({"poststop": hook}));
    for path in [&file, &directory] {
        let mode = fs::metadata(path).expect("stat").permissions();
        chown(path, Some(1000), Some(1000)).expect("chown");
        refused("belongs to user 1000");
        chown(path, Some(0), Some(0)).expect("chown");
        for bits in [0o020, 0o002] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode.mode() | bits)).expect("chmod");
            refused("can be written by others");
        }
        fs::set_permissions(path, mode).expect("chmod");
    }
    assert!(!mark.exists());
    // Put right, it is believed again: the refusals above were not for another reason.
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    assert!(mark.exists());
}

#[test]
fn damaged_state_is_an_error_and_can_be_deleted() {
    require_root!("damaged_state_is_an_error_and_can_be_deleted");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let directory = bundle.root().join(&bundle.id);
    for text in ["", "{", "[]", "{\"id\": 5}", "null"] {
        fs::create_dir_all(&directory).expect("mkdir");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("chmod");
        fs::write(directory.join("state.json"), text).expect("write");
        let outcome = bundle.runw(&["state", &bundle.id]);
        assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(1), 1), "{outcome:?}");
        assert!(outcome.stderr.contains("state.json"), "{outcome:?}");
        assert_eq!(bundle.runw(&["list"]).code, Some(0), "one that is damaged hides all others");
        assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
        assert!(!directory.exists());
    }
}

/// The init has gone and its number is another process's: nothing is done to that one.
#[test]
fn a_process_that_has_got_the_inits_number_is_left_alone() {
    require_root!("a_process_that_has_got_the_inits_number_is_left_alone");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    let mut bystander = Command::new("sleep").arg("1000").stdout(Stdio::null()).spawn().expect("sleep");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(std::os::fd::AsFd::as_fd(&init), 10_000).expect("poll"));
    rewrite(&bundle, |state| state["pid"] = json!(bystander.id()));
    assert_eq!(bundle.state()["status"], "stopped");
    for command in [&["kill"][..], &["pause"], &["start"]] {
        assert_eq!(bundle.runw(&[command, &[&bundle.id]].concat()).code, Some(1), "{command:?}");
    }
    assert_eq!(bundle.runw(&["exec", &bundle.id, "true"]).code, Some(255));
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    let alive = bystander.try_wait().expect("wait").is_none();
    bystander.kill().expect("kill");
    bystander.wait().expect("wait");
    assert!(alive, "the bystander was killed");
    bundle.assert_nothing_left();
}
