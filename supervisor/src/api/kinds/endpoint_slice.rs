//! `discovery.k8s.io/v1` EndpointSlice: addresses behind a Service, made by its controller or by people.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::pod_fields::unsupported;
use super::service_addresses::special;
use super::service_causes::{duplicate, one_of};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, is_dns_label, is_dns_subdomain, pod, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "discovery.k8s.io",
    version: "v1",
    kind: "EndpointSlice",
    plural: "endpointslices",
    singular: "endpointslice",
    short_names: &[],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults,
    validate,
    validate_update,
    columns: &[
        NAME_COLUMN,
        Column { name: "AddressType", data_type: "string", priority: 0, cell: |o| text(o, "/addressType").into() },
        Column { name: "Ports", data_type: "string", priority: 0, cell: ports_cell },
        Column { name: "Endpoints", data_type: "string", priority: 0, cell: endpoints_cell },
        AGE_COLUMN,
    ],
};

/// Names the Service whose endpoints these are.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";

/// Fields that are carried out, or that say what an endpoint is.
const FIELDS: &[&str] = &["addressType", "apiVersion", "endpoints[].*", "kind", "metadata.*", "ports[].*"];

/// Kubernetes' own limits.
const MAX_ENDPOINTS: usize = 1000;
const MAX_ADDRESSES: usize = 100;
const MAX_PORTS: usize = 20_000;
/// How many a column of `kubectl get` shows.
const SHOWN: usize = 3;

fn set_defaults(slice: &mut Value) {
    for port in slice.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        set_default(port, "name", "");
        set_default(port, "protocol", "TCP");
    }
    if slice.get("endpoints").is_none_or(Value::is_null) {
        slice["endpoints"] = Value::Array(Vec::new());
    }
}

fn validate(slice: &Value) -> Vec<Cause> {
    let mut causes = unsupported(slice, "", FIELDS);
    let address_type = text(slice, "/addressType");
    causes.extend(one_of("addressType", address_type, &["FQDN", "IPv4", "IPv6"]));
    let endpoints = pod::items(slice, "endpoints");
    if endpoints.len() > MAX_ENDPOINTS {
        causes.push(too_many("endpoints", endpoints.len(), MAX_ENDPOINTS));
    }
    for (index, endpoint) in endpoints.iter().enumerate() {
        causes.extend(endpoint_causes(endpoint, address_type, &format!("endpoints[{index}]")));
    }
    let ports = pod::items(slice, "ports");
    if ports.len() > MAX_PORTS {
        causes.push(too_many("ports", ports.len(), MAX_PORTS));
    }
    let mut names = BTreeSet::new();
    for (index, port) in ports.iter().enumerate() {
        let path = |field: &str| format!("ports[{index}].{field}");
        let name = text(port, "/name");
        if !name.is_empty() && !is_dns_label(name) {
            causes.push(Cause::invalid(path("name"), format_args!("{name:?}"), "must be a lowercase RFC 1123 label"));
        } else if !names.insert(name) {
            causes.push(duplicate(path("name"), format_args!("{name:?}")));
        }
        causes.extend(one_of(path("protocol"), text(port, "/protocol"), &["SCTP", "TCP", "UDP"]));
        if let Some(number) = port.get("port").and_then(Value::as_i64).filter(|number| !(1..=65_535).contains(number)) {
            causes.push(Cause::invalid(path("port"), number, "must be between 1 and 65535, inclusive"));
        }
    }
    causes
}

fn too_many(field: &str, found: usize, most: usize) -> Cause {
    let message = format!("Too many: {found}: must have at most {most} items");
    Cause { reason: "FieldValueTooMany", field: field.into(), message }
}

