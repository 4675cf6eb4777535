//! Memory goes back to the kernel when the node comes to rest, and now and then where it does not.
//!
//! What the start has run of the program, and what no pod has needed since, goes too.
//!
//! Bringing up and ending pods takes memory for moments, on many threads. The C library keeps what they have freed for
//! the next time, page by page with what is still in use between; on a node that rests that is most of the daemon's heap.

use std::time::Duration;

use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio::time::timeout;

use crate::pod::status::Event;

/// No event for so long is rest.
const REST: Duration = Duration::from_secs(2);

/// Where there is no rest.
const LONGEST: Duration = Duration::from_secs(10);

/// Gives memory back after the start, and each time `events` come to rest, until there can be no more of them.
pub async fn give_back(mut events: Receiver<Event>) {
    loop {
        let rest = async { while timeout(REST, events.recv()).await.is_ok_and(is_there_another) {} };
        let _ = timeout(LONGEST, rest).await;
        if let Ok(Err(error)) = tokio::task::spawn_blocking(release).await {
            tracing::warn!(%error, "give memory back");
        }
        if !is_there_another(events.recv().await) {
            return;
        }
    }
}

/// Trimming holds the allocator's lock, one arena at a time.
fn release() -> std::io::Result<()> {
    wharf_sys::memory::trim()?;
    wharf_sys::memory::unmap_program()
}

/// Events that were missed have happened, too.
fn is_there_another(received: Result<Event, RecvError>) -> bool {
    !matches!(received, Err(RecvError::Closed))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The second number of statm: pages in memory.
    fn resident_bytes() -> usize {
        let text = std::fs::read_to_string("/proc/self/statm").unwrap();
        text.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
    }

    #[tokio::test]
    async fn what_was_freed_goes_back_once_the_events_rest() {
        let mut blocks: Vec<Option<Box<[u8; 1024]>>> = (0..128 * 1024).map(|_| Some(Box::new([1; 1024]))).collect();
        // In every fourth page something stays.
        let freed = blocks.iter_mut().enumerate().filter(|(index, _)| index % 16 != 0);
        freed.for_each(|(_, block)| *block = None);
        let before = resident_bytes();
        let (events, receiver) = tokio::sync::broadcast::channel(1);
        events.send(Event::SandboxReady { sandbox: "a".into() }).unwrap();
        drop(events);
        give_back(receiver).await;
        let after = resident_bytes();
        assert!(before - after > 64 << 20, "{before} bytes in memory before, {after} after");
        assert!(blocks[0].as_ref().is_some_and(|block| block[1023] == 1));
    }
}
