//! As much of an API server as one kubelet needs: its node, its lease, and the pods that are bound to it.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

use crate::testnode::TestNode;

pub const PORT: u16 = 6443;
const PODS: &str = "/api/v1/pods";
const NODES: &str = "/api/v1/nodes";

#[derive(Clone)]
pub struct ApiServer {
    objects: Arc<Mutex<Objects>>,
    /// Version of the last change.
    version: Arc<watch::Sender<usize>>,
}

#[derive(Default)]
struct Objects {
    by_path: BTreeMap<String, Value>,
    /// What happened to pods and nodes, in order, each with where those are listed; an entry's version is its place, from 1.
    history: Vec<(String, Value)>,
}

impl ApiServer {
    /// Listens in the node's network, and ends with the test.
    pub async fn start(node: &TestNode) -> Self {
        let server = Self { objects: Arc::default(), version: Arc::new(watch::Sender::new(0)) };
        let listener = node.inside_thread(|| std::net::TcpListener::bind(("127.0.0.1", PORT)).unwrap());
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let app = axum::Router::new().fallback(answer).with_state(server.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        server
    }

    /// Binds a pod to the node.
    pub fn add(&self, pod: Value) {
        self.change("ADDED", PODS, path_of(&name_of(&pod)), pod);
    }

    /// Changes the pod as a client would, by a function of the object.
    pub fn edit(&self, name: &str, change: impl FnOnce(&mut Value)) {
        let mut pod = self.pod(name).unwrap();
        change(&mut pod);
        self.change("MODIFIED", PODS, path_of(name), pod);
    }

    /// Asks the kubelet to end it, which takes the object away when it is done.
    pub fn delete(&self, name: &str) {
        self.edit(name, |pod| {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            pod["metadata"]["deletionGracePeriodSeconds"] = json!(1);
        });
    }

    pub fn pod(&self, name: &str) -> Option<Value> {
        self.objects.lock().unwrap().by_path.get(&path_of(name)).cloned()
    }

    fn change(&self, kind: &str, list: &str, path: String, mut object: Value) {
        let mut objects = self.objects.lock().unwrap();
        let version = objects.history.len() + 1;
        object["metadata"]["resourceVersion"] = json!(version.to_string());
        match kind {
            "DELETED" => drop(objects.by_path.remove(&path)),
            _ => drop(objects.by_path.insert(path, object.clone())),
        }
        objects.history.push((list.into(), json!({"type": kind, "object": object})));
        drop(objects);
        self.version.send_replace(version);
    }

    /// What happens to the objects of `list` after `seen`, for as long as the client listens.
    fn watch(&self, list: &str, mut seen: usize) -> Body {
        let list = list.to_owned();
        let (events, stream) = mpsc::channel::<Result<Bytes, Infallible>>(16);
        let server = self.clone();
        tokio::spawn(async move {
            let mut version = server.version.subscribe();
            loop {
                let new = server.objects.lock().unwrap().history[seen..].to_vec();
                seen += new.len();
                for (_, event) in new.into_iter().filter(|(of, _)| *of == list) {
                    if events.send(Ok(format!("{event}\n").into())).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    changed = version.changed() => if changed.is_err() { return },
                    () = events.closed() => return,
                }
            }
        });
        Body::from_stream(ReceiverStream::new(stream))
    }
}

fn name_of(object: &Value) -> String {
    object["metadata"]["name"].as_str().unwrap_or_default().to_owned()
}

fn path_of(pod: &str) -> String {
    format!("/api/v1/namespaces/default/pods/{pod}")
}

fn object(status: StatusCode, object: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], object.to_string()).into_response()
}

fn missing(path: &str) -> Response {
    let status = json!({
        "apiVersion": "v1", "kind": "Status", "status": "Failure", "reason": "NotFound", "code": 404, "message": path,
    });
    object(StatusCode::NOT_FOUND, &status)
}

