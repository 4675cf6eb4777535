//! A subnet, of IPv4 or of IPv6, and its addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::network::{NetworkError, Result};

/// A subnet of IPv6 has room enough: more of its addresses than these are not given to anybody who does not ask for one.
const MOST_HOSTS: u32 = 1 << 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subnet {
    network: IpAddr,
    prefix: u8,
}

impl Subnet {
    /// `10.88.0.0/16`; longer prefixes than /30 have no room for a bridge and a pod.
    pub(crate) fn parse(key: &'static str, text: &str) -> Result<Self> {
        let refuse = |reason: &str| refused(key, text, reason);
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("is not of the form 10.88.0.0/16"))?;
        let address: Ipv4Addr = address.parse().map_err(|_| refuse("does not start with an IPv4 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse("does not end with a prefix length"))?;
        if !(8..=30).contains(&prefix) {
            return Err(refuse("has a prefix length outside 8 to 30"));
        }
        Self::without_host_bits(address.into(), prefix).ok_or_else(|| refuse("has bits set beyond its prefix"))
    }

    /// `fd00:10:88::/64`, of unique local or global addresses: no others are forwarded, or mean one and the same place to
    /// everybody.
    pub(crate) fn parse6(key: &'static str, text: &str) -> Result<Self> {
        let refuse = |reason: &str| refused(key, text, reason);
        let (address, prefix) = text.split_once('/').ok_or_else(|| refuse("is not of the form fd00:10:88::/64"))?;
        let address: Ipv6Addr = address.parse().map_err(|_| refuse("does not start with an IPv6 address"))?;
        let prefix: u8 = prefix.parse().map_err(|_| refuse("does not end with a prefix length"))?;
        if !(16..=126).contains(&prefix) {
            return Err(refuse("has a prefix length outside 16 to 126"));
        }
        let is_global = address.segments()[0] & 0xe000 == 0x2000;
        if !is_global && !address.is_unique_local() {
            return Err(refuse("is neither of fc00::/7 nor of 2000::/3"));
        }
        Self::without_host_bits(address.into(), prefix).ok_or_else(|| refuse("has bits set beyond its prefix"))
    }

    fn without_host_bits(network: IpAddr, prefix: u8) -> Option<Self> {
        let subnet = Self { network, prefix };
        (bits(network) & (subnet.size() - 1) == 0).then_some(subnet)
    }

    /// Its first address, which is nobody's.
    pub(crate) fn network(&self) -> IpAddr {
        self.network
    }

    /// The bridge's address.
    pub(crate) fn gateway(&self) -> IpAddr {
        self.host(0)
    }

    pub(crate) fn prefix(&self) -> u8 {
        self.prefix
    }

    /// How many addresses it consists of; of IPv6 two to the 112th at most.
    fn size(&self) -> u128 {
        let bits = if self.network.is_ipv4() { 32 } else { 128 };
        1 << (bits - self.prefix)
    }

    /// Nobody's are the first and, where it is for broadcasts, the last.
    fn last_host(&self) -> u128 {
        if self.network.is_ipv4() { self.size() - 2 } else { self.size() - 1 }
    }

    fn offset(&self, address: IpAddr) -> Option<u128> {
        let offset = bits(address).checked_sub(bits(self.network))?;
        (address.is_ipv4() == self.network.is_ipv4() && offset < self.size()).then_some(offset)
    }

    /// Whether it is an address that somebody may have.
    pub(crate) fn has(&self, address: IpAddr) -> bool {
        self.offset(address).is_some_and(|offset| (1..=self.last_host()).contains(&offset))
    }

    /// Whether some address is of both.
    pub(crate) fn overlaps(&self, other: &Self) -> bool {
        self.offset(other.network).is_some() || other.offset(self.network).is_some()
    }

    /// How many addresses there are that are given to those who do not ask for one.
    pub(crate) fn host_count(&self) -> u32 {
        u32::try_from(self.last_host()).map_or(MOST_HOSTS, |count| match self.network {
            IpAddr::V4(_) => count,
            IpAddr::V6(_) => count.min(MOST_HOSTS),
        })
    }

    /// The one of number `index`, from 0.
    pub(crate) fn host(&self, index: u32) -> IpAddr {
        let address = bits(self.network) + 1 + u128::from(index);
        match self.network {
            IpAddr::V4(_) => Ipv4Addr::from(address as u32).into(),
            IpAddr::V6(_) => Ipv6Addr::from(address).into(),
        }
    }

    /// How many addresses pods can have.
    pub(crate) fn pod_count(&self) -> u32 {
        // Without network, bridge and broadcast.
        self.last_host() as u32 - 1
    }

    /// The pod address number `index`, from 0.
    pub(crate) fn pod_address(&self, index: u32) -> IpAddr {
        self.host(1 + index)
    }

    /// Whether it has an address for each pod of `other`.
    pub(crate) fn is_as_large_as(&self, other: &Self) -> bool {
        self.size() >= other.size()
    }
}

fn refused(key: &'static str, text: &str, reason: &str) -> NetworkError {
    // Somebody's mistake is shown, not all of it.
    let shown: String = text.chars().take(64).collect();
    NetworkError::Config { key, reason: format!("{shown:?} {reason}") }
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => u32::from(address).into(),
        IpAddr::V6(address) => address.into(),
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn first_address_is_the_bridge_and_the_last_is_never_given() {
        let subnet = Subnet::parse("subnet", "10.9.8.0/29").unwrap();
        assert_eq!(subnet.gateway(), ip("10.9.8.1"));
        assert_eq!((subnet.pod_count(), subnet.host_count()), (5, 6));
        assert_eq!(subnet.pod_address(0), ip("10.9.8.2"));
        assert_eq!(subnet.pod_address(4), ip("10.9.8.6"));
        assert!(subnet.has(ip("10.9.8.1")) && subnet.has(ip("10.9.8.6")));
        for other in ["10.9.8.0", "10.9.8.7", "10.9.8.8", "10.9.7.255", "::a09:803", "::ffff:10.9.8.3"] {
            assert!(!subnet.has(ip(other)), "{other}");
        }
    }

    #[test]
    fn of_ipv6_the_last_address_is_one_as_any_other() {
        let subnet = Subnet::parse6("subnet6", "fd00:10:88::/64").unwrap();
        assert_eq!(subnet.gateway(), ip("fd00:10:88::1"));
        assert_eq!(subnet.pod_address(0), ip("fd00:10:88::2"));
        assert_eq!(subnet.pod_address(0xfffc), ip("fd00:10:88::fffe"));
        assert_eq!(subnet.host_count(), 1 << 20);
        assert!(subnet.has(ip("fd00:10:88::ffff:ffff:ffff:ffff")) && !subnet.has(ip("fd00:10:88::")));
        assert!(!subnet.has(ip("fd00:10:89::1")) && !subnet.has(ip("10.88.0.1")));
        let small = Subnet::parse6("subnet6", "fd00::/126").unwrap();
        assert_eq!((small.host_count(), small.to_string()), (3, "fd00::/126".to_owned()));
        assert!(small.has(ip("fd00::3")) && !small.has(ip("fd00::4")));
    }

    #[test]
    fn subnets_are_compared() {
        let six = |text: &str| Subnet::parse6("subnet6", text).unwrap();
        let four = Subnet::parse("subnet", "10.88.0.0/16").unwrap();
        assert!(six("fd00::/112").is_as_large_as(&four) && !six("fd00::/113").is_as_large_as(&four));
        assert!(six("fd00::/16").overlaps(&six("fd00:1::/64")) && six("fd00:1::/64").overlaps(&six("fd00::/16")));
        assert!(!six("fd00::/64").overlaps(&six("fd00:0:0:1::/64")) && !six("fd00::/64").overlaps(&four));
    }

    #[test]
    fn wrong_subnets_are_refused_by_key() {
        for text in ["", "10.0.0.0", "10.0.0.0/x", "10.0.0.1/24", "10.0.0.0/31", "0.0.0.0/0", "fd00::/64"] {
            let error = Subnet::parse("subnet", text).unwrap_err();
            assert!(error.to_string().starts_with("network.subnet: "), "{error}");
        }
        let long = format!("fd00::/{}", "6".repeat(100_000));
        for text in [
            "",
            "fd00::",
            "fd00::/x",
            "fd00::/-1",
            "fd00::/0",
            "fd00::/15",
            "fd00::/127",
            "fd00::/128",
            "fd00::/256",
            "fd00::1/64",
            "fd00::%eth0/64",
            "::/64",
            "::/0",
            "::1/64",
            "::ffff:10.88.0.0/112",
            "::ffff:0:0/96",
            "64:ff9b::/96",
            "fe80::/64",
            "fec0::/64",
            "ff02::/64",
            "10.88.0.0/16",
            &long,
        ] {
            let error = Subnet::parse6("subnet6", text).unwrap_err().to_string();
            assert!(error.starts_with("network.subnet6: ") && error.len() < 200, "{error}");
        }
    }
}
