//! Certificates and tokens that `wharf kubeconfig` has written: of each a file that says whose it is, and another one beside it
//! once it was taken back. The daemon looks for that at each request, so nobody has to tell it.

use std::fmt;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ring::digest;
use serde_json::{Value, json};

use super::private_file::{read, write_private};
use super::{TlsError, subject};

/// In the folder of the node's keys.
const FOLDER: &str = "issued";
const ENTRY: &str = "json";
const REVOKED: &str = "revoked";
/// Clocks may differ by so much: until then what has ended is kept.
const AFTER_THE_END: Duration = Duration::from_secs(86_400);
/// Shorter beginnings of a name mean too many.
const SHORTEST_PREFIX: usize = 4;

/// Names a certificate or a token by what is signed of it. Of that there is one form; a signature may have several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct CredentialId(String);

impl CredentialId {
    /// Of a certificate in DER; `None` for what is none.
    pub fn of_certificate(certificate: &[u8]) -> Option<Self> {
        subject::signed(certificate).map(Self::of)
    }

    pub fn of_token(token: &str) -> Option<Self> {
        token.rsplit_once('.').map(|(signed, _)| Self::of(signed.as_bytes()))
    }

    fn of(signed: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, signed);
        Self(digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// As much of it as people need.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for CredentialId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What was written, and for whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credential {
    pub is_token: bool,
    pub user: String,
    pub groups: Vec<String>,
    pub until: SystemTime,
}

/// The record of a node.
pub struct Issued(PathBuf);

impl Issued {
    /// In the folder of the node's keys.
    pub fn of(keys: &Path) -> Self {
        Self(keys.join(FOLDER))
    }

    fn file(&self, id: &CredentialId, kind: &str) -> PathBuf {
        self.0.join(format!("{id}.{kind}"))
    }

    /// Notes what was written.
    pub fn record(&self, id: &CredentialId, credential: &Credential) -> Result<(), TlsError> {
        let Credential { is_token, user, groups, until } = credential;
        let until = until.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let entry = json!({"token": is_token, "user": user, "groups": groups, "until": until});
        self.write(id, ENTRY, entry.to_string().as_bytes())
    }

    /// Takes it back; false where it was before.
    pub fn revoke(&self, id: &CredentialId) -> Result<bool, TlsError> {
        if self.is_revoked(id) {
            return Ok(false);
        }
        self.write(id, REVOKED, b"").map(|()| true)
    }

    /// Whether it was taken back, or nobody can tell.
    pub fn is_revoked(&self, id: &CredentialId) -> bool {
        !matches!(self.file(id, REVOKED).try_exists(), Ok(false))
    }

    /// All that are still good, and forgets the others.
    pub fn all(&self) -> Result<Vec<(CredentialId, Credential)>, TlsError> {
        let failed = |source| TlsError::File { operation: "read", path: self.0.clone(), source };
        let entries = match fs::read_dir(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(failed)?,
        };
        let mut all = Vec::new();
        for entry in entries {
            let path = entry.map_err(failed)?.path();
            let name = path.file_stem().and_then(|name| name.to_str()).filter(|name| is_id(name));
            let Some(name) = name.filter(|_| path.extension().is_some_and(|kind| kind == ENTRY)) else { continue };
            let id = CredentialId(name.to_owned());
            let Some(credential) = credential(&read(&path)?) else { continue };
            if credential.until + AFTER_THE_END < SystemTime::now() {
                for kind in [ENTRY, REVOKED] {
                    let _ = fs::remove_file(self.file(&id, kind));
                }
                continue;
            }
            all.push((id, credential));
        }
        all.sort_by(|(one, a), (other, b)| (&a.user, a.until, one).cmp(&(&b.user, b.until, other)));
        Ok(all)
    }

    /// The one whose name begins so; `None` where there is none or more than one.
    pub fn find(&self, beginning: &str) -> Result<Option<CredentialId>, TlsError> {
        if beginning.len() < SHORTEST_PREFIX {
            return Ok(None);
        }
        let all = self.all()?;
        let mut found = all.into_iter().map(|(id, _)| id).filter(|id| id.0.starts_with(beginning));
        Ok(found.next().filter(|_| found.next().is_none()))
    }

