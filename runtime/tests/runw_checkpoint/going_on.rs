//! What goes on after a restore as it was before.

use super::*;

/// Mount point, options and type of each mount, without what is counted anew.
fn mounts(bundle: &Bundle) -> Vec<String> {
    let text = bundle.runw(&["exec", &bundle.id, "cat", "/proc/self/mountinfo"]).stdout;
    let line = |line: &str| {
        let fields: Vec<&str> = line.split(' ').collect();
        let kind = fields.iter().position(|field| *field == "-").map_or("", |at| fields[at + 1]);
        format!("{} {} {kind}", fields[4], fields[5])
    };
    let mut mounts: Vec<String> = text.lines().map(line).collect();
    mounts.sort();
    mounts
}

#[test]
fn a_restored_container_goes_on_where_it_was() {
    require_criu!("a_restored_container_goes_on_where_it_was");
    let mut counter = Counter::new();
    let read_only = json!({"destination": "/fixed", "source": "/etc", "options": ["bind", "ro", "noexec"]});
    counter.bundle.change("/mounts/-", read_only);
    counter.bundle.change("/linux/resources/memory", json!({"limit": 64 << 20}));
    counter.bundle.change("/linux/resources/pids", json!({"limit": 50}));
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(5);
    let mounted = mounts(bundle);
    let before = bundle.state();
    ok(bundle, &checkpoint(bundle, &[]));
    let counted = counter.data.join("count");
    let count: u64 = fs::read_to_string(counted).expect("count").trim().parse().expect("a number");
    bundle.assert_nothing_left();
    assert!(bundle.runw(&["state", &bundle.id]).stderr.contains("does not exist"));

    let pid_file = bundle.scratch().join("pid");
    ok(bundle, &restore(bundle, &["--pid-file", pid_file.to_str().expect("path")]));
    let state = bundle.state();
    assert_eq!(state["status"], "running");
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).expect("pid file"));
    for field in ["id", "bundle", "rootfs", "ociVersion"] {
        assert_eq!(state[field], before[field]);
    }
    assert!(!bundle.root().join(&bundle.id).join("criu-root").exists());
    let later = counter.above(count);
    assert!(later < count + 100, "it began anew or ran on: {count}, {later}");
    assert_eq!(mounts(bundle), mounted);
    let memory = cgroup_file(&bundle.id, "memory", "memory.limit_in_bytes", "memory.max");
    assert_eq!(fs::read_to_string(memory).expect("limit").trim(), (64 << 20).to_string());
    let pids = cgroup_file(&bundle.id, "pids", "pids.max", "pids.max");
    assert_eq!(fs::read_to_string(pids).expect("limit").trim(), "50");
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", state["pid"])).expect("cgroup");
    assert!(groups.lines().all(|line| line.ends_with(&format!("/{}", bundle.id))), "{groups}");
    let exec = bundle.runw(&["exec", &bundle.id, "sh", "-c", "cat /proc/1/comm; ip addr show dev lo; exit 7"]);
    assert_eq!(exec.code, Some(7), "{exec:?}");
    assert!(exec.stdout.starts_with("sh\n") && exec.stdout.contains("127.0.0.1"), "{exec:?}");
    assert_eq!(bundle.runw(&["pause", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "paused");
    assert_eq!(bundle.runw(&["resume", &bundle.id]).code, Some(0));
    assert_eq!(bundle.runw(&["list", "-q"]).stdout, format!("{}\n", bundle.id));

    // And once more, from the restored one.
    let count = counter.above(later);
    fs::remove_dir_all(bundle.path().join("images")).expect("remove");
    ok(bundle, &checkpoint(bundle, &[]));
    ok(bundle, &restore(bundle, &[]));
    counter.above(count);
    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_eq!(bundle.state()["status"], "stopped");
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn a_container_left_running_runs_on_and_its_images_are_whole() {
    require_criu!("a_container_left_running_runs_on_and_its_images_are_whole");
    let counter = Counter::new();
    let bundle = &counter.bundle;
    start(bundle);
    counter.above(2);
    ok(bundle, &checkpoint(bundle, &["--leave-running"]));
    let count = counter.above(0);
    counter.above(count);
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    ok(bundle, &restore(bundle, &[]));
    counter.above(0);
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn hooks_run_when_the_namespaces_are_there_again() {
    require_criu!("hooks_run_when_the_namespaces_are_there_again");
    let mut counter = Counter::new();
    let file = counter.bundle.scratch().join("hooks");
    let hook = |name: &str| {
        let script = format!("echo {name} $(cat) >> {}", file.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}])
    };
    counter.bundle.config["hooks"] = json!({"prestart": hook("prestart"), "createRuntime": hook("createRuntime")});
    start(&counter.bundle);
    counter.above(1);
    ok(&counter.bundle, &checkpoint(&counter.bundle, &[]));
    fs::remove_file(&file).expect("remove");
    ok(&counter.bundle, &restore(&counter.bundle, &[]));
    let text = fs::read_to_string(&file).expect("hooks");
    let pid = format!("\"pid\":{}", counter.bundle.state()["pid"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines.len() == 2 && lines[0].starts_with("prestart ") && lines[1].starts_with("createRuntime "), "{text}");
    assert!(lines.iter().all(|line| line.contains(&pid)), "{text}: {pid}");

    assert_eq!(counter.bundle.runw(&["delete", "-f", &counter.bundle.id]).code, Some(0));
    counter.bundle.config["hooks"] = json!({"createRuntime": [{"path": "/bin/false"}]});
    assert_one_line(&restore(&counter.bundle, &[]), &["createRuntime hook #0", "/bin/false"]);
    counter.bundle.assert_nothing_left();
}

#[test]
fn a_restore_can_be_into_another_group() {
    require_criu!("a_restore_can_be_into_another_group");
    let mut counter = Counter::new();
    start(&counter.bundle);
    counter.above(1);
    ok(&counter.bundle, &checkpoint(&counter.bundle, &["--manage-cgroups-mode", "ignore"]));
    let other = format!("{}-other", counter.bundle.id);
    counter.bundle.change("/linux/cgroupsPath", json!(format!("/{other}")));
    ok(&counter.bundle, &restore(&counter.bundle, &["--manage-cgroups-mode=ignore"]));
    let groups = fs::read_to_string(format!("/proc/{}/cgroup", counter.bundle.state()["pid"])).expect("cgroup");
    assert!(groups.lines().all(|line| line.ends_with(&format!("/{other}"))), "{groups}");
    assert_eq!(counter.bundle.runw(&["delete", "-f", &counter.bundle.id]).code, Some(0));
    assert!(!cgroup_file(&other, "memory", "", "").exists());
    counter.bundle.assert_nothing_left();
}

#[test]
fn mount_points_are_made_again_in_nested_mounts_and_through_links() {
    require_criu!("mount_points_are_made_again_in_nested_mounts_and_through_links");
    let mut counter = Counter::new();
    let nested = counter.bundle.scratch().join("nested");
    fs::create_dir(&nested).expect("mkdir");
    fs::create_dir_all(counter.bundle.rootfs().join("real/conf")).expect("mkdir");
    std::os::unix::fs::symlink("/real/conf", counter.bundle.rootfs().join("conf")).expect("symlink");
    for destination in ["/data/for/nested", "/conf"] {
        let mount = json!({"destination": destination, "source": nested, "options": ["bind"]});
        counter.bundle.change("/mounts/-", mount);
    }
    start(&counter.bundle);
    counter.above(1);
    ok(&counter.bundle, &checkpoint(&counter.bundle, &[]));
    fs::remove_dir_all(counter.data.join("for")).expect("remove the mount point");
    ok(&counter.bundle, &restore(&counter.bundle, &[]));
    fs::write(nested.join("seen"), "x").expect("write");
    for path in ["/data/for/nested/seen", "/real/conf/seen"] {
        assert_eq!(counter.bundle.runw(&["exec", &counter.bundle.id, "cat", path]).stdout, "x", "{path}");
    }
    assert!(!nested.join("data").exists() && !counter.data.join("for/nested/seen").exists());
}

#[test]
fn a_configuration_file_of_criu_is_named_by_annotation() {
    require_criu!("a_configuration_file_of_criu_is_named_by_annotation");
    let mut counter = Counter::new();
    let config = counter.bundle.scratch().join("criu.conf");
    fs::write(&config, "log-file=own.log\n").expect("write");
    counter.bundle.config["annotations"] = json!({"org.criu.config": config});
    start(&counter.bundle);
    counter.above(1);
    ok(&counter.bundle, &checkpoint(&counter.bundle, &[]));
    let own = counter.bundle.path().join("work/own.log");
    assert!(own.exists() && !own.with_file_name("dump.log").exists());
    fs::remove_file(&own).expect("remove");
    ok(&counter.bundle, &restore(&counter.bundle, &[]));
    assert!(own.exists());
}
