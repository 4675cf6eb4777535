//! What is wrong with the addresses of a Service, in Kubernetes' words; which of them the node has is seen later.

use std::net::IpAddr;

use serde_json::Value;

use super::service::{HEADLESS, IPV4, IPV6, family_of, has_node_ports};
use super::service_causes::{duplicate, one_of};
use super::{is_dns_subdomain, pod, text};
use crate::api::status::Cause;

const FAMILY_POLICIES: &[&str] = &["PreferDualStack", "RequireDualStack", "SingleStack"];
const NO_ADDRESS: &str = "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)";

pub(super) fn address_causes(spec: &Value, service_type: &str) -> Vec<Cause> {
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
        for (field, is_set) in [
            ("ipFamilies", !pod::items(spec, "ipFamilies").is_empty()),
            ("ipFamilyPolicy", !text(spec, "/ipFamilyPolicy").is_empty()),
        ] {
            if is_set {
                causes.push(Cause::forbidden(format!("spec.{field}"), "may not be set for ExternalName services"));
            }
        }
        return causes;
    }
    let families = pod::items(spec, "ipFamilies");
    if families.len() > 2 {
        let count = format_args!("{} values", families.len());
        return vec![Cause::invalid("spec.ipFamilies", count, "may only hold up to 2 values")];
    }
    for (index, family) in families.iter().enumerate() {
        let path = format!("spec.ipFamilies[{index}]");
        causes.extend(one_of(path.as_str(), family.as_str().unwrap_or_default(), &[IPV4, IPV6]));
        if families[..index].contains(family) {
            causes.push(duplicate(path, family));
        }
    }
    if let Some(policy) = spec.get("ipFamilyPolicy").filter(|policy| !policy.is_null()) {
        let policy = policy.as_str().unwrap_or_default();
        causes.extend(one_of("spec.ipFamilyPolicy", policy, FAMILY_POLICIES));
    }
    causes.extend(cluster_ip_causes(addresses, families, service_type));
    if addresses.first().and_then(Value::as_str).unwrap_or_default() != text(spec, "/clusterIP") {
        let shown = shortened(&spec["clusterIPs"]);
        causes.push(Cause::invalid("spec.clusterIPs", shown, "first value must match `clusterIP`"));
    }
    for (index, address) in pod::items(spec, "externalIPs").iter().enumerate() {
        let path = format!("spec.externalIPs[{index}]");
        match address.as_str().and_then(|ip| ip.parse().ok()) {
            None => causes.push(Cause::invalid(path, shortened(address), NO_ADDRESS)),
            Some(ip) => causes.extend(special(ip).map(|reason| Cause::invalid(path, address, reason))),
        }
    }
    causes
}

fn cluster_ip_causes(addresses: &[Value], families: &[Value], service_type: &str) -> Vec<Cause> {
    let field = "spec.clusterIPs";
    if addresses.len() > 2 {
        let count = format_args!("{} values", addresses.len());
        return vec![Cause::invalid(field, count, "may only hold up to 2 values")];
    }
    if addresses.len() == 2 && addresses.iter().any(|address| address == HEADLESS) {
        let all = Value::from(addresses);
        return vec![Cause::invalid(field, all, "'None' must be the first and only value")];
    }
    let mut causes = Vec::new();
    let mut found = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        let (path, shown) = (format!("{field}[{index}]"), address.as_str().unwrap_or_default());
        if shown == HEADLESS {
            if has_node_ports(service_type) {
                let message = format!("may not be set to 'None' for {service_type} services");
                causes.push(Cause::invalid(path, address, &message));
            }
            continue;
        }
        let Ok(ip) = shown.parse::<IpAddr>() else {
            causes.push(Cause::invalid(path, shortened(address), NO_ADDRESS));
            continue;
        };
        let family = family_of(ip);
        if families.get(index).is_some_and(|wanted| wanted != family) {
            let wanted = families[index].as_str().unwrap_or_default();
            let message = format!("expected an {wanted} value as indicated by `ipFamilies[{index}]`");
            causes.push(Cause::invalid(path, address, &message));
        }
        found.push(family);
    }
    if let [one, other] = found[..]
        && one == other
    {
        let message = "may specify no more than one IP for each IP family";
        causes.push(Cause::invalid(field, Value::from(addresses), message));
    }
    causes
}

