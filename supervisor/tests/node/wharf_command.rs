//! The `wharf` command as a person uses it on a node that runs.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use crate::terminal;
use crate::testnode::{self, IMAGE, TestNode};
use wharf_sys::terminal::Size;

/// A command line with what it must not outlive.
fn wharf(node: &TestNode, arguments: &[&str]) -> Command {
    let mut command = Command::new("timeout");
    command
        .args(["--kill-after", "5", "60"])
        .arg(env!("CARGO_BIN_EXE_wharf"))
        .arg("--state")
        .arg(node.path("run"))
        .args(arguments);
    command.stdin(Stdio::null());
    command
}

struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

fn finished(output: Output) -> Ran {
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

fn run(node: &TestNode, arguments: &[&str]) -> Ran {
    finished(wharf(node, arguments).output().unwrap())
}

fn run_with_input(node: &TestNode, arguments: &[&str], input: &[u8]) -> Ran {
    let mut command = wharf(node, arguments);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    finished(output)
}

/// What a command prints that must succeed.
fn output(node: &TestNode, arguments: &[&str]) -> String {
    let ran = run(node, arguments);
    assert_eq!(ran.code, 0, "wharf {arguments:?}: {}{}", ran.stdout, ran.stderr);
    ran.stdout
}

/// One line that says what is wrong, and the code.
fn refused(node: &TestNode, arguments: &[&str], code: i32, says: &str) {
    let ran = run(node, arguments);
    assert_eq!(ran.code, code, "wharf {arguments:?}: {}{}", ran.stdout, ran.stderr);
    let one_line = ran.stderr.starts_with("wharf: ") && ran.stderr.lines().count() == 1;
    assert!(one_line && ran.stderr.contains(says), "wharf {arguments:?}: {:?}", ran.stderr);
}

async fn node(test: &str) -> Option<TestNode> {
    let node = testnode::start(test).await?;
    let socket = node.path("run/api.sock");
    testnode::wait_for("api.sock", Duration::from_secs(20), || {
        std::os::unix::net::UnixStream::connect(&socket).is_ok()
    });
    Some(node)
}

/// Every pod is gone, and with it everything it had; then the daemon goes.
fn nothing_is_left(mut node: TestNode) {
    assert_eq!(output(&node, &["ps", "--all", "--quiet"]), "");
    assert_eq!(output(&node, &["get", "pods", "--output", "name"]), "");
    for folder in ["data/logs", "data/pods", "data/containers"] {
        let entries: Vec<_> = std::fs::read_dir(node.path(folder)).into_iter().flatten().flatten().collect();
        assert!(entries.is_empty(), "{entries:?}");
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn run_gives_back_streams_and_exit_codes() {
    let Some(node) = node("run").await else { return };
    let script = "echo out; echo err >&2; printf tail; exit 7";
    let ran = run(&node, &["run", "--rm", IMAGE, "sh", "-c", script]);
    assert_eq!((ran.code, ran.stdout.as_str(), ran.stderr.as_str()), (7, "out\ntail", "err\n"));

    let big: Vec<u8> = (0..3_000_000u32).map(|n| if n % 61 == 60 { b'\n' } else { b'a' + (n % 26) as u8 }).collect();
    let ran = run_with_input(&node, &["run", "--rm", "-i", IMAGE, "cat"], &big);
    assert!(
        ran.code == 0 && ran.stdout.as_bytes() == big,
        "{} of {} bytes: {}",
        ran.stdout.len(),
        big.len(),
        ran.stderr
    );

    // A terminal: what was written before the client attached is there, and the size is the client's, once it has come.
    let script = "echo first; printf name?; read name; echo =$name; until busybox stty size 2>&-; do :; done; exit 4";
    let line = wharf(&node, &["run", "--rm", "-it", IMAGE, "sh", "-c", script]);
    let (mut child, mut screen) = terminal::spawn(&line, Size { rows: 33, columns: 77 });
    // Byte by byte: what follows the question belongs to the next reader.
    let mut text = String::new();
    while !text.ends_with('?') {
        let mut byte = [0];
        screen.read_exact(&mut byte).unwrap();
        text.push(byte[0].into());
    }
    screen.write_all(b"me\n").unwrap();
    text += &terminal::shown(&screen);
    assert!(text.contains("first\r\nname?") && text.contains("=me\r\n") && text.contains("33 77"), "{text:?}");
    assert_eq!(child.wait().unwrap().code(), Some(4), "{text:?}");

    for (program, code) in [("nosuchprogram", 127), ("/etc/passwd", 126)] {
        refused(&node, &["run", "--rm", IMAGE, program], code, program);
    }
    nothing_is_left(node);
}

#[tokio::test]
async fn flags_reach_the_container() {
    let Some(node) = node("flags").await else { return };
    let shared = node.path("shared");
    let volume = format!("{}:/shared", shared.display());
    let line = [
        "run",
        "--rm",
        "--name",
        "flags",
        "-e",
        "A=$(B) $$",
        "-v",
        &volume,
        "-v",
        "/etc/hosts:/h:ro",
        "-u",
        "web",
        "-w",
        "/tmp",
        "--hostname",
        "harbour",
        "-m",
        "64m",
        "--cpus",
        "0.5",
        "--cap-drop",
        "all",
        "--read-only",
        "--entrypoint",
        "/bin/sh",
        IMAGE,
        "-c",
        "id; hostname; busybox pwd; echo \"$A\"; echo x 2>&1 > /h; echo x 2>&1 > /root/x; busybox ls -d /shared; busybox grep CapEff /proc/self/status",
    ];
    let lines = output(&node, &line);
    let lines: Vec<&str> = lines.lines().collect();
    assert_eq!(lines[0], "uid=1000(web) gid=1000(web) groups=12(mail),1000(web)");
    assert_eq!(lines[1..4], ["harbour", "/tmp", "$(B) $$"]);
    assert!(lines[4..6].iter().all(|line| line.ends_with("Read-only file system")), "{lines:?}");
    assert_eq!(lines[6..], ["/shared", "CapEff:\t0000000000000000"]);
    assert!(shared.is_dir());
    let network = |flags: &[&str]| {
        output(&node, &[&["run", "--rm"], flags, &[IMAGE, "busybox", "readlink", "/proc/self/ns/net"]].concat())
            .into_bytes()
    };
    let nodes = node.inside(&["readlink", "/proc/self/ns/net"]).stdout;
    assert_eq!(network(&["--network", "host"]), nodes);
    assert_ne!(network(&[]), nodes);
    nothing_is_left(node);
}

#[tokio::test]
async fn detached_containers_are_listed_stopped_and_removed() {
    let Some(node) = node("detached").await else { return };
    let server = [
        "sh",
        "-c",
        "trap 'exit 5' TERM; mkdir /tmp/w; echo page > /tmp/w/index.html; httpd -f -p 80 -h /tmp/w & wait",
    ];
    let line = [&["run", "-d", "--name", "web", "-p", "8080:80", IMAGE][..], &server].concat();
    assert_eq!(output(&node, &line), "web\n");
    refused(&node, &line, 125, "in use");
    refused(&node, &["run", "-d", "--name", "other", "-p", "8080:80", IMAGE, "sleep", "9"], 125, "8080");
    testnode::wait_for("the server", Duration::from_secs(10), || {
        let page = node.inside(&["busybox", "wget", "-q", "-O", "-", "http://127.0.0.1:8080/"]);
        page.stdout == b"page\n"
    });
    let list = output(&node, &["ps"]);
    assert!(list.contains("Up ") && list.contains("0.0.0.0:8080->80/tcp") && list.contains(" web\n"), "{list}");
    let id = output(&node, &["ps", "--quiet"]);

    refused(&node, &["rm", "web"], 1, "is running");
    assert_eq!(output(&node, &["stop", id.trim()]), id);
    assert_eq!(output(&node, &["ps", "--quiet"]), "");
    assert!(output(&node, &["ps", "--all"]).contains("Exited (5)"));
    refused(&node, &["kill", "web"], 1, "not running");
    assert_eq!(output(&node, &["rm", "web"]), "web\n");
    refused(&node, &["rm", "web"], 1, "no such container");

    output(&node, &["run", "-d", "--name", "again", "--restart", "always", IMAGE, "sleep", "1000"]);
    let stopped = run(&node, &["stop", "-t", "0", "again"]);
    assert!(stopped.code == 0 && stopped.stderr.contains("starts it again"), "{}", stopped.stderr);
    assert_eq!(output(&node, &["rm", "--force", "again"]), "again\n");
    nothing_is_left(node);
}

#[tokio::test]
async fn a_signal_ends_the_container_gracefully() {
    let Some(node) = node("signal").await else { return };
    let line = [
        "run",
        "--name",
        "job",
        IMAGE,
        "sh",
        "-c",
        "trap 'echo asked; exit 9' TERM; echo up; while :; do sleep 0.1; done",
    ];
    let mut command = Command::new(env!("CARGO_BIN_EXE_wharf"));
    command.arg("--state").arg(node.path("run")).args(line).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    stdout.read_line(&mut text).unwrap();
    assert_eq!(text, "up\n");
    rustix::process::kill_process(rustix::process::Pid::from_child(&child), rustix::process::Signal::INT).unwrap();
    std::io::Read::read_to_string(&mut stdout, &mut text).unwrap();
    assert_eq!((child.wait().unwrap().code(), text.as_str()), (Some(9), "up\nasked\n"));
    assert!(output(&node, &["ps", "-a"]).contains("Exited (9)"));
    output(&node, &["rm", "job"]);
    nothing_is_left(node);
}

#[tokio::test]
async fn images_are_loaded_tagged_and_removed() {
    let Some(node) = node("images").await else { return };
    let archive = node.path("web.tar");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/make-image.sh");
    let made =
        Command::new("sh").arg(script).arg(&archive).args(["wharf.test/web:1", "echo", "its own command"]).status();
    assert!(made.unwrap().success());
    let content = std::fs::read(&archive).unwrap();
    let loaded = run_with_input(&node, &["load", "--quiet"], &content);
    assert_eq!((loaded.code, loaded.stdout.as_str()), (0, "wharf.test/web:1\n"), "{}", loaded.stderr);
    assert_eq!(output(&node, &["run", "--rm", "wharf.test/web:1"]), "its own command\n");

    output(&node, &["tag", "wharf.test/web:1", "wharf.test/web:2"]);
    let list = output(&node, &["images"]);
    assert_eq!(list.lines().filter(|line| line.starts_with("wharf.test/web ")).count(), 2, "{list}");
    let document: serde_json::Value = serde_json::from_str(&output(&node, &["inspect", "wharf.test/web:2"])).unwrap();
    assert_eq!(document[0]["RepoTags"], serde_json::json!(["wharf.test/web:1", "wharf.test/web:2"]));

    output(&node, &["run", "-d", "--name", "user", "wharf.test/web:1", "sleep", "1000"]);
    assert!(output(&node, &["rmi", "wharf.test/web:2"]).starts_with("Untagged: "));
    refused(&node, &["rmi", "wharf.test/web:1"], 1, "in use");
    output(&node, &["rm", "--force", "user"]);
    let removed = output(&node, &["rmi", "wharf.test/web:1"]);
    assert!(removed.contains("Untagged: wharf.test/web:1\nDeleted: sha256:"), "{removed}");
    nothing_is_left(node);
}

/// A registry that answers everything with one status, or hangs up.
fn registry(status: Option<&'static str>) -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            while request.read_line(&mut line).is_ok_and(|length| length > 2) {
                line.clear();
            }
            if let Some(status) = status {
                let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            }
        }
    });
    address.to_string()
}

