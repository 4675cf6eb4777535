//! Ports on the channels of a WebSocket: for the port with index `i`, channel `2i` has its data and `2i + 1` its error.
//! The first message of the server on each is the port, little-endian in two bytes. There is no half-close: a connection
//! goes on until the pod or the client ends it.

use axum::extract::ws::WebSocket;
use bytes::Bytes;
use tokio::io::{AsyncWriteExt, DuplexStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use wharf_specs::streaming::channel::{ChannelMessage, ChannelProtocol};

use super::dial::Dialer;
use super::{IDLE_LIMIT, Target};
use crate::streaming::websocket::{self, ChannelReader, ChannelWriter};

/// As many as there are channels with one digit.
pub(super) const PORTS_MAX: usize = 5;

/// Data of a client that waits for the pod.
const BUFFER_BYTES: usize = 64 << 10;

pub(super) async fn serve(socket: WebSocket, protocol: ChannelProtocol, target: Target) {
    let (reader, channels) = websocket::channels(socket, protocol, IDLE_LIMIT);
    let mut connections = JoinSet::new();
    let mut inputs = Vec::new();
    if target.ports.is_empty() || target.ports.len() > PORTS_MAX {
        let message = format!("ports: {} are named, 1 to {PORTS_MAX} can be forwarded", target.ports.len());
        let _ = channels.writer(1).send(message.into()).await;
        return channels.close().await;
    }
    for (index, port) in (0..).zip(target.ports) {
        let (data, error) = (channels.writer(2 * index), channels.writer(2 * index + 1));
        let (near, far) = tokio::io::duplex(BUFFER_BYTES);
        inputs.push(Some(far));
        let dialer = target.dialer.clone();
        connections.spawn(async move { forward(&dialer, port, near, data, error).await });
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let ended = channels.ended();
    let reading = tokio::spawn(read(reader, inputs));
    tokio::select! {
        () = all => channels.close().await,
        () = ended.cancelled() => {}
    }
    reading.abort();
}

/// Gives the client's data to its connections until it leaves.
async fn read(mut reader: ChannelReader, mut inputs: Vec<Option<DuplexStream>>) {
    while let Some(message) = reader.next().await {
        let (channel, data) = match message {
            ChannelMessage::Data { channel, data } => (usize::from(channel), data),
            ChannelMessage::Close { channel } => (usize::from(channel), Bytes::new()),
            ChannelMessage::Nothing => continue,
        };
        // Only data channels are the client's to write to.
        let Some(input) = inputs.get_mut(channel / 2).filter(|_| channel % 2 == 0) else { return };
        if let Some(connection) = input
            && connection.write_all(&data).await.is_err()
        {
            *input = None;
        }
    }
}

async fn forward(dialer: &Dialer, port: u16, from_client: DuplexStream, data: ChannelWriter, error: ChannelWriter) {
    for channel in [&data, &error] {
        let _ = channel.send(Bytes::copy_from_slice(&port.to_le_bytes())).await;
    }
    match dialer.connect(port).await {
        Ok(connection) => {
            let pod_ended = Notify::new();
            let copied =
                super::copy(connection, from_client, |bytes| data.send(bytes), async || pod_ended.notify_one());
            tokio::select! {
                outcome = copied => if let Err(failure) = outcome {
                    tracing::debug!(port, error = %failure, "forwarded connection");
                },
                () = pod_ended.notified() => {}
            }
        }
        Err(message) => {
            let _ = error.send(message.into()).await;
        }
    }
}
