//! Which pod has which addresses and which host ports: `RUN/network/leases.json`.
//!
//! A pod's address of IPv6 has the number in its subnet that the one of IPv4 has in its own, so that one search finds both.
//!
//! Leases are worth nothing after a reboot, and RUN may be on a disk: the file carries the boot's id.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::network::subnet::Subnet;
use crate::network::{NetworkError, Result};
use crate::pod::spec::PortMapping;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    /// Of IPv4.
    pub(super) address: IpAddr,
    /// Of IPv6.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) address6: Option<IpAddr>,
    pub(super) ports: Vec<PortMapping>,
}

impl fmt::Display for Subnets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.six {
            Some(six) => write!(f, "{} and {six}", self.four),
            None => self.four.fmt(f),
        }
    }
}

impl Lease {
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> + use<> {
        [Some(self.address), self.address6].into_iter().flatten()
    }
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Document {
    boot_id: String,
    /// Where the search for a free address goes on, so that an address is not given again at once.
    next: u32,
    leases: BTreeMap<String, Lease>,
    /// Told by a client; goes before the configuration's.
    #[serde(default)]
    subnet: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    subnet6: Option<String>,
}

/// Where addresses of pods come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Subnets {
    pub(super) four: Subnet,
    /// Has an address for each of those of IPv4.
    pub(super) six: Option<Subnet>,
}

#[derive(Debug)]
pub(super) struct LeaseStore {
    path: PathBuf,
    document: Document,
}

impl LeaseStore {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_string();
        Self::open_in_boot(directory, &boot_id)
    }

    fn open_in_boot(directory: &Path, boot_id: &str) -> Result<Self> {
        let path = directory.join("leases.json");
        let on_disk = |error: std::io::Error| NetworkError::Store { path: path.clone(), reason: error.to_string() };
        fs::create_dir_all(directory).map_err(on_disk)?;
        let document = match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).unwrap_or_default(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Document::default(),
            Err(error) => return Err(on_disk(error)),
        };
        let document = if document.boot_id == boot_id {
            document
        } else {
            Document { boot_id: boot_id.into(), ..Document::default() }
        };
        Ok(Self { path, document })
    }

    /// The subnets of IPv4 and IPv6 that a client told, if one did since the machine was started.
    pub(super) fn told(&self) -> (Option<&str>, Option<&str>) {
        (self.document.subnet.as_deref(), self.document.subnet6.as_deref())
    }

    pub(super) fn tell(&mut self, four: &Subnet, six: Option<&Subnet>) -> Result<()> {
        self.document.subnet = Some(four.to_string());
        self.document.subnet6 = six.map(Subnet::to_string);
        self.document.next = 0;
        self.save()
    }

    /// Gives `pod` addresses, or those it has; refuses host ports that another pod has.
    pub(super) fn take(&mut self, pod: &str, subnets: &Subnets, ports: &[PortMapping]) -> Result<&Lease> {
        if self.document.leases.contains_key(pod) {
            return Ok(&self.document.leases[pod]);
        }
        let ports: Vec<PortMapping> = ports.iter().filter(|port| port.host_port != 0).cloned().collect();
        for (other, lease) in &self.document.leases {
            let clash = ports.iter().find(|port| lease.ports.iter().any(|taken| collide(port, taken)));
            if let Some(port) = clash {
                let port = format!("{}/{}", port.host_port, port.protocol.name());
                return Err(NetworkError::PortInUse { port, pod: other.clone() });
            }
        }
        let taken: BTreeSet<IpAddr> = self.leases().flat_map(Lease::addresses).collect();
        let count = subnets.four.pod_count();
        let of_index = |index: u32| (subnets.four.pod_address(index), subnets.six.map(|six| six.pod_address(index)));
        let first = self.document.next % count;
        let free = (0..count).map(|step| (first + step) % count).find(|index| {
            let (address, address6) = of_index(*index);
            // That of IPv6 is another's where pods have addresses of an earlier subnet.
            !taken.contains(&address) && address6.is_none_or(|address6| !taken.contains(&address6))
        });
        let index = free.ok_or_else(|| NetworkError::Exhausted { subnet: subnets.four.to_string() })?;
        let (address, address6) = of_index(index);
        self.document.next = index + 1;
        self.document.leases.insert(pod.into(), Lease { address, address6, ports });
        self.save()?;
        Ok(&self.document.leases[pod])
    }

    /// Takes the address of IPv6 back from a pod that goes without.
    pub(super) fn forget_six(&mut self, pod: &str) -> Result<()> {
        if let Some(lease) = self.document.leases.get_mut(pod) {
            lease.address6 = None;
        }
        self.save()
    }

    /// False where `pod` had none.
    pub(super) fn release(&mut self, pod: &str) -> Result<bool> {
        if self.document.leases.remove(pod).is_none() {
            return Ok(false);
        }
        self.save()?;
        Ok(true)
    }

    pub(super) fn get(&self, pod: &str) -> Option<&Lease> {
        self.document.leases.get(pod)
    }

    pub(super) fn len(&self) -> usize {
        self.document.leases.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.document.leases.is_empty()
    }

    pub(super) fn pods(&self) -> impl Iterator<Item = &String> {
        self.document.leases.keys()
    }

    pub(super) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.document.leases.values()
    }

    fn save(&self) -> Result<()> {
        crate::pod::write_json(&self.path, &self.document)
            .map_err(|error| NetworkError::Store { path: self.path.clone(), reason: error.to_string() })
    }
}

