//! What is wrong with a Service, in Kubernetes' words.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::pod_fields::unsupported;
use super::service::{HEADLESS, has_node_ports};
use super::{integer, is_dns_label, is_dns_subdomain, pod, text};
use crate::api::status::Cause;

/// Fields of the specification that are carried out.
const FIELDS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "ports[].*",
    "publishNotReadyAddresses",
    "selector.*",
    "sessionAffinity",
    "sessionAffinityConfig.clientIP.timeoutSeconds",
    "trafficDistribution",
    "type",
];

const TYPES: &[&str] = &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"];
const PROTOCOLS: &[&str] = &["SCTP", "TCP", "UDP"];
const POLICIES: &[&str] = &["Cluster", "Local"];
/// With one node each of them means the same: everything is close.
const DISTRIBUTIONS: &[&str] = &["PreferClose", "PreferSameNode", "PreferSameZone"];
/// Longest session affinity: a day.
const MAX_AFFINITY_SECONDS: i64 = 86_400;

/// A DNS label that starts with a letter (RFC 1035): the form of names of Services.
fn is_dns_1035_label(name: &str) -> bool {
    is_dns_label(name) && name.starts_with(|c: char| c.is_ascii_lowercase())
}

/// The name of a port (RFC 6335): at most 15 letters, digits and single dashes, and a letter among them.
pub(super) fn is_port_name(name: &str) -> bool {
    name.len() <= 15 && is_dns_label(name) && !name.contains("--") && name.contains(|c: char| c.is_ascii_lowercase())
}

pub(super) fn one_of(path: impl Into<String>, value: &str, allowed: &[&str]) -> Option<Cause> {
    if allowed.contains(&value) {
        return None;
    }
    let allowed: Vec<String> = allowed.iter().map(|value| format!("{value:?}")).collect();
    Some(Cause::unsupported(path, &format!("{value:?}: supported values: {}", allowed.join(", "))))
}

pub(super) fn duplicate(field: impl Into<String>, value: impl std::fmt::Display) -> Cause {
    Cause { reason: "FieldValueDuplicate", field: field.into(), message: format!("Duplicate value: {value}") }
}

fn port_number(path: String, number: i64) -> Option<Cause> {
    let wrong = !(1..=65_535).contains(&number);
    wrong.then(|| Cause::invalid(path, number, "must be between 1 and 65535, inclusive"))
}

pub(super) fn validate(service: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    let name = text(service, "/metadata/name");
    if !is_dns_1035_label(name) {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic \
                       character, and end with an alphanumeric character";
        causes.push(Cause::invalid("metadata.name", format_args!("{name:?}"), message));
    }
    let spec = service.get("spec").unwrap_or(&Value::Null);
    causes.extend(unsupported(spec, "spec", FIELDS));
    let service_type = text(spec, "/type");
    causes.extend(one_of("spec.type", service_type, TYPES));
    causes.extend(address_causes(spec, service_type));
    causes.extend(ports_causes(spec, service_type));
    causes.extend(affinity_causes(spec));
    causes.extend(policy_causes(spec, service_type));
    if let Some(distribution) = spec.get("trafficDistribution").and_then(Value::as_str) {
        causes.extend(one_of("spec.trafficDistribution", distribution, DISTRIBUTIONS));
    }
    causes
}

