//! Documents that want to exhaust or block their reader.

use crate::support::{self, Bundle, Outcome};
use crate::{assert_refused, require_root};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::time::{Duration, Instant};

/// Far above what any of these takes, far below what quadratic work on them would.
const PATIENCE: Duration = Duration::from_secs(20);

fn run_as_is(bundle: &Bundle) -> Outcome {
    let begun = Instant::now();
    let outcome = support::outcome(bundle.raw_command(&["run", &bundle.id]).output().expect("run"));
    assert!(begun.elapsed() < PATIENCE, "took {:?}: {outcome:?}", begun.elapsed());
    assert!(outcome.stderr.len() < 10_000, "{} bytes of error", outcome.stderr.len());
    outcome
}

#[test]
fn a_configuration_that_is_no_file_is_refused_at_once() {
    require_root!("a_configuration_that_is_no_file_is_refused_at_once");
    let bundle = Bundle::new(&["true"]);
    let file = bundle.path().join("config.json");
    let made: [(&dyn Fn(), &str); 7] = [
        (&|| assert!(Command::new("mkfifo").arg(&file).status().expect("mkfifo").success()), "not JSON"),
        (&|| fs::create_dir(&file).expect("mkdir"), "neither a file nor a pipe"),
        (&|| symlink("config.json", &file).expect("symlink"), "ELOOP"),
        (&|| symlink("/dev/zero", &file).expect("symlink"), "neither a file nor a pipe"),
        (&|| symlink("/dev/tty", &file).expect("symlink"), "neither a file nor a pipe"),
        (&|| symlink("/proc/self/mem", &file).expect("symlink"), "config.json"),
        (&|| symlink("nowhere", &file).expect("symlink"), "ENOENT"),
    ];
    for (make, words) in made {
        if file.is_dir() { fs::remove_dir(&file) } else { fs::remove_file(&file) }.expect("remove");
        make();
        assert_refused(&bundle, &run_as_is(&bundle), &["config.json", words]);
    }
}

#[test]
fn a_configuration_of_100_mb_is_refused_unread() {
    require_root!("a_configuration_of_100_mb_is_refused_unread");
    let bundle = Bundle::new(&["true"]);
    let path = bundle.path().join("config.json");
    // A hole: nothing of it is ever on the disk, but it would be in memory.
    File::create(&path).and_then(|file| file.set_len(100 << 20)).expect("make file");
    assert_refused(&bundle, &run_as_is(&bundle), &["config.json", "larger than 16777216 bytes"]);
    // A pipe has no length to look at.
    fs::remove_file(&path).expect("remove");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    std::thread::scope(|scope| {
        let writer = scope.spawn(|| {
            let mut pipe = File::options().write(true).open(&path).expect("open pipe");
            while pipe.write_all(&[b' '; 1 << 16]).is_ok() {}
        });
        // The reader must be there before it: it opens a pipe without waiting.
        let reader = File::options().read(true).write(true).open(&path).expect("open pipe");
        let outcome = run_as_is(&bundle);
        drop(reader);
        writer.join().expect("writer");
        assert_refused(&bundle, &outcome, &["config.json", "larger than 16777216 bytes"]);
    });
}

#[test]
fn nesting_without_end_is_refused() {
    require_root!("nesting_without_end_is_refused");
    let bundle = Bundle::new(&["true"]);
    let deep = 1_000_000;
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let inner = open.repeat(deep) + "1" + &close.repeat(deep);
        let texts = [inner.clone(), format!("{{\"annotations\": {inner}}}"), format!("{{\"unknown\": {inner}}}")];
        for text in texts {
            fs::write(bundle.path().join("config.json"), text).expect("write");
            assert_refused(&bundle, &run_as_is(&bundle), &["config.json"]);
        }
    }
}

/// As many entries as fit into a document, in every list that grows. Some are refused, by us or by the kernel, and
/// some run; none may take long or leave anything.
#[test]
fn a_million_entries_take_no_more_than_linear_time() {
    require_root!("a_million_entries_take_no_more_than_linear_time");
    let many = |make: &dyn Fn(usize) -> Value| Value::Array((0..100_000).map(make).collect());
    let cpus = vec!["0-8191"; 100_000].join(",");
    let table = [
        ("/process/env", many(&|n| json!(format!("VARIABLE_{n}=x"))), Some("argument list too long")),
        ("/process/env", many(&|_| json!("A=x")), None),
        ("/process/args", many(&|_| json!(format!("/bin/{}true", "./".repeat(50)))), Some("argument list too long")),
        ("/process/user/additionalGids", many(&|n| json!(n)), Some("process.user.additionalGids")),
        (
            "/process/rlimits",
            many(&|_| json!({"type": "RLIMIT_CPU", "soft": 1, "hard": 1})),
            Some("process.rlimits[1]"),
        ),
        ("/process/execCPUAffinity", json!({"initial": cpus}), Some("process.execCPUAffinity.initial")),
        ("/linux/memoryPolicy", json!({"mode": "MPOL_BIND", "nodes": cpus}), Some("linux.memoryPolicy.nodes")),
        ("/linux/maskedPaths", many(&|n| json!(format!("/no/such/{n}"))), None),
        ("/linux/readonlyPaths", many(&|_| json!("/no/such")), None),
        ("/linux/namespaces", many(&|_| json!({"type": "pid"})), Some("linux.namespaces[1]")),
        ("/annotations", (0..100_000).map(|n| (n.to_string(), json!(""))).collect(), None),
        ("/linux/uidMappings", many(&|n| json!({"containerID": n, "hostID": n, "size": 1})), Some("linux.uidMappings")),
    ];
    for (pointer, value, refused) in table {
        let bundle = Bundle::new(&["true"]).set(pointer, value);
        fs::write(bundle.path().join("config.json"), bundle.config.to_string()).expect("write");
        let outcome = run_as_is(&bundle);
        println!("{pointer}: {:?} {}", outcome.code, outcome.stderr.trim());
        match refused {
            Some(field) => assert_refused(&bundle, &outcome, &[field]),
            None => assert_eq!(outcome.code, Some(0), "{pointer}: {outcome:?}"),
        }
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_message_quotes_no_control_characters_and_no_megabytes() {
    require_root!("a_message_quotes_no_control_characters_and_no_megabytes");
    for (pointer, value) in [
        ("/process/args", json!(["/x\u{1b}]0;owned\u{7}\r\nsecond line"])),
        ("/process/args", json!([format!("/{}", "x".repeat(10 << 20))])),
        ("/process/cwd", json!(format!("x{}", "y".repeat(10 << 20)))),
        ("/process/env", json!(["\u{1b}[2J\n\nx"])),
        ("/mounts/-", json!({"destination": "/m\u{1b}c\n", "type": "tmpfs", "options": ["\n\n\u{1b}c"]})),
        ("/process/capabilities/bounding", json!(["CAP_\n\u{1b}c"])),
        ("/linux/sysctl", json!({"a\n\u{1b}c": "1"})),
    ] {
        let bundle = Bundle::new(&["false"]).set(pointer, value);
        let outcome = bundle.run();
        assert!(outcome.stderr.len() < 20_000 && outcome.code == Some(1), "{pointer}: {outcome:?}");
        let line = outcome.stderr.trim_end_matches('\n');
        assert!(!line.chars().any(char::is_control), "{pointer}: {outcome:?}");
        bundle.assert_nothing_left();
    }
}
