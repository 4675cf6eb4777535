//! `runw run` on a real kernel: what the container is given.

mod support;

use serde_json::json;
use std::fs;
use std::os::fd::AsRawFd;
use std::process::Command;
use support::Bundle;

#[test]
fn the_default_configuration_runs_and_leaves_nothing() {
    require_root!("the_default_configuration_runs_and_leaves_nothing");
    let bundle = Bundle::new(&["echo", "hello"]);
    assert_eq!(bundle.output(), "hello\n");
    bundle.assert_nothing_left();
}

#[test]
fn runc_runs_the_same_bundle_with_the_same_output() {
    require_root!("runc_runs_the_same_bundle_with_the_same_output");
    if Command::new("runc").arg("--version").output().is_err() {
        println!("SKIP runc_runs_the_same_bundle_with_the_same_output: runc is not installed");
        return;
    }
    let script = "id; hostname; pwd; env | grep -v HOSTNAME; grep Cap /proc/self/status; ls /dev; mount | wc -l";
    let bundle = Bundle::script(script);
    let ours = bundle.output();
    let root = bundle.scratch().join("runc");
    let theirs =
        Command::new("runc").arg("--root").arg(root).args(["run", &bundle.id]).current_dir(bundle.path()).output();
    let theirs = support::outcome(theirs.expect("run runc"));
    // The unified hierarchy of a hybrid host is one mount more with us.
    let lines =
        |text: &str| text.lines().filter(|line| line.parse::<u32>().is_err()).map(str::to_string).collect::<Vec<_>>();
    assert_eq!(lines(&ours), lines(&theirs.stdout), "{theirs:?}");
}

#[test]
fn the_exit_code_is_the_programs_own() {
    require_root!("the_exit_code_is_the_programs_own");
    assert_eq!(Bundle::script("exit 42").run().code, Some(42));
}

#[test]
fn a_killed_program_exits_with_128_and_the_signal() {
    require_root!("a_killed_program_exits_with_128_and_the_signal");
    // As pid 1 of its namespace the program would be immune to its own signals.
    let mut bundle = Bundle::script("kill -TERM $$");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    assert_eq!(bundle.run().code, Some(128 + 15));
    bundle.assert_nothing_left();
}

#[test]
fn standard_input_output_and_error_are_the_callers() {
    require_root!("standard_input_output_and_error_are_the_callers");
    let bundle = Bundle::script("cat; echo wrong >&2");
    let input = bundle.scratch().join("input");
    fs::write(&input, "from the caller").expect("write");
    let mut command = bundle.command(&["run", &bundle.id]);
    let outcome = support::outcome(command.stdin(fs::File::open(&input).expect("open")).output().expect("run"));
    assert_eq!((outcome.stdout.as_str(), outcome.stderr.as_str()), ("from the caller", "wrong\n"));
}

#[test]
fn hostname_and_environment_are_set_and_home_is_looked_up() {
    require_root!("hostname_and_environment_are_set_and_home_is_looked_up");
    let bundle = Bundle::script("hostname; echo $FOO $HOME; pwd")
        .set("/hostname", json!("harbour"))
        .set("/process/env/-", json!("FOO=bar"))
        .set("/process/user", json!({"uid": 33, "gid": 33}))
        .set("/process/cwd", json!("/tmp"));
    fs::write(bundle.rootfs().join("etc/passwd"), "web:x:33:33::/srv:/bin/sh\n").expect("write");
    assert_eq!(bundle.output(), "harbour\nbar /srv\n/tmp\n");
}

#[test]
fn user_groups_and_all_five_capability_sets_are_set() {
    require_root!("user_groups_and_all_five_capability_sets_are_set");
    let sets = json!(["CAP_KILL", "CAP_NET_BIND_SERVICE"]);
    let bundle = Bundle::script("id; grep Cap /proc/self/status; grep NoNew /proc/self/status")
        .set("/process/user", json!({"uid": 1000, "gid": 1001, "additionalGids": [5, 6]}))
        .set(
            "/process/capabilities",
            json!({"bounding": sets, "permitted": sets, "effective": ["CAP_KILL"],
            "inheritable": sets, "ambient": ["CAP_KILL"]}),
        );
    let output = bundle.output();
    assert!(output.starts_with("uid=1000 gid=1001 groups=5,6"), "{output}");
    for line in [
        "CapInh:\t0000000000000420",
        "CapPrm:\t0000000000000020",
        "CapEff:\t0000000000000020",
        "CapBnd:\t0000000000000420",
        "CapAmb:\t0000000000000020",
        "NoNewPrivs:\t1",
    ] {
        assert!(output.contains(line), "{line} is missing in {output}");
    }
}

