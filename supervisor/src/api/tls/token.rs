//! Bearer tokens: JSON Web Tokens (RFC 7519) with an HMAC of the node's own key (HS256, RFC 7518 section 3.2). Nothing of
//! a token is looked at before its signature.

use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::hmac;
use ring::rand::{SecureRandom, SystemRandom};
use serde_json::{Value, json};

use super::TlsError;
use super::issued::{CredentialId, Issued};
use super::private_file::{read, read_or_write};
use crate::api::access::User;

const KEY_FILE: &str = "token.key";
const KEY_BYTES: usize = 32;

/// Far above what we give.
const MAX_TOKEN_BYTES: usize = 8192;

/// Gives and verifies tokens.
pub struct TokenKey {
    key: hmac::Key,
    issued: Issued,
}

impl TokenKey {
    /// Opens the key in `folder`, or makes one there.
    pub fn open_or_create(folder: &Path) -> Result<Self, TlsError> {
        let path = folder.join(KEY_FILE);
        let made = || {
            let mut key = vec![0; KEY_BYTES];
            SystemRandom::new().fill(&mut key).map_err(|_| TlsError::Key { path: path.clone() })?;
            Ok(key)
        };
        Self::of_bytes(folder, &path, &read_or_write(&path, made)?)
    }

    /// Opens the key in `folder`, which must be there.
    pub fn open(folder: &Path) -> Result<Self, TlsError> {
        let path = folder.join(KEY_FILE);
        Self::of_bytes(folder, &path, &read(&path)?)
    }

    fn of_bytes(folder: &Path, path: &Path, key: &[u8]) -> Result<Self, TlsError> {
        match key.len() {
            KEY_BYTES => Ok(Self { key: hmac::Key::new(hmac::HMAC_SHA256, key), issued: Issued::of(folder) }),
            _ => Err(TlsError::Key { path: path.into() }),
        }
    }

    /// A token for `user` in `groups` that is good for as long as `valid_for`.
    pub fn issue(&self, user: &str, groups: &[String], valid_for: Duration) -> String {
        let now = seconds(SystemTime::now());
        let end = now.saturating_add(valid_for.as_secs());
        let id = uuid::Uuid::new_v4().to_string();
        self.sign(json!({"jti": id, "sub": user, "groups": groups, "iat": now, "exp": end}))
    }

    pub(in crate::api) fn sign(&self, claims: Value) -> String {
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(json!({"alg": "HS256", "typ": "JWT"})), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()));
        format!("{signed}.{signature}")
    }

    /// What a token says that this node gave, that is still good at `now` and was not taken back.
    pub(in crate::api) fn verified(&self, token: &str, now: SystemTime) -> Option<Value> {
        let claims = self.claims(token)?;
        CredentialId::of_token(token).filter(|id| !self.issued.is_revoked(id))?;
        let begun = claims["nbf"].as_u64().is_none_or(|begin| begin <= seconds(now));
        (begun && claims["exp"].as_u64().is_some_and(|end| seconds(now) < end)).then_some(claims)
    }

    /// Whoever a token is for that `wharf kubeconfig` wrote. Those of versions that knew no groups are in none.
    pub fn user(&self, token: &str, now: SystemTime) -> Option<User> {
        let claims = self.verified(token, now)?;
        // A service account's has an audience, and is good only as long as that account.
        if claims.get("aud").is_some() {
            return None;
        }
        let groups = claims["groups"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let name = claims["sub"].as_str().filter(|name| !name.is_empty())?;
        Some(User::of(name, groups.map(str::to_owned).collect()))
    }

    fn claims(&self, token: &str) -> Option<Value> {
        if token.len() > MAX_TOKEN_BYTES {
            return None;
        }
        let (signed, signature) = token.rsplit_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        hmac::verify(&self.key, signed.as_bytes(), &signature).ok()?;
        let (_, claims) = signed.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()
    }
}

/// Since 1970.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |passed| passed.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_token_is_good_until_its_end_and_for_its_node() {
        let (folder, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let key = TokenKey::open_or_create(folder.path()).unwrap();
        let token = key.issue("robot", &["readers".into()], HOUR);
        let now = SystemTime::now();
        let robot = Some(User::of("robot", vec!["readers".into()]));
        assert_eq!((key.user(&token, now), key.user(&token, now + HOUR / 2)), (robot.clone(), robot.clone()));
        assert_eq!(key.user(&token, now + HOUR + HOUR), None);
        assert_eq!(TokenKey::open(folder.path()).unwrap().user(&token, now), robot, "the key is kept");
        assert_eq!(TokenKey::open_or_create(other.path()).unwrap().user(&token, now), None);
        let end = seconds(now) + 60;
        let early = key.sign(json!({"sub": "robot", "nbf": end, "exp": end + 60}));
        assert!(key.user(&early, now).is_none() && key.user(&early, now + HOUR / 50).is_some());
        // As before there were groups: known, but without any right.
        let old = key.sign(json!({"sub": "robot", "iat": 0, "exp": end}));
        assert!(key.user(&old, now).is_some_and(|user| !user.may_all() && user.groups == ["system:authenticated"]));
        std::fs::write(folder.path().join(KEY_FILE), "short").unwrap();
        assert!(TokenKey::open_or_create(folder.path()).is_err());
    }

    #[test]
    fn a_token_that_was_touched_is_none() {
        let folder = tempfile::tempdir().unwrap();
        let key = TokenKey::open_or_create(folder.path()).unwrap();
        let token = key.issue("robot", &["readers".into()], HOUR);
        let now = SystemTime::now();
        let parts: Vec<&str> = token.split('.').collect();
        let claims = URL_SAFE_NO_PAD.encode(r#"{"sub":"robot","exp":99999999999}"#);
        let unsigned = URL_SAFE_NO_PAD.encode(r#"{"alg":"none"}"#);
        for forged in [
            String::new(),
            ".".into(),
            "..".into(),
            format!("{}.{}.", parts[0], parts[1]),
            format!("{}.{claims}.{}", parts[0], parts[2]),
            format!("{unsigned}.{claims}."),
            format!("{}.{}", parts[1], parts[2]),
            format!("{token}="),
            format!("{token}{}", "A".repeat(MAX_TOKEN_BYTES)),
        ] {
            assert!(key.user(&forged, now).is_none(), "{forged}");
        }
        let mut bytes = token.clone().into_bytes();
        for index in 0..bytes.len() {
            bytes[index] ^= 1;
            assert!(!std::str::from_utf8(&bytes).is_ok_and(|token| key.user(token, now).is_some()), "byte {index}");
            bytes[index] ^= 1;
        }
    }
}
