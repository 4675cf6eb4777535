//! An IPv4 subnet and its addresses.

use std::fmt;
use std::net::Ipv4Addr;

use crate::network::{NetworkError, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: u32,
    prefix: u8,
}

impl Subnet {
    /// `10.88.0.0/16`; longer prefixes than /30 have no room for a bridge and a pod.
    pub(crate) fn parse(key: &'static str, text: &str) -> Result<Self> {
        let refuse = |reason: &str| NetworkError::Config { key, reason: format!("{text:?} {reason}") };
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("is not of the form 10.88.0.0/16"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse("does not start with an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse("does not end with a prefix length"))?;
        if !(8..=30).contains(&prefix) {
            return Err(refuse("has a prefix length outside 8 to 30"));
        }
        let network = u32::from(address);
        let subnet = Self { network: network & mask(prefix), prefix };
        if subnet.network != network {
            return Err(refuse("has bits set beyond its prefix"));
        }
        Ok(subnet)
    }

    /// Its first address, which is nobody's.
    pub(crate) fn network(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network)
    }

    /// The bridge's address.
    pub(crate) fn gateway(&self) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1)
    }

    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many addresses there are without the network's own and the broadcast one.
    pub(crate) fn host_count(&self) -> u32 {
        (1u32 << (32 - self.prefix)) - 2
    }

    /// The one of number `index`, from 0.
    pub(crate) fn host(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 1 + index)
    }

    /// The inverse of [`host`](Self::host).
    pub(crate) fn host_index(&self, address: Ipv4Addr) -> Option<u32> {
        let index = u32::from(address).checked_sub(self.network + 1)?;
        (index < self.host_count()).then_some(index)
    }

    /// How many addresses pods can have.
    pub(crate) fn pod_count(&self) -> u32 {
        // Without network, bridge and broadcast.
        (1u32 << (32 - self.prefix)) - 3
    }

    /// The pod address number `index`, from 0.
    pub(crate) fn pod_address(&self, index: u32) -> Ipv4Addr {
        Ipv4Addr::from(self.network + 2 + index % self.pod_count())
    }

    /// The inverse of [`pod_address`](Self::pod_address).
    pub(crate) fn pod_index(&self, address: Ipv4Addr) -> Option<u32> {
        let index = u32::from(address).checked_sub(self.network + 2)?;
        (index < self.pod_count()).then_some(index)
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX << (32 - prefix)
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv4Addr::from(self.network), self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_address_is_the_bridge_and_the_last_is_never_given() {
        let subnet = Subnet::parse("subnet", "10.9.8.0/29").unwrap();
        assert_eq!(subnet.gateway(), Ipv4Addr::new(10, 9, 8, 1));
        assert_eq!(subnet.pod_count(), 5);
        assert_eq!(subnet.pod_address(0), Ipv4Addr::new(10, 9, 8, 2));
        assert_eq!(subnet.pod_address(4), Ipv4Addr::new(10, 9, 8, 6));
        assert_eq!(subnet.pod_address(5), subnet.pod_address(0));
        assert_eq!(subnet.pod_index(Ipv4Addr::new(10, 9, 8, 6)), Some(4));
        assert_eq!(subnet.pod_index(Ipv4Addr::new(10, 9, 8, 7)), None);
    }

    #[test]
    fn wrong_subnets_are_refused_by_key() {
        for text in ["", "10.0.0.0", "10.0.0.0/x", "10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "fd00::/64"] {
            let error = Subnet::parse("subnet", text).unwrap_err();
            assert!(error.to_string().starts_with("network.subnet: "), "{error}");
        }
    }
}
