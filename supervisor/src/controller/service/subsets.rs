//! What Endpoints say of a Service, and what slices say of Endpoints that people have made.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::endpoints::{self, HEADLESS_LABEL, SLICE_ENDPOINTS, Slice};
use crate::api::kinds::{pod, service, text};

/// Says that the node keeps Endpoints itself.
pub(super) const OWN_LABEL: (&str, &str) = ("endpoints.kubernetes.io/managed-by", "endpoint-controller");
/// Says that no slices are to be made of Endpoints.
pub(crate) const NO_MIRROR_LABEL: &str = "endpointslice.kubernetes.io/skip-mirror";
/// Of Endpoints by which somebody leads, and which stand for no Service.
const LEADER_ANNOTATION: &str = "control-plane.alpha.kubernetes.io/leader";
/// Kubernetes' own limit; what is beyond it only slices have.
const MAX_ADDRESSES: usize = 1000;
const TRUNCATED: (&str, &str) = ("endpoints.kubernetes.io/over-capacity", "truncated");

/// What Endpoints of a Service have.
#[derive(Debug, PartialEq)]
pub(super) struct Wanted {
    pub(super) labels: Value,
    /// Addresses had to be left out.
    pub(super) truncated: bool,
    pub(super) subsets: Vec<Value>,
}

/// The Endpoints of a Service that selects pods: those of its first family, without pods that are to end.
pub(super) fn wanted(service: &Value, pods: &[Arc<Value>]) -> Wanted {
    let family = service::families(service).first().copied().unwrap_or_default();
    let portless = pod::items(&service["spec"], "ports").is_empty();
    // By ports, as slices are: addresses that are ready, and others.
    let mut groups: BTreeMap<String, (Value, [Vec<Value>; 2])> = BTreeMap::new();
    for slice in endpoints::slices(service, pods).into_iter().filter(|slice| slice.family == family) {
        let ports = without_empty_names(&slice.ports);
        if ports.as_array().is_none_or(Vec::is_empty) && !portless {
            continue;
        }
        let group = &mut groups.entry(ports.to_string()).or_insert_with(|| (ports, Default::default())).1;
        for endpoint in &slice.endpoints {
            let is = |condition: &str| endpoint["conditions"][condition] == true;
            match (is("ready"), is("terminating")) {
                (true, _) => group[0].push(address(endpoint)),
                (false, false) => group[1].push(address(endpoint)),
                (false, true) => {}
            }
        }
    }
    let (mut room, mut subsets) = (MAX_ADDRESSES, Vec::new());
    let mut truncated = false;
    for (_, (ports, lists)) in groups {
        let mut subset = Map::new();
        for (field, mut addresses) in ["addresses", "notReadyAddresses"].into_iter().zip(lists) {
            addresses.sort_by_key(|address| text(address, "/ip").parse::<IpAddr>().ok());
            truncated |= addresses.len() > room;
            addresses.truncate(room);
            room -= addresses.len();
            if !addresses.is_empty() {
                subset.insert(field.into(), addresses.into());
            }
        }
        if !subset.is_empty() {
            if !portless {
                subset.insert("ports".into(), ports);
            }
            subsets.push(Value::Object(subset));
        }
    }
    Wanted { labels: labels(service), truncated, subsets }
}

/// Whether Endpoints say that addresses are left out.
pub(super) fn is_truncated(endpoints: &Value) -> bool {
    endpoints["metadata"]["annotations"].get(TRUNCATED.0).is_some_and(|value| value == TRUNCATED.1)
}

/// Has them say so, or not.
pub(super) fn set_truncated(endpoints: &mut Value, truncated: bool) {
    if truncated {
        endpoints["metadata"]["annotations"][TRUNCATED.0] = TRUNCATED.1.into();
    } else if let Some(annotations) = endpoints["metadata"].get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(TRUNCATED.0);
    }
}

fn labels(service: &Value) -> Value {
    let own = service["metadata"].get("labels").filter(|labels| labels.is_object());
    let mut labels = own.cloned().unwrap_or_else(|| json!({}));
    labels[OWN_LABEL.0] = OWN_LABEL.1.into();
    match service::is_headless(service) {
        true => labels[HEADLESS_LABEL] = "".into(),
        false => drop(labels.as_object_mut().map(|labels| labels.remove(HEADLESS_LABEL))),
    }
    labels
}

