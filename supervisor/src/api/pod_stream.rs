//! `exec` and `attach` of a pod's containers, over a WebSocket.

use axum::extract::ws::WebSocketUpgrade;
use axum::response::Response;

use super::kinds::{pod, text};
use super::query::Query;
use super::server::Api;
use super::status::ApiError;
use crate::pod::PodError;
use crate::pod::spec::ExecConfig;
use crate::pod::status::{ContainerState, ContainerStatus};
use crate::streaming::websocket::{ChannelProtocol, PROTOCOLS, serve_attach, serve_exec};

pub(super) async fn serve(
    api: &Api,
    namespace: &str,
    name: &str,
    subresource: &str,
    query: &Query,
    upgrade: WebSocketUpgrade,
) -> Result<Response, ApiError> {
    let container = running_container(api, namespace, name, query.get("container"))?;
    let upgrade = upgrade.protocols(PROTOCOLS);
    let protocol = upgrade
        .selected_protocol()
        .and_then(|name| name.to_str().ok())
        .and_then(ChannelProtocol::from_name)
        .ok_or_else(|| ApiError::BadRequest(format!("no common subprotocol: offer one of {}", PROTOCOLS.join(", "))))?;
    let (stdin, stdout, stderr) = (query.flag("stdin"), query.flag("stdout"), query.flag("stderr"));
    if subresource == "attach" {
        let session = api.node.attach(&container.id, stdin, stdout, stderr).await.map_err(api_error)?;
        return Ok(upgrade.on_upgrade(move |socket| serve_attach(socket, session, protocol)));
    }
    let argv: Vec<String> = query.all("command").map(str::to_owned).collect();
    if argv.is_empty() {
        return Err(ApiError::BadRequest("command: at least one word is needed".into()));
    }
    let config = ExecConfig { argv, tty: query.flag("tty"), stdin, stdout, stderr, timeout: None };
    let session = api.node.exec(&container.id, config).await.map_err(api_error)?;
    Ok(upgrade.on_upgrade(move |socket| serve_exec(socket, session, protocol)))
}

/// The newest container of the pod under that name, which must run.
fn running_container(
    api: &Api,
    namespace: &str,
    name: &str,
    container: Option<&str>,
) -> Result<ContainerStatus, ApiError> {
    let (pod, container) = chosen_container(api, namespace, name, container)?;
    let uid = text(&pod, "/metadata/uid");
    let sandbox =
        api.node.sandboxes().into_iter().filter(|s| s.config.name.uid == uid).max_by_key(|s| s.config.name.attempt);
    let status = sandbox.and_then(|sandbox| {
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
    let names: Vec<&str> = ["containers", "initContainers"]
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
