//! Masquerading and port mappings: one nftables table of our own, always written whole.
//!
//! Each change is one transaction of `nft -f -`: delete the table, make it anew from the leases. What other
//! programs have in their tables is not touched.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use super::lease::{Lease, Subnets};
pub(super) use crate::network::nft::run;
use crate::network::nft::{Family, Table};
use crate::pod::spec::PortMapping;

/// What the table is made from.
pub(super) struct Rules<'a> {
    pub(super) bridge: &'a str,
    pub(super) subnets: Subnets,
    pub(super) leases: Vec<&'a Lease>,
}

impl Rules<'_> {
    /// As `nft` reads it.
    pub(super) fn render(&self) -> String {
        render(self)
    }
}

/// It sees packets of IPv6 where pods have such addresses, or one that is left has.
pub(super) fn table(bridge: &str, has_ipv6: bool) -> Table {
    Table { family: Family::of(has_ipv6), name: format!("wharf-{bridge}") }
}

fn render(rules: &Rules<'_>) -> String {
    let Rules { bridge, subnets, leases } = rules;
    let table = table(bridge, subnets.six.is_some());
    let (mut mappings, mut outwards, mut inwards) = (String::new(), String::new(), String::new());
    for lease in leases {
        for port in &lease.ports {
            for address in lease.addresses().filter(|address| address.is_ipv4() || table.is_dual()) {
                mappings.extend(mapping(port, address, &table).map(|rule| format!("    {rule}\n")));
            }
        }
    }
    for (family, subnet) in [("ip", Some(subnets.four)), ("ip6", subnets.six)] {
        let Some(subnet) = subnet else { continue };
        let _ = writeln!(outwards, "    {family} saddr {subnet} oifname != \"{bridge}\" masquerade");
        let _ = writeln!(inwards, "    {family} saddr {subnet} oifname \"{bridge}\" ct status dnat masquerade");
    }
    // The kernel has nothing like route_localnet for IPv6: what is sent from its loopback to a pod is never answered.
    let own_loopback = if table.is_dual() { "    ip6 daddr ::1 return\n" } else { "" };
    // Host ports are for packets to the node itself, from outside (prerouting), from pods (likewise, by the bridge),
    // and from the node's own processes (output).
    //
    // A pod answers to the address it was spoken to from: what comes from the node's loopback, or from a pod by way
    // of a host port, must look as if the bridge had sent it, or the answer would bypass the translation.
    //
    // route_localnet is on for the bridge, so a pod could speak to the node's loopback: dropped before anything else.
    format!(
        r#"{clear}table {table} {{
  chain ports {{
{mappings}  }}
  chain guard {{
    type filter hook prerouting priority raw; policy accept;
    iifname "{bridge}" ip daddr 127.0.0.0/8 drop
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat; policy accept;
    fib daddr type local jump ports
  }}
  chain output {{
    type nat hook output priority -100; policy accept;
{own_loopback}    fib daddr type local jump ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
{outwards}    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
{inwards}  }}
}}
"#,
        clear = table.deletion(),
    )
}

/// `None` where the port is of the other family: also `0.0.0.0` and `::` are all addresses of their own alone.
fn mapping(port: &PortMapping, address: IpAddr, table: &Table) -> Option<String> {
    let protocol = port.protocol.name();
    let family = if address.is_ipv4() { "ip" } else { "ip6" };
    let to = match port.host_ip {
        Some(ip) if ip.is_ipv4() != address.is_ipv4() => return None,
        Some(ip) if !ip.is_unspecified() => format!("{family} daddr {ip} "),
        _ => String::new(),
    };
    let dnat = if table.is_dual() { format!("dnat {family} to") } else { "dnat to".into() };
    let target = SocketAddr::new(address, port.container_port);
    Some(format!("{to}{protocol} dport {} {dnat} {target}", port.host_port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::subnet::Subnet;
    use crate::pod::spec::Protocol;

    fn rendered(six: Option<&str>) -> String {
        let port = |protocol, host_ip: Option<&str>| PortMapping {
            protocol,
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let lease = Lease {
            address: "10.88.0.2".parse().unwrap(),
            address6: six.map(|_| "fd00:88::2".parse().unwrap()),
            ports: vec![
                port(Protocol::Tcp, None),
                port(Protocol::Udp, Some("192.0.2.1")),
                port(Protocol::Sctp, Some("2001:db8::1")),
                port(Protocol::Sctp, None),
                port(Protocol::Tcp, Some("0.0.0.0")),
                port(Protocol::Tcp, Some("::")),
            ],
        };
        let four = Subnet::parse("subnet", "10.88.0.0/16").unwrap();
        let six = six.map(|six| Subnet::parse6("subnet6", six).unwrap());
        render(&Rules { bridge: "wharf0", subnets: Subnets { four, six }, leases: vec![&lease] })
    }

    fn mappings(text: &str) -> Vec<&str> {
        text.lines().map(str::trim).filter(|line| line.contains(" dport ")).collect()
    }

    #[test]
    fn table_has_a_line_for_each_host_port() {
        let text = rendered(None);
        assert_eq!(
            mappings(&text),
            [
                "tcp dport 8080 dnat to 10.88.0.2:80",
                "ip daddr 192.0.2.1 udp dport 8080 dnat to 10.88.0.2:80",
                "sctp dport 8080 dnat to 10.88.0.2:80",
                "tcp dport 8080 dnat to 10.88.0.2:80",
            ]
        );
        assert!(text.starts_with("table ip wharf-wharf0 { }\ndelete table ip wharf-wharf0\ntable ip wharf-wharf0 {\n"));
        assert!(!text.contains("ip6"), "{text}");
    }

    #[test]
    fn with_ipv6_one_table_sees_both() {
        let text = rendered(Some("fd00:88::/64"));
        assert_eq!(
            mappings(&text),
            [
                "tcp dport 8080 dnat ip to 10.88.0.2:80",
                "tcp dport 8080 dnat ip6 to [fd00:88::2]:80",
                "ip daddr 192.0.2.1 udp dport 8080 dnat ip to 10.88.0.2:80",
                "ip6 daddr 2001:db8::1 sctp dport 8080 dnat ip6 to [fd00:88::2]:80",
                "sctp dport 8080 dnat ip to 10.88.0.2:80",
                "sctp dport 8080 dnat ip6 to [fd00:88::2]:80",
                "tcp dport 8080 dnat ip to 10.88.0.2:80",
                "tcp dport 8080 dnat ip6 to [fd00:88::2]:80",
            ]
        );
        assert!(text.starts_with("table inet wharf-wharf0 { }\n"), "{text}");
        assert!(text.contains("    ip6 saddr fd00:88::/64 oifname != \"wharf0\" masquerade\n"), "{text}");
        assert!(text.contains("    ip6 daddr ::1 return\n    fib daddr"), "{text}");
    }
}
