//! Memory that is written before the rest, or follows it.

use super::*;

#[test]
fn memory_written_before_is_not_written_again() {
    require_criu!("memory_written_before_is_not_written_again");
    let counter = Counter::new();
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(2);
    let before = bundle.runw(&["checkpoint", "--pre-dump", "--image-path", "parent", &bundle.id]);
    if before.stderr.contains("memory tracking") {
        println!("SKIP memory_written_before_is_not_written_again: {}", before.stderr.trim());
        return;
    }
    ok(bundle, &before);
    assert_eq!(bundle.state()["status"], "running");
    let count = counter.above(0);
    counter.above(count);
    ok(bundle, &checkpoint(bundle, &["--parent-path", "../parent"]));
    assert!(bundle.path().join("images/parent").exists());
    let pages = |directory: &str| -> u64 {
        let files = fs::read_dir(bundle.path().join(directory)).expect("images").flatten();
        let pages = files.filter(|file| file.file_name().to_string_lossy().starts_with("pages-"));
        pages.map(|file| file.metadata().expect("metadata").len()).sum()
    };
    assert!(pages("images") < pages("parent"), "{} {}", pages("images"), pages("parent"));
    ok(bundle, &restore(bundle, &[]));
    counter.above(count);
}

#[test]
fn memory_follows_lazily() {
    require_criu!("memory_follows_lazily");
    let counter = Counter::new();
    let bundle = &counter.bundle;
    start(bundle);
    let count = counter.above(3);
    let mut dump = Command::new("sh");
    let paths = ["--image-path", "images", "--work-path", "work", "--manage-cgroups-mode", "ignore"];
    let raw =
        bundle.raw_command(&["checkpoint", "--lazy-pages", "--page-server", "127.0.0.1:27277", "--status-fd", "9"]);
    dump.args(["-c", "exec 9>&1 >/dev/null; exec \"$@\"", "sh"]).arg(raw.get_program()).args(raw.get_args());
    dump.args(paths).arg(&bundle.id).current_dir(bundle.path()).stdin(Stdio::null());
    let mut dump = dump.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("checkpoint");
    let mut ready = Vec::new();
    dump.stdout.take().expect("status").read_to_end(&mut ready).expect("read");
    if ready.is_empty() {
        let output = dump.wait_with_output().expect("wait");
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(stderr.contains("userfaultfd"), "{stderr}");
        println!("SKIP memory_follows_lazily: {}", stderr.trim());
        return;
    }
    assert_eq!(ready, [0]);
    let mut server = Command::new("criu");
    server.args(["lazy-pages", "--page-server", "--address", "127.0.0.1", "--port", "27277", "-D"]);
    server.arg(bundle.path().join("images")).args(["-W"]).arg(bundle.path().join("work"));
    let mut server = server.stdin(Stdio::null()).spawn().expect("criu lazy-pages");
    while !bundle.path().join("work/lazy-pages.socket").exists() {
        assert!(server.try_wait().expect("wait").is_none(), "criu lazy-pages ended");
    }
    let other = format!("{}-restored", bundle.id);
    let mut config = bundle.config.clone();
    config["linux"]["cgroupsPath"] = json!(format!("/{other}"));
    fs::write(bundle.path().join("config.json"), config.to_string()).expect("write");
    let mut command = bundle.raw_command(&["restore", "-d", "--lazy-pages"]);
    let restored = command.args(paths).arg(&other).stdout(Stdio::null()).status().expect("restore");
    assert!(restored.success());
    assert!(server.wait().expect("wait").success());
    let output = dump.wait_with_output().expect("wait");
    assert!(output.status.success(), "{output:?}");
    let state = bundle.raw_command(&["state", &other]).output().expect("state");
    let state: Value = serde_json::from_slice(&state.stdout).expect("JSON");
    assert_eq!(state["status"], "running");
    while fs::read_to_string(counter.data.join("count")).expect("count").trim().parse::<u64>().expect("number") <= count
    {
    }
    assert!(bundle.raw_command(&["delete", "-f", &other]).status().expect("delete").success());
    bundle.assert_nothing_left();
}
