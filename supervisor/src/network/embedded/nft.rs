//! Masquerading and port mappings: one nftables table of our own, always written whole.
//!
//! Each change is one transaction of `nft -f -`: delete the table, make it anew from the leases. What other
//! programs have in their tables is not touched.

use std::fmt::Write as _;
use std::net::IpAddr;

use super::lease::Lease;
pub(super) use crate::network::nft::run;
use crate::network::subnet::Subnet;
use crate::pod::spec::PortMapping;

/// What the table is made from.
pub(super) struct Rules<'a> {
    pub(super) bridge: &'a str,
    pub(super) subnet: Subnet,
    pub(super) leases: Vec<&'a Lease>,
}

impl Rules<'_> {
    /// As `nft` reads it.
    pub(super) fn render(&self) -> String {
        render(self)
    }
}

/// Deleting a table that is not there is an error; declaring it first makes it none.
pub(super) fn clear(bridge: &str) -> String {
    let table = table(bridge);
    format!("table ip {table} {{ }}\ndelete table ip {table}\n")
}

pub(super) fn table(bridge: &str) -> String {
    format!("wharf-{bridge}")
}

fn render(rules: &Rules<'_>) -> String {
    let Rules { bridge, subnet, leases } = rules;
    let mut mappings = String::new();
    for lease in leases {
        for port in &lease.ports {
            let _ = writeln!(mappings, "    {}", mapping(port, lease));
        }
    }
    // Host ports are for packets to the node itself, from outside (prerouting), from pods (likewise, by the bridge),
    // and from the node's own processes (output).
    //
    // A pod answers to the address it was spoken to from: what comes from the node's loopback, or from a pod by way
    // of a host port, must look as if the bridge had sent it, or the answer would bypass the translation.
    //
    // route_localnet is on for the bridge, so a pod could speak to the node's loopback: dropped before anything else.
    format!(
        r#"{clear}table ip {table} {{
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
    fib daddr type local jump ports
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {subnet} oifname != "{bridge}" masquerade
    ip saddr 127.0.0.0/8 oifname "{bridge}" masquerade
    ip saddr {subnet} oifname "{bridge}" ct status dnat masquerade
  }}
}}
"#,
        clear = clear(bridge),
        table = table(bridge),
    )
}

fn mapping(port: &PortMapping, lease: &Lease) -> String {
    let protocol = port.protocol.name();
    let to = match port.host_ip {
        Some(IpAddr::V4(ip)) if !ip.is_unspecified() => format!("ip daddr {ip} "),
        _ => String::new(),
    };
    format!("{to}{protocol} dport {} dnat to {}:{}", port.host_port, lease.address, port.container_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::Protocol;

    #[test]
    fn table_has_a_line_for_each_host_port() {
        let port = |protocol, host_ip: Option<&str>| PortMapping {
            protocol,
            container_port: 80,
            host_port: 8080,
            host_ip: host_ip.map(|ip| ip.parse().unwrap()),
        };
        let lease = Lease {
            address: "10.88.0.2".parse().unwrap(),
            ports: vec![port(Protocol::Tcp, None), port(Protocol::Udp, Some("192.0.2.1"))],
        };
        let subnet = Subnet::parse("subnet", "10.88.0.0/16").unwrap();
        let text = render(&Rules { bridge: "wharf0", subnet, leases: vec![&lease] });
        assert!(text.contains("    tcp dport 8080 dnat to 10.88.0.2:80\n"), "{text}");
        assert!(text.contains("    ip daddr 192.0.2.1 udp dport 8080 dnat to 10.88.0.2:80\n"), "{text}");
        assert!(text.starts_with("table ip wharf-wharf0 { }\ndelete table ip wharf-wharf0\ntable ip wharf-wharf0 {\n"));
    }
}