#[test]
fn limits_of_the_process_and_its_umask_are_set() {
    require_root!("limits_of_the_process_and_its_umask_are_set");
    let bundle = Bundle::script("ulimit -n; umask")
        .set("/process/rlimits", json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]))
        .set("/process/user/umask", json!(0o27));
    assert_eq!(bundle.output(), "100\n0027\n");
}

#[test]
fn the_root_can_be_read_only_and_paths_masked() {
    require_root!("the_root_can_be_read_only_and_paths_masked");
    let bundle = Bundle::script("touch /x 2>/dev/null; echo $?; cat /etc/secret | wc -c; ls /etc/dir | wc -l; echo 1 > /proc/sys/net/ipv4/ip_forward")
        .set("/linux/maskedPaths", json!(["/etc/secret", "/etc/dir", "/not/there"]));
    fs::write(bundle.rootfs().join("etc/secret"), "key").expect("write");
    fs::create_dir_all(bundle.rootfs().join("etc/dir/inner")).expect("mkdir");
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "1\n0\n0\n");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
}

#[test]
fn bind_mounts_follow_their_options() {
    require_root!("bind_mounts_follow_their_options");
    let bundle = Bundle::script("cat /data/file; echo x > /data/file; cat /single").set(
        "/mounts/-",
        json!({"destination": "/data", "type": "bind", "source": "../data", "options": ["rbind", "ro"]}),
    );
    let bundle = bundle.set(
        "/mounts/-",
        json!({"destination": "/single", "type": "none", "source": "../data/file", "options": ["bind"]}),
    );
    fs::create_dir(bundle.scratch().join("data")).expect("mkdir");
    fs::write(bundle.scratch().join("data/file"), "content\n").expect("write");
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "content\ncontent\n");
    assert!(outcome.stderr.contains("Read-only file system"), "{outcome:?}");
}

#[test]
fn a_tmpfs_can_start_with_what_it_covers() {
    require_root!("a_tmpfs_can_start_with_what_it_covers");
    let bundle = Bundle::script("cat /etc/dir/file; readlink /etc/link; echo new > /etc/dir/file")
        .set("/mounts/-", json!({"destination": "/etc", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"]}));
    fs::create_dir(bundle.rootfs().join("etc/dir")).expect("mkdir");
    fs::write(bundle.rootfs().join("etc/dir/file"), "old\n").expect("write");
    std::os::unix::fs::symlink("dir/file", bundle.rootfs().join("etc/link")).expect("link");
    assert_eq!(bundle.output(), "old\ndir/file\n");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/dir/file")).expect("read"), "old\n");
}

#[test]
fn devices_are_made_and_only_those_allowed_can_be_used() {
    require_root!("devices_are_made_and_only_those_allowed_can_be_used");
    let bundle =
        Bundle::script("stat -c '%F %t:%T %a' /dev/extra; head -c 0 /dev/null && echo ok; head -c 1 /dev/extra")
            .set(
                "/linux/devices",
                json!([{"path": "/dev/extra", "type": "b", "major": 7, "minor": 250, "fileMode": 0o640}]),
            )
            .set("/linux/resources/devices", json!([{"allow": false, "access": "rwm"}]));
    let outcome = bundle.run();
    assert_eq!(outcome.stdout, "block special file 7:fa 640\nok\n");
}

#[test]
fn a_device_that_is_not_allowed_cannot_be_opened() {
    require_root!("a_device_that_is_not_allowed_cannot_be_opened");
    let bundle = Bundle::script("mknod /tmp/kmsg c 1 11 && head -c 1 /tmp/kmsg")
        .set("/root/readonly", json!(false))
        .set("/process/capabilities/bounding/-", json!("CAP_MKNOD"))
        .set("/process/capabilities/effective/-", json!("CAP_MKNOD"))
        .set("/process/capabilities/permitted/-", json!("CAP_MKNOD"));
    let outcome = bundle.run();
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");
}

#[test]
fn seccomp_answers_with_the_errno_of_the_profile() {
    require_root!("seccomp_answers_with_the_errno_of_the_profile");
    for no_new_privileges in [true, false] {
        let bundle = Bundle::new(&["mkdir", "/tmp/x"]).set("/process/noNewPrivileges", json!(no_new_privileges)).set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 28}]}),
        );
        let outcome = bundle.run();
        assert!(outcome.stderr.contains("No space left on device"), "{outcome:?}");
    }
}

