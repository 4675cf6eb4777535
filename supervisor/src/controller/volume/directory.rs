//! The directories of volumes that are made here: `DATA/volumes/NAME`.

use std::fs::{self, File, Permissions};
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::api::kinds::{storage_class, text};
use crate::controller::pod::own_mounts;
use crate::removal::remove_tree;

/// Which provisioner has made a volume.
pub(super) const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
/// Whatever user a pod's containers are, they may write: that a pod uses the claim is what is allowed or not.
const MODE: u32 = 0o777;

/// Where a volume that was made here lies; `None` for any other, whose directory is somebody else's.
pub(super) fn of(volume: &Value, folder: &Path) -> Option<PathBuf> {
    let ours = volume["metadata"]["annotations"][PROVISIONED_BY] == storage_class::LOCAL_PATH;
    let path = folder.join(text(volume, "/metadata/name"));
    // Everybody can write an annotation: what is not exactly where volumes are made was not made here.
    (ours && path.to_str() == Some(text(volume, "/spec/hostPath/path"))).then_some(path)
}

/// Makes the directory, unless it is there, and lasting.
pub(super) fn make(path: &Path) -> io::Result<()> {
    match fs::create_dir(path) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(error),
    }
    fs::set_permissions(path, Permissions::from_mode(MODE))?;
    File::open(path)?.sync_all()?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

/// Takes it away with all that is in it.
pub(super) fn remove(path: &Path) -> io::Result<()> {
    own_mounts::unmount_beneath(path)?;
    remove_tree(path)?;
    path.parent().map_or(Ok(()), |parent| File::open(parent)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_lies_where_volumes_are_made_was_made_here() {
        let folder = Path::new("/data/volumes");
        let volume = |name: &str, path: &str, by: &str| json!({"metadata": {"name": name, "annotations": {PROVISIONED_BY: by}}, "spec": {"hostPath": {"path": path}}});
        let ours = storage_class::LOCAL_PATH;
        assert!(of(&volume("a", "/data/volumes/a", ours), folder).is_some());
        for (name, path, by) in [
            ("a", "/data/volumes/b", ours),
            ("a", "/etc", ours),
            ("a", "/data/volumes/a", "x"),
            ("a", "/data/volumes/../a", ours),
        ] {
            assert_eq!(of(&volume(name, path, by), folder), None, "{path}");
        }
    }
}
