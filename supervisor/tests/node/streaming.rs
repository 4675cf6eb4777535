//! Exec and port-forward over the channels of a WebSocket.

use std::net::TcpStream;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

type Socket = WebSocketStream<tokio::net::TcpStream>;

async fn connect(node: &TestNode, url: &str) -> Result<Socket, Error> {
    connect_with(node, url, "v5.channel.k8s.io").await
}

async fn connect_with(node: &TestNode, url: &str, protocol: &str) -> Result<Socket, Error> {
    let address: std::net::SocketAddr = url.split('/').nth(2).unwrap().parse().unwrap();
    // A socket stays in the network namespace it was made in.
    let stream = node.inside_thread(move || TcpStream::connect(address).unwrap());
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", protocol.parse().unwrap());
    client_async(request, stream).await.map(|(socket, _)| socket)
}

/// Everything that came on each channel until the server closed.
async fn read_all(socket: &mut Socket) -> [Vec<u8>; 5] {
    let mut channels: [Vec<u8>; 5] = Default::default();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Binary(bytes) = message {
            channels[usize::from(bytes[0])].extend(&bytes[1..]);
        }
    }
    channels
}

#[tokio::test]
async fn exec_carries_streams_and_the_exit_code_over_one_use_of_its_url() {
    let Some(node) = testnode::start("websocket").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let request = cri::ExecRequest {
        container_id: main.clone(),
        cmd: ["sh", "-c", "cat; echo err >&2; exit 7"].map(String::from).into(),
        tty: false,
        stdin: true,
        stdout: true,
        stderr: true,
    };
    let url = client.runtime.exec(request).await.unwrap().into_inner().url;

    let mut socket = connect(&node, &url).await.unwrap();
    socket.send(Message::Binary(b"\x00from stdin".to_vec().into())).await.unwrap();
    // Channel 255 closes the channel in its payload: the end of stdin.
    socket.send(Message::Binary(vec![255, 0].into())).await.unwrap();
    let [_, stdout, stderr, error, _] = read_all(&mut socket).await;
    assert_eq!(stdout, b"from stdin");
    assert_eq!(stderr, b"err\n");
    let status: serde_json::Value = serde_json::from_slice(&error).unwrap();
    assert_eq!(status["reason"], "NonZeroExitCode");
    assert_eq!(status["details"]["causes"][0]["message"], "7");

    let again = connect(&node, &url).await.map(drop).unwrap_err();
    assert!(matches!(again, Error::Http(response) if response.status() == 404));

    let request = cri::ExecRequest {
        container_id: main.clone(),
        cmd: ["sh", "-c", "tty; sleep 555"].map(String::from).into(),
        tty: true,
        stdin: true,
        stdout: true,
        stderr: false,
    };
    let url = client.runtime.exec(request).await.unwrap().into_inner().url;
    let mut socket = connect(&node, &url).await.unwrap();
    let mut output = Vec::new();
    while !String::from_utf8_lossy(&output).contains("/dev/pts/") {
        if let Message::Binary(bytes) = socket.next().await.unwrap().unwrap() {
            output.extend(&bytes[1..]);
        }
    }
    // A client that leaves takes its process along.
    drop(socket);
    for _ in 0..100 {
        let processes = client.exec(&main, &["ps"], 5).await.unwrap();
        if !String::from_utf8_lossy(&processes.stdout).contains("sleep 555") {
            client.remove_pod(&id).await;
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("the process outlives its client");
}

#[tokio::test]
async fn older_channel_protocols_have_base64_and_errors_in_lines() {
    let Some(node) = testnode::start("channels").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let request = cri::ExecRequest {
        container_id: main,
        cmd: ["sh", "-c", "echo out; exit 3"].map(String::from).into(),
        stdout: true,
        ..Default::default()
    };
    let url = client.runtime.exec(request.clone()).await.unwrap().into_inner().url;
    let unknown = connect_with(&node, &url, "v9.channel.k8s.io").await.map(drop).unwrap_err();
    assert!(matches!(unknown, Error::Http(response) if response.status() == 403), "and the URL is still good");
    let mut socket = connect_with(&node, &url, "base64.channel.k8s.io").await.unwrap();
    let mut messages = Vec::new();
    while let Some(Ok(message)) = socket.next().await {
        if let Message::Text(text) = message {
            messages.push(text.to_string());
        }
    }
    // "out\n", and why it ended.
    assert_eq!(messages[..2], ["1", "1b3V0Cg=="]);
    assert!(messages[2].starts_with("3Y29tbWFuZCB0ZXJtaW5hdGVkIHdpdGgg"), "{messages:?}");

    let url = client.runtime.exec(request).await.unwrap().into_inner().url;
    let mut socket = connect_with(&node, &url, "channel.k8s.io").await.unwrap();
    let [_, stdout, _, error, _] = read_all(&mut socket).await;
    assert_eq!(stdout, b"out\n");
    assert_eq!(error, b"command terminated with non-zero exit code: exit status 3");
    client.remove_pod(&id).await;
}

#[tokio::test]
async fn ports_are_channels_of_a_websocket() {
    let Some(node) = testnode::start("ports").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.run(&id, container("main", &["httpd", "-f", "-p", "8080"])).await;
    client.wait_for_ports(&main, &[8080]).await;
    let request = cri::PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![8080, 9] };
    let url = client.runtime.port_forward(request).await.unwrap().into_inner().url;
    let mut socket = connect_with(&node, &url, "v4.channel.k8s.io").await.unwrap();
    socket.send(Message::Binary(b"\x00GET /missing HTTP/1.0\r\n\r\n".to_vec().into())).await.unwrap();
    let [data, error, no_data, refused, _] = read_all(&mut socket).await;
    // Each begins with its port.
    assert!(data.starts_with(b"\x90\x1fHTTP/1.1 404"), "{}", String::from_utf8_lossy(&data));
    assert_eq!(error, b"\x90\x1f");
    assert_eq!(no_data, b"\x09\x00");
    let refused = String::from_utf8_lossy(&refused).into_owned();
    assert!(
        refused.contains(&format!("connect to port 9 of pod sandbox {id}: 127.0.0.1:9: Connection refused")),
        "{refused}"
    );

    let wrong = cri::PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![0] };
    let error = client.runtime.port_forward(wrong).await.unwrap_err();
    assert_eq!(error.message(), "port[0]: 0 is not a port number");
    client.stop_pod(&id).await;
    let late = cri::PortForwardRequest { pod_sandbox_id: id.clone(), port: vec![] };
    let error = client.runtime.port_forward(late).await.unwrap_err();
    assert_eq!(error.code(), tonic::Code::FailedPrecondition, "{error}");
    client.remove_pod(&id).await;
}
