//! Which pod has which address and which host ports: `RUN/network/leases.json`.
//!
//! Leases are worth nothing after a reboot, and RUN may be on a disk: the file carries the boot's id.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::network::subnet::Subnet;
use crate::network::{NetworkError, Result};
use crate::pod::spec::PortMapping;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Lease {
    pub(super) address: Ipv4Addr,
    pub(super) ports: Vec<PortMapping>,
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

    /// The subnet that a client told, if one did since the machine was started.
    pub(super) fn subnet(&self) -> Option<&str> {
        self.document.subnet.as_deref()
    }

    pub(super) fn set_subnet(&mut self, subnet: &Subnet) -> Result<()> {
        self.document.subnet = Some(subnet.to_string());
        self.document.next = 0;
        self.save()
    }

    /// Gives `pod` an address, or the one it has; refuses host ports that another pod has.
    pub(super) fn take(&mut self, pod: &str, subnet: &Subnet, ports: &[PortMapping]) -> Result<Ipv4Addr> {
        if let Some(lease) = self.document.leases.get(pod) {
            return Ok(lease.address);
        }
        let ports: Vec<PortMapping> = ports.iter().filter(|port| port.host_port != 0).cloned().collect();
        for (other, lease) in &self.document.leases {
            let clash = ports.iter().find(|port| lease.ports.iter().any(|taken| collide(port, taken)));
            if let Some(port) = clash {
                let port = format!("{}/{}", port.host_port, port.protocol.name());
                return Err(NetworkError::PortInUse { port, pod: other.clone() });
            }
        }
        let taken: BTreeSet<Ipv4Addr> = self.document.leases.values().map(|lease| lease.address).collect();
        let count = subnet.pod_count();
        let address = (0..count)
            .map(|step| subnet.pod_address((self.document.next % count) + step))
            .find(|address| !taken.contains(address))
            .ok_or_else(|| NetworkError::Exhausted { subnet: subnet.to_string() })?;
        self.document.next = subnet.pod_index(address).map_or(0, |index| index + 1);
        self.document.leases.insert(pod.into(), Lease { address, ports });
        self.save()?;
        Ok(address)
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
    let address = |ip: &Option<IpAddr>| ip.filter(|ip| !ip.is_unspecified());
    a.host_port == b.host_port
        && a.protocol == b.protocol
        && match (address(&a.host_ip), address(&b.host_ip)) {
            (Some(a), Some(b)) => a == b,
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

    #[test]
    fn addresses_go_round_and_survive_a_restart_but_not_a_reboot() {
        let dir = tempfile::tempdir().unwrap();
        let subnet = Subnet::parse("subnet", "10.9.8.0/29").unwrap();
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        let first = store.take("a", &subnet, &[]).unwrap();
        assert_eq!(store.take("a", &subnet, &[]).unwrap(), first);
        assert!(store.release("a").unwrap());
        assert!(!store.release("a").unwrap());
        assert_ne!(store.take("b", &subnet, &[]).unwrap(), first, "given again at once");

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
        let subnet = Subnet::parse("subnet", "10.9.0.0/16").unwrap();
        let mut store = LeaseStore::open_in_boot(dir.path(), "one").unwrap();
        store.take("a", &subnet, &[port(80, Some("10.0.0.1"))]).unwrap();
        store.take("b", &subnet, &[port(80, Some("10.0.0.2")), port(0, None)]).unwrap();
        let error = store.take("c", &subnet, &[port(80, None)]).unwrap_err();
        assert_eq!(error.to_string(), "host port 80/tcp is in use by pod sandbox a");
        store.take("d", &subnet, &[port(81, None), port(0, None)]).unwrap();
    }
}
