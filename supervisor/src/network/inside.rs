//! A pod's network namespace, entered.

use std::os::fd::{AsFd, OwnedFd};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::sync::oneshot;

use super::{NetworkError, Result};

/// Runs `work` on a thread of its own in `namespace`. Such a thread never returns to a pool: whatever ran on it
/// next would be in the pod's network.
pub(crate) async fn inside<T, F>(namespace: OwnedFd, work: F) -> Result<T>
where
    T: Send + 'static,
    F: AsyncFnOnce() -> Result<T> + Send + 'static,
{
    let (sender, receiver) = oneshot::channel();
    let thread = std::thread::Builder::new().name("pod-network".into()).spawn(move || {
        // The receiver is gone only if the request was given up.
        let _ = sender.send(enter_and_run(namespace, work));
    });
    thread.map_err(|error| NetworkError::kernel("start a thread for a pod's network", error))?;
    receiver.await.map_err(|_| NetworkError::kernel("work in a pod's network namespace", "its thread died"))?
}

fn enter_and_run<T>(namespace: OwnedFd, work: impl AsyncFnOnce() -> Result<T>) -> Result<T> {
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
        .map_err(|error| NetworkError::kernel("enter a pod's network namespace", error))?;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| NetworkError::kernel("start a runtime for a pod's network", error))?
        .block_on(work())
}
