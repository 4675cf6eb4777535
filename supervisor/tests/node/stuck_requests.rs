//! Starts and updates that hang in a pod's shim: their retries join them, and nothing else of the pod waits for them.

use std::time::Duration;

use rustix::process::{Signal, kill_process};
use wharf_specs::cri;

use crate::retries::{impatient, shim, timed_out};
use crate::testnode::{self, Client, container, pod};

fn start(container: &str) -> cri::StartContainerRequest {
    cri::StartContainerRequest { container_id: container.into() }
}

fn remove(container: &str) -> cri::RemoveContainerRequest {
    cri::RemoveContainerRequest { container_id: container.into() }
}

fn memory(container: &str, bytes: i64) -> cri::UpdateContainerResourcesRequest {
    let limits = cri::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() };
    cri::UpdateContainerResourcesRequest { container_id: container.into(), linux: Some(limits), ..Default::default() }
}

async fn memory_of(client: &mut Client, container: &str) -> i64 {
    let resources = client.status(container).await.resources.unwrap_or_default();
    resources.linux.unwrap_or_default().memory_limit_in_bytes
}

#[tokio::test]
async fn the_retry_of_a_start_whose_deadline_passed_joins_it() {
    let Some(mut node) = testnode::start("joinstart").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let main = client.create(&id, container("main", &["sleep", "1000"])).await.unwrap();
    // Of a script no more is looked at beforehand than that it is there.
    testnode::write_file(&node.path("plugins/script"), "#!/no/such/interpreter\n");
    let script = cri::Mount {
        host_path: node.path("plugins/script").display().to_string(),
        container_path: "/script".into(),
        ..Default::default()
    };
    let broken = cri::ContainerConfig { mounts: vec![script], ..container("broken", &["/script"]) };
    let broken = client.create(&id, broken).await.unwrap();
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();
    for container in [&main, &main, &broken] {
        let error = client.runtime.start_container(impatient(start(container))).await.unwrap_err();
        assert!(timed_out(error.code()), "{error}");
    }
    let mut other = Client::of(&node).await;
    let joined = tokio::spawn(async move { other.runtime.start_container(start(&main)).await.map(|_| (other, main)) });
    // It is the second that joins.
    let joins = async || node.log().matches("joins the start under way").count() == 2;
    testnode::wait_for_async("the retry to join", Duration::from_secs(10), joins).await;
    kill_process(shim, Signal::CONT).unwrap();
    let (mut client, main) = joined.await.unwrap().unwrap();
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);
    let ended = client.wait_exit(&broken).await;
    assert_eq!((ended.reason.as_str(), ended.exit_code), ("StartError", 128), "{ended:?}");
    assert!(ended.message.contains("/script"), "{ended:?}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn containers_stop_and_go_though_a_start_of_the_pod_hangs() {
    let Some(mut node) = testnode::start("stuckstart2").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "stuck")).await;
    let beside = client.run(&id, container("beside", &["sleep", "1000"])).await;
    let stopped = client.create(&id, container("stopped", &["sleep", "1000"])).await.unwrap();
    let removed = client.create(&id, container("removed", &["sleep", "1000"])).await.unwrap();
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();
    for container in [&stopped, &removed] {
        let error = client.runtime.start_container(impatient(start(container))).await.unwrap_err();
        assert!(timed_out(error.code()), "{error}");
    }

    let ends = async {
        client.stop(&beside, 1).await;
        assert_eq!(client.status(&beside).await.exit_code, 137);
        client.stop(&stopped, 1).await;
        assert_eq!(client.status(&stopped).await.state(), cri::ContainerState::ContainerExited);
        client.runtime.remove_container(remove(&removed)).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), ends).await.expect("two stops and a removal end");
    assert!(!node.path("data/containers").join(&removed).exists());

    // What the shim says once it can changes nothing of that.
    kill_process(shim, Signal::CONT).unwrap();
    let next = client.run(&id, container("next", &["sleep", "1000"])).await;
    assert_eq!(client.exec(&next, &["echo", "on"], 5).await.unwrap().stdout, b"on\n");
    assert_eq!(client.status(&stopped).await.exit_code, 137);
    for container in [&beside, &stopped] {
        client.runtime.remove_container(remove(container)).await.unwrap();
    }
    let list = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.containers.iter().map(|container| &container.id).collect::<Vec<_>>(), [&next]);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_ends_though_a_start_and_an_update_hang() {
    let Some(mut node) = testnode::start("stuckend").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "stuck")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let second = client.create(&id, container("second", &["sleep", "1000"])).await.unwrap();
    kill_process(shim(&mut client, &id).await, Signal::STOP).unwrap();
    let error = client.runtime.start_container(impatient(start(&second))).await.unwrap_err();
    assert!(timed_out(error.code()), "{error}");
    let error = client.runtime.update_container_resources(impatient(memory(&main, 64 << 20))).await.unwrap_err();
    assert!(timed_out(error.code()), "{error}");
    tokio::time::timeout(Duration::from_secs(60), client.remove_pod(&id)).await.expect("the removal ends");
    let list = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(list.containers.is_empty(), "{list:?}");
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn updates_that_hang_are_done_in_their_order_and_delay_no_stop() {
    let Some(mut node) = testnode::start("stuckupdate").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "stuck")).await;
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    let beside = client.run(&id, container("beside", &["sleep", "1000"])).await;
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();
    for mebibytes in [64, 96, 80] {
        let update = impatient(memory(&main, mebibytes << 20));
        let error = client.runtime.update_container_resources(update).await.unwrap_err();
        assert!(timed_out(error.code()), "{error}");
    }
    assert_eq!(memory_of(&mut client, &main).await, 0, "nothing is set yet");
    let stop = client.stop(&beside, 1);
    tokio::time::timeout(Duration::from_secs(40), stop).await.expect("the stop ends");

    kill_process(shim, Signal::CONT).unwrap();
    client.runtime.update_container_resources(memory(&main, 72 << 20)).await.unwrap();
    assert_eq!(memory_of(&mut client, &main).await, 72 << 20);
    let group = ["memory.max", "memory/memory.limit_in_bytes"];
    let shown = client.exec(&main, &["sh", "-c", &format!("cd /sys/fs/cgroup; cat {} 2>&1", group.join(" "))], 5).await;
    let shown = String::from_utf8(shown.unwrap().stdout).unwrap();
    assert!(shown.contains(&(72 << 20).to_string()), "{shown}");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
