//! The systemd cgroup driver: on a machine with systemd, as root or as an ordinary user with a manager of its own.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Bundle, Outcome, wharf_is_root};

/// Leaves a test that cannot run here, saying so.
macro_rules! require_systemd {
    ($name:literal) => {
        if !Path::new("/run/systemd/system").exists() {
            println!("SKIP {}: needs systemd as process 1", $name);
            return;
        }
    };
}

/// A bundle in a scope of its own, in a nested slice.
fn bundle(args: &[&str]) -> Bundle {
    let bundle = Bundle::new(args);
    let path = format!("wharf-tests.slice:test:{}", bundle.id);
    bundle.set("/linux/cgroupsPath", json!(path))
}

fn unit(bundle: &Bundle) -> String {
    format!("test-{}.scope", bundle.id)
}

fn runw(bundle: &Bundle, args: &[&str]) -> Outcome {
    let mut all = vec!["--systemd-cgroup"];
    all.extend(args);
    bundle.runw(&all)
}

fn succeed(bundle: &Bundle, args: &[&str]) -> String {
    let outcome = runw(bundle, args);
    assert_eq!(outcome.code, Some(0), "{args:?}: {outcome:?}");
    outcome.stdout
}

/// For a container that lives on: it has no descriptor of the test's.
fn in_background(bundle: &Bundle, args: &[&str]) {
    let mut all = vec!["--systemd-cgroup"];
    all.extend(args);
    let status = bundle.command(&all).stdout(Stdio::null()).status().expect("run runw");
    assert!(status.success(), "{args:?}");
}

/// A property as `systemctl show` prints it.
fn property(bundle: &Bundle, name: &str) -> String {
    let mut command = Command::new("systemctl");
    command.args((!wharf_is_root()).then_some("--user")).args(["show", "--value", "-p", name, &unit(bundle)]);
    let output = command.output().expect("run systemctl");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_string()
}

/// The content of a file of the container's group: of a v1 controller, or on v2.
fn file(bundle: &Bundle, controller: &str, v1: &str, v2: &str) -> String {
    let pid = bundle.state()["pid"].to_string();
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the container's groups");
    let line = |wanted: &str| {
        let named = |line: &&str| line.split(':').nth(1).is_some_and(|list| list.split(',').any(|name| name == wanted));
        groups.lines().find(named).and_then(|line| line.splitn(3, ':').nth(2))
    };
    let (root, group, name) = match line(controller) {
        Some(group) => (PathBuf::from("/sys/fs/cgroup").join(controller), group, v1),
        None => (PathBuf::from("/sys/fs/cgroup"), line("").expect("the unified group"), v2),
    };
    assert!(group.ends_with(&format!("wharf.slice/wharf-tests.slice/{}", unit(bundle))), "{groups}");
    let path = root.join(group.trim_start_matches('/')).join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_string()
}

fn memory_limit(bundle: &Bundle) -> String {
    file(bundle, "memory", "memory.limit_in_bytes", "memory.max")
}

fn on_v2() -> bool {
    Path::new("/sys/fs/cgroup/cgroup.controllers").exists()
}

fn assert_no_unit_left(bundle: &Bundle) {
    assert_eq!(property(bundle, "LoadState"), "not-found");
    bundle.assert_nothing_left();
}

/// A running container with limits.
fn limited() -> Bundle {
    let resources = json!({
        "memory": {"limit": 33_554_432},
        "pids": {"limit": 20},
        "cpu": {"quota": 4201, "period": 10000},
    });
    let bundle = bundle(&["sleep", "1000"]).set("/linux/resources", resources);
    succeed(&bundle, &["run", "-d", &bundle.id]);
    bundle
}

