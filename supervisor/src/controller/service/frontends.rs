//! What is at a Service's ports: which of its endpoints serve.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use serde_json::Value;

use crate::api::kinds::service_addresses::special;
use crate::api::kinds::{endpoint_slice, integer, pod, service, text};
use crate::network::services::{Backends, Frontend, SourceRange};
use crate::pod::spec::Protocol;

/// The ports of all `services` at each of their addresses, with the endpoints that `slices` have for them. `node` is this
/// one's name.
pub(super) fn frontends(services: &[Arc<Value>], slices: &[Arc<Value>], node: &str) -> Vec<Frontend> {
    let mut by_service: BTreeMap<(&str, &str), Vec<&Value>> = BTreeMap::new();
    for slice in slices {
        if let Some(name) = slice["metadata"]["labels"].get(endpoint_slice::SERVICE_LABEL).and_then(Value::as_str) {
            by_service.entry((text(slice, "/metadata/namespace"), name)).or_default().push(slice);
        }
    }
    let of_service = |service: &&Arc<Value>| {
        let name = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
        let own = by_service.get(&name).map_or(&[][..], Vec::as_slice);
        let mut made = Vec::new();
        for ip in service::cluster_ips(service) {
            let family = service::family_of(ip);
            let own: Vec<&Value> = own.iter().copied().filter(|slice| slice["addressType"] == family).collect();
            let ports = pod::items(&service["spec"], "ports").iter();
            made.extend(ports.filter_map(|port| frontend(service, ip, port, &own, node)));
        }
        made
    };
    // Of several that claim an external address, the oldest has it.
    let mut services: Vec<&Arc<Value>> = services.iter().collect();
    services.sort_by_key(|service| text(service, "/metadata/creationTimestamp"));
    services.iter().flat_map(of_service).collect()
}