    fn write(&self, id: &CredentialId, kind: &str, content: &[u8]) -> Result<(), TlsError> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.0);
        made.map_err(|source| TlsError::File { operation: "create", path: self.0.clone(), source })?;
        write_private(&self.file(id, kind), content)
    }
}

fn is_id(name: &str) -> bool {
    name.len() == 2 * digest::SHA256_OUTPUT_LEN && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn credential(entry: &[u8]) -> Option<Credential> {
    let entry: Value = serde_json::from_slice(entry).ok()?;
    let groups = entry["groups"].as_array()?.iter().filter_map(Value::as_str);
    Some(Credential {
        is_token: entry["token"].as_bool()?,
        user: entry["user"].as_str()?.to_owned(),
        groups: groups.map(str::to_owned).collect(),
        until: UNIX_EPOCH.checked_add(Duration::from_secs(entry["until"].as_u64()?))?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tls::{Authority, TokenKey};

    const HOUR: Duration = Duration::from_secs(3600);

    fn credential_of(user: &str, until: SystemTime) -> Credential {
        Credential { is_token: true, user: user.into(), groups: vec!["staff".into()], until }
    }

    #[test]
    fn what_was_written_is_found_until_its_end_and_taken_back_once() {
        let folder = tempfile::tempdir().unwrap();
        let issued = Issued::of(folder.path());
        assert_eq!(issued.all().unwrap(), []);
        let end = UNIX_EPOCH + Duration::from_secs(4_000_000_000);
        let (alice, bob, old) = (CredentialId::of(b"a"), CredentialId::of(b"b"), CredentialId::of(b"c"));
        issued.record(&bob, &credential_of("bob", end)).unwrap();
        issued.record(&alice, &credential_of("alice", end)).unwrap();
        issued.record(&old, &credential_of("old", UNIX_EPOCH + HOUR)).unwrap();
        issued.revoke(&old).unwrap();
        let expected = vec![(alice.clone(), credential_of("alice", end)), (bob.clone(), credential_of("bob", end))];
        assert_eq!(issued.all().unwrap(), expected);
        assert_eq!(fs::read_dir(folder.path().join(FOLDER)).unwrap().count(), 2, "what has ended is forgotten");
        assert_eq!(issued.find(alice.short()).unwrap(), Some(alice.clone()));
        for beginning in ["", "00", "zzzz", "../../key"] {
            assert_eq!(issued.find(beginning).unwrap(), None, "{beginning}");
        }
        assert!(!issued.is_revoked(&alice));
        assert!(issued.revoke(&alice).unwrap() && !issued.revoke(&alice).unwrap());
        assert!(issued.is_revoked(&alice) && !issued.is_revoked(&bob));
        // What another program has left there is passed over.
        fs::write(folder.path().join(FOLDER).join("note.json"), "x").unwrap();
        fs::write(issued.file(&CredentialId::of(b"d"), ENTRY), "{").unwrap();
        assert_eq!(issued.all().unwrap().len(), 2);
    }

    #[test]
    fn where_nobody_can_tell_nobody_is_let_in() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(FOLDER), "no folder").unwrap();
        assert!(Issued::of(folder.path()).is_revoked(&CredentialId::of(b"a")));
    }

    #[test]
    fn a_signature_in_another_form_is_the_same_credential() {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::open_or_create(folder.path()).unwrap();
        let token = key.issue("robot", &[], HOUR);
        assert_ne!(token, key.issue("robot", &[], HOUR));
        let other_form = format!("{token}=");
        assert_eq!(CredentialId::of_token(&token), CredentialId::of_token(&other_form));
        assert!(key.user(&token, SystemTime::now()).is_some());
        Issued::of(folder.path()).revoke(&CredentialId::of_token(&token).unwrap()).unwrap();
        assert!(key.user(&token, SystemTime::now()).is_none() && key.user(&other_form, SystemTime::now()).is_none());

        let authority = Authority::open_or_create(folder.path()).unwrap();
        let identity = authority.client_identity("alice", &[], HOUR).unwrap();
        let (certificate, _) = identity.into_der().unwrap();
        let mut other_form = certificate.to_vec();
        let last = other_form.len() - 1;
        other_form[last] ^= 1;
        assert_eq!(CredentialId::of_certificate(&certificate), CredentialId::of_certificate(&other_form));
        assert_eq!(CredentialId::of_certificate(b""), None);
    }
}
