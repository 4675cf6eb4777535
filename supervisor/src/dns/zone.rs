//! The names of the cluster's domain, read from the objects at each question: nothing that could be out of date.
//!
//! Kubernetes' DNS-based service discovery, version 1.1.0: services, headless services with their endpoints, ports as
//! SRV, addresses of pods, and the way back from an address to a name.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use domain::base::iana::Rtype;
use serde_json::Value;

use crate::api::kinds::{pod::items, text};
use crate::api::object_store::{Key, ObjectStore};

/// Version of the specification, which `dns-version` tells.
const SPECIFICATION: &str = "1.1.0";

/// Names and their records; `domain` is without a dot at its end.
#[derive(Clone)]
pub(super) struct Zone {
    store: ObjectStore,
    domain: Arc<str>,
}

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    /// Records of the type that was asked for, at least one.
    Records(Vec<Data>),
    /// Another name has them.
    Alias(String),
    /// The name is there, without records of this type.
    NoData,
    /// There is no such name.
    NoName,
    /// Others know.
    Elsewhere,
}

/// One record; names are whole and without a dot at their end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Data {
    Address(IpAddr),
    Server { port: u16, target: String },
    Pointer(String),
    Text(String),
    NameServer(String),
    Authority,
}

impl Data {
    fn is_of(&self, rtype: Rtype) -> bool {
        match self {
            Self::Address(IpAddr::V4(_)) => rtype == Rtype::A,
            Self::Address(IpAddr::V6(_)) => rtype == Rtype::AAAA,
            Self::Server { .. } => rtype == Rtype::SRV,
            Self::Pointer(_) => rtype == Rtype::PTR,
            Self::Text(_) => rtype == Rtype::TXT,
            Self::NameServer(_) => rtype == Rtype::NS,
            Self::Authority => rtype == Rtype::SOA,
        }
    }
}

/// An endpoint as its slice has it.
struct Endpoint {
    address: IpAddr,
    /// First label of its name.
    label: String,
    ports: Arc<[Port]>,
}

struct Port {
    name: String,
    protocol: String,
    number: u16,
}

impl Zone {
    pub(super) fn new(store: ObjectStore, domain: &str) -> Self {
        Self { store, domain: domain.to_ascii_lowercase().into() }
    }

    pub(super) fn domain(&self) -> &str {
        &self.domain
    }

    /// Looks `name` up, which is in lower case and without a dot at its end.
    pub(super) fn find(&self, name: &str, rtype: Rtype) -> Found {
        if let Some(address) = address_of_reverse(name) {
            let names = self.names_of(address);
            return match names.is_empty() {
                true => Found::Elsewhere,
                false => of_type(names.into_iter().map(Data::Pointer).collect(), rtype),
            };
        }
        let inner = match name.strip_suffix(&*self.domain) {
            Some("") => "",
            Some(rest) => match rest.strip_suffix('.') {
                Some(inner) => inner,
                None => return Found::Elsewhere,
            },
            None => return Found::Elsewhere,
        };
        let labels: Vec<&str> = inner.split('.').filter(|label| !label.is_empty()).collect();
        match labels.as_slice() {
            [] => of_type(vec![Data::NameServer(self.name_server()), Data::Authority], rtype),
            ["svc" | "pod"] => Found::NoData,
            ["dns-version"] => of_type(vec![Data::Text(SPECIFICATION.into())], rtype),
            // The name that the zone's NS record gives is no service of anybody's.
            ["ns", "dns"] | ["dns"] => Found::NoData,
            [namespace, "svc" | "pod"] => self.namespace(namespace),
            [address, namespace, "pod"] => self.pod(address, namespace, rtype),
            [rest @ .., service, namespace, "svc"] => self.service(rest, service, namespace, rtype),
            _ => Found::NoName,
        }
    }

    pub(super) fn name_server(&self) -> String {
        format!("ns.dns.{}", self.domain)
    }

    fn namespace(&self, name: &str) -> Found {
        let known = self.store.get(&Key::new("namespaces", "", name)).is_some();
        if known { Found::NoData } else { Found::NoName }
    }

