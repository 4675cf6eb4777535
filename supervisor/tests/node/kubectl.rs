//! The stock kubectl on the API door's streams, over each of its transports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::json;

use crate::replicas::{apply, wait_ready, wharf};
use crate::testnode::{self, IMAGE, TestNode};

const LIMIT: Duration = Duration::from_secs(30);

/// kubectl knows no unix sockets: what comes to the address goes to the API's socket.
pub fn proxy(socket: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(server) = UnixStream::connect(&socket) else { return };
            let (mut from_client, mut to_client) = (client.try_clone().unwrap(), client);
            let (mut from_server, mut to_server) = (server.try_clone().unwrap(), server);
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_client, &mut to_server);
                let _ = to_server.shutdown(Shutdown::Write);
            });
            std::thread::spawn(move || {
                let _ = std::io::copy(&mut from_server, &mut to_client);
                let _ = to_client.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

pub struct Kubectl {
    pub program: PathBuf,
    pub address: SocketAddr,
    /// Instead of SPDY.
    pub websockets: bool,
    pub home: PathBuf,
}

impl Kubectl {
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command.args(["--server", &format!("http://{}", self.address)]).args(arguments);
        command.env("HOME", &self.home).env_remove("KUBECONFIG");
        for switch in ["KUBECTL_REMOTE_COMMAND_WEBSOCKETS", "KUBECTL_PORT_FORWARD_WEBSOCKETS"] {
            command.env(switch, self.websockets.to_string());
        }
        command
    }

    pub fn run(&self, arguments: &[&str], input: &[u8]) -> Output {
        let mut child = self.start(arguments);
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        let writing = std::thread::spawn(move || stdin.write_all(&input));
        let output = child.wait_with_output().unwrap();
        let _ = writing.join().unwrap();
        output
    }

    pub fn start(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// What is shown on a terminal where `arguments` are typed after kubectl's name.
    pub fn on_a_terminal(&self, arguments: &str) -> String {
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &self.line(arguments), "/dev/null"]);
        self.output_at_home(command)
    }

    /// What `edit` says where `script` is the editor.
    pub fn edit(&self, script: &Path, what: &str) -> String {
        let mut command = Command::new("sh");
        command.args(["-c", &self.line(&format!("edit {what}"))]).env("KUBE_EDITOR", script).env("TMPDIR", &self.home);
        self.output_at_home(command)
    }

    fn line(&self, arguments: &str) -> String {
        format!("{} --server http://{} {arguments}", self.program.display(), self.address)
    }

    fn output_at_home(&self, mut command: Command) -> String {
        command.env("HOME", &self.home).env_remove("KUBECONFIG").stdin(Stdio::null());
        let output = command.output().unwrap();
        text(&[output.stdout, output.stderr].concat())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn exec_and_cp(kubectl: &Kubectl, folder: &Path) {
    let script = "cat; echo err >&2; exit 7";
    let sent = vec![b'x'; 300_000];
    let output = kubectl.run(&["exec", "-i", "web", "--", "sh", "-c", script], &sent);
    assert!(output.stdout == sent, "{} bytes: {}", output.stdout.len(), text(&output.stderr));
    assert_eq!(output.status.code(), Some(7), "{}", text(&output.stderr));
    assert!(text(&output.stderr).starts_with("err\n"));

    let (there, back) = (folder.join("there"), folder.join("back"));
    std::fs::write(&there, &sent).unwrap();
    let _ = std::fs::remove_file(&back);
    for arguments in [[there.to_str().unwrap(), "web:/tmp/copied"], ["web:/tmp/copied", back.to_str().unwrap()]] {
        let output = kubectl.run(&["cp", arguments[0], arguments[1]], b"");
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
    assert!(std::fs::read(&back).unwrap() == sent);
}

fn attach(kubectl: &Kubectl) {
    let mut child = kubectl.start(&["attach", "-i", "echo", "-q"]);
    child.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "line hello\n");
    child.kill().unwrap();
    child.wait().unwrap();
}

/// `port` is `:8080`; a page that is not there is asked for.
pub fn port_forward(kubectl: &Kubectl, target: &str, port: &str) {
    let mut child = kubectl.start(&["port-forward", target, port]);
    let mut line = String::new();
    // Kept open: it says a line for each connection.
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    let port = line.split(" -> ").next().and_then(|head| head.rsplit(':').next()).unwrap().parse().unwrap();
    let mut connection = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port))).unwrap();
    connection.write_all(b"GET /missing HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    child.kill().unwrap();
    child.wait().unwrap();
}

fn wrong_requests(kubectl: &Kubectl) {
    let output = kubectl.run(&["exec", "web", "-c", "other", "--", "true"], b"");
    assert!(!output.status.success() && text(&output.stderr).contains("container other is not valid for pod web"));
    let output = kubectl.run(&["exec", "web", "--", "no-such-program"], b"");
    assert!(!output.status.success() && text(&output.stderr).contains("no-such-program"), "{}", text(&output.stderr));
    let output = kubectl.run(&["port-forward", "pod/none", ":8080"], b"");
    assert!(
        !output.status.success() && text(&output.stderr).contains("\"none\" not found"),
        "{}",
        text(&output.stderr)
    );
}

fn pods(node: &TestNode) {
    let pod = |name: &str, script: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{"name": "main", "image": IMAGE, "stdin": true, "command": ["sh", "-c", script]}]}})
    };
    apply(node, &pod("web", "exec httpd -f -p 8080"));
    apply(node, &pod("echo", r#"while read line; do echo "line $line"; done"#));
    wait_ready(node, 2);
    testnode::wait_for("the port", LIMIT, || {
        wharf(node, &["exec", "web", "--", "busybox", "netstat", "-ltn"]).contains(":8080 ")
    });
}

#[tokio::test]
async fn kubectl_execs_copies_attaches_and_forwards_ports() {
    const TEST: &str = "kubectl_execs_copies_attaches_and_forwards_ports";
    let Some(program) = testnode::tool("kubectl") else {
        println!("SKIP {TEST}: no kubectl: scripts/go-tools builds it; WHARF_TEST_TOOLS says where");
        return;
    };
    let Some(mut node) = testnode::start("kubectl").await else { return };
    pods(&node);
    let home = node.path("home");
    std::fs::create_dir(&home).unwrap();
    let address = proxy(node.path("run/api.sock"));
    for websockets in [true, false] {
        let kubectl = Kubectl { program: program.clone(), address, websockets, home: home.clone() };
        exec_and_cp(&kubectl, &home);
        attach(&kubectl);
        port_forward(&kubectl, "pod/web", ":8080");
        wrong_requests(&kubectl);
    }
    for name in ["web", "echo"] {
        wharf(&node, &["delete", "pod", name]);
    }
    wait_ready(&node, 0);
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
