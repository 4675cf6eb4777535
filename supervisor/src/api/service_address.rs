//! Addresses and ports of Services: which are free, which are kept. The Services themselves are the book: an address is
//! taken as long as one has it. What is chosen is chosen under the store's lock, so that no two get the same.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::ops::RangeInclusive;

use serde_json::{Value, json};
use wharf_specs::config::Network as NetworkConfig;

use super::kinds::service::{self, IPV4, cluster_ips, families, has_health_check, has_node_ports, is_headless};
use super::kinds::{integer, pod, text};
use super::objects::Objects;
use super::service_families::{is_unchanged, settle};
use super::status::Cause;
use crate::network::services::ServiceSubnets;
use crate::network::{NetworkError, Subnet};

/// Where Services get their addresses and ports from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRanges {
    pub subnets: ServiceSubnets,
    pub node_ports: RangeInclusive<u16>,
}

impl ServiceRanges {
    pub fn of_config(config: &NetworkConfig) -> Result<Self, NetworkError> {
        let refused = |reason: &str| NetworkError::Config {
            key: "node_ports",
            reason: format!("{:?} {reason}", config.node_ports),
        };
        let ends = config.node_ports.split_once('-');
        let (first, last) = ends.ok_or_else(|| refused("is not of the form 30000-32767"))?;
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| refused("does not consist of two ports"));
        let (first, last) = (number(first)?, number(last)?);
        if first == 0 || last < first {
            return Err(refused("is no range of ports from 1 to 65535"));
        }
        Ok(Self { subnets: ServiceSubnets::of_config(config)?, node_ports: first..=last })
    }
}

