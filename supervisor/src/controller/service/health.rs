//! A small HTTP server for each Service whose load balancer sends to nodes with endpoints alone (`healthCheckNodePort`): it
//! answers 200 as long as this node has some, and 503 otherwise, as kube-proxy does.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use crate::api::kinds::{endpoint_slice, integer, pod, service, text};

/// Anybody may ask: so many at once, of all Services together; more wait in the kernel's queue.
const ASKERS_MAX: usize = 64;
/// Whole length of a connection: load balancers ask anew each time.
const CONNECTION_LIMIT: Duration = Duration::from_secs(10);
/// After the kernel refused a connection, for want of descriptors as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Which Service is asked for at a port.
type Name = (String, String);

/// The servers of all Services.
pub(super) struct HealthChecks {
    ports: BTreeMap<u16, HealthCheck>,
    /// Ports that could not be had when they were last tried.
    refused: BTreeSet<u16>,
    places: Arc<Semaphore>,
}

impl Default for HealthChecks {
    fn default() -> Self {
        Self { ports: BTreeMap::new(), refused: BTreeSet::new(), places: Arc::new(Semaphore::new(ASKERS_MAX)) }
    }
}

struct HealthCheck {
    of: Name,
    endpoints: Arc<AtomicUsize>,
    server: JoinHandle<()>,
}

impl Drop for HealthCheck {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl HealthChecks {
    /// Serves at the ports that `services` say, what `slices` have on this `node`; false where a port could not be had.
    pub(super) async fn keep(&mut self, services: &[Arc<Value>], slices: &[Arc<Value>], node: &str) -> bool {
        let wanted = wanted(services, slices, node);
        let is_wanted = |port: &u16, check: &HealthCheck| wanted.get(port).is_some_and(|(of, _)| *of == check.of);
        let gone: Vec<u16> =
            self.ports.iter().filter(|(port, check)| !is_wanted(port, check)).map(|(port, _)| *port).collect();
        for mut check in gone.iter().filter_map(|port| self.ports.remove(port)).collect::<Vec<_>>() {
            check.server.abort();
            // Its port is free then.
            let _ = (&mut check.server).await;
        }
        let before = std::mem::take(&mut self.refused);
        for (port, (of, count)) in wanted {
            if let Some(check) = self.ports.get(&port) {
                check.endpoints.store(count, Ordering::Relaxed);
                continue;
            }
            match listen(port).await {
                Ok(listener) => {
                    let endpoints = Arc::new(AtomicUsize::new(count));
                    let server = serve(listener, of.clone(), endpoints.clone(), self.places.clone());
                    self.ports.insert(port, HealthCheck { of, endpoints, server: tokio::spawn(server) });
                }
                Err(error) => {
                    // Said once, tried again and again.
                    if !before.contains(&port) {
                        let (namespace, service) = of;
                        tracing::error!(namespace, service, port, %error, "listen at the healthCheckNodePort");
                    }
                    self.refused.insert(port);
                }
            }
        }
        self.refused.is_empty()
    }
}

/// Ports, the Services they are of, and how many of their endpoints on this node are ready.
fn wanted(services: &[Arc<Value>], slices: &[Arc<Value>], node: &str) -> BTreeMap<u16, (Name, usize)> {
    let checked = services.iter().filter(|service| service::has_health_check(service));
    let of_service = |service: &Arc<Value>| {
        let port = u16::try_from(integer(service, "/spec/healthCheckNodePort")).ok().filter(|port| *port != 0)?;
        let name = ["namespace", "name"].map(|field| text(&service["metadata"], &format!("/{field}")));
        let own = slices.iter().filter(|slice| {
            let of = &slice["metadata"]["labels"][endpoint_slice::SERVICE_LABEL];
            *of == name[1] && text(slice, "/metadata/namespace") == name[0]
        });
        let endpoints = own.flat_map(|slice| pod::items(slice, "endpoints"));
        let is_ready = |endpoint: &&Value| {
            text(endpoint, "/nodeName") == node && endpoint["conditions"]["ready"].as_bool().unwrap_or(true)
        };
        let addresses: BTreeSet<&str> = endpoints
            .filter(is_ready)
            .filter_map(|endpoint| pod::items(endpoint, "addresses").first()?.as_str())
            .collect();
        Some((port, (name.map(str::to_owned).into(), addresses.len())))
    };
    checked.filter_map(of_service).collect()
}

/// At every address of the node.
async fn listen(port: u16) -> std::io::Result<TcpListener> {
    let both = TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port))).await;
    match both {
        Err(error) if error.kind() != std::io::ErrorKind::AddrInUse => {
            TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port))).await
        }
        both => both,
    }
}

async fn serve(listener: TcpListener, of: Name, endpoints: Arc<AtomicUsize>, places: Arc<Semaphore>) {
    // Those that are asking go with the server.
    let mut askers = tokio::task::JoinSet::new();
    loop {
        while askers.try_join_next().is_some() {}
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "accept at a healthCheckNodePort");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let (of, endpoints) = (of.clone(), endpoints.clone());
        askers.spawn(async move {
            let service = service_fn(|_| {
                let answer = answer(&of, endpoints.load(Ordering::Relaxed));
                async { Ok::<_, Infallible>(answer) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .keep_alive(false)
                .serve_connection(TokioIo::new(stream), service);
            let _ = tokio::time::timeout(CONNECTION_LIMIT, connection).await;
            drop(place);
        });
    }
}

/// What kube-proxy says, whatever path is asked for.
fn answer((namespace, name): &Name, endpoints: usize) -> Response<Full<Bytes>> {
    let body = json!({"service": {"namespace": namespace, "name": name}, "localEndpoints": endpoints,
        "serviceProxyHealthy": true});
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = if endpoints == 0 { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("X-Load-Balancing-Endpoint-Weight", endpoints.into());
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_endpoints_of_this_node_are_counted_once() {
        let service = |name: &str, policy: &str, port: i64| {
            Arc::new(json!({"metadata": {"name": name, "namespace": "default"}, "spec": {"type": "LoadBalancer",
                "externalTrafficPolicy": policy, "healthCheckNodePort": port}}))
        };
        let services =
            [service("web", "Local", 30_001), service("idle", "Local", 30_002), service("spread", "Cluster", 30_003)];
        let slice = |namespace: &str, endpoints: Value| {
            Arc::new(json!({"metadata": {"namespace": namespace, "labels": {"kubernetes.io/service-name": "web"}},
                "endpoints": endpoints}))
        };
        let here = |ip: &str, ready: bool| json!({"addresses": [ip], "nodeName": "node", "conditions": {"ready": ready, "serving": true}});
        let far = json!({"addresses": ["10.0.0.9"], "nodeName": "other"});
        let slices = [
            slice("default", json!([here("10.0.0.1", true), here("10.0.0.2", false), far])),
            slice("default", json!([here("10.0.0.1", true), here("10.0.0.3", true)])),
            slice("other", json!([here("10.0.0.4", true)])),
        ];
        let found: Vec<_> =
            wanted(&services, &slices, "node").into_iter().map(|(port, (of, count))| (port, of.1, count)).collect();
        assert_eq!(found, [(30_001, "web".to_owned(), 2), (30_002, "idle".to_owned(), 0)]);
    }
}