fn without_empty_names(ports: &Value) -> Value {
    let mut ports = if ports.is_array() { ports.clone() } else { json!([]) };
    for port in ports.as_array_mut().into_iter().flatten() {
        if port["name"] == "" {
            port.as_object_mut().map(|port| port.remove("name"));
        }
    }
    ports
}

fn address(endpoint: &Value) -> Value {
    let mut address = json!({"ip": endpoint["addresses"][0]});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = endpoint.get(field).filter(|value| !value.is_null()) {
            address[field] = value.clone();
        }
    }
    address
}

/// Whether slices are made of them: those that people have made for a Service without a selector.
pub(super) fn is_mirrored(endpoints: &Value) -> bool {
    let metadata = &endpoints["metadata"];
    let labelled = |key: &str, value: &str| metadata["labels"].get(key).is_some_and(|found| *found == value);
    !labelled(NO_MIRROR_LABEL, "true")
        && !labelled(OWN_LABEL.0, OWN_LABEL.1)
        && metadata["annotations"].get(LEADER_ANNOTATION).is_none()
        && text(endpoints, "/metadata/deletionTimestamp").is_empty()
}

/// The slices of Endpoints; of each subset so many addresses as Endpoints of the node's own have.
pub(super) fn mirror(endpoints: &Value) -> Vec<Slice> {
    let mut slices = Vec::new();
    for subset in pod::items(endpoints, "subsets") {
        let ports: Value = match pod::items(subset, "ports") {
            [] => Value::Null,
            ports => ports.iter().map(with_a_name).collect(),
        };
        for family in [service::IPV4, service::IPV6] {
            let mut of_family = Vec::new();
            for (list, ready) in [("addresses", true), ("notReadyAddresses", false)] {
                let is_one = |address: &&Value| {
                    text(address, "/ip").parse::<IpAddr>().is_ok_and(|ip| service::family_of(ip) == family)
                };
                let own = pod::items(subset, list).iter().filter(is_one);
                of_family.extend(own.map(|address| endpoint(address, ready)));
            }
            of_family.truncate(MAX_ADDRESSES);
            let chunks = of_family.chunks(SLICE_ENDPOINTS);
            slices.extend(chunks.map(|chunk| Slice { family, ports: ports.clone(), endpoints: chunk.to_vec() }));
        }
    }
    slices
}

fn with_a_name(port: &Value) -> Value {
    let mut port = port.clone();
    if text(&port, "/name").is_empty() {
        port["name"] = "".into();
    }
    port
}

