//! What is wrong with a Service, in Kubernetes' words.

use serde_json::Value;
use std::collections::BTreeSet;

use super::pod_fields::unsupported;
use super::service::{HEADLESS, has_health_check, has_node_ports};
use super::service_addresses::{address_causes, kept_causes, shortened};
use super::{integer, is_dns_label, pod, text};
use crate::api::status::Cause;
use crate::network::services::SourceRange;

/// Fields of the specification that are carried out.
const FIELDS: &[&str] = &[
    "allocateLoadBalancerNodePorts",
    "clusterIP",
    "clusterIPs",
    "externalIPs",
    "externalName",
    "externalTrafficPolicy",
    "healthCheckNodePort",
    "internalTrafficPolicy",
    "ipFamilies",
    "ipFamilyPolicy",
    "loadBalancerClass",
    "loadBalancerSourceRanges",
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
    causes.extend(balancer_causes(service, service_type));
    if let Some(distribution) = spec.get("trafficDistribution").and_then(Value::as_str) {
        causes.extend(one_of("spec.trafficDistribution", distribution, DISTRIBUTIONS));
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
    causes
}

/// Of fields for load balancers.
fn balancer_causes(service: &Value, service_type: &str) -> Vec<Cause> {
    let (spec, mut causes) = (&service["spec"], Vec::new());
    let ranges = pod::items(spec, "loadBalancerSourceRanges");
    if service_type != "LoadBalancer" && !ranges.is_empty() {
        let message = "may only be used when `type` is 'LoadBalancer'";
        causes.push(Cause::forbidden("spec.loadBalancerSourceRanges", message));
    }
    for (index, range) in ranges.iter().enumerate() {
        if range.as_str().and_then(SourceRange::parse).is_none() {
            let path = format!("spec.loadBalancerSourceRanges[{index}]");
            let message = "must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)";
            causes.push(Cause::invalid(path, shortened(range), message));
        }
    }
    match integer(spec, "/healthCheckNodePort") {
        0 => {}
        port if !has_health_check(service) => {
            let message = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'";
            causes.push(Cause::invalid("spec.healthCheckNodePort", port, message));
        }
        port => causes.extend(port_number("spec.healthCheckNodePort".into(), port)),
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
        for (field, item) in [("clusterIPs", "clusterIP"), ("ipFamilies", "ipFamily")] {
            causes.extend(kept_causes(old, new, field, item));
        }
    }
    let class = |service: &Value| service["spec"]["loadBalancerClass"].clone();
    if text(old, "/spec/type") == "LoadBalancer"
        && text(new, "/spec/type") == "LoadBalancer"
        && class(old) != class(new)
    {
        causes.push(Cause::invalid("spec.loadBalancerClass", class(new), "may not change once set"));
    }
    let port = |service: &Value| integer(service, "/spec/healthCheckNodePort");
    if has_health_check(old) && has_health_check(new) && port(old) != 0 && port(old) != port(new) {
        causes.push(Cause::invalid("spec.healthCheckNodePort", port(new), "field is immutable"));
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
            ("clusterIP", json!("fd00::1%eth0"), "spec.clusterIPs[0]"),
            ("clusterIP", json!("1".repeat(100_000)), "spec.clusterIPs[0]"),
            ("ipFamilies", json!(["IPv5"]), "spec.ipFamilies[0]"),
            ("ipFamilies", json!(["IPv6", "IPv6"]), "spec.ipFamilies[1]"),
            ("ipFamilies", json!(vec!["IPv6"; 100_000]), "spec.ipFamilies"),
            ("ipFamilyPolicy", json!("DualStack"), "spec.ipFamilyPolicy"),
            ("ipFamilyPolicy", json!(""), "spec.ipFamilyPolicy"),
            ("clusterIPs", json!(["10.96.0.1", "fd00::1", "fd00::2"]), "spec.clusterIPs"),
            ("clusterIPs", json!(["10.96.0.1", "10.96.0.2"]), "spec.clusterIPs"),
            ("clusterIPs", json!(["None", "fd00::1"]), "spec.clusterIPs"),
            ("clusterIPs", json!(["10.96.0.1", "None"]), "spec.clusterIPs"),
            ("clusterIPs", json!(["10.96.0.1", "x"]), "spec.clusterIPs[1]"),
            ("sessionAffinity", json!("Cookie"), "spec.sessionAffinity"),
            ("sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 5}}), "spec.sessionAffinityConfig"),
            ("externalTrafficPolicy", json!("Local"), "spec.externalTrafficPolicy"),
            ("internalTrafficPolicy", json!("Near"), "spec.internalTrafficPolicy"),
            ("externalIPs", json!(["127.0.0.1"]), "spec.externalIPs[0]"),
            ("externalIPs", json!(["2001:db8::1", "fe80::1"]), "spec.externalIPs[1]"),
            ("externalIPs", json!(["::ffff:192.0.2.1"]), "spec.externalIPs[0]"),
            ("externalIPs", json!(["::"]), "spec.externalIPs[0]"),
            ("externalIPs", json!(["ff02::1"]), "spec.externalIPs[0]"),
            ("externalIPs", json!(["fe80::1%eth0"]), "spec.externalIPs[0]"),
            ("loadBalancerSourceRanges", json!(["10.0.0.0/8"]), "spec.loadBalancerSourceRanges"),
            ("loadBalancerIP", json!("192.0.2.7"), "spec.loadBalancerIP"),
            ("healthCheckNodePort", json!(30000), "spec.healthCheckNodePort"),
            ("loadBalancerClass", json!("x.test/y"), "spec.loadBalancerClass"),
            ("trafficDistribution", json!("Anywhere"), "spec.trafficDistribution"),
        ] {
            let mut spec = good.clone();
            spec[field] = value;
            assert_eq!(fields(spec), [named], "{field}");
        }
    }

    #[test]
    fn load_balancers_have_fields_of_their_own() {
        let balanced = |field: &str, value: Value| {
            let mut spec = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "externalTrafficPolicy": "Local"});
            spec[field] = value;
            fields(spec)
        };
        let ranges = "loadBalancerSourceRanges";
        assert_eq!(balanced(ranges, json!(["10.0.0.1/8", " fd00::/8 ", "0.0.0.0/0"])), Vec::<String>::new());
        assert_eq!(balanced(ranges, json!([])), Vec::<String>::new());
        for wrong in ["10.0.0.0", "10.0.0.0/33", "", "10.0.0.0/8,::/0", "10.0.0.0/8 } drop; flush ruleset"] {
            assert_eq!(balanced(ranges, json!(["::/0", wrong])), ["spec.loadBalancerSourceRanges[1]"], "{wrong}");
        }
        let port = "healthCheckNodePort";
        assert_eq!(balanced(port, json!(30000)), Vec::<String>::new());
        for wrong in [-1, 65_536] {
            assert_eq!(balanced(port, json!(wrong)), ["spec.healthCheckNodePort"]);
        }
        let spread = json!({"type": "LoadBalancer", "ports": [{"port": 80}], "healthCheckNodePort": 30000});
        assert_eq!(fields(spread), ["spec.healthCheckNodePort"]);
    }

    #[test]
    fn what_has_no_address_needs_a_name() {
        assert_eq!(fields(json!({"type": "ExternalName"})), ["spec.externalName"]);
        assert_eq!(fields(json!({"type": "ExternalName", "externalName": "a.test."})), Vec::<String>::new());
        let both = json!({"type": "ExternalName", "externalName": "a.test", "clusterIP": "10.96.0.1"});
        assert_eq!(fields(both), ["spec.clusterIPs"]);
        let family = json!({"type": "ExternalName", "externalName": "a.test", "ipFamilies": ["IPv6"]});
        assert_eq!(fields(family), ["spec.ipFamilies"]);
        let headless = json!({"type": "NodePort", "clusterIP": "None", "ports": [{"port": 1}]});
        assert_eq!(fields(headless), ["spec.clusterIPs[0]"]);
        assert_eq!(fields(json!({"clusterIP": "None", "selector": {"a": "b"}})), Vec::<String>::new());
    }
}
