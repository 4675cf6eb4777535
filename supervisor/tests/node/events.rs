//! `GetContainerEvents`: nothing is missing, nothing is out of order, and each event has the pod's state of its time.

use std::time::Duration;

use tokio_stream::StreamExt;
use tonic::Streaming;
use wharf_specs::cri;
use wharf_specs::cri::ContainerEventType::{
    ContainerCreatedEvent, ContainerDeletedEvent, ContainerStartedEvent, ContainerStoppedEvent,
};

use crate::testnode::{self, Client, container, pod};

type Events = Streaming<cri::ContainerEventResponse>;

async fn events(client: &mut Client) -> Events {
    client.runtime.get_container_events(cri::GetEventsRequest {}).await.unwrap().into_inner()
}

async fn next(events: &mut Events) -> cri::ContainerEventResponse {
    tokio::time::timeout(Duration::from_secs(10), events.next()).await.expect("an event").unwrap().unwrap()
}

#[tokio::test]
async fn every_change_is_told_in_its_order_with_the_state_right_after_it() {
    let Some(mut node) = testnode::start("events").await else { return };
    let mut client = Client::of(&node).await;
    let mut first = events(&mut client).await;
    let mut second = events(&mut client).await;
    let id = client.run_pod(pod(&node, "web")).await;
    // So short that its end is known almost before its start was answered.
    let main = client.run(&id, container("main", &["sh", "-c", "exit 3"])).await;
    client.wait_exit(&main).await;
    let request = cri::RemoveContainerRequest { container_id: main.clone() };
    client.runtime.remove_container(request).await.unwrap();
    client.remove_pod(&id).await;

    let expected = [
        (&id, ContainerCreatedEvent),
        (&id, ContainerStartedEvent),
        (&main, ContainerCreatedEvent),
        (&main, ContainerStartedEvent),
        (&main, ContainerStoppedEvent),
        (&main, ContainerDeletedEvent),
        (&id, ContainerStoppedEvent),
        (&id, ContainerDeletedEvent),
    ];
    let mut last = 0;
    for (subject, kind) in expected {
        let event = next(&mut first).await;
        assert_eq!((&event.container_id, event.container_event_type()), (subject, kind), "{event:?}");
        assert_eq!(next(&mut second).await, event, "every client is told the same");
        assert!(event.created_at >= last, "{event:?}");
        last = event.created_at;
        let sandbox = event.pod_sandbox_status.unwrap();
        assert_eq!((&sandbox.id, sandbox.metadata.unwrap().uid.as_str()), (&id, "uid-web"));
        let ready = !(subject == &id && matches!(kind, ContainerStoppedEvent | ContainerDeletedEvent));
        assert_eq!(sandbox.state == i32::from(cri::PodSandboxState::SandboxReady), ready, "{kind:?}");
        let statuses: Vec<_> = event.containers_statuses.iter().map(|status| (&status.id, status.state())).collect();
        let state = match kind {
            ContainerCreatedEvent => cri::ContainerState::ContainerCreated,
            ContainerStartedEvent => cri::ContainerState::ContainerRunning,
            _ => cri::ContainerState::ContainerExited,
        };
        let shown = subject == &main && kind != ContainerDeletedEvent;
        assert_eq!(statuses, if shown { vec![(&main, state)] } else { Vec::new() }, "{kind:?}");
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn ends_that_no_daemon_saw_are_told_to_the_first_client_of_the_next() {
    let Some(mut node) = testnode::start("eventsrestart").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let gate = node.path("gate");
    let mut config = container("main", &["sh", "-c", "until [ -e /gate/open ]; do sleep 0.05; done; exit 42"]);
    std::fs::create_dir(&gate).unwrap();
    config.mounts = vec![cri::Mount {
        container_path: "/gate".into(),
        host_path: gate.display().to_string(),
        ..Default::default()
    }];
    let main = client.run(&id, config).await;
    let exit = node.path(&format!("run/pods/{id}/containers/{main}/exit.json"));

    node.kill_wharfd();
    std::fs::write(gate.join("open"), "").unwrap();
    testnode::wait_for("the container's end", Duration::from_secs(10), || exit.exists());
    node.start_wharfd();

    let mut client = Client::of(&node).await;
    let event = next(&mut events(&mut client).await).await;
    assert_eq!((&event.container_id, event.container_event_type()), (&main, ContainerStoppedEvent));
    let status = &event.containers_statuses[0];
    assert_eq!((status.exit_code, status.finished_at), (42, event.created_at));
    client.remove_pod(&id).await;
}
