use crate::{BOUNDED, Engine, lines, lines_on_terminal, missing, output, support, text};
use std::path::Path;
use std::process::Command;

/// Limits that root has here even without CAP_SYS_RESOURCE.
const LIMITS: [&str; 4] = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000"];

fn podman(engine: &Engine, arguments: &[&str]) -> Command {
    // Ends also where an event does not come.
    let mut command = Command::new(BOUNDED[0]);
    command.args(&BOUNDED[1..]).args([
        "podman",
        "--cgroup-manager",
        "cgroupfs",
        "--events-backend",
        "file",
        "--storage-driver",
        "vfs",
    ]);
    for (option, name) in [("--root", "root"), ("--runroot", "runroot"), ("--tmpdir", "tmp")] {
        command.arg(option).arg(engine.path(name));
    }
    command.args(["--runtime", support::program()]).args(arguments);
    command
}

/// Ends what a test that failed half-way has left.
struct Cleanup<'a>(&'a Engine);

impl Drop for Cleanup<'_> {
    fn drop(&mut self) {
        let _ = podman(self.0, &["rm", "-a", "-f", "-t", "0"]).output();
    }
}

#[test]
fn podman_runs_containers_with_runw() {
    if missing("podman_runs_containers_with_runw", &["podman", "tar"]) {
        return;
    }
    let engine = Engine::new("podman");
    let _cleanup = Cleanup(&engine);
    let parent = format!("/{}", engine.mark);
    // podman puts its monitors here, and leaves it.
    let monitors = Path::new("/sys/fs/cgroup/pids/libpod_parent");
    let own_monitors = !monitors.exists();
    let run = |arguments: &[&str]| output(podman(&engine, arguments));
    let create = |kind: &[&str], arguments: &[&str]| {
        let network = ["--network", "none", "--cgroup-parent", &parent];
        run(&[kind, &network, &LIMITS, arguments].concat())
    };
    run(&["import", text(&engine.archive()), "box"]);
    assert_eq!(create(&["run", "--rm"], &["box", "echo", "hello"]), "hello");
    create(&["run", "-d", "--name", "one", "-m", "64m"], &["box", "sh", "-c", "echo begun; exec sleep 1000"]);
    assert_eq!(run(&["exec", "one", "echo", "inside"]), "inside");
    let shown = lines_on_terminal(&podman(&engine, &["exec", "-it", "one", "tty"]));
    assert!(shown.iter().any(|line| line == "/dev/pts/0"), "{shown:?}");
    assert_eq!(run(&["logs", "one"]), "begun");
    let status = || run(&["inspect", "-f", "{{.State.Status}}", "one"]);
    run(&["pause", "one"]);
    assert_eq!(status(), "paused");
    run(&["unpause", "one"]);
    assert_eq!(status(), "running");
    let processes = run(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "one"]);
    assert!(processes.starts_with("1 ") && processes.contains("67.11MB"), "{processes}");
    // As root of its own pid namespace the program does not listen to SIGTERM: it is killed after a second.
    run(&["stop", "-t", "1", "one"]);
    assert_eq!(status(), "exited");
    run(&["rm", "one"]);

    let died = podman(&engine, &["events", "--filter", "event=died", "--format", "{{.Name}} {{.ContainerExitCode}}"]);
    let events = lines(died, 3, || {
        create(&["run", "-d", "--name", "two", "--restart", "on-failure:2"], &["box", "sh", "-c", "echo try; exit 3"]);
    });
    assert_eq!(events.len(), 3, "it died so often: {events:?}");
    assert_eq!(run(&["wait", "two"]), "3");
    assert_eq!(run(&["logs", "two"]), "try\ntry\ntry");
    run(&["rm", "-f", "-t", "0", "two"]);
    run(&["rmi", "-a", "-f"]);
    if own_monitors {
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup").expect("cgroups").flatten() {
            let parent = hierarchy.path().join("libpod_parent");
            for monitor in std::fs::read_dir(&parent).into_iter().flatten().flatten() {
                let _ = std::fs::remove_dir(monitor.path());
            }
            let _ = std::fs::remove_dir(parent);
        }
    }
    engine.assert_nothing_left();
}
