//! The text of the table.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, SocketAddrV4};

use super::{Backends, Frontend, Wanted};
use crate::network::Subnet;
use crate::network::nft::Contents;

/// Says of a packet that it shall leave with the node's address: the bit that Kubernetes' own components use.
const MASQUERADE_MARK: &str = "0x4000";
/// Clients whose endpoint is remembered at most, for each endpoint.
const MAX_CLIENTS: u32 = 65_535;

/// Chains that every table has. Destinations are translated where packets come in and where the node's own processes send
/// them; those of Services without endpoints are answered where packets are filtered, before anything else is.
const BASE: &str = "\
add map ip TABLE services { type ipv4_addr . inet_proto . inet_service : verdict; }
add map ip TABLE node-ports { type inet_proto . inet_service : verdict; }
add map ip TABLE idle { type ipv4_addr . inet_proto . inet_service : verdict; }
add map ip TABLE idle-node-ports { type inet_proto . inet_service : verdict; }
add chain ip TABLE prerouting { type nat hook prerouting priority -100; policy accept; }
add chain ip TABLE output { type nat hook output priority -100; policy accept; }
add chain ip TABLE postrouting { type nat hook postrouting priority 100; policy accept; }
add chain ip TABLE filter-input { type filter hook input priority -110; policy accept; }
add chain ip TABLE filter-forward { type filter hook forward priority -110; policy accept; }
add chain ip TABLE filter-output { type filter hook output priority -99; policy accept; }
add chain ip TABLE dispatch
add chain ip TABLE unserved
add chain ip TABLE refuse
flush table ip TABLE
flush map ip TABLE services
flush map ip TABLE node-ports
flush map ip TABLE idle
flush map ip TABLE idle-node-ports
add rule ip TABLE prerouting jump dispatch
add rule ip TABLE output jump dispatch
add rule ip TABLE dispatch ip daddr . meta l4proto . th dport vmap @services
add rule ip TABLE dispatch fib daddr type localNODES meta l4proto . th dport vmap @node-ports
add rule ip TABLE postrouting meta mark and MARK == MARK ct status dnat meta mark set meta mark xor MARK masquerade
add rule ip TABLE filter-input ct state new jump unserved
add rule ip TABLE filter-forward ct state new jump unserved
add rule ip TABLE filter-output ct state new jump unserved
add rule ip TABLE unserved ip daddr . meta l4proto . th dport vmap @idle
add rule ip TABLE unserved fib daddr type local meta l4proto . th dport vmap @idle-node-ports
add rule ip TABLE unserved ip daddr SUBNET jump refuse
add rule ip TABLE refuse meta l4proto tcp reject with tcp reset
add rule ip TABLE refuse reject
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

/// The transaction that makes the table what is wanted, and what it has then. Chains and sets that it had `before` and
/// has no more use for go.
pub(super) fn render(table: &str, subnet: &Subnet, wanted: &Wanted, before: &Contents) -> (String, Contents) {
    if wanted.frontends.is_empty() {
        let script = format!("add table ip {table}\ndelete table ip {table}\n");
        return (if before.chains.is_empty() { String::new() } else { script }, Contents::default());
    }
    let mut text = Text { table, script: format!("add table ip {table}\n"), after: Contents::default() };
    // Without the embedded network's bridge nothing answers to the node's loopback.
    let nodes = if wanted.masquerade_all { " ip daddr != 127.0.0.0/8" } else { "" };
    let base = BASE.replace("TABLE", table).replace("NODES", nodes).replace("MARK", MASQUERADE_MARK);
    text.script.push_str(&base.replace("SUBNET", &subnet.to_string()));
    text.after.chains.extend(BASE_CHAINS.map(str::to_owned));
    let mut maps: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for frontend in &wanted.frontends {
        text.frontend(frontend, wanted.masquerade_all, &mut maps);
    }
    for (map, elements) in maps {
        let _ = writeln!(text.script, "add element ip {table} {map} {{ {} }}", elements.join(", "));
    }
    for chain in before.chains.difference(&text.after.chains) {
        let _ = writeln!(text.script, "delete chain ip {table} {chain}");
    }
    for set in before.sets.difference(&text.after.sets) {
        let _ = writeln!(text.script, "delete set ip {table} {set}");
    }
    (text.script, text.after)
}