#[test]
fn sysctls_of_the_containers_namespaces_are_written() {
    require_root!("sysctls_of_the_containers_namespaces_are_written");
    let bundle = Bundle::new(&["cat", "/proc/sys/net/ipv4/ip_forward", "/proc/sys/kernel/msgmax"])
        .set("/linux/sysctl", json!({"net.ipv4.ip_forward": "1", "kernel.msgmax": "8191"}));
    assert_eq!(bundle.output(), "1\n8191\n");
}

#[test]
fn a_user_namespace_maps_the_containers_root() {
    require_root!("a_user_namespace_maps_the_containers_root");
    let map = json!([{"containerID": 0, "hostID": 200_000, "size": 1000}]);
    let bundle = Bundle::script("id -u; cat /proc/self/uid_map; head -c 0 /dev/null && echo ok")
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map);
    // The path to the bundle must be open to the mapped user.
    open_to_all(bundle.scratch());
    let output = bundle.output();
    let words: Vec<&str> = output.split_whitespace().collect();
    assert_eq!(words, ["0", "0", "200000", "1000", "ok"]);
}

#[test]
fn namespaces_are_joined_by_path() {
    require_root!("namespaces_are_joined_by_path");
    let holder = Bundle::new(&["sleep", "1000"]).set("/hostname", json!("holder"));
    holder.start();
    let pid = holder.state()["pid"].as_i64().expect("pid");
    let mut bundle = Bundle::script("readlink /proc/self/ns/net; readlink /proc/self/ns/pid; hostname");
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        let file = match namespace["type"].as_str() {
            Some("network") => "net",
            Some("uts") => "uts",
            Some("pid") => "pid",
            _ => continue,
        };
        namespace["path"] = json!(format!("/proc/{pid}/ns/{file}"));
    }
    let bundle = bundle.remove("/hostname");
    let link = |name| fs::read_link(format!("/proc/{pid}/ns/{name}")).expect("namespace").display().to_string();
    assert_eq!(bundle.output(), format!("{}\n{}\nholder\n", link("net"), link("pid")));
    bundle.assert_nothing_left();
}

#[test]
fn a_namespace_is_joined_through_a_descriptor_of_the_caller() {
    require_root!("a_namespace_is_joined_through_a_descriptor_of_the_caller");
    let holder = Bundle::new(&["sleep", "1000"]);
    holder.start();
    let pid = holder.state()["pid"].as_i64().expect("pid");
    let namespace = fs::File::open(format!("/proc/{pid}/ns/net")).expect("open");
    let path = format!("/proc/{}/fd/{}", std::process::id(), namespace.as_raw_fd());
    let mut bundle = Bundle::new(&["readlink", "/proc/self/ns/net"]);
    for namespace in bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces") {
        if namespace["type"] == "network" {
            namespace["path"] = json!(path);
        }
    }
    let expected = fs::read_link(format!("/proc/{pid}/ns/net")).expect("link").display().to_string();
    assert_eq!(bundle.output().trim(), expected);
}

#[test]
fn descriptors_are_preserved_only_as_asked() {
    require_root!("descriptors_are_preserved_only_as_asked");
    let bundle = Bundle::script("cat <&3; ls /proc/self/fd | wc -l");
    fs::write(bundle.scratch().join("three"), "three\n").expect("write");
    bundle.command(&["--version"]);
    let script = format!(
        "exec 3<{0}/three 4<{0}/three; exec {1} --root {2} run --preserve-fds 1 {3}",
        bundle.scratch().display(),
        support::program(),
        bundle.root().display(),
        bundle.id
    );
    let output = Command::new("sh").args(["-c", &script]).current_dir(bundle.path()).output().expect("run sh");
    let outcome = support::outcome(output);
    // 0, 1, 2, 3 and the one ls has open on the directory.
    assert_eq!(outcome.stdout, "three\n5\n", "{outcome:?}");
}

