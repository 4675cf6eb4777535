//! Exec over WebSocket, as crictl and kubectl do it.

use std::net::TcpStream;

use futures_util::{SinkExt, StreamExt};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};
use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

type Socket = WebSocketStream<tokio::net::TcpStream>;

async fn connect(node: &TestNode, url: &str) -> Result<Socket, Error> {
    let address: std::net::SocketAddr = url.split('/').nth(2).unwrap().parse().unwrap();
    // A socket stays in the network namespace it was made in.
    let stream = node.inside_thread(move || TcpStream::connect(address).unwrap());
    stream.set_nonblocking(true).unwrap();
    let stream = tokio::net::TcpStream::from_std(stream).unwrap();
    let mut request = url.replace("http://", "ws://").into_client_request().unwrap();
    request.headers_mut().insert("Sec-WebSocket-Protocol", "v5.channel.k8s.io".parse().unwrap());
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
