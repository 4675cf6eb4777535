//! Image references: `[registry[:port]/]repository[:tag][@digest]` with Docker's short names completed
//! (`busybox` is `docker.io/library/busybox:latest`).

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};
use crate::one_line::OneLine;

/// Repository names longer than this are refused (distribution-spec, "Pulling manifests").
const NAME_MAX_BYTES: usize = 255;
/// A tag's length limit (distribution-spec, "Pulling manifests").
const TAG_MAX_BYTES: usize = 128;
const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";

/// A normalised reference. It always has a registry and a repository, and a tag, a digest or both.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image reference.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("image reference `{}`: {problem}", OneLine(.reference))]
pub struct ReferenceError {
    /// The text as it was given.
    pub reference: String,
    pub problem: ReferenceProblem,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ReferenceProblem {
    #[error("is empty")]
    Empty,
    #[error("`{}` is no URL scheme an image reference may have; write registry/repository:tag", OneLine(.0))]
    Scheme(String),
    #[error("registry `{}`: expected a host name or address with an optional port", OneLine(.0))]
    Registry(String),
    #[error("registry port `{}`: expected 1-65535", OneLine(.0))]
    Port(String),
    #[error("repository `{}` must be lower-case", OneLine(.0))]
    UpperCase(String),
    #[error(
        "repository component `{}`: expected a-z and 0-9, separated by one `.`, one or two `_`, or any number of `-`",
        OneLine(.0)
    )]
    Component(String),
    #[error("repository is longer than {NAME_MAX_BYTES} bytes")]
    TooLong,
    #[error("tag `{}`: expected up to {TAG_MAX_BYTES} of A-Z a-z 0-9 _ . -, not starting with . or -", OneLine(.0))]
    Tag(String),
    #[error("repository name is 64 hexadecimal digits, which is an image id")]
    LooksLikeId,
    #[error(transparent)]
    Digest(DigestError),
}

impl Reference {
    /// The registry as the reference names it, with its port: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// The repository inside the registry: `library/busybox`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// Registry and repository, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Whether the registry is this very machine, where plain HTTP is as safe as TLS
    /// (`localhost`, 127.0.0.0/8, ::1; as docker and containerd do).
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.registry)
    }

    /// What a request for the manifest names: the digest if there is one, else the tag.
    pub(crate) fn manifest_key(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.into(),
        }
    }

    /// The same repository at `digest`, without a tag: a RepoDigest.
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }
}

/// Whether `host`, with or without a port, is this very machine.
pub(crate) fn is_loopback(host: &str) -> bool {
    let (host, _) = split_port(host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Checks `HOST[:PORT][/PATH]`, a part of a reference.
pub(crate) fn check_place(place: &str) -> Result<(), ReferenceProblem> {
    if let Some((scheme, _)) = place.split_once("://") {
        return Err(ReferenceProblem::Scheme(format!("{scheme}://")));
    }
    let (host, path) = place.split_once('/').map_or((place, None), |(host, path)| (host, Some(path)));
    check_registry(host)?;
    path.map_or(Ok(()), check_repository)
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.registry, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        if let Some(digest) = &self.digest {
            write!(f, "@{digest}")?;
        }
        Ok(())
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|problem| ReferenceError { reference: text.into(), problem })
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceProblem> {
    if text.is_empty() {
        return Err(ReferenceProblem::Empty);
    }
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(ReferenceProblem::Scheme(format!("{scheme}://")));
    }
    let (rest, digest) = match text.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest.parse().map_err(ReferenceProblem::Digest)?)),
        None => (text, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let tag_at = rest.rfind(':').filter(|at| !rest[*at..].contains('/'));
    let (name, tag) = match tag_at {
        Some(at) => (&rest[..at], Some(&rest[at + 1..])),
        None => (rest, None),
    };
    if let Some(tag) = tag {
        check_tag(tag)?;
    }
    let (registry, repository) = split_registry(name)?;
    check_repository(&repository)?;
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag.map(str::to_owned),
    };
    Ok(Reference { registry, repository, tag, digest })
}

/// The first component is a registry if it looks like a host: has a dot or a port, or is `localhost`.
fn split_registry(name: &str) -> Result<(String, String), ReferenceProblem> {
    let (registry, repository) = match name.split_once('/') {
        Some((first, rest)) if first == "localhost" || first.contains(['.', ':', '[']) => {
            check_registry(first)?;
            let registry = match first {
                "index.docker.io" | "registry-1.docker.io" => DEFAULT_REGISTRY,
                other => other,
            };
            (registry, rest)
        }
        _ => {
            if name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit()) {
                return Err(ReferenceProblem::LooksLikeId);
            }
            (DEFAULT_REGISTRY, name)
        }
    };
    let repository = if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        format!("library/{repository}")
    } else {
        repository.to_owned()
    };
    Ok((registry.to_ascii_lowercase(), repository))
}

fn split_port(registry: &str) -> (&str, Option<&str>) {
    let host_end = registry.rfind(']').map_or(0, |at| at + 1);
    match registry[host_end..].split_once(':') {
        Some((host, port)) => (&registry[..host_end + host.len()], Some(port)),
        None => (registry, None),
    }
}

