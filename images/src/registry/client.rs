//! HTTP clients: one for each way of proving who a server is, shared by all transfers.

use std::collections::HashMap;
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::{Certificate, Client, Identity, NoProxy, Proxy};

use super::Purpose;
use crate::registries::{Endpoint, Origin, Proxies, RegistriesError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
const USER_AGENT: &str = concat!("wharf/", env!("CARGO_PKG_VERSION"));
/// All authorities of a distribution have a quarter of it.
const PEM_MAX_BYTES: u64 = 1 << 20;
/// More than a node has ways to reach its registries; certificates that are renewed make old ones useless.
const CLIENTS_MAX: usize = 32;

pub(super) struct Clients {
    all: Mutex<HashMap<Kind, Client>>,
    /// A connection that brings nothing for so long is dead.
    silence: Duration,
}

/// What tells clients apart. Certificates by content: a renewed one is taken at the next pull.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
struct Kind {
    is_plain: bool,
    is_loopback: bool,
    is_unverified: bool,
    /// Who sends a large body gets no answer for a while: it watches for silence itself.
    is_for_pushes: bool,
    authorities: Vec<Vec<u8>>,
    /// Certificate and key.
    identity: Option<Vec<u8>>,
    connect_time: Option<Duration>,
}

impl Clients {
    pub(super) fn new(silence: Duration) -> Self {
        Self { all: Mutex::default(), silence }
    }

    /// The client for an endpoint. Made at the first use: reading the machine's root certificates takes milliseconds.
    pub(super) fn client(
        &self,
        endpoint: &Endpoint,
        proxies: &Proxies,
        purpose: &Purpose,
    ) -> Result<Client, RegistriesError> {
        let kind = Kind { is_for_pushes: matches!(purpose, Purpose::Push { .. }), ..kind(endpoint)? };
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = all.get(&kind) {
            return Ok(client.clone());
        }
        let client = new_client(&kind, endpoint, proxies, self.silence)?;
        if all.len() >= CLIENTS_MAX {
            all.clear();
        }
        all.insert(kind, client.clone());
        Ok(client)
    }
}

fn kind(endpoint: &Endpoint) -> Result<Kind, RegistriesError> {
    let (is_plain, is_loopback) = (endpoint.is_plain(), endpoint.is_loopback());
    let mut kind = Kind { is_plain, is_loopback, connect_time: endpoint.connect_time, ..Kind::default() };
    if !kind.is_plain {
        let tls = &endpoint.tls;
        kind.is_unverified = tls.is_unverified;
        for authority in &tls.authorities {
            kind.authorities.push(read(&authority.value)?);
        }
        if let Some(client) = &tls.client {
            let (cert, key) = &client.value;
            let mut pem = read(cert)?;
            if key != cert {
                pem.push(b'\n');
                pem.extend(read(key)?);
            }
            kind.identity = Some(pem);
        }
    }
    Ok(kind)
}

/// Names are resolved by glibc: since 2.34 its `files` and `dns` services need no shared library, so the static
/// binary has them (tried with other services in nsswitch.conf too: they are passed over). A resolver of our own
/// would cost a dozen crates.
///
/// Redirections are followed by hand: headers of our own are for the endpoint alone.
fn new_client(
    kind: &Kind,
    endpoint: &Endpoint,
    proxies: &Proxies,
    silence: Duration,
) -> Result<Client, RegistriesError> {
    // Whoever comes first installs it; all of Wharf uses ring.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(kind.connect_time.unwrap_or(CONNECT_TIMEOUT))
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy();
    if !kind.is_for_pushes {
        builder = builder.read_timeout(silence);
    }
    if !kind.is_loopback {
        for proxy in proxies_of(proxies)? {
            builder = builder.proxy(proxy);
        }
    }
    // Without TLS the machine's authorities are needed by a redirection at most: their absence refuses that one alone.
    if kind.is_plain && (kind.is_loopback || !has_authorities()) {
        let no_roots = rustls::ClientConfig::builder()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        builder = builder.tls_backend_preconfigured(no_roots);
    }
    let tls = &endpoint.tls;
    let refuse = |file: &Path, origin: &Origin, problem: &str| RegistriesError::Certificate {
        file: file.to_owned(),
        origin: origin.to_string(),
        problem: problem.into(),
    };
    for (pem, named) in kind.authorities.iter().zip(&tls.authorities) {
        let certificates = Certificate::from_pem_bundle(pem).ok().filter(|all| !all.is_empty());
        let none = || refuse(&named.value, &named.origin, "holds no certificate in PEM");
        builder = builder.tls_certs_merge(certificates.ok_or_else(none)?);
    }
    if let (Some(pem), Some(named)) = (&kind.identity, &tls.client) {
        let none = |_| refuse(&named.value.0, &named.origin, "expected a certificate and its private key in PEM");
        builder = builder.identity(Identity::from_pem(pem).map_err(none)?);
    }
    if kind.is_unverified {
        builder = builder.tls_danger_accept_invalid_certs(true);
    }
    builder.build().map_err(|error| {
        // What is left to be wrong is a certificate that does not go with its key, or that is none inside.
        let client = tls.client.as_ref().map(|named| (&named.value.0, &named.origin));
        let authority = tls.authorities.first().map(|named| (&named.value, &named.origin));
        let cause = std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string);
        match client.or(authority) {
            Some((file, origin)) => refuse(file, origin, &cause),
            None => RegistriesError::Certificate {
                file: endpoint.url().into(),
                origin: endpoint.origin.to_string(),
                problem: cause,
            },
        }
    })
}

/// Whether this machine has certificates of authorities at all; a minimal one has none.
fn has_authorities() -> bool {
    Client::builder().no_proxy().build().is_ok()
}

fn proxies_of(proxies: &Proxies) -> Result<Vec<Proxy>, RegistriesError> {
    type Make = fn(&str) -> reqwest::Result<Proxy>;
    let both: [(&str, &Option<String>, Make); 2] = [
        ("HTTP_PROXY", &proxies.http, |url| Proxy::http(url)),
        ("HTTPS_PROXY", &proxies.https, |url| Proxy::https(url)),
    ];
    let mut all = Vec::new();
    for (variable, url, make) in both {
        let Some(url) = url else { continue };
        // The URL is not repeated: there may be a password in it.
        let proxy = make(url).map_err(|_| RegistriesError::Proxy { variable })?;
        all.push(proxy.no_proxy(proxies.none.as_deref().and_then(NoProxy::from_string)));
    }
    Ok(all)
}

fn read(path: &Path) -> Result<Vec<u8>, RegistriesError> {
    let failed = |source| RegistriesError::Read { file: path.to_owned(), source };
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(PEM_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    match bytes.len() as u64 > PEM_MAX_BYTES {
        true => Err(RegistriesError::TooLong { file: path.to_owned() }),
        false => Ok(bytes),
    }
}