#[tokio::test]
async fn what_is_wrong_is_said_in_one_line() {
    let Some(mut node) = node("wrong").await else { return };
    for (status, says) in [
        (Some("401 Unauthorized"), "credentials"),
        (Some("404 Not Found"), "not found"),
        (Some("500 Internal Server Error"), "server error"),
        (None, "cut off"),
    ] {
        let image = format!("{}/some/image:1", registry(status));
        refused(&node, &["pull", &image], 1, says);
    }
    refused(&node, &["pull", "127.0.0.1:1/some/image:1"], 1, "cannot connect");
    refused(&node, &["run", "--rm", "127.0.0.1:1/some/image:1"], 125, "cannot connect");
    refused(&node, &["run", "--pull", "never", "nothing:1"], 125, "not in the store");
    for (arguments, says) in [
        (&["pull", "Not//One"][..], "reference"),
        (&["pull", "--platform", "linux", "a"], "platform"),
        (&["pull", "--creds", "secret", "a"], "USER:PASSWORD"),
        (&["load", "--input", "/nonexistent"], "No such file"),
        (&["load", "--input", "/etc/passwd"], "no tar archive"),
        (&["rmi", "nothing"], "not in the store"),
        (&["tag", "nothing", "a"], "not in the store"),
        (&["tag", IMAGE, "A:"], "tag"),
        (&["inspect", "nothing"], "not in the store"),
        (&["stop", "nothing"], "no such container"),
        (&["rm", "nothing"], "no such container"),
    ] {
        refused(&node, arguments, 1, says);
    }
    for (flags, says) in [
        (&["-m", "lots"][..], "--memory"),
        (&["--cpus", "0"], "--cpus"),
        (&["-p", "99999:1"], "--publish"),
        (&["-v", "name:/data"], "named volumes"),
        (&["-e", "=x"], "--env"),
        (&["-u", "nobody-here"], "no such name"),
        (&["--name", "Not_A_Name"], "metadata.name"),
        (&["-d", "--rm"], "--detach"),
        (&["-it"], "terminal"),
        (&["--restart", "always"], "--detach"),
        (&["--network", "host", "-p", "1:1"], "--publish"),
    ] {
        refused(&node, &[&["run"], flags, &[IMAGE, "true"]].concat(), 125, says);
    }
    assert_eq!(output(&node, &["ps", "--all", "--quiet"]), "");
    node.terminate_wharfd();
    for (arguments, code) in [(&["ps"][..], 1), (&["images"], 1), (&["run", IMAGE], 125), (&["stop", "a"], 1)] {
        refused(&node, arguments, code, "start `wharfd`");
    }
}
