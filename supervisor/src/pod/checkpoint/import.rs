//! A checkpoint's files into the place of a new container: criu's images beside its writable layer, changed files into it.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File};
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use wharf_images::changes::read_files;
use wharf_images::{Limits, RootFs, Store};

use super::source::{Content, DOCUMENT_BYTES_MAX, Slot, open_below, refused, within};
use super::{Allowed, CHANGES, Checkpoint, DELETED, IMAGES, INVENTORY};
use crate::pod::error::{Result, chain};

/// Beside the writable layer, until the container runs.
const FOLDER: &str = "checkpoint";

/// criu writes a few dozen files for a container, and some for each of its processes.
const IMAGE_FILES_MAX: usize = 1 << 16;

/// Where criu's images of a container are that waits for its restore.
pub(crate) fn images(rootfs: &RootFs) -> PathBuf {
    rootfs.writable().with_file_name(FOLDER)
}

impl Checkpoint {
    /// Puts all of it into the places of the container `id`, whose writable layer was made just now. What a failure leaves
    /// goes with that layer. Blocking.
    pub(crate) fn unpack(self, store: &Store, id: &str, rootfs: &RootFs, allowed: &Allowed) -> Result<()> {
        let name = self.name.clone();
        self.unpack_to(store, id, &images(rootfs), allowed).map_err(|reason| refused(&name, reason))
    }

    fn unpack_to(self, store: &Store, id: &str, images: &Path, allowed: &Allowed) -> Result<(), String> {
        let said = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let changes = images.with_file_name(CHANGES);
        DirBuilder::new().mode(0o700).create(images).map_err(|error| said(images, error))?;
        let mut target = Target { images, changes: &changes, names: BTreeSet::new(), deleted: Slot::default() };
        match self.content {
            Content::Archive(mut file) => {
                file.rewind().map_err(|error| error.to_string())?;
                let sink = |path: &[u8], length: u64| target.place(path, length);
                read_files(BufReader::new(file), Limits::default(), sink).map_err(|error| chain(&error))?;
            }
            Content::Directory(directory) => target.copy(&directory)?,
        }
        if !target.names.contains(INVENTORY) {
            return Err(format!("has no file {IMAGES}/{INVENTORY}"));
        }
        allowed.check(images).map_err(|reason| format!("{IMAGES}/{reason}"))?;
        let deleted: Vec<String> = match target.deleted.0.take() {
            None => Vec::new(),
            Some(text) => serde_json::from_slice(&text).map_err(|error| format!("{DELETED}: {error}"))?,
        };
        let deleted: Vec<Vec<u8>> = deleted.into_iter().map(String::into_bytes).collect();
        let explain = |error: wharf_images::ChangesError| format!("{CHANGES}: {}", chain(&error));
        match File::open(&changes) {
            Ok(file) => store.apply_changes(id, BufReader::new(file), &deleted).map_err(explain)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                store.apply_changes(id, io::empty(), &deleted).map_err(explain)?;
            }
            Err(error) => return Err(said(&changes, error)),
        }
        match fs::remove_file(&changes) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(said(&changes, error)),
            _ => Ok(()),
        }
    }
}

/// Where the files of a checkpoint go.
struct Target<'a> {
    images: &'a Path,
    changes: &'a Path,
    /// Of criu's images.
    names: BTreeSet<String>,
    deleted: Slot,
}

impl Target<'_> {
    /// Where the file `path` of `length` bytes goes; nowhere, if it is none that is wanted.
    fn place(&mut self, path: &[u8], length: u64) -> Result<Option<Box<dyn Write>>, String> {
        let path = String::from_utf8_lossy(path);
        if path == CHANGES {
            return create(self.changes).map(Some);
        }
        if path == DELETED {
            within(length, DOCUMENT_BYTES_MAX)?;
            return Ok(Some(Box::new(self.deleted.open()?)));
        }
        let Some(name) = path.strip_prefix(IMAGES).and_then(|rest| rest.strip_prefix('/')) else { return Ok(None) };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if name.starts_with('.') || !name.bytes().all(plain) {
            return Err("is no name of an image of criu's: letters, digits, . _ -".into());
        }
        if self.names.len() == IMAGE_FILES_MAX {
            return Err(format!("is one too many, {IMAGE_FILES_MAX} files are taken"));
        }
        if !self.names.insert(name.into()) {
            return Err("is there twice".into());
        }
        create(&self.images.join(name)).map(Some)
    }

    /// From a layer of an image.
    fn copy(&mut self, layer: &Path) -> Result<(), String> {
        let folder = layer.join(IMAGES);
        let is_folder = fs::symlink_metadata(&folder).is_ok_and(|metadata| metadata.is_dir());
        let entries = if is_folder { fs::read_dir(&folder) } else { Err(io::ErrorKind::NotADirectory.into()) };
        let entries = entries.map_err(|error| format!("{IMAGES}: {error}"))?;
        let names = entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let names = names.collect::<io::Result<Vec<_>>>().map_err(|error| format!("{IMAGES}: {error}"))?;
        let images = names.into_iter().map(|name| format!("{IMAGES}/{name}"));
        let mut left = Limits::default().layer_bytes;
        for path in images.chain([CHANGES.to_string(), DELETED.to_string()]) {
            let explain = |error: &dyn std::fmt::Display| format!("{path}: {error}");
            let mut file = match open_below(layer, &path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                file => file.map_err(|error| explain(&error))?,
            };
            let length = file.metadata().map_err(|error| explain(&error))?.len();
            within(length, left).map_err(|error| explain(&error))?;
            left -= length;
            let Some(mut output) = self.place(path.as_bytes(), length).map_err(|error| explain(&error))? else {
                continue;
            };
            io::copy(&mut (&mut file).take(length), &mut output).map_err(|error| explain(&error))?;
        }
        Ok(())
    }
}

fn create(path: &Path) -> Result<Box<dyn Write>, String> {
    let file = File::options().write(true).create_new(true).mode(0o600).open(path);
    match file {
        Ok(file) => Ok(Box::new(file)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err("is there twice".into()),
        Err(error) => Err(error.to_string()),
    }
}