    /// `10-88-0-2.NAMESPACE.pod`: only where a pod of the namespace has the address.
    fn pod(&self, label: &str, namespace: &str, rtype: Rtype) -> Found {
        let Some(address) = address_of_label(label) else { return Found::NoName };
        let (pods, _) = self.store.list("pods", Some(namespace));
        let has = |pod: &Arc<Value>| {
            let addresses = pod["status"]["podIPs"].as_array().map(Vec::as_slice).unwrap_or_default();
            addresses.iter().any(|entry| parse_address(&entry["ip"]) == Some(address))
        };
        match pods.iter().any(has) {
            true => of_type(vec![Data::Address(address)], rtype),
            false => Found::NoName,
        }
    }

    fn service(&self, before: &[&str], name: &str, namespace: &str, rtype: Rtype) -> Found {
        let Some(service) = self.store.get(&Key::new("services", namespace, name)) else { return Found::NoName };
        let spec = &service["spec"];
        if text(spec, "/type") == "ExternalName" {
            return match before {
                [] => Found::Alias(text(spec, "/externalName").trim_end_matches('.').to_ascii_lowercase()),
                _ => Found::NoName,
            };
        }
        let own_name = || format!("{name}.{namespace}.svc.{}", self.domain);
        let addresses = cluster_addresses(&service);
        let is_headless = addresses.is_empty();
        match before {
            [] if is_headless => {
                of_type(self.ready(name, namespace).map(|endpoint| Data::Address(endpoint.address)).collect(), rtype)
            }
            [] => of_type(addresses.into_iter().map(Data::Address).collect(), rtype),
            [protocol] if matches!(*protocol, "_tcp" | "_udp" | "_sctp") => Found::NoData,
            [label] => {
                let endpoints = self.ready(name, namespace).filter(|endpoint| endpoint.label == *label);
                let records: Vec<Data> = endpoints.map(|endpoint| Data::Address(endpoint.address)).collect();
                if records.is_empty() { Found::NoName } else { of_type(records, rtype) }
            }
            [port, protocol] => {
                let (Some(port), Some(protocol)) = (port.strip_prefix('_'), protocol.strip_prefix('_')) else {
                    return Found::NoName;
                };
                let records: Vec<Data> = if is_headless {
                    let own_name = own_name();
                    let servers = self.ready(name, namespace).flat_map(|endpoint| {
                        let target = format!("{}.{own_name}", endpoint.label);
                        let numbers: Vec<u16> = named(&endpoint.ports, port, protocol).collect();
                        numbers.into_iter().map(move |port| Data::Server { port, target: target.clone() })
                    });
                    servers.collect()
                } else {
                    let ports = ports(&service["spec"]);
                    named(&ports, port, protocol).map(|port| Data::Server { port, target: own_name() }).collect()
                };
                if records.is_empty() { Found::NoName } else { of_type(records, rtype) }
            }
            _ => Found::NoName,
        }
    }

    /// Endpoints of a service that its clients may be sent to. A controller that publishes those that are not ready
    /// says `ready` of them.
    fn ready(&self, service: &str, namespace: &str) -> impl Iterator<Item = Endpoint> {
        let (slices, _) = self.store.list("endpointslices.discovery.k8s.io", Some(namespace));
        let service = service.to_owned();
        slices.into_iter().filter(move |slice| service_of(slice) == service).flat_map(|slice| endpoints(&slice))
    }

    /// Names of an address: of the service that has it, or of the endpoints of headless services.
    fn names_of(&self, address: IpAddr) -> Vec<String> {
        let qualified = |name: &str, namespace: &str| format!("{name}.{namespace}.svc.{}", self.domain);
        let (services, _) = self.store.list("services", None);
        if let Some(service) = services.iter().find(|service| cluster_addresses(service).contains(&address)) {
            let metadata = &service["metadata"];
            return vec![qualified(text(metadata, "/name"), text(metadata, "/namespace"))];
        }
        let mut names = Vec::new();
        for slice in self.store.list("endpointslices.discovery.k8s.io", None).0 {
            let (service, namespace) = (service_of(&slice), text(&slice, "/metadata/namespace"));
            let headless = |service: Arc<Value>| cluster_addresses(&service).is_empty();
            if !self.store.get(&Key::new("services", namespace, service)).is_some_and(headless) {
                continue;
            }
            let here = endpoints(&slice).filter(|endpoint| endpoint.address == address);
            names.extend(here.map(|endpoint| format!("{}.{}", endpoint.label, qualified(service, namespace))));
        }
        names
    }
}

