//! Deadlines that pass on the client's side: a retry joins the work in flight, and ending a pod always comes to an end.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tonic::Code;
use wharf_specs::cri;

use crate::testnode::{self, Client, Options, container, pod};

/// The pod's shim, which can be made to answer nothing as one does that hangs in a file system.
pub async fn shim(client: &mut Client, pod: &str) -> Pid {
    let verbose = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: true };
    let info = client.runtime.pod_sandbox_status(verbose).await.unwrap().into_inner().info;
    let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
    Pid::from_raw(info["pid"].as_i64().unwrap() as i32).unwrap()
}

/// A request whose client waits no longer than a moment.
pub fn impatient<T>(message: T) -> tonic::Request<T> {
    let mut request = tonic::Request::new(message);
    request.set_timeout(Duration::from_millis(300));
    request
}

fn create(pod: &str, config: cri::ContainerConfig) -> cri::CreateContainerRequest {
    cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None }
}

pub fn timed_out(code: Code) -> bool {
    matches!(code, Code::DeadlineExceeded | Code::Cancelled)
}

#[tokio::test]
async fn the_retry_of_a_create_whose_deadline_passed_joins_it() {
    let Some(mut node) = testnode::start("joincreate").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "web")).await;
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();
    let config = container("main", &["sleep", "1000"]);
    for _ in 0..3 {
        let error = client.runtime.create_container(impatient(create(&id, config.clone()))).await.unwrap_err();
        assert!(timed_out(error.code()), "{error}");
    }
    kill_process(shim, Signal::CONT).unwrap();
    let main = client.create(&id, config.clone()).await.unwrap();
    assert_eq!(client.create(&id, config).await.unwrap(), main);
    let list = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.containers.iter().map(|container| &container.id).collect::<Vec<_>>(), [&main]);
    client.runtime.start_container(cri::StartContainerRequest { container_id: main }).await.unwrap();
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

/// A network that takes until the node's file `gate` is there.
const SLOW_PLUGIN: &str = r#"#!/bin/sh
case $CNI_COMMAND in
VERSION) echo '{"cniVersion": "1.0.0", "supportedVersions": ["1.0.0"]}' ;;
ADD)
    until [ -e GATE ]; do sleep 0.05; done
    echo '{"cniVersion": "1.0.0", "ips": [{"address": "10.1.0.5/24"}]}'
    ;;
esac
"#;

