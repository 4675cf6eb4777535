//! `exec` into a container that does what it can against it.

use crate::support::{self, Bundle};
use crate::{attempts, finish, promptly, require_root, role};
use serde_json::json;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};

/// Everything of the runtime's child is closed to the container, in the same user namespace and in one of its own.
#[test]
fn the_container_cannot_look_into_the_runtimes_child() {
    require_root!("the_container_cannot_look_into_the_runtimes_child");
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    for user_namespace in [false, true] {
        let mut bundle = role::bundle("pry");
        if user_namespace {
            // There it may trace what is its own; the runtime's child has not become that yet.
            bundle = role::with_capabilities(bundle);
            bundle.change("/linux/namespaces/-", json!({"type": "user"}));
            bundle.change("/linux/uidMappings", map.clone());
            bundle.change("/linux/gidMappings", map.clone());
        }
        // The longer the child is on its way, the more there is to see of it.
        File::create(bundle.rootfs().join("etc/passwd")).and_then(|file| file.set_len(1 << 20)).expect("make file");
        bundle.start();
        for _ in 0..attempts(30) {
            promptly(&bundle, &["exec", "-e", "HOME=", &bundle.id, "true"]);
        }
        let report = role::end(&bundle);
        assert!(report["seen"].as_u64() > Some(0), "the attack saw nothing to attack");
        assert_eq!(report["reached"], json!([]), "in a user namespace: {user_namespace}");
    }
}

/// A process that is stopped between joining the container and running its program would be waited for without end.
#[test]
fn a_container_that_stops_the_runtimes_child_does_not_hold_the_runtime_up() {
    require_root!("a_container_that_stops_the_runtimes_child_does_not_hold_the_runtime_up");
    const MOST: u32 = 400;
    let bundle = role::with_capabilities(role::bundle("stop"));
    File::create(bundle.rootfs().join("etc/passwd")).and_then(|file| file.set_len(1 << 20)).expect("make file");
    bundle.start();
    let stopped = (0..MOST).find(|_| {
        // Detached: a program that runs already may be stopped by its own container. Then it keeps what it was given: a
        // pipe would have no end.
        let said = bundle.scratch().join("said");
        let mut command = bundle.command(&["exec", "-d", "-e", "HOME=", &bundle.id, "true"]);
        let child = command.stdout(Stdio::null()).stderr(File::create(&said).expect("make file")).spawn();
        finish(child.expect("spawn"));
        fs::read_to_string(&said).expect("read").contains("was stopped by a signal")
    });
    role::end(&bundle);
    assert!(stopped.is_some(), "the attack did not hit in {MOST} attempts");
}

#[test]
fn a_hostile_passwd_neither_holds_exec_up_nor_leads_to_the_host() {
    require_root!("a_hostile_passwd_neither_holds_exec_up_nor_leads_to_the_host");
    let bundle = Bundle::new(&["sleep", "1000"]).set("/root/readonly", json!(false));
    let host = bundle.scratch().join("host");
    fs::write(&host, "root:x:0:0::/of/the/host:/bin/sh\n").expect("write");
    bundle.start();
    let passwd = bundle.rootfs().join("etc/passwd");
    let hostile: [(&str, &dyn Fn()); 10] = [
        ("pipe", &|| drop(Command::new("mkfifo").arg(&passwd).output().expect("mkfifo"))),
        ("a terabyte", &|| File::create(&passwd).and_then(|file| file.set_len(1 << 40)).expect("make file")),
        ("directory", &|| fs::create_dir(&passwd).expect("mkdir")),
        ("loop", &|| symlink("passwd", &passwd).expect("symlink")),
        ("out", &|| symlink("../../../host", &passwd).expect("symlink")),
        ("descriptor", &|| symlink("/proc/self/fd/3", &passwd).expect("symlink")),
        ("standard input", &|| symlink("/dev/stdin", &passwd).expect("symlink")),
        ("device", &|| symlink("/dev/zero", &passwd).expect("symlink")),
        ("terminal", &|| symlink("/dev/tty", &passwd).expect("symlink")),
        ("nonsense", &|| fs::write(&passwd, [b":0:\xff".repeat(5000), vec![0; 9]].concat()).expect("write")),
    ];
    for (kind, make) in hostile {
        make();
        let outcome = promptly(&bundle, &["exec", "-e", "HOME=", &bundle.id, "sh", "-c", "echo $HOME"]);
        assert_eq!((outcome.code, outcome.stdout.as_str()), (Some(0), "/\n"), "{kind}: {outcome:?}");
        if passwd.is_dir() { fs::remove_dir(&passwd) } else { fs::remove_file(&passwd) }.expect("remove");
    }
}

/// CVE-2022-29162: inheritable capabilities came back through files of the image.
#[test]
fn a_process_has_no_inheritable_capabilities_unless_they_are_asked_for() {
    require_root!("a_process_has_no_inheritable_capabilities_unless_they_are_asked_for");
    let show = "grep -E 'Cap(Inh|Amb)' /proc/self/status";
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000\n";
    let mut bundle = Bundle::script(&format!("{show}; sleep 1000"));
    for set in ["inheritable", "ambient"] {
        bundle.config["process"]["capabilities"].as_object_mut().expect("sets").remove(set);
    }
    bundle.start();
    for options in [&[][..], &["--cap", "CAP_NET_ADMIN"], &["-u", "1000"], &["--no-new-privs"]] {
        let outcome = bundle.runw(&[&["exec"], options, &[&bundle.id, "sh", "-c", show]].concat());
        assert_eq!(outcome.stdout, none, "{options:?}: {outcome:?}");
    }
    // What the caller itself can hand on must not be taken over either.
    let run = Bundle::script(show).remove("/process/capabilities");
    let runw = run.command(&["run", &run.id]);
    let mut strong = Command::new("setpriv");
    strong
        .args(["--inh-caps", "+chown,+net_admin", "--ambient-caps", "+chown,+net_admin"])
        .arg(runw.get_program())
        .args(runw.get_args());
    let outcome = support::outcome(strong.current_dir(run.path()).output().expect("setpriv"));
    assert_eq!(outcome.stdout, none, "{outcome:?}");
}

/// What the image and the container's configuration say must act in the container alone.
#[test]
fn the_containers_environment_reaches_neither_hooks_nor_helpers() {
    require_root!("the_containers_environment_reaches_neither_hooks_nor_helpers");
    let mut bundle = Bundle::new(&["true"]);
    let seen = bundle.scratch().join("seen");
    let evil = ["LD_PRELOAD=/evil.so", "BASH_ENV=/evil", "ENV=/evil", "GCONV_PATH=/evil", "LISTEN_FDS=3", "PATH=/evil"];
    bundle.change("/process/env", json!(evil.iter().chain(&["PATH=/bin"]).collect::<Vec<_>>()));
    let script = format!("env | grep -v ^PWD= >> {}; true", seen.display());
    let hook = json!([{"path": "/bin/sh", "args": ["sh", "-c", script]}]);
    let kinds = ["prestart", "createRuntime", "createContainer", "poststart", "poststop"];
    bundle.change("/hooks", kinds.iter().map(|kind| (kind.to_string(), hook.clone())).collect());
    let mut command = bundle.command(&["run", &bundle.id]);
    let outcome = support::outcome(
        command
            .envs(evil.map(|e| e.split_once('=').expect("a variable")))
            .env_remove("LISTEN_FDS")
            .output()
            .expect("run"),
    );
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!(fs::read_to_string(seen).expect("the hooks ran"), "");
}
