//! `auth.json` of podman and `config.json` of docker: which entry is for a repository.
//!
//! ```json
//! {
//!   "auths": { "quay.io/team": { "auth": "dXNlcjpwYXNz" }, "https://index.docker.io/v1/": { "identitytoken": "…" } },
//!   "credHelpers": { "registry.example:5000": "pass" },
//!   "credsStore": "secretservice"
//! }
//! ```
//!
//! The file belongs to other programs too: keys that are not about logins are theirs.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::{CredentialError, Credentials, Presence};

/// A thousand logins take a tenth of it.
const FILE_MAX_BYTES: u64 = 1 << 20;
/// Docker Hub's name in files and towards helpers, from the days of the first protocol.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";
const DOCKER_HUB: &str = "docker.io";

#[derive(Debug)]
pub(super) struct AuthFile {
    path: PathBuf,
    auths: BTreeMap<String, Option<Credentials>>,
    helpers: BTreeMap<String, String>,
    store: Option<String>,
}

/// What a file says about a repository, with the key that says it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Credentials(String, Credentials),
    /// `docker-credential-<name>` knows `server`.
    Helper {
        key: String,
        name: String,
        server: String,
    },
}

impl AuthFile {
    /// `None` if the file is not there and need not be.
    pub(super) fn read(path: &Path, presence: Presence) -> Result<Option<Self>, CredentialError> {
        let failed = |source| CredentialError::Read { file: path.to_owned(), source };
        let file = match File::open(path) {
            Err(error) if error.kind() == ErrorKind::NotFound && presence == Presence::Optional => return Ok(None),
            other => other.map_err(failed)?,
        };
        let mut bytes = Vec::new();
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > FILE_MAX_BYTES {
            return Err(CredentialError::TooLong { file: path.to_owned(), limit: FILE_MAX_BYTES });
        }
        Self::parse(path, &bytes).map(Some)
    }

    pub(super) fn parse(path: &Path, bytes: &[u8]) -> Result<Self, CredentialError> {
        let mut file = Self { path: path.to_owned(), auths: BTreeMap::new(), helpers: BTreeMap::new(), store: None };
        // `podman logout` may leave nothing at all.
        if bytes.trim_ascii().is_empty() {
            return Ok(file);
        }
        let document: Value = serde_json::from_slice(bytes).map_err(|error| CredentialError::Json {
            file: path.to_owned(),
            line: error.line(),
            column: error.column(),
        })?;
        let Value::Object(document) = document else {
            return Err(file.field("the document".into(), "expected an object"));
        };
        for (name, entry) in file.object(&document, "auths")? {
            let credentials = file.entry(name, entry)?;
            file.auths.insert(name.clone(), credentials);
        }
        for (name, helper) in file.object(&document, "credHelpers")? {
            let helper = file.helper_name(format!("credHelpers.\"{name}\""), helper)?;
            file.helpers.insert(name.clone(), helper);
        }
        file.store = match document.get("credsStore") {
            None | Some(Value::Null) => None,
            Some(Value::String(name)) if name.is_empty() => None,
            Some(name) => Some(file.helper_name("credsStore".into(), name)?),
        };
        Ok(file)
    }

    /// With what the document itself has alone.
    pub(super) fn without_helpers(self) -> Self {
        Self { helpers: BTreeMap::new(), store: None, ..self }
    }

    /// The most specific key that is for `repository` at `registry`; a helper of that very key goes before what the
    /// file itself has, the store of all credentials comes last.
    pub(super) fn find(&self, registry: &str, repository: &str) -> Result<Option<Entry>, CredentialError> {
        let whole = format!("{registry}/{repository}");
        let ends = whole.match_indices('/').map(|(at, _)| at).chain([whole.len()]);
        let places: Vec<&str> = ends.map(|end| &whole[..end]).collect();
        for place in places.into_iter().rev() {
            if let Some((key, name)) = lookup(&self.helpers, place) {
                let server = if key == DOCKER_HUB { DOCKER_HUB_KEY } else { key };
                let key = format!("credHelpers.\"{key}\"");
                return Ok(Some(Entry::Helper { key, name: name.clone(), server: server.into() }));
            }
            // Docker writes an empty entry for what its store of credentials has.
            if let Some((key, Some(credentials))) = lookup(&self.auths, place) {
                return Ok(Some(Entry::Credentials(format!("auths.\"{key}\""), credentials.clone())));
            }
        }
        Ok(self.store.as_ref().map(|name| Entry::Helper {
            key: "credsStore".into(),
            name: name.clone(),
            server: if registry == DOCKER_HUB { DOCKER_HUB_KEY } else { registry }.into(),
        }))
    }

