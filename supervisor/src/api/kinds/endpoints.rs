//! `v1` Endpoints: addresses behind a Service as old clients read them. EndpointSlices say the same, and more.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::pod_fields::unsupported;
use super::service_addresses::special;
use super::service_causes::{duplicate, one_of};
use super::{AGE_COLUMN, ALL_VERBS, Column, Kind, NAME_COLUMN, integer, is_dns_label, pod, set_default, text};
use crate::api::status::Cause;

pub static KIND: Kind = Kind {
    group: "",
    version: "v1",
    kind: "Endpoints",
    plural: "endpoints",
    singular: "endpoints",
    short_names: &["ep"],
    categories: &[],
    namespaced: true,
    verbs: ALL_VERBS,
    subresources: &[],
    set_defaults,
    validate,
    validate_update: |_, _| Vec::new(),
    columns: &[
        NAME_COLUMN,
        Column { name: "Endpoints", data_type: "string", priority: 0, cell: endpoints_cell },
        AGE_COLUMN,
    ],
};

/// Fields that are carried out, or that say what an endpoint is.
const FIELDS: &[&str] = &["apiVersion", "kind", "metadata.*", "subsets[].*"];
/// How many a column of `kubectl get` shows.
const SHOWN: usize = 3;

fn set_defaults(endpoints: &mut Value) {
    for subset in endpoints.get_mut("subsets").and_then(Value::as_array_mut).into_iter().flatten() {
        for port in subset.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
            set_default(port, "protocol", "TCP");
        }
    }
}

fn validate(endpoints: &Value) -> Vec<Cause> {
    let mut causes = unsupported(endpoints, "", FIELDS);
    for (index, subset) in pod::items(endpoints, "subsets").iter().enumerate() {
        let path = format!("subsets[{index}]");
        let lists = ["addresses", "notReadyAddresses"].map(|list| (list, pod::items(subset, list)));
        if lists.iter().all(|(_, addresses)| addresses.is_empty()) {
            causes.push(Cause::required(path.as_str(), "must specify `addresses` or `notReadyAddresses`"));
        }
        for (list, addresses) in lists {
            for (index, address) in addresses.iter().enumerate() {
                causes.extend(address_causes(address, &format!("{path}.{list}[{index}]")));
            }
        }
        causes.extend(ports_causes(pod::items(subset, "ports"), &path));
    }
    causes
}

fn address_causes(address: &Value, path: &str) -> Vec<Cause> {
    let mut causes = Vec::new();
    let ip = text(address, "/ip");
    let wrong = match ip.parse::<IpAddr>() {
        Ok(ip) => special(ip),
        Err(_) => Some("must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"),
    };
    if let Some(reason) = wrong {
        let shown: String = ip.chars().take(100).collect();
        causes.push(Cause::invalid(format!("{path}.ip"), format_args!("{shown:?}"), reason));
    }
    for field in ["hostname", "nodeName"] {
        let name = text(address, &format!("/{field}"));
        let fits = if field == "hostname" { is_dns_label(name) } else { super::is_dns_subdomain(name) };
        if !name.is_empty() && !fits {
            let message = "must be a lowercase RFC 1123 label or subdomain";
            causes.push(Cause::invalid(format!("{path}.{field}"), format_args!("{name:?}"), message));
        }
    }
    causes
}

fn ports_causes(ports: &[Value], path: &str) -> Vec<Cause> {
    let (mut causes, mut names) = (Vec::new(), BTreeSet::new());
    for (index, port) in ports.iter().enumerate() {
        let path = |field: &str| format!("{path}.ports[{index}].{field}");
        let name = text(port, "/name");
        if name.is_empty() {
            if ports.len() > 1 {
                causes.push(Cause::required(path("name"), "is needed where there are several ports"));
            }
        } else if !is_dns_label(name) {
            causes.push(Cause::invalid(path("name"), format_args!("{name:?}"), "must be a lowercase RFC 1123 label"));
        } else if !names.insert(name) {
            causes.push(duplicate(path("name"), format_args!("{name:?}")));
        }
        let number = integer(port, "/port");
        if !(1..=65_535).contains(&number) {
            causes.push(Cause::invalid(path("port"), number, "must be between 1 and 65535, inclusive"));
        }
        causes.extend(one_of(path("protocol"), text(port, "/protocol"), &["SCTP", "TCP", "UDP"]));
    }
    causes
}

