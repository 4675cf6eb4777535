//! `v1` Service: a name and an address that stay while the pods behind them come and go.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, pod, service_causes, set_default, text};

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Service",
    plural: "services",
    singular: "service",
    short_names: &["svc"],
    categories: &["all"],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &["status"],
    set_defaults,
    validate: service_causes::validate,
    validate_update: service_causes::validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "Type", data_type: "string", priority: 0, cell: |o| text(o, "/spec/type").into() },
        Column { name: "Cluster-IP", data_type: "string", priority: 0, cell: cluster_ip_cell },
        Column { name: "External-IP", data_type: "string", priority: 0, cell: external_ip_cell },
        Column { name: "Port(s)", data_type: "string", priority: 0, cell: ports_cell },
        AGE_COLUMN,
        Column { name: "Selector", data_type: "string", priority: 1, cell: selector_cell },
    ],
};

/// How long a client stays with an endpoint under the affinity `ClientIP` where nothing else is said: three hours.
const AFFINITY_SECONDS: i64 = 10_800;

/// `clusterIP` of a Service whose endpoints are looked up by name and which has no address of its own.
pub const HEADLESS: &str = "None";

pub const IPV4: &str = "IPv4";
pub const IPV6: &str = "IPv6";

/// Whether Services of this type have a port on the node.
pub fn has_node_ports(service_type: &str) -> bool {
    matches!(service_type, "NodePort" | "LoadBalancer")
}

/// Whether load balancers ask the node at a port of its own whether it has endpoints: traffic goes to none of other nodes.
pub fn has_health_check(service: &Value) -> bool {
    text(service, "/spec/type") == "LoadBalancer" && text(service, "/spec/externalTrafficPolicy") == "Local"
}

/// Of a Service that has one.
pub fn cluster_ip(service: &Value) -> Option<&str> {
    Some(text(service, "/spec/clusterIP")).filter(|ip| !ip.is_empty() && *ip != HEADLESS)
}

/// Its addresses, the first of them in [`cluster_ip`], too.
pub fn cluster_ips(service: &Value) -> Vec<IpAddr> {
    let parsed = |ip: &Value| ip.as_str()?.parse().ok();
    match pod::items(&service["spec"], "clusterIPs") {
        [] => parsed(&service["spec"]["clusterIP"]).into_iter().collect(),
        ips => ips.iter().filter_map(parsed).collect(),
    }
}

/// A family of addresses, as Services name it.
pub fn family_of(ip: IpAddr) -> &'static str {
    if ip.is_ipv4() { IPV4 } else { IPV6 }
}

/// The families that a Service has addresses and endpoints of; one that was made before there were two has the first.
pub fn families(service: &Value) -> Vec<&'static str> {
    let known = |family: &Value| [IPV4, IPV6].into_iter().find(|known| family == known);
    match pod::items(&service["spec"], "ipFamilies") {
        [] => vec![IPV4],
        families => families.iter().filter_map(known).collect(),
    }
}

pub fn is_headless(service: &Value) -> bool {
    text(service, "/spec/clusterIP") == HEADLESS
}

fn set_defaults(service: &mut Value) {
    if service.get("status").is_none_or(Value::is_null) {
        service["status"] = json!({"loadBalancer": {}});
    }
    let Some(spec) = service.get_mut("spec").filter(|spec| spec.is_object()) else { return };
    set_default(spec, "type", "ClusterIP");
    set_default(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        set_default(spec, "sessionAffinityConfig", json!({}));
        set_default(&mut spec["sessionAffinityConfig"], "clientIP", json!({}));
        set_default(&mut spec["sessionAffinityConfig"]["clientIP"], "timeoutSeconds", AFFINITY_SECONDS);
    }
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, "protocol", "TCP");
        let number = port["port"].clone();
        if matches!(port.get("targetPort"), None | Some(Value::Null))
            || port["targetPort"] == 0
            || port["targetPort"] == ""
        {
            port["targetPort"] = number;
        }
    }
    let service_type = text(spec, "/type").to_owned();
    if has_node_ports(&service_type) || !pod::items(spec, "externalIPs").is_empty() {
        set_default(spec, "externalTrafficPolicy", "Cluster");
    }
    if service_type == "LoadBalancer" {
        set_default(spec, "allocateLoadBalancerNodePorts", true);
    }
    if service_type == "ExternalName" {
        return;
    }
    set_default(spec, "internalTrafficPolicy", "Cluster");
    // Two fields for the same: each is made from the other.
    let (one, all) = (text(spec, "/clusterIP").to_owned(), pod::items(spec, "clusterIPs").to_vec());
    match all.first().and_then(Value::as_str) {
        None if !one.is_empty() => spec["clusterIPs"] = json!([one]),
        Some(first) if one.is_empty() => spec["clusterIP"] = first.into(),
        _ => {}
    }
}

