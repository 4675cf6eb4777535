//! Bundles: a directory with `config.json` and, usually, the rootfs (runtime-spec, bundle.md).

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use wharf_specs::oci::{self, InvalidDocument, LinuxResources, Parsed, Process, Spec};
use wharf_sys::fs as sys;

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
    #[error("{} is neither a file nor a pipe", path.display())]
    NotAFile { path: PathBuf },
    #[error(transparent)]
    Invalid(#[from] InvalidDocument),
    #[error("config.json: root.path: rootfs {}: {}", path.display(), crate::error::cause(source))]
    Rootfs { path: PathBuf, source: io::Error },
    #[error("config.json: root.path: rootfs {} is a symbolic link; allowed: a directory", path.display())]
    RootfsLink { path: PathBuf },
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
        if fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink()) {
            return Err(Error::RootfsLink { path });
        }
        let canonical = fs::canonicalize(&path).map_err(|source| Error::Rootfs { path: path.clone(), source })?;
        if canonical.is_dir() { Ok(canonical) } else { Err(Error::RootfsNotDirectory { path }) }
    }
}

/// Reads a `process.json`.
pub fn load_process(path: &Path) -> Result<Parsed<Process>, Error> {
    Ok(oci::parse_process(&read(path)?)?)
}

/// Reads resources, as `update` takes them.
pub fn load_resources(path: &Path) -> Result<Parsed<LinuxResources>, Error> {
    Ok(oci::parse_resources(&read(path)?)?)
}

/// Reads a document from what is open already, such as the standard input.
pub fn read_resources(file: impl Read) -> Result<Parsed<LinuxResources>, Error> {
    Ok(oci::parse_resources(&read_bounded(file, Path::new("-"))?)?)
}

/// Nothing but files and pipes: opening a device can have effects, and some never end.
fn read(path: &Path) -> Result<Vec<u8>, Error> {
    let fail = |source| Error::Read { path: path.to_path_buf(), source };
    let place = sys::open_at(None, &sys::c_path(path).map_err(fail)?, sys::O_PATH, 0, 0).map_err(fail)?;
    let kind = sys::status(place.as_fd()).map_err(fail)?;
    if !kind.is(sys::S_IFREG) && !kind.is(sys::S_IFIFO) {
        return Err(Error::NotAFile { path: path.to_path_buf() });
    }
    // Opening a pipe without a writer would block; one that has a writer is waited for below.
    let again = sys::c_path(&Path::new("/proc/self/fd").join(place.as_raw_fd().to_string())).map_err(fail)?;
    let file = sys::open_at(None, &again, sys::O_RDONLY | sys::O_NONBLOCK, 0, 0).map_err(fail)?;
    sys::set_nonblocking(file.as_fd(), false).map_err(fail)?;
    read_bounded(fs::File::from(file), path)
}

fn read_bounded(file: impl Read, path: &Path) -> Result<Vec<u8>, Error> {
    let mut bytes = Vec::new();
    file.take(MAX_DOCUMENT_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| Error::Read { path: path.to_path_buf(), source })?;
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        return Err(Error::TooLarge { path: path.to_path_buf() });
    }
    Ok(bytes)
}
