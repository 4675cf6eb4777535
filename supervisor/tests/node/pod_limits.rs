//! Limits of a pod as a whole: set when it is made, changed while it runs, and left to the client where the group is its.

use tonic::Code;
use wharf_specs::cri;

use crate::testnode::{self, Client, TestNode, container, pod};

const MIB: i64 = 1 << 20;

fn memory(bytes: i64) -> Option<cri::LinuxContainerResources> {
    Some(cri::LinuxContainerResources { memory_limit_in_bytes: bytes, ..Default::default() })
}

/// The limit that the kernel keeps for a group, below the root of its hierarchy.
fn limit_of(group: &str) -> String {
    let files =
        [format!("/sys/fs/cgroup/{group}/memory.max"), format!("/sys/fs/cgroup/memory/{group}/memory.limit_in_bytes")];
    let read = files.iter().find_map(|file| std::fs::read_to_string(file).ok());
    read.unwrap_or_else(|| panic!("no group {group}")).trim().to_owned()
}

async fn update(client: &mut Client, pod: &str, resources: i64, overhead: i64) -> Result<(), tonic::Status> {
    let request = cri::UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.into(),
        overhead: memory(overhead),
        resources: memory(resources),
    };
    client.runtime.update_pod_sandbox_resources(request).await.map(drop)
}

fn limited(node: &TestNode, name: &str, parent: &str) -> cri::PodSandboxConfig {
    let mut config = pod(node, name);
    let linux = config.linux.as_mut().unwrap();
    (linux.resources, linux.overhead) = (memory(64 * MIB), memory(MIB));
    linux.cgroup_parent = parent.into();
    config
}

#[tokio::test]
async fn a_pod_is_limited_as_a_whole_and_the_limits_change_while_it_runs() {
    let Some(mut node) = testnode::start("podlimits").await else { return };
    let mut client = Client::of(&node).await;
    let id = client.run_pod(limited(&node, "own", "")).await;
    let group = node.group_below(&id);
    assert_eq!(limit_of(&group), (65 * MIB).to_string());
    let main = client.run(&id, container("main", &["sleep", "1000"])).await;
    update(&mut client, &id, 32 * MIB, 0).await.unwrap();
    assert_eq!(limit_of(&group), (33 * MIB).to_string());
    // A daemon that comes later knows them.
    node.kill_wharfd();
    node.start_wharfd();
    let mut client = Client::of(&node).await;
    update(&mut client, &id, 0, 2 * MIB).await.unwrap();
    assert_eq!(limit_of(&group), (34 * MIB).to_string());

    // A group that the client names is the client's own.
    let parent = node.group_below("clients");
    let other = client.run_pod(limited(&node, "named", &parent)).await;
    client.run(&other, container("main", &["sleep", "1000"])).await;
    let before = limit_of(&parent);
    update(&mut client, &other, 32 * MIB, MIB).await.unwrap();
    assert_eq!(limit_of(&parent), before);

    let error = update(&mut client, "none", MIB, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound, "{error}");
    let mut wrong = cri::UpdatePodSandboxResourcesRequest { pod_sandbox_id: id.clone(), ..Default::default() };
    wrong.overhead = Some(cri::LinuxContainerResources { cpu_period: -1, ..Default::default() });
    let error = client.runtime.update_pod_sandbox_resources(wrong).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::InvalidArgument, "overhead.cpu_period: -1 is negative"));
    assert_eq!(client.status(&main).await.state(), cri::ContainerState::ContainerRunning);
    client.stop_pod(&id).await;
    let error = update(&mut client, &id, MIB, 0).await.unwrap_err();
    assert_eq!(error.code(), Code::FailedPrecondition, "{error}");
    for pod in [id, other] {
        client.remove_pod(&pod).await;
    }
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        // The client's, which it takes away itself.
        let _ = std::fs::remove_dir(hierarchy.path().join(&parent));
    }
    node.terminate_wharfd();
    assert_eq!(node.leftovers(), Vec::<String>::new());
}