#[tokio::test]
async fn the_retry_of_a_pod_whose_deadline_passed_joins_it() {
    let options = |folder: &std::path::Path| Options {
        network: format!("cni.plugins = [{:?}]\n", folder.join("plugins")),
        files: vec![
            ("plugins/slow", SLOW_PLUGIN.replace("GATE", folder.join("gate").to_str().unwrap())),
            ("net.d/1.conf", r#"{"cniVersion": "1.0.0", "name": "slow", "type": "slow"}"#.into()),
        ],
        ..Options::default()
    };
    let Some(mut node) = testnode::start_with("joinpod", options).await else { return };
    let mut client = Client::of(&node).await;
    let run = |name: &str| cri::RunPodSandboxRequest { config: Some(pod(&node, name)), runtime_handler: String::new() };
    for _ in 0..3 {
        let error = client.runtime.run_pod_sandbox(impatient(run("web"))).await.unwrap_err();
        assert!(timed_out(error.code()), "{error}");
    }
    std::fs::write(node.path("gate"), "").unwrap();
    let id = client.runtime.run_pod_sandbox(run("web")).await.unwrap().into_inner().pod_sandbox_id;
    let list = client.runtime.list_pod_sandbox(cri::ListPodSandboxRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.items.iter().map(|pod| &pod.id).collect::<Vec<_>>(), [&id]);
    assert_eq!(client.address(&id).await, "10.1.0.5");
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_pod_ends_though_its_shim_answers_nothing_and_a_create_hangs() {
    let Some(mut node) = testnode::start("stuck").await else { return };
    let mut client = Client::of(&node).await;
    let stuck = client.run_pod(pod(&node, "stuck")).await;
    let other = client.run_pod(pod(&node, "other")).await;
    let main = client.run(&stuck, container("main", &["sleep", "1000"])).await;
    let bystander = client.run(&other, container("main", &["sleep", "1000"])).await;
    kill_process(shim(&mut client, &stuck).await, Signal::STOP).unwrap();
    let hanging = create(&stuck, container("second", &["true"]));
    let error = client.runtime.create_container(impatient(hanging)).await.unwrap_err();
    assert!(timed_out(error.code()), "{error}");

    let mut ending = Client::of(&node).await;
    let pod = stuck.clone();
    let stop = tokio::spawn(async move {
        ending.stop_pod(&pod).await;
        ending
    });
    // Nobody else waits for that.
    assert_eq!(client.exec(&bystander, &["echo", "on"], 5).await.unwrap().stdout, b"on\n");
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);

    tokio::time::timeout(Duration::from_secs(60), stop).await.expect("the stop ends").unwrap();
    let status = client.wait_exit(&main).await;
    assert_ne!(status.exit_code, 0, "{status:?}");
    client.remove_pod(&stuck).await;
    assert_eq!(client.status(&bystander).await.state(), cri::ContainerState::ContainerRunning);
    client.remove_pod(&other).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_container_ends_with_its_grace_and_its_code_though_its_shim_answers_nothing() {
    let Some(mut node) = testnode::start("stuckstop").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "stuck")).await;
    let polite = container("polite", &["sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.1; done"]);
    let deaf = container("deaf", &["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"]);
    let polite = client.run(&id, polite).await;
    let deaf = client.run(&id, deaf).await;
    for name in ["polite", "deaf"] {
        let log = node.path("logs/stuck").join(format!("{name}.log"));
        testnode::wait_for("the traps", Duration::from_secs(10), || {
            std::fs::read_to_string(&log).is_ok_and(|text| text.contains("ready"))
        });
    }
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();

    const GRACE: u64 = 3;
    let begun = std::time::Instant::now();
    let mut other = Client::of(&node).await;
    let stops = async { tokio::join!(client.stop(&polite, 60), other.stop(&deaf, GRACE as i64)) };
    tokio::time::timeout(Duration::from_secs(50), stops).await.expect("both stops end");
    assert!(begun.elapsed() >= Duration::from_secs(GRACE), "the grace period is kept");
    let ended = client.status(&polite).await;
    assert_eq!((ended.state(), ended.exit_code), (cri::ContainerState::ContainerExited, 7), "{ended:?}");
    let ended = client.status(&deaf).await;
    assert_eq!((ended.state(), ended.exit_code), (cri::ContainerState::ContainerExited, 137), "{ended:?}");

    // What the shim says once it can does not change what is known.
    kill_process(shim, Signal::CONT).unwrap();
    client.runtime.remove_container(cri::RemoveContainerRequest { container_id: deaf }).await.unwrap();
    assert_eq!(client.status(&polite).await.exit_code, 7);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn containers_stop_and_go_though_their_shim_answers_nothing_and_a_create_hangs() {
    let Some(mut node) = testnode::start("stuckremove").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(pod(&node, "stuck")).await;
    let stopped = client.run(&id, container("stopped", &["sleep", "1000"])).await;
    let removed = client.run(&id, container("removed", &["sleep", "1000"])).await;
    let shim = shim(&mut client, &id).await;
    kill_process(shim, Signal::STOP).unwrap();
    let second = container("second", &["sleep", "1000"]);
    let error = client.runtime.create_container(impatient(create(&id, second.clone()))).await.unwrap_err();
    assert!(timed_out(error.code()), "{error}");

    let remove = |container: &str| cri::RemoveContainerRequest { container_id: container.into() };
    let ends = async {
        client.stop(&stopped, 1).await;
        assert_eq!(client.status(&stopped).await.exit_code, 137);
        client.runtime.remove_container(remove(&stopped)).await.unwrap();
        client.runtime.remove_container(remove(&removed)).await.unwrap();
    };
    tokio::time::timeout(Duration::from_secs(60), ends).await.expect("a stop and two removals end");
    let list = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert!(list.containers.is_empty(), "{list:?}");
    for container in [&stopped, &removed] {
        assert!(!node.path("data/containers").join(container).exists());
    }

    // The create that hung goes on, and what is gone is gone for the shim too.
    kill_process(shim, Signal::CONT).unwrap();
    let second = client.run(&id, second).await;
    assert_eq!(client.exec(&second, &["echo", "on"], 5).await.unwrap().stdout, b"on\n");
    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    let list = client.runtime.list_containers(cri::ListContainersRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.containers.iter().map(|container| &container.id).collect::<Vec<_>>(), [&second]);
    client.remove_pod(&id).await;
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}

#[tokio::test]
async fn a_node_starts_though_a_shim_answers_nothing_and_takes_the_pod_back_later() {
    let Some(mut node) = testnode::start("stuckstart").await else { return };
    let mut client = Client::of(&node).await;
    let stuck = client.run_pod(pod(&node, "stuck")).await;
    let other = client.run_pod(pod(&node, "other")).await;
    let main = client.run(&stuck, container("main", &["sleep", "1000"])).await;
    let bystander = client.run(&other, container("main", &["sleep", "1000"])).await;
    let shim = shim(&mut client, &stuck).await;
    kill_process(shim, Signal::STOP).unwrap();
    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    assert_eq!(client.exec(&bystander, &["echo", "on"], 5).await.unwrap().stdout, b"on\n");
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning, "as its record has it");

    kill_process(shim, Signal::CONT).unwrap();
    let taken = format!("pod sandbox taken back pod={stuck}");
    testnode::wait_for("the pod to be taken back", Duration::from_secs(20), || node.log().contains(&taken));
    assert_eq!(client.exec(&main, &["echo", "back"], 5).await.unwrap().stdout, b"back\n");
    for pod in [&stuck, &other] {
        client.remove_pod(pod).await;
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