/// Those that are ready, at each of their ports; an address alone where there are no ports.
fn endpoints_cell(endpoints: &Value) -> Value {
    let (mut shown, mut count) = (Vec::new(), 0_usize);
    for subset in pod::items(endpoints, "subsets") {
        let ports: Vec<Option<i64>> = match pod::items(subset, "ports") {
            [] => vec![None],
            ports => ports.iter().map(|port| Some(integer(port, "/port"))).collect(),
        };
        for port in ports {
            for address in pod::items(subset, "addresses") {
                count += 1;
                if shown.len() < SHOWN {
                    shown.push(match (text(address, "/ip"), port) {
                        (ip, None) => ip.to_owned(),
                        (ip, Some(port)) if ip.contains(':') => format!("[{ip}]:{port}"),
                        (ip, Some(port)) => format!("{ip}:{port}"),
                    });
                }
            }
        }
    }
    match (count, count.saturating_sub(SHOWN)) {
        (0, _) => "<none>".into(),
        (_, 0) => shown.join(",").into(),
        (_, more) => format!("{} + {more} more...", shown.join(",")).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn wrong_fields_are_named() {
        let fields = |subset: Value| -> Vec<String> {
            let mut endpoints = json!({"metadata": {"name": "web"}, "subsets": [subset]});
            set_defaults(&mut endpoints);
            validate(&endpoints).into_iter().map(|cause| cause.field).collect()
        };
        let good = json!({"addresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 80}]});
        assert_eq!(fields(good), [""; 0]);
        assert_eq!(fields(json!({"notReadyAddresses": [{"ip": "2001:db8::1", "hostname": "a"}]})), [""; 0]);
        let at = |address: Value| json!({"addresses": [address]});
        for (subset, named) in [
            (json!({}), "subsets[0]"),
            (at(json!({})), "subsets[0].addresses[0].ip"),
            (at(json!({"ip": "127.0.0.1"})), "subsets[0].addresses[0].ip"),
            (at(json!({"ip": "169.254.169.254"})), "subsets[0].addresses[0].ip"),
            (at(json!({"ip": "::ffff:127.0.0.1"})), "subsets[0].addresses[0].ip"),
            (at(json!({"ip": "192.0.2.1", "hostname": "A b"})), "subsets[0].addresses[0].hostname"),
            (at(json!({"ip": "192.0.2.1", "nodeName": "A b"})), "subsets[0].addresses[0].nodeName"),
        ] {
            assert_eq!(fields(subset.clone()), [named], "{subset}");
        }
        for (ports, named) in [
            (json!([{"port": 0}]), "subsets[0].ports[0].port"),
            (json!([{"port": 65_536}]), "subsets[0].ports[0].port"),
            (json!([{"port": 1, "protocol": "ICMP"}]), "subsets[0].ports[0].protocol"),
            (json!([{"port": 1, "name": "A"}]), "subsets[0].ports[0].name"),
            (json!([{"port": 1, "name": "a"}, {"port": 2}]), "subsets[0].ports[1].name"),
            (json!([{"port": 1, "name": "a"}, {"port": 2, "name": "a"}]), "subsets[0].ports[1].name"),
        ] {
            let subset = json!({"addresses": [{"ip": "192.0.2.1"}], "ports": ports});
            assert_eq!(fields(subset), [named], "{ports}");
        }
    }

    #[test]
    fn endpoints_are_shown_as_kubernetes_shows_them() {
        let cell = |subsets: Value| endpoints_cell(&json!({"subsets": subsets}));
        assert_eq!(cell(json!([])), "<none>");
        assert_eq!(cell(json!([{"notReadyAddresses": [{"ip": "192.0.2.1"}], "ports": [{"port": 1}]}])), "<none>");
        assert_eq!(cell(json!([{"addresses": [{"ip": "192.0.2.1"}]}])), "192.0.2.1");
        let many =
            json!([{"addresses": [{"ip": "192.0.2.1"}, {"ip": "fd00::1"}], "ports": [{"port": 1}, {"port": 2}]}]);
        assert_eq!(cell(many), "192.0.2.1:1,[fd00::1]:1,192.0.2.1:2 + 1 more...");
    }
}
