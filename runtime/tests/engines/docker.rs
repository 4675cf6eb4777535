use crate::{BOUNDED, Daemon, Engine, lines, lines_on_terminal, missing, output, support, text};
use serde_json::json;
use std::fs;
use std::process::Command;

fn docker(engine: &Engine, arguments: &[&str]) -> Command {
    // Ends also where an event does not come.
    let mut command = Command::new(BOUNDED[0]);
    command
        .args(&BOUNDED[1..])
        .args(["docker", "-H", &format!("unix://{}", engine.path("sock").display())])
        .args(arguments);
    command
}

#[test]
fn docker_runs_containers_with_runw() {
    if missing("docker_runs_containers_with_runw", &["dockerd", "docker", "containerd", "unshare", "tar"]) {
        return;
    }
    let engine = Engine::new("docker");
    let config = engine.path("daemon.json");
    let runtimes = json!({"runtimes": {"runw": {"path": support::program()}}, "default-runtime": "runw"});
    fs::write(&config, runtimes.to_string()).expect("write");
    let [root, exec, pid] = ["root", "exec", "pid"].map(|name| engine.path(name));
    let socket = format!("unix://{}", engine.path("sock").display());
    let daemon = Daemon::start(
        &engine,
        &[
            "dockerd",
            "--config-file",
            text(&config),
            "--data-root",
            text(&root),
            "--exec-root",
            text(&exec),
            "--pidfile",
            text(&pid),
            "--host",
            &socket,
            "--storage-driver",
            "vfs",
            "--cgroup-parent",
            &format!("/{}", engine.mark),
            "--bridge=none",
            "--iptables=false",
            "--ip-masq=false",
        ],
    );
    let run = |arguments: &[&str]| output(docker(&engine, arguments));
    run(&["import", text(&engine.archive()), "box"]);
    assert_eq!(run(&["run", "--rm", "--network", "none", "box", "echo", "hello"]), "hello");
    let program = ["box", "sh", "-c", "echo begun; exec sleep 1000"];
    run(&[&["run", "-d", "--name", "one", "--network", "none", "-m", "64m"], &program[..]].concat());
    assert_eq!(run(&["exec", "one", "echo", "inside"]), "inside");
    let shown = lines_on_terminal(&docker(&engine, &["exec", "-it", "one", "tty"]));
    assert!(shown.iter().any(|line| line == "/dev/pts/0"), "{shown:?}");
    assert_eq!(run(&["logs", "one"]), "begun");
    let inspect = |what: &str, name: &str| run(&["inspect", "-f", what, name]);
    run(&["pause", "one"]);
    assert_eq!(inspect("{{.State.Status}}", "one"), "paused");
    run(&["unpause", "one"]);
    assert_eq!(inspect("{{.State.Status}}", "one"), "running");
    let stats = || run(&["stats", "--no-stream", "--format", "{{.PIDs}} {{.MemUsage}}", "one"]);
    assert!(stats().starts_with("1 ") && stats().ends_with("/ 64MiB"), "{}", stats());
    run(&["update", "--memory", "32m", "--memory-swap", "64m", "one"]);
    assert!(stats().ends_with("/ 32MiB"), "{}", stats());
    run(&["stop", "-t", "1", "one"]);
    assert_eq!(inspect("{{.State.Status}} {{.State.ExitCode}}", "one"), "exited 137");
    run(&["rm", "one"]);

    let died = docker(&engine, &["events", "--filter", "event=die", "--format", "{{.Actor.Attributes.exitCode}}"]);
    let events = lines(died, 3, || {
        let options = ["run", "-d", "--name", "two", "--network", "none", "--restart", "on-failure:2"];
        run(&[&options[..], &["box", "sh", "-c", "echo try; exit 3"]].concat());
    });
    assert_eq!(events, ["3", "3", "3"]);
    assert_eq!(run(&["wait", "two"]), "3");
    assert_eq!(inspect("{{.RestartCount}}", "two"), "2");
    assert_eq!(run(&["logs", "two"]), "try\ntry\ntry");
    run(&["rm", "two"]);
    daemon.stop();
    engine.assert_nothing_left();
}
