//! Addresses in the node's books, the embedded network's interfaces and its rules.
//!
//! Interfaces and rules are those of the network namespace that this runs in, which has to be the daemon's.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use serde::Deserialize;

use super::{Kind, Known, Leak, LeakError, Result, left_in};
use crate::network;

const INTERFACE_PREFIX: &str = "veth";

/// What of `RUN/network/leases.json` is looked at.
#[derive(Debug, Default, Deserialize)]
struct Leases {
    #[serde(default)]
    leases: BTreeMap<String, Lease>,
}

#[derive(Debug, Deserialize)]
struct Lease {
    address: IpAddr,
    #[serde(default)]
    address6: Option<IpAddr>,
}

impl Lease {
    fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.address), self.address6].into_iter().flatten()
    }
}

pub(super) async fn look(known: &Known) -> Result<Vec<Leak>> {
    let leases = leases(known)?;
    let mut leaks = left_in(&known.root.join("network/attachments"), Kind::Address, known)?;
    for (owner, lease) in leases.iter().filter(|(owner, _)| !known.has(owner)) {
        let leak = |address: IpAddr| Leak { kind: Kind::Address, what: address.to_string(), owner: owner.clone() };
        leaks.extend(lease.addresses().map(leak));
    }
    leaks.extend(interfaces(known, &links(&known.bridge).await?));
    leaks.extend(rules(&table(&format!("wharf-{}", known.bridge)).await?, &leases));
    leaks.extend(services(&table(&network::services::table(&known.bridge)).await?, known));
    Ok(leaks)
}

fn leases(known: &Known) -> Result<BTreeMap<String, Lease>> {
    let path = known.state.join("network/leases.json");
    let failed = |error: &dyn std::fmt::Display| LeakError::new(path.display(), error);
    match std::fs::read(&path) {
        Ok(text) => Ok(serde_json::from_slice::<Leases>(&text).map_err(|error| failed(&error))?.leases),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(failed(&error)),
    }
}

/// Names of the interfaces on `bridge`; none where there is no bridge.
async fn links(bridge: &str) -> Result<Vec<String>> {
    if !has_link(bridge) {
        return Ok(Vec::new());
    }
    let text = output("ip", &["-o", "link", "show", "master", bridge]).await?;
    // `7: veth0123@if2: <BROADCAST…`
    let name = |line: &str| Some(line.split(": ").nth(1)?.split('@').next()?.to_string());
    Ok(text.lines().filter_map(name).collect())
}