struct Text<'a> {
    table: &'a str,
    script: String,
    after: Contents,
}

impl Text<'_> {
    fn chain(&mut self, name: &str) {
        let _ = writeln!(self.script, "add chain ip {} {name}", self.table);
        self.after.chains.insert(name.to_owned());
    }

    fn rule(&mut self, chain: &str, rule: impl std::fmt::Display) {
        let _ = writeln!(self.script, "add rule ip {} {chain} {rule}", self.table);
    }

    fn frontend(&mut self, frontend: &Frontend, masquerade_all: bool, maps: &mut BTreeMap<&str, Vec<String>>) {
        let (protocol, port) = (frontend.protocol.name(), frontend.port);
        let path = format!("{}/{protocol}/{port}", frontend.service);
        let endpoints = [&frontend.internal, &frontend.external].map(|backends| backends.endpoints.as_slice());
        if let Some(seconds) = frontend.affinity_seconds {
            self.remembering(&path, protocol, endpoints.concat(), seconds);
        }
        let mut target = |prefix: &str, backends: &Backends| {
            if backends.endpoints.is_empty() {
                return None;
            }
            let chain = format!("{prefix}-{path}");
            self.balanced(&chain, &path, frontend, backends, masquerade_all);
            Some(chain)
        };
        let internal = target("in", &frontend.internal);
        let is_external = frontend.node_port.is_some() || !frontend.external_ips.is_empty();
        let external = if is_external { target("ex", &frontend.external) } else { None };
        let mut add = |map: [&'static str; 2], key: String, chain: &Option<String>, backends: &Backends| {
            let (map, verdict) = match chain {
                Some(chain) => (map[0], format!("goto {chain}")),
                // Another node might have one: nothing is said, as Kubernetes has it.
                None if backends.local_only => (map[1], "drop".into()),
                None => (map[1], "goto refuse".into()),
            };
            maps.entry(map).or_default().push(format!("{key} : {verdict}"));
        };
        let by_address = |ip: &Ipv4Addr| format!("{ip} . {protocol} . {port}");
        add(["services", "idle"], by_address(&frontend.cluster_ip), &internal, &frontend.internal);
        for ip in &frontend.external_ips {
            add(["services", "idle"], by_address(ip), &external, &frontend.external);
        }
        if let Some(node_port) = frontend.node_port {
            add(["node-ports", "idle-node-ports"], format!("{protocol} . {node_port}"), &external, &frontend.external);
        }
    }

    /// A chain for each endpoint that remembers who was sent there.
    fn remembering(&mut self, path: &str, protocol: &str, mut endpoints: Vec<SocketAddrV4>, seconds: u32) {
        endpoints.sort_unstable();
        endpoints.dedup();
        for endpoint in endpoints {
            let set = clients(path, endpoint, seconds);
            let _ = writeln!(
                self.script,
                "add set ip {} {set} {{ type ipv4_addr; size {MAX_CLIENTS}; flags dynamic,timeout; timeout {seconds}s; }}",
                self.table
            );
            let chain = endpoint_chain(path, endpoint);
            self.chain(&chain);
            self.rule(&chain, format_args!("update @{set} {{ ip saddr }}"));
            self.rule(&chain, format_args!("meta l4proto {protocol} dnat ip to {endpoint}"));
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
        let numbered = backends.endpoints.iter().enumerate();
        let Some(seconds) = frontend.affinity_seconds else {
            let targets: Vec<String> =
                numbered.map(|(index, e)| format!("{index} : {} . {}", e.ip(), e.port())).collect();
            let (protocol, targets) = (frontend.protocol.name(), targets.join(", "));
            let to = format_args!("meta l4proto {protocol} dnat ip to numgen random mod {count} map {{ {targets} }}");
            return self.rule(chain, to);
        };
        for endpoint in &backends.endpoints {
            let (set, goto) = (clients(path, *endpoint, seconds), endpoint_chain(path, *endpoint));
            self.rule(chain, format_args!("ip saddr @{set} goto {goto}"));
        }
        let targets = numbered.map(|(index, endpoint)| format!("{index} : goto {}", endpoint_chain(path, *endpoint)));
        let targets = targets.collect::<Vec<_>>().join(", ");
        self.rule(chain, format_args!("numgen random mod {count} vmap {{ {targets} }}"));
    }
}

