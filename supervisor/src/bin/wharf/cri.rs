//! The node's CRI door, for what the API has no word for: ending one container of a pod that stays, and what the node knows.

use std::path::Path;

use anyhow::anyhow;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use wharf_specs::cri::StopContainerRequest;
use wharf_specs::cri::runtime_service_client::RuntimeServiceClient;

use crate::NodeArguments;
use crate::client::is_refused;

const SOCKET: &str = "wharfd.sock";
const MAX_ANSWER_BYTES: usize = 64 << 20;
/// What the status of a pod puts before a container's id.
pub(crate) const ID_SCHEME: &str = "wharf://";

/// Connects to the node's CRI socket.
pub(crate) async fn connect(node: &NodeArguments) -> anyhow::Result<RuntimeServiceClient<Channel>> {
    let socket = node.state.join(SOCKET);
    let connect = {
        let socket = socket.clone();
        tower::service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(hyper_util::rt::TokioIo::new) }
        })
    };
    let channel = Endpoint::from_static("http://wharfd").connect_with_connector(connect).await;
    let channel = channel.map_err(|error| no_node(error, &socket))?;
    // A node with many pods has much to say.
    Ok(RuntimeServiceClient::new(channel).max_decoding_message_size(MAX_ANSWER_BYTES))
}

/// Asks a container to end, kills it after the grace, and returns once it has ended.
pub(crate) async fn stop_container(node: &NodeArguments, id: &str, grace_seconds: i64) -> anyhow::Result<()> {
    let mut runtime = connect(node).await?;
    let container_id = id.strip_prefix(ID_SCHEME).unwrap_or(id).to_owned();
    let request = StopContainerRequest { container_id, timeout: grace_seconds };
    match runtime.stop_container(request).await {
        Ok(_) => Ok(()),
        Err(status) => Err(anyhow!("{}", status.message())),
    }
}

fn no_node(error: tonic::transport::Error, socket: &Path) -> anyhow::Error {
    match is_refused(&error) {
        true => anyhow!("no node answers at {}: start `wharfd`, or name its directory with --state", socket.display()),
        false => anyhow!(error).context(format!("connect to {}", socket.display())),
    }
}
