//! The CRI's own test client on streams: exec, attach and port-forward over each of its transports.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::process::{Child, Stdio};

use wharf_specs::cri;
use wharf_sys::terminal::Size;

use crate::crictl::{Crictl, program};
use crate::terminal;
use crate::testnode::{self, Client, TestNode, container, pod};

/// More than any buffer on the way holds.
const MUCH: usize = 1 << 20;

/// A program that ends with its owner.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(crictl: &Crictl<'_>, arguments: &[&str]) -> Running {
    let mut command = crictl.command(arguments);
    Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap())
}

fn exec_carries_every_stream(crictl: &Crictl<'_>, transport: &str, id: &str) {
    let script = "cat; echo err >&2; exit 7";
    let mut running = start(crictl, &["exec", "-r", transport, "-i", id, "sh", "-c", script]);
    let mut stdin = running.0.stdin.take().unwrap();
    let sent: Vec<u8> = (0..MUCH).map(|index| (index % 251) as u8).collect();
    let writing = std::thread::spawn({
        let sent = sent.clone();
        move || stdin.write_all(&sent).unwrap()
    });
    let (mut stdout, mut stderr) = (Vec::new(), String::new());
    running.0.stdout.take().unwrap().read_to_end(&mut stdout).unwrap();
    running.0.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
    writing.join().unwrap();
    assert!(!running.0.wait().unwrap().success());
    assert!(stdout == sent, "{transport}: {} bytes came back", stdout.len());
    assert!(stderr.contains("err\n") && stderr.contains("exit code 7"), "{transport}: {stderr}");
}

fn a_terminal_is_resized_and_typed_on(crictl: &Crictl<'_>, transport: &str, id: &str) {
    let script = r#"until [ "$(busybox stty size)" = "33 77" ]; do :; done; echo si"zed"; read line; echo "got $line""#;
    let command = crictl.command(&["exec", "-r", transport, "-it", id, "sh", "-c", script]);
    let (child, mut terminal) = terminal::spawn(&command, Size { rows: 33, columns: 77 });
    let mut running = Running(child);
    let mut shown = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&shown).contains("sized") {
        let count = terminal.read(&mut buffer).unwrap();
        shown.extend_from_slice(&buffer[..count]);
    }
    terminal.write_all(b"typed\n").unwrap();
    let rest = terminal::shown(&terminal);
    assert!(rest.contains("got typed"), "{transport}: {rest}");
    assert!(running.0.wait().unwrap().success());
}

fn attach_reaches_the_container_s_own_process(crictl: &Crictl<'_>, transport: &str, id: &str) {
    let mut running = start(crictl, &["attach", "-r", transport, "-i", id]);
    running.0.stdin.as_mut().unwrap().write_all(b"hello\n").unwrap();
    let mut line = String::new();
    BufReader::new(running.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "line hello\n", "{transport}");
}

fn connect(node: &TestNode, port: u16) -> TcpStream {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    node.inside_thread(move || TcpStream::connect(address).unwrap())
}

/// A forward of `remote` at the node's port `local`, once it listens.
fn forward(crictl: &Crictl<'_>, transport: &str, pod: &str, local: u16, remote: u16) -> (Running, impl BufRead) {
    let mut running = start(crictl, &["port-forward", "-r", transport, pod, &format!("{local}:{remote}")]);
    let mut stdout = BufReader::new(running.0.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.contains("Forwarding from"), "{transport}: {line}");
    (running, stdout)
}

fn ports_are_forwarded(crictl: &Crictl<'_>, transport: &str, pod: &str, local: u16) {
    let node = crictl.node;
    let (counting, _stdout) = forward(crictl, transport, pod, local, 8080);
    // One by one: busybox' nc loses connections that come together.
    for length in [0, 10, MUCH] {
        let mut connection = connect(node, local);
        connection.write_all(&vec![b'x'; length]).unwrap();
        // The pod's program answers once it has read to the end.
        connection.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert_eq!(answer.trim(), length.to_string(), "{transport}");
    }
    drop(counting);

    let (on_ipv6, _stdout) = forward(crictl, transport, pod, local, 8081);
    // All are open before the first is used, and the last is used first.
    let mut connections: Vec<TcpStream> = (0..8).map(|_| connect(node, local)).collect();
    while let Some(mut connection) = connections.pop() {
        connection.write_all(b"GET /missing HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{transport}: {answer}");
    }
    drop(on_ipv6);

    let (mut refused, _stdout) = forward(crictl, transport, pod, local, 9);
    let mut nothing = Vec::new();
    let _ = connect(node, local).read_to_end(&mut nothing);
    assert_eq!(nothing, b"");
    let mut errors = BufReader::new(refused.0.stderr.take().unwrap());
    let mut said = String::new();
    while !said.contains("connect to port 9 of pod sandbox") {
        assert_ne!(errors.read_line(&mut said).unwrap(), 0, "{transport}: {said}");
    }
    assert!(said.contains("127.0.0.1:9: Connection refused") && said.contains("[::1]:9: "), "{transport}: {said}");
}

async fn with_node(test: &str, name: &str) -> Option<(TestNode, std::path::PathBuf)> {
    let Some(program) = program() else {
        println!("SKIP {test}: no crictl: `make test` builds it, or set WHARF_TEST_CRICTL");
        return None;
    };
    Some((testnode::start(name).await?, program))
}

#[tokio::test]
async fn crictl_execs_and_attaches_over_spdy_and_websocket() {
    let Some((mut node, program)) = with_node("crictl_execs_and_attaches_over_spdy_and_websocket", "crictl-exec").await
    else {
        return;
    };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "streams")).await;
    let script = r#"while read line; do echo "line $line"; done"#;
    let main = cri::ContainerConfig { stdin: true, ..container("main", &["sh", "-c", script]) };
    let main = client.run(&id, main).await;
    {
        let crictl = Crictl { node: &node, program };
        for transport in ["spdy", "websocket"] {
            exec_carries_every_stream(&crictl, transport, &main);
            a_terminal_is_resized_and_typed_on(&crictl, transport, &main);
            attach_reaches_the_container_s_own_process(&crictl, transport, &main);
            let missing = crictl.output(&["exec", "-r", transport, &main, "no-such-program"]);
            let message = String::from_utf8_lossy(&missing.stderr).into_owned();
            assert!(!missing.status.success() && message.contains("no-such-program"), "{transport}: {message}");
        }
    }
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn crictl_forwards_ports_over_spdy_and_websocket() {
    let Some((mut node, program)) = with_node("crictl_forwards_ports_over_spdy_and_websocket", "crictl-forward").await
    else {
        return;
    };
    let mut client = Client::of(&node).await;
    let own = client.run_pod(pod(&node, "own")).await;
    let mut config = pod(&node, "host");
    let security = config.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    let host = client.run_pod(config).await;
    let script = "nc -ll -p 8080 -e busybox wc -c & exec httpd -f -p '[::1]:8081'";
    let mut serving = container("serving", &["sh", "-c", script]);
    let mut containers = vec![client.run(&own, serving.clone()).await];
    let security = serving.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options.as_mut().unwrap().network = cri::NamespaceMode::Node.into();
    containers.push(client.run(&host, serving).await);
    for container in containers {
        client.wait_for_ports(&container, &[8080, 8081]).await;
    }
    {
        let crictl = Crictl { node: &node, program };
        for (transport, local) in [("spdy", 18080), ("websocket", 18081)] {
            ports_are_forwarded(&crictl, transport, &own, local);
            ports_are_forwarded(&crictl, transport, &host, local);
        }
    }
    for pod in [own, host] {
        client.remove_pod(&pod).await;
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