    fn entry(&self, name: &str, entry: &Value) -> Result<Option<Credentials>, CredentialError> {
        let key = |field: &str| format!("auths.\"{name}\"{field}");
        let Value::Object(entry) = entry else {
            return Err(self.field(key(""), "expected an object"));
        };
        let text = |field: &str| match entry.get(field) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.as_str()).filter(|text| !text.is_empty())),
            Some(_) => Err(self.field(key(&format!(".{field}")), "expected a string")),
        };
        // As docker orders them: a token was made from the password, and outlives its change.
        if let Some(token) = text("identitytoken")? {
            return Ok(Some(Credentials::IdentityToken(token.into())));
        }
        if let Some(token) = text("registrytoken")? {
            return Ok(Some(Credentials::Bearer(token.into())));
        }
        if let Some(auth) = text("auth")? {
            let refuse = || self.field(key(".auth"), "expected `user:password` in base64");
            return Credentials::from_base64(auth).ok_or_else(refuse).map(Some);
        }
        // Kubernetes' pull secrets have them beside `auth`, or alone.
        Ok(text("username")?
            .zip(text("password")?)
            .map(|(username, password)| Credentials::Basic { username: username.into(), password: password.into() }))
    }

    /// A helper's name becomes part of a program's: it may not lead elsewhere.
    fn helper_name(&self, key: String, name: &Value) -> Result<String, CredentialError> {
        let plain = |name: &&str| {
            !name.is_empty()
                && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        };
        match name.as_str().filter(plain) {
            Some(name) => Ok(name.into()),
            None => Err(self.field(key, "expected the NAME of a program docker-credential-NAME")),
        }
    }

    fn object<'a>(
        &self,
        document: &'a Map<String, Value>,
        key: &str,
    ) -> Result<impl Iterator<Item = (&'a String, &'a Value)> + use<'a>, CredentialError> {
        match document.get(key) {
            None | Some(Value::Null) => Ok(None.into_iter().flatten()),
            Some(Value::Object(all)) => Ok(Some(all.iter()).into_iter().flatten()),
            Some(_) => Err(self.field(key.into(), "expected an object")),
        }
    }

    fn field(&self, key: String, expected: &'static str) -> CredentialError {
        CredentialError::Field { file: self.path.clone(), key, expected }
    }
}

/// The entry for exactly this place, under whichever of its names.
fn lookup<'a, T>(all: &'a BTreeMap<String, T>, place: &str) -> Option<(&'a str, &'a T)> {
    let found = all.get_key_value(place).or_else(|| all.iter().find(|(key, _)| plain_key(key) == place));
    found.map(|(key, value)| (key.as_str(), value))
}

