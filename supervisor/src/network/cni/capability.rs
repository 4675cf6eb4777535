//! What a pod asks of plugins that declare it can be asked of them: `runtimeConfig`, by the names of CNI's conventions.
//!
//! | capability | from |
//! |---|---|
//! | `portMappings` | the pod's port mappings that have a host port |
//! | `bandwidth` | the annotations `kubernetes.io/ingress-bandwidth` and `kubernetes.io/egress-bandwidth` |
//! | `dns` | the pod's resolver configuration |
//! | `cgroupPath` | the parent of its containers' cgroups |
//! | `io.kubernetes.cri.pod-annotations` | its annotations |
//! | `ips`, `mac`, `ipRanges` | the annotations `wharf/cni-ips`, `wharf/cni-mac`, `wharf/cni-ip-ranges` |
//!
//! The last three are ours: where no plugin declares what they ask for, the pod is refused. The others are Kubernetes',
//! where networks also carry them out by means of their own, so they are only told where they are declared.

use std::net::IpAddr;

use serde_json::{Map, Value, json};

use super::{CniError, NetworkList, PodToConnect, Result};
use crate::api::quantity;
use crate::pod::PodError;
use crate::pod::spec::{Dns, Labels, PortMapping, SandboxConfig};

const INGRESS: &str = "kubernetes.io/ingress-bandwidth";
const EGRESS: &str = "kubernetes.io/egress-bandwidth";
const IPS: &str = "wharf/cni-ips";
const MAC: &str = "wharf/cni-mac";
const IP_RANGES: &str = "wharf/cni-ip-ranges";

/// Annotations that only a plugin can carry out, and the capability that each asks for.
const ASKED: [(&str, &str); 3] = [(IPS, "ips"), (MAC, "mac"), (IP_RANGES, "ipRanges")];

/// Bits; as Kubernetes' own runtimes have it: a rate is limited, a burst is not.
const BURST: i32 = i32::MAX;

/// What Kubernetes takes for a rate, in bits in a second: 1k to 1P.
const RATES: std::ops::RangeInclusive<f64> = 1e3..=1e15;

/// Refuses annotations that concern the network and are none.
pub(crate) fn check_annotations(config: &SandboxConfig) -> Result<(), PodError> {
    requested(&config.annotations).map(drop)
}

/// The first annotation that the embedded network cannot carry out.
pub(crate) fn asked_of_plugins(config: &SandboxConfig) -> Option<&'static str> {
    ASKED.into_iter().map(|(annotation, _)| annotation).find(|key| config.annotations.contains_key(*key))
}

/// Every capability argument of the pod; a plugin is told those it declares.
pub(super) fn arguments(pod: &PodToConnect<'_>, list: &NetworkList) -> Result<Map<String, Value>> {
    let config = pod.config;
    let declared = |capability: &str| list.plugins.iter().any(|plugin| plugin.capabilities.contains(capability));
    for (annotation, capability) in ASKED {
        if config.annotations.contains_key(annotation) && !declared(capability) {
            return Err(CniError::NotDeclared { annotation, network: list.name.clone(), capability });
        }
    }
    // They were checked before anything was made for the pod.
    let mut arguments = requested(&config.annotations).unwrap_or_default();
    let ports: Vec<Value> = config.ports.iter().filter(|port| port.host_port != 0).map(port_mapping).collect();
    if !ports.is_empty() {
        if !declared("portMappings") {
            let network = &list.name;
            tracing::warn!(pod = pod.id, network, "no plugin declares portMappings: the pod's host ports are not told");
        }
        arguments.insert("portMappings".into(), ports.into());
    }
    if config.dns != Dns::default() {
        let Dns { servers, searches, options } = &config.dns;
        arguments.insert("dns".into(), json!({"servers": servers, "searches": searches, "options": options}));
    }
    arguments.insert("cgroupPath".into(), pod.cgroup.to_string_lossy().into());
    if !config.annotations.is_empty() {
        arguments.insert("io.kubernetes.cri.pod-annotations".into(), json!(config.annotations));
    }
    Ok(arguments)
}

fn port_mapping(port: &PortMapping) -> Value {
    let protocol = port.protocol.name();
    let host_ip = port.host_ip.map(|ip| ip.to_string()).unwrap_or_default();
    json!({
        "hostPort": port.host_port, "containerPort": port.container_port, "protocol": protocol, "hostIP": host_ip,
    })
}

