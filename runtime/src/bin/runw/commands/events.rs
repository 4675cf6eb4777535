//! `events`: statistics now and then, and each time the memory ran out, as lines of JSON.

use crate::Fault;
use crate::store::Store;
use serde::Serialize;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};
use wharf_runtime::Container;
use wharf_runtime::cgroup::Stats;
use wharf_runtime::state::Status;
use wharf_sys::event::{EPOLLIN, Epoll};

const PROCESS: u64 = 0;
const OOM: u64 = 1;

#[derive(Serialize)]
struct Event<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    id: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<Stats>,
}

pub(crate) fn run(id: &str, interval: Duration, once: bool, store: &Store) -> Result<u8, Fault> {
    let container = store.load(id)?;
    if container.status() == Status::Stopped {
        return Err(Fault::new(format!("container with id {id} is not running")));
    }
    if once {
        show("stats", &container, Some(container.cgroup().stats()?))?;
        return Ok(0);
    }
    let epoll = Epoll::new()?;
    epoll.add(container.pidfd(), PROCESS, EPOLLIN)?;
    let mut oom = container.cgroup().watch_oom()?;
    if let Some(watch) = &oom {
        epoll.add(watch.as_fd(), OOM, watch.interest())?;
    }
    let mut due = Instant::now() + interval;
    let mut ready = Vec::new();
    loop {
        let wait = due.saturating_duration_since(Instant::now());
        // Rounded up: a wait that ends too early would only be repeated.
        let milliseconds = i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        epoll.wait(&mut ready, milliseconds)?;
        let ended = ready.iter().any(|event| event.token == PROCESS);
        // Asked at the end too: what killed the init may have come together with its death.
        if (ended || ready.iter().any(|event| event.token == OOM)) && oom.as_mut().is_some_and(|watch| watch.fired()) {
            show("oom", &container, None)?;
        }
        if ended {
            return Ok(0);
        }
        if Instant::now() >= due {
            show("stats", &container, Some(container.cgroup().stats()?))?;
            due = Instant::now() + interval;
        }
    }
}

fn show(kind: &str, container: &Container, data: Option<Stats>) -> Result<(), Fault> {
    let line = serde_json::to_string(&Event { kind, id: container.id().as_str(), data })?;
    writeln!(io::stdout(), "{line}").map_err(|error| Fault::new(format!("write event: {error}")))
}