/// A key without what old clients wrote around the host: `https://registry.example/v1/`.
fn plain_key(key: &str) -> &str {
    let key = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let key = key.trim_end_matches('/');
    let key = key.strip_suffix("/v1").or_else(|| key.strip_suffix("/v2")).unwrap_or(key);
    match key {
        "index.docker.io" | "registry-1.docker.io" => DOCKER_HUB,
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<AuthFile, String> {
        AuthFile::parse(Path::new("/f"), text.as_bytes()).map_err(|error| error.to_string())
    }

    fn found(text: &str, registry: &str, repository: &str) -> String {
        match parse(text).unwrap().find(registry, repository).unwrap() {
            Some(Entry::Credentials(key, _)) => key,
            Some(Entry::Helper { key, name, server }) => format!("{key} {name} {server}"),
            None => String::new(),
        }
    }

    #[test]
    fn the_most_specific_key_decides() {
        let text = r#"{"auths":{"q.io":{"auth":"YTpi"},"q.io/team":{"auth":"YTpi"},"q.io/team/app":{"auth":"YTpi"},
            "q.io/te":{"auth":"YTpi"},"p.io:5000":{"auth":"YTpi"},"p.io":{"auth":"YTpi"}}}"#;
        for (registry, repository, key) in [
            ("q.io", "team/app", r#"auths."q.io/team/app""#),
            ("q.io", "team/app/deep", r#"auths."q.io/team/app""#),
            ("q.io", "team/apple", r#"auths."q.io/team""#),
            ("q.io", "x", r#"auths."q.io""#),
            ("q.io:443", "x", ""),
            ("p.io:5000", "x", r#"auths."p.io:5000""#),
            ("p.io", "x", r#"auths."p.io""#),
            ("io", "x", ""),
        ] {
            assert_eq!(found(text, registry, repository), key, "{registry}/{repository}");
        }
    }

    #[test]
    fn old_names_of_a_registry_are_known() {
        for key in ["https://index.docker.io/v1/", "index.docker.io", "docker.io", "https://registry-1.docker.io/v2/"] {
            let text = format!(r#"{{"auths":{{"{key}":{{"auth":"YTpi"}}}}}}"#);
            assert_eq!(found(&text, "docker.io", "library/busybox"), format!("auths.\"{key}\""));
            assert_eq!(found(&text, "quay.io", "a"), "");
        }
        assert_eq!(found(r#"{"auths":{"http://h:1/v1/":{"auth":"YTpi"}}}"#, "h:1", "a"), r#"auths."http://h:1/v1/""#);
    }

    #[test]
    fn helpers_are_named_by_registry_or_for_all() {
        let text = r#"{"auths":{"a.io":{},"b.io":{"auth":"YTpi"}},"credHelpers":{"c.io":"gcr"},"credsStore":"pass"}"#;
        assert_eq!(found(text, "a.io", "x"), "credsStore pass a.io");
        assert_eq!(found(text, "b.io", "x"), r#"auths."b.io""#);
        assert_eq!(found(text, "c.io", "x"), r#"credHelpers."c.io" gcr c.io"#);
        assert_eq!(found(text, "docker.io", "x"), "credsStore pass https://index.docker.io/v1/");
    }

    #[test]
    fn entries_have_passwords_or_tokens() {
        let entry = |entry: &str| {
            let file = parse(&format!(r#"{{"auths":{{"a":{entry}}}}}"#))?;
            Ok::<_, String>(file.auths["a"].clone())
        };
        assert_eq!(entry(r#"{"identitytoken":"t","auth":"YTpi"}"#), Ok(Some(Credentials::IdentityToken("t".into()))));
        assert_eq!(entry(r#"{"registrytoken":"t"}"#), Ok(Some(Credentials::Bearer("t".into()))));
        let basic = Credentials::Basic { username: "a".into(), password: "b".into() };
        assert_eq!(entry(r#"{"username":"a","password":"b","email":"c"}"#), Ok(Some(basic)));
        assert_eq!(entry(r#"{"auth":""}"#), Ok(None));
    }

    #[test]
    fn what_is_wrong_is_named_without_the_secret() {
        for (text, part) in [
            ("[]", "the document: expected an object"),
            ("{\"auths\":\n7x}", "line 2, column 2: is no valid JSON"),
            (r#"{"auths":["secret"]}"#, "auths: expected an object"),
            (r#"{"auths":{"a":"secret"}}"#, r#"auths."a": expected an object"#),
            (r#"{"auths":{"a":{"auth":"secret"}}}"#, r#"auths."a".auth: expected `user:password` in base64"#),
            (r#"{"auths":{"a":{"auth":["secret"]}}}"#, r#"auths."a".auth: expected a string"#),
            (r#"{"auths":{"a":{"identitytoken":{"secret":1}}}}"#, r#"auths."a".identitytoken: expected a string"#),
            (r#"{"credHelpers":{"a":"../secret"}}"#, r#"credHelpers."a": expected the NAME"#),
            (r#"{"credHelpers":"secret"}"#, "credHelpers: expected an object"),
            (r#"{"credsStore":"/bin/secret"}"#, "credsStore: expected the NAME"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(part) && error.starts_with("credentials in /f"), "{text}: {error}");
            assert!(!error.contains("secret"), "{text}: {error}");
        }
        assert!(parse("").is_ok() && parse("{}").is_ok() && parse(r#"{"auths":null,"HttpHeaders":{}}"#).is_ok());
    }
}
