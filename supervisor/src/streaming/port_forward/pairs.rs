//! Connections as pairs of SPDY streams. The client opens both with the same `requestid`; each is a task of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use wharf_specs::streaming::spdy::headers::Headers;
use wharf_specs::streaming::spdy::reset;

use super::dial::Dialer;
use crate::streaming::spdy::{Connection, Stream};

/// A pair of which one stream is there.
struct Half {
    stream: Stream,
    is_data: bool,
    port: u16,
    deadline: Instant,
}

/// What the headers of a stream say.
#[derive(Debug, PartialEq, Eq)]
struct Label {
    is_data: bool,
    port: u16,
    /// Names the pair.
    request: String,
}

impl Label {
    /// Clients of old give no id and open the two streams of a pair one right after the other: the port names those.
    fn read(headers: &Headers) -> Result<Self, String> {
        let is_data = match headers.get("streamtype") {
            Some("data") => true,
            Some("error") => false,
            Some(other) => return Err(format!("streamType: {other:?} is not data or error")),
            None => return Err("streamType: is missing".into()),
        };
        let port = headers.get("port").ok_or("port: is missing")?;
        let number = port.parse().ok().filter(|port| *port != 0);
        let number = number.ok_or_else(|| format!("port: {port:?} is not a port number"))?;
        let request = headers.get("requestid").filter(|id| !id.is_empty());
        Ok(Self { is_data, port: number, request: request.unwrap_or(port).to_owned() })
    }
}

/// Serves pairs until the client leaves. A stream whose partner does not come within `limit` is given up.
pub(super) async fn serve(mut connection: Connection, dialer: Arc<Dialer>, limit: Duration) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    let mut pairs = JoinSet::new();
    loop {
        let next = halves.values().map(|half| half.deadline).min();
        let expired = async {
            match next {
                Some(deadline) => sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            stream = connection.accept() => match stream {
                Some(stream) => {
                    if let Some((port, data, error)) = pair(&mut halves, stream, limit).await {
                        pairs.spawn(forward(dialer.clone(), port, data, error));
                    }
                }
                // The tasks of the pairs end with their set.
                None => return,
            },
            () = expired => give_up_expired(&mut halves).await,
            Some(_) = pairs.join_next() => {}
        }
    }
}

/// Keeps the stream until its partner is there; then gives both, data first.
async fn pair(halves: &mut HashMap<String, Half>, stream: Stream, limit: Duration) -> Option<(u16, Stream, Stream)> {
    let Label { is_data, port, request } = match Label::read(&stream.headers) {
        Ok(label) => label,
        Err(problem) => {
            tracing::debug!(problem, "port-forward stream");
            stream.writer.reset(reset::REFUSED_STREAM).await;
            return None;
        }
    };
    match halves.remove(&request) {
        Some(half) if half.is_data != is_data && half.port == port => {
            let (data, error) = if is_data { (stream, half.stream) } else { (half.stream, stream) };
            Some((port, data, error))
        }
        Some(half) => {
            for stream in [half.stream, stream] {
                stream.writer.reset(reset::REFUSED_STREAM).await;
            }
            None
        }
        None => {
            halves.insert(request, Half { stream, is_data, port, deadline: Instant::now() + limit });
            None
        }
    }
}

async fn give_up_expired(halves: &mut HashMap<String, Half>) {
    let now = Instant::now();
    for (_, half) in halves.extract_if(|_, half| half.deadline <= now) {
        half.stream.writer.reset(reset::CANCEL).await;
    }
}