fn address_causes(spec: &Value, service_type: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let addresses = pod::items(spec, "clusterIPs");
    if service_type == "ExternalName" {
        let name = text(spec, "/externalName");
        match name.strip_suffix('.').unwrap_or(name) {
            "" => causes.push(Cause::required("spec.externalName", "must be a lowercase RFC 1123 subdomain")),
            bare if !is_dns_subdomain(bare) => {
                let message = "must be a lowercase RFC 1123 subdomain";
                causes.push(Cause::invalid("spec.externalName", format_args!("{name:?}"), message));
            }
            _ => {}
        }
        if !addresses.is_empty() || !text(spec, "/clusterIP").is_empty() {
            causes.push(Cause::forbidden("spec.clusterIPs", "may not be set for ExternalName services"));
        }
        return causes;
    }
    for (index, family) in pod::items(spec, "ipFamilies").iter().enumerate() {
        match family.as_str() {
            Some("IPv4") if index == 0 => {}
            Some("IPv4" | "IPv6") => {
                let message = "not configured on this cluster";
                causes.push(Cause::invalid(format!("spec.ipFamilies[{index}]"), family, message));
            }
            other => {
                causes.extend(one_of(format!("spec.ipFamilies[{index}]"), other.unwrap_or_default(), &["IPv4", "IPv6"]))
            }
        }
    }
    match text(spec, "/ipFamilyPolicy") {
        "RequireDualStack" => causes.push(Cause::invalid(
            "spec.ipFamilyPolicy",
            "\"RequireDualStack\"",
            "this cluster is not configured for dual-stack services",
        )),
        policy => causes.extend(one_of(
            "spec.ipFamilyPolicy",
            policy,
            &["PreferDualStack", "RequireDualStack", "SingleStack"],
        )),
    }
    for (index, address) in addresses.iter().enumerate() {
        let (path, shown) = (format!("spec.clusterIPs[{index}]"), address.as_str().unwrap_or_default());
        if index > 0 {
            causes.push(Cause::invalid(path, address, "may only hold one value: the node has IPv4 alone"));
        } else if shown == HEADLESS {
            if has_node_ports(service_type) {
                let message = format!("may not be set to 'None' for {service_type} services");
                causes.push(Cause::invalid(path, address, &message));
            }
        } else if shown.parse::<IpAddr>().is_err() {
            causes.push(Cause::invalid(path, address, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"));
        }
    }
    if addresses.first().and_then(Value::as_str).unwrap_or_default() != text(spec, "/clusterIP") {
        causes.push(Cause::invalid("spec.clusterIP", &spec["clusterIP"], "must be the first of clusterIPs"));
    }
    for (index, address) in pod::items(spec, "externalIPs").iter().enumerate() {
        let usable = |ip: IpAddr| ip.is_ipv4() && !ip.is_loopback() && !ip.is_unspecified() && !ip.is_multicast();
        if !address.as_str().and_then(|ip| ip.parse().ok()).is_some_and(usable) {
            let message = "must be a valid IPv4 address, neither loopback nor unspecified nor multicast";
            causes.push(Cause::invalid(format!("spec.externalIPs[{index}]"), address, message));
        }
    }
    causes
}

fn ports_causes(spec: &Value, service_type: &str) -> Vec<Cause> {
    let ports = pod::items(spec, "ports");
    let portless = service_type == "ExternalName" || text(spec, "/clusterIP") == HEADLESS;
    if ports.is_empty() && !portless {
        return vec![Cause {
            reason: "FieldValueRequired",
            field: "spec.ports".into(),
            message: "Required value".into(),
        }];
    }
    let mut causes = Vec::new();
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = |field: &str| format!("spec.ports[{index}].{field}");
        let (name, protocol) = (text(port, "/name"), text(port, "/protocol"));
        if name.is_empty() {
            if ports.len() > 1 {
                let message = "Required value".into();
                causes.push(Cause { reason: "FieldValueRequired", field: path("name"), message });
            }
        } else if !is_dns_label(name) {
            causes.push(Cause::invalid(path("name"), format_args!("{name:?}"), "must be a lowercase RFC 1123 label"));
        } else if !names.insert(name) {
            causes.push(duplicate(path("name"), format_args!("{name:?}")));
        }
        let number = integer(port, "/port");
        causes.extend(port_number(path("port"), number));
        causes.extend(one_of(path("protocol"), protocol, PROTOCOLS));
        if !numbers.insert((number, protocol)) {
            causes.push(duplicate(format!("spec.ports[{index}]"), format_args!("port {number}, protocol {protocol}")));
        }
        match &port["targetPort"] {
            Value::String(name) if !is_port_name(name) => {
                let message = "must be an IANA service name: at most 15 lower case letters, digits and single dashes";
                causes.push(Cause::invalid(path("targetPort"), format_args!("{name:?}"), message));
            }
            Value::Number(number) => {
                causes.extend(port_number(path("targetPort"), number.as_i64().unwrap_or_default()))
            }
            _ => {}
        }
        let node_port = integer(port, "/nodePort");
        if node_port != 0 {
            if !has_node_ports(service_type) {
                let message = format!("may not be used when `type` is '{service_type}'");
                causes.push(Cause::forbidden(path("nodePort"), &message));
            } else if !node_ports.insert((node_port, protocol)) {
                causes.push(duplicate(path("nodePort"), node_port));
            }
        }
    }
    causes
}

fn affinity_causes(spec: &Value) -> Vec<Cause> {
    let affinity = text(spec, "/sessionAffinity");
    let mut causes: Vec<Cause> = one_of("spec.sessionAffinity", affinity, &["ClientIP", "None"]).into_iter().collect();
    let config = spec.get("sessionAffinityConfig").filter(|config| !config.is_null());
    if affinity == "None" && config.is_some() {
        let message = "must not be set when session affinity is None";
        causes.push(Cause::forbidden("spec.sessionAffinityConfig", message));
    }
    if affinity == "ClientIP" {
        let seconds = integer(spec, "/sessionAffinityConfig/clientIP/timeoutSeconds");
        if !(1..=MAX_AFFINITY_SECONDS).contains(&seconds) {
            let message = format!("must be greater than 0 and at most {MAX_AFFINITY_SECONDS}");
            causes.push(Cause::invalid("spec.sessionAffinityConfig.clientIP.timeoutSeconds", seconds, &message));
        }
    }
    causes
}

fn policy_causes(spec: &Value, service_type: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let external = has_node_ports(service_type) || !pod::items(spec, "externalIPs").is_empty();
    match text(spec, "/externalTrafficPolicy") {
        "" => {}
        policy if !external => {
            let message = "may only be set for externally-accessible services";
            causes.push(Cause::invalid("spec.externalTrafficPolicy", format_args!("{policy:?}"), message));
        }
        policy => causes.extend(one_of("spec.externalTrafficPolicy", policy, POLICIES)),
    }
    match text(spec, "/internalTrafficPolicy") {
        "" => {}
        policy => causes.extend(one_of("spec.internalTrafficPolicy", policy, POLICIES)),
    }
    for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
        if service_type != "LoadBalancer" && spec.get(field).is_some_and(|value| !value.is_null()) {
            causes.push(Cause::forbidden(format!("spec.{field}"), "may only be used when `type` is 'LoadBalancer'"));
        }
    }
    causes
}

