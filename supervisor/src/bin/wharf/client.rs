//! The node's API over its socket.

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use anyhow::{Context as _, bail};
use futures_util::AsyncBufRead;
use http::{Method, Request, Uri, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::Value;
use tokio::net::UnixStream;
use wharf_supervisor::api::kinds::{Kind, is_path_segment, role};

const SOCKET: &str = "api.sock";

/// A client of one node.
pub(crate) struct Client {
    kube: kube::Client,
    socket: PathBuf,
}

/// Connects to the socket whatever the URI says.
#[derive(Clone)]
struct Connect {
    socket: PathBuf,
}

impl tower::Service<Uri> for Connect {
    type Response = TokioIo<UnixStream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let socket = self.socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    }
}

impl Client {
    /// A client of the node whose sockets lie in `state`. Nothing is connected yet.
    pub(crate) fn new(state: &Path) -> anyhow::Result<Self> {
        let socket = state.join(SOCKET);
        let pool = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        let http = pool.build::<_, kube::client::Body>(Connect { socket: socket.clone() });
        let service = tower::util::MapRequest::new(http, |mut request: Request<kube::client::Body>| {
            let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
            if let Ok(uri) = Uri::builder().scheme("http").authority("wharfd").path_and_query(path).build() {
                *request.uri_mut() = uri;
            }
            request
        });
        Ok(Self { kube: kube::Client::new(service, "default"), socket })
    }

    /// For what the `kube` crate does itself: exec and attach.
    pub(crate) fn kube(&self) -> kube::Client {
        self.kube.clone()
    }

    pub(crate) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.send(Method::GET, path, &[], Vec::new()).await
    }

    /// The server's table of what is at `path`.
    pub(crate) async fn table(&self, path: &str) -> anyhow::Result<Value> {
        let accept = (header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io,application/json");
        self.send(Method::GET, path, &[accept], Vec::new()).await
    }

    pub(crate) async fn create(&self, path: &str, object: &Value) -> anyhow::Result<Value> {
        let json = (header::CONTENT_TYPE, "application/json");
        self.send(Method::POST, path, &[json], serde_json::to_vec(object)?).await
    }

    /// An RFC 7386 patch.
    pub(crate) async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let merge = (header::CONTENT_TYPE, "application/merge-patch+json");
        self.send(Method::PATCH, path, &[merge], serde_json::to_vec(patch)?).await
    }

    /// An RFC 6902 patch.
    pub(crate) async fn json_patch(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let json_patch = (header::CONTENT_TYPE, "application/json-patch+json");
        self.send(Method::PATCH, path, &[json_patch], serde_json::to_vec(patch)?).await
    }

    pub(crate) async fn delete(&self, path: &str, options: &Value) -> anyhow::Result<Value> {
        let json = (header::CONTENT_TYPE, "application/json");
        self.send(Method::DELETE, path, &[json], serde_json::to_vec(options)?).await
    }

    /// Lines of an answer that may go on for ever: a watch, a log.
    pub(crate) async fn lines(&self, path: &str, table: bool) -> anyhow::Result<impl AsyncBufRead + use<>> {
        let mut request = Request::get(path);
        if table {
            request = request.header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io");
        }
        let request = request.body(Vec::new())?;
        self.kube.request_stream(request).await.map_err(|error| self.explain(error))
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(header::HeaderName, &str)],
        body: Vec<u8>,
    ) -> anyhow::Result<Value> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let text = self.kube.request_text(request.body(body)?).await.map_err(|error| self.explain(error))?;
        serde_json::from_str(&text).context("read the node's answer")
    }

    /// The API's own message, or what to do where there is no answer.
    pub(crate) fn explain(&self, error: kube::Error) -> anyhow::Error {
        match error {
            kube::Error::Api(status) => {
                anyhow::Error::new(Refused { code: status.code, message: status.message.clone() })
            }
            other if is_refused(&other) => anyhow::anyhow!(
                "no node answers at {}: start `wharfd`, or name its directory with --state",
                self.socket.display()
            ),
            other => anyhow::Error::new(other),
        }
    }
}

/// The API's refusal.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Refused {
    pub(crate) code: u16,
    pub(crate) message: String,
}

/// Whether the API said that there is no such object.
pub(crate) fn is_not_found(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == 404)
}

/// Whether the API said that the name is in use.
pub(crate) fn is_conflict(error: &anyhow::Error) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.code == 409)
}

/// Whether nobody listens at the socket, or not for us.
pub(crate) fn is_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<io::Error>() {
            return matches!(
                io.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused | io::ErrorKind::PermissionDenied
            );
        }
        cause = error.source();
    }
    false
}

/// Path of a kind's objects, of one of them where a name is given.
pub(crate) fn path(kind: &Kind, namespace: Option<&str>, name: Option<&str>) -> anyhow::Result<String> {
    let mut path = match kind.group {
        "" => format!("/api/{}", kind.version),
        group => format!("/apis/{group}/{}", kind.version),
    };
    if let Some(namespace) = namespace.filter(|_| kind.namespaced) {
        path += &format!("/namespaces/{}", checked(namespace)?);
    }
    path += &format!("/{}", kind.plural);
    match name {
        // Roles have names such as system:discovery.
        Some(name) if kind.group == role::GROUP && is_path_segment(name) => path += &format!("/{}", encoded(name)),
        Some(name) => path += &format!("/{}", checked(name)?),
        None => {}
    }
    Ok(path)
}

/// A name that can stand in a path as it is.
fn checked(name: &str) -> anyhow::Result<&str> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if name.is_empty() || name == "." || name == ".." || !name.chars().all(allowed) {
        bail!("{name:?} is not a name");
    }
    Ok(name)
}

/// Encodes a query value.
pub(crate) fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { (byte as char).to_string() } else { format!("%{byte:02X}") }).collect()
}
