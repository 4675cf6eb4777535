//! `GetContainerEvents`: each change of a container or a sandbox, with the pod's state right after it.

use tokio::sync::mpsc;
use tonic::Status;
use wharf_specs::cri;

use super::{container, sandbox};
use crate::pod::status::Event;
use crate::pod::{Node, Observed};

/// Events on their way to one client; the rest of what it may fall behind waits at the node.
const IN_FLIGHT: usize = 16;

pub(super) fn stream(node: &Node) -> mpsc::Receiver<Result<cri::ContainerEventResponse, Status>> {
    let mut observer = node.observe();
    tracing::debug!("a client observes the node");
    let (sender, receiver) = mpsc::channel(IN_FLIGHT);
    tokio::spawn(async move {
        loop {
            let observed = tokio::select! {
                observed = observer.next() => observed,
                () = sender.closed() => return,
            };
            let Some(observed) = observed else {
                let message = "this client fell too far behind and missed events: list, and ask for events again";
                let _ = sender.send(Err(Status::resource_exhausted(message))).await;
                return;
            };
            for event in wire(&observed) {
                if sender.send(Ok(event)).await.is_err() {
                    return;
                }
            }
        }
    });
    receiver
}

/// A sandbox is created and started at once; the protocol has an event for each.
fn wire(observed: &Observed) -> Vec<cri::ContainerEventResponse> {
    use cri::ContainerEventType::{
        ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
    };
    let (id, kinds) = match &observed.event {
        Event::SandboxReady { sandbox } => (sandbox, &[ContainerCreatedEvent, ContainerStartedEvent][..]),
        Event::SandboxStopped { sandbox } => (sandbox, &[ContainerStoppedEvent][..]),
        Event::SandboxRemoved { sandbox } => (sandbox, &[ContainerDeletedEvent][..]),
        Event::ContainerCreated { container, .. } => (container, &[ContainerCreatedEvent][..]),
        Event::ContainerStarted { container, .. } => (container, &[ContainerStartedEvent][..]),
        Event::ContainerExited { container, .. } => (container, &[ContainerStoppedEvent][..]),
        Event::ContainerRemoved { container, .. } => (container, &[ContainerDeletedEvent][..]),
    };
    let event = |kind: &cri::ContainerEventType| cri::ContainerEventResponse {
        container_id: id.clone(),
        container_event_type: (*kind).into(),
        created_at: observed.at,
        pod_sandbox_status: Some(sandbox::status(&observed.sandbox)),
        containers_statuses: observed.containers.iter().map(container::status).collect(),
    };
    kinds.iter().map(event).collect()
}
