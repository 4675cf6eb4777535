//! The text of the table.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::{Backends, Frontend, ServiceSubnets, SourceRange, Wanted};
use crate::network::Subnet;
use crate::network::nft::{Contents, Table};

/// Says of a packet that it shall leave with the node's address: the bit that Kubernetes' own components use.
const MASQUERADE_MARK: &str = "0x4000";
/// Clients whose endpoint is remembered at most, for each endpoint.
const MAX_CLIENTS: u32 = 65_535;

/// Chains that every table has. Destinations are translated where packets come in and where the node's own processes send
/// them; those of Services without endpoints are answered where packets are filtered, before anything else is.
const BASE: &str = "\
add chain TABLE prerouting { type nat hook prerouting priority -100; policy accept; }
add chain TABLE output { type nat hook output priority -100; policy accept; }
add chain TABLE postrouting { type nat hook postrouting priority 100; policy accept; }
add chain TABLE filter-input { type filter hook input priority -110; policy accept; }
add chain TABLE filter-forward { type filter hook forward priority -110; policy accept; }
add chain TABLE filter-output { type filter hook output priority -99; policy accept; }
add chain TABLE dispatch
add chain TABLE unserved
add chain TABLE refuse
flush table TABLE
add rule TABLE prerouting jump dispatch
add rule TABLE output jump dispatch
add rule TABLE postrouting meta mark and MARK == MARK ct status dnat meta mark set meta mark xor MARK masquerade
add rule TABLE filter-input ct state new jump unserved
add rule TABLE filter-forward ct state new jump unserved
add rule TABLE filter-output ct state new jump unserved
add rule TABLE refuse meta l4proto tcp reject with tcp reset
add rule TABLE refuse reject
";
/// What there is besides, for each family of addresses that Services have.
const OF_FAMILY: &str = "\
add map TABLE servicesSUFFIX { type ADDRESS . inet_proto . inet_service : verdict; }
add map TABLE node-portsSUFFIX { type inet_proto . inet_service : verdict; }
add map TABLE idleSUFFIX { type ADDRESS . inet_proto . inet_service : verdict; }
add map TABLE idle-node-portsSUFFIX { type inet_proto . inet_service : verdict; }
flush map TABLE servicesSUFFIX
flush map TABLE node-portsSUFFIX
flush map TABLE idleSUFFIX
flush map TABLE idle-node-portsSUFFIX
add rule TABLE dispatch FAMILY daddr . meta l4proto . th dport vmap @servicesSUFFIX
add rule TABLE dispatch fib daddr type localNODES meta l4proto . th dport vmap @node-portsSUFFIX
add rule TABLE unserved FAMILY daddr . meta l4proto . th dport vmap @idleSUFFIX
add rule TABLE unserved fib daddr type localSEEN meta l4proto . th dport vmap @idle-node-portsSUFFIX
add rule TABLE unserved FAMILY daddr SUBNET jump refuse
";
const BASE_CHAINS: [&str; 9] = [
    "prerouting",
    "output",
    "postrouting",
    "filter-input",
    "filter-forward",
    "filter-output",
    "dispatch",
    "unserved",
    "refuse",
];

/// How things are named of one family of addresses.
struct Names {
    family: &'static str,
    address: &'static str,
    /// Of maps and chains.
    suffix: &'static str,
}

fn names(is_ipv4: bool) -> &'static Names {
    match is_ipv4 {
        true => &Names { family: "ip", address: "ipv4_addr", suffix: "" },
        false => &Names { family: "ip6", address: "ipv6_addr", suffix: "6" },
    }
}

/// The transaction that makes the table what is wanted, and what it has then. Chains and sets that it had `before` and
/// has no more use for go.
pub(super) fn render(
    table: &Table,
    subnets: &ServiceSubnets,
    wanted: &Wanted,
    before: &Contents,
) -> (String, Contents) {
    if wanted.frontends.is_empty() {
        let script = format!("add table {table}\ndelete table {table}\n");
        return (if before.chains.is_empty() { String::new() } else { script }, Contents::default());
    }
    let mut text = Text {
        table,
        script: format!("add table {table}\n"),
        after: Contents::default(),
        own: wanted.frontends.iter().map(|frontend| destination(frontend, &frontend.cluster_ip)).collect(),
        claimed: BTreeSet::new(),
    };
    text.script.push_str(&BASE.replace("MARK", MASQUERADE_MARK).replace("TABLE", &table.to_string()));
    for subnet in subnets.all() {
        text.base_of(&subnet, wanted.masquerade_all);
    }
    text.after.chains.extend(BASE_CHAINS.map(str::to_owned));
    let mut maps: BTreeMap<String, Vec<String>> = BTreeMap::new();
    // Of IPv6 there is nothing in a table that does not see it: a Service may have an address of an earlier configuration.
    let is_seen = |frontend: &&Frontend| frontend.cluster_ip.is_ipv4() || table.is_dual();
    for frontend in wanted.frontends.iter().filter(is_seen) {
        text.frontend(frontend, wanted.masquerade_all, &mut maps);
    }
    for (map, elements) in maps {
        let _ = writeln!(text.script, "add element {table} {map} {{ {} }}", elements.join(", "));
    }
    for chain in before.chains.difference(&text.after.chains) {
        let _ = writeln!(text.script, "delete chain {table} {chain}");
    }
    for set in before.sets.difference(&text.after.sets) {
        let _ = writeln!(text.script, "delete set {table} {set}");
    }
    (text.script, text.after)
}

