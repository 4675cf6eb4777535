//! A folder whose files change all at once.
//!
//! ```text
//! FOLDER/..data -> ..2026_01_02_03_04_05.000000006     replaced by one rename
//! FOLDER/..2026_01_02_03_04_05.000000006/KEY           what a reader that has opened it keeps
//! FOLDER/KEY -> ..data/KEY
//! ```
//!
//! The layout is Kubernetes' own: programs watch `..data` to notice changes.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File as DiskFile};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, fchown, symlink};
use std::path::Path;

use super::projection::Files;

const DATA: &str = "..data";
const NEW_DATA: &str = "..data_tmp";

/// Makes `folder` hold `files`. Returns whether anything changed; a reader sees all of the old or all of the new.
/// They belong to `group` where there is one.
pub(super) fn write(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let current = match fs::read_link(folder.join(DATA)) {
        Ok(target) => Some(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(current) = &current
        && holds(&folder.join(current), files)?
    {
        link_names(folder, files)?;
        return Ok(false);
    }
    let version = format!("..{}", jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S.%9f"));
    let fresh = folder.join(&version);
    DirBuilder::new().mode(0o755).create(&fresh)?;
    let written = write_files(&fresh, files, group).and_then(|()| {
        let new = folder.join(NEW_DATA);
        remove_file_if_there(&new)?;
        symlink(&version, &new)?;
        fs::rename(&new, folder.join(DATA))
    });
    if let Err(error) = written {
        let _ = fs::remove_dir_all(&fresh);
        return Err(error);
    }
    link_names(folder, files)?;
    // Every version but this one: also those that a daemon left when it was killed.
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("..2") && name != version.as_str() && entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        }
    }
    Ok(true)
}

fn write_files(folder: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    for (path, file) in files {
        let target = folder.join(path);
        if let Some(parent) = target.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut written = DiskFile::options().write(true).create_new(true).mode(0o600).open(&target)?;
        written.write_all(&file.content)?;
        if group.is_some() {
            fchown(&written, None, group)?;
        }
        written.set_permissions(fs::Permissions::from_mode(file.mode))?;
    }
    Ok(())
}

/// Whether the folder has these files, with this content and mode, and no others.
fn holds(folder: &Path, files: &Files) -> io::Result<bool> {
    for (path, file) in files {
        let mut found = match DiskFile::open(folder.join(path)) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error),
        };
        let metadata = found.metadata()?;
        if metadata.permissions().mode() & 0o7777 != file.mode || metadata.len() != file.content.len() as u64 {
            return Ok(false);
        }
        let mut content = Vec::with_capacity(file.content.len());
        found.read_to_end(&mut content)?;
        if content != file.content {
            return Ok(false);
        }
    }
    Ok(count_files(folder)? == files.len())
}

fn count_files(folder: &Path) -> io::Result<usize> {
    let mut count = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        count += if entry.file_type()?.is_dir() { count_files(&entry.path())? } else { 1 };
    }
    Ok(count)
}

/// Has every first step of a path lead into the present version, and nothing else.
fn link_names(folder: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !wanted.contains(&*name) {
            remove_file_if_there(&entry.path())?;
        }
    }
    for name in wanted {
        match symlink(Path::new(DATA).join(name), folder.join(name)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            other => other?,
        }
    }
    Ok(())
}

fn remove_file_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::pod::projection::File;

    fn files(pairs: &[(&str, &str)]) -> Files {
        let file = |content: &str| File { content: content.into(), mode: 0o640 };
        pairs.iter().map(|(path, content)| ((*path).to_owned(), file(content))).collect()
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with("..2"));
        names.sort();
        names
    }

    #[test]
    fn files_change_all_at_once() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path().join("v");
        assert!(write(&folder, &files(&[("a", "1"), ("sub/b", "1")]), None).unwrap());
        assert_eq!(names(&folder), ["..data", "a", "sub"]);
        let first = fs::read_link(folder.join(DATA)).unwrap();
        assert!(!write(&folder, &files(&[("a", "1"), ("sub/b", "1")]), None).unwrap());
        assert_eq!(fs::read_link(folder.join(DATA)).unwrap(), first);
        assert_eq!(fs::metadata(folder.join("a")).unwrap().permissions().mode() & 0o777, 0o640);

        assert!(write(&folder, &files(&[("a", "2"), ("c", "1")]), None).unwrap());
        assert_eq!(names(&folder), ["..data", "a", "c"]);
        assert_eq!(fs::read_to_string(folder.join("a")).unwrap(), "2");
        assert!(!folder.join(first).exists());
    }

    #[test]
    fn what_a_killed_daemon_left_is_mended() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(folder, &files(&[("a", "1")]), None).unwrap();
        fs::create_dir(folder.join("..2000_half")).unwrap();
        symlink("..2000_half", folder.join(NEW_DATA)).unwrap();
        fs::remove_file(folder.join("a")).unwrap();
        assert!(!write(folder, &files(&[("a", "1")]), None).unwrap());
        assert!(write(folder, &files(&[("a", "2")]), None).unwrap());
        assert_eq!(names(folder), ["..data", "a"]);
        assert!(!folder.join("..2000_half").exists());
    }

    #[test]
    fn a_volume_may_be_empty() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write(folder.path(), &Files::new(), None).unwrap());
        assert_eq!(names(folder.path()), ["..data"]);
    }
}