fn frontend(service: &Value, cluster_ip: IpAddr, port: &Value, slices: &[&Value], node: &str) -> Option<Frontend> {
    let spec = &service["spec"];
    let protocol = match text(port, "/protocol") {
        "UDP" => Protocol::Udp,
        "SCTP" => Protocol::Sctp,
        _ => Protocol::Tcp,
    };
    let is_of_family = |ip: &IpAddr| ip.is_ipv4() == cluster_ip.is_ipv4();
    let mut endpoints = endpoints(slices, port, node);
    endpoints.retain(|endpoint| is_of_family(&endpoint.address.ip()));
    let backends = |policy: &str| choose(&endpoints, text(spec, policy) == "Local");
    let external = pod::items(spec, "externalIPs").iter().flat_map(Value::as_str);
    let ingress = pod::items(&service["status"]["loadBalancer"], "ingress").iter();
    // One that is not virtual sends to the node's port by itself.
    let virtual_ones = ingress.filter(|ingress| ingress["ipMode"] != "Proxy").map(|ingress| text(ingress, "/ip"));
    // Of what is written into the status nothing is checked before.
    let usable = |ip: &IpAddr| is_of_family(ip) && special(*ip).is_none();
    let given: BTreeSet<IpAddr> = virtual_ones.flat_map(str::parse).filter(usable).collect();
    let mut external_ips: BTreeSet<IpAddr> = external.flat_map(str::parse).filter(usable).collect();
    let ranges = pod::items(spec, "loadBalancerSourceRanges");
    let guarded_ips = match ranges.is_empty() {
        true => BTreeSet::new(),
        false => given.clone(),
    };
    external_ips.extend(given);
    external_ips.retain(|ip| !guarded_ips.contains(ip));
    Some(Frontend {
        service: format!("{}/{}", text(service, "/metadata/namespace"), text(service, "/metadata/name")),
        protocol,
        port: number(integer(port, "/port"))?,
        cluster_ip,
        external_ips: external_ips.into_iter().collect(),
        guarded_ips: guarded_ips.into_iter().collect(),
        sources: ranges.iter().filter_map(|range| SourceRange::parse(range.as_str()?)).collect(),
        node_port: number(integer(port, "/nodePort")),
        affinity_seconds: (spec["sessionAffinity"] == "ClientIP")
            .then(|| u32::try_from(integer(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds")).ok())
            .flatten(),
        internal: backends("/internalTrafficPolicy"),
        external: backends("/externalTrafficPolicy"),
    })
}

fn number(port: i64) -> Option<u16> {
    u16::try_from(port).ok().filter(|port| *port != 0)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Endpoint {
    address: SocketAddr,
    state: State,
    local: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Ready,
    /// On its way out, and serving as long as there is nobody else.
    Ending,
}

/// Those that may be sent anything for a port of the Service.
fn endpoints(slices: &[&Value], service_port: &Value, node: &str) -> Vec<Endpoint> {
    let mut found = BTreeSet::new();
    for slice in slices {
        let is_it = |port: &&Value| {
            text(port, "/name") == text(service_port, "/name") && port["protocol"] == service_port["protocol"]
        };
        let Some(port) = pod::items(slice, "ports").iter().find(is_it) else { continue };
        let Some(port) = number(integer(port, "/port")) else { continue };
        for endpoint in pod::items(slice, "endpoints") {
            let is = |condition: &str, default: bool| endpoint["conditions"][condition].as_bool().unwrap_or(default);
            let ready = is("ready", true);
            let state = match (ready, is("serving", ready) && is("terminating", false)) {
                (true, _) => State::Ready,
                (false, true) => State::Ending,
                (false, false) => continue,
            };
            // Any of an endpoint's addresses is as good as the first.
            let Some(ip) = pod::items(endpoint, "addresses").first().and_then(|ip| ip.as_str()?.parse().ok()) else {
                continue;
            };
            let local = text(endpoint, "/nodeName") == node;
            found.insert(Endpoint { address: SocketAddr::new(ip, port), state, local });
        }
    }
    found.into_iter().collect()
}

/// Ready endpoints, or where there are none, those on their way out that serve still.
fn choose(endpoints: &[Endpoint], local_only: bool) -> Backends {
    let eligible = || endpoints.iter().filter(|endpoint| endpoint.local || !local_only);
    let state = if eligible().any(|endpoint| endpoint.state == State::Ready) { State::Ready } else { State::Ending };
    let chosen: Vec<&Endpoint> = eligible().filter(|endpoint| endpoint.state == state).collect();
    Backends {
        endpoints: chosen.iter().map(|endpoint| endpoint.address).collect(),
        local_only,
        elsewhere: match local_only {
            true => endpoints.iter().any(|endpoint| !endpoint.local),
            false => chosen.iter().any(|endpoint| !endpoint.local),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(spec: Value, endpoints: Value) -> Vec<Frontend> {
        let mut service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {"clusterIP": "10.96.0.9",
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "nodePort": 30080}]}});
        json_patch::merge(&mut service["spec"], &spec);
        let slice = json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}], "endpoints": endpoints});
        frontends(&[Arc::new(service)], &[Arc::new(slice)], "node")
    }

    fn endpoint(address: &str, ready: bool, serving: bool, terminating: bool) -> Value {
        json!({"addresses": [address], "nodeName": "node",
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating}})
    }

    fn addresses(backends: &Backends) -> Vec<String> {
        backends.endpoints.iter().map(SocketAddr::to_string).collect()
    }

    #[test]
    fn ready_endpoints_serve_and_ending_ones_only_where_there_is_no_other() {
        let ending = endpoint("10.0.0.2", false, true, true);
        let unready = endpoint("10.0.0.3", false, false, false);
        let all = json!([endpoint("10.0.0.1", true, true, false), ending, unready]);
        assert_eq!(addresses(&made(json!({}), all)[0].internal), ["10.0.0.1:8080"]);
        assert_eq!(addresses(&made(json!({}), json!([ending, unready]))[0].internal), ["10.0.0.2:8080"]);
        assert_eq!(addresses(&made(json!({}), json!([unready]))[0].internal), Vec::<String>::new());
        // What people write themselves may leave the conditions out.
        assert_eq!(addresses(&made(json!({}), json!([{"addresses": ["10.0.0.4"]}]))[0].internal), ["10.0.0.4:8080"]);
    }

    #[test]
    fn a_local_policy_asks_for_endpoints_of_this_node() {
        let far = json!({"addresses": ["192.0.2.1"]});
        let made = &made(json!({"externalTrafficPolicy": "Local"}), json!([far]))[0];
        assert_eq!((made.internal.elsewhere, made.internal.local_only), (true, false));
        assert_eq!((addresses(&made.external), made.external.local_only), (Vec::new(), true));
        assert!(made.external.elsewhere);
    }

    #[test]
    fn the_oldest_comes_first() {
        let service = |name: &str, created: &str| {
            Arc::new(json!({"metadata": {"name": name, "namespace": "default", "creationTimestamp": created},
                "spec": {"clusterIP": "10.96.0.9", "ports": [{"port": 80, "protocol": "TCP"}]}}))
        };
        let all = [service("a", "2026-02-01T00:00:00Z"), service("b", "2026-01-01T00:00:00Z")];
        let names: Vec<String> = frontends(&all, &[], "node").into_iter().map(|frontend| frontend.service).collect();
        assert_eq!(names, ["default/b", "default/a"]);
    }

    #[test]
    fn a_service_without_an_address_has_no_rules() {
        assert_eq!(made(json!({"clusterIP": "None"}), json!([])), []);
        assert_eq!(made(json!({"clusterIP": null, "type": "ExternalName"}), json!([])), []);
        let given = made(
            json!({"externalIPs": ["192.0.2.7"], "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}}}),
            json!([]),
        );
        assert_eq!(given[0].external_ips, ["192.0.2.7".parse::<IpAddr>().unwrap()]);
        assert_eq!((given[0].affinity_seconds, given[0].node_port), (Some(60), Some(30_080)));
    }

    #[test]
    fn ranges_of_a_load_balancer_guard_its_own_addresses() {
        let mut spec = json!({"clusterIP": "10.96.0.9", "type": "LoadBalancer", "externalIPs": ["192.0.2.6", "192.0.2.7"],
            "loadBalancerSourceRanges": [" 10.0.0.1/8 ", "x"], "ports": [{"port": 80, "protocol": "TCP"}]});
        let made = |spec: &Value| {
            let ingress = json!([{"ip": "192.0.2.7"}, {"ip": "192.0.2.8"}, {"ip": "192.0.2.9", "ipMode": "Proxy"}]);
            let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": spec,
                "status": {"loadBalancer": {"ingress": ingress}}});
            let made = frontends(&[Arc::new(service)], &[], "node").remove(0);
            let shown = |ips: &[IpAddr]| ips.iter().map(IpAddr::to_string).collect::<Vec<_>>().join(" ");
            (shown(&made.external_ips), shown(&made.guarded_ips), made.sources.len())
        };
        assert_eq!(made(&spec), ("192.0.2.6".into(), "192.0.2.7 192.0.2.8".into(), 1));
        spec["loadBalancerSourceRanges"] = json!([]);
        assert_eq!(made(&spec), ("192.0.2.6 192.0.2.7 192.0.2.8".into(), String::new(), 0));
    }

    #[test]
    fn a_service_of_both_families_is_served_at_both_addresses_by_endpoints_of_its_own() {
        let service = json!({"metadata": {"name": "web", "namespace": "default"}, "spec": {
            "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9", "fd96::9"],
            "externalIPs": ["192.0.2.7", "2001:db8::7", "::ffff:192.0.2.8"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP"}]}});
        let slice = |family: &str, address: &str| {
            json!({"metadata": {"namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
                "addressType": family, "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
                "endpoints": [{"addresses": [address]}]})
        };
        // One says that it is of the other family.
        let slices = [slice("IPv4", "10.0.0.1"), slice("IPv6", "fd00::1"), slice("IPv6", "10.0.0.2")].map(Arc::new);
        let made = frontends(&[Arc::new(service)], &slices, "node");
        let shown = |frontend: &Frontend| {
            let external: Vec<String> = frontend.external_ips.iter().map(IpAddr::to_string).collect();
            (frontend.cluster_ip.to_string(), external.join(" "), addresses(&frontend.internal).join(" "))
        };
        let shown: Vec<_> = made.iter().map(shown).collect();
        let expected = [("10.96.0.9", "192.0.2.7", "10.0.0.1:8080"), ("fd96::9", "2001:db8::7", "[fd00::1]:8080")];
        assert_eq!(shown, expected.map(|(a, b, c)| (a.to_owned(), b.to_owned(), c.to_owned())));
    }
}
