//! The calls of the benches, waited for.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint, Uri};
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;
use wharf_specs::cri::{self, NamespaceMode};

use super::image::{IMAGE, PROCESS};

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

async fn start(mut service: RuntimeServiceClient<Channel>, pod: Pod) -> anyhow::Result<String> {
    let metadata = cri::PodSandboxMetadata {
        name: pod.name.clone(),
        namespace: "bench".into(),
        uid: format!("uid-{}", pod.name),
        attempt: 0,
    };
    let security = cri::LinuxSandboxSecurityContext { namespace_options: Some(namespaces()), ..Default::default() };
    let sandbox = cri::PodSandboxConfig {
        metadata: Some(metadata),
        log_directory: pod.logs.join(&pod.name).display().to_string(),
        linux: Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: pod.cgroup_parent,
            security_context: Some(security),
            ..Default::default()
        }),
        ..Default::default()
    };
    let request = cri::RunPodSandboxRequest { config: Some(sandbox.clone()), ..Default::default() };
    let id = service.run_pod_sandbox(request).await.context("RunPodSandbox")?.into_inner().pod_sandbox_id;
    for number in 0..pod.containers {
        let security = cri::LinuxContainerSecurityContext {
            namespace_options: Some(namespaces()),
            // The runtime's own profile.
            seccomp: Some(cri::SecurityProfile::default()),
            ..Default::default()
        };
        let config = cri::ContainerConfig {
            metadata: Some(cri::ContainerMetadata { name: format!("main-{number}"), attempt: 0 }),
            image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
            command: vec![format!("/bin/{PROCESS}"), "infinity".into()],
            log_path: format!("{number}.log"),
            linux: Some(cri::LinuxContainerConfig { security_context: Some(security), ..Default::default() }),
            ..Default::default()
        };
        let request = cri::CreateContainerRequest {
            pod_sandbox_id: id.clone(),
            config: Some(config),
            sandbox_config: Some(sandbox.clone()),
        };
        let container_id =
            service.create_container(request).await.context("CreateContainer")?.into_inner().container_id;
        service.start_container(cri::StartContainerRequest { container_id }).await.context("StartContainer")?;
    }
    Ok(id)
}

async fn end(mut service: RuntimeServiceClient<Channel>, sandbox: String) -> anyhow::Result<()> {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id: sandbox.clone() };
    service.stop_pod_sandbox(request).await.context("StopPodSandbox")?;
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id: sandbox };
    service.remove_pod_sandbox(request).await.context("RemovePodSandbox")?;
    Ok(())
}
