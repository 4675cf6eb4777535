//! `runw` as an ordinary user of the machine, without any control group of his. The user, his passwd line and his
//! subordinate ids exist in a mount namespace of the test only.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::os::fd::AsFd;
use std::os::unix::fs::{PermissionsExt, lchown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Bundle, Outcome, outcome};

/// No user or subordinate range of a machine is here.
const USER: u32 = 54_321;
const SUBORDINATE: u32 = 1_700_000;

fn own(path: &Path) {
    lchown(path, Some(USER), Some(USER)).expect("chown");
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).expect("read").flatten().for_each(|entry| own(&entry.path()));
    }
}

/// A bundle of `spec --rootless` that is the user's, and a runtime he can reach.
struct Rootless {
    bundle: Bundle,
    runtime: PathBuf,
}

impl Rootless {
    fn new(arguments: &[&str]) -> Self {
        let mut bundle = Bundle::new(arguments);
        let runtime = bundle.scratch().join("runw");
        support::copy_program(support::program(), &runtime);
        fs::set_permissions(bundle.scratch(), fs::Permissions::from_mode(0o755)).expect("chmod");
        own(bundle.scratch());
        fs::remove_file(bundle.path().join("config.json")).expect("remove");
        let this = Self { bundle, runtime };
        let made = this.command(&["spec", "--rootless"]).output().expect("spec");
        assert!(made.status.success(), "{made:?}");
        let config = fs::read(this.bundle.path().join("config.json")).expect("read");
        let mut config: Value = serde_json::from_slice(&config).expect("parse");
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(arguments);
        let Self { bundle: made, runtime } = this;
        bundle = made;
        bundle.config = config;
        Self { bundle, runtime }
    }

    /// As the user, in a mount namespace with an `/etc` that knows him.
    fn command(&self, arguments: &[&str]) -> Command {
        let name = "wharf-test-user";
        let script = format!(
            "set -e; mount -t tmpfs none /mnt; mkdir /mnt/upper /mnt/work
            mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work none /etc
            echo '{name}:x:{USER}:{USER}::/:/bin/sh' >> /etc/passwd; echo '{name}:x:{USER}:' >> /etc/group
            echo '{name}:{SUBORDINATE}:65536' > /etc/subuid; cp /etc/subuid /etc/subgid
            exec setpriv --reuid {USER} --regid {USER} --clear-groups --inh-caps=-all \"$@\""
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "slave", "sh", "-c", &script, "sh"]);
        command.arg(&self.runtime).arg("--root").arg(self.bundle.root()).args(arguments);
        command.current_dir(self.bundle.path()).env_remove("XDG_RUNTIME_DIR").stdin(Stdio::null());
        command
    }

    fn runw(&self, arguments: &[&str]) -> Outcome {
        fs::write(self.bundle.path().join("config.json"), self.bundle.config.to_string()).expect("write");
        // Through files: a container in the background would hold a pipe open.
        let file = |name| self.bundle.scratch().join(name);
        let create = |name| fs::File::create(file(name)).expect("make file");
        let mut command = self.command(arguments);
        let status = command.stdout(create("out")).stderr(create("err")).status().expect("unshare");
        let read = |name| fs::read(file(name)).expect("read");
        outcome(std::process::Output { status, stdout: read("out"), stderr: read("err") })
    }

    fn run(&self) -> Outcome {
        self.runw(&["run", &self.bundle.id])
    }

    fn set(mut self, pointer: &str, value: Value) -> Self {
        self.bundle.change(pointer, value);
        self
    }

    /// Root in the container is the user, and the rest are his subordinate ids: by newuidmap(1) and newgidmap(1).
    fn with_subordinate_ids(self) -> Self {
        let map = json!([
            {"containerID": 0, "hostID": USER, "size": 1},
            {"containerID": 1, "hostID": SUBORDINATE, "size": 65_535},
        ]);
        self.set("/linux/uidMappings", map.clone()).set("/linux/gidMappings", map)
    }
}

fn skip(test: &str) -> bool {
    if support::skip(test) {
        return true;
    }
    let missing = ["newuidmap", "newgidmap"].iter().find(|program| !Path::new("/usr/bin").join(program).exists());
    if let Some(program) = missing {
        println!("SKIP {test}: needs {program} of the package uidmap");
    }
    missing.is_some()
}

const SHOW: &str = "id; while read line; do echo $line; done < /proc/self/uid_map; cat /proc/self/setgroups";

