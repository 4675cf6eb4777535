//! Bytes both ways between two connections.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::CHUNK_BYTES;
use super::activity::Activity;

/// Carries them until both sides have ended or one is gone, or nothing has moved for `idle`. The end of one side is handed
/// on; the other may go on.
pub async fn copy_both(
    one: impl AsyncRead + AsyncWrite + Unpin,
    other: impl AsyncRead + AsyncWrite + Unpin,
    idle: Duration,
) {
    let activity = Activity::default();
    let ((from_one, to_one), (from_other, to_other)) = (tokio::io::split(one), tokio::io::split(other));
    let carried =
        async { tokio::try_join!(carry(from_one, to_other, &activity), carry(from_other, to_one, &activity)) };
    tokio::select! {
        ended = carried => if let Err(error) = ended {
            tracing::debug!(%error, "tunnel");
        },
        () = activity.ceased(idle) => tracing::debug!("a tunnel is idle"),
    }
}

async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    activity: &Activity,
) -> std::io::Result<()> {
    let mut buffer = vec![0; CHUNK_BYTES];
    loop {
        match from.read(&mut buffer).await? {
            0 => return to.shutdown().await,
            count => to.write_all(&buffer[..count]).await?,
        }
        activity.note();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_end_is_handed_on_and_the_other_side_goes_on() {
        let ((mut client, near), (far, mut server)) = (tokio::io::duplex(16), tokio::io::duplex(16));
        let tunnel = tokio::spawn(copy_both(near, far, Duration::from_secs(60)));
        client.write_all(b"asked").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        server.write_all(b"answered").await.unwrap();
        drop(server);
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!((asked.as_str(), answered.as_str()), ("asked", "answered"));
        tunnel.await.unwrap();
    }

    #[tokio::test]
    async fn a_tunnel_in_which_nothing_moves_ends() {
        let ((_client, near), (far, _server)) = (tokio::io::duplex(16), tokio::io::duplex(16));
        copy_both(near, far, Duration::from_millis(10)).await;
    }
}
