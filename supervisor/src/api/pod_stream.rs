//! `exec`, `attach` and `portforward` of pods, over SPDY or a WebSocket.

use axum::response::{IntoResponse, Response};
use http::request::Parts;

use super::kinds::{pod, text};
use super::query::Query;
use super::server::Api;
use super::status::ApiError;
use crate::pod::PodError;
use crate::pod::spec::ExecConfig;
use crate::pod::status::{ContainerState, ContainerStatus, SandboxStatus};
use crate::streaming::port_forward::{PortForward, Target};
use crate::streaming::remote_command::{RemoteCommand, Session, Streams};

pub(super) async fn serve(
    api: &Api,
    namespace: &str,
    name: &str,
    subresource: &str,
    query: &Query,
    parts: &mut Parts,
) -> Result<Response, ApiError> {
    if subresource == "portforward" {
        return port_forward(api, namespace, name, query, parts).await;
    }
    let container = running_container(api, namespace, name, query.get("container"))?;
    let upgrade = match RemoteCommand::negotiate(parts).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    let (stdin, stdout, stderr) = (query.flag("stdin"), query.flag("stdout"), query.flag("stderr"));
    let streams = Streams { stdin, stdout, stderr };
    // Begun before the upgrade, so that a refusal is the request's answer.
    let session = if subresource == "attach" {
        Session::Attach(api.node.attach(&container.id, stdin, stdout, stderr).await.map_err(api_error)?)
    } else {
        let argv: Vec<String> = query.all("command").map(str::to_owned).collect();
        if argv.is_empty() {
            return Err(ApiError::BadRequest("command: at least one word is needed".into()));
        }
        let config = ExecConfig { argv, tty: query.flag("tty"), stdin, stdout, stderr, timeout: None };
        Session::Exec(api.node.exec(&container.id, config).await.map_err(api_error)?)
    };
    Ok(upgrade.accept(streams, async move { Ok(session) }))
}

async fn port_forward(
    api: &Api,
    namespace: &str,
    name: &str,
    query: &Query,
    parts: &mut Parts,
) -> Result<Response, ApiError> {
    let object = api.objects.get(&pod::KIND, namespace, name)?;
    let sandbox = sandbox_of(api, &object)
        .ok_or_else(|| ApiError::BadRequest(format!("pod {namespace}/{name} is not running on this node yet")))?;
    let ports = query.all("ports").flat_map(|ports| ports.split(',')).filter(|port| !port.is_empty());
    let ports = ports.map(|port| match port.parse() {
        Ok(0) | Err(_) => Err(ApiError::BadRequest(format!("ports: {port:?} is not a port number"))),
        Ok(port) => Ok(port),
    });
    let ports = ports.collect::<Result<_, _>>()?;
    let upgrade = match PortForward::negotiate(parts).await {
        Ok(upgrade) => upgrade,
        Err(refusal) => return Ok(refusal.into_response()),
    };
    Ok(upgrade.accept(Target::of(&api.node, &sandbox.id, ports).await.map_err(api_error)?))
}

/// The newest sandbox of the pod.
fn sandbox_of(api: &Api, pod: &serde_json::Value) -> Option<SandboxStatus> {
    api.node.sandboxes_of(text(pod, "/metadata/uid")).pop()
}

/// The newest container of the pod under that name, which must run.
fn running_container(
    api: &Api,
    namespace: &str,
    name: &str,
    container: Option<&str>,
) -> Result<ContainerStatus, ApiError> {
    let (pod, container) = chosen_container(api, namespace, name, container)?;
    let status = sandbox_of(api, &pod).and_then(|sandbox| {
        let containers = api.node.containers_of(&sandbox.id).into_iter();
        containers.filter(|c| c.config.name == container).max_by_key(|c| c.config.attempt)
    });
    match status {
        Some(status) if status.state == ContainerState::Running => Ok(status),
        Some(_) => Err(ApiError::BadRequest(format!("container {container} of pod {namespace}/{name} is not running"))),
        None => {
            Err(ApiError::BadRequest(format!("container {container} of pod {namespace}/{name} is not created yet")))
        }
    }
}

/// The pod, and the container that is meant: the only one where none was named.
pub(super) fn chosen_container(
    api: &Api,
    namespace: &str,
    name: &str,
    container: Option<&str>,
) -> Result<(std::sync::Arc<serde_json::Value>, String), ApiError> {
    let object = api.objects.get(&pod::KIND, namespace, name)?;
    let names: Vec<&str> = ["containers", "initContainers", "ephemeralContainers"]
        .iter()
        .flat_map(|list| pod::items(&object["spec"], list))
        .map(|container| text(container, "/name"))
        .collect();
    let chosen = match container.filter(|name| !name.is_empty()) {
        Some(wanted) if names.contains(&wanted) => wanted.to_owned(),
        Some(wanted) => {
            let message =
                format!("container {wanted} is not valid for pod {name}: choose one of: {}", names.join(", "));
            return Err(ApiError::BadRequest(message));
        }
        None if pod::items(&object["spec"], "containers").len() == 1 => names[0].to_owned(),
        None => {
            let message =
                format!("a container name must be specified for pod {name}, choose one of: {}", names.join(", "));
            return Err(ApiError::BadRequest(message));
        }
    };
    Ok((object, chosen))
}

fn api_error(error: PodError) -> ApiError {
    match error {
        PodError::NotFound { what, id } => ApiError::NotFound { resource: what.into(), name: id },
        PodError::Invalid { .. } | PodError::WrongState { .. } => ApiError::BadRequest(error.to_string()),
        other => ApiError::Internal(other.to_string()),
    }
}