async fn forward(dialer: Arc<Dialer>, port: u16, data: Stream, error: Stream) {
    let Stream { reader, writer, .. } = data;
    // The error stream is for what the server could not do; it is empty where a connection came about.
    match dialer.connect(port).await {
        Ok(connection) => {
            let copied = super::copy(connection, reader, |bytes| writer.send(bytes), async || writer.finish().await);
            tokio::select! {
                outcome = copied => tracing::debug!(port, ?outcome, "forwarded connection ended"),
                () = writer.over().cancelled() => tracing::debug!(port, "client gives up a forwarded connection"),
            }
        }
        Err(message) => {
            tracing::debug!(message, "port-forward");
            let _ = error.writer.send(message.into()).await;
        }
    }
    error.writer.finish().await;
    writer.reset(reset::CANCEL).await;
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use wharf_specs::streaming::spdy::Frame;

    use super::*;
    use crate::streaming::spdy::tests::connected;

    #[test]
    fn labels_name_kind_port_and_pair() {
        let read = |pairs: &[(&str, &str)]| Label::read(&Headers::new(pairs));
        assert_eq!(
            read(&[("streamtype", "data"), ("port", "80"), ("requestid", "3")]),
            Ok(Label { is_data: true, port: 80, request: "3".into() })
        );
        assert_eq!(read(&[("streamtype", "error"), ("port", "80")]).unwrap().request, "80");
        assert_eq!(read(&[("port", "80")]), Err("streamType: is missing".into()));
        assert_eq!(read(&[("streamtype", "x"), ("port", "80")]), Err("streamType: \"x\" is not data or error".into()));
        for port in ["0", "65536", "-1", "http", ""] {
            assert_eq!(
                read(&[("streamtype", "data"), ("port", port)]),
                Err(format!("port: {port:?} is not a port number"))
            );
        }
    }

    const LONG: Duration = Duration::from_secs(600);

    fn node() -> Arc<Dialer> {
        Arc::new(Dialer { sandbox: "p".into(), namespace: None })
    }

    #[tokio::test]
    async fn both_halves_of_a_connection_are_handed_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port().to_string();
        let (mut client, connection) = connected(LONG);
        let serving = tokio::spawn(serve(connection, node(), LONG));
        let label = |kind: &'static str| [("streamtype", kind), ("port", port.as_str()), ("requestid", "0")];
        client.open_with(1, &label("error")).await;
        client.open_with(3, &label("data")).await;
        client.data(1, b"", true).await;
        client.data(3, b"question", true).await;
        let (mut peer, _) = listener.accept().await.unwrap();
        let mut question = Vec::new();
        peer.read_to_end(&mut question).await.unwrap();
        assert_eq!(question, b"question");
        peer.write_all(b"answer").await.unwrap();
        drop(peer);
        assert_eq!(client.rest_of(3).await, b"answer");
        assert_eq!(client.rest_of(1).await, b"", "the error stream says nothing");
        drop(client);
        serving.await.unwrap();
    }

    #[tokio::test]
    async fn a_port_that_refuses_is_named_on_the_error_stream() {
        let (mut client, connection) = connected(LONG);
        tokio::spawn(serve(connection, node(), LONG));
        // The port is taken and not listened at.
        let taken = tokio::net::TcpSocket::new_v4().unwrap();
        taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let port = taken.local_addr().unwrap().port();
        let text = port.to_string();
        for (stream, kind) in [(1, "data"), (3, "error")] {
            client.open_with(stream, &[("streamtype", kind), ("port", &text)]).await;
        }
        let said = String::from_utf8(client.rest_of(3).await).unwrap();
        assert!(said.starts_with(&format!("connect to port {port} of pod sandbox p: 127.0.0.1:{port}: ")), "{said}");
        assert_eq!(client.next().await, Some(Frame::RstStream { stream: 1, status: reset::CANCEL }));
    }

    #[tokio::test]
    async fn a_stream_without_its_partner_or_a_label_is_given_up() {
        let (mut client, connection) = connected(LONG);
        tokio::spawn(serve(connection, node(), Duration::from_millis(10)));
        client.open_with(1, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { stream: 1, status: reset::CANCEL }));
        client.open_with(3, &[("streamtype", "data"), ("port", "0")]).await;
        assert_eq!(client.next().await, Some(Frame::RstStream { stream: 3, status: reset::REFUSED_STREAM }));
    }
}