/// Takes over what an update leaves out of what the Service was given, and drops what its new type has no use for.
pub(super) fn keep(old: &Value, new: &mut Value) {
    let (old_type, new_type) = (text(old, "/spec/type").to_owned(), text(new, "/spec/type").to_owned());
    let (was_checked, is_checked) = (has_health_check(old), has_health_check(new));
    let Some(spec) = new.get_mut("spec").and_then(Value::as_object_mut) else { return };
    let is_unset =
        |value: Option<&Value>| value.is_none_or(|value| value.is_null() || *value == "" || *value == json!([]));
    if new_type == "ExternalName" && old_type != "ExternalName" {
        for field in ["clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "internalTrafficPolicy"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
    } else if new_type != "ExternalName" && old_type != "ExternalName" {
        if is_unset(spec.get("clusterIP")) && is_unset(spec.get("clusterIPs")) {
            for field in ["clusterIP", "clusterIPs"] {
                old["spec"].get(field).map(|value| spec.insert(field.into(), value.clone()));
            }
        } else if is_unset(spec.get("clusterIPs")) && spec.get("clusterIP") == old["spec"].get("clusterIP") {
            // Who knows of one field alone does not mean to give the second address back.
            old["spec"].get("clusterIPs").map(|value| spec.insert("clusterIPs".into(), value.clone()));
        } else if spec.get("clusterIPs") == old["spec"].get("clusterIPs")
            && spec.get("clusterIP") != old["spec"].get("clusterIP")
        {
            // The one that was written says it for both.
            spec.remove("clusterIPs");
        }
    }
    // A name without an address has nothing from which its families could be told.
    let both_headless = spec.get("clusterIP") == Some(&json!(service::HEADLESS)) && is_headless(old);
    if both_headless && is_unset(spec.get("ipFamilies")) {
        old["spec"].get("ipFamilies").map(|value| spec.insert("ipFamilies".into(), value.clone()));
    }
    if !has_node_ports(&new_type) && has_node_ports(&old_type) {
        let external = spec.get("externalIPs").is_some_and(|ips| *ips != json!([]));
        if !external && spec.get("externalTrafficPolicy") == old["spec"].get("externalTrafficPolicy") {
            spec.remove("externalTrafficPolicy");
        }
    }
    if new_type != "LoadBalancer" && old_type == "LoadBalancer" {
        for field in ["allocateLoadBalancerNodePorts", "loadBalancerClass"] {
            if spec.get(field) == old["spec"].get(field) {
                spec.remove(field);
            }
        }
    }
    let checked_at = old["spec"].get("healthCheckNodePort").cloned().unwrap_or_default();
    match spec.get("healthCheckNodePort").and_then(Value::as_i64).unwrap_or(0) {
        0 if was_checked && is_checked => drop(spec.insert("healthCheckNodePort".into(), checked_at)),
        own if was_checked && !is_checked && checked_at == own => drop(spec.remove("healthCheckNodePort")),
        _ => {}
    }
    let before = pod::items(&old["spec"], "ports");
    for port in spec.get_mut("ports").and_then(Value::as_array_mut).into_iter().flatten() {
        let protocol = match text(port, "/protocol") {
            "" => "TCP".to_owned(),
            protocol => protocol.to_owned(),
        };
        let number = integer(port, "/port");
        let same =
            before.iter().find(|other| integer(other, "/port") == number && text(other, "/protocol") == protocol);
        let kept = same.map_or(0, |other| integer(other, "/nodePort"));
        match (integer(port, "/nodePort"), has_node_ports(&new_type)) {
            (0, true) if kept != 0 => port["nodePort"] = kept.into(),
            (own, false) if own != 0 && own == kept => drop(port.as_object_mut().map(|port| port.remove("nodePort"))),
            _ => {}
        }
    }
}

/// What the other Services have.
#[derive(Default)]
struct Taken {
    addresses: BTreeSet<IpAddr>,
    ports: BTreeSet<i64>,
}

impl Taken {
    fn by_others(objects: &Objects, uid: &str) -> Self {
        let mut taken = Self::default();
        let services = objects.list(&service::KIND, None).0;
        for other in services.iter().filter(|other| text(other, "/metadata/uid") != uid) {
            taken.addresses.extend(cluster_ips(other));
            taken.ports.extend(pod::items(&other["spec"], "ports").iter().map(|port| integer(port, "/nodePort")));
            taken.ports.insert(integer(other, "/spec/healthCheckNodePort"));
        }
        taken
    }
}

/// Gives a Service the addresses and the ports that its type has and that it does not have yet, and refuses those that it
/// asks for and that are another's or of no range here; `before` is what it was. To be called where nobody else writes
/// meanwhile.
pub(super) fn assign(objects: &Objects, before: Option<&Value>, service: &mut Value) -> Vec<Cause> {
    let taken = Taken::by_others(objects, text(service, "/metadata/uid"));
    let ranges = objects.service_ranges().clone();
    let mut causes = Vec::new();
    let service_type = text(service, "/spec/type").to_owned();
    if service_type != "ExternalName" && !before.is_some_and(|before| is_unchanged(before, service)) {
        causes.extend(settle(service, before, &ranges));
        if causes.is_empty() && !is_headless(service) {
            causes.extend(assign_addresses(service, &taken, &ranges.subnets));
        }
    }
    let wants_ports = match service_type.as_str() {
        "LoadBalancer" => service["spec"]["allocateLoadBalancerNodePorts"] != false,
        other => other == "NodePort",
    };
    causes.extend(assign_ports(service, &taken, &ranges.node_ports, wants_ports));
    causes
}

/// One for each of its families.
fn assign_addresses(service: &mut Value, taken: &Taken, subnets: &ServiceSubnets) -> Vec<Cause> {
    let asked = pod::items(&service["spec"], "clusterIPs").to_vec();
    let (mut given, mut causes) = (Vec::new(), Vec::new());
    for (index, family) in families(service).into_iter().enumerate() {
        // A family without a subnet was refused before.
        let Some(subnet) = (if family == IPV4 { Some(subnets.four) } else { subnets.six }) else { continue };
        match address(asked.get(index).and_then(Value::as_str), taken, &subnet) {
            Ok(address) => given.push(Value::from(address)),
            Err((reason, message)) => causes.push(match reason {
                "InternalError" => Cause { reason, field: "spec.clusterIPs".into(), message },
                _ => Cause::invalid("spec.clusterIPs", json!(asked), &message),
            }),
        }
    }
    if causes.is_empty() {
        service["spec"]["clusterIP"] = given.first().cloned().unwrap_or_default();
        service["spec"]["clusterIPs"] = given.into();
    }
    causes
}

/// The one asked for, or one that is free; else why not, by reason and message.
fn address(asked: Option<&str>, taken: &Taken, subnet: &Subnet) -> Result<String, (&'static str, String)> {
    if let Some(asked) = asked {
        let reason = match asked.parse::<IpAddr>() {
            Ok(ip) if taken.addresses.contains(&ip) => "provided IP is already allocated".to_owned(),
            Ok(ip) if subnet.has(ip) => return Ok(asked.to_owned()),
            _ => format!("the provided IP ({asked}) is not in the valid range. The range of valid IPs is {subnet}"),
        };
        return Err(("FieldValueInvalid", format!("failed to allocate IP {asked}: {reason}")));
    }
    let count = subnet.host_count();
    // The lowest addresses are left to those who ask for one, as Kubernetes does.
    let (asked_for, start) = ((count / 16).clamp(16, 256).min(count / 2), random());
    let is_free = |index: &u32| !taken.addresses.contains(&subnet.host(*index));
    let upper =
        (0..count - asked_for).map(|step| asked_for + (start % (count - asked_for) + step) % (count - asked_for));
    let free = upper.chain(0..asked_for).find(is_free).map(|index| subnet.host(index).to_string());
    free.ok_or_else(|| {
        ("InternalError", format!("Internal error: failed to allocate a serviceIP: range is full: {subnet}"))
    })
}

fn assign_ports(service: &mut Value, taken: &Taken, range: &RangeInclusive<u16>, wanted: bool) -> Vec<Cause> {
    let mut causes = Vec::new();
    let checked = has_health_check(service);
    let checked_at = integer(service, "/spec/healthCheckNodePort");
    let mut own: BTreeSet<i64> =
        pod::items(&service["spec"], "ports").iter().map(|port| integer(port, "/nodePort")).collect();
    let asked_twice = checked_at != 0 && !own.insert(checked_at);
    let ports = service["spec"].get_mut("ports").and_then(Value::as_array_mut);
    for (index, port) in ports.into_iter().flatten().enumerate() {
        let path = format!("spec.ports[{index}].nodePort");
        match given_port(path, integer(port, "/nodePort"), wanted, taken, range, &own) {
            Ok(Some(given)) => {
                own.insert(given);
                port["nodePort"] = given.into();
            }
            Ok(None) => {}
            Err(cause) => causes.push(cause),
        }
    }
    let path = "spec.healthCheckNodePort".to_owned();
    if checked && asked_twice {
        causes.push(Cause::invalid(path, checked_at, "provided port is already allocated"));
    } else if checked {
        match given_port(path, checked_at, true, taken, range, &own) {
            Ok(Some(given)) => service["spec"]["healthCheckNodePort"] = given.into(),
            Ok(None) => {}
            Err(cause) => causes.push(cause),
        }
    }
    causes
}

/// The port that the field at `path` is given where it asks for none and one is `wanted`, or why the one that it asks for is
/// not to be had.
fn given_port(
    path: String,
    asked: i64,
    wanted: bool,
    taken: &Taken,
    range: &RangeInclusive<u16>,
    own: &BTreeSet<i64>,
) -> Result<Option<i64>, Cause> {
    let (first, last) = (range.start(), range.end());
    match asked {
        0 if wanted => {
            let free = free_port(range, |port| !taken.ports.contains(&port) && !own.contains(&port));
            let message = format!("Internal error: failed to allocate a nodePort: range is full: {first}-{last}");
            free.map(Some).ok_or(Cause { reason: "InternalError", field: path, message })
        }
        0 => Ok(None),
        asked if taken.ports.contains(&asked) => Err(Cause::invalid(path, asked, "provided port is already allocated")),
        asked if !u16::try_from(asked).is_ok_and(|asked| range.contains(&asked)) => {
            let message =
                format!("provided port is not in the valid range. The range of valid ports is {first}-{last}");
            Err(Cause::invalid(path, asked, &message))
        }
        _ => Ok(None),
    }
}

fn free_port(range: &RangeInclusive<u16>, is_free: impl Fn(i64) -> bool) -> Option<i64> {
    let (first, count) = (i64::from(*range.start()), u32::from(range.end() - range.start()) + 1);
    // As with addresses: the lowest are for those who ask.
    let asked_for = (count / 32).clamp(16, 128).min(count / 2);
    let (start, upper) = (random(), count - asked_for);
    let order = (0..upper).map(|step| asked_for + (start % upper + step) % upper).chain(0..asked_for);
    order.map(|index| first + i64::from(index)).find(|port| is_free(*port))
}

/// Where the search begins: an address that was given back is not given again at once.
fn random() -> u32 {
    let bytes = *uuid::Uuid::new_v4().as_bytes();
    u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

#[cfg(test)]
mod tests;
