//! The kubelet's door: Kubernetes' CRI `runtime.v1` over gRPC on a unix socket.
//!
//! | file | job |
//! |---|---|
//! | [`runtime`] | `RuntimeService`: one short function for each call |
//! | [`image`] | `ImageService` |
//! | `sandbox`, `container`, `mount`, `stats`, `metrics`, `events` | the wire's messages from and to the engine's nouns |
//! | `figures` | which figures are read for stats and metrics |
//! | `runtime_status` | what `Status` says |
//! | `streams` | what exec, attach and port-forward are checked for before they get a URL |
//! | `encoded_list` | long lists, written from where their entries lie |
//! | `chunks` | lists as streams |
//! | [`status`] | which gRPC code a failure has |
//!
//! What a message asks for and Wharf does not do is refused with the field's name, never ignored.

mod chunks;
mod container;
mod deadline;
mod encoded_list;
mod events;
mod figures;
mod image;
mod metric_descriptors;
mod metrics;
mod mount;
mod resources;
mod runtime;
mod runtime_status;
mod sandbox;
mod signal;
mod stats;
mod status;
mod streams;

use std::future::Future;
use std::path::Path;
use std::time::Duration;

use tokio::net::UnixListener;
use tokio_stream::wrappers::UnixListenerStream;
use wharf_specs::cri::image_service_server::ImageServiceServer;
use wharf_specs::cri::runtime_service_server::RuntimeServiceServer;

use crate::pod::Node;
use crate::streaming::StreamingServer;

/// The kubelet's own limit for one message, both ways.
const MAX_MESSAGE_BYTES: usize = 16 << 20;

/// How long calls in flight may take once the daemon is to end.
const SHUTDOWN_GRACE: Duration = Duration::from_secs(2);

/// Serves both services on `listener` until `shutdown` resolves.
pub async fn serve(
    node: Node,
    streaming: StreamingServer,
    listener: UnixListener,
    shutdown: impl Future<Output = ()>,
) -> Result<(), tonic::transport::Error> {
    let runtime = RuntimeServiceServer::new(runtime::Runtime::new(node.clone(), streaming))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let images = ImageServiceServer::new(image::Images::new(node))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let (ending, ended) = tokio::sync::oneshot::channel::<()>();
    let server = tonic::transport::Server::builder()
        .layer(tower::layer::layer_fn(deadline::Deadline))
        .add_service(runtime)
        .add_service(images)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), async {
            let _ = ended.await;
        });
    tokio::pin!(server);
    tokio::select! {
        outcome = &mut server => return outcome,
        () = shutdown => {}
    }
    let _ = ending.send(());
    // A pull or a stop may have minutes to go; its client tries again with the next daemon.
    tokio::time::timeout(SHUTDOWN_GRACE, server).await.unwrap_or(Ok(()))
}

/// Binds a socket that only root may use; one that a dead daemon left is replaced.
pub fn bind(path: &Path) -> std::io::Result<UnixListener> {
    use std::os::unix::fs::PermissionsExt;
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}
