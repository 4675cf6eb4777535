//! Commands for a container that is in the wrong state, or that is none.

use crate::support::{self, Bundle};
use crate::{assert_refused, problem, require_root};

#[test]
fn an_id_that_could_leave_the_state_directory_is_refused() {
    require_root!("an_id_that_could_leave_the_state_directory_is_refused");
    let bundle = Bundle::new(&["true"]);
    let ids = ["a/b", "..", ".", "../x", "a b", "é", "", "a\nb", "a\u{1b}[2J", "/etc", "@seccomp", "a:b", "a*"];
    let long = [300, 1024, 100_000].map(|length| "x".repeat(length));
    for id in ids.iter().copied().chain(long.iter().map(String::as_str)) {
        for command in [&["run"][..], &["create"], &["state"], &["start"], &["delete"], &["delete", "-f"], &["kill"]] {
            let outcome = bundle.runw(&[command, &["--", id]].concat());
            assert_refused(&bundle, &outcome, &["container id"]);
            assert!(outcome.stderr.len() < 400, "{outcome:?}");
        }
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
fn every_command_says_that_a_container_does_not_exist() {
    require_root!("every_command_says_that_a_container_does_not_exist");
    let bundle = Bundle::new(&["true"]);
    let id = bundle.id.as_str();
    let commands: &[&[&str]] = &[
        &["start", id],
        &["state", id],
        &["kill", id, "KILL"],
        &["delete", id],
        &["pause", id],
        &["resume", id],
        &["ps", id],
        &["update", "--pids-limit", "5", id],
        &["events", "--stats", id],
    ];
    for command in commands {
        assert_refused(&bundle, &bundle.runw(command), &["does not exist"]);
    }
    let outcome = bundle.runw(&["exec", id, "true"]);
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(255), 1), "{outcome:?}");
    assert!(outcome.stderr.contains("does not exist"), "{outcome:?}");
}

fn assert_says(bundle: &Bundle, arguments: &[&str], words: &[&str]) {
    let mut outcome = bundle.runw(arguments);
    if arguments[0] == "exec" {
        assert_eq!(outcome.code, Some(255), "{arguments:?}: {outcome:?}");
        outcome.code = Some(1);
    }
    assert_eq!(problem(&outcome, words), None, "{arguments:?}");
}

#[test]
fn every_command_refuses_a_container_in_a_state_it_is_not_for() {
    require_root!("every_command_refuses_a_container_in_a_state_it_is_not_for");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let id = bundle.id.as_str();
    assert_eq!(bundle.command(&["create", id]).status().expect("create").code(), Some(0));
    assert_eq!(bundle.state()["status"], "created");
    assert_says(&bundle, &["resume", id], &["not paused"]);
    assert_says(&bundle, &["create", id], &["already exists"]);

    assert_eq!(bundle.runw(&["start", id]).code, Some(0));
    assert_says(&bundle, &["start", id], &["cannot start", "running"]);
    assert_says(&bundle, &["delete", id], &["not stopped"]);
    assert_says(&bundle, &["resume", id], &["not paused"]);
    assert_says(&bundle, &["kill", id, "NOSUCH"], &["unknown signal", "NOSUCH"]);
    assert_says(&bundle, &["kill", id, "65"], &["unknown signal", "65"]);

    assert_eq!(bundle.runw(&["pause", id]).code, Some(0));
    assert_says(&bundle, &["pause", id], &["paused"]);
    assert_says(&bundle, &["start", id], &["cannot start", "paused"]);
    assert_says(&bundle, &["exec", id, "true"], &["paused"]);
    assert_says(&bundle, &["delete", id], &["not stopped"]);
    assert_eq!(bundle.runw(&["resume", id]).code, Some(0));

    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(std::os::fd::AsFd::as_fd(&init), 10_000).expect("poll"));
    assert_says(&bundle, &["start", id], &["cannot start", "stopped"]);
    assert_says(&bundle, &["kill", id, "TERM"], &["not running"]);
    assert_says(&bundle, &["exec", id, "true"], &["stopped"]);
    assert_says(&bundle, &["pause", id], &["not running"]);
    assert_says(&bundle, &["resume", id], &["not paused"]);
    assert_says(&bundle, &["update", "--pids-limit", "5", id], &["stopped"]);
    assert_eq!(bundle.runw(&["delete", id]).code, Some(0));
    bundle.assert_nothing_left();
}
