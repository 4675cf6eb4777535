//! Starting a pod's shim, and the requests that concern the pod as a whole.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::sync::mpsc;
use wharf_specs::shim::{Answer, ContainerState, Operation, PROTOCOL_VERSION, PodNamespace};

use super::error::{PodError, Result};
use super::record::PodDirectory;
use super::shim_client::{FromPodShim, ShimClient};

/// From exec to `ready`.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Starts the shim for `directory`, which holds its `sandbox.json`; returns once it is ready to be asked.
pub(crate) async fn start(program: &Path, id: &str, directory: &PodDirectory) -> Result<()> {
    let operation = || format!("start {} for pod sandbox {id}", program.display());
    let mut child = tokio::process::Command::new(program)
        .arg("--dir")
        .arg(&directory.path)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| PodError::internal(operation(), error))?;
    let mut said = String::new();
    let stdout = child.stdout.take();
    let ready = async {
        match stdout {
            Some(stdout) => BufReader::new(stdout).read_line(&mut said).await,
            None => Ok(0),
        }
    };
    let outcome = tokio::time::timeout(START_DEADLINE, ready).await;
    let error = match outcome {
        Ok(Ok(_)) if said.trim_end() == "ready" => None,
        Ok(Ok(_)) => Some(match said.trim_end() {
            "" => "it ended without a word".to_string(),
            text => text.trim_start_matches("error: ").to_string(),
        }),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some(format!("not ready after {} s", START_DEADLINE.as_secs())),
    };
    if let Some(error) = error {
        let _ = child.start_kill();
        let _ = child.wait().await;
        return Err(PodError::internal(operation(), error));
    }
    // It outlives this daemon; while both live, somebody must reap it.
    tokio::spawn(async move {
        let _ = child.wait().await;
    });
    Ok(())
}

/// Connects to the pod's shim and subscribes to its events; returns its pid too.
pub(crate) async fn connect(
    id: &str,
    directory: &PodDirectory,
    events: mpsc::UnboundedSender<FromPodShim>,
) -> Result<(ShimClient, u32)> {
    let shim = ShimClient::connect(&directory.socket(), events)
        .await
        .map_err(|error| PodError::internal(format!("connect {}", directory.socket().display()), error))?;
    let (answer, _) = match shim.request("version of shim", id, Operation::Version, Vec::new()).await {
        // From now on it is as good as dead, whatever it would still do.
        Err(error @ PodError::DeadlineExceeded { .. }) => {
            shim.kill();
            return Err(error);
        }
        answer => answer?,
    };
    let Answer::Version { protocol, pid, .. } = answer else { return Err(unexpected("version of shim", id)) };
    if protocol > PROTOCOL_VERSION {
        let reason = format!("it speaks protocol {protocol}, this wharfd up to {PROTOCOL_VERSION}");
        return Err(PodError::internal(format!("connect to shim of {id}"), reason));
    }
    shim.set_protocol(protocol);
    shim.done("subscribe to shim", id, Operation::Subscribe).await?;
    Ok((shim, pid))
}

/// Every container the shim knows.
pub(crate) async fn containers(shim: &ShimClient, id: &str) -> Result<Vec<ContainerState>> {
    match shim.request("status of shim", id, Operation::Status, Vec::new()).await? {
        (Answer::Status { containers }, _) => Ok(containers),
        _ => Err(unexpected("status of shim", id)),
    }
}

/// The pod's own network namespace; `None` where it has none.
pub(crate) async fn network_namespace(shim: &ShimClient, id: &str) -> Result<Option<OwnedFd>> {
    match shim.request("namespaces of shim", id, Operation::Namespaces, Vec::new()).await? {
        (Answer::Namespaces { types }, descriptors) if types.len() == descriptors.len() => {
            let mut pairs = types.into_iter().zip(descriptors);
            Ok(pairs.find(|(kind, _)| *kind == PodNamespace::Network).map(|(_, descriptor)| descriptor))
        }
        _ => Err(unexpected("namespaces of shim", id)),
    }
}

pub(crate) fn unexpected(operation: &str, id: &str) -> PodError {
    PodError::internal(format!("{operation} {id}"), "the shim's answer is of another kind")
}