/// What the annotations ask for.
fn requested(annotations: &Labels) -> Result<Map<String, Value>, PodError> {
    let mut arguments = Map::new();
    let mut bandwidth = Map::new();
    for (annotation, rate, burst) in [(INGRESS, "ingressRate", "ingressBurst"), (EGRESS, "egressRate", "egressBurst")] {
        if let Some(text) = annotations.get(annotation) {
            let bits = quantity::parse(text).filter(|bits| RATES.contains(bits));
            let bits =
                bits.ok_or_else(|| refused(annotation, text, "is no rate between 1k and 1P bits in a second"))?;
            bandwidth.insert(rate.into(), (bits as u64).into());
            bandwidth.insert(burst.into(), BURST.into());
        }
    }
    if !bandwidth.is_empty() {
        arguments.insert("bandwidth".into(), bandwidth.into());
    }
    if let Some(text) = annotations.get(IPS) {
        let wanted = "is no list of addresses such as 10.1.0.5/16,fd00::5/64";
        let ips = text.split(',').map(str::trim).map(|ip| address(ip, false).then(|| Value::from(ip)));
        let ips: Option<Vec<Value>> = ips.collect();
        arguments.insert("ips".into(), ips.ok_or_else(|| refused(IPS, text, wanted))?.into());
    }
    if let Some(text) = annotations.get(MAC) {
        let pairs: Vec<&str> = text.split(':').collect();
        let is_pair = |pair: &&str| pair.len() == 2 && pair.bytes().all(|byte| byte.is_ascii_hexdigit());
        if pairs.len() != 6 || !pairs.iter().all(is_pair) {
            return Err(refused(MAC, text, "is no hardware address such as 02:57:00:00:00:01"));
        }
        arguments.insert("mac".into(), text.as_str().into());
    }
    if let Some(text) = annotations.get(IP_RANGES) {
        let wanted = "is no list of subnets such as 10.1.2.0/24,fd00::/64";
        let subnets = text.split(',').map(str::trim).map(|net| address(net, true).then(|| json!([{"subnet": net}])));
        let subnets: Option<Vec<Value>> = subnets.collect();
        arguments.insert("ipRanges".into(), subnets.ok_or_else(|| refused(IP_RANGES, text, wanted))?.into());
    }
    Ok(arguments)
}

/// An address, with the length of a prefix or where that is allowed without.
fn address(text: &str, prefix_needed: bool) -> bool {
    let (ip, prefix) = match text.split_once('/') {
        Some((ip, prefix)) => (ip, Some(prefix)),
        None => (text, None),
    };
    let Ok(ip) = ip.parse::<IpAddr>() else { return false };
    let bits = if ip.is_ipv4() { 32 } else { 128 };
    prefix.map_or(!prefix_needed, |prefix| prefix.parse::<u8>().is_ok_and(|prefix| prefix <= bits))
}

fn refused(annotation: &str, found: &str, wanted: &str) -> PodError {
    PodError::invalid(format!("config.annotations[{annotation:?}]"), format!("{found:?} {wanted}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(annotations: &[(&str, &str)]) -> Result<Value, String> {
        let annotations = annotations.iter().map(|(key, value)| (key.to_string(), value.to_string())).collect();
        requested(&annotations).map(Value::Object).map_err(|error| error.to_string())
    }

    #[test]
    fn annotations_become_capability_arguments() {
        let bandwidth = json!({"ingressRate": 10_000_000, "ingressBurst": i32::MAX});
        assert_eq!(asked(&[(INGRESS, "10M")]).unwrap(), json!({"bandwidth": bandwidth}));
        let asked = asked(&[
            (EGRESS, "1k"),
            (IPS, "10.1.0.5/16, fd00::5"),
            (MAC, "02:57:00:00:00:0a"),
            (IP_RANGES, "10.1.2.0/24,fd00::/64"),
        ]);
        let expected = json!({
            "bandwidth": {"egressRate": 1000, "egressBurst": i32::MAX}, "ips": ["10.1.0.5/16", "fd00::5"],
            "mac": "02:57:00:00:00:0a", "ipRanges": [[{"subnet": "10.1.2.0/24"}], [{"subnet": "fd00::/64"}]],
        });
        assert_eq!(asked.unwrap(), expected);
    }

    #[test]
    fn annotations_that_are_none_are_refused_by_name() {
        for (annotation, value) in [
            (INGRESS, ""),
            (INGRESS, "fast"),
            (INGRESS, "999"),
            (EGRESS, "-1M"),
            (EGRESS, "2P"),
            (IPS, ""),
            (IPS, "10.1.0.5,"),
            (IPS, "10.1.0.5/33"),
            (MAC, "02:57"),
            (MAC, "02:57:00:00:00:0g"),
            (IP_RANGES, "10.1.0.0"),
            (IP_RANGES, "10.1.0.0/24;"),
        ] {
            let error = asked(&[(annotation, value)]).unwrap_err();
            let expected = format!("config.annotations[{annotation:?}]: {value:?} is no ");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
