//! `checkpoint` and `restore`, where criu can dump on this kernel.

#[path = "../support/mod.rs"]
#[macro_use]
mod support;

/// Leaves a test that cannot run here, saying so.
macro_rules! require_criu {
    ($name:literal) => {
        require_root!($name);
        if let Some(reason) = obstacle() {
            println!("SKIP {}: {reason}", $name);
            return;
        }
    };
}

mod going_on;
mod locks;
mod memory;
mod network;
mod refusals;
mod streams;

use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use support::{Bundle, Outcome, cgroup_file};

const BUSYBOX: &str = "/bin/busybox";

/// Why criu cannot dump here, if it cannot: found out by dumping something small, without runw.
fn obstacle() -> &'static Option<String> {
    static OBSTACLE: OnceLock<Option<String>> = OnceLock::new();
    OBSTACLE.get_or_init(|| {
        let directory = tempfile::tempdir().expect("temp dir");
        let null = Stdio::null;
        let mut victim = Command::new(BUSYBOX);
        victim.args(["setsid", BUSYBOX, "sleep", "1000"]).stdin(null()).stdout(null()).stderr(null());
        let mut victim = victim.spawn().expect("busybox");
        let pid = victim.id().to_string();
        let dump = Command::new("criu")
            .args(["dump", "--shell-job", "--leave-running", "-o", "probe.log", "-t", &pid, "-D"])
            .arg(directory.path())
            .stdin(null())
            .output();
        victim.kill().expect("kill");
        victim.wait().expect("wait");
        match dump {
            Err(error) => Some(format!("needs criu: {error}")),
            Ok(output) if output.status.success() => None,
            Ok(_) => {
                let log = fs::read_to_string(directory.path().join("probe.log")).unwrap_or_default();
                let mut errors = log.lines().filter(|line| line.contains("Error") && !line.ends_with("FAILED."));
                Some(format!("criu cannot dump here: {}", errors.next_back().unwrap_or("no reason given")))
            }
        }
    })
}

/// A container that counts in a file of a directory of the host.
struct Counter {
    bundle: Bundle,
    data: PathBuf,
}

impl Counter {
    fn new() -> Self {
        Self::running("i=0; while :; do i=$((i+1)); echo $i > /data/new; mv /data/new /data/count; sleep 0.1; done")
    }

    fn running(script: &str) -> Self {
        let bundle = Bundle::script(script);
        let data = bundle.scratch().join("data");
        fs::create_dir(&data).expect("mkdir");
        std::os::unix::fs::symlink("busybox", bundle.rootfs().join("bin/mv")).expect("link");
        let mount = json!({"destination": "/data", "source": data, "options": ["rbind"]});
        Self { bundle: bundle.set("/mounts/-", mount), data }
    }

    /// The count, once there is one above `least`.
    fn above(&self, least: u64) -> u64 {
        loop {
            let text = fs::read_to_string(self.data.join("count")).unwrap_or_default();
            match text.trim().parse() {
                Ok(count) if count > least => return count,
                _ => assert_eq!(self.bundle.state()["status"], "running"),
            }
        }
    }
}

/// Starts a container that has nothing open outside of itself.
fn start(bundle: &Bundle) {
    let mut command = bundle.command(&["run", "-d", &bundle.id]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("run");
    assert!(status.success());
}

fn checkpoint(bundle: &Bundle, options: &[&str]) -> Outcome {
    let mut arguments = vec!["checkpoint", "--image-path", "images", "--work-path", "work"];
    arguments.extend(options);
    arguments.push(&bundle.id);
    bundle.runw(&arguments)
}

fn restore(bundle: &Bundle, options: &[&str]) -> Outcome {
    let mut arguments = vec!["restore", "-d", "--image-path", "images", "--work-path", "work"];
    arguments.extend(options);
    arguments.push(&bundle.id);
    bundle.runw(&arguments)
}

/// Expects success, and shows what criu has said if there is none.
fn ok(bundle: &Bundle, outcome: &Outcome) {
    let log = |name: &str| fs::read_to_string(bundle.path().join("work").join(name)).unwrap_or_default();
    let errors = |name: &str| {
        let log = log(name);
        let lines: Vec<_> = log.lines().filter(|line| line.contains("Error")).map(str::to_string).collect();
        lines.join("\n")
    };
    assert_eq!(outcome.code, Some(0), "{outcome:?}\n{}\n{}", errors("dump.log"), errors("restore.log"));
}

fn assert_one_line(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(1), "{outcome:?}");
    assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {outcome:?}");
    }
}