/// Kinds of which there are none.
fn empty_list(path: &str) -> Option<Value> {
    let (group, plural) = path.trim_start_matches("/api/").trim_start_matches("/apis/").rsplit_once('/')?;
    let kind = match plural {
        "services" => "ServiceList",
        "runtimeclasses" => "RuntimeClassList",
        "csidrivers" => "CSIDriverList",
        _ => return None,
    };
    Some(json!({"apiVersion": group, "kind": kind, "metadata": {"resourceVersion": "0"}, "items": []}))
}

/// A strategic merge patch: of the lists in a status, conditions are merged by their type, and any other is replaced.
fn patch_status(status: &mut Value, patch: &Value) {
    for (key, value) in patch.as_object().into_iter().flatten().filter(|(key, _)| !key.starts_with('$')) {
        let Some(new) = value.as_array().filter(|_| key == "conditions") else {
            status[key] = value.clone();
            continue;
        };
        let mut conditions = status[key].as_array().cloned().unwrap_or_default();
        conditions.retain(|old| new.iter().all(|new| new["type"] != old["type"]));
        conditions.extend(new.iter().cloned());
        status[key] = conditions.into();
    }
}

async fn answer(State(server): State<ApiServer>, method: Method, uri: Uri, body: Bytes) -> Response {
    let (path, query) = (uri.path(), uri.query().unwrap_or_default());
    let parameter =
        |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('=')).map(str::to_owned);
    let sent: Value = serde_json::from_slice(&body).unwrap_or_default();
    if method == Method::GET && parameter("watch").is_some_and(|watch| watch == "true" || watch == "1") {
        let seen = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
        let events = match path {
            PODS | NODES => server.watch(path, seen),
            _ => Body::from_stream(tokio_stream::pending::<Result<Bytes, Infallible>>()),
        };
        return ([(header::CONTENT_TYPE, "application/json")], events).into_response();
    }
    let get = |path: &str| server.objects.lock().unwrap().by_path.get(path).cloned();
    let put = |path: &str, value: &Value| server.objects.lock().unwrap().by_path.insert(path.to_owned(), value.clone());
    let is_pod = path.starts_with("/api/v1/namespaces/default/pods/");
    match method {
        Method::GET if path == PODS || path == NODES => {
            let objects = server.objects.lock().unwrap();
            let (kind, below) = if path == PODS { ("PodList", path_of("")) } else { ("NodeList", format!("{path}/")) };
            let items: Vec<&Value> =
                objects.by_path.iter().filter(|(path, _)| path.starts_with(&below)).map(|(_, value)| value).collect();
            let version = objects.history.len().to_string();
            let list =
                json!({"apiVersion": "v1", "kind": kind, "metadata": {"resourceVersion": version}, "items": items});
            object(StatusCode::OK, &list)
        }
        Method::GET => match get(path).or_else(|| empty_list(path)) {
            Some(found) => object(StatusCode::OK, &found),
            None => missing(path),
        },
        Method::POST => {
            server.change("ADDED", path, format!("{path}/{}", name_of(&sent)), sent.clone());
            object(StatusCode::CREATED, &sent)
        }
        Method::PUT => {
            put(path, &sent);
            object(StatusCode::OK, &sent)
        }
        // A kubelet patches nothing but statuses.
        Method::PATCH => match path.strip_suffix("/status").and_then(|path| Some((path, get(path)?))) {
            Some((path, mut found)) => {
                patch_status(&mut found["status"], &sent["status"]);
                let list = if is_pod { PODS } else { NODES };
                server.change("MODIFIED", list, path.to_owned(), found.clone());
                object(StatusCode::OK, &found)
            }
            None => missing(path),
        },
        Method::DELETE if is_pod => match get(path) {
            Some(pod) => {
                server.change("DELETED", PODS, path.to_owned(), pod.clone());
                object(StatusCode::OK, &pod)
            }
            None => missing(path),
        },
        _ => missing(path),
    }
}
