//! Files that only root may read: whole and on the disk, or as they were before.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use super::TlsError;

/// Writes `content` to `path`, with mode 0600 from the first byte on.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), TlsError> {
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(".new");
    let write = || {
        // One that was left is not written into: it may have other readers.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    };
    write().map_err(|source| {
        // Half a key is nobody's.
        let _ = fs::remove_file(&temporary);
        TlsError::File { operation: "write", path: path.into(), source }
    })
}

/// The content of `path`, which is made by `make` where there is none yet.
pub(super) fn read_or_write(
    path: &Path,
    make: impl FnOnce() -> Result<Vec<u8>, TlsError>,
) -> Result<Vec<u8>, TlsError> {
    match read(path) {
        Err(TlsError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    if let Some(folder) = path.parent() {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
        made.map_err(|source| TlsError::File { operation: "create", path: folder.into(), source })?;
    }
    let content = make()?;
    write_private(path, &content)?;
    Ok(content)
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    fs::read(path).map_err(|source| TlsError::File { operation: "read", path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn keys_are_made_once_and_are_root_s_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pki/key");
        assert_eq!(read_or_write(&path, || Ok(b"one".to_vec())).unwrap(), b"one");
        assert_eq!(read_or_write(&path, || Ok(b"two".to_vec())).unwrap(), b"one");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&path), mode(path.parent().unwrap())), (0o600, 0o700));
        write_private(&path, b"three").unwrap();
        assert_eq!(read(&path).unwrap(), b"three");
        let error = write_private(&folder.path().join("none/key"), b"").unwrap_err().to_string();
        assert!(error.starts_with("write ") && error.ends_with("none/key"), "{error}");
        // What cannot be replaced leaves nothing beside it.
        fs::create_dir_all(folder.path().join("folder/full")).unwrap();
        assert!(write_private(&folder.path().join("folder"), b"secret").is_err());
        assert!(!folder.path().join("folder.new").exists());
    }
}
