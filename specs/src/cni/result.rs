//! The result of ADD, in the forms of every version from 0.2.0 on.
//!
//! | versions | addresses |
//! |---|---|
//! | 0.2.0 | `ip4.ip`, `ip6.ip`, for the only interface |
//! | 0.3.0 to 0.4.0 | `ips[].address` with `ips[].version`, an index into `interfaces` |
//! | 1.0.0, 1.1.0 | `ips[].address`, an index into `interfaces` |

use std::net::IpAddr;

use serde_json::{Map, Value};

use super::{Result, Version, list, missing, object, parse_object, text, unexpected};

/// Versions of results that are read; the oldest ones differ in their form, so plugins may lag behind their list.
const READ: [&str; 7] = ["0.1.0", "0.2.0", "0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"];

/// Entries of a result beyond which it is refused: a pod has a handful of interfaces, addresses and routes.
const MAX_ENTRIES: usize = 1024;

/// What a plugin made of an ADD, section 5.
#[derive(Debug, Clone, PartialEq)]
pub struct AddResult {
    object: Map<String, Value>,
    addresses: Vec<Address>,
    interfaces: Vec<Interface>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Address {
    ip: IpAddr,
    /// Place in the list of interfaces.
    interface: Option<usize>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Interface {
    name: String,
    in_sandbox: bool,
}

impl AddResult {
    /// Reads what a plugin wrote.
    ///
    /// # Errors
    /// The first thing that is wrong, by its place in the text.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::of(parse_object(bytes)?)
    }

    /// Takes a result that was parsed as JSON before, from a file of ours say.
    pub fn of(object: Map<String, Value>) -> Result<Self> {
        if let Some(version) = text(&object, "", "cniVersion")?
            && !version.is_empty()
            && !READ.contains(&version)
        {
            let wanted = format!("is a version of results that is not known; known are {}", READ.join(", "));
            return Err(unexpected("cniVersion", &object["cniVersion"], wanted));
        }
        let interfaces =
            bounded(&object, "interfaces")?.iter().enumerate().map(interface).collect::<Result<Vec<_>>>()?;
        let ips = bounded(&object, "ips")?.iter().enumerate();
        let mut addresses = ips.map(|entry| address(entry, interfaces.len())).collect::<Result<Vec<_>>>()?;
        bounded(&object, "routes")?;
        if !object.contains_key("ips") {
            for key in ["ip4", "ip6"] {
                addresses.extend(old_address(&object, key)?);
            }
        }
        Ok(Self { object, addresses, interfaces })
    }

    /// The addresses of the pod's `interface`, in the plugin's order and each once. One that names no interface is of
    /// the only one that was asked for.
    pub fn addresses(&self, interface: &str) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for address in &self.addresses {
            let own = match address.interface {
                None => true,
                Some(index) => self.interfaces.get(index).is_some_and(|at| at.in_sandbox && at.name == interface),
            };
            if own && !found.contains(&address.ip) {
                found.push(address.ip);
            }
        }
        found
    }

    /// The result as `prevResult` of a request of `version`: in that version's form, whatever form it came in.
    pub fn as_previous(&self, version: Version) -> Value {
        let mut object = self.object.clone();
        if !object.contains_key("ips") {
            modernise(&mut object);
        }
        if let Some(Value::Array(ips)) = object.get_mut("ips") {
            for (entry, address) in ips.iter_mut().zip(&self.addresses) {
                let Value::Object(entry) = entry else { continue };
                if version.names_address_family() {
                    entry.insert("version".into(), if address.ip.is_ipv4() { "4" } else { "6" }.into());
                } else {
                    entry.remove("version");
                }
            }
        }
        object.insert("cniVersion".into(), version.as_str().into());
        Value::Object(object)
    }
}