fn endpoint_causes(endpoint: &Value, address_type: &str, path: &str) -> Vec<Cause> {
    let addresses = pod::items(endpoint, "addresses");
    let mut causes = match addresses.len() {
        0 => vec![Cause::required(format!("{path}.addresses"), "must contain at least 1 address")],
        1..=MAX_ADDRESSES => Vec::new(),
        more => vec![too_many(&format!("{path}.addresses"), more, MAX_ADDRESSES)],
    };
    for (index, address) in addresses.iter().enumerate() {
        let shown = address.as_str().unwrap_or_default();
        let parsed = shown.parse::<IpAddr>();
        let fits = match address_type {
            "IPv4" => parsed.as_ref().is_ok_and(IpAddr::is_ipv4),
            "IPv6" => parsed.as_ref().is_ok_and(IpAddr::is_ipv6),
            _ => is_dns_subdomain(shown),
        };
        let path = format!("{path}.addresses[{index}]");
        if !fits {
            causes.push(Cause::invalid(path, address, &format!("must be a valid {address_type} address")));
        } else if let Some(reason) = parsed.ok().and_then(special) {
            causes.push(Cause::invalid(path, address, reason));
        }
    }
    let name = text(endpoint, "/hostname");
    if !name.is_empty() && !is_dns_label(name) {
        let message = "must be a lowercase RFC 1123 label";
        causes.push(Cause::invalid(format!("{path}.hostname"), format_args!("{name:?}"), message));
    }
    causes
}

fn validate_update(old: &Value, new: &Value) -> Vec<Cause> {
    if old.get("addressType") == new.get("addressType") {
        return Vec::new();
    }
    vec![Cause::invalid("addressType", format_args!("{:?}", text(new, "/addressType")), "field is immutable")]
}

/// The first of `all`, and how many more there are.
fn shortened(all: &[String], several: &str) -> Value {
    match all.len() {
        0 => "<unset>".into(),
        count if count <= SHOWN => all.join(",").into(),
        count => format!("{} + {} {several}", all[..SHOWN].join(","), count - SHOWN).into(),
    }
}

fn ports_cell(slice: &Value) -> Value {
    let shown = |port: &Value| port.get("port").and_then(Value::as_i64).map_or("*".into(), |number| number.to_string());
    shortened(&pod::items(slice, "ports").iter().map(shown).collect::<Vec<_>>(), "more...")
}

fn endpoints_cell(slice: &Value) -> Value {
    let endpoints = pod::items(slice, "endpoints").iter();
    let addresses = endpoints.flat_map(|endpoint| pod::items(endpoint, "addresses")).flat_map(Value::as_str);
    shortened(&addresses.map(str::to_owned).collect::<Vec<_>>(), "more...")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_endpoints_are_named() {
        let fields = |slice: Value| {
            let mut slice = slice;
            set_defaults(&mut slice);
            validate(&slice).into_iter().map(|cause| cause.field).collect::<Vec<_>>()
        };
        let good = json!({"addressType": "IPv4", "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
        assert_eq!(fields(good.clone()), Vec::<String>::new());
        for (field, value, named) in [
            ("addressType", json!("IPv5"), "addressType"),
            ("endpoints", json!([{"addresses": []}]), "endpoints[0].addresses"),
            ("endpoints", json!([{"addresses": ["fd00::1"]}]), "endpoints[0].addresses[0]"),
            ("endpoints", json!([{"addresses": ["127.0.0.1"]}]), "endpoints[0].addresses[0]"),
            ("endpoints", json!([{"addresses": ["10.0.0.1"], "hostname": "A"}]), "endpoints[0].hostname"),
            ("addressType", json!("IPv6"), "endpoints[0].addresses[0]"),
            ("ports", json!([{"port": 0}]), "ports[0].port"),
            ("ports", json!([{"name": "a"}, {"name": "a"}]), "ports[1].name"),
        ] {
            let mut slice = good.clone();
            slice[field] = value;
            assert_eq!(fields(slice)[0], named, "{field}");
        }
        let six = |address: &str| json!({"addressType": "IPv6", "endpoints": [{"addresses": [address]}]});
        assert_eq!(fields(six("fd00::1")), Vec::<String>::new());
        for wrong in ["::1", "::", "fe80::1", "fe80::1%eth0", "ff02::1", "::ffff:10.0.0.1"] {
            assert_eq!(fields(six(wrong)), ["endpoints[0].addresses[0]"], "{wrong}");
        }
    }

    #[test]
    fn slices_are_shown_as_kubernetes_shows_them() {
        let endpoint = |address: &str| json!({"addresses": [address]});
        let all = ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"].map(endpoint);
        let slice = json!({"ports": [{"port": 80}, {}], "endpoints": all});
        assert_eq!(ports_cell(&slice), "80,*");
        assert_eq!(endpoints_cell(&slice), "10.0.0.1,10.0.0.2,10.0.0.3 + 1 more...");
        assert_eq!(endpoints_cell(&json!({})), "<unset>");
    }
}
