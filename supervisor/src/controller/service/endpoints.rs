//! The endpoints of a Service: its pods, with what each of them is ready for.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::api::kinds::{endpoint_slice, integer, pod, service, text};
use crate::api::selector::Selector;

/// Endpoints that one slice has at most, as Kubernetes makes them.
pub(super) const SLICE_ENDPOINTS: usize = 100;

/// The value of the label that says who looks after a slice.
pub(super) const MANAGER: &str = "endpointslice-controller.k8s.io";
pub(super) const MANAGER_LABEL: &str = "endpointslice.kubernetes.io/managed-by";
pub(super) const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";

/// What selects the pods of a Service; `None` where people say what is behind it.
pub(super) fn selector(service: &Value) -> Option<Selector> {
    let labels = service["spec"].get("selector").filter(|labels| labels.as_object().is_some_and(|l| !l.is_empty()))?;
    if text(service, "/spec/type") == "ExternalName" {
        return None;
    }
    Selector::from_label_selector(&json!({"matchLabels": labels})).ok()
}

/// The labels of a Service's slices.
pub(super) fn labels(service: &Value) -> Value {
    let mut labels =
        service["metadata"].get("labels").filter(|labels| labels.is_object()).cloned().unwrap_or_else(|| json!({}));
    labels[endpoint_slice::SERVICE_LABEL] = service["metadata"]["name"].clone();
    labels[MANAGER_LABEL] = MANAGER.into();
    // Whatever the Service's own labels say of these three.
    match service::is_headless(service) {
        true => labels[HEADLESS_LABEL] = "".into(),
        false => drop(labels.as_object_mut().map(|labels| labels.remove(HEADLESS_LABEL))),
    }
    labels
}

/// What a slice of a Service has.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Slice {
    /// The family of its addresses, as Services name it.
    pub(super) family: &'static str,
    pub(super) ports: Value,
    pub(super) endpoints: Vec<Value>,
}

/// The slices of a Service: for each family of addresses that it has, those of its pods. Pods that have given a port's name
/// to different numbers are in different slices. Without pods there is one slice without endpoints.
pub(super) fn slices(service: &Value, pods: &[Arc<Value>]) -> Vec<Slice> {
    let Some(selector) = selector(service) else { return Vec::new() };
    let mut selected: Vec<&Value> = pods.iter().map(|pod| &**pod).collect();
    selected.retain(|pod| selector.matches(&pod["metadata"]["labels"]));
    service::families(service).into_iter().flat_map(|family| slices_of(family, service, &selected)).collect()
}

fn slices_of(family: &'static str, service: &Value, pods: &[&Value]) -> Vec<Slice> {
    let mut groups: BTreeMap<String, (Value, Vec<Value>)> = BTreeMap::new();
    for pod in pods {
        let Some(endpoint) = endpoint(family, service, pod) else { continue };
        let ports = ports(service, pod);
        groups.entry(ports.to_string()).or_insert_with(|| (ports, Vec::new())).1.push(endpoint);
    }
    if groups.is_empty() {
        return vec![Slice { family, ports: Value::Null, endpoints: Vec::new() }];
    }
    let chunks = groups.into_values().flat_map(|(ports, endpoints)| {
        let chunks: Vec<Vec<Value>> = endpoints.chunks(SLICE_ENDPOINTS).map(<[Value]>::to_vec).collect();
        chunks.into_iter().map(move |endpoints| Slice { family, ports: ports.clone(), endpoints })
    });
    chunks.collect()
}

/// A pod as an endpoint; `None` for one that has no address of the family, or none any more.
fn endpoint(family: &str, service: &Value, pod: &Value) -> Option<Value> {
    if matches!(text(pod, "/status/phase"), "Succeeded" | "Failed") {
        return None;
    }
    let further = pod::items(&pod["status"], "podIPs").iter().map(|address| text(address, "/ip"));
    let mut addresses = [text(pod, "/status/podIP")].into_iter().chain(further);
    let is_one = |ip: IpAddr| service::family_of(ip) == family && !ip.is_loopback();
    let address = addresses.find(|ip| ip.parse().is_ok_and(is_one))?;
    let is_true = |condition: &Value| condition["type"] == "Ready" && condition["status"] == "True";
    let serving = pod::items(&pod["status"], "conditions").iter().any(is_true);
    let terminating = !text(pod, "/metadata/deletionTimestamp").is_empty();
    let published = service["spec"]["publishNotReadyAddresses"] == true;
    let mut endpoint = json!({
        "addresses": [address],
        "conditions": {"ready": published || (serving && !terminating), "serving": serving, "terminating": terminating},
        "nodeName": pod["spec"]["nodeName"],
        "targetRef": {"kind": "Pod", "namespace": pod["metadata"]["namespace"], "name": pod["metadata"]["name"],
            "uid": pod["metadata"]["uid"]},
    });
    let hostname = text(pod, "/spec/hostname");
    if !hostname.is_empty() && pod["spec"]["subdomain"] == service["metadata"]["name"] {
        endpoint["hostname"] = hostname.into();
    }
    Some(endpoint)
}

/// The ports of a Service as this pod has them; one whose name the pod does not know is left out.
fn ports(service: &Value, pod: &Value) -> Value {
    let ports = pod::items(&service["spec"], "ports").iter().filter_map(|port| {
        let target = match &port["targetPort"] {
            Value::String(name) => named_port(pod, name, text(port, "/protocol"))?,
            number => number.as_i64()?,
        };
        let mut fields = Map::new();
        fields.insert("name".into(), text(port, "/name").into());
        fields.insert("port".into(), target.into());
        fields.insert("protocol".into(), port["protocol"].clone());
        if let Some(protocol) = port.get("appProtocol") {
            fields.insert("appProtocol".into(), protocol.clone());
        }
        Some(Value::Object(fields))
    });
    ports.collect()
}