/// `ip4` and `ip6` of 0.2.0 become `ips` and `routes`.
fn modernise(object: &mut Map<String, Value>) {
    let (mut ips, mut routes) = (Vec::new(), Vec::new());
    for key in ["ip4", "ip6"] {
        let Some(Value::Object(old)) = object.remove(key) else { continue };
        let mut entry = Map::new();
        for (from, to) in [("ip", "address"), ("gateway", "gateway")] {
            entry.extend(old.get(from).map(|value| (to.to_string(), value.clone())));
        }
        ips.push(Value::Object(entry));
        if let Some(Value::Array(more)) = old.get("routes") {
            routes.extend(more.iter().cloned());
        }
    }
    if !ips.is_empty() {
        object.insert("ips".into(), ips.into());
    }
    if !routes.is_empty() {
        object.insert("routes".into(), routes.into());
    }
}

fn bounded<'a>(object: &'a Map<String, Value>, key: &str) -> Result<&'a [Value]> {
    let entries = list(object, "", key)?.unwrap_or_default();
    if entries.len() > MAX_ENTRIES {
        let found = Value::from(format!("{} entries", entries.len()));
        return Err(unexpected(key, &found, format!("are more than {MAX_ENTRIES}")));
    }
    Ok(entries)
}

fn interface((index, value): (usize, &Value)) -> Result<Interface> {
    let key = format!("interfaces[{index}]");
    let Value::Object(entry) = value else { return Err(unexpected(key, value, "is no object")) };
    let place = format!("{key}.");
    let name = text(entry, &place, "name")?.ok_or_else(|| missing(format!("{place}name"), "a name is needed"))?;
    let sandbox = text(entry, &place, "sandbox")?.unwrap_or_default();
    Ok(Interface { name: name.into(), in_sandbox: !sandbox.is_empty() })
}

fn address((index, value): (usize, &Value), interfaces: usize) -> Result<Address> {
    let key = format!("ips[{index}]");
    let Value::Object(entry) = value else { return Err(unexpected(key, value, "is no object")) };
    let place = format!("{key}.");
    let ip = prefixed(entry, &place, "address")?;
    let interface = match entry.get("interface") {
        None | Some(Value::Null) => None,
        Some(at) => match at.as_u64().and_then(|at| usize::try_from(at).ok()).filter(|at| *at < interfaces) {
            Some(at) => Some(at),
            None => {
                let wanted = format!("is no index into the {interfaces} interfaces");
                return Err(unexpected(format!("{place}interface"), at, wanted));
            }
        },
    };
    Ok(Address { ip, interface })
}

fn old_address(result: &Map<String, Value>, key: &str) -> Result<Option<Address>> {
    let Some(entry) = object(result, "", key)? else { return Ok(None) };
    Ok(Some(Address { ip: prefixed(entry, &format!("{key}."), "ip")?, interface: None }))
}