fn check_registry(registry: &str) -> Result<(), ReferenceProblem> {
    let bad = || ReferenceProblem::Registry(registry.into());
    let (host, port) = split_port(registry);
    if registry.starts_with('[') && !registry.contains(']') {
        return Err(bad());
    }
    if let Some(port) = port {
        let digits = port.bytes().all(|byte| byte.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|port| port > 0) {
            return Err(ReferenceProblem::Port(port.into()));
        }
    }
    if let Some(address) = host.strip_prefix('[') {
        let address = address.strip_suffix(']').ok_or_else(bad)?;
        address.parse::<std::net::Ipv6Addr>().map_err(|_| bad())?;
        return Ok(());
    }
    let label_is_valid = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    };
    match host.split('.').all(label_is_valid) {
        true => Ok(()),
        false => Err(bad()),
    }
}

fn check_repository(repository: &str) -> Result<(), ReferenceProblem> {
    if repository.len() > NAME_MAX_BYTES {
        return Err(ReferenceProblem::TooLong);
    }
    if repository.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return Err(ReferenceProblem::UpperCase(repository.into()));
    }
    for component in repository.split('/') {
        if !component_is_valid(component) {
            return Err(ReferenceProblem::Component(component.into()));
        }
    }
    Ok(())
}

/// Distribution-spec: `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`.
fn component_is_valid(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_are_plain =
        bytes.first().copied().is_some_and(alphanumeric) && bytes.last().copied().is_some_and(alphanumeric);
    ends_are_plain
        && component
            .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
            .all(|separator| matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-'))
}

fn check_tag(tag: &str) -> Result<(), ReferenceProblem> {
    let valid = !tag.is_empty()
        && tag.len() <= TAG_MAX_BYTES
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'));
    match valid {
        true => Ok(()),
        false => Err(ReferenceProblem::Tag(tag.into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn references_are_normalised() {
        let with_digest = format!("docker.io/library/busybox@{D}");
        let with_both = format!("quay.io/a/b:1.2@{D}");
        for (given, whole) in [
            ("busybox", "docker.io/library/busybox:latest"),
            ("busybox:1.36", "docker.io/library/busybox:1.36"),
            ("me/tool", "docker.io/me/tool:latest"),
            ("index.docker.io/me/tool", "docker.io/me/tool:latest"),
            ("docker.io/busybox", "docker.io/library/busybox:latest"),
            ("localhost/a", "localhost/a:latest"),
            ("localhost:5000/a/b:v1", "localhost:5000/a/b:v1"),
            ("127.0.0.1:5000/a", "127.0.0.1:5000/a:latest"),
            ("[::1]:5000/a", "[::1]:5000/a:latest"),
            ("registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.9"),
            ("Quay.io/a/b", "quay.io/a/b:latest"),
            ("a.b/c__d/e.f/g--h:A_1", "a.b/c__d/e.f/g--h:A_1"),
            ("host:5000", "docker.io/library/host:5000"),
            (&format!("busybox@{D}"), &with_digest),
            (&with_both, &with_both),
        ] {
            let parsed: Reference = given.parse().unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(parsed.to_string(), whole, "{given}");
            assert_eq!(whole.parse::<Reference>().unwrap(), parsed);
        }
    }

    #[test]
    fn what_does_not_parse_is_named() {
        let long = "a/".repeat(130) + "b";
        for (given, part) in [
            ("", "is empty"),
            ("https://quay.io/a", "https://"),
            ("Busybox", "lower-case"),
            ("a//b", "component ``"),
            ("/a", "component ``"),
            ("a/", "component ``"),
            ("a:", "tag ``"),
            ("a:-x", "tag `-x`"),
            ("a:b c", "tag `b c`"),
            ("a b", "component `a b`"),
            ("a..b", "component `a..b`"),
            ("a___b", "component"),
            ("-a", "component"),
            ("a/../b", "component `..`"),
            ("host:0/a", "port `0`"),
            ("host:99999/a", "port `99999`"),
            ("host:+80/a", "port `+80`"),
            ("ho_st.x/a", "registry `ho_st.x`"),
            ("[::1/a", "registry"),
            ("a@sha256:12", "64 lower-case"),
            ("a@md5:12", "algorithm `md5`"),
            ("a@", "expected `algorithm:hex`"),
            (&D[7..], "image id"),
            (&long, "longer than 255"),
            ("a:t@x@y", "digest `x@y`"),
            ("ä", "component `ä`"),
        ] {
            let error = given.parse::<Reference>().unwrap_err().to_string();
            assert!(error.contains(part), "{given}: {error}");
            assert!(error.contains(given), "{given}: {error}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for (given, loopback) in [
            ("localhost/a", true),
            ("localhost:5000/a", true),
            ("127.0.0.1/a", true),
            ("127.9.0.1:443/a", true),
            ("[::1]:5000/a", true),
            ("128.0.0.1:5000/a", false),
            ("localhost.evil.com/a", false),
            ("busybox", false),
        ] {
            let reference: Reference = given.parse().unwrap();
            assert_eq!(reference.is_loopback(), loopback, "{given}");
        }
    }
}
