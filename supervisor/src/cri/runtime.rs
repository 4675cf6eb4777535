//! `RuntimeService`.

use std::collections::HashMap;
use std::time::Duration;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};
use wharf_specs::config::CgroupDriver;
use wharf_specs::cri;
use wharf_specs::cri::runtime_service_server::RuntimeService;

use super::encoded_list::EncodedList;
use super::status::{invalid, runtime_config_error, switched_off, unimplemented};
use super::{
    chunks, container, events, figures, metric_descriptors, mount, resources, runtime_status, sandbox, streams,
};
use crate::pod::{Node, PodError};
use crate::streaming::StreamingServer;

type Answer<T> = Result<Response<T>, Status>;
type Streamed<T> = ReceiverStream<Result<T, Status>>;

/// What `Version` says of the protocol: the kubelet compares it with its own.
const KUBELET_API_VERSION: &str = "0.1.0";
const RUNTIME_API_VERSION: &str = "v1";

/// Room for everything but the output in an answer of `ExecSync`, whose size the client bounds to 16 MiB.
const EXEC_SYNC_ANSWER_BYTES: usize = super::MAX_MESSAGE_BYTES - (4 << 10);

/// Of a checkpoint whose client names none.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(120);

/// A container stands still for no longer, whatever a client asks for.
const CHECKPOINT_TIMEOUT_MAX: Duration = Duration::from_secs(3600);

pub(super) struct Runtime {
    node: Node,
    streaming: StreamingServer,
}

impl Runtime {
    pub(super) fn new(node: Node, streaming: StreamingServer) -> Self {
        Self { node, streaming }
    }
}

/// Seconds of a request; negative ones are wrong, 0 means none.
fn seconds(field: &str, value: i64) -> Result<Duration, PodError> {
    u64::try_from(value).map(Duration::from_secs).map_err(|_| invalid(field, format!("{value} is negative")))
}

pub(super) fn required(field: &str, id: &str) -> Result<(), PodError> {
    if id.is_empty() { Err(invalid(field, "is empty")) } else { Ok(()) }
}

#[tonic::async_trait]
impl RuntimeService for Runtime {
    async fn version(&self, _: Request<cri::VersionRequest>) -> Answer<cri::VersionResponse> {
        Ok(Response::new(cri::VersionResponse {
            version: KUBELET_API_VERSION.into(),
            runtime_name: "wharf".into(),
            runtime_version: env!("CARGO_PKG_VERSION").into(),
            runtime_api_version: RUNTIME_API_VERSION.into(),
        }))
    }

    async fn status(&self, request: Request<cri::StatusRequest>) -> Answer<cri::StatusResponse> {
        let answer = runtime_status::answer(&self.node, request.into_inner().verbose).await;
        Ok(Response::new(answer))
    }

    async fn runtime_config(&self, _: Request<cri::RuntimeConfigRequest>) -> Answer<cri::RuntimeConfigResponse> {
        let driver = match self.node.options().cgroups.driver {
            CgroupDriver::Cgroupfs => cri::CgroupDriver::Cgroupfs,
            CgroupDriver::Systemd => cri::CgroupDriver::Systemd,
        };
        let linux = cri::LinuxRuntimeConfiguration { cgroup_driver: driver.into() };
        Ok(Response::new(cri::RuntimeConfigResponse { linux: Some(linux) }))
    }

