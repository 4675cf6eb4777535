//! The life of a container over several commands: create, start, exec, kill, delete and the rest.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::AsFd;
use std::process::Stdio;
use support::{Bundle, cgroup_file};

#[test]
fn create_start_kill_and_delete_follow_the_states_of_the_standard() {
    require_root!("create_start_kill_and_delete_follow_the_states_of_the_standard");
    let bundle = Bundle::new(&["sleep", "1000"]).set("/annotations", json!({"key": "value"}));
    let pid_file = bundle.scratch().join("pid");
    let created = bundle.command(&["create", "--pid-file"]).arg(&pid_file).arg(&bundle.id).status().expect("create");
    assert!(created.success());
    let state = bundle.state();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"].to_string(), fs::read_to_string(&pid_file).expect("pid file"));
    assert_eq!(state["annotations"], json!({"key": "value"}));
    for field in ["ociVersion", "id", "bundle", "rootfs", "created", "owner"] {
        assert!(state[field].is_string(), "{field}: {state}");
    }
    assert_eq!(bundle.runw(&["start", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "running");
    let again = bundle.runw(&["start", &bundle.id]);
    assert_eq!(again.code, Some(1));
    assert!(again.stderr.contains("running"), "{again:?}");
    let early = bundle.runw(&["delete", &bundle.id]);
    assert_eq!(early.code, Some(1));
    assert!(early.stderr.contains("not stopped"), "{early:?}");
    let init = wharf_sys::pidfd::open(state["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_eq!(bundle.state()["status"], "stopped");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "KILL"]).code, Some(1));
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
    assert!(bundle.runw(&["state", &bundle.id]).stderr.contains("does not exist"));
}

#[test]
fn options_are_taken_after_the_id_too() {
    require_root!("options_are_taken_after_the_id_too");
    let bundle = Bundle::new(&["true"]);
    let path = bundle.path();
    let mut command = bundle.command(&["create", &bundle.id, "--bundle"]);
    assert!(command.arg(path).current_dir("/").status().expect("create").success());
    assert_eq!(bundle.runw(&["delete", "--force", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn delete_by_force_ends_a_container_in_any_state() {
    require_root!("delete_by_force_ends_a_container_in_any_state");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    assert_eq!(bundle.runw(&["pause", &bundle.id]).code, Some(0));
    assert_eq!(bundle.state()["status"], "paused");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0), "what is not there is deleted");
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(1));
}

#[test]
fn exec_runs_in_the_containers_namespaces_and_groups() {
    require_root!("exec_runs_in_the_containers_namespaces_and_groups");
    let bundle = Bundle::new(&["sleep", "1000"]).set("/hostname", json!("inside"));
    bundle.start();
    let exec = bundle.runw(&["exec", &bundle.id, "sh", "-c", "hostname; cat /proc/1/cmdline; exit 7"]);
    assert_eq!((exec.code, exec.stdout.as_str()), (Some(7), "inside\nsleep\x001000\0"), "{exec:?}");
    let pid = bundle.state()["pid"].to_string();
    let groups = bundle.runw(&["exec", &bundle.id, "cat", "/proc/self/cgroup"]).stdout;
    let init = bundle.runw(&["exec", &bundle.id, "cat", "/proc/1/cgroup"]).stdout;
    assert_eq!(groups, init, "pid {pid}");
    let tests = bundle.runw(&[
        "exec",
        "-u",
        "1000:1001",
        "-g",
        "5",
        "-e",
        "A=b",
        "--cwd",
        "/tmp",
        "--cap",
        "CAP_NET_ADMIN",
        &bundle.id,
        "sh",
        "-c",
        "id; echo $A; pwd; grep CapBnd /proc/self/status",
    ]);
    assert_eq!(tests.stdout, "uid=1000 gid=1001 groups=5\nb\n/tmp\nCapBnd:\t0000000020001420\n", "{tests:?}");
    let missing = bundle.runw(&["exec", &bundle.id, "no-such-program"]);
    assert_eq!(missing.code, Some(255));
    assert!(missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let terminal = bundle.runw(&["exec", "-t", &bundle.id, "tty"]);
    assert_eq!(terminal.stdout, "/dev/pts/0\n", "{terminal:?}");
}

#[test]
fn exec_takes_a_process_document() {
    require_root!("exec_takes_a_process_document");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let file = bundle.scratch().join("process.json");
    let process = json!({"user": {"uid": 5, "gid": 6}, "cwd": "/tmp", "args": ["/bin/sh", "-c", "id; pwd"]});
    fs::write(&file, process.to_string()).expect("write");
    let outcome = bundle.runw(&["exec", "-p", file.to_str().expect("path"), &bundle.id]);
    assert_eq!(outcome.stdout, "uid=5 gid=6\n/tmp\n", "{outcome:?}");
    fs::write(&file, "{\"cwd\": 3}").expect("write");
    let wrong = bundle.runw(&["exec", "-p", file.to_str().expect("path"), &bundle.id]);
    assert_eq!(wrong.code, Some(255));
    assert!(wrong.stderr.contains("process.json: cwd: invalid type"), "{wrong:?}");
}

#[test]
fn exec_in_a_container_that_has_ended_is_refused() {
    require_root!("exec_in_a_container_that_has_ended_is_refused");
    let bundle = Bundle::new(&["true"]);
    assert_eq!(bundle.runw(&["run", "--keep", &bundle.id]).code, Some(0));
    let outcome = bundle.runw(&["exec", &bundle.id, "true"]);
    assert_eq!(outcome.code, Some(255));
    assert!(outcome.stderr.contains("stopped"), "{outcome:?}");
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
}

#[test]
fn limits_stand_in_the_cgroup_and_can_be_updated() {
    require_root!("limits_stand_in_the_cgroup_and_can_be_updated");
    let bundle = Bundle::new(&["sleep", "1000"])
        .set("/linux/resources/memory", json!({"limit": 64 << 20}))
        .set("/linux/resources/pids", json!({"limit": 50}))
        .set("/linux/resources/cpu", json!({"quota": 50_000, "period": 100_000}));
    bundle.start();
    let read = |controller, v1, v2| {
        let path = cgroup_file(&bundle.id, controller, v1, v2);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_string()
    };
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (64u64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "50");
    assert!(read("cpu", "cpu.cfs_quota_us", "cpu.max").starts_with("50000"));
    assert_eq!(bundle.runw(&["update", "--memory", "32m", "--pids-limit", "40", &bundle.id]).code, Some(0));
    assert_eq!(read("memory", "memory.limit_in_bytes", "memory.max"), (32u64 << 20).to_string());
    assert_eq!(read("pids", "pids.max", "pids.max"), "40");
}

#[test]
fn list_and_ps_show_the_container() {
    require_root!("list_and_ps_show_the_container");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    assert_eq!(bundle.runw(&["list", "-q"]).stdout, format!("{}\n", bundle.id));
    let list: Value = serde_json::from_str(&bundle.runw(&["list", "-f", "json"]).stdout).expect("JSON");
    assert_eq!((&list[0]["id"], &list[0]["status"]), (&json!(bundle.id), &json!("running")));
    let table = bundle.runw(&["list"]).stdout;
    assert!(table.starts_with("ID ") && table.contains(&bundle.id), "{table}");
    let pids: Vec<i64> = serde_json::from_str(&bundle.runw(&["ps", "-f", "json", &bundle.id]).stdout).expect("JSON");
    assert_eq!(json!(pids), json!([bundle.state()["pid"]]));
}

#[test]
fn the_terminal_of_a_detached_container_goes_to_the_console_socket() {
    require_root!("the_terminal_of_a_detached_container_goes_to_the_console_socket");
    let bundle = Bundle::new(&["sh", "-c", "tty; sleep 1000"]).set("/process/terminal", json!(true));
    let path = bundle.scratch().join("console");
    let listener = wharf_sys::socket::listen(wharf_sys::socket::Kind::Stream, &path, 1).expect("listen");
    let arguments = ["run", "-d", "--console-socket", path.to_str().expect("path"), &bundle.id];
    assert_eq!(bundle.runw(&arguments).code, Some(0));
    let connection = wharf_sys::socket::accept(listener.as_fd()).expect("accept");
    let mut name = [0u8; 64];
    let (_, descriptors) = wharf_sys::socket::receive(connection.as_fd(), &mut name).expect("receive");
    // A terminal gives what is there: on a slow machine that may be less than the line.
    let (mut text, mut length) = ([0u8; 64], 0);
    while !text[..length].ends_with(b"\n") {
        let read = wharf_sys::fs::read(descriptors[0].as_fd(), &mut text[length..]).expect("read the terminal");
        assert!(read > 0, "the terminal ended");
        length += read;
    }
    assert_eq!(&text[..length], b"/dev/pts/0\r\n");
}

#[test]
fn a_terminal_without_a_way_to_hand_it_over_is_refused() {
    require_root!("a_terminal_without_a_way_to_hand_it_over_is_refused");
    let bundle = Bundle::new(&["true"]).set("/process/terminal", json!(true));
    let outcome = bundle.runw(&["create", &bundle.id]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("console socket"), "{outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn everything_is_killed_with_all_where_the_pid_namespace_is_the_hosts() {
    require_root!("everything_is_killed_with_all_where_the_pid_namespace_is_the_hosts");
    let mut bundle = Bundle::script("sleep 1000 & sleep 1000");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    bundle.start();
    let pid = bundle.state()["pid"].as_i64().expect("pid") as i32;
    let init = wharf_sys::pidfd::open(pid).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", "--all", &bundle.id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn a_program_that_cannot_be_executed_fails_the_start() {
    require_root!("a_program_that_cannot_be_executed_fails_the_start");
    let bundle = Bundle::new(&["/tmp/script"]);
    fs::write(bundle.rootfs().join("tmp/script"), "#!/no/such/interpreter\n").expect("write");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(bundle.rootfs().join("tmp/script"), mode).expect("chmod");
    assert_eq!(bundle.runw(&["create", &bundle.id]).code, Some(0));
    let outcome = bundle.runw(&["start", &bundle.id]);
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("exec /tmp/script: no such file"), "{outcome:?}");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn events_show_statistics_and_end_with_the_container() {
    require_root!("events_show_statistics_and_end_with_the_container");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let once = bundle.runw(&["events", "--stats", &bundle.id]);
    assert!(once.stdout.starts_with(&format!("{{\"type\":\"stats\",\"id\":\"{}\",", bundle.id)), "{once:?}");
    let event: Value = serde_json::from_str(&once.stdout).expect("an event is JSON");
    assert_eq!(event["data"]["pids"]["current"], 1, "{event}");
    assert!(event["data"]["memory"]["usage"]["usage"].as_u64() > Some(0), "{event}");
    let mut following = bundle
        .raw_command(&["events", "--interval", "50ms", &bundle.id])
        .stdout(Stdio::piped())
        .spawn()
        .expect("events");
    let mut lines = BufReader::new(following.stdout.take().expect("a pipe")).lines();
    for _ in 0..2 {
        lines.next().expect("it ended before the container").expect("read");
    }
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    assert!(following.wait().expect("wait").success());
    assert_eq!(bundle.runw(&["events", &bundle.id]).code, Some(1));
}

#[test]
fn exec_joins_the_groups_it_is_told_to() {
    require_root!("exec_joins_the_groups_it_is_told_to");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let exec = |cgroup: &str| bundle.runw(&["exec", "--cgroup", cgroup, &bundle.id, "cat", "/proc/self/cgroup"]);
    assert!(exec("..").stderr.contains("bad sub cgroup path"));
    assert!(exec("nowhere").stderr.contains("no such file or directory"));
    assert!(exec("dream:/").stderr.contains("unknown controller \"dream\""));
    assert_eq!(exec("/").code, Some(0));
    if !std::path::Path::new("/sys/fs/cgroup/pids").exists() {
        println!("SKIP exec_joins_the_groups_it_is_told_to, second half: needs cgroup v1");
        return;
    }
    let below = cgroup_file(&bundle.id, "pids", "", "").join("below");
    fs::create_dir(&below).expect("mkdir");
    let joined = exec("pids:below");
    let at = |name: &str| joined.stdout.lines().find(|line| line.contains(name)).unwrap_or_default().to_string();
    assert!(at(":pids:").ends_with("/below"), "{joined:?}");
    assert!(!at(":memory:").ends_with("/below"), "{joined:?}");
}

#[test]
fn a_created_container_holds_nothing_of_its_callers() {
    require_root!("a_created_container_holds_nothing_of_its_callers");
    let bundle = Bundle::new(&["true"]);
    let mut command = std::process::Command::new("sh");
    let create = bundle.command(&["create", &bundle.id]);
    command.args(["-c", "exec 9<held; exec \"$@\"", "sh"]).arg(create.get_program()).args(create.get_args());
    command.current_dir(bundle.path()).stdout(std::process::Stdio::null()).stdin(std::process::Stdio::null());
    fs::write(bundle.path().join("held"), "").expect("write");
    assert!(command.status().expect("create").success());
    let pid = bundle.state()["pid"].to_string();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).expect("descriptors").flatten() {
        let target = fs::read_link(entry.path()).expect("descriptor");
        assert!(!target.ends_with("held"), "{:?} is open", target);
    }
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
}

#[test]
fn a_named_root_that_is_missing_is_an_error() {
    let bundle = std::process::Command::new(support::program()).args(["--root", "/no/such/root", "list"]).output();
    assert_eq!(support::outcome(bundle.expect("list")).code, Some(1));
}

#[test]
fn a_created_container_ends_by_a_signal() {
    require_root!("a_created_container_ends_by_a_signal");
    let bundle = Bundle::new(&["true"]);
    let created = bundle.command(&["create", &bundle.id]).stdout(std::process::Stdio::null()).status();
    assert!(created.expect("create").success());
    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    assert_eq!(bundle.runw(&["kill", &bundle.id, "TERM"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_eq!(bundle.runw(&["delete", &bundle.id]).code, Some(0));
    bundle.assert_nothing_left();
}

#[test]
fn exec_has_the_containers_personality() {
    require_root!("exec_has_the_containers_personality");
    let bundle = Bundle::new(&["sleep", "1000"]).set("/linux/personality", json!({"domain": "LINUX32"}));
    bundle.start();
    let exec = bundle.runw(&["exec", &bundle.id, "busybox", "uname", "-m"]);
    assert_eq!(exec.stdout, "i686\n", "{exec:?}");
}

#[test]
fn a_failing_poststop_hook_is_a_warning() {
    require_root!("a_failing_poststop_hook_is_a_warning");
    let bundle =
        Bundle::new(&["sleep", "1000"]).set("/hooks", serde_json::json!({"poststop": [{"path": "/bin/false"}]}));
    bundle.start();
    let deleted = bundle.runw(&["delete", "-f", &bundle.id]);
    assert_eq!(deleted.code, Some(0), "{deleted:?}");
    assert!(deleted.stderr.contains("poststop hook #0"), "{deleted:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_reader_that_leaves_early_is_no_error() {
    let script = format!("{{ {} features; echo code $? >&2; }} | head -n 1", env!("CARGO_BIN_EXE_runw"));
    let output = std::process::Command::new("sh").args(["-c", &script]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "code 0\n");
}
