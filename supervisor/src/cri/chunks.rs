//! Lists as streams of messages that are never too long for a client, however many entries there are.

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

/// Well below what any client accepts by default, which is 4 MiB.
const MAX_BYTES: usize = 1 << 20;

/// Messages that wait for a client.
const IN_FLIGHT: usize = 2;

/// Sends `entries`, as many at a time as fit, each batch made a message by `message`. A list without entries is one
/// message without entries.
pub(super) fn stream<T, M>(
    entries: Vec<T>,
    message: impl Fn(Vec<T>) -> M + Send + 'static,
) -> ReceiverStream<Result<M, Status>>
where
    T: Message + 'static,
    M: Send + 'static,
{
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(async move {
        for batch in batches(entries, MAX_BYTES) {
            if sender.send(Ok(message(batch))).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(receiver)
}

fn batches<T: Message>(entries: Vec<T>, limit: usize) -> Vec<Vec<T>> {
    let mut batches = Vec::new();
    let mut batch = Vec::new();
    let mut size = 0;
    for entry in entries {
        let length = entry.encoded_len();
        if !batch.is_empty() && size + length > limit {
            batches.push(std::mem::take(&mut batch));
            size = 0;
        }
        size += length;
        batch.push(entry);
    }
    batches.push(batch);
    batches
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_specs::cri::PodIp;

    #[test]
    fn batches_keep_the_order_and_the_limit() {
        let entry = |length: usize| PodIp { ip: "x".repeat(length) };
        let entries: Vec<_> = [3, 3, 50, 3, 3, 3].map(entry).into();
        let sizes = |batches: &[Vec<PodIp>]| batches.iter().map(Vec::len).collect::<Vec<_>>();
        let made = batches(entries.clone(), 12);
        assert_eq!(sizes(&made), [2, 1, 2, 1], "one that is too long for any message is sent alone");
        assert_eq!(made.concat(), entries);
        assert_eq!(sizes(&batches(Vec::<PodIp>::new(), 12)), [0]);
    }
}
