//! Containers made and unmade, several at a time, with the whole default configuration: afterwards the machine is as
//! it was. `WHARF_CYCLES` says how many, by default few; `make soak` runs 2,000.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;
use support::Bundle;

const CYCLES: u32 = 100;
const AT_A_TIME: usize = 8;

/// What containers could leave behind. All names hold `mark`, but those of namespaces and descriptors.
#[derive(Debug, PartialEq, Eq)]
struct Traces {
    processes: BTreeSet<String>,
    mounts: BTreeSet<String>,
    cgroups: BTreeSet<String>,
    files: BTreeSet<String>,
    /// Namespaces that a process of this machine's is in, or that are held by a mount or descriptor of this process.
    namespaces: usize,
    descriptors: usize,
}

impl Traces {
    fn now(bundle: &Bundle) -> Self {
        let mark = bundle.id.as_str();
        let mounts = fs::read_to_string("/proc/self/mountinfo").expect("mountinfo");
        let scratch = bundle.scratch().to_string_lossy().into_owned();
        let (mut processes, mut namespaces) = (BTreeSet::new(), BTreeSet::new());
        for entry in fs::read_dir("/proc").expect("proc").flatten() {
            let command = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let command = String::from_utf8_lossy(&command).replace('\0', " ");
            let groups = fs::read_to_string(entry.path().join("cgroup")).unwrap_or_default();
            if !command.contains(mark) && !groups.contains(mark) {
                continue;
            }
            processes.insert(format!("{:?} {command}", entry.file_name()));
            let links = fs::read_dir(entry.path().join("ns")).into_iter().flatten().flatten();
            namespaces.extend(links.filter_map(|link| fs::read_link(link.path()).ok()));
        }
        let below = |root: &Path| {
            let entries = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
            entries.filter(|path| path.to_string_lossy().contains(mark)).map(|path| path.display().to_string())
        };
        let hierarchies = fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten().map(|entry| entry.path());
        Self {
            processes,
            mounts: mounts.lines().filter(|line| line.contains(&scratch)).map(str::to_string).collect(),
            cgroups: hierarchies
                .chain(["/sys/fs/cgroup".into()])
                .flat_map(|root| below(&root).collect::<Vec<_>>())
                .collect(),
            // The cache of compiled filters is there to stay.
            files: below(&bundle.root()).collect(),
            namespaces: namespaces.len(),
            descriptors: fs::read_dir("/proc/self/fd").expect("own descriptors").count(),
        }
    }
}

fn profile() -> Value {
    let names = ["keyctl", "add_key", "bpf", "mount", "reboot", "swapon", "kexec_load", "init_module"];
    json!({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": names, "action": "SCMP_ACT_ERRNO"}]})
}

fn cycle(bundle: &Bundle, number: u32) {
    let id = format!("{}-{number}", bundle.id);
    // Its own configuration, as each container has its own control group.
    let directory = bundle.scratch().join(&id);
    fs::create_dir(&directory).expect("mkdir");
    let mut config = bundle.config.clone();
    config["root"]["path"] = json!(bundle.rootfs());
    config["linux"]["cgroupsPath"] = json!(format!("/{id}"));
    fs::write(directory.join("config.json"), config.to_string()).expect("write");
    let runw = |arguments: &[&str]| {
        let log = directory.join("log");
        let mut command = Command::new(support::program());
        command.arg("--root").arg(bundle.root()).arg("--log").arg(&log).args(arguments).current_dir(&directory);
        let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status().expect("runw");
        let said = || fs::read_to_string(&log).unwrap_or_default();
        assert!(status.success(), "cycle {number}: {arguments:?}: {}", said());
    };
    let pid_file = directory.join("pid");
    runw(&["create", "--pid-file", pid_file.to_str().expect("path"), &id]);
    let pid: i32 = fs::read_to_string(&pid_file).expect("pid file").parse().expect("pid");
    let init = wharf_sys::pidfd::open(pid).expect("pidfd");
    runw(&["start", &id]);
    runw(&["kill", &id, "KILL"]);
    assert!(wharf_sys::pidfd::poll_exit(init.as_fd(), 30_000).expect("poll"), "cycle {number}: the init does not end");
    runw(&["delete", &id]);
    wharf_sys::pidfd::wait(init.as_fd()).expect("reap");
    fs::remove_dir_all(&directory).expect("remove");
}

#[test]
fn many_containers_leave_the_machine_as_it_was() {
    require_root!("many_containers_leave_the_machine_as_it_was");
    let cycles = std::env::var("WHARF_CYCLES").map_or(CYCLES, |text| text.parse().expect("WHARF_CYCLES is a number"));
    let bundle = Bundle::new(&["sleep", "1000"])
        .set("/linux/resources/memory", json!({"limit": 64 << 20}))
        .set("/linux/resources/pids", json!({"limit": 64}))
        .set("/linux/resources/cpu", json!({"shares": 512, "quota": 50_000, "period": 100_000}))
        .set("/linux/seccomp", profile());
    // The inits become children of this process when their creators have gone, and are reaped by it.
    wharf_sys::process::set_child_subreaper(true).expect("subreaper");
    let before = Traces::now(&bundle);
    let (next, begun) = (AtomicU32::new(0), Instant::now());
    std::thread::scope(|scope| {
        for _ in 0..AT_A_TIME {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= cycles {
                        break;
                    }
                    cycle(&bundle, number);
                }
            });
        }
    });
    println!("{cycles} containers in {:.1} s, {AT_A_TIME} at a time", begun.elapsed().as_secs_f64());
    assert_eq!(Traces::now(&bundle), before);
}