fn named_port(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    let sidecars = pod::items(&pod["spec"], "initContainers").iter().filter(|init| init["restartPolicy"] == "Always");
    let containers = pod::items(&pod["spec"], "containers").iter().chain(sidecars);
    let mut ports = containers.flat_map(|container| pod::items(container, "ports"));
    let is_it = |port: &&Value| {
        let own = Some(text(port, "/protocol")).filter(|own| !own.is_empty()).unwrap_or("TCP");
        port["name"] == name && own == protocol
    };
    ports.find(is_it).map(|port| integer(port, "/containerPort"))
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
        let mut service = json!({"metadata": {"name": "web"}, "spec": {"selector": {"app": "web"},
            "ports": [{"port": 80, "protocol": "TCP", "targetPort": "http"}]}});
        json_patch::merge(&mut service["spec"], &spec);
        service
    }

    fn conditions(slices: &[Slice]) -> Vec<(bool, bool, bool)> {
        let all = slices.iter().flat_map(|slice| &slice.endpoints);
        let is = |endpoint: &Value, name: &str| endpoint["conditions"][name] == true;
        all.map(|endpoint| (is(endpoint, "ready"), is(endpoint, "serving"), is(endpoint, "terminating"))).collect()
    }

    #[test]
    fn pods_are_endpoints_with_their_conditions() {
        let mut ending = pod("c", "10.0.0.3", "True");
        ending["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let mut over = pod("d", "10.0.0.4", "False");
        over["status"]["phase"] = "Failed".into();
        let mut stranger = pod("e", "10.0.0.5", "True");
        stranger["metadata"]["labels"]["app"] = "db".into();
        let all =
            [pod("a", "10.0.0.1", "True"), pod("b", "10.0.0.2", "False"), ending, over, stranger, pod("f", "", "True")];
        let all = all.map(Arc::new);
        let found = slices(&service(json!({})), &all);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].ports, json!([{"name": "", "port": 8080, "protocol": "TCP"}]));
        assert_eq!(conditions(&found), [(true, true, false), (false, false, false), (false, true, true)]);
        let published = slices(&service(json!({"publishNotReadyAddresses": true})), &all);
        assert_eq!(conditions(&published), [(true, true, false), (true, false, false), (true, true, true)]);
        assert_eq!(slices(&service(json!({"selector": null})), &all), []);
        let none = Slice { family: "IPv4", ports: Value::Null, endpoints: Vec::new() };
        assert_eq!(slices(&service(json!({"selector": {"app": "none"}})), &all), [none]);
    }

    #[test]
    fn slices_have_the_service_s_labels_but_for_their_own() {
        let mut service = service(json!({"clusterIP": "10.96.0.9"}));
        service["metadata"]["labels"] = json!({"team": "a", HEADLESS_LABEL: "", MANAGER_LABEL: "somebody"});
        let expected = json!({"team": "a", endpoint_slice::SERVICE_LABEL: "web", MANAGER_LABEL: MANAGER});
        assert_eq!(labels(&service), expected);
        service["spec"]["clusterIP"] = "None".into();
        assert_eq!(labels(&service)[HEADLESS_LABEL], "");
    }

    #[test]
    fn slices_are_apart_by_ports_and_not_too_large() {
        let mut other = pod("z", "10.1.0.1", "True");
        other["spec"]["containers"][0]["ports"][0]["containerPort"] = 9090.into();
        let many = (0..101).map(|index| pod(&format!("p{index}"), &format!("10.0.1.{index}"), "True"));
        let all: Vec<Arc<Value>> = many.chain([other]).map(Arc::new).collect();
        let found = slices(&service(json!({})), &all);
        let sizes: Vec<(i64, usize)> =
            found.iter().map(|s| (integer(&s.ports, "/0/port"), s.endpoints.len())).collect();
        assert_eq!(sizes, [(8080, 100), (8080, 1), (9090, 1)]);
    }

    #[test]
    fn each_family_of_a_service_has_slices_of_its_own() {
        let mut dual = pod("a", "10.0.0.1", "True");
        dual["status"]["podIPs"] = json!([{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]);
        let all = [dual, pod("b", "10.0.0.2", "True"), pod("c", "fd00::3", "True")].map(Arc::new);
        let shown = |families: Value| -> Vec<(&str, Vec<String>)> {
            let slices = slices(&service(json!({"ipFamilies": families})), &all);
            let address = |endpoint: &Value| text(endpoint, "/addresses/0").to_owned();
            slices.iter().map(|slice| (slice.family, slice.endpoints.iter().map(address).collect())).collect()
        };
        let four = ("IPv4", vec!["10.0.0.1".to_owned(), "10.0.0.2".into()]);
        let six = ("IPv6", vec!["fd00::1".to_owned(), "fd00::3".into()]);
        assert_eq!(shown(json!(["IPv4"])), std::slice::from_ref(&four));
        assert_eq!(shown(json!(["IPv6"])), std::slice::from_ref(&six));
        assert_eq!(shown(json!(["IPv6", "IPv4"])), [six, four.clone()]);
        // One that was stored before there were families.
        assert_eq!(shown(Value::Null), [four]);
    }
}