#[test]
fn limits_are_known_to_systemd_and_stand_in_the_scopes_files() {
    require_systemd!("limits_are_known_to_systemd_and_stand_in_the_scopes_files");
    let bundle = limited();
    assert_eq!(property(&bundle, "ActiveState"), "active");
    assert_eq!(property(&bundle, "Slice"), "wharf-tests.slice");
    assert_eq!(property(&bundle, "Delegate"), "yes");
    assert_eq!(memory_limit(&bundle), "33554432");
    assert_eq!(property(&bundle, if on_v2() { "MemoryMax" } else { "MemoryLimit" }), "33554432");
    assert_eq!(file(&bundle, "pids", "pids.max", "pids.max"), "20");
    assert_eq!(property(&bundle, "TasksMax"), "20");
    // Whole percents of a processor: rounded up, and alike in both places.
    assert_eq!(property(&bundle, "CPUQuotaPerSecUSec"), "430ms");
    assert_eq!(file(&bundle, "cpu", "cpu.cfs_quota_us", "cpu.max").split(' ').next(), Some("4300"));
    succeed(&bundle, &["delete", "-f", &bundle.id]);
    assert_no_unit_left(&bundle);
}

#[test]
fn update_changes_the_unit_and_its_files() {
    require_systemd!("update_changes_the_unit_and_its_files");
    let bundle = limited();
    // Without --systemd-cgroup: the container knows its driver.
    let args = ["update", "--memory", "64M", "--pids-limit", "30", "--cpu-quota", "5000", &bundle.id];
    let outcome = bundle.runw(&args);
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    assert_eq!((memory_limit(&bundle).as_str(), property(&bundle, "TasksMax").as_str()), ("67108864", "30"));
    assert_eq!(property(&bundle, if on_v2() { "MemoryMax" } else { "MemoryLimit" }), "67108864");
    assert_eq!(file(&bundle, "pids", "pids.max", "pids.max"), "30");
    // The period is as before.
    assert_eq!(property(&bundle, "CPUQuotaPerSecUSec"), "500ms");
    assert_eq!(property(&bundle, "CPUQuotaPeriodUSec"), "10ms");
    succeed(&bundle, &["update", "--memory", "-1", "--pids-limit", "-1", &bundle.id]);
    assert_eq!(property(&bundle, "TasksMax"), "infinity");
    assert_eq!(file(&bundle, "pids", "pids.max", "pids.max"), "max");
    succeed(&bundle, &["delete", "-f", &bundle.id]);
    assert_no_unit_left(&bundle);
}

#[test]
fn a_paused_container_goes_on_and_a_new_process_joins_the_scope() {
    require_systemd!("a_paused_container_goes_on_and_a_new_process_joins_the_scope");
    let bundle = bundle(&["sleep", "1000"]);
    succeed(&bundle, &["run", "-d", &bundle.id]);
    succeed(&bundle, &["pause", &bundle.id]);
    assert_eq!(bundle.state()["status"], "paused");
    succeed(&bundle, &["resume", &bundle.id]);
    assert_eq!(bundle.state()["status"], "running");
    let own = succeed(&bundle, &["exec", &bundle.id, "cat", "/proc/self/cgroup"]);
    let init = succeed(&bundle, &["exec", &bundle.id, "cat", "/proc/1/cgroup"]);
    assert_eq!(own, init);
    succeed(&bundle, &["kill", &bundle.id, "KILL"]);
    succeed(&bundle, &["delete", "-f", &bundle.id]);
    assert_no_unit_left(&bundle);
}

#[test]
fn a_container_that_ends_by_itself_leaves_no_unit() {
    require_systemd!("a_container_that_ends_by_itself_leaves_no_unit");
    let bundle = bundle(&["sh", "-c", "exit 3"]);
    let outcome = runw(&bundle, &["run", &bundle.id]);
    assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(3), ""));
    assert_no_unit_left(&bundle);
}

#[test]
fn a_failed_create_leaves_no_unit() {
    require_systemd!("a_failed_create_leaves_no_unit");
    let failures: [(&str, Value, &str); 3] = [
        ("/process/args", json!(["no-such-program"]), "no-such-program"),
        ("/linux/resources", json!({"pids": {"limit": i64::MAX}}), "pids.max"),
        ("/hooks", json!({"createRuntime": [{"path": "/bin/false"}]}), "hook"),
    ];
    for (pointer, value, problem) in failures {
        let bundle = bundle(&["true"]).set(pointer, value);
        let outcome = runw(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(problem), "{outcome:?}");
        assert_no_unit_left(&bundle);
    }
}

