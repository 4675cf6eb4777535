//! Where a registry is reached and how: `registries.toml`, containerd's `certs.d`, or the registry's own name.
//!
//! The files are read for every pull, so a change needs no restart; a broken one is refused with its line.

mod document;
mod endpoint;
mod hosts_toml;
mod proxies;
mod registries_toml;

use std::path::{Path, PathBuf};

use crate::credentials::{CredentialError, CredentialSource, Keychain};
use crate::reference::Reference;

pub use document::RegistriesError;
pub use endpoint::{Endpoint, Origin, Role, Tls};
pub use proxies::Proxies;
use registries_toml::RegistriesToml;

/// The node's own files.
pub const NODE_REGISTRIES_FILE: &str = "/etc/wharf/registries.toml";
pub const NODE_HOSTS_FOLDER: &str = "/etc/wharf/certs.d";

/// Which files say how registries are reached, and the proxies on the way.
#[derive(Clone, Debug, Default)]
pub struct Registries {
    file: Option<PathBuf>,
    file_is_required: bool,
    hosts_folders: Vec<PathBuf>,
    proxies: Proxies,
}

/// One endpoint with the login that will be used there, for people.
#[derive(Clone, Debug)]
pub struct Explained {
    pub endpoint: Endpoint,
    /// `None`: nobody is logged in.
    pub credentials: Option<CredentialSource>,
}

/// Why it is not known how to reach a registry.
#[derive(Debug, thiserror::Error)]
pub enum ReachError {
    #[error(transparent)]
    Registries(#[from] RegistriesError),
    #[error(transparent)]
    Credentials(#[from] CredentialError),
}

impl Registries {
    /// The node's files, where they are there, and the environment's proxies.
    pub fn of_node(variable: impl Fn(&str) -> Option<String>) -> Self {
        Self {
            file: Some(NODE_REGISTRIES_FILE.into()),
            file_is_required: false,
            hosts_folders: vec![NODE_HOSTS_FOLDER.into()],
            proxies: Proxies::of_environment(variable),
        }
    }

    /// Reads `file`, which must be there, in place of another `registries.toml`.
    #[must_use]
    pub fn with_file(mut self, file: impl Into<PathBuf>) -> Self {
        self.file = Some(file.into());
        self.file_is_required = true;
        self
    }

    /// Looks for `HOST/hosts.toml` in `folder` too, after those before.
    #[must_use]
    pub fn and_hosts_folder(mut self, folder: impl Into<PathBuf>) -> Self {
        self.hosts_folders.push(folder.into());
        self
    }

    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.proxies = proxies;
        self
    }

    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// Reads `registries.toml`, for a door that wants to refuse a broken one at once.
    pub fn check(&self) -> Result<(), RegistriesError> {
        self.read().map(drop)
    }

    /// Where `reference` is looked for, in this order. `plain_http` is for the registry itself.
    ///
    /// A section of `registries.toml` that fits decides; else the first `certs.d` folder that knows the host, or has
    /// a `_default`; else the registry's name.
    pub fn endpoints(&self, reference: &Reference, plain_http: bool) -> Result<Vec<Endpoint>, RegistriesError> {
        let file = self.read()?;
        let mut endpoints = match &file {
            Some(file) if file.knows(reference) => file.endpoints(reference)?,
            _ => {
                let named = file.as_ref().map_or(&[][..], |file| file.hosts_folders());
                self.hosts_endpoints(reference, named)?.unwrap_or_else(|| vec![Endpoint::by_name(reference)])
            }
        };
        if plain_http {
            endpoints.retain(|endpoint| endpoint.role == Role::Mirror);
            endpoints.push(Endpoint::plain(reference));
        }
        Ok(endpoints)
    }

    /// [`Registries::endpoints`] with the source of the login at each. No helper is run.
    pub fn explain(
        &self,
        reference: &Reference,
        plain_http: bool,
        keychain: &Keychain,
    ) -> Result<Vec<Explained>, ReachError> {
        let endpoints = self.endpoints(reference, plain_http)?;
        let explain = |endpoint: Endpoint| {
            let login = keychain.login(endpoint.host(), endpoint.repository())?;
            Ok(Explained { endpoint, credentials: login.source() })
        };
        endpoints.into_iter().map(explain).collect()
    }

    fn read(&self) -> Result<Option<RegistriesToml>, RegistriesError> {
        match &self.file {
            Some(file) => RegistriesToml::read(file, self.file_is_required),
            None => Ok(None),
        }
    }

    fn hosts_endpoints(
        &self,
        reference: &Reference,
        more: &[PathBuf],
    ) -> Result<Option<Vec<Endpoint>>, RegistriesError> {
        for folder in self.hosts_folders.iter().chain(more) {
            if let Some(endpoints) = hosts_toml::endpoints(folder, reference)? {
                return Ok(Some(endpoints));
            }
        }
        Ok(None)
    }
}

/// Whether `path` is one that a configuration may name wherever the program was started.
fn is_absolute(path: &Path) -> bool {
    path.is_absolute() && !path.as_os_str().as_encoded_bytes().contains(&0)
}
