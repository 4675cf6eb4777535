//! What cannot be done is said in one line, and leaves nothing behind.

use super::*;

#[test]
fn a_restore_that_fails_leaves_nothing() {
    require_criu!("a_restore_that_fails_leaves_nothing");
    let counter = Counter::new();
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(1);
    assert_one_line(&restore(bundle, &[]), &["already exists"]);
    ok(bundle, &checkpoint(bundle, &[]));
    let images = bundle.path().join("images");
    // Something that is needed late: most of the container is there when criu fails, or crashes.
    let files = fs::read_dir(&images).expect("images").flatten().map(|file| file.path());
    let pages = files.filter(|path| path.to_string_lossy().contains("/pages-")).max().expect("pages");
    fs::remove_file(pages).expect("remove");
    assert_one_line(&restore(bundle, &[]), &["criu restore failed: ", "work/restore.log"]);
    bundle.assert_nothing_left();
    fs::write(images.join("inventory.img"), "no image at all").expect("write");
    assert_one_line(&restore(bundle, &[]), &["criu restore failed: Error", "work/restore.log"]);
    bundle.assert_nothing_left();
}

#[test]
fn only_running_containers_are_checkpointed() {
    require_root!("only_running_containers_are_checkpointed");
    let bundle = Bundle::new(&["true"]);
    let created = bundle.command(&["create", &bundle.id]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert!(created.expect("create").success());
    assert_one_line(&checkpoint(&bundle, &[]), &["cannot checkpoint a container that is created"]);
    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_one_line(&checkpoint(&bundle, &[]), &["cannot checkpoint a container that is stopped"]);
    assert!(!bundle.path().join("images").exists());
}

#[test]
fn a_criu_that_is_missing_broken_or_old_is_said_in_one_line() {
    require_root!("a_criu_that_is_missing_broken_or_old_is_said_in_one_line");
    let bundle = Bundle::new(&["sleep", "1000"]);
    start(&bundle);
    let tools = bundle.scratch().join("tools");
    fs::create_dir(&tools).expect("mkdir");
    let run =
        |arguments: &[&str]| support::outcome(bundle.command(arguments).env("PATH", &tools).output().expect("run"));
    for arguments in [["checkpoint", &bundle.id], ["restore", "other"]] {
        assert_one_line(&run(&arguments), &["criu is not on PATH; install it"]);
    }
    let fake = tools.join("criu");
    fs::write(&fake, "#!/bin/sh\necho no such command >&2\nexit 3\n").expect("write");
    fs::set_permissions(&fake, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("chmod");
    assert_one_line(&run(&["checkpoint", &bundle.id]), &["criu version failed: no such command"]);
    // An answer of the protocol: of kind 10, a success, with the version 2.9.
    let answer = format!(
        r"{BUSYBOX} dd bs=1k count=1 <&3 >/dev/null 2>&1; printf '\010\012\020\001\122\004\010\002\020\011' >&3"
    );
    fs::write(&fake, format!("#!/bin/sh\n{answer}\n")).expect("write");
    assert_one_line(&run(&["checkpoint", &bundle.id]), &["needs criu 3.0 or newer", "tools/criu is 2.9"]);
    assert!(!bundle.root().join("other").exists() && !bundle.path().join("checkpoint").exists());
}

#[test]
fn wrong_options_are_refused_by_name() {
    require_root!("wrong_options_are_refused_by_name");
    let bundle = Bundle::new(&["sleep", "1000"]);
    start(&bundle);
    for (options, parts) in [
        (&["--page-server", "nowhere"][..], &["--page-server", "ADDRESS:PORT"][..]),
        (&["--manage-cgroups-mode", "hard"], &["--manage-cgroups-mode", "soft, full, strict, ignore"]),
        (&["--empty-ns", "pid"], &["--empty-ns", "network"]),
        (&["--status-fd", "1"], &["--status-fd is only for --lazy-pages"]),
        (&["--lazy-pages", "--status-fd", "77"], &["invalid --status-fd argument 77"]),
        (&["--lazy-pages", "--status-fd", "0"], &["invalid --status-fd argument 0: not writable"]),
    ] {
        let outcome = checkpoint(&bundle, options);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(parts.iter().all(|part| outcome.stderr.contains(part)), "{parts:?}: {outcome:?}");
    }
    assert_one_line(&bundle.runw(&["restore", "--no-pivot", "other"]), &["--no-pivot", "pivot_root"]);
    assert_one_line(&bundle.runw(&["restore", "--lsm-profile"]), &["flag needs an argument: --lsm-profile"]);
    if obstacle().as_ref().is_some_and(|reason| reason.starts_with("needs criu")) {
        println!("SKIP wrong_options_are_refused_by_name, the rest: needs criu");
        return;
    }
    for path in ["/tmp", "none", "file"] {
        fs::create_dir_all(bundle.path().join("images")).expect("mkdir");
        fs::write(bundle.path().join("images/file"), "").expect("write");
        assert_one_line(&checkpoint(&bundle, &["--parent-path", path]), &["--parent-path", path]);
    }
    let missing = bundle.runw(&["restore", "-d", "--image-path", "nowhere", "other"]);
    assert_one_line(&missing, &["images directory", "nowhere"]);
    assert!(!bundle.root().join("other").exists() && !Path::new("nowhere").exists());
    let empty = restore(&Bundle::new(&["true"]), &["--image-path", "."]);
    assert_eq!(empty.code, Some(1), "{empty:?}");
    for command in ["checkpoint", "restore"] {
        let help = bundle.runw(&[command, "-h"]);
        assert!(help.code == Some(0) && help.stdout.starts_with(&format!("NAME:\n   runw {command} - ")), "{help:?}");
    }
}