#[test]
fn an_ordinary_user_runs_a_container_with_his_own_id() {
    if skip("an_ordinary_user_runs_a_container_with_his_own_id") {
        return;
    }
    let rootless = Rootless::new(&["sh", "-c", SHOW]);
    for flag in ["--rootless=auto", "--rootless=true"] {
        let outcome = rootless.runw(&[flag, "run", &rootless.bundle.id]);
        let expected = format!("uid=0 gid=0\n0 {USER} 1\ndeny\n");
        assert_eq!((outcome.code, outcome.stdout), (Some(0), expected), "{flag}: {}", outcome.stderr);
        rootless.bundle.assert_nothing_left();
    }
    // Without leave to do without them, control groups that cannot be made are an error.
    let outcome = rootless.runw(&["--rootless=false", "run", &rootless.bundle.id]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("create cgroup"), "{outcome:?}");
    rootless.bundle.assert_nothing_left();
}

#[test]
fn an_ordinary_user_has_his_subordinate_ids() {
    if skip("an_ordinary_user_has_his_subordinate_ids") {
        return;
    }
    let rootless = Rootless::new(&["sh", "-c", SHOW]).with_subordinate_ids();
    let outcome = rootless.run();
    let expected = format!("uid=0 gid=0\n0 {USER} 1\n1 {SUBORDINATE} 65535\nallow\n");
    assert_eq!((outcome.code, outcome.stdout), (Some(0), expected), "{}", outcome.stderr);
    let rootless = rootless.set("/process/user", json!({"uid": 33, "gid": 34, "additionalGids": [5, 6]}));
    let outcome = rootless.run();
    assert!(outcome.stdout.starts_with("uid=33 gid=34 groups=5,6\n"), "{outcome:?}");
    // What was not given to him newuidmap refuses, and says so in one line.
    let map = json!([{"containerID": 0, "hostID": 0, "size": 5}]);
    let outcome = rootless.set("/linux/uidMappings", map).run();
    assert_eq!((outcome.code, outcome.stderr.lines().count()), (Some(1), 1), "{outcome:?}");
    assert!(outcome.stderr.contains("newuidmap"), "{outcome:?}");
}

#[test]
fn an_ordinary_user_leads_a_container_through_its_life() {
    if skip("an_ordinary_user_leads_a_container_through_its_life") {
        return;
    }
    let rootless = Rootless::new(&["sleep", "1000"]).with_subordinate_ids();
    let id = rootless.bundle.id.as_str();
    let expect = |arguments: &[&str], words: &str| {
        let outcome = rootless.runw(arguments);
        assert!(outcome.code == Some(0) && outcome.stdout.contains(words), "{arguments:?}: {outcome:?}");
    };
    expect(&["create", id], "");
    expect(&["state", id], "\"created\"");
    // The init that waits is closed even to its owner, in the container too; its namespaces are given by itself.
    expect(&["exec", id, "id"], "uid=0 gid=0");
    expect(&["exec", "-t", id, "tty"], "/dev/pts/0");
    let looked = rootless.runw(&["exec", id, "readlink", "/proc/1/exe"]);
    assert!(looked.code == Some(1) && looked.stdout.is_empty(), "{looked:?}");
    expect(&["state", id], "\"created\"");
    expect(&["start", id], "");
    let descriptors = rootless.runw(&["exec", id, "ls", "/proc/1/fd"]);
    assert_eq!(descriptors.stdout.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2"], "{descriptors:?}");
    expect(&["exec", id, "id"], "uid=0 gid=0");
    expect(&["exec", "-u", "1000:1000", "-g", "7", id, "id"], "uid=1000 gid=1000 groups=7");
    expect(&["exec", "-t", id, "tty"], "/dev/pts/0");
    expect(&["list"], id);
    let state: Value = serde_json::from_str(&rootless.runw(&["state", id]).stdout).expect("state");
    let init = wharf_sys::pidfd::open(state["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    expect(&["kill", id, "KILL"], "");
    assert!(wharf_sys::pidfd::poll_exit(std::os::fd::AsFd::as_fd(&init), 10_000).expect("poll"));
    expect(&["delete", id], "");
    rootless.bundle.assert_nothing_left();
}

#[test]
fn a_user_without_a_control_group_sees_the_one_he_is_in() {
    if skip("a_user_without_a_control_group_sees_the_one_he_is_in") {
        return;
    }
    let script = "while read -r device point kind options rest; do
        case $point in /sys/fs/cgroup*) echo $point $kind ${options%%,*};; esac; done < /proc/mounts";
    let rootless = Rootless::new(&["sh", "-c", script]);
    let outcome = rootless.run();
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    // What is mounted last at a place is what is seen there.
    let mut seen = std::collections::BTreeMap::new();
    for line in outcome.stdout.lines() {
        let [point, kind, mode] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line:?}") };
        seen.insert(point.to_string(), (kind.to_string(), mode.to_string()));
    }
    assert!(seen.values().any(|(kind, _)| kind.starts_with("cgroup")), "{outcome:?}");
    assert!(seen.values().all(|(_, mode)| mode == "ro"), "{seen:?}");
    rootless.bundle.assert_nothing_left();
}

#[test]
fn a_user_is_warned_of_a_container_that_cannot_be_ended_as_a_whole() {
    if skip("a_user_is_warned_of_a_container_that_cannot_be_ended_as_a_whole") {
        return;
    }
    let mut rootless = Rootless::new(&["true"]);
    let warned = |rootless: &Rootless| {
        let outcome = rootless.run();
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        outcome.stderr.contains("strongly discouraged")
    };
    assert!(!warned(&rootless));
    let namespaces = rootless.bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "pid");
    // Only whoever owns the pid namespace may mount its processes anew.
    let mounts = rootless.bundle.config["mounts"].as_array_mut().expect("mounts");
    for mount in mounts.iter_mut().filter(|mount| mount["type"] == "proc") {
        *mount = json!({"destination": "/proc", "type": "none", "source": "/proc", "options": ["rbind"]});
    }
    assert!(warned(&rootless));
    rootless.bundle.assert_nothing_left();
}

