//! Who a registry is told we are: given with a call, kept in the files that `docker login` and `podman login` write,
//! or asked of a helper program that such a file names.
//!
//! A secret is shown to the registry it is for and to nobody else: no `Debug`, no error and no log has it.

mod auth_file;
mod helper;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

use auth_file::AuthFile;

use crate::reference::Reference;
pub(crate) use helper::Helper;

/// What wharfd reads, and what everybody else reads last.
pub const NODE_AUTH_FILE: &str = "/etc/wharf/auth.json";

/// What a registry is shown.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum Credentials {
    Basic {
        username: String,
        password: String,
    },
    /// A bearer token that the registry takes as it is (CRI `registry_token`).
    Bearer(String),
    /// A refresh token that the registry's token service changes into bearer tokens (`identitytoken` of
    /// `config.json`, CRI `identity_token`; distribution's "OAuth2 token authentication").
    IdentityToken(String),
}

/// Why no credentials could be had although something names some.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    #[error("read credentials in {file}")]
    Read {
        file: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("credentials in {file}: is longer than {limit} bytes")]
    TooLong { file: PathBuf, limit: u64 },
    /// The parser's own words are left out: they may quote a secret.
    #[error("credentials in {file}: line {line}, column {column}: is no valid JSON")]
    Json { file: PathBuf, line: usize, column: usize },
    #[error("credentials in {file}: {key}: {expected}")]
    Field { file: PathBuf, key: String, expected: &'static str },
    #[error("credential helper {program} ({key} in {file}): {problem}")]
    Helper { program: String, key: String, file: PathBuf, problem: String },
}

/// Where credentials come from, for people.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CredentialSource {
    pub file: PathBuf,
    /// The key in that file: `auths."quay.io/team"`, `credsStore`.
    pub key: String,
    /// The program that is asked, if the file names one.
    pub helper: Option<String>,
}

/// How a registry will be logged in to.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub(crate) enum Login {
    #[default]
    Anonymous,
    /// With the call.
    Given(Credentials),
    File(Credentials, CredentialSource),
    /// Asked when the registry wants a login, not before.
    Helper(Helper),
}

/// The files with logins, in the order in which they are asked. They are read again for every pull, as logins come
/// and go; the first file that knows the registry decides.
#[derive(Clone, Debug)]
pub struct Keychain {
    files: Vec<(PathBuf, Presence)>,
    helper_folder: Option<PathBuf>,
    helper_time: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    Required,
    Optional,
}

impl Credentials {
    /// From `user:password` in base64, as `auth` of docker's configuration and of CRI's `AuthConfig` has it. `None`
    /// if it is something else.
    pub fn from_base64(text: &str) -> Option<Self> {
        // Some writers leave the padding out, docker's old ones put NULs behind the password.
        const ANY_PADDING: GeneralPurposeConfig =
            GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
        let bytes = GeneralPurpose::new(&base64::alphabet::STANDARD, ANY_PADDING).decode(text.trim()).ok()?;
        let text = String::from_utf8(bytes).ok()?;
        let (username, password) = text.trim_end_matches('\0').split_once(':')?;
        match username.is_empty() {
            true => None,
            false => Some(Self::Basic { username: username.into(), password: password.into() }),
        }
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Basic { username, .. } => write!(f, "Basic({username})"),
            Self::Bearer(_) => write!(f, "Bearer"),
            Self::IdentityToken(_) => write!(f, "IdentityToken"),
        }
    }
}

impl fmt::Display for CredentialSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(helper) = &self.helper {
            write!(f, "{helper}, named by ")?;
        }
        write!(f, "{} in {}", self.key, self.file.display())
    }
}

impl Login {
    /// Runs the helper, if there is one to be asked.
    pub(crate) async fn credentials(&self) -> Result<Option<Credentials>, CredentialError> {
        match self {
            Self::Anonymous => Ok(None),
            Self::Given(credentials) | Self::File(credentials, _) => Ok(Some(credentials.clone())),
            Self::Helper(helper) => helper.ask().await,
        }
    }

    /// The file it comes from, if it comes from one.
    pub(crate) fn source(&self) -> Option<CredentialSource> {
        match self {
            Self::Anonymous | Self::Given(_) => None,
            Self::File(_, source) => Some(source.clone()),
            Self::Helper(helper) => Some(helper.source.clone()),
        }
    }
}

impl Default for Keychain {
    /// Knows nobody.
    fn default() -> Self {
        /// Helpers may have to unlock something, or to ask a service of their own.
        const HELPER_TIME: Duration = Duration::from_secs(30);
        Self { files: Vec::new(), helper_folder: None, helper_time: HELPER_TIME }
    }
}