fn endpoint_chain(path: &str, endpoint: SocketAddrV4) -> String {
    format!("ep-{path}-{}/{}", endpoint.ip(), endpoint.port())
}

/// The set of those who were sent to an endpoint; a set has one timeout for good, so that is in its name.
fn clients(path: &str, endpoint: SocketAddrV4, seconds: u32) -> String {
    format!("cl-{path}-{}/{}/{seconds}", endpoint.ip(), endpoint.port())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::Protocol;

    fn frontend(endpoints: &[&str]) -> Frontend {
        let endpoints = endpoints.iter().map(|endpoint| endpoint.parse().unwrap()).collect();
        let backends = Backends { endpoints, ..Backends::default() };
        Frontend {
            service: "default/web".into(),
            protocol: Protocol::Tcp,
            port: 80,
            cluster_ip: "10.96.0.9".parse().unwrap(),
            external_ips: Vec::new(),
            node_port: Some(30_080),
            affinity_seconds: None,
            internal: backends.clone(),
            external: backends,
        }
    }

    fn rendered(frontends: Vec<Frontend>, before: &Contents) -> (String, Contents) {
        let subnet = Subnet::parse("service_subnet", "10.96.0.0/16").unwrap();
        render("t", &subnet, &Wanted { frontends, masquerade_all: false }, before)
    }

    #[test]
    fn connections_are_spread_over_the_endpoints() {
        let (script, contents) = rendered(vec![frontend(&["10.88.0.2:8080", "10.88.0.3:8080"])], &Contents::default());
        for line in [
            "add rule ip t in-default/web/tcp/80 meta l4proto tcp dnat ip to numgen random mod 2 map { 0 : 10.88.0.2 . 8080, 1 : 10.88.0.3 . 8080 }",
            "add element ip t services { 10.96.0.9 . tcp . 80 : goto in-default/web/tcp/80 }",
            "add element ip t node-ports { tcp . 30080 : goto ex-default/web/tcp/80 }",
        ] {
            assert!(script.lines().any(|found| found == line), "{script}");
        }
        assert!(contents.chains.contains("ex-default/web/tcp/80"));
    }

    #[test]
    fn without_endpoints_connections_are_refused_or_dropped() {
        let mut lonely = frontend(&[]);
        lonely.external.local_only = true;
        let (script, _) = rendered(vec![lonely], &Contents::default());
        assert!(script.contains("add element ip t idle { 10.96.0.9 . tcp . 80 : goto refuse }\n"), "{script}");
        assert!(script.contains("add element ip t idle-node-ports { tcp . 30080 : drop }\n"), "{script}");
        assert!(!script.contains("add chain ip t in-"), "{script}");
    }

    #[test]
    fn chains_and_sets_go_with_what_they_were_for() {
        let sticky = Frontend { affinity_seconds: Some(60), ..frontend(&["10.88.0.2:80", "10.88.0.3:80"]) };
        let (_, both) = rendered(vec![sticky.clone()], &Contents::default());
        assert_eq!(both.sets.len(), 2);
        let one = Frontend { affinity_seconds: Some(60), ..frontend(&["10.88.0.2:80"]) };
        let (script, after) = rendered(vec![one], &both);
        let gone: Vec<&str> = script.lines().filter(|line| line.starts_with("delete")).collect();
        let gone_endpoint = "default/web/tcp/80-10.88.0.3/80";
        assert_eq!(
            gone,
            [format!("delete chain ip t ep-{gone_endpoint}"), format!("delete set ip t cl-{gone_endpoint}/60")]
        );
        let (script, none) = rendered(Vec::new(), &after);
        assert_eq!((script.as_str(), none), ("add table ip t\ndelete table ip t\n", Contents::default()));
        assert_eq!(rendered(Vec::new(), &Contents::default()).0, "");
    }
}