/// The address is part of what a Service is, as long as it has one.
pub(super) fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    let is_addressed = |service: &Value| text(service, "/spec/type") != "ExternalName";
    let mut causes = Vec::new();
    if is_addressed(old) && is_addressed(new) {
        let (before, after) = (text(old, "/spec/clusterIP"), text(new, "/spec/clusterIP"));
        if !before.is_empty() && before != after {
            let shown = new["spec"]["clusterIPs"].to_string();
            causes.push(Cause::invalid("spec.clusterIPs[0]", shown, "may not change once set"));
        }
    }
    let class = |service: &Value| service["spec"]["loadBalancerClass"].clone();
    if text(old, "/spec/type") == "LoadBalancer"
        && text(new, "/spec/type") == "LoadBalancer"
        && class(old) != class(new)
    {
        causes.push(Cause::invalid("spec.loadBalancerClass", class(new), "may not change once set"));
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::super::service::KIND;
    use super::*;
    use serde_json::json;

    fn fields(spec: Value) -> Vec<String> {
        let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
        (KIND.set_defaults)(&mut service);
        validate(&service).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn wrong_fields_are_named() {
        let good = json!({"ports": [{"port": 80, "targetPort": "http"}], "selector": {"app": "web"}});
        assert_eq!(fields(good.clone()), Vec::<String>::new());
        for (field, value, named) in [
            ("type", json!("Cluster"), "spec.type"),
            ("ports", json!([]), "spec.ports"),
            ("ports", json!([{"port": 0, "targetPort": 80}]), "spec.ports[0].port"),
            ("ports", json!([{"port": 1}, {"port": 2, "name": "b"}]), "spec.ports[0].name"),
            ("ports", json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]), "spec.ports[1].name"),
            ("ports", json!([{"port": 1, "name": "a"}, {"port": 1, "name": "b"}]), "spec.ports[1]"),
            ("ports", json!([{"port": 1, "protocol": "ICMP"}]), "spec.ports[0].protocol"),
            ("ports", json!([{"port": 1, "targetPort": "a--b"}]), "spec.ports[0].targetPort"),
            ("ports", json!([{"port": 1, "nodePort": 30000}]), "spec.ports[0].nodePort"),
            ("clusterIP", json!("10.0.0"), "spec.clusterIPs[0]"),
            ("ipFamilies", json!(["IPv6"]), "spec.ipFamilies[0]"),
            ("ipFamilyPolicy", json!("RequireDualStack"), "spec.ipFamilyPolicy"),
            ("sessionAffinity", json!("Cookie"), "spec.sessionAffinity"),
            ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 5}}), "spec.sessionAffinityConfig"),
            ("externalTrafficPolicy", json!("Local"), "spec.externalTrafficPolicy"),
            ("internalTrafficPolicy", json!("Near"), "spec.internalTrafficPolicy"),
            ("externalIPs", json!(["127.0.0.1"]), "spec.externalIPs[0]"),
            ("loadBalancerSourceRanges", json!(["10.0.0.0/8"]), "spec.loadBalancerSourceRanges"),
            ("loadBalancerClass", json!("x.test/y"), "spec.loadBalancerClass"),
            ("trafficDistribution", json!("Anywhere"), "spec.trafficDistribution"),
        ] {
            let mut spec = good.clone();
            spec[field] = value;
            assert_eq!(fields(spec), [named], "{field}");
        }
    }

    #[test]
    fn what_has_no_address_needs_a_name() {
        assert_eq!(fields(json!({"type": "ExternalName"})), ["spec.externalName"]);
        assert_eq!(fields(json!({"type": "ExternalName", "externalName": "a.test."})), Vec::<String>::new());
        let both = json!({"type": "ExternalName", "externalName": "a.test", "clusterIP": "10.96.0.1"});
        assert_eq!(fields(both), ["spec.clusterIPs"]);
        let headless = json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]});
        assert_eq!(fields(headless), ["spec.clusterIPs[0]"]);
        assert_eq!(fields(json!({"clusterIP": "None", "selector": {"a": "b"}})), Vec::<String>::new());
    }

    #[test]
    fn an_address_stays() {
        let service = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        assert_eq!(validate_update(&service("10.96.0.1"), &service("10.96.0.1")), []);
        let causes = validate_update(&service("10.96.0.1"), &service("10.96.0.2"));
        assert_eq!(causes[0].message, "Invalid value: [\"10.96.0.2\"]: may not change once set");
    }
}