    async fn run_pod_sandbox(&self, request: Request<cri::RunPodSandboxRequest>) -> Answer<cri::RunPodSandboxResponse> {
        let request = request.into_inner();
        let config = sandbox::config(request.config, request.runtime_handler)?;
        let pod_sandbox_id = self.node.run_sandbox(config).await?;
        Ok(Response::new(cri::RunPodSandboxResponse { pod_sandbox_id }))
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<cri::StopPodSandboxRequest>,
    ) -> Answer<cri::StopPodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        required("pod_sandbox_id", &id)?;
        self.node.stop_sandbox(&id).await?;
        Ok(Response::new(cri::StopPodSandboxResponse {}))
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<cri::RemovePodSandboxRequest>,
    ) -> Answer<cri::RemovePodSandboxResponse> {
        let id = request.into_inner().pod_sandbox_id;
        required("pod_sandbox_id", &id)?;
        self.node.remove_sandbox(&id).await?;
        Ok(Response::new(cri::RemovePodSandboxResponse {}))
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<cri::PodSandboxStatusRequest>,
    ) -> Answer<cri::PodSandboxStatusResponse> {
        let request = request.into_inner();
        let status = self.node.sandbox(&request.pod_sandbox_id)?;
        let info = if request.verbose { sandbox::verbose(&status) } else { HashMap::new() };
        let containers = self.node.containers_of(&status.id);
        Ok(Response::new(cri::PodSandboxStatusResponse {
            status: Some(sandbox::status(&status)),
            info,
            containers_statuses: containers.iter().map(container::status).collect(),
            timestamp: crate::pod::now(),
        }))
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<cri::ListPodSandboxRequest>,
    ) -> Answer<cri::ListPodSandboxResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut list = EncodedList::default();
        self.node.visit_sandboxes(|status| {
            if sandbox::matches(status, &filter) {
                list.add_sandbox(status);
            }
        });
        Ok(Response::new(cri::ListPodSandboxResponse { encoded: list.into_bytes(), ..Default::default() }))
    }

    async fn create_container(
        &self,
        request: Request<cri::CreateContainerRequest>,
    ) -> Answer<cri::CreateContainerResponse> {
        let request = request.into_inner();
        let pod = self.node.sandbox(&request.pod_sandbox_id)?;
        let config = container::config(request.config, &pod.config)?;
        let config = mount::resolve_images(config, self.node.images()).await?;
        let container_id = self.node.create_container(&pod.id, config).await?;
        Ok(Response::new(cri::CreateContainerResponse { container_id }))
    }

    async fn start_container(
        &self,
        request: Request<cri::StartContainerRequest>,
    ) -> Answer<cri::StartContainerResponse> {
        self.node.start_container(&request.into_inner().container_id).await?;
        Ok(Response::new(cri::StartContainerResponse {}))
    }

    async fn stop_container(&self, request: Request<cri::StopContainerRequest>) -> Answer<cri::StopContainerResponse> {
        let request = request.into_inner();
        required("container_id", &request.container_id)?;
        let grace = seconds("timeout", request.timeout)?;
        self.node.stop_container(&request.container_id, grace).await?;
        Ok(Response::new(cri::StopContainerResponse {}))
    }

    async fn remove_container(
        &self,
        request: Request<cri::RemoveContainerRequest>,
    ) -> Answer<cri::RemoveContainerResponse> {
        let id = request.into_inner().container_id;
        required("container_id", &id)?;
        self.node.remove_container(&id).await?;
        Ok(Response::new(cri::RemoveContainerResponse {}))
    }

    async fn list_containers(
        &self,
        request: Request<cri::ListContainersRequest>,
    ) -> Answer<cri::ListContainersResponse> {
        let filter = request.into_inner().filter.unwrap_or_default();
        let mut list = EncodedList::default();
        self.node.visit_containers(|status| {
            if container::matches(status, &filter) {
                list.add_container(status);
            }
        });
        Ok(Response::new(cri::ListContainersResponse { encoded: list.into_bytes(), ..Default::default() }))
    }

    async fn container_status(
        &self,
        request: Request<cri::ContainerStatusRequest>,
    ) -> Answer<cri::ContainerStatusResponse> {
        let request = request.into_inner();
        let status = self.node.container(&request.container_id)?;
        let info = match request.verbose {
            true => container::verbose(&status, &self.node.bundle(&status)).await?,
            false => HashMap::new(),
        };
        Ok(Response::new(cri::ContainerStatusResponse { status: Some(container::status(&status)), info }))
    }

    async fn update_container_resources(
        &self,
        request: Request<cri::UpdateContainerResourcesRequest>,
    ) -> Answer<cri::UpdateContainerResourcesResponse> {
        let request = request.into_inner();
        if request.windows.is_some() {
            return Err(super::status::unsupported("windows").into());
        }
        let limits = resources::resources(request.linux, "linux")?;
        self.node.update_container(&request.container_id, limits).await?;
        Ok(Response::new(cri::UpdateContainerResourcesResponse {}))
    }

    async fn reopen_container_log(
        &self,
        request: Request<cri::ReopenContainerLogRequest>,
    ) -> Answer<cri::ReopenContainerLogResponse> {
        self.node.reopen_log(&request.into_inner().container_id).await?;
        Ok(Response::new(cri::ReopenContainerLogResponse {}))
    }

    async fn exec_sync(&self, request: Request<cri::ExecSyncRequest>) -> Answer<cri::ExecSyncResponse> {
        let request = request.into_inner();
        let timeout = Some(seconds("timeout", request.timeout)?).filter(|timeout| !timeout.is_zero());
        let mut output = self.node.exec_sync(&request.container_id, request.cmd, timeout).await?;
        output.stdout.truncate(EXEC_SYNC_ANSWER_BYTES);
        output.stderr.truncate(EXEC_SYNC_ANSWER_BYTES - output.stdout.len());
        Ok(Response::new(cri::ExecSyncResponse {
            stdout: output.stdout,
            stderr: output.stderr,
            exit_code: output.code,
        }))
    }

    async fn exec(&self, request: Request<cri::ExecRequest>) -> Answer<cri::ExecResponse> {
        let stream = streams::exec(&self.node, request.into_inner())?;
        let url = self.streaming.issue(stream)?;
        Ok(Response::new(cri::ExecResponse { url }))
    }

    async fn attach(&self, request: Request<cri::AttachRequest>) -> Answer<cri::AttachResponse> {
        let stream = streams::attach(&self.node, request.into_inner())?;
        let url = self.streaming.issue(stream)?;
        Ok(Response::new(cri::AttachResponse { url }))
    }

    async fn container_stats(
        &self,
        request: Request<cri::ContainerStatsRequest>,
    ) -> Answer<cri::ContainerStatsResponse> {
        let status = self.node.container(&request.into_inner().container_id)?;
        let stats = figures::of_containers(&self.node, &[status]).await?.pop();
        Ok(Response::new(cri::ContainerStatsResponse { stats }))
    }

    async fn list_container_stats(
        &self,
        request: Request<cri::ListContainerStatsRequest>,
    ) -> Answer<cri::ListContainerStatsResponse> {
        let containers = figures::listed(&self.node, request.into_inner().filter);
        let stats = figures::of_containers(&self.node, &containers).await?;
        Ok(Response::new(cri::ListContainerStatsResponse { stats }))
    }

    async fn port_forward(&self, request: Request<cri::PortForwardRequest>) -> Answer<cri::PortForwardResponse> {
        let stream = streams::port_forward(&self.node, request.into_inner())?;
        let url = self.streaming.issue(stream)?;
        Ok(Response::new(cri::PortForwardResponse { url }))
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<cri::PodSandboxStatsRequest>,
    ) -> Answer<cri::PodSandboxStatsResponse> {
        let status = self.node.sandbox(&request.into_inner().pod_sandbox_id)?;
        let stats = figures::of_sandboxes(&self.node, &[status]).await?.pop();
        Ok(Response::new(cri::PodSandboxStatsResponse { stats }))
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<cri::ListPodSandboxStatsRequest>,
    ) -> Answer<cri::ListPodSandboxStatsResponse> {
        let sandboxes = figures::ready(&self.node, &request.into_inner().filter.unwrap_or_default());
        let stats = figures::of_sandboxes(&self.node, &sandboxes).await?;
        Ok(Response::new(cri::ListPodSandboxStatsResponse { stats }))
    }

    async fn update_runtime_config(
        &self,
        request: Request<cri::UpdateRuntimeConfigRequest>,
    ) -> Answer<cri::UpdateRuntimeConfigResponse> {
        let config = request.into_inner().runtime_config.and_then(|config| config.network_config).unwrap_or_default();
        if !config.pod_cidr.is_empty() {
            self.node.network().set_pod_ranges(&config.pod_cidr).await.map_err(runtime_config_error)?;
        }
        Ok(Response::new(cri::UpdateRuntimeConfigResponse {}))
    }

    async fn checkpoint_container(
        &self,
        request: Request<cri::CheckpointContainerRequest>,
    ) -> Answer<cri::CheckpointContainerResponse> {
        if !self.node.options().checkpoint.enabled {
            return Err(switched_off("CheckpointContainer", "checkpoint.enabled"));
        }
        let request = request.into_inner();
        required("container_id", &request.container_id)?;
        required("location", &request.location)?;
        let timeout = Some(seconds("timeout", request.timeout)?).filter(|timeout| !timeout.is_zero());
        let timeout = timeout.unwrap_or(CHECKPOINT_TIMEOUT).min(CHECKPOINT_TIMEOUT_MAX);
        self.node.checkpoint_container(&request.container_id, request.location.into(), timeout).await?;
        Ok(Response::new(cri::CheckpointContainerResponse {}))
    }

    async fn checkpoint_pod(&self, _: Request<cri::CheckpointPodRequest>) -> Answer<cri::CheckpointPodResponse> {
        Err(unimplemented("CheckpointPod"))
    }

    async fn restore_pod(&self, _: Request<cri::RestorePodRequest>) -> Answer<cri::RestorePodResponse> {
        Err(unimplemented("RestorePod"))
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<cri::ListMetricDescriptorsRequest>,
    ) -> Answer<cri::ListMetricDescriptorsResponse> {
        Ok(Response::new(cri::ListMetricDescriptorsResponse { descriptors: metric_descriptors::all() }))
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<cri::ListPodSandboxMetricsRequest>,
    ) -> Answer<cri::ListPodSandboxMetricsResponse> {
        let pod_metrics = figures::metrics(&self.node).await?;
        Ok(Response::new(cri::ListPodSandboxMetricsResponse { pod_metrics }))
    }

    async fn update_pod_sandbox_resources(
        &self,
        request: Request<cri::UpdatePodSandboxResourcesRequest>,
    ) -> Answer<cri::UpdatePodSandboxResourcesResponse> {
        let request = request.into_inner();
        required("pod_sandbox_id", &request.pod_sandbox_id)?;
        let limits = sandbox::limits(request.resources, request.overhead, "")?;
        self.node.update_sandbox(&request.pod_sandbox_id, limits).await?;
        Ok(Response::new(cri::UpdatePodSandboxResourcesResponse {}))
    }

    type GetContainerEventsStream = Streamed<cri::ContainerEventResponse>;

    async fn get_container_events(&self, _: Request<cri::GetEventsRequest>) -> Answer<Self::GetContainerEventsStream> {
        Ok(Response::new(events::stream(&self.node).into()))
    }

    type StreamPodSandboxesStream = Streamed<cri::StreamPodSandboxesResponse>;

    async fn stream_pod_sandboxes(
        &self,
        request: Request<cri::StreamPodSandboxesRequest>,
    ) -> Answer<Self::StreamPodSandboxesStream> {
        let sandboxes = self.sandboxes(request.into_inner().filter);
        let message = |pod_sandboxes| cri::StreamPodSandboxesResponse { pod_sandboxes };
        Ok(Response::new(chunks::stream(sandboxes, message)))
    }

    type StreamContainersStream = Streamed<cri::StreamContainersResponse>;

    async fn stream_containers(
        &self,
        request: Request<cri::StreamContainersRequest>,
    ) -> Answer<Self::StreamContainersStream> {
        let containers = self.containers(request.into_inner().filter);
        Ok(Response::new(chunks::stream(containers, |containers| cri::StreamContainersResponse { containers })))
    }

    type StreamContainerStatsStream = Streamed<cri::StreamContainerStatsResponse>;

    async fn stream_container_stats(
        &self,
        request: Request<cri::StreamContainerStatsRequest>,
    ) -> Answer<Self::StreamContainerStatsStream> {
        let containers = figures::listed(&self.node, request.into_inner().filter);
        let stats = figures::of_containers(&self.node, &containers).await?;
        let message = |container_stats| cri::StreamContainerStatsResponse { container_stats };
        Ok(Response::new(chunks::stream(stats, message)))
    }

    type StreamPodSandboxStatsStream = Streamed<cri::StreamPodSandboxStatsResponse>;

    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<cri::StreamPodSandboxStatsRequest>,
    ) -> Answer<Self::StreamPodSandboxStatsStream> {
        let sandboxes = figures::ready(&self.node, &request.into_inner().filter.unwrap_or_default());
        let stats = figures::of_sandboxes(&self.node, &sandboxes).await?;
        let message = |pod_sandbox_stats| cri::StreamPodSandboxStatsResponse { pod_sandbox_stats };
        Ok(Response::new(chunks::stream(stats, message)))
    }

    type StreamPodSandboxMetricsStream = Streamed<cri::StreamPodSandboxMetricsResponse>;

    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<cri::StreamPodSandboxMetricsRequest>,
    ) -> Answer<Self::StreamPodSandboxMetricsStream> {
        let metrics = figures::metrics(&self.node).await?;
        let message = |pod_sandbox_metrics| cri::StreamPodSandboxMetricsResponse { pod_sandbox_metrics };
        Ok(Response::new(chunks::stream(metrics, message)))
    }
}

impl Runtime {
    fn sandboxes(&self, filter: Option<cri::PodSandboxFilter>) -> Vec<cri::PodSandbox> {
        let filter = filter.unwrap_or_default();
        self.node.pick_sandboxes(|status| sandbox::matches(status, &filter).then(|| sandbox::listed(status)))
    }

    fn containers(&self, filter: Option<cri::ContainerFilter>) -> Vec<cri::Container> {
        let filter = filter.unwrap_or_default();
        self.node.pick_containers(|status| container::matches(status, &filter).then(|| container::listed(status)))
    }
}
