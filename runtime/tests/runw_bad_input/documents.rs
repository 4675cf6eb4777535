//! Documents that are none: `config.json`, and `process.json` of `exec`.

use crate::support::{self, Bundle};
use crate::{assert_refused, problem, require_root};
use serde_json::{Value, json};
use std::fs;

#[test]
fn missing_fields_are_named() {
    require_root!("missing_fields_are_named");
    for (pointer, words) in [
        ("/process/args", &["process.args", "missing"]),
        ("/process/cwd", &["process", "missing field \"cwd\""]),
        ("/process", &["process", "missing"]),
        ("/root", &["root", "missing"]),
        ("/root/path", &["root.path", "is empty"]),
        ("/ociVersion", &["ociVersion", "allowed"]),
    ] {
        let bundle = Bundle::new(&["true"]).remove(pointer);
        assert_refused(&bundle, &bundle.run(), words);
    }
}

#[test]
fn a_configuration_that_is_no_json_is_called_so() {
    require_root!("a_configuration_that_is_no_json_is_called_so");
    let bundle = Bundle::new(&["true"]);
    let file = bundle.path().join("config.json");
    let run = || support::outcome(bundle.raw_command(&["run", &bundle.id]).output().expect("run"));
    for text in [&b""[..], b"hello", b"{", b"{} trailing", b"\xff\xfe{}", b"\0\0\0", b"[1e999]"] {
        fs::write(&file, text).expect("write");
        assert_refused(&bundle, &run(), &["config.json: not JSON"]);
    }
    for text in ["5", "\"x\"", "null", "[[[[[]]]]]"] {
        fs::write(&file, text).expect("write");
        assert_refused(&bundle, &run(), &["config.json: "]);
    }
    fs::remove_file(&file).expect("remove");
    assert_refused(&bundle, &run(), &["config.json", "ENOENT"]);
}

#[test]
fn a_bundle_that_is_not_there_is_named() {
    require_root!("a_bundle_that_is_not_there_is_named");
    let bundle = Bundle::new(&["true"]);
    for (path, cause) in [("/no/such/bundle", "ENOENT"), ("/dev/null", "ENOTDIR"), ("/proc/self/fd/999", "ENOENT")] {
        assert_refused(&bundle, &bundle.runw(&["run", "-b", path, &bundle.id]), &[path, cause]);
    }
}