#[test]
fn annotations_become_properties_or_are_refused() {
    require_systemd!("annotations_become_properties_or_are_refused");
    let bundle = bundle(&["sleep", "1000"]).set(
        "/annotations",
        json!({"org.systemd.property.TimeoutStopSec": "7", "org.systemd.property.CollectMode": "'inactive-or-failed'"}),
    );
    succeed(&bundle, &["run", "-d", &bundle.id]);
    assert_eq!(property(&bundle, "TimeoutStopUSec"), "7s");
    assert_eq!(property(&bundle, "CollectMode"), "inactive-or-failed");
    succeed(&bundle, &["delete", "-f", &bundle.id]);
    for (name, text, problem) in
        [("CollectMode", "never", "is not a value"), ("NoSuchThing", "true", "NoSuchThing"), ("A-B", "true", "letters")]
    {
        let key = format!("org.systemd.property.{name}");
        let bundle = self::bundle(&["true"]).set("/annotations", json!({key: text}));
        let outcome = runw(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains(problem) && outcome.stderr.lines().count() == 1, "{outcome:?}");
        assert_no_unit_left(&bundle);
    }
}

#[test]
fn a_unit_that_is_in_use_is_refused_and_left_alone() {
    require_systemd!("a_unit_that_is_in_use_is_refused_and_left_alone");
    let first = bundle(&["sleep", "1000"]);
    succeed(&first, &["run", "-d", &first.id]);
    let second = bundle(&["true"]).set("/linux/cgroupsPath", first.config["linux"]["cgroupsPath"].clone());
    let outcome = runw(&second, &["run", &second.id]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("container's cgroup is not empty"), "{outcome:?}");
    assert_eq!(first.state()["status"], "running");
    succeed(&first, &["delete", "-f", &first.id]);
    assert_no_unit_left(&first);
}

#[test]
fn a_path_in_another_form_is_refused() {
    require_root!("a_path_in_another_form_is_refused");
    for (path, expected) in [("/a/b", "slice:prefix:name"), ("a--b.slice:x:y", "a--b.slice")] {
        let bundle = Bundle::new(&["true"]).set("/linux/cgroupsPath", json!(path));
        let outcome = runw(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("linux.cgroupsPath") && outcome.stderr.contains(expected), "{outcome:?}");
    }
}

#[test]
fn without_systemd_one_line_says_so() {
    require_root!("without_systemd_one_line_says_so");
    if Path::new("/run/systemd/system").exists() {
        println!("SKIP without_systemd_one_line_says_so: needs a machine without systemd");
        return;
    }
    let bundle = bundle(&["true"]);
    let outcome = runw(&bundle, &["run", &bundle.id]);
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert!(outcome.stderr.contains("systemd does not run here"), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    bundle.assert_nothing_left();
}

#[test]
fn a_restored_container_has_a_scope_again() {
    require_systemd!("a_restored_container_has_a_scope_again");
    if !wharf_is_root() {
        println!("SKIP a_restored_container_has_a_scope_again: criu needs root");
        return;
    }
    let limits = json!({"memory": {"limit": 33_554_432}});
    let bundle = bundle(&["sleep", "1000"]).set("/linux/resources", limits);
    in_background(&bundle, &["run", "-d", &bundle.id]);
    let images = bundle.scratch().join("images");
    let images = images.to_str().expect("text");
    succeed(&bundle, &["checkpoint", "--image-path", images, &bundle.id]);
    assert_no_unit_left(&bundle);
    in_background(&bundle, &["restore", "-d", "--image-path", images, &bundle.id]);
    assert_eq!(property(&bundle, "ActiveState"), "active");
    assert_eq!(memory_limit(&bundle), "33554432");
    succeed(&bundle, &["delete", "-f", &bundle.id]);
    assert_no_unit_left(&bundle);
    // One that fails leaves no unit either.
    fs::remove_dir_all(images).expect("remove");
    fs::create_dir(images).expect("mkdir");
    fs::write(Path::new(images).join("descriptors.json"), "[]").expect("write");
    assert_eq!(runw(&bundle, &["restore", "-d", "--image-path", images, &bundle.id]).code, Some(1));
    assert_no_unit_left(&bundle);
}