fn destination(frontend: &Frontend, ip: &IpAddr) -> String {
    format!("{ip} . {} . {}", frontend.protocol.name(), frontend.port)
}

/// What becomes of packets for a port of a Service.
struct Lead {
    /// Whether an endpoint gets them.
    served: bool,
    verdict: String,
}

impl Lead {
    /// To the chain that spreads them over `backends`, where there is one.
    fn to(chain: Option<String>, backends: &Backends) -> Self {
        let verdict = match &chain {
            Some(chain) => format!("goto {chain}"),
            // Another one answers somewhere else: nothing is said, as Kubernetes has it.
            None if backends.local_only && backends.elsewhere => "drop".into(),
            None => "goto refuse".into(),
        };
        Self { served: chain.is_some(), verdict }
    }
}

struct Text<'a> {
    table: &'a Table,
    script: String,
    after: Contents,
    /// Addresses and ports of Services' own.
    own: BTreeSet<String>,
    /// Further ones that have been given away, and ports of nodes. Two Services may say that they have the same, and the
    /// kernel refuses all rules where one has two meanings.
    claimed: BTreeSet<String>,
}

impl Text<'_> {
    fn base_of(&mut self, subnet: &Subnet, masquerade_all: bool) {
        let names = names(subnet.network().is_ipv4());
        let seen = match names.family {
            // The kernel brings nothing back to the loopback of IPv6.
            "ip6" => " ip6 daddr != ::1",
            _ if self.table.is_dual() => " meta nfproto ipv4",
            _ => "",
        };
        // Without the embedded network's bridge nothing answers to that of IPv4 either.
        let no_bridge = masquerade_all && names.family == "ip";
        let nodes = if no_bridge { " ip daddr != 127.0.0.0/8" } else { seen };
        let (subnet, table) = (subnet.to_string(), self.table.to_string());
        let mut base = OF_FAMILY.to_owned();
        for (word, means) in [
            ("SUFFIX", names.suffix),
            ("FAMILY", names.family),
            ("ADDRESS", names.address),
            ("NODES", nodes),
            ("SEEN", seen),
            ("SUBNET", &subnet),
            // It is somebody's choice, and last.
            ("TABLE", &table),
        ] {
            base = base.replace(word, means);
        }
        self.script.push_str(&base);
    }

    fn chain(&mut self, name: &str) {
        let _ = writeln!(self.script, "add chain {} {name}", self.table);
        self.after.chains.insert(name.to_owned());
    }

    fn rule(&mut self, chain: &str, rule: impl std::fmt::Display) {
        let _ = writeln!(self.script, "add rule {} {chain} {rule}", self.table);
    }

    fn frontend(&mut self, frontend: &Frontend, masquerade_all: bool, maps: &mut BTreeMap<String, Vec<String>>) {
        let (protocol, port) = (frontend.protocol.name(), frontend.port);
        let suffix = names(frontend.cluster_ip.is_ipv4()).suffix;
        let path = format!("{}/{protocol}/{port}", frontend.service);
        let endpoints = [&frontend.internal, &frontend.external].map(|backends| backends.endpoints.as_slice());
        if let Some(seconds) = frontend.affinity_seconds {
            self.remembering(&path, protocol, endpoints.concat(), seconds);
        }
        let mut target = |prefix: &str, backends: &Backends| {
            if backends.endpoints.is_empty() {
                return None;
            }
            let chain = format!("{prefix}{suffix}-{path}");
            self.balanced(&chain, &path, frontend, backends, masquerade_all);
            Some(chain)
        };
        let internal = target("in", &frontend.internal);
        let further = [frontend.external_ips.as_slice(), &frontend.guarded_ips];
        let is_external = frontend.node_port.is_some() || further.iter().any(|ips| !ips.is_empty());
        let external = if is_external { target("ex", &frontend.external) } else { None };
        let internal = Lead::to(internal, &frontend.internal);
        let external = Lead::to(external, &frontend.external);
        let guarded = (!frontend.guarded_ips.is_empty()).then(|| self.guarded(suffix, &path, frontend, &external));
        let mut add = |map: [&'static str; 2], key: String, lead: &Lead| {
            let map = if lead.served { map[0] } else { map[1] };
            maps.entry(format!("{map}{suffix}")).or_default().push(format!("{key} : {}", lead.verdict));
        };
        add(["services", "idle"], destination(frontend, &frontend.cluster_ip), &internal);
        for (ips, lead) in further.into_iter().zip([Some(&external), guarded.as_ref()]) {
            for (ip, lead) in ips.iter().zip(lead.into_iter().cycle()) {
                let key = destination(frontend, ip);
                if !self.own.contains(&key) && self.claimed.insert(key.clone()) {
                    add(["services", "idle"], key, lead);
                }
            }
        }
        let node_port = frontend.node_port.map(|node_port| format!("{protocol} . {node_port}"));
        if let Some(key) = node_port.filter(|key| self.claimed.insert(format!("{key}{suffix}"))) {
            add(["node-ports", "idle-node-ports"], key, &external);
        }
    }

    /// A chain that lets clients of the Service's ranges go on, and no others. It is another one where packets are
    /// filtered than where destinations are translated: no chain may be in both.
    fn guarded(&mut self, suffix: &str, path: &str, frontend: &Frontend, lead: &Lead) -> Lead {
        let chain = format!("{}guard{suffix}-{path}", if lead.served { "" } else { "idle-" });
        self.chain(&chain);
        let mut sources = SourceRange::apart(frontend.sources.clone());
        sources.retain(|range| range.is_ipv4() == frontend.cluster_ip.is_ipv4());
        let (family, verdict) = (names(frontend.cluster_ip.is_ipv4()).family, &lead.verdict);
        if sources.iter().any(SourceRange::is_everybody) {
            self.rule(&chain, verdict);
        } else if !sources.is_empty() {
            let sources: Vec<String> = sources.iter().map(SourceRange::to_string).collect();
            self.rule(&chain, format_args!("{family} saddr {{ {} }} {verdict}", sources.join(", ")));
        }
        self.rule(&chain, "drop");
        Lead { served: lead.served, verdict: format!("goto {chain}") }
    }

    /// A chain for each endpoint that remembers who was sent there.
    fn remembering(&mut self, path: &str, protocol: &str, mut endpoints: Vec<SocketAddr>, seconds: u32) {
        endpoints.sort_unstable();
        endpoints.dedup();
        for endpoint in endpoints {
            let set = clients(path, endpoint, seconds);
            let Names { family, address, .. } = names(endpoint.is_ipv4());
            let _ = writeln!(
                self.script,
                "add set {} {set} {{ type {address}; size {MAX_CLIENTS}; flags dynamic,timeout; timeout {seconds}s; }}",
                self.table
            );
            let chain = endpoint_chain(path, endpoint);
            self.chain(&chain);
            self.rule(&chain, format_args!("update @{set} {{ {family} saddr }}"));
            self.rule(&chain, format_args!("meta l4proto {protocol} dnat {family} to {endpoint}"));
            self.after.sets.insert(set);
        }
    }

    fn balanced(&mut self, chain: &str, path: &str, frontend: &Frontend, backends: &Backends, masquerade_all: bool) {
        self.chain(chain);
        let set_mark = format!("meta mark set meta mark or {MASQUERADE_MARK}");
        match (masquerade_all || backends.elsewhere) && !backends.local_only {
            true => self.rule(chain, &set_mark),
            false => self.rule(chain, format_args!("fib saddr type local {set_mark}")),
        }
        let count = backends.endpoints.len();
        let family = names(frontend.cluster_ip.is_ipv4()).family;
        let numbered = backends.endpoints.iter().enumerate();
        let Some(seconds) = frontend.affinity_seconds else {
            let targets: Vec<String> =
                numbered.map(|(index, e)| format!("{index} : {} . {}", e.ip(), e.port())).collect();
            let (protocol, targets) = (frontend.protocol.name(), targets.join(", "));
            let to =
                format_args!("meta l4proto {protocol} dnat {family} to numgen random mod {count} map {{ {targets} }}");
            return self.rule(chain, to);
        };
        for endpoint in &backends.endpoints {
            let (set, goto) = (clients(path, *endpoint, seconds), endpoint_chain(path, *endpoint));
            self.rule(chain, format_args!("{family} saddr @{set} goto {goto}"));
        }
        let targets = numbered.map(|(index, endpoint)| format!("{index} : goto {}", endpoint_chain(path, *endpoint)));
        let targets = targets.collect::<Vec<_>>().join(", ");
        self.rule(chain, format_args!("numgen random mod {count} vmap {{ {targets} }}"));
    }
}

fn endpoint_chain(path: &str, endpoint: SocketAddr) -> String {
    format!("ep-{path}-{}/{}", in_a_name(endpoint), endpoint.port())
}

/// The set of those who were sent to an endpoint; a set has one timeout for good, so that is in its name.
fn clients(path: &str, endpoint: SocketAddr, seconds: u32) -> String {
    format!("cl-{path}-{}/{}/{seconds}", in_a_name(endpoint), endpoint.port())
}

/// Names have no colons.
fn in_a_name(endpoint: SocketAddr) -> String {
    endpoint.ip().to_string().replace(':', "-")
}

#[cfg(test)]
mod tests;