/// Those of a type among the records of a name.
fn of_type(mut records: Vec<Data>, rtype: Rtype) -> Found {
    if rtype != Rtype::ANY {
        records.retain(|record| record.is_of(rtype));
    }
    if records.is_empty() { Found::NoData } else { Found::Records(records) }
}

/// None for a headless service.
fn cluster_addresses(service: &Value) -> Vec<IpAddr> {
    let spec = &service["spec"];
    match items(spec, "clusterIPs") {
        [] => parse_address(&spec["clusterIP"]).into_iter().collect(),
        addresses => addresses.iter().filter_map(parse_address).collect(),
    }
}

fn service_of(slice: &Value) -> &str {
    slice["metadata"]["labels"]["kubernetes.io/service-name"].as_str().unwrap_or_default()
}

fn endpoints(slice: &Value) -> impl Iterator<Item = Endpoint> + use<> {
    let shared: Arc<[Port]> = ports(slice).into();
    let found: Vec<Endpoint> = items(slice, "endpoints")
        .iter()
        .filter(|endpoint| endpoint["conditions"]["ready"].as_bool() != Some(false))
        .flat_map(|endpoint| items(endpoint, "addresses").iter().map(move |address| (endpoint, address)))
        .filter_map(|(endpoint, address)| {
            let address = parse_address(address)?;
            let label = match text(endpoint, "/hostname") {
                "" => label_of_address(address),
                hostname => hostname.to_owned(),
            };
            Some(Endpoint { address, label, ports: shared.clone() })
        })
        .collect();
    found.into_iter()
}

/// Ports of a service's `spec` or of a slice.
fn ports(owner: &Value) -> Vec<Port> {
    let port = |port: &Value| {
        let protocol = port["protocol"].as_str().unwrap_or("TCP").to_ascii_lowercase();
        let number = u16::try_from(port["port"].as_u64()?).ok()?;
        Some(Port { name: text(port, "/name").to_owned(), protocol, number })
    };
    items(owner, "ports").iter().filter_map(port).collect()
}

fn named(ports: &[Port], name: &str, protocol: &str) -> impl Iterator<Item = u16> {
    ports.iter().filter(move |port| port.name == name && port.protocol == protocol).map(|port| port.number)
}

fn parse_address(value: &Value) -> Option<IpAddr> {
    value.as_str()?.parse().ok()
}

/// `10-88-0-2`, `fd00--2`: an address as one label.
fn label_of_address(address: IpAddr) -> String {
    address.to_string().replace(['.', ':'], "-")
}

fn address_of_label(label: &str) -> Option<IpAddr> {
    label.replace('-', ".").parse::<Ipv4Addr>().map(IpAddr::V4).ok().or_else(|| {
        let address = label.replace('-', ":").parse::<Ipv6Addr>().ok()?;
        Some(address.into())
    })
}

/// The address in `2.0.88.10.in-addr.arpa`, or in 32 digits before `ip6.arpa`.
fn address_of_reverse(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let bytes: Vec<u8> = digits.split('.').rev().map(|byte| byte.parse().ok()).collect::<Option<_>>()?;
        return Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?).into());
    }
    let digits: Vec<&str> = name.strip_suffix(".ip6.arpa")?.split('.').collect();
    if digits.len() != 32 {
        return None;
    }
    let mut bits = 0u128;
    for digit in digits.iter().rev() {
        let value = digit.chars().next().filter(|_| digit.len() == 1)?.to_digit(16)?;
        bits = bits << 4 | u128::from(value);
    }
    Some(Ipv6Addr::from(bits).into())
}

#[cfg(test)]
mod tests;
