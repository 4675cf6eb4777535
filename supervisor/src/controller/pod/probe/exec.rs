//! Probes that run a program in the container: exit code 0 is success.

use std::time::Duration;

use super::{LONGEST_OUTPUT, Outcome};
use crate::pod::{Node, PodError};

pub(super) async fn probe(node: &Node, container: &str, argv: &[String], timeout: Duration) -> Outcome {
    match run(node, container, argv, Some(timeout)).await {
        Ok((0, _)) => Outcome::Success,
        Ok((_, output)) => Outcome::Failure(output),
        Err(PodError::DeadlineExceeded { .. }) => {
            Outcome::Failure(format!("command timed out: {argv:?} timed out after {} s", timeout.as_secs()))
        }
        Err(error) => Outcome::Error(error.to_string()),
    }
}

/// Exit code and output, both streams one after the other, of a program in a container.
pub(in crate::controller::pod) async fn run(
    node: &Node,
    container: &str,
    argv: &[String],
    timeout: Option<Duration>,
) -> Result<(i32, String), PodError> {
    let output = node.exec_sync(container, argv.to_vec(), timeout).await?;
    let mut bytes = output.stdout;
    bytes.extend_from_slice(&output.stderr);
    bytes.truncate(LONGEST_OUTPUT);
    Ok((output.code, String::from_utf8_lossy(&bytes).into_owned()))
}
