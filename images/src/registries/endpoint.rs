//! One place where a repository can be had.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::reference::{Reference, is_loopback};

/// One place where a repository can be had, and how it is talked to.
#[derive(Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub role: Role,
    /// Where the registry's API begins: `https://registry.example:5000/v2`.
    pub(crate) root: String,
    /// Host and port, as keys of logins name it.
    pub(crate) host: String,
    /// The repository's name there.
    pub(crate) repository: String,
    pub tls: Tls,
    /// Whether it may say what a tag leads to.
    pub resolves: bool,
    /// Whether it may serve content by digest.
    pub pulls: bool,
    /// Whether it takes what is pushed.
    pub pushes: bool,
    /// Sent with every request, only there; may be secret.
    pub(crate) headers: Vec<(String, String)>,
    /// `ns=` of each request: which registry a mirror of many stands for.
    pub(crate) namespace: Option<String>,
    pub(crate) connect_time: Option<Duration>,
    /// Only tried where nobody answered at the endpoint before.
    pub(crate) is_second_try: bool,
    pub origin: Origin,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    Mirror,
    /// The registry that the reference names, or who answers in its place.
    Registry,
}

/// How a server proves who it is, and we to it. Without meaning for `http`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tls {
    /// PEM files with authorities, beside those of this machine.
    pub authorities: Vec<Named<PathBuf>>,
    /// PEM files with our certificate and its key; one file may have both.
    pub client: Option<Named<(PathBuf, PathBuf)>>,
    /// Whether any certificate is taken.
    pub is_unverified: bool,
}

/// A setting with the place that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named<T> {
    pub value: T,
    pub origin: Origin,
}

/// What says that something is so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// `None`: nothing but the reference itself, or an option.
    pub file: Option<(PathBuf, usize)>,
    /// The key in that file: `registry."quay.io".mirrors`.
    pub key: String,
}

impl Endpoint {
    /// The registry under its own name: by TLS, but for this very machine.
    pub(super) fn by_name(reference: &Reference) -> Self {
        let scheme = if reference.is_loopback() { "http" } else { "https" };
        Self::at(scheme, reference.registry(), reference.repository(), Role::Registry)
    }

    pub(super) fn plain(reference: &Reference) -> Self {
        let origin = Origin { file: None, key: "--plain-http".into() };
        Self { origin, ..Self::at("http", reference.registry(), reference.repository(), Role::Registry) }
    }

    /// The API of distribution-spec at `host`.
    pub(super) fn at(scheme: &str, host: &str, repository: &str, role: Role) -> Self {
        Self::with_root(format!("{scheme}://{}/v2", spoken_to(host)), host, repository, role)
    }

    pub(super) fn with_root(root: String, host: &str, repository: &str, role: Role) -> Self {
        Self {
            role,
            root,
            host: host.into(),
            repository: repository.into(),
            tls: Tls::default(),
            resolves: true,
            pulls: true,
            pushes: true,
            headers: Vec::new(),
            namespace: None,
            connect_time: None,
            is_second_try: false,
            origin: Origin { file: None, key: "the reference".into() },
        }
    }

    /// Where requests for the repository go: `https://registry.example:5000/v2/team/app`.
    pub fn url(&self) -> String {
        format!("{}/{}", self.root, self.repository)
    }

    /// Host and port, as keys of logins name it.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The repository's name there.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// Names of the headers that are sent; their values may be secret.
    pub fn header_names(&self) -> impl Iterator<Item = &str> {
        self.headers.iter().map(|(name, _)| name.as_str())
    }

    /// Whether it is spoken to without TLS.
    pub fn is_plain(&self) -> bool {
        self.root.starts_with("http://")
    }

    /// Whether nobody else can be on the way.
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.host)
    }
}

/// Docker Hub's registry lives under a name of its own.
pub(super) fn spoken_to(host: &str) -> &str {
    match host {
        "docker.io" => "registry-1.docker.io",
        other => other,
    }
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.header_names().collect();
        write!(f, "Endpoint({}, {:?}, {:?}, headers {names:?}, {})", self.url(), self.role, self.tls, self.origin)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.file {
            Some((file, line)) => write!(f, "{} in {}, line {line}", self.key, file.display()),
            None => write!(f, "{}", self.key),
        }
    }
}