#[test]
fn a_wrong_process_document_is_named_and_the_container_runs_on() {
    require_root!("a_wrong_process_document_is_named_and_the_container_runs_on");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let file = bundle.scratch().join("process.json");
    let good = json!({"user": {"uid": 0, "gid": 0}, "cwd": "/", "args": ["/bin/true"]});
    let table: &[(&str, Value, &[&str])] = &[
        ("args", json!([]), &["process.args", "missing or empty"]),
        ("args", json!("x"), &["process.json: args", "invalid type"]),
        ("args", json!(["/no/such"]), &["process.args[0]", "/no/such"]),
        ("args", json!(["x\0"]), &["process.args[0]", "NUL"]),
        ("cwd", json!("tmp"), &["process.cwd", "absolute"]),
        ("cwd", json!("/no/such"), &["process.cwd", "/no/such", "ENOENT"]),
        ("cwd", json!(5), &["process.json: cwd", "invalid type"]),
        ("env", json!(["A"]), &["process.env[0]", "NAME=value"]),
        ("user", json!({"uid": -1}), &["process.json: user.uid", "invalid value"]),
        ("user", json!({"uid": u32::MAX}), &["process.user.uid", "4294967294"]),
        ("user", json!("root"), &["process.json: user", "invalid type"]),
        ("rlimits", json!([{"type": "RLIMIT_CPU", "soft": 2, "hard": 1}]), &["process.rlimits[0].soft"]),
        ("rlimits", json!([{"type": "X", "soft": 2, "hard": 2}]), &["process.json: rlimits[0].type", "RLIMIT_CPU"]),
        ("oomScoreAdj", json!(-1001), &["process.oomScoreAdj", "-1000 to 1000"]),
        ("ioPriority", json!({"class": "IOPRIO_CLASS_BE", "priority": 8}), &["process.ioPriority.priority", "0 to 7"]),
        ("scheduler", json!({"policy": "SCHED_OTHER", "nice": 20}), &["process.scheduler.nice", "-20 to 19"]),
        ("execCPUAffinity", json!({"initial": "0-"}), &["process.json: execCPUAffinity", "format: 0-"]),
        ("execCPUAffinity", json!({"final": "8000"}), &["process.execCPUAffinity", "cpu affinity", "EINVAL"]),
        ("capabilities", json!({"bounding": 5}), &["process.json: capabilities.bounding", "invalid type"]),
        ("consoleSize", json!({"height": 1, "width": 65536}), &["process.consoleSize", "65535"]),
    ];
    for (field, value, words) in table {
        let mut process = good.clone();
        process[field] = value.clone();
        fs::write(&file, process.to_string()).expect("write");
        let mut outcome = bundle.runw(&["exec", "-p", file.to_str().expect("path"), &bundle.id]);
        // runc's code for an exec that did not come about.
        assert_eq!(outcome.code, Some(255), "{field}: {outcome:?}");
        outcome.code = Some(1);
        assert_eq!(problem(&outcome, words), None, "{field} = {value}");
    }
    for (text, words) in
        [("", "not JSON"), ("[]", "process.json: "), ("{\"process\": {}, \"cwd\": \"/\"}", "process.args")]
    {
        fs::write(&file, text).expect("write");
        let outcome = bundle.runw(&["exec", "-p", file.to_str().expect("path"), &bundle.id]);
        assert!(outcome.code == Some(255) && outcome.stderr.contains(words), "{text:?}: {outcome:?}");
    }
    let processes = bundle.runw(&["ps", "-f", "json", &bundle.id]).stdout;
    assert_eq!(serde_json::from_str::<Vec<i64>>(&processes).map(|list| list.len()).expect("list"), 1, "{processes}");
}

#[test]
fn a_wrong_option_of_exec_is_named() {
    require_root!("a_wrong_option_of_exec_is_named");
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    let table: &[(&[&str], &str)] = &[
        (&["-u", "1000foo"], "--user: \"1000foo\" is not a number"),
        (&["-u", "root"], "--user: \"root\" is not a number"),
        (&["-u=-1"], "--user: \"-1\" is not a number"),
        (&["-u", "+5"], "--user: \"+5\" is not a number"),
        (&["-u", "4294967296"], "--user: \"4294967296\" is not a number"),
        (&["-u", "4294967295"], "process.user.uid"),
        (&["-u", "5:4294967295"], "process.user.gid"),
        (&["-u", "5:wheel"], "--user: \"wheel\" is not a number"),
        (&["-u", ""], "--user: \"\" is not a number"),
        (&["--cap", "CAP_NOSUCH"], "--cap: \"CAP_NOSUCH\" is not a capability"),
        (&["-e", "A"], "process.env"),
        (&["--cwd", "tmp"], "process.cwd"),
        (&["--cgroup", "../.."], "bad sub cgroup path"),
        // Descriptors of runw itself are not handed on in the place of those that the caller does not have.
        (&["--preserve-fds", "1"], "--preserve-fds: descriptor 3 is not open"),
        (&["--preserve-fds", "60000"], "--preserve-fds: descriptor 3 is not open"),
    ];
    for (options, words) in table {
        let arguments = [&["exec"], *options, &[&bundle.id, "true"]].concat();
        let outcome = bundle.runw(&arguments);
        assert!(matches!(outcome.code, Some(1 | 255)), "{options:?}: {outcome:?}");
        assert!(outcome.stderr.contains(words), "{options:?}: {outcome:?}");
    }
}
