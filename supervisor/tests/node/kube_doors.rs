//! kube's clients of a node, over each of its ways in: the API's socket, TLS with a certificate, TLS with a token.

use std::path::PathBuf;
use std::time::Duration;

use http::{Request, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use tokio::net::UnixStream;

use crate::replicas::wharf;
use crate::testnode::{self, Options, TestNode};

/// Above what any of these tests takes, so that one that waits for nothing ends.
const LIMIT: Duration = Duration::from_secs(120);

/// In the node's own network.
pub const ADDRESS: &str = "127.0.0.1:6443";

/// A node whose API is served over TLS, too.
pub async fn start(test: &str) -> Option<TestNode> {
    let keys = format!("api.listen = {ADDRESS:?}\napi.names = [\"node.example\"]\n");
    testnode::start_with(test, |_| Options { keys, ..Options::default() }).await
}

/// Does `work` with a client of each way in, and its name.
pub fn over_each_door<W>(node: &TestNode, work: fn(Client, &'static str) -> W)
where
    W: Future<Output = ()> + Send + 'static,
{
    let socket = node.path("run/api.sock");
    let certificate = wharf(node, &["kubeconfig"]);
    let token = wharf(node, &["kubeconfig", "--token", "--user", "robot", "--days", "1"]);
    assert!(!token.contains("client-key-data") && token.contains("token:"), "{token}");
    let limited =
        move |client, name| async move { tokio::time::timeout(LIMIT, work(client, name)).await.expect("an end") };
    inside(node, move || async move { limited(of_socket(socket), "socket").await });
    inside(node, move || async move { limited(of_kubeconfig(&certificate).await, "certificate").await });
    inside(node, move || async move { limited(of_kubeconfig(&token).await, "token").await });
}

/// Runs a future in the node's network.
pub fn inside<W: Future<Output = ()>>(node: &TestNode, work: impl FnOnce() -> W + Send + 'static) {
    node.inside_thread(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(work());
    });
}

pub async fn of_kubeconfig(text: &str) -> Client {
    let (kubeconfig, options) = (Kubeconfig::from_yaml(text).unwrap(), KubeConfigOptions::default());
    let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    Client::try_from(config).unwrap()
}

pub fn of_socket(socket: PathBuf) -> Client {
    let connect = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        Box::pin(async move { UnixStream::connect(socket).await.map(TokioIo::new) })
    });
    let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build::<_, Body>(connect);
    let service = tower::util::MapRequest::new(http, |mut request: Request<Body>| {
        let path = request.uri().path_and_query().unwrap().clone();
        *request.uri_mut() = Uri::builder().scheme("http").authority("wharfd").path_and_query(path).build().unwrap();
        request
    });
    Client::new(service, "default")
}
