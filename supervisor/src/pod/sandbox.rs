use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use super::error::Result;
use super::node::{Inner, NodeOptions};
use super::spec::{ContainerConfig, Resources, SandboxConfig};

type Reply<T> = oneshot::Sender<Result<T>>;

/// What the owner of a pod is asked to do.
pub(crate) enum Command {
    Stop { reply: Reply<()> },
    Remove { reply: Reply<()> },
    CreateContainer { config: Box<ContainerConfig>, reply: Reply<String> },
    StartContainer { container: String, reply: Reply<()> },
    StopContainer { container: String, grace: Duration, reply: Reply<()> },
    RemoveContainer { container: String, reply: Reply<()> },
    UpdateContainer { container: String, resources: Box<Resources>, reply: Reply<()> },
}
pub(crate) fn validate(_: &SandboxConfig, _: &NodeOptions) -> Result<()> { Ok(()) }
pub(crate) async fn run(_: Arc<Inner>, _: String, _: SandboxConfig, _: mpsc::Receiver<Command>, _: mpsc::Sender<Command>, _: watch::Sender<Option<Result<()>>>) {}
