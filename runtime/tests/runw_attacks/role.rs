//! The hostile process: this very program, run inside of a container with `ATTACK` in its environment.

use crate::support::Bundle;
use serde_json::{Value, json};
use std::fs::{self, File};
use std::io::Write;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

/// Where the hostile process lies in a container.
const PROGRAM: &str = "/attacker";
/// Made by the test once the attacks are to end.
const STOP: &str = "/tmp/stop";
/// What has been seen and reached, written at the end.
const REPORT: &str = "/tmp/report";

/// A bundle whose program attacks in the way named until [`end`].
pub(crate) fn bundle(attack: &str) -> Bundle {
    let mut bundle = Bundle::new(&[PROGRAM, "--exact", "role::the_hostile_process", "--nocapture"]);
    let program = std::env::current_exe().expect("own path");
    bundle.change("/mounts/-", json!({"destination": PROGRAM, "source": program, "options": ["bind", "ro"]}));
    bundle.change("/process/env/-", json!(format!("ATTACK={attack}")));
    bundle.change("/root/readonly", json!(false));
    bundle
}

/// Gives the process every capability of its user namespace that does not let it mount.
pub(crate) fn with_capabilities(mut bundle: Bundle) -> Bundle {
    let names = ["CAP_KILL", "CAP_SYS_PTRACE", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_SETUID", "CAP_FOWNER"];
    for set in ["bounding", "effective", "permitted"] {
        bundle.change(&format!("/process/capabilities/{set}"), json!(names));
    }
    bundle
}

/// Lets the hostile process end, and returns what it has to say.
pub(crate) fn end(bundle: &Bundle) -> Value {
    let init = wharf_sys::pidfd::open(bundle.state()["pid"].as_i64().expect("pid") as i32).expect("pidfd");
    File::create(bundle.rootfs().join(&STOP[1..])).expect("make file");
    let ended = wharf_sys::pidfd::poll_exit(std::os::fd::AsFd::as_fd(&init), 30_000).expect("poll");
    assert!(ended, "the hostile process does not end");
    let report = fs::read_to_string(bundle.rootfs().join(&REPORT[1..])).expect("a report");
    serde_json::from_str(&report).expect("a report")
}

/// Not a test of its own: what the others run in their containers.
#[test]
fn the_hostile_process() {
    let Ok(attack) = std::env::var("ATTACK") else { return };
    let mut report = Report::default();
    let mut held = Vec::new();
    while !Path::new(STOP).exists() {
        for pid in others() {
            match attack.as_str() {
                "pry" => pry(pid, &mut report, &mut held),
                "stop" => stop(pid, &mut report),
                other => panic!("no such attack: {other}"),
            }
        }
    }
    let report = json!({"seen": report.seen, "held": report.held, "reached": report.reached});
    fs::write(REPORT, report.to_string()).expect("write report");
}

#[derive(Default)]
struct Report {
    /// How often the runtime's child was there to be attacked.
    seen: u32,
    /// Binaries that are not the container's and could be opened for reading.
    held: u32,
    /// What should not have been possible.
    reached: Vec<String>,
}

/// The processes of the container but the first, which is this one.
fn others() -> Vec<i32> {
    let entries = fs::read_dir("/proc").expect("read /proc").flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|pid| *pid != 1).collect()
}

/// Goes for the memory, the descriptors and the binary of whatever appears; what can be opened is held, and written to
/// as soon as nothing executes it any more (CVE-2019-5736).
fn pry(pid: i32, report: &mut Report, held: &mut Vec<OwnedFd>) {
    let open = |file: &str| {
        let path = std::ffi::CString::new(format!("/proc/{pid}/{file}")).expect("a path");
        wharf_sys::fs::open_at(None, &path, wharf_sys::fs::O_RDONLY, 0, 0)
    };
    let is_the_containers = |file: &OwnedFd| link(file).ends_with("busybox");
    if let Ok(binary) = open("exe")
        && held.len() < 200
        && !is_the_containers(&binary)
    {
        held.push(binary);
        report.held += 1;
    }
    for binary in held.iter() {
        if let Ok(mut file) = File::options().write(true).open(format!("/proc/self/fd/{}", binary.as_raw_fd())) {
            let _ = file.write_all(b"#!/owned");
            report.reached.push(format!("wrote to {}", link(binary)));
        }
    }
    // The runtime's child, until it has become the program that was asked for.
    if comm(pid) != "runw\n" {
        return;
    }
    report.seen += 1;
    for file in ["mem", "maps", "environ", "fd/0", "root/", "cwd/", "exe"] {
        if open(file).is_ok() && comm(pid) == "runw\n" {
            report.reached.push(format!("opened {file} of the runtime"));
        }
    }
}

fn link(file: &OwnedFd) -> String {
    let path = fs::read_link(format!("/proc/self/fd/{}", file.as_raw_fd()));
    path.map_or_else(|error| error.to_string(), |path| path.to_string_lossy().into_owned())
}

fn comm(pid: i32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default()
}

fn stop(pid: i32, report: &mut Report) {
    const SIGSTOP: i32 = 19;
    report.seen += u32::from(wharf_sys::process::kill(pid, SIGSTOP).is_ok());
}