/// `10.1.0.5/16`.
fn prefixed(entry: &Map<String, Value>, place: &str, key: &str) -> Result<IpAddr> {
    let place_of = || format!("{place}{key}");
    let found = text(entry, place, key)?.ok_or_else(|| missing(place_of(), "an address with its prefix is needed"))?;
    let parsed = found.split_once('/').and_then(|(ip, prefix)| {
        let ip: IpAddr = ip.parse().ok()?;
        let bits = if ip.is_ipv4() { 32 } else { 128 };
        prefix.parse::<u8>().ok().filter(|prefix| *prefix <= bits).map(|_| ip)
    });
    parsed.ok_or_else(|| unexpected(place_of(), &Value::from(found), "is no address with its prefix"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn parse(value: Value) -> Result<AddResult> {
        AddResult::parse(value.to_string().as_bytes())
    }

    fn addresses(value: Value) -> Vec<String> {
        parse(value).unwrap().addresses("eth0").iter().map(IpAddr::to_string).collect()
    }

    #[test]
    fn addresses_are_those_of_the_pod_s_interface_in_every_version() {
        let old = json!({"cniVersion": "0.2.0", "ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1"}, "ip6": {"ip": "fd00::5/64"}});
        assert_eq!(addresses(old), ["10.1.0.5", "fd00::5"]);
        let interfaces =
            json!([{"name": "cni0"}, {"name": "eth0", "sandbox": "/run/n"}, {"name": "eth1", "sandbox": "/run/n"}]);
        let middle = json!({"cniVersion": "0.3.1", "interfaces": interfaces, "ips": [
            {"version": "6", "address": "fd00::7/64", "interface": 1}, {"version": "4", "address": "10.1.0.7/16", "interface": 1},
            {"version": "4", "address": "10.1.0.1/16", "interface": 0}, {"version": "4", "address": "10.9.0.7/16", "interface": 2},
        ]});
        assert_eq!(addresses(middle), ["fd00::7", "10.1.0.7"]);
        let new = json!({"cniVersion": "1.1.0", "ips": [{"address": "10.1.0.8/16"}, {"address": "10.1.0.8/24"}]});
        assert_eq!(addresses(new), ["10.1.0.8"]);
        assert!(addresses(json!({})).is_empty());
        // eth0 of the node is nobody's pod.
        let host = json!({"interfaces": [{"name": "eth0"}], "ips": [{"address": "192.0.2.1/24", "interface": 0}]});
        assert!(addresses(host).is_empty());
    }

    #[test]
    fn a_result_is_handed_on_in_the_form_of_the_version_asked_for() {
        let old =
            json!({"ip4": {"ip": "10.1.0.5/16", "gateway": "10.1.0.1", "routes": [{"dst": "0.0.0.0/0"}]}, "own": 7});
        let expected = json!({"cniVersion": "1.0.0", "own": 7, "routes": [{"dst": "0.0.0.0/0"}],
            "ips": [{"address": "10.1.0.5/16", "gateway": "10.1.0.1"}]});
        assert_eq!(parse(old).unwrap().as_previous(Version::V1_0_0), expected);
        let again = parse(expected).unwrap();
        assert_eq!(again.as_previous(Version::V0_3_1)["ips"][0]["version"], "4");
        assert_eq!(again.as_previous(Version::V0_3_1)["cniVersion"], "0.3.1");
        let six = json!({"cniVersion": "0.4.0", "ips": [{"version": "6", "address": "fd00::1/64"}]});
        assert_eq!(parse(six).unwrap().as_previous(Version::V1_1_0)["ips"], json!([{"address": "fd00::1/64"}]));
    }

    #[test]
    fn wrong_results_are_refused_by_place() {
        for (value, expected) in [
            (json!([]), "the text: [] is no JSON object"),
            (json!({"cniVersion": "3.0.0"}), r#"cniVersion: "3.0.0" is a version of results that is not known"#),
            (json!({"cniVersion": 1}), "cniVersion: 1 is no text"),
            (json!({"ips": {}}), "ips: {} is no list"),
            (json!({"ips": [7]}), "ips[0]: 7 is no object"),
            (json!({"ips": [{}]}), "ips[0].address is missing"),
            (json!({"ips": [{"address": "10.0.0.1"}]}), r#"ips[0].address: "10.0.0.1" is no address with its prefix"#),
            (json!({"ips": [{"address": "10.0.0.1/33"}]}), r#"ips[0].address: "10.0.0.1/33" is no address"#),
            (json!({"ips": [{"address": "1.2.3.4/8", "interface": 0}]}), "ips[0].interface: 0 is no index into the 0"),
            (json!({"ips": [{"address": "1.2.3.4/8", "interface": -1}]}), "ips[0].interface: -1 is no index"),
            (json!({"interfaces": [{}]}), "interfaces[0].name is missing"),
            (json!({"interfaces": ["x"]}), r#"interfaces[0]: "x" is no object"#),
            (json!({"routes": 1}), "routes: 1 is no list"),
            (json!({"ip4": 1}), "ip4: 1 is no object"),
            (json!({"ip6": {"ip": "fd00::1/129"}}), r#"ip6.ip: "fd00::1/129" is no address"#),
        ] {
            let error = parse(value.clone()).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{value}: {error}");
        }
    }
}
