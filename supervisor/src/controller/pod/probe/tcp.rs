//! Probes that open a connection and close it: an answer is success.

use std::time::Duration;

use tokio::net::TcpStream;

use super::Outcome;

pub(super) async fn probe(host: &str, port: u16, timeout: Duration) -> Outcome {
    match tokio::time::timeout(timeout, TcpStream::connect((host, port))).await {
        Ok(Ok(_)) => Outcome::Success,
        Ok(Err(error)) => Outcome::Failure(format!("dial tcp {}: {error}", super::authority(host, port))),
        Err(_) => {
            let address = super::authority(host, port);
            Outcome::Failure(format!("dial tcp {address}: no answer after {} s", timeout.as_secs()))
        }
    }
}
