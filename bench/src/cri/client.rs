//! The calls of the benches, waited for.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;
use wharf_specs::cri::{self, NamespaceMode};

use super::image::{BUSYBOX, IMAGE, PROCESS};

/// A client of one socket.
pub(super) struct Client {
    runtime: Runtime,
    service: RuntimeServiceClient<Channel>,
}

/// What a pod is made of.
pub(super) struct Pod {
    pub(super) name: String,
    pub(super) logs: PathBuf,
    pub(super) cgroup_parent: String,
    pub(super) containers: usize,
}

impl Pod {
    pub(super) fn log_folder(&self) -> PathBuf {
        self.logs.join(&self.name)
    }

    /// Of the container with this number, in the pod's folder.
    pub(super) fn log_name(number: usize) -> String {
        format!("{number}.log")
    }
}

/// How often a container is looked at that is to end.
const STATUS_PERIOD: Duration = Duration::from_millis(2);

impl Client {
    /// # Errors
    /// Nobody listens.
    pub(super) fn connect(socket: &Path) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let socket = socket.to_path_buf();
        let connect = move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        };
        let endpoint = Endpoint::from_static("http://node");
        let channel = runtime.block_on(endpoint.connect_with_connector(tower::service_fn(connect)))?;
        Ok(Self { runtime, service: RuntimeServiceClient::new(channel).max_decoding_message_size(64 << 20) })
    }

    /// Whether runtime and network are ready.
    pub(super) fn is_ready(&self) -> anyhow::Result<bool> {
        let mut service = self.service.clone();
        let answer = self.runtime.block_on(service.status(cri::StatusRequest::default()))?.into_inner();
        Ok(answer.status.is_some_and(|status| status.conditions.iter().all(|condition| condition.status)))
    }

    /// Brings pods to run, all at a time; their sandboxes' ids.
    pub(super) fn start(&self, pods: Vec<Pod>) -> anyhow::Result<Vec<String>> {
        let service = &self.service;
        let starts = pods.into_iter().map(|pod| start(service.clone(), pod));
        self.runtime.block_on(futures_util::future::try_join_all(starts))
    }

    /// Ends and removes pods, all at a time.
    pub(super) fn end(&self, sandboxes: Vec<String>) -> anyhow::Result<()> {
        let service = &self.service;
        let ends = sandboxes.into_iter().map(|sandbox| end(service.clone(), sandbox));
        self.runtime.block_on(futures_util::future::try_join_all(ends)).map(drop)
    }

    /// Ends and removes every pod of the node.
    pub(super) fn end_all(&self) -> anyhow::Result<()> {
        let mut service = self.service.clone();
        let request = cri::ListPodSandboxRequest::default();
        let all = self.runtime.block_on(service.list_pod_sandbox(request))?.into_inner().items;
        self.end(all.into_iter().map(|sandbox| sandbox.id).collect())
    }

    /// Has a pod's container write the file `lines` to its output, until it has ended.
    pub(super) fn write_log(&self, pod: &Pod, lines: &Path) -> anyhow::Result<Duration> {
        self.runtime.block_on(write_log(self.service.clone(), pod, lines))
    }

    /// How many containers there are.
    pub(super) fn list_containers(&self) -> anyhow::Result<usize> {
        let mut service = self.service.clone();
        let list = self.runtime.block_on(service.list_containers(cri::ListContainersRequest::default()))?;
        Ok(list.into_inner().containers.len())
    }

    /// How many containers have figures.
    pub(super) fn container_stats(&self) -> anyhow::Result<usize> {
        let mut service = self.service.clone();
        let list = self.runtime.block_on(service.list_container_stats(cri::ListContainerStatsRequest::default()))?;
        Ok(list.into_inner().stats.len())
    }
}

fn namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: NamespaceMode::Container.into(), ..Default::default() }
}

fn sandbox_config(pod: &Pod) -> cri::PodSandboxConfig {
    let metadata = cri::PodSandboxMetadata {
        name: pod.name.clone(),
        namespace: "bench".into(),
        uid: format!("uid-{}", pod.name),
        attempt: 0,
    };
    let security = cri::LinuxSandboxSecurityContext { namespace_options: Some(namespaces()), ..Default::default() };
    cri::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: pod.log_folder().display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent.clone(),
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    }
}

fn container_config(number: usize, command: &[&str]) -> cri::ContainerConfig {
    let security = cri::LinuxContainerSecurityContext {
        namespace_options: Some(namespaces()),
        // The runtime's own profile.
        seccomp: Some(cri::SecurityProfile::default()),
        ..Default::default()
    };
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: format!("main-{number}"), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: command.iter().map(|word| (*word).to_string()).collect(),
        log_path: Pod::log_name(number),
        linux: Some(cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
        ..Default::default()
    }
}

/// The new container's id.
async fn create(
    service: &mut RuntimeServiceClient<Channel>,
    pod: &str,
    sandbox: &cri::PodSandboxConfig,
    config: cri::ContainerConfig,
) -> anyhow::Result<String> {
    let request = cri::CreateContainerRequest {
        pod_sandbox_id: pod.into(),
        config: Some(config),
        sandbox_config: Some(sandbox.clone()),
    };
    Ok(service.create_container(request).await.context("CreateContainer")?.into_inner().container_id)
}

async fn start(mut service: RuntimeServiceClient<Channel>, pod: Pod) -> anyhow::Result<String> {
    let sandbox = sandbox_config(&pod);
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let id = service.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
    for number in 0..pod.containers {
        let config = container_config(number, &[&format!("/bin/{PROCESS}"), "infinity"]);
        let container_id = create(&mut service, &id, &sandbox, config).await?;
        service.start_container(cri::StartContainerRequest { container_id }).await.context("StartContainer")?;
    }
    Ok(id)
}

/// From the container's start to its end being told.
async fn write_log(mut service: RuntimeServiceClient<Channel>, pod: &Pod, lines: &Path) -> anyhow::Result<Duration> {
    const INSIDE: &str = "/lines";
    let sandbox = sandbox_config(pod);
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let id = service.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
    let mut config = container_config(0, &[BUSYBOX, "cat", INSIDE]);
    config.mounts = vec![cri::Mount {
        container_path: INSIDE.into(),
        host_path: lines.display().to_string(),
        readonly: true,
        ..Default::default()
    }];
    let container_id = create(&mut service, &id, &sandbox, config).await?;
    let begin = Instant::now();
    let request = cri::StartContainerRequest { container_id: container_id.clone() };
    service.start_container(request).await.context("StartContainer")?;
    loop {
        let request = cri::ContainerStatusRequest { container_id: container_id.clone(), verbose: false };
        let status = service.container_status(request).await?.into_inner().status.context("no status")?;
        if status.state() == cri::ContainerState::ContainerExited {
            anyhow::ensure!(status.exit_code == 0, "the container ended with {}", status.exit_code);
            break;
        }
        tokio::time::sleep(STATUS_PERIOD).await;
    }
    let taken = begin.elapsed();
    end(service, id).await?;
    Ok(taken)
}

async fn end(mut service: RuntimeServiceClient<Channel>, sandbox: String) -> anyhow::Result<()> {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    service.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    service.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
    Ok(())
}