impl Keychain {
    /// The files of a person's tools, as `variable` (the process' environment, say) leads to them:
    /// `$REGISTRY_AUTH_FILE`, else `$XDG_RUNTIME_DIR/containers/auth.json` and docker's `config.json`
    /// (in `$DOCKER_CONFIG`, else `~/.docker`); then the node's own. None of them has to be there.
    pub fn of_user(variable: impl Fn(&str) -> Option<OsString>) -> Self {
        let set = |name| variable(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let mut files = Vec::new();
        match set("REGISTRY_AUTH_FILE") {
            Some(file) => files.push(file),
            None => {
                files.extend(set("XDG_RUNTIME_DIR").map(|folder| folder.join("containers/auth.json")));
                let docker = set("DOCKER_CONFIG").or_else(|| set("HOME").map(|home| home.join(".docker")));
                files.extend(docker.map(|folder| folder.join("config.json")));
            }
        }
        files.push(NODE_AUTH_FILE.into());
        Self { files: files.into_iter().map(|file| (file, Presence::Optional)).collect(), ..Self::default() }
    }

    /// Asks `file` after those before; not being there, it knows nobody.
    #[must_use]
    pub fn and_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.files.push((file.into(), Presence::Optional));
        self
    }

    /// Asks `file` after those before; it must be there.
    #[must_use]
    pub fn and_required_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.files.push((file.into(), Presence::Required));
        self
    }

    /// Takes helper programs from `folder`, not from along `PATH`.
    #[must_use]
    pub fn helpers_in(mut self, folder: impl Into<PathBuf>) -> Self {
        self.helper_folder = Some(folder.into());
        self
    }

    /// Gives a helper program so long to answer (30 seconds).
    #[must_use]
    pub fn helper_time(mut self, time: Duration) -> Self {
        self.helper_time = time;
        self
    }

    /// Reads every file, for a door that wants to refuse a broken one at once.
    pub fn check(&self) -> Result<(), CredentialError> {
        self.files.iter().try_for_each(|(file, presence)| AuthFile::read(file, *presence).map(drop))
    }

    /// The login for `repository` at `registry` (host and port, as a reference names it).
    pub(crate) fn login(&self, registry: &str, repository: &str) -> Result<Login, CredentialError> {
        for (file, presence) in &self.files {
            let Some(read) = AuthFile::read(file, *presence)? else { continue };
            match read.find(registry, repository)? {
                Some(auth_file::Entry::Credentials(key, credentials)) => {
                    return Ok(Login::File(credentials, source(file, key, None)));
                }
                Some(auth_file::Entry::Helper { key, name, server }) => {
                    let program = format!("docker-credential-{name}");
                    let path =
                        self.helper_folder.as_ref().map_or_else(|| program.clone().into(), |all| all.join(&program));
                    let source = source(file, key, Some(program));
                    return Ok(Login::Helper(Helper { path, server, time: self.helper_time, source }));
                }
                None => {}
            }
        }
        Ok(Login::Anonymous)
    }
}

/// The login that `document`, which has the form of `config.json` and is known as `name`, has for `image`. Programs that it
/// names are not run.
///
/// # Errors
/// The document is broken; what it says is not repeated.
pub fn login_in(name: &Path, document: &[u8], image: &Reference) -> Result<Option<Credentials>, CredentialError> {
    let file = AuthFile::parse(name, document)?.without_helpers();
    Ok(match file.find(image.registry(), image.repository())? {
        Some(auth_file::Entry::Credentials(_, credentials)) => Some(credentials),
        Some(auth_file::Entry::Helper { .. }) | None => None,
    })
}

fn source(file: &Path, key: String, helper: Option<String>) -> CredentialSource {
    CredentialSource { file: file.to_owned(), key, helper }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out_of_logs() {
        let basic = Credentials::Basic { username: "me".into(), password: "secret".into() };
        let all = [basic, Credentials::Bearer("secret".into()), Credentials::IdentityToken("secret".into())];
        assert!(!format!("{all:?}").contains("secret"));
    }

    #[test]
    fn base64_logins_are_read_with_and_without_padding() {
        let basic = |password: &str| Some(Credentials::Basic { username: "u".into(), password: password.into() });
        assert_eq!(Credentials::from_base64("dTpw"), basic("p"));
        assert_eq!(Credentials::from_base64("dTpwOnE="), basic("p:q"));
        assert_eq!(Credentials::from_base64("dTpwOnE"), basic("p:q"));
        assert_eq!(Credentials::from_base64(" dTpwAAA=\n"), basic("p"));
        for wrong in ["", "dQ==", "OnA=", "!", "/////w=="] {
            assert_eq!(Credentials::from_base64(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_persons_files_are_found_by_the_environment() {
        let files = |set: &[(&str, &str)]| {
            let variable =
                |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| OsString::from(value));
            let paths = Keychain::of_user(variable).files.into_iter().map(|(path, _)| path.display().to_string());
            paths.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(files(&[]), NODE_AUTH_FILE);
        assert_eq!(
            files(&[("XDG_RUNTIME_DIR", "/run/user/1"), ("HOME", "/home/me"), ("DOCKER_CONFIG", "")]),
            format!("/run/user/1/containers/auth.json /home/me/.docker/config.json {NODE_AUTH_FILE}")
        );
        assert_eq!(files(&[("HOME", "/h"), ("DOCKER_CONFIG", "/d")]), format!("/d/config.json {NODE_AUTH_FILE}"));
        assert_eq!(files(&[("HOME", "/h"), ("REGISTRY_AUTH_FILE", "/a")]), format!("/a {NODE_AUTH_FILE}"));
    }
}
