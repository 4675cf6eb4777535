//! The node's own `resolv.conf` (resolv.conf(5)): where other names are asked for.

use std::fs::File;
use std::io::Read as _;
use std::net::IpAddr;

const PATH: &str = "/etc/resolv.conf";
/// Of systemd-resolved: the servers behind its own, which listens on the loopback.
const BEHIND_RESOLVED: &str = "/run/systemd/resolve/resolv.conf";
const MAX_BYTES: u64 = 64 * 1024;

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResolvConf {
    pub(crate) nameservers: Vec<String>,
    pub(crate) searches: Vec<String>,
    pub(crate) options: Vec<String>,
}

impl ResolvConf {
    /// As the node's own processes have it; empty where there is none.
    pub(crate) fn of_node() -> Self {
        read(PATH)
    }

    /// For the network namespace of a pod, which cannot speak to the node's loopback.
    pub(crate) fn for_pods() -> Self {
        let own = read(PATH);
        let is_loopback = |server: &String| server.parse::<IpAddr>().is_ok_and(|address| address.is_loopback());
        if own.nameservers.iter().all(is_loopback) {
            let behind = read(BEHIND_RESOLVED);
            if !behind.nameservers.is_empty() {
                return behind;
            }
        }
        own
    }

    fn parse(text: &str) -> Self {
        let mut parsed = Self::default();
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace().map(str::to_owned);
            match words.next().as_deref() {
                Some("nameserver") => parsed.nameservers.extend(words.next()),
                // The last one counts, of both kinds.
                Some("search") => parsed.searches = words.collect(),
                Some("domain") => parsed.searches = words.take(1).collect(),
                Some("options") => parsed.options.extend(words),
                _ => {}
            }
        }
        parsed
    }
}

fn read(path: &str) -> ResolvConf {
    let mut text = Vec::new();
    let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut text));
    match read {
        Ok(_) => ResolvConf::parse(&String::from_utf8_lossy(&text)),
        Err(_) => ResolvConf::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_resolvers_read_them() {
        let text = "# made by hand\nnameserver 192.0.2.1 ; first\nnameserver fe80::1%eth0\ndomain a.example\n\
                    search b.example c.example\noptions ndots:2 rotate\nsortlist x\n";
        let parsed = ResolvConf::parse(text);
        assert_eq!(parsed.nameservers, ["192.0.2.1", "fe80::1%eth0"]);
        assert_eq!(parsed.searches, ["b.example", "c.example"]);
        assert_eq!(parsed.options, ["ndots:2", "rotate"]);
    }
}
