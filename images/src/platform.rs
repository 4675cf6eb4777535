//! Choosing from an index the manifest that this machine (or `--platform`) can run.

use std::fmt;
use std::str::FromStr;

use crate::manifest::{Descriptor, Index, Platform};
use crate::one_line::OneLine;

/// Why a text is no platform.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("platform `{}`: expected os/architecture or os/architecture/variant, as in linux/arm64/v8", OneLine(.0))]
pub struct PlatformError(String);

impl Platform {
    /// The platform this program was built for.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { os: "linux".into(), architecture: architecture.into(), variant: None }
    }

    /// The variant with the architecture's default filled in (image-spec, "Platform variants").
    fn variant_or_default(&self) -> &str {
        match (self.variant.as_deref(), self.architecture.as_str()) {
            (Some(variant), _) => variant,
            (None, "arm64") => "v8",
            (None, "arm") => "v7",
            (None, "amd64") => "v1",
            (None, _) => "",
        }
    }

    /// How well `offered` serves `self`: smaller is better, `None` is not at all. A lower variant of the same
    /// architecture runs (`arm/v6` on `arm/v7`), a higher one may not.
    fn distance(&self, offered: &Self) -> Option<u32> {
        if self.os != offered.os || self.architecture != offered.architecture {
            return None;
        }
        let level = |variant: &str| variant.trim_start_matches('v').parse::<u32>().ok();
        let (wanted, found) = (self.variant_or_default(), offered.variant_or_default());
        match (level(wanted), level(found)) {
            _ if wanted == found => Some(0),
            (Some(wanted), Some(found)) => wanted.checked_sub(found),
            _ => None,
        }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) => write!(f, "/{variant}"),
            None => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let parts: Vec<&str> = text.split('/').collect();
        let valid = |part: &&str| {
            !part.is_empty()
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        match parts.as_slice() {
            [os, architecture, rest @ ..] if rest.len() < 2 && parts.iter().all(valid) => Ok(Self {
                os: (*os).into(),
                architecture: (*architecture).into(),
                variant: rest.first().map(|variant| (*variant).into()),
            }),
            _ => Err(PlatformError(text.into())),
        }
    }
}

/// The entry that fits `wanted` best; the first of equals, as image-spec asks.
pub(crate) fn choose<'a>(index: &'a Index, wanted: &Platform) -> Option<&'a Descriptor> {
    index
        .manifests
        .iter()
        .filter_map(|entry| Some((wanted.distance(entry.platform.as_ref()?)?, entry)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, entry)| entry)
        // An index of one image without a platform can mean nothing else (`skopeo copy` writes such).
        .or(match index.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        })
}

/// What an index offers, for the error that names it.
pub(crate) fn offered(index: &Index) -> String {
    let mut all: Vec<String> = index
        .manifests
        .iter()
        .filter_map(|entry| entry.platform.as_ref().map(Platform::to_string))
        .filter(|platform| !platform.starts_with("unknown/"))
        .collect();
    all.dedup();
    match all.is_empty() {
        true => "nothing".into(),
        false => OneLine(&all.join(", ")).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::digest::Digest;

    fn index(platforms: &[&str]) -> Index {
        let entry = |text: &&str| Descriptor {
            media_type: String::new(),
            digest: Digest::of(text.as_bytes()),
            size: 1,
            platform: text.parse().ok(),
            annotations: None,
            other: Default::default(),
        };
        Index { schema_version: 2, media_type: None, manifests: platforms.iter().map(entry).collect() }
    }

    #[test]
    fn the_best_platform_is_chosen() {
        for (offered, wanted, chosen) in [
            (&["linux/amd64", "linux/arm64/v8"][..], "linux/arm64", Some("linux/arm64/v8")),
            (&["linux/arm/v6", "linux/arm/v7"], "linux/arm/v7", Some("linux/arm/v7")),
            (&["linux/arm/v5", "linux/arm/v6"], "linux/arm", Some("linux/arm/v6")),
            (&["linux/arm/v7"], "linux/arm/v6", None),
            (&["windows/amd64"], "linux/amd64", None),
            (&["linux/amd64/v3", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["unknown/unknown", "linux/amd64"], "linux/amd64", Some("linux/amd64")),
            (&["-"], "linux/amd64", Some("-")),
        ] {
            let index = index(offered);
            let found = choose(&index, &wanted.parse().unwrap()).map(|entry| entry.digest);
            assert_eq!(found, chosen.map(|text| Digest::of(text.as_bytes())), "{wanted}");
        }
    }

    #[test]
    fn what_is_no_platform_is_refused() {
        for bad in ["", "linux", "linux/", "/amd64", "linux/arm/v7/x", "linux/a b"] {
            assert!(bad.parse::<Platform>().is_err(), "{bad}");
        }
    }
}
