//! Counters of the interfaces in pods' network namespaces, as `/proc/thread-self/net/dev` shows them (proc(5)).

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use crate::pod::error::{PodError, Result};

/// A pod may make interfaces of its own; it must not fill the daemon's memory with them.
const MAX_INTERFACES: usize = 256;
const MAX_BYTES: u64 = 256 << 10;

/// Of every pod the same; nobody else speaks to it.
const LOOPBACK: &str = "lo";

/// What passed one interface, as the pod sees it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    pub name: String,
    pub received: Traffic,
    pub sent: Traffic,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    pub bytes: u64,
    pub packets: u64,
    pub errors: u64,
    pub dropped: u64,
}

/// The interfaces in each namespace. On a thread of its own, which never returns to a pool: whatever ran on it next would
/// be in a pod's network.
pub(super) async fn read_all(namespaces: Vec<(String, OwnedFd)>) -> Result<Vec<(String, Vec<Interface>)>> {
    if namespaces.is_empty() {
        return Ok(Vec::new());
    }
    let failed = |error: &dyn std::fmt::Display| PodError::internal("read the figures of pods' networks", error);
    let (sender, receiver) = oneshot::channel();
    let work = move || {
        let read = namespaces.into_iter().filter_map(|(id, namespace)| match read(&namespace) {
            Ok(interfaces) => Some((id, interfaces)),
            Err(error) => {
                tracing::warn!(pod = %id, %error, "read the figures of a pod's network");
                None
            }
        });
        // The receiver is gone only if the request was given up.
        let _ = sender.send(read.collect());
    };
    std::thread::Builder::new().name("pod-network".into()).spawn(work).map_err(|error| failed(&error))?;
    receiver.await.map_err(|error| failed(&error))
}

fn read(namespace: &OwnedFd) -> std::io::Result<Vec<Interface>> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
    let mut text = String::new();
    File::open("/proc/thread-self/net/dev")?.take(MAX_BYTES).read_to_string(&mut text)?;
    Ok(parse(&text))
}

/// Two lines of headings, then `name: ` and eight figures each of what was received and sent.
fn parse(text: &str) -> Vec<Interface> {
    let interface = |line: &str| {
        let (name, figures) = line.split_once(':')?;
        let figures: Vec<u64> = figures.split_whitespace().map(str::parse).collect::<Result<_, _>>().ok()?;
        let traffic = |first: usize| {
            let [bytes, packets, errors, dropped] = figures.get(first..first + 4)?.try_into().ok()?;
            Some(Traffic { bytes, packets, errors, dropped })
        };
        Some(Interface { name: name.trim().to_string(), received: traffic(0)?, sent: traffic(8)? })
    };
    let all = text.lines().skip(2).filter_map(interface);
    all.filter(|interface| interface.name != LOOPBACK).take(MAX_INTERFACES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     100       1    0    0    0     0          0         0      100       1    0    0    0     0       0          0
  eth0:    1216      10    1    2    0     0          0         0      866      11    3    4    0     0       0          0
  bad: 1 2 x
";

    #[test]
    fn counters_of_all_but_loopback_are_read() {
        let eth0 = Interface {
            name: "eth0".into(),
            received: Traffic { bytes: 1216, packets: 10, errors: 1, dropped: 2 },
            sent: Traffic { bytes: 866, packets: 11, errors: 3, dropped: 4 },
        };
        assert_eq!(parse(TEXT), [eth0]);
        assert!(parse("").is_empty());
    }
}