fn endpoint(address: &Value, ready: bool) -> Value {
    let mut endpoint = json!({"addresses": [address["ip"]], "conditions": {"ready": ready}});
    for field in ["hostname", "nodeName", "targetRef"] {
        if let Some(value) = address.get(field).filter(|value| !value.is_null() && *value != "") {
            endpoint[field] = value.clone();
        }
    }
    endpoint
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, address: &str, ready: &str) -> Value {
        json!({
            "metadata": {"name": name, "namespace": "default", "uid": name, "labels": {"app": "web"}},
            "spec": {"nodeName": "node", "containers": [{"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}]},
            "status": {"podIP": address, "phase": "Running", "conditions": [{"type": "Ready", "status": ready}]},
        })
    }

    fn service(spec: Value) -> Value {
        let mut service = json!({"metadata": {"name": "web", "labels": {"team": "a"}}, "spec": {"clusterIP": "10.96.0.9",
            "selector": {"app": "web"}, "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}});
        json_patch::merge(&mut service["spec"], &spec);
        service
    }

    fn ips(subsets: &[Value], list: &str) -> Vec<String> {
        let all = subsets.iter().flat_map(|subset| pod::items(subset, list));
        all.map(|address| text(address, "/ip").to_owned()).collect()
    }

    #[test]
    fn pods_are_addresses_that_are_ready_or_not() {
        let mut ending = pod("c", "10.0.0.3", "True");
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let all = [pod("a", "10.0.0.10", "True"), pod("b", "10.0.0.2", "False"), ending, pod("d", "10.0.0.9", "True")];
        let all = all.map(Arc::new);
        let found = wanted(&service(json!({})), &all);
        assert_eq!(ips(&found.subsets, "addresses"), ["10.0.0.9", "10.0.0.10"]);
        assert_eq!(ips(&found.subsets, "notReadyAddresses"), ["10.0.0.2"]);
        assert_eq!(found.subsets[0]["ports"], json!([{"port": 8080, "protocol": "TCP"}]));
        let target = json!({"kind": "Pod", "namespace": "default", "name": "d", "uid": "d"});
        assert_eq!(
            found.subsets[0]["addresses"][0],
            json!({"ip": "10.0.0.9", "nodeName": "node", "targetRef": target})
        );
        assert_eq!(found.labels, json!({"team": "a", OWN_LABEL.0: OWN_LABEL.1}));
        assert!(!found.truncated);
        let published = wanted(&service(json!({"publishNotReadyAddresses": true})), &all);
        assert_eq!(ips(&published.subsets, "addresses").len(), 4);
        // Nobody is behind it: there is no subset.
        assert_eq!(wanted(&service(json!({"selector": {"app": "none"}})), &all).subsets, [""; 0]);
        assert_eq!(wanted(&service(json!({"ports": [{"port": 1, "targetPort": "none"}]})), &all).subsets, [""; 0]);
        let headless = wanted(&service(json!({"clusterIP": "None", "ports": null})), &all);
        assert_eq!((headless.subsets[0].get("ports"), &headless.labels[HEADLESS_LABEL]), (None, &json!("")));
    }

    #[test]
    fn endpoints_have_no_more_than_a_thousand_addresses() {
        let many =
            (0..1005).map(|index| pod(&format!("p{index}"), &format!("10.0.{}.{}", index / 250, index % 250), "True"));
        let all: Vec<Arc<Value>> = many.map(Arc::new).collect();
        let found = wanted(&service(json!({})), &all);
        assert_eq!(ips(&found.subsets, "addresses").len(), 1000);
        assert!(found.truncated);
        let mut said = json!({"metadata": {"name": "web"}});
        set_truncated(&mut said, false);
        assert_eq!(said, json!({"metadata": {"name": "web"}}));
        set_truncated(&mut said, true);
        assert!(is_truncated(&said));
        set_truncated(&mut said, false);
        assert!(!is_truncated(&said));
    }

    #[test]
    fn endpoints_that_people_make_become_slices_of_each_family() {
        let endpoints = json!({"metadata": {"name": "web"}, "subsets": [
            {"addresses": [{"ip": "192.0.2.1", "nodeName": "n"}, {"ip": "2001:db8::1"}],
                "notReadyAddresses": [{"ip": "192.0.2.2"}], "ports": [{"port": 80, "protocol": "TCP"}]},
            {"addresses": [{"ip": "192.0.2.3"}]}]});
        assert!(is_mirrored(&endpoints));
        let found = mirror(&endpoints);
        let shown: Vec<(&str, usize)> = found.iter().map(|slice| (slice.family, slice.endpoints.len())).collect();
        assert_eq!(shown, [("IPv4", 2), ("IPv6", 1), ("IPv4", 1)]);
        assert_eq!(found[0].ports, json!([{"name": "", "port": 80, "protocol": "TCP"}]));
        let first = json!({"addresses": ["192.0.2.1"], "conditions": {"ready": true}, "nodeName": "n"});
        assert_eq!(found[0].endpoints[0], first);
        assert_eq!((&found[0].endpoints[1]["conditions"]["ready"], &found[2].ports), (&json!(false), &Value::Null));
        for metadata in [
            json!({"labels": {NO_MIRROR_LABEL: "true"}}),
            json!({"labels": {OWN_LABEL.0: OWN_LABEL.1}}),
            json!({"annotations": {LEADER_ANNOTATION: "{}"}}),
            json!({"deletionTimestamp": "2026-01-01T00:00:00Z"}),
        ] {
            assert!(!is_mirrored(&json!({"metadata": metadata})), "{metadata}");
        }
    }
}
