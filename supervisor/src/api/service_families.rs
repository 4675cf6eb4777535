//! Which families of addresses a Service has: what it says, what follows from the addresses that it asks for, and what this
//! node has. As an API server does it, before addresses are given.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::kinds::service::{IPV4, IPV6, family_of, is_headless};
use super::kinds::{pod, text};
use super::service_address::ServiceRanges;
use super::status::Cause;
use crate::network::services::ServiceSubnets;

const SINGLE: &str = "SingleStack";
const REQUIRED: &str = "RequireDualStack";

/// What of a Service says which addresses it has.
fn said(service: &Value) -> [&Value; 6] {
    ["type", "clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "externalIPs"]
        .map(|field| &service["spec"][field])
}

/// Whether an update leaves all of that as it was. Then nothing is given or taken, also where the node has other families
/// by now.
pub(super) fn is_unchanged(before: &Value, service: &Value) -> bool {
    said(before) == said(service)
}

/// The families that Services have on this node.
fn configured(subnets: &ServiceSubnets) -> &'static [&'static str] {
    if subnets.six.is_some() { &[IPV4, IPV6] } else { &[IPV4] }
}

fn strings(service: &Value, field: &str) -> Vec<String> {
    pod::items(&service["spec"], field).iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// Settles `ipFamilies` and `ipFamilyPolicy` of a Service with addresses; `before` is what it was. What is wrong with what
/// it says is given back.
pub(super) fn settle(service: &mut Value, before: Option<&Value>, ranges: &ServiceRanges) -> Vec<Cause> {
    let configured = configured(&ranges.subnets);
    let selectorless = is_headless(service)
        && service["spec"].get("selector").and_then(Value::as_object).is_none_or(|labels| labels.is_empty());
    let policy = match (text(service, "/spec/ipFamilyPolicy"), before.map(|old| text(old, "/spec/ipFamilyPolicy"))) {
        ("", None | Some("")) if selectorless => REQUIRED.to_owned(),
        ("", None | Some("")) => SINGLE.to_owned(),
        ("", Some(old)) => old.to_owned(),
        (own, _) => own.to_owned(),
    };
    let (mut ips, mut families) = (strings(service, "clusterIPs"), strings(service, "ipFamilies"));
    if let (Some(before), SINGLE) = (before, policy.as_str()) {
        // Who says that there is one keeps the first.
        for (field, list) in [("clusterIPs", &mut ips), ("ipFamilies", &mut families)] {
            if before["spec"].get(field) == service["spec"].get(field) {
                list.truncate(1);
            }
        }
    }
    let mut causes = Vec::new();
    if policy == SINGLE {
        for (field, count) in [("clusterIPs", ips.len()), ("ipFamilies", families.len())] {
            if count > 1 {
                let message =
                    format!("must be RequireDualStack or PreferDualStack when multiple '{field}' are specified");
                causes.push(Cause::invalid("spec.ipFamilyPolicy", format_args!("{policy:?}"), &message));
            }
        }
    }
    for (index, ip) in ips.iter().enumerate().skip(families.len()) {
        let Ok(family) = ip.parse::<IpAddr>().map(family_of) else { break };
        if configured.contains(&family) {
            families.push(family.to_owned());
        } else {
            let message = format!("{family} is not configured on this cluster");
            causes.push(Cause::invalid(format!("spec.clusterIPs[{index}]"), json!(ips), &message));
        }
    }
    if !causes.is_empty() {
        return causes;
    }
    // Of what people name themselves it does not matter which families the node has.
    if !selectorless {
        if policy == REQUIRED && configured.len() < 2 {
            let message = "this cluster is not configured for dual-stack services";
            causes.push(Cause::invalid("spec.ipFamilyPolicy", format_args!("{policy:?}"), message));
        }
        for (index, family) in families.iter().enumerate().filter(|(_, family)| !configured.contains(&family.as_str()))
        {
            let message = "not configured on this cluster";
            causes.push(Cause::invalid(format!("spec.ipFamilies[{index}]"), format_args!("{family:?}"), message));
        }
        if !causes.is_empty() {
            return causes;
        }
    }
    if families.is_empty() {
        families.push(IPV4.to_owned());
    }
    if policy != SINGLE && families.len() == 1 && (selectorless || configured.len() == 2) {
        families.push(if families[0] == IPV4 { IPV6 } else { IPV4 }.to_owned());
    }
    for (index, ip) in strings(service, "externalIPs").iter().enumerate() {
        let family = ip.parse::<IpAddr>().map_or("", family_of);
        if !families.iter().any(|own| own == family) {
            let message = format!("is {family}, which is none of the `ipFamilies` of the Service");
            causes.push(Cause::invalid(format!("spec.externalIPs[{index}]"), format_args!("{ip:?}"), &message));
        }
    }
    let spec = &mut service["spec"];
    (spec["ipFamilyPolicy"], spec["ipFamilies"]) = (policy.into(), families.into());
    if !ips.is_empty() {
        spec["clusterIPs"] = ips.into();
    }
    causes
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_specs::config::Network;

    fn ranges(six: Option<&str>) -> ServiceRanges {
        let network = Network { service_subnet6: six.map(str::to_owned), ..Network::default() };
        ServiceRanges::of_config(&network).unwrap()
    }

    /// Families, policy and addresses, or the fields that are refused.
    fn settled(six: bool, before: Option<Value>, spec: Value) -> Result<String, Vec<String>> {
        let mut service = json!({"spec": spec});
        let before = before.map(|spec| json!({"spec": spec}));
        match settle(&mut service, before.as_ref(), &ranges(six.then_some("fd96::/108"))) {
            causes if causes.is_empty() => {
                let all = [strings(&service, "ipFamilies"), strings(&service, "clusterIPs")].concat().join(" ");
                Ok(format!("{} {all}", text(&service, "/spec/ipFamilyPolicy")))
            }
            causes => Err(causes.into_iter().map(|cause| cause.field).collect()),
        }
    }

    #[test]
    fn a_service_has_one_family_unless_it_says_more() {
        for (six, spec, expected) in [
            (false, json!({}), "SingleStack IPv4"),
            (true, json!({}), "SingleStack IPv4"),
            (true, json!({"ipFamilies": ["IPv6"]}), "SingleStack IPv6"),
            (true, json!({"clusterIPs": ["fd96::9"]}), "SingleStack IPv6 fd96::9"),
            (false, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4"),
            (true, json!({"ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4 IPv6"),
            (true, json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv6"]}), "PreferDualStack IPv6 IPv4"),
            (
                true,
                json!({"ipFamilyPolicy": "RequireDualStack", "clusterIPs": ["fd96::9"]}),
                "RequireDualStack IPv6 IPv4 fd96::9",
            ),
            (
                true,
                json!({"clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                "SingleStack IPv4 None",
            ),
            (false, json!({"clusterIP": "None", "clusterIPs": ["None"]}), "RequireDualStack IPv4 IPv6 None"),
            (
                false,
                json!({"clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"], "ipFamilyPolicy": "SingleStack"}),
                "SingleStack IPv6 None",
            ),
        ] {
            assert_eq!(settled(six, None, spec.clone()), Ok(expected.to_owned()), "{spec}");
        }
    }

    #[test]
    fn what_the_node_does_not_have_is_refused_in_kubernetes_words() {
        for (six, spec, field) in [
            (false, json!({"ipFamilies": ["IPv6"]}), "spec.ipFamilies[0]"),
            (false, json!({"ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4", "IPv6"]}), "spec.ipFamilies[1]"),
            (false, json!({"ipFamilyPolicy": "RequireDualStack"}), "spec.ipFamilyPolicy"),
            (false, json!({"clusterIPs": ["fd96::9"]}), "spec.clusterIPs[0]"),
            (true, json!({"ipFamilies": ["IPv4", "IPv6"]}), "spec.ipFamilyPolicy"),
            (true, json!({"clusterIPs": ["10.96.0.9", "fd96::9"]}), "spec.ipFamilyPolicy"),
            (true, json!({"externalIPs": ["2001:db8::7"]}), "spec.externalIPs[0]"),
            (true, json!({"ipFamilies": ["IPv6"], "externalIPs": ["192.0.2.7"]}), "spec.externalIPs[0]"),
        ] {
            assert_eq!(settled(six, None, spec.clone()), Err(vec![field.to_owned()]), "{spec}");
        }
    }

    #[test]
    fn families_come_and_go_with_the_policy() {
        let one = json!({"clusterIPs": ["10.96.0.9"], "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack"});
        let mut wanted = one.clone();
        wanted["ipFamilyPolicy"] = REQUIRED.into();
        assert_eq!(settled(true, Some(one), wanted).unwrap(), "RequireDualStack IPv4 IPv6 10.96.0.9");
        let both = json!({"clusterIPs": ["10.96.0.9", "fd96::9"], "ipFamilies": ["IPv4", "IPv6"],
            "ipFamilyPolicy": "RequireDualStack"});
        let mut wanted = both.clone();
        wanted["ipFamilyPolicy"] = SINGLE.into();
        assert_eq!(settled(true, Some(both.clone()), wanted).unwrap(), "SingleStack IPv4 10.96.0.9");
        // Who replaces it by what they wrote first keeps both.
        let bare = json!({"clusterIPs": ["10.96.0.9", "fd96::9"]});
        assert_eq!(settled(true, Some(both), bare).unwrap(), "RequireDualStack IPv4 IPv6 10.96.0.9 fd96::9");
    }
}
