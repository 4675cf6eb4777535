//! The node's own certificate authority. Its key is the node's identity towards clients: whoever has it can make
//! certificates that are let in.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustls::RootCertStore;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::WebPkiClientVerifier;

use super::TlsError;
use super::issued::CredentialId;
use super::private_file::{read, read_or_write, write_private};
use super::subject;

/// Longest common name (X.520, upper bound ub-common-name).
pub const MAX_USER_BYTES: usize = 64;

/// Groups that one client may be in.
const MAX_GROUPS: usize = 32;

const KEY_FILE: &str = "ca.key";
/// For people and other programs; made again where it is gone.
const CERTIFICATE_FILE: &str = "ca.crt";

pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    certificate_pem: String,
}

/// A certificate and its key.
pub struct Identity {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl Authority {
    /// Opens the authority in `folder`, or makes one there.
    pub fn open_or_create(folder: &Path) -> Result<Self, TlsError> {
        let path = folder.join(KEY_FILE);
        let key = read_or_write(&path, || Ok(KeyPair::generate()?.serialize_pem().into_bytes()))?;
        let authority = Self::of_key(&path, &key)?;
        let certificate_file = folder.join(CERTIFICATE_FILE);
        if !certificate_file.exists() {
            write_private(&certificate_file, authority.certificate_pem.as_bytes())?;
        }
        Ok(authority)
    }

    /// Opens the authority in `folder`, which must be there.
    pub fn open(folder: &Path) -> Result<Self, TlsError> {
        let path = folder.join(KEY_FILE);
        Self::of_key(&path, &read(&path)?)
    }

    /// The certificate says nothing but the key: another one that is made of the same key is as good.
    fn of_key(path: &Path, pem: &[u8]) -> Result<Self, TlsError> {
        let key = std::str::from_utf8(pem).ok().and_then(|pem| KeyPair::from_pem(pem).ok());
        let key = key.ok_or_else(|| TlsError::Key { path: path.into() })?;
        let mut params = unbounded(named("wharf-ca"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let certificate = params.self_signed(&key)?;
        let certificate_pem = certificate.pem();
        Ok(Self { certificate: certificate.der().clone(), certificate_pem, issuer: Issuer::new(params, key) })
    }

    /// What clients trust.
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Whether it has signed a client's certificate, which is good now.
    pub fn has_signed(&self, certificate: &[u8]) -> Result<bool, TlsError> {
        let mut roots = RootCertStore::empty();
        roots.add(self.certificate().clone())?;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider).build()?;
        let certificate = CertificateDer::from(certificate);
        Ok(verifier.verify_client_cert(&certificate, &[], UnixTime::now()).is_ok())
    }

    pub(super) fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// For a server that is reached under `names`, which may be addresses.
    pub fn server_identity(&self, names: &[String]) -> Result<Identity, TlsError> {
        let mut params = unbounded(named("wharfd"));
        params.subject_alt_names = CertificateParams::new(names)?.subject_alt_names;
        self.sign(params, ExtendedKeyUsagePurpose::ServerAuth)
    }

    /// For a client in `groups`, from now on for as long as `valid_for`.
    pub fn client_identity(&self, user: &str, groups: &[String], valid_for: Duration) -> Result<Identity, TlsError> {
        check_names(user, groups)?;
        let mut params = unbounded(named(user));
        let now = SystemTime::now();
        // The clock of who uses it may be a little behind.
        params.not_before = (now - Duration::from_secs(300)).into();
        params.not_after = (now + valid_for).into();
        let Identity { certificate, key } = self.sign(params, ExtendedKeyUsagePurpose::ClientAuth)?;
        let certificate = subject::renamed(&certificate, user, groups, self.issuer.key())?;
        Ok(Identity { certificate: certificate.into(), key })
    }

    fn sign(&self, mut params: CertificateParams, usage: ExtendedKeyUsagePurpose) -> Result<Identity, TlsError> {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![usage];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate()?;
        Ok(Identity { certificate: params.signed_by(&key, &self.issuer)?.der().clone(), key })
    }
}

impl Identity {
    pub fn certificate_pem(&self) -> String {
        let text = STANDARD.encode(&self.certificate);
        let lines: Vec<&str> = (0..text.len()).step_by(64).map(|at| &text[at..text.len().min(at + 64)]).collect();
        format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
    }

    /// What it is taken back by.
    pub fn id(&self) -> Option<CredentialId> {
        CredentialId::of_certificate(&self.certificate)
    }

    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    pub(super) fn into_der(self) -> Result<(CertificateDer<'static>, PrivateKeyDer<'static>), TlsError> {
        let key =
            PrivateKeyDer::try_from(self.key.serialize_der()).map_err(|text| rustls::Error::General(text.into()))?;
        Ok((self.certificate, key))
    }
}

/// Refuses names that a certificate or a message has no room for.
pub fn check_names(user: &str, groups: &[String]) -> Result<(), TlsError> {
    let fits = |name: &str| name.chars().all(|c| c.is_ascii_graphic()) && (1..=MAX_USER_BYTES).contains(&name.len());
    if !fits(user) {
        return Err(TlsError::User { found: user.into() });
    }
    if groups.len() > MAX_GROUPS {
        return Err(TlsError::Groups { found: groups.len() });
    }
    match groups.iter().find(|group| !fits(group)) {
        Some(group) => Err(TlsError::Group { found: group.clone() }),
        None => Ok(()),
    }
}

fn named(name: &str) -> DistinguishedName {
    let mut full = DistinguishedName::new();
    full.push(DnType::CommonName, name);
    full
}

/// Valid as long as the key is kept: the node's own identity does not wear out, and an end would only be an outage.
fn unbounded(name: DistinguishedName) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = name;
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(2999, 12, 31);
    params
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_stays_the_same_and_a_wrong_key_is_not_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let first = Authority::open_or_create(folder.path()).unwrap();
        let again = Authority::open(folder.path()).unwrap();
        assert_eq!(first.issuer.key().serialize_der(), again.issuer.key().serialize_der());
        std::fs::write(folder.path().join(KEY_FILE), "nonsense").unwrap();
        let refused = Authority::open_or_create(folder.path()).err().map(|error| error.to_string());
        assert!(refused.is_some_and(|text| text.ends_with("ca.key: not a key that wharfd has written")));
        assert_eq!(std::fs::read(folder.path().join(KEY_FILE)).unwrap(), b"nonsense");
        assert!(Authority::open(&folder.path().join("none")).is_err());
    }

    #[test]
    fn users_have_names_that_fit_a_certificate() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::open_or_create(folder.path()).unwrap();
        for (user, fits) in [("admin", true), ("a@b.example", true), ("", false), ("a b", false), ("ü", false)] {
            assert_eq!(authority.client_identity(user, &[], Duration::from_secs(1)).is_ok(), fits, "{user:?}");
        }
        assert!(authority.client_identity(&"x".repeat(MAX_USER_BYTES + 1), &[], Duration::from_secs(1)).is_err());
        for (groups, fits) in
            [(vec!["a".into(); 32], true), (vec!["a".into(); 33], false), (vec![String::new()], false)]
        {
            assert_eq!(authority.client_identity("a", &groups, Duration::from_secs(1)).is_ok(), fits, "{groups:?}");
        }
    }
}
