//! The files of a group in one hierarchy. Each is opened by its name alone: looking up the group's path part by part
//! again for every file is more than a third of the time that figures take.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use wharf_sys::fs as sysfs;

/// The directory of a group, open as long as this is; one that is not there has empty files.
pub(super) struct Files<'a> {
    path: &'a Path,
    directory: Option<OwnedFd>,
}

impl<'a> Files<'a> {
    pub(super) fn open(path: &'a Path) -> Self {
        let directory = CString::new(path.as_os_str().as_bytes()).ok().and_then(|name| {
            let flags = sysfs::O_PATH | sysfs::O_DIRECTORY;
            sysfs::open_at(None, &name, flags, 0, 0).ok()
        });
        Self { path, directory }
    }

    pub(super) fn is_there(&self) -> bool {
        self.directory.is_some()
    }

    /// Absent files are empty: every controller is optional.
    pub(super) fn text(&self, name: &str) -> String {
        /// More than any of them has, but for lists of many devices.
        const USUAL_BYTES: usize = 8192;
        let mut buffer = [0; USUAL_BYTES];
        let opened = CString::new(name)
            .ok()
            .zip(self.directory.as_ref())
            .and_then(|(name, directory)| sysfs::open_at(Some(directory.as_fd()), &name, sysfs::O_RDONLY, 0, 0).ok());
        let Some(mut file) = opened.map(File::from) else { return String::new() };
        let mut bytes = match file.read(&mut buffer) {
            Ok(length) => buffer[..length].to_vec(),
            Err(_) => return String::new(),
        };
        // What is shorter than was asked for is all: the kernel makes such a text at once.
        if bytes.len() == USUAL_BYTES && file.read_to_end(&mut bytes).is_err() {
            return String::new();
        }
        String::from_utf8(bytes).unwrap_or_default()
    }

    /// The word `max` is the largest number.
    pub(super) fn number(&self, name: &str) -> u64 {
        match self.text(name).trim() {
            "max" => u64::MAX,
            text => text.parse().unwrap_or(0),
        }
    }

    /// Lines of a key and a number.
    pub(super) fn keyed(&self, name: &str) -> BTreeMap<String, u64> {
        self.keyed_if(name, |_| true)
    }

    /// Those whose key is wanted.
    pub(super) fn keyed_if(&self, name: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeMap<String, u64> {
        let pair = |line: &str| {
            let (key, value) = line.split_once(' ').filter(|(key, _)| is_wanted(key))?;
            Some((key.to_string(), value.trim().parse().ok()?))
        };
        self.text(name).lines().filter_map(pair).collect()
    }

    /// The names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = String> + use<> {
        let entries = fs::read_dir(self.path).into_iter().flatten();
        entries.filter_map(|entry: io::Result<fs::DirEntry>| entry.ok()?.file_name().into_string().ok())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_is_empty() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("long"), "x".repeat(20_000)).unwrap();
        fs::write(folder.path().join("memory.stat"), "anon 3\nfile 4\nodd\n").unwrap();
        fs::write(folder.path().join("memory.max"), "max\n").unwrap();
        let files = Files::open(folder.path());
        assert!(files.is_there());
        assert_eq!(files.text("long").len(), 20_000);
        assert_eq!(files.number("memory.max"), u64::MAX);
        assert_eq!(files.keyed("memory.stat"), BTreeMap::from([("anon".into(), 3), ("file".into(), 4)]));
        assert_eq!(files.keyed_if("memory.stat", |key| key == "file"), BTreeMap::from([("file".into(), 4)]));
        assert_eq!((files.text("none"), files.number("none")), (String::new(), 0));
        assert_eq!(files.names().count(), 3);
        let missing = folder.path().join("gone");
        let gone = Files::open(&missing);
        assert!(!gone.is_there() && gone.text("long").is_empty() && gone.names().next().is_none());
    }
}