/// Two mappings of one port collide unless they name different addresses.
fn collide(a: &PortMapping, b: &PortMapping) -> bool {
    a.host_port == b.host_port
        && a.protocol == b.protocol
        && match (a.host_ip, b.host_ip) {
            (Some(a), Some(b)) if a.is_ipv4() != b.is_ipv4() => false,
            (Some(a), Some(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            _ => true,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::spec::Protocol;

    fn port(host_port: u16, host_ip: Option<&str>) -> PortMapping {
        let host_ip = host_ip.map(|ip| ip.parse().unwrap());
        PortMapping { protocol: Protocol::Tcp, container_port: 80, host_port, host_ip }
    }

    fn subnets(four: &str, six: Option<&str>) -> Subnets {
        let six = six.map(|six| Subnet::parse6("subnet6", six).unwrap());
        Subnets { four: Subnet::parse("subnet", four).unwrap(), six }
    }

    #[test]
    fn an_address_of_ipv6_has_the_number_of_the_other_and_is_nobody_else_s() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        let shown = |lease: &Lease| lease.addresses().map(|address| address.to_string()).collect::<Vec<_>>();
        let alone = subnets("10.9.0.0/16", None);
        assert_eq!(shown(store.take("a", &alone, &[]).unwrap()), ["10.9.0.2"]);
        let dual = subnets("10.9.0.0/16", Some("fd00:9::/64"));
        // It goes on with what it has.
        assert_eq!(shown(store.take("a", &dual, &[]).unwrap()), ["10.9.0.2"]);
        assert_eq!(shown(store.take("b", &dual, &[]).unwrap()), ["10.9.0.3", "fd00:9::3"]);
        store.document.next = 300;
        assert_eq!(shown(store.take("c", &dual, &[]).unwrap()), ["10.9.1.46", "fd00:9::12e"]);
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        assert_eq!(shown(store.get("c").unwrap()), ["10.9.1.46", "fd00:9::12e"]);
        // The subnets have changed meanwhile, and overlap with those of before.
        store.document.next = 0;
        let moved = subnets("10.8.0.0/16", Some("fd00:9::/96"));
        assert_eq!(shown(store.take("d", &moved, &[]).unwrap()), ["10.8.0.2", "fd00:9::2"]);
        assert_eq!(shown(store.take("e", &moved, &[]).unwrap()), ["10.8.0.4", "fd00:9::4"]);
    }

    #[test]
    fn addresses_go_round_and_survive_a_restart_but_not_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let subnet = subnets("10.9.8.0/29", None);
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        let first = store.take("a", &subnet, &[]).unwrap().clone();
        assert_eq!(*store.take("a", &subnet, &[]).unwrap(), first);
        assert!(store.release("a").unwrap());
        assert!(!store.release("a").unwrap());
        assert_ne!(*store.take("b", &subnet, &[]).unwrap(), first, "given again at once");

        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        for pod in ["c", "d", "e", "f"] {
            store.take(pod, &subnet, &[]).unwrap();
        }
        assert!(matches!(store.take("g", &subnet, &[]), Err(NetworkError::Exhausted { .. })));
        assert!(LeaseStore::open_in_boot(dir.path(), "two").unwrap().is_empty());
    }

    #[test]
    fn a_host_port_is_given_once_for_each_address() {
        let dir = tempfile::tempdir().unwrap();
        let subnet = subnets("10.9.0.0/16", None);
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        store.take("a", &subnet, &[port(80, Some("10.0.0.1"))]).unwrap();
        store.take("b", &subnet, &[port(80, Some("10.0.0.2")), port(0, None)]).unwrap();
        let error = store.take("c", &subnet, &[port(80, None)]).unwrap_err();
        assert_eq!(error.to_string(), "host port 80/tcp is in use by pod sandbox a");
        store.take("d", &subnet, &[port(81, None), port(0, None)]).unwrap();
        // All addresses of one family, and all of the other.
        store.take("e", &subnet, &[port(82, Some("0.0.0.0"))]).unwrap();
        store.take("f", &subnet, &[port(82, Some("::"))]).unwrap();
        for taken in [None, Some("10.0.0.1"), Some("fd00::1")] {
            assert!(store.take("g", &subnet, &[port(82, taken)]).is_err(), "{taken:?}");
        }
    }
}
