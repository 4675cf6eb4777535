//! Hands the descriptor for seccomp notifications to the agent (runtime-spec, config-linux.md#containerprocessstate).

use crate::error::{Error, While};
use crate::state::{State, Status};
use serde_json::json;
use std::os::fd::{AsFd, OwnedFd};
use wharf_specs::oci::LinuxSeccomp;
use wharf_sys::socket;

/// Connects to `listenerPath` and sends the process state with the descriptor.
pub(crate) fn hand_over(listener: OwnedFd, seccomp: &LinuxSeccomp, state: &State, status: Status) -> Result<(), Error> {
    let Some(path) = seccomp.listener_path() else { return Ok(()) };
    let message = json!({
        "ociVersion": state.oci_version,
        "fds": ["seccompFd"],
        "pid": state.pid,
        "metadata": seccomp.listener_metadata().as_deref().unwrap_or_default(),
        "state": {
            "ociVersion": state.oci_version,
            "id": state.id,
            "status": status,
            "pid": state.pid,
            "bundle": state.bundle,
            "annotations": state.annotations,
        },
    });
    let agent = socket::connect(socket::Kind::Stream, path)
        .during("failed to connect with seccomp agent at", path.display())?;
    socket::send(agent.as_fd(), message.to_string().as_bytes(), &[listener.as_fd()])
        .during("send the seccomp listener to", path.display())
        .map(drop)
}
