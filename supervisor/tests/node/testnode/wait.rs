//! Waiting for what has no event of its own.

use std::time::{Duration, Instant};

pub fn wait_for(what: &str, limit: Duration, mut done: impl FnMut() -> bool) {
    wait_for_or(what, limit, &mut done, String::new);
}

/// As [`wait_for`], for what has to be asked for.
pub async fn wait_for_async(what: &str, limit: Duration, mut done: impl AsyncFnMut() -> bool) {
    let end = Instant::now() + limit;
    while !done().await {
        assert!(Instant::now() < end, "{what}: not there after {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(super) fn wait_for_or(what: &str, limit: Duration, mut done: impl FnMut() -> bool, more: impl Fn() -> String) {
    let end = Instant::now() + limit;
    while !done() {
        assert!(Instant::now() < end, "{what}: not there after {limit:?}\n{}", more());
        std::thread::sleep(Duration::from_millis(20));
    }
}
