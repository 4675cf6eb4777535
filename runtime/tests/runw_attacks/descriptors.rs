//! Descriptors of the host that a caller leaks into the runtime (CVE-2024-21626).

use crate::support::{self, Bundle};
use crate::{require_root, with_leaked_descriptor};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

/// A directory of the host with a secret and a program that would show that it was reached.
fn host_directory(bundle: &Bundle) -> std::path::PathBuf {
    let directory = bundle.scratch().join("host");
    fs::create_dir(&directory).expect("mkdir");
    fs::write(directory.join("secret"), "the host's secret").expect("write");
    fs::copy("/bin/busybox", directory.join("busybox")).expect("copy");
    directory
}

const NUMBERS: std::ops::Range<u32> = 3..16;

#[test]
fn a_leaked_descriptor_is_no_working_directory() {
    require_root!("a_leaked_descriptor_is_no_working_directory");
    let mut bundle = Bundle::script("cat secret; cat ../host/secret; pwd; readlink /proc/self/cwd");
    let host = host_directory(&bundle);
    symlink("/proc/self/fd/9", bundle.rootfs().join("linked")).expect("symlink");
    let cwds = NUMBERS.map(|number| format!("/proc/self/fd/{number}")).chain(["/linked".into(), "/linked/.".into()]);
    for cwd in cwds {
        bundle.change("/process/cwd", json!(cwd));
        let outcome = with_leaked_descriptor(&bundle, &host, &["run", &bundle.id]);
        assert!(!outcome.stdout.contains("secret"), "{cwd}: {outcome:?}");
        assert!(outcome.code == Some(1) && outcome.stderr.contains("process.cwd"), "{cwd}: {outcome:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_leaked_descriptor_is_no_working_directory_of_exec() {
    require_root!("a_leaked_descriptor_is_no_working_directory_of_exec");
    let bundle = Bundle::new(&["sleep", "1000"]);
    let host = host_directory(&bundle);
    symlink("/proc/self/fd/9", bundle.rootfs().join("linked")).expect("symlink");
    bundle.start();
    for cwd in NUMBERS.map(|number| format!("/proc/self/fd/{number}")).chain(["/linked".into()]) {
        let arguments = ["exec", "--cwd", &cwd, &bundle.id, "sh", "-c", "cat secret; readlink /proc/self/cwd"];
        let outcome = with_leaked_descriptor(&bundle, &host, &arguments);
        assert!(!outcome.stdout.contains("secret"), "{cwd}: {outcome:?}");
        assert!(outcome.code == Some(255) && outcome.stderr.contains("process.cwd"), "{cwd}: {outcome:?}");
    }
}

/// A program of the host, executed in the container, gives the container a link to write to.
#[test]
fn a_program_is_not_reached_through_a_leaked_descriptor() {
    require_root!("a_program_is_not_reached_through_a_leaked_descriptor");
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    let host = host_directory(&bundle);
    symlink("/proc/self/fd/9/busybox", bundle.rootfs().join("bin/tool")).expect("symlink");
    let programs = NUMBERS.map(|number| format!("/proc/self/fd/{number}/busybox"));
    let programs: Vec<String> = programs.chain(["tool".into(), "/bin/tool".into()]).collect();
    bundle.start();
    for program in &programs {
        let outcome = with_leaked_descriptor(&bundle, &host, &["exec", &bundle.id, program, "echo", "reached"]);
        assert!(!outcome.stdout.contains("reached"), "{program}: {outcome:?}");
        assert_eq!(outcome.code, Some(255), "{program}: {outcome:?}");
    }
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    for program in &programs {
        bundle.change("/process/args", json!([program, "echo", "reached"]));
        let outcome = with_leaked_descriptor(&bundle, &host, &["run", &bundle.id]);
        assert!(!outcome.stdout.contains("reached"), "{program}: {outcome:?}");
        assert_eq!(outcome.code, Some(1), "{program}: {outcome:?}");
    }
}

#[test]
fn a_program_sees_no_descriptor_but_its_own() {
    require_root!("a_program_sees_no_descriptor_but_its_own");
    let list = "for fd in /proc/self/fd/*; do readlink $fd; done; ls -l /proc/1/fd";
    let bundle = Bundle::script(list);
    let host = host_directory(&bundle);
    let shown = |outcome: support::Outcome| {
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(!outcome.stdout.contains(&*Path::new("/host").to_string_lossy()), "{outcome:?}");
        for word in ["bundle", "anon_inode", "memfd", "socket:", "/host"] {
            assert!(!outcome.stdout.contains(word), "{word}: {outcome:?}");
        }
    };
    shown(with_leaked_descriptor(&bundle, &host, &["run", &bundle.id]));
    let bundle = Bundle::new(&["sleep", "1000"]);
    bundle.start();
    shown(with_leaked_descriptor(&bundle, &host, &["exec", &bundle.id, "sh", "-c", "ls -l /proc/self/fd/"]));
}