fn has_link(name: &str) -> bool {
    let text = std::fs::read_to_string("/proc/self/net/dev").unwrap_or_default();
    text.lines().any(|line| line.trim_start().strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

/// Those named after a pod's id.
fn interfaces(known: &Known, links: &[String]) -> Vec<Leak> {
    let of_pod = links.iter().filter_map(|name| Some((name, name.strip_prefix(INTERFACE_PREFIX)?)));
    let left = of_pod.filter(|(_, prefix)| !known.has_sandbox_like(prefix));
    left.map(|(name, prefix)| Leak { kind: Kind::Interface, what: name.clone(), owner: prefix.into() }).collect()
}

/// The tables of that name, of IPv4 alone and of both families: a node has one of them. Empty where there is none.
async fn table(name: &str) -> Result<String> {
    let tables = output("nft", &["list", "tables"]).await?;
    let mut text = String::new();
    for family in ["ip", "inet"] {
        if tables.lines().any(|line| line.trim() == format!("table {family} {name}")) {
            text.push_str(&output("nft", &["--terse", "list", "table", family, name]).await?);
        }
    }
    Ok(text)
}

/// Port mappings to an address that no pod has: `dnat to 10.88.0.2:80`, `dnat ip6 to [fd00::2]:80`.
fn rules(table: &str, leases: &BTreeMap<String, Lease>) -> Vec<Leak> {
    let mapping = |line: &str| {
        let target = line.split_once(" dnat ")?.1.split_once("to ")?.1;
        let address = target.split(' ').next()?.parse::<SocketAddr>().ok()?.ip();
        let leased = leases.values().flat_map(Lease::addresses).any(|leased| leased == address);
        (!leased).then(|| Leak { kind: Kind::Rule, what: line.trim().into(), owner: address.to_string() })
    };
    table.lines().filter_map(mapping).collect()
}

/// Endpoints in the rules that belong to no Service: `dnat to 10.88.0.2:80`, or `0 : 10.88.0.2 . 80` in a map.
fn services(table: &str, known: &Known) -> Vec<Leak> {
    let endpoints = |line: &str| -> Vec<String> {
        let Some((_, to)) = line.split_once(" dnat ") else { return Vec::new() };
        let words: Vec<&str> = to.split([' ', ',']).filter(|word| !word.is_empty()).collect();
        let whole = words.iter().filter_map(|word| word.parse::<SocketAddr>().ok());
        let part = |parts: &[&str]| match parts {
            [address, ".", port] => Some(SocketAddr::new(address.parse().ok()?, port.parse().ok()?)),
            _ => None,
        };
        whole.chain(words.windows(3).filter_map(part)).map(|endpoint| endpoint.to_string()).collect()
    };
    let left = table.lines().flat_map(endpoints).filter(|endpoint| !known.has(endpoint));
    left.map(|owner| Leak { kind: Kind::Rule, what: format!("endpoint {owner} of a Service"), owner }).collect()
}

async fn output(program: &str, arguments: &[&str]) -> Result<String> {
    let what = || format!("{program} {}", arguments.join(" "));
    let run = tokio::process::Command::new(program).args(arguments).kill_on_drop(true).output().await;
    let output = run.map_err(|error| LeakError::new(what(), error))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr).lines().next().unwrap_or("no word").to_string();
        return Err(LeakError::new(what(), said));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::leaks::{KnownSandbox, nothing_known};

    #[test]
    fn interfaces_are_their_pods_by_the_beginning_of_the_id() {
        let mut known = nothing_known("/x".as_ref(), "/y".as_ref());
        let id = "0123456789abcdef0123456789abcdef";
        known.sandboxes.insert(id.into(), KnownSandbox { cgroup: "/".into() });
        let links = [format!("veth{}", &id[..11]), "vethffffffffff0".into(), "eth7".into()];
        let left = interfaces(&known, &links);
        assert_eq!(left, [Leak { kind: Kind::Interface, what: "vethffffffffff0".into(), owner: "ffffffffff0".into() }]);
    }

    #[test]
    fn endpoints_of_no_service_are_left_over() {
        let mut known = nothing_known("/x".as_ref(), "/y".as_ref());
        known.endpoints = ["10.1.0.2:80", "10.1.0.3:80"].map(String::from).into();
        let table = "\tchain in-default/web/tcp/80 {\n\t\tmeta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.1.0.2 . 80, 1 : 10.1.0.9 . 80 }\n\
                     \t\tmeta l4proto tcp dnat to 10.1.0.3:80\n\t\tmeta l4proto tcp dnat to 10.1.0.8:80\n";
        let owners: Vec<String> = services(table, &known).into_iter().map(|leak| leak.owner).collect();
        assert_eq!(owners, ["10.1.0.9:80", "10.1.0.8:80"]);
        known.endpoints = ["[fd00::2]:80"].map(String::from).into();
        let table = "\t\tmeta l4proto tcp dnat ip6 to numgen random mod 2 map { 0 : fd00::2 . 80, 1 : fd00::9 . 80 }\n\
                     \t\tmeta l4proto tcp dnat ip6 to [fd00::8]:80\n\t\tmeta l4proto tcp dnat ip6 to [fd00::2]:80\n";
        let owners: Vec<String> = services(table, &known).into_iter().map(|leak| leak.owner).collect();
        assert_eq!(owners, ["[fd00::9]:80", "[fd00::8]:80"]);
    }

    #[test]
    fn mappings_to_nobody_s_address_are_left_over() {
        let leases = BTreeMap::from([(
            "pod".to_string(),
            Lease { address: "10.1.0.2".parse().unwrap(), address6: "fd00::2".parse().ok() },
        )]);
        let table = "table ip wharf-x {\n\tchain ports {\n\t\ttcp dport 80 dnat to 10.1.0.2:80\n\t\ttcp dport 81 dnat to 10.1.0.3:80\n\t}\n}\n";
        let left = rules(table, &leases);
        assert_eq!(left.len(), 1);
        assert_eq!((left[0].what.as_str(), left[0].owner.as_str()), ("tcp dport 81 dnat to 10.1.0.3:80", "10.1.0.3"));
        let table = "\t\ttcp dport 80 dnat ip to 10.1.0.2:80\n\t\ttcp dport 80 dnat ip6 to [fd00::2]:80\n\
                     \t\ttcp dport 81 dnat ip6 to [fd00::3]:80\n";
        let owners: Vec<String> = rules(table, &leases).into_iter().map(|leak| leak.owner).collect();
        assert_eq!(owners, ["fd00::3"]);
    }
}
