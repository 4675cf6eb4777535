//! Locks of files.

use super::*;

/// Names the file that this program is to lock, in a container.
const LOCK: &str = "WHARF_TEST_LOCK";
/// What it exits with where someone else has locked it.
const LOCKED: i32 = 9;

/// No test of its own: busybox has nothing that holds a lock, so this program is what runs in the container.
#[test]
fn a_lock_is_held_in_the_container() {
    let Some(path) = std::env::var_os(LOCK) else { return };
    let file = fs::File::create(&path).expect("make file");
    if file.try_lock().is_err() {
        std::process::exit(LOCKED);
    }
    fs::write(Path::new(&path).with_extension("ready"), "").expect("write");
    loop {
        std::thread::park();
    }
}

#[test]
fn file_locks_are_kept_if_asked_for() {
    require_criu!("file_locks_are_kept_if_asked_for");
    let program = ["/own", "--exact", "locks::a_lock_is_held_in_the_container"];
    let mut bundle = Bundle::new(&program).set("/process/env", json!([format!("{LOCK}=/dev/shm/lock")]));
    let own = std::env::current_exe().expect("own program");
    bundle.change("/mounts/-", json!({"destination": "/own", "source": own, "options": ["bind", "ro"]}));
    start(&bundle);
    while bundle.runw(&["exec", &bundle.id, "/bin/test", "-e", "/dev/shm/lock.ready"]).code != Some(0) {
        assert_eq!(bundle.state()["status"], "running");
    }
    assert_one_line(&checkpoint(&bundle, &[]), &["criu dump failed", "lock"]);
    assert_eq!(bundle.state()["status"], "running");
    ok(&bundle, &checkpoint(&bundle, &["--file-locks"]));
    ok(&bundle, &restore(&bundle, &["--file-locks"]));
    let again = bundle.runw(&[&["exec", &bundle.id], &program[..]].concat());
    assert_eq!(again.code, Some(LOCKED), "{again:?}");
}