/// Why an address of its own meaning is nobody's by which others could reach it.
pub(crate) fn special(ip: IpAddr) -> Option<&'static str> {
    let (link_local, mapped) = match ip {
        IpAddr::V4(ip) => (ip.is_link_local(), false),
        IpAddr::V6(ip) => (ip.is_unicast_link_local(), ip.to_ipv4_mapped().is_some()),
    };
    match ip {
        _ if mapped => Some("must not be an IPv4-mapped IPv6 address"),
        _ if ip.is_unspecified() => Some("may not be unspecified (0.0.0.0 or ::)"),
        _ if ip.is_loopback() => Some("may not be in the loopback range (127.0.0.0/8, ::1/128)"),
        _ if link_local => Some("may not be in the link-local range (169.254.0.0/16, fe80::/10)"),
        _ if ip.is_multicast() => Some("may not be in the multicast range (224.0.0.0/4, ff00::/8)"),
        _ => None,
    }
}

/// As much of a wrong value as a person needs to find it.
pub(super) fn shortened(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(100) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The first of a list stays; the second, too, until the Service is said to have one alone.
pub(super) fn kept_causes(old: &Value, new: &Value, field: &str, item: &str) -> Vec<Cause> {
    let (before, after) = (pod::items(&old["spec"], field), pod::items(&new["spec"], field));
    let changed = (0..before.len().min(after.len())).find(|index| before[*index] != after[*index]);
    if let Some(index) = changed {
        // What is looked up by name alone has no address that anybody would miss.
        if field == "ipFamilies" && text(new, "/spec/clusterIP") == HEADLESS {
            return Vec::new();
        }
        let shown = shortened(&Value::from(after));
        return vec![Cause::invalid(format!("spec.{field}[{index}]"), shown, "may not change once set")];
    }
    let released = before.len() == 2 && after.len() == 1 && text(new, "/spec/ipFamilyPolicy") != "SingleStack";
    if released {
        let message = format!("must be set to 'SingleStack' when releasing the secondary {item}");
        return vec![Cause::invalid("spec.ipFamilyPolicy", &new["spec"]["ipFamilyPolicy"], &message)];
    }
    Vec::new()
}

#[cfg(test)]
mod tests {
    use super::super::service::KIND;
    use super::super::service_causes::validate_update;
    use serde_json::{Value, json};

    fn fields(spec: Value) -> Vec<String> {
        let mut service = json!({"metadata": {"name": "web"}, "spec": spec});
        (KIND.set_defaults)(&mut service);
        (KIND.validate)(&service).into_iter().map(|cause| cause.field).collect()
    }

    #[test]
    fn an_address_is_of_the_family_that_is_said() {
        let dual =
            |families: Value, ips: Value| json!({"ports": [{"port": 80}], "ipFamilies": families, "clusterIPs": ips});
        assert_eq!(fields(dual(json!(["IPv6", "IPv4"]), json!(["fd00::1", "10.96.0.1"]))), Vec::<String>::new());
        assert_eq!(fields(dual(json!(["IPv6"]), json!(["10.96.0.1"]))), ["spec.clusterIPs[0]"]);
        let turned = fields(dual(json!(["IPv4", "IPv6"]), json!(["fd00::1", "10.96.0.1"])));
        assert_eq!(turned, ["spec.clusterIPs[0]", "spec.clusterIPs[1]"]);
    }

    #[test]
    fn an_address_stays() {
        let service = |ip: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ip, "clusterIPs": [ip]}});
        assert_eq!(validate_update(&service("10.96.0.1"), &service("10.96.0.1")), []);
        let causes = validate_update(&service("10.96.0.1"), &service("10.96.0.2"));
        assert_eq!(causes[0].message, "Invalid value: [\"10.96.0.2\"]: may not change once set");
        let dual = |ips: Value, policy: &str| json!({"spec": {"type": "ClusterIP", "clusterIP": ips[0], "clusterIPs": ips, "ipFamilyPolicy": policy}});
        let both = dual(json!(["10.96.0.1", "fd00::1"]), "RequireDualStack");
        assert_eq!(validate_update(&service("10.96.0.1"), &both), []);
        assert_eq!(validate_update(&both, &dual(json!(["10.96.0.1"]), "SingleStack")), []);
        for (changed, field) in [
            (dual(json!(["10.96.0.1", "fd00::2"]), "RequireDualStack"), "spec.clusterIPs[1]"),
            (dual(json!(["fd00::1", "10.96.0.1"]), "RequireDualStack"), "spec.clusterIPs[0]"),
            (dual(json!(["10.96.0.1"]), "PreferDualStack"), "spec.ipFamilyPolicy"),
        ] {
            assert_eq!(validate_update(&both, &changed)[0].field, field);
        }
    }
}
