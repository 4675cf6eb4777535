//! Ranges of addresses that clients come from.

use std::fmt;
use std::net::IpAddr;

/// Addresses that begin alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SourceRange {
    /// Zero beyond the prefix.
    network: IpAddr,
    prefix: u8,
}

impl SourceRange {
    /// `10.0.0.0/8`, with space around it as old clients write it; bits beyond the prefix mean nothing.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.trim().split_once('/')?;
        let is_number =
            prefix.bytes().all(|digit| digit.is_ascii_digit()) && (prefix == "0" || !prefix.starts_with('0'));
        let prefix: u8 = prefix.parse().ok().filter(|_| is_number)?;
        let network = match address.parse().ok()? {
            IpAddr::V4(ip) if prefix <= 32 => {
                IpAddr::V4((ip.to_bits() & u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)).into())
            }
            IpAddr::V6(ip) if prefix <= 128 => {
                IpAddr::V6((ip.to_bits() & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)).into())
            }
            _ => return None,
        };
        Some(Self { network, prefix })
    }

    pub fn is_ipv4(&self) -> bool {
        self.network.is_ipv4()
    }

    /// Whether it has every address of its family.
    pub fn is_everybody(&self) -> bool {
        self.prefix == 0
    }

    fn covers(&self, other: &Self) -> bool {
        let whole = Self { prefix: self.prefix, ..*other };
        self.is_ipv4() == other.is_ipv4()
            && self.prefix <= other.prefix
            && Self::parse(&whole.to_string()).is_some_and(|beginning| beginning == *self)
    }

    /// The same addresses, each in one range alone: the kernel's sets take no others.
    pub fn apart(mut ranges: Vec<Self>) -> Vec<Self> {
        ranges.sort_unstable();
        ranges.dedup();
        // What has another comes before it, and ranges that have something in common are one within the other.
        let mut apart: Vec<Self> = Vec::new();
        for range in ranges {
            if !apart.last().is_some_and(|last| last.covers(&range)) {
                apart.push(range);
            }
        }
        apart
    }
}

impl fmt::Display for SourceRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apart(ranges: &[&str]) -> Vec<String> {
        let ranges = ranges.iter().map(|range| SourceRange::parse(range).unwrap()).collect();
        SourceRange::apart(ranges).iter().map(SourceRange::to_string).collect()
    }

    #[test]
    fn ranges_begin_where_their_prefix_says() {
        for (text, range) in [
            ("10.9.8.7/8", "10.0.0.0/8"),
            (" 10.9.8.7/32 ", "10.9.8.7/32"),
            ("10.9.8.7/0", "0.0.0.0/0"),
            ("fd00:1:2::3/20", "fd00::/20"),
            ("fd00::3/128", "fd00::3/128"),
            ("fd00::3/0", "::/0"),
            ("::ffff:10.0.0.1/100", "::ffff:0.0.0.0/100"),
        ] {
            assert_eq!(SourceRange::parse(text).unwrap().to_string(), range);
        }
        for text in [
            "",
            "/",
            "10.0.0.0",
            "10.0.0.0/",
            "10.0.0.0/33",
            "10.0.0/8",
            "010.0.0.0/8",
            "10.0.0.0/08",
            "10.0.0.0/+8",
            "::/129",
            "fe80::%1/64",
            "10.0.0.0/8 x",
            "10.0.0.0/8/8",
            "::/ 8",
            "10.0.0.0/8,::/0",
            "10.0.0.0/8 }",
        ] {
            assert_eq!(SourceRange::parse(text), None, "{text}");
        }
    }

    #[test]
    fn ranges_within_others_are_left_out() {
        let all =
            ["10.1.0.0/16", "10.0.0.0/8", "11.0.0.0/8", "10.255.255.255/32", "10.0.0.0/8", "fd00::/8", "fd00::1/128"];
        assert_eq!(apart(&all), ["10.0.0.0/8", "11.0.0.0/8", "fd00::/8"]);
        assert_eq!(apart(&["10.0.0.0/16", "10.0.0.0/8", "0.0.0.0/0", "::/0", "::/1"]), ["0.0.0.0/0", "::/0"]);
        assert_eq!(apart(&["10.0.0.0/9", "10.128.0.0/9"]), ["10.0.0.0/9", "10.128.0.0/9"]);
    }
}
