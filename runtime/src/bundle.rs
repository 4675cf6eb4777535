//! Bundles: a directory with `config.json` and, usually, the rootfs (runtime-spec, bundle.md).

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use wharf_specs::oci::{self, InvalidDocument, Parsed, Process, Spec};

/// Larger documents are refused before they are read.
const MAX_DOCUMENT_BYTES: u64 = 16 << 20;

/// A bundle that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("bundle {}: {}", path.display(), crate::error::cause(source))]
    Directory { path: PathBuf, source: io::Error },
    #[error("read {}: {}", path.display(), crate::error::cause(source))]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is larger than {MAX_DOCUMENT_BYTES} bytes", path.display())]
    TooLarge { path: PathBuf },
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
    #[error("config.json: root.path: rootfs {}: {}", path.display(), crate::error::cause(source))]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("config.json: root.path: rootfs {} is not a directory", path.display())]
    RootfsNotDirectory { path: PathBuf },
}

/// A bundle whose configuration has been read.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Absolute, without symbolic links.
    pub path: PathBuf,
    pub spec: Spec,
    /// What was passed over in the configuration.
    pub warnings: Vec<String>,
}

impl Bundle {
    /// Reads `config.json` of a bundle directory.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let absolute =
            fs::canonicalize(path).map_err(|source| Error::Directory { path: path.to_path_buf(), source })?;
        let Parsed { value, warnings } = oci::parse_config(&read(&absolute.join("config.json"))?)?;
        Ok(Self { path: absolute, spec: value, warnings })
    }

    /// The directory that `root.path` names, checked to be one.
    pub fn rootfs(&self) -> Result<PathBuf, Error> {
        let named = self.spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
        let path = self.path.join(named);
        let canonical = fs::canonicalize(&path).map_err(|source| Error::Rootfs { path: path.clone(), source })?;
        if canonical.is_dir() { Ok(canonical) } else { Err(Error::RootfsNotDirectory { path }) }
    }
}

/// Reads a `process.json`.
pub fn load_process(path: &Path) -> Result<Parsed<Process>, Error> {
    Ok(oci::parse_process(&read(path)?)?)
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Read { path: path.to_path_buf(), source };
    if fs::metadata(path).map_err(fail)?.len() > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge { path: path.to_path_buf() });
    }
    fs::read(path).map_err(fail)
}