fn cluster_ip_cell(service: &Value) -> Value {
    match text(service, "/spec/clusterIP") {
        "" => "<none>".into(),
        ip => ip.into(),
    }
}

fn external_ip_cell(service: &Value) -> Value {
    let mut addresses: Vec<&str> = pod::items(&service["spec"], "externalIPs").iter().flat_map(Value::as_str).collect();
    match text(service, "/spec/type") {
        "ExternalName" => return text(service, "/spec/externalName").into(),
        "LoadBalancer" => {
            let ingress = pod::items(&service["status"]["loadBalancer"], "ingress").iter();
            let given = ingress.map(|ingress| match text(ingress, "/ip") {
                "" => text(ingress, "/hostname"),
                ip => ip,
            });
            addresses.splice(0..0, given.filter(|address| !address.is_empty()));
            if addresses.is_empty() {
                return "<pending>".into();
            }
        }
        _ => {}
    }
    if addresses.is_empty() { "<none>".into() } else { addresses.join(",").into() }
}

fn ports_cell(service: &Value) -> Value {
    let ports = pod::items(&service["spec"], "ports").iter().map(|port| {
        let (number, protocol) = (integer(port, "/port"), text(port, "/protocol"));
        match integer(port, "/nodePort") {
            0 => format!("{number}/{protocol}"),
            node_port => format!("{number}:{node_port}/{protocol}"),
        }
    });
    match ports.collect::<Vec<_>>() {
        none if none.is_empty() => "<none>".into(),
        ports => ports.join(",").into(),
    }
}

fn selector_cell(service: &Value) -> Value {
    let selector = service["spec"].get("selector").and_then(Value::as_object);
    let pairs =
        selector.into_iter().flatten().map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()));
    match pairs.collect::<Vec<_>>() {
        none if none.is_empty() => "<none>".into(),
        pairs => pairs.join(",").into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cells(mut service: Value) -> Vec<Value> {
        set_defaults(&mut service);
        KIND.columns.iter().filter(|column| column.name != "Age").map(|column| (column.cell)(&service)).collect()
    }

    #[test]
    fn services_are_shown_as_kubernetes_shows_them() {
        let shown = cells(json!({"metadata": {"name": "web"}, "spec": {
            "type": "NodePort", "clusterIP": "10.96.0.9", "selector": {"app": "web"},
            "ports": [{"port": 80, "nodePort": 30080}, {"port": 53, "protocol": "UDP"}]}}));
        assert_eq!(shown, ["web", "NodePort", "10.96.0.9", "<none>", "80:30080/TCP,53/UDP", "app=web"]);
        let shown =
            cells(json!({"metadata": {"name": "db"}, "spec": {"type": "ExternalName", "externalName": "db.test"}}));
        assert_eq!(shown, ["db", "ExternalName", "<none>", "db.test", "<none>", "<none>"]);
        let shown =
            cells(json!({"metadata": {"name": "lb"}, "spec": {"type": "LoadBalancer", "ports": [{"port": 80}]}}));
        assert_eq!(shown[3], "<pending>");
    }

    #[test]
    fn defaults_are_kubernetes_own() {
        let mut service =
            json!({"spec": {"clusterIP": "None", "sessionAffinity": "ClientIP", "ports": [{"port": 80}]}});
        set_defaults(&mut service);
        assert_eq!(
            service["spec"],
            json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "sessionAffinity": "ClientIP",
                "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 10800}}, "internalTrafficPolicy": "Cluster",
                "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}]})
        );
    }
}
