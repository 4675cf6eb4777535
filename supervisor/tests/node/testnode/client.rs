//! A client of the CRI, and what it asks for.

use super::{IMAGE, TestNode};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use wharf_specs::cri;
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;

/// Fails where nobody listens.
pub async fn connect(socket: PathBuf) -> Result<Channel, tonic::transport::Error> {
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
    };
    Endpoint::from_static("http://wharf").connect_with_connector(tower::service_fn(connect)).await
}

/// A pod with its own log directory and nothing else asked for.
pub fn pod(node: &TestNode, name: &str) -> cri::PodSandboxConfig {
    cri::PodSandboxConfig {
        metadata: Some(cri::PodSandboxMetadata {
            name: name.into(),
            namespace: "default".into(),
            uid: format!("uid-{name}"),
            attempt: 0,
        }),
        log_directory: node.path("logs").join(name).display().to_string(),
        labels: [("app".to_string(), name.to_string())].into(),
        linux: Some(cri::LinuxPodSandboxConfig {
            security_context: Some(cri::LinuxSandboxSecurityContext {
                namespace_options: Some(own_namespaces()),
                ..Default::default()
            }),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Network and IPC of the pod, a PID namespace for each container.
pub fn own_namespaces() -> cri::NamespaceOption {
    cri::NamespaceOption { pid: cri::NamespaceMode::Container.into(), ..Default::default() }
}

pub fn container(name: &str, command: &[&str]) -> cri::ContainerConfig {
    cri::ContainerConfig {
        metadata: Some(cri::ContainerMetadata { name: name.into(), attempt: 0 }),
        image: Some(cri::ImageSpec { image: IMAGE.into(), ..Default::default() }),
        command: command.iter().map(|word| word.to_string()).collect(),
        log_path: format!("{name}.log"),
        linux: Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                namespace_options: Some(own_namespaces()),
                seccomp: Some(cri::SecurityProfile::default()),
                ..Default::default()
            }),
            resources: None,
        }),
        ..Default::default()
    }
}

/// Calls that most tests make.
pub struct Client {
    pub runtime: RuntimeServiceClient<Channel>,
}

impl Client {
    pub async fn of(node: &TestNode) -> Self {
        Self { runtime: node.runtime().await }
    }

    pub async fn run_pod(&mut self, config: cri::PodSandboxConfig) -> String {
        self.run_pod_of(config, "").await.unwrap()
    }

    /// A pod of another runtime than the node's own.
    pub async fn run_pod_of(&mut self, config: cri::PodSandboxConfig, handler: &str) -> Result<String, tonic::Status> {
        let request = cri::RunPodSandboxRequest { config: Some(config), runtime_handler: handler.into() };
        Ok(self.runtime.run_pod_sandbox(request).await?.into_inner().pod_sandbox_id)
    }

    pub async fn create(&mut self, pod: &str, config: cri::ContainerConfig) -> Result<String, tonic::Status> {
        let request =
            cri::CreateContainerRequest { pod_sandbox_id: pod.into(), config: Some(config), sandbox_config: None };
        Ok(self.runtime.create_container(request).await?.into_inner().container_id)
    }

    pub async fn run(&mut self, pod: &str, config: cri::ContainerConfig) -> String {
        let container_id = self.create(pod, config).await.unwrap();
        let request = cri::StartContainerRequest { container_id: container_id.clone() };
        self.runtime.start_container(request).await.unwrap();
        container_id
    }

    pub async fn status(&mut self, container: &str) -> cri::ContainerStatus {
        let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: false };
        self.runtime.container_status(request).await.unwrap().into_inner().status.unwrap()
    }

    /// The pid of a container's first process, as `crictl inspect` shows it.
    pub async fn verbose_pid(&mut self, container: &str) -> i64 {
        let request = cri::ContainerStatusRequest { container_id: container.into(), verbose: true };
        let info = self.runtime.container_status(request).await.unwrap().into_inner().info;
        let info: serde_json::Value = serde_json::from_str(&info["info"]).unwrap();
        info["pid"].as_i64().unwrap()
    }

    pub async fn wait_exit(&mut self, container: &str) -> cri::ContainerStatus {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let status = self.status(container).await;
            if status.state() == cri::ContainerState::ContainerExited {
                return status;
            }
            assert!(Instant::now() < end, "{container} does not exit: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn exec(
        &mut self,
        container: &str,
        command: &[&str],
        timeout: i64,
    ) -> Result<cri::ExecSyncResponse, tonic::Status> {
        let request = cri::ExecSyncRequest {
            container_id: container.into(),
            cmd: command.iter().map(|word| word.to_string()).collect(),
            timeout,
        };
        Ok(self.runtime.exec_sync(request).await?.into_inner())
    }

    /// Until something in the container's network listens at each of the ports.
    pub async fn wait_for_ports(&mut self, container: &str, ports: &[u16]) {
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            let shown = self.exec(container, &["busybox", "netstat", "-ltn"], 5).await.unwrap();
            let shown = String::from_utf8(shown.stdout).unwrap();
            if ports.iter().all(|port| shown.contains(&format!(":{port} "))) {
                return;
            }
            assert!(Instant::now() < end, "{container} does not listen at {ports:?}: {shown}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn address(&mut self, pod: &str) -> String {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
        answer.status.unwrap().network.unwrap().ip
    }

    /// Of both families, where the pod has them.
    pub async fn addresses(&mut self, pod: &str) -> Vec<String> {
        let request = cri::PodSandboxStatusRequest { pod_sandbox_id: pod.into(), verbose: false };
        let answer = self.runtime.pod_sandbox_status(request).await.unwrap().into_inner();
        let network = answer.status.unwrap().network.unwrap();
        [network.ip].into_iter().chain(network.additional_ips.into_iter().map(|ip| ip.ip)).collect()
    }

    pub async fn stop(&mut self, container: &str, timeout: i64) {
        let request = cri::StopContainerRequest { container_id: container.into(), timeout };
        self.runtime.stop_container(request).await.unwrap();
    }

    pub async fn stop_pod(&mut self, pod: &str) {
        self.runtime.stop_pod_sandbox(cri::StopPodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
    }

    pub async fn remove_pod(&mut self, pod: &str) {
        self.runtime.remove_pod_sandbox(cri::RemovePodSandboxRequest { pod_sandbox_id: pod.into() }).await.unwrap();
    }
}
