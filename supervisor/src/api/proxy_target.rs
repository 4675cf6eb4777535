//! Which pod, and which port of it, a request for `pods/ID/proxy` or `services/ID/proxy` means. What is connected to is where
//! the node itself has put the pod: what an object says of addresses leads nowhere.

use std::net::{IpAddr, SocketAddr};

use serde_json::Value;

use super::kinds::service_addresses::special;
use super::kinds::{endpoint_slice, integer, pod, service, text};
use super::server::{Api, Target};
use super::status::ApiError;
use crate::controller::node_addresses;
use crate::pod::status::{SandboxState, SandboxStatus};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Scheme {
    Http,
    Https,
}

/// Where a request goes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upstream {
    pub(super) scheme: Scheme,
    pub(super) address: SocketAddr,
}

/// `[SCHEME:]NAME[:PORT]`; what is left out is empty.
#[derive(Debug, PartialEq, Eq)]
struct Id<'a> {
    scheme: Scheme,
    name: &'a str,
    port: &'a str,
}

impl<'a> Id<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, name, port) = match *text.split(':').collect::<Vec<_>>() {
            [name] => ("", name, ""),
            [name, port] => ("", name, port),
            [scheme, name, port] => (scheme, name, port),
            _ => return None,
        };
        let scheme = match scheme {
            "" | "http" => Scheme::Http,
            "https" => Scheme::Https,
            _ => return None,
        };
        (!name.is_empty()).then_some(Self { scheme, name, port })
    }
}

/// Finds it.
pub(super) fn find(api: &Api, target: Target<'_>) -> Result<Upstream, ApiError> {
    let Target { kind, namespace, name } = target;
    let invalid = || ApiError::BadRequest(format!("invalid {} request {name:?}", kind.singular));
    let id = Id::parse(name).ok_or_else(invalid)?;
    let address = match std::ptr::eq(kind, &service::KIND) {
        true => behind_service(api, namespace, &id)?,
        false => {
            let object = api.objects.get(&pod::KIND, namespace, id.name)?;
            let port = match id.port {
                "" => first_port(&object, id.scheme),
                number => number.parse().ok().filter(|port| *port != 0).ok_or_else(invalid)?,
            };
            let addresses = own_addresses(api, &object);
            let first = addresses.first().ok_or_else(|| unavailable(format!("pod {:?} does not run", id.name)))?;
            SocketAddr::new(*first, port)
        }
    };
    // As Kubernetes: nothing of the node's own loopback is reached, whatever the network says that the pod has.
    if special(address.ip()).is_some() {
        return Err(ApiError::BadRequest("address not allowed".into()));
    }
    Ok(Upstream { scheme: id.scheme, address })
}

fn unavailable(message: String) -> ApiError {
    ApiError::ServiceUnavailable(message)
}

/// The first that a container of the pod says it has.
fn first_port(pod: &Value, scheme: Scheme) -> u16 {
    let containers = pod::items(&pod["spec"], "containers").iter();
    let mut ports = containers.filter_map(|container| pod::items(container, "ports").first());
    let first = ports.next().and_then(|port| u16::try_from(integer(port, "/containerPort")).ok());
    first.unwrap_or(if scheme == Scheme::Https { 443 } else { 80 })
}

/// Addresses of a pod while it runs: those that the node gave it, or the node's own where it has no network to itself.
fn own_addresses(api: &Api, pod: &Value) -> Vec<IpAddr> {
    let newest = api.node.sandboxes_of(text(pod, "/metadata/uid")).pop();
    let Some(SandboxStatus { addresses, .. }) = newest.filter(|sandbox| sandbox.state == SandboxState::Ready) else {
        return Vec::new();
    };
    match pod["spec"]["hostNetwork"] == true {
        true => node_addresses(true).to_vec(),
        false => addresses,
    }
}

/// A ready endpoint of a Service that is a pod of its namespace, any of them.
fn behind_service(api: &Api, namespace: &str, id: &Id<'_>) -> Result<SocketAddr, ApiError> {
    let none = || unavailable(format!("no endpoints available for service {:?}", id.name));
    let service = api.objects.get(&service::KIND, namespace, id.name)?;
    let port_name = match id.port.parse::<i64>() {
        Ok(number) => {
            let ports = pod::items(&service["spec"], "ports");
            let port = ports.iter().find(|port| integer(port, "/port") == number);
            let missing = || unavailable(format!("no service port {number} found for service {:?}", id.name));
            text(port.ok_or_else(missing)?, "/name")
        }
        Err(_) => id.port,
    };
    let (mut slices, _) = api.objects.list(&endpoint_slice::KIND, Some(namespace));
    slices.retain(|slice| slice["metadata"]["labels"][endpoint_slice::SERVICE_LABEL] == id.name);
    let mut candidates = Vec::new();
    for slice in &slices {
        let port = pod::items(slice, "ports").iter().find(|port| text(port, "/name") == port_name);
        let Some(port) = port.and_then(|port| u16::try_from(integer(port, "/port")).ok()).filter(|port| *port != 0)
        else {
            continue;
        };
        let ready = |endpoint: &&Value| endpoint["conditions"]["ready"].as_bool().unwrap_or(true);
        candidates.extend(pod::items(slice, "endpoints").iter().filter(ready).map(|endpoint| (endpoint, port)));
    }
    let start = usize::from(uuid::Uuid::new_v4().as_bytes()[0]) % candidates.len().max(1);
    let (before, after) = candidates.split_at(start);
    let mut found = after.iter().chain(before).filter_map(|(endpoint, port)| {
        let named = &endpoint["targetRef"];
        let is_own = named["kind"] == "Pod" && text(named, "/namespace") == namespace;
        let pod = api.objects.get(&pod::KIND, namespace, text(named, "/name")).ok().filter(|_| is_own)?;
        let said: IpAddr = pod::items(endpoint, "addresses").first()?.as_str()?.parse().ok()?;
        let own = own_addresses(api, &pod).into_iter().find(|address| *address == said)?;
        Some(SocketAddr::new(own, *port))
    });
    found.next().ok_or_else(none)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_id_has_a_scheme_and_a_port_at_most() {
        let id = |scheme, name, port| Some(Id { scheme, name, port });
        assert_eq!(Id::parse("web"), id(Scheme::Http, "web", ""));
        assert_eq!(Id::parse("web:80"), id(Scheme::Http, "web", "80"));
        assert_eq!(Id::parse("http:web:"), id(Scheme::Http, "web", ""));
        assert_eq!(Id::parse("https:web:metrics"), id(Scheme::Https, "web", "metrics"));
        assert_eq!(Id::parse(":web:80"), id(Scheme::Http, "web", "80"));
        for wrong in ["", ":80", "ftp:web:80", "https::80", "a:b:c:d", "HTTP:web:80"] {
            assert_eq!(Id::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_pod_s_first_port_is_meant_where_none_is_named() {
        let pod = json!({"spec": {"containers": [{}, {"ports": [{"containerPort": 8080}, {"containerPort": 81}]}]}});
        assert_eq!(first_port(&pod, Scheme::Http), 8080);
        let none = json!({"spec": {"containers": [{}]}});
        assert_eq!((first_port(&none, Scheme::Http), first_port(&none, Scheme::Https)), (80, 443));
    }
}