#[test]
fn hooks_get_the_state_on_standard_input_and_nothing_else_of_the_environment() {
    require_root!("hooks_get_the_state_on_standard_input_and_nothing_else_of_the_environment");
    let bundle = Bundle::new(&["true"]);
    let hook = |kind: &str| {
        let file = bundle.scratch().join(kind);
        let script = format!("/bin/cat > {0}; /usr/bin/env >> {0}", file.display());
        json!([{"path": "/bin/sh", "args": ["sh", "-c", script], "env": ["MARK=1"]}])
    };
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    let hooks: serde_json::Map<_, _> = kinds.iter().map(|kind| (kind.to_string(), hook(kind))).collect();
    let bundle = bundle.set("/hooks", json!(hooks)).set("/annotations", json!({"a": "b"}));
    bundle.output();
    for (kind, status) in kinds.iter().zip(["created", "creating", "creating", "running", "stopped"]) {
        let text = fs::read_to_string(bundle.scratch().join(kind)).expect(kind);
        let (state, environment) = text.split_once('}').expect("JSON and environment");
        assert!(state.contains(&format!("\"id\":\"{}\"", bundle.id)), "{kind}: {text}");
        assert!(state.contains(&format!("\"status\":\"{status}\"")), "{kind}: {text}");
        assert!(state.contains("\"annotations\":{\"a\":\"b\""), "{kind}: {text}");
        assert!(environment.contains("MARK=1") && !environment.contains("HOME="), "{kind}: {text}");
    }
}

#[test]
fn a_failing_hook_ends_the_creation_and_leaves_nothing() {
    require_root!("a_failing_hook_ends_the_creation_and_leaves_nothing");
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let path = if kind == "startContainer" { "/bin/false" } else { "/usr/bin/false" };
        let bundle = Bundle::new(&["echo", "never"]).set("/hooks", json!({kind: [{"path": path}]}));
        let outcome = bundle.run();
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(1), ""), "{kind}: {outcome:?}");
        assert!(outcome.stderr.contains("exit status 1"), "{kind}: {outcome:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_hook_that_takes_too_long_is_killed() {
    require_root!("a_hook_that_takes_too_long_is_killed");
    let hook = json!([{"path": "/usr/bin/sleep", "args": ["sleep", "1000"], "timeout": 1}]);
    let bundle = Bundle::new(&["true"]).set("/hooks", json!({"createRuntime": hook}));
    let outcome = bundle.run();
    assert!(outcome.stderr.contains("ETIMEDOUT"), "{outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_terminal_is_given_in_the_foreground() {
    require_root!("a_terminal_is_given_in_the_foreground");
    let bundle = Bundle::script("tty; test -c /dev/console && echo console; stat -c %u /dev/pts/0")
        .set("/process/terminal", json!(true))
        .set("/process/user", json!({"uid": 1000, "gid": 1000}));
    assert_eq!(bundle.output(), "/dev/pts/0\nconsole\n1000\n");
}

fn open_to_all(path: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).expect("chmod");
}

#[test]
fn every_cpu_is_allowed_whatever_the_caller_is_bound_to() {
    require_root!("every_cpu_is_allowed_whatever_the_caller_is_bound_to");
    let bundle = Bundle::new(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
    let free = bundle.output();
    let run = bundle.command(&["run", &bundle.id]);
    let mut bound = Command::new("taskset");
    bound.args(["-c", "0"]).arg(run.get_program()).args(run.get_args()).current_dir(bundle.path());
    assert_eq!(support::outcome(bound.output().expect("taskset")).stdout, free);
}

#[test]
fn a_failing_hook_is_named_with_what_it_said() {
    require_root!("a_failing_hook_is_named_with_what_it_said");
    let hook = json!([{"path": "/bin/true"}, {"path": "/bin/sh", "args": ["sh", "-c", "echo alas >&2; exit 3"]}]);
    let outcome = Bundle::new(&["true"]).set("/hooks", json!({"createRuntime": hook})).run();
    let expected = "error running createRuntime hook #1: /bin/sh: exit status 3, stderr: alas";
    assert!(outcome.stderr.contains(expected), "{outcome:?}");
}

#[test]
fn a_start_container_hook_without_environment_has_the_programs() {
    require_root!("a_start_container_hook_without_environment_has_the_programs");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "test \"$WHO\" = me"]}]);
    let bundle = Bundle::new(&["true"]).set("/process/env/-", json!("WHO=me"));
    assert_eq!(bundle.set("/hooks", json!({"startContainer": hook})).run().code, Some(0));
}

