//! What a stream that a client asks for is to be, before it gets a URL.

use wharf_specs::cri;

use super::runtime::required;
use super::sandbox;
use super::status::invalid;
use crate::pod::spec::ExecConfig;
use crate::pod::status::ContainerState;
use crate::pod::{Node, PodError};
use crate::streaming::StreamRequest;

pub(super) fn exec(node: &Node, request: cri::ExecRequest) -> Result<StreamRequest, PodError> {
    let container = running(node, &request.container_id)?;
    if request.tty && request.stderr {
        return Err(invalid("stderr", "a terminal has no standard error of its own"));
    }
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(invalid("stdin", "one of stdin, stdout and stderr is needed"));
    }
    if request.cmd.is_empty() {
        return Err(invalid("cmd", "is empty"));
    }
    let config = ExecConfig {
        argv: request.cmd,
        tty: request.tty,
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        timeout: None,
    };
    Ok(StreamRequest::Exec { container, config })
}

pub(super) fn attach(node: &Node, request: cri::AttachRequest) -> Result<StreamRequest, PodError> {
    let container = running(node, &request.container_id)?;
    if !(request.stdin || request.stdout || request.stderr) {
        return Err(invalid("stdin", "one of stdin, stdout and stderr is needed"));
    }
    Ok(StreamRequest::Attach { container, stdin: request.stdin, stdout: request.stdout, stderr: request.stderr })
}

pub(super) fn port_forward(node: &Node, request: cri::PortForwardRequest) -> Result<StreamRequest, PodError> {
    required("pod_sandbox_id", &request.pod_sandbox_id)?;
    let sandbox = node.ready_sandbox(&request.pod_sandbox_id)?;
    Ok(StreamRequest::PortForward { sandbox, ports: sandbox::ports(&request.port)? })
}

/// The full id of a container that runs: a URL for another would only fail later.
fn running(node: &Node, id: &str) -> Result<String, PodError> {
    let status = node.container(id)?;
    match status.state {
        ContainerState::Running => Ok(status.id),
        other => Err(crate::pod::wrong_state(&status.id, other, "a running one")),
    }
}