#[test]
fn a_limit_an_ordinary_user_cannot_set_is_an_error() {
    if skip("a_limit_an_ordinary_user_cannot_set_is_an_error") {
        return;
    }
    let rootless = Rootless::new(&["true"]).set("/linux/resources", json!({"memory": {"limit": 100 << 20}}));
    let outcome = rootless.run();
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("linux.resources.memory"), "{outcome:?}");
    rootless.bundle.assert_nothing_left();
}

/// The binary may well be the user's own, and with it the container root's (CVE-2019-5736): where no mount can be made
/// the runtime runs from a copy in memory.
#[test]
fn an_ordinary_users_runtime_runs_from_a_sealed_copy() {
    if skip("an_ordinary_users_runtime_runs_from_a_sealed_copy") {
        return;
    }
    let rootless = Rootless::new(&["true"]);
    let seen = rootless.bundle.scratch().join("seen");
    let script = format!("exec >{} 2>&1; readlink /proc/$PPID/exe; echo x > /proc/$PPID/exe", seen.display());
    let hook = json!({"createRuntime": [{"path": "/bin/sh", "args": ["sh", "-c", script]}]});
    let rootless = rootless.set("/hooks", hook);
    rootless.run();
    let seen = fs::read_to_string(seen).unwrap_or_default();
    assert!(seen.starts_with("/memfd:runw") && seen.contains("cannot create"), "{seen}");
}

/// There is no group by which the others could be found.
#[test]
fn a_container_without_groups_is_killed_by_its_init_and_its_processes_are_not_said_to_be_none() {
    const NAME: &str = "a_container_without_groups_is_killed_by_its_init_and_its_processes_are_not_said_to_be_none";
    if skip(NAME) {
        return;
    }
    let bundle = Rootless::new(&["sleep", "1000"]);
    let id = bundle.bundle.id.as_str();
    let started = bundle.runw(&["run", "-d", id]);
    assert_eq!(started.code, Some(0), "{started:?}");
    let state: Value = serde_json::from_str(&bundle.runw(&["state", id]).stdout).expect("JSON");
    let init = wharf_sys::pidfd::open(state["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    let shown = bundle.runw(&["ps", id]);
    assert!(shown.code == Some(1) && shown.stderr.contains("no control group"), "{shown:?}");
    assert_eq!(bundle.runw(&["kill", "--all", id, "KILL"]).code, Some(0));
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 10_000).expect("poll"));
    assert_eq!(bundle.runw(&["kill", "--all", id, "KILL"]).code, Some(0), "nobody is left");
    assert_eq!(bundle.runw(&["delete", id]).code, Some(0));
}