#[test]
fn an_ambient_capability_the_kernel_refuses_is_a_warning() {
    require_root!("an_ambient_capability_the_kernel_refuses_is_a_warning");
    let bundle = Bundle::new(&["true"]).set("/process/capabilities/ambient", json!(["CAP_CHOWN"]));
    let outcome = bundle.run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert!(outcome.stderr.contains("can't raise ambient capability CAP_CHOWN"), "{outcome:?}");
}

#[test]
fn a_tmpfs_has_the_permissions_of_the_directory_it_covers() {
    require_root!("a_tmpfs_has_the_permissions_of_the_directory_it_covers");
    let mount = |to: &str| json!({"destination": to, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid"]});
    let bundle =
        Bundle::script("stat -c %a /tmp /made").set("/mounts/-", mount("/tmp")).set("/mounts/-", mount("/made"));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o710);
    fs::set_permissions(bundle.rootfs().join("tmp"), mode).expect("chmod");
    assert_eq!(bundle.output(), "710\n1777\n");
}

#[test]
fn dev_can_be_read_only() {
    require_root!("dev_can_be_read_only");
    let mut bundle = Bundle::script("test -c /dev/null && ! touch /dev/x 2>/dev/null && echo closed");
    for mount in bundle.config["mounts"].as_array_mut().expect("mounts") {
        if mount["destination"] == "/dev" {
            mount["options"].as_array_mut().expect("options").push(json!("ro"));
        }
    }
    assert_eq!(bundle.output(), "closed\n");
}

#[test]
fn proc_behind_a_link_is_refused() {
    require_root!("proc_behind_a_link_is_refused");
    let bundle = Bundle::new(&["true"]);
    fs::remove_dir(bundle.rootfs().join("proc")).expect("rmdir");
    std::os::unix::fs::symlink("/tmp", bundle.rootfs().join("proc")).expect("symlink");
    let outcome = bundle.run();
    assert!(outcome.stderr.contains("proc must be mounted on ordinary directory"), "{outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_hook_in_the_container_is_under_its_seccomp_filter() {
    require_root!("a_hook_in_the_container_is_under_its_seccomp_filter");
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", "mkdir /tmp/x"]}]);
    let outcome = Bundle::new(&["true"])
        .set(
            "/linux/seccomp",
            json!({"defaultAction": "SCMP_ACT_ALLOW",
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}),
        )
        .set("/hooks", json!({"startContainer": hook}))
        .run();
    assert!(outcome.stderr.contains("startContainer hook #0"), "{outcome:?}");
    assert!(outcome.stderr.contains("Operation not permitted"), "{outcome:?}");
}

#[test]
fn no_pivot_leaves_no_procfs_to_be_mounted_again() {
    require_root!("no_pivot_leaves_no_procfs_to_be_mounted_again");
    let mut bundle = Bundle::script("busybox unshare -mrpf sh -c 'mount -t proc none /proc' && echo mounted");
    for set in ["bounding", "permitted"] {
        bundle.config["process"]["capabilities"][set].as_array_mut().expect("a set").push(json!("CAP_SETFCAP"));
    }
    let outcome = bundle.runw(&["run", "--no-pivot", &bundle.id]);
    assert!(outcome.stderr.contains("permission denied"), "{outcome:?}");
    assert!(!outcome.stdout.contains("mounted"), "{outcome:?}");
}

#[test]
fn a_frozen_cgroup_is_refused() {
    require_root!("a_frozen_cgroup_is_refused");
    let bundle = Bundle::new(&["true"]);
    let (group, file, frozen) = if std::path::Path::new("/sys/fs/cgroup/freezer").exists() {
        (format!("/sys/fs/cgroup/freezer/{}", bundle.id), "freezer.state", "FROZEN")
    } else {
        (format!("/sys/fs/cgroup/{}", bundle.id), "cgroup.freeze", "1")
    };
    fs::create_dir_all(&group).expect("mkdir");
    fs::write(format!("{group}/{file}"), frozen).expect("freeze");
    let outcome = bundle.run();
    fs::remove_dir(&group).expect("rmdir");
    assert!(outcome.stderr.contains("cgroup unexpectedly frozen"), "{outcome:?}");
}

#[test]
fn the_root_can_be_unbindable() {
    require_root!("the_root_can_be_unbindable");
    let bundle = Bundle::script("grep -c ' / .* unbindable ' /proc/self/mountinfo; true");
    let output = bundle.set("/linux/rootfsPropagation", json!("unbindable")).run();
    assert_eq!((output.code, output.stdout.as_str()), (Some(0), "1\n"), "{output:?}");
}
