//! Versions of the specification, and what each brought.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A version that a network configuration may ask for, in order of age.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Version {
    #[serde(rename = "0.3.1")]
    V0_3_1,
    #[serde(rename = "0.4.0")]
    V0_4_0,
    #[serde(rename = "1.0.0")]
    V1_0_0,
    #[serde(rename = "1.1.0")]
    V1_1_0,
}

impl Version {
    /// Every one, the oldest first.
    pub const ALL: [Self; 4] = [Self::V0_3_1, Self::V0_4_0, Self::V1_0_0, Self::V1_1_0];

    /// `None` for a version that is not spoken here.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == text)
    }

    /// As it stands in `cniVersion`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V0_3_1 => "0.3.1",
            Self::V0_4_0 => "0.4.0",
            Self::V1_0_0 => "1.0.0",
            Self::V1_1_0 => "1.1.0",
        }
    }

    /// CHECK, and the result of ADD given to DEL, came with 0.4.0.
    pub fn has_check(self) -> bool {
        self >= Self::V0_4_0
    }

    /// GC and STATUS came with 1.1.0.
    pub fn has_gc_and_status(self) -> bool {
        self >= Self::V1_1_0
    }

    /// Until 1.0.0 each address of a result says its family in a field `version`.
    pub fn names_address_family(self) -> bool {
        self < Self::V1_0_0
    }

    /// All of them in one text, for what is told of another one.
    pub fn known() -> String {
        Self::ALL.map(Self::as_str).join(", ")
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether `text` has the form of a version, known or not: three numbers.
pub(super) fn is_version(text: &str) -> bool {
    let mut parts = text.split('.');
    let numbers = parts.by_ref().take(3).filter(|part| part.len() < 10 && part.parse::<u32>().is_ok()).count();
    numbers == 3 && parts.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_in_order_of_age_and_read_back() {
        assert!(Version::ALL.is_sorted());
        for version in Version::ALL {
            assert_eq!(Version::parse(version.as_str()), Some(version));
            assert!(is_version(version.as_str()));
        }
        for text in ["0.3.0", "1.1", "v1.1.0", "1.1.0.0", ""] {
            assert_eq!(Version::parse(text), None, "{text}");
        }
        assert!(is_version("2.0.0") && !is_version("1.1") && !is_version("1.1.0.0") && !is_version("1.1.x"));
    }

    #[test]
    fn operations_come_with_their_version() {
        assert!(!Version::V0_3_1.has_check() && Version::V0_4_0.has_check());
        assert!(!Version::V1_0_0.has_gc_and_status() && Version::V1_1_0.has_gc_and_status());
        assert!(Version::V0_4_0.names_address_family() && !Version::V1_0_0.names_address_family());
    }
}
