//! Where a new container's checkpoint comes from: an archive of the node's, or an image that says it is one.

use std::cell::RefCell;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::Deserialize;
use serde_json::Value;
use wharf_images::changes::read_files;
use wharf_images::{Image, Limits, Store};
use wharf_specs::config;

use super::{CONFIG_DUMP, Metadata, SPEC_DUMP};
use crate::pod::error::{PodError, Result, chain};

const FIELD: &str = "config.image.image";

/// By which a checkpoint's image says what it is: CRI-O's name of it, and the newer one of checkpointctl.
const ANNOTATIONS: [&str; 2] =
    ["io.kubernetes.cri-o.annotations.checkpoint.name", "org.criu.checkpoint.container.name"];

/// Of `config.dump`, `spec.dump` and `deleted.files` each: beyond what any container needs.
pub(super) const DOCUMENT_BYTES_MAX: u64 = 16 << 20;

/// A checkpoint that a container is to be made from, as far as it was read.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    /// As the client named it.
    pub(super) name: String,
    pub(super) content: Content,
    /// The image that the checkpointed container was made from.
    pub(crate) base: Image,
    /// Where the checkpointed container had directories and files of others.
    mounts: Vec<String>,
}

#[derive(Debug)]
pub(super) enum Content {
    Archive(File),
    /// The files, in a layer of an image.
    Directory(PathBuf),
}

impl Checkpoint {
    /// False for an image that is one like any other, at a glance.
    pub(crate) fn may_be(options: config::Checkpoint, image: &str) -> bool {
        image.starts_with('/') || options.images
    }

    /// The checkpoint that `image` names, or `None` where that is an image like any other. Blocking.
    pub(crate) fn find(options: config::Checkpoint, store: &Store, image: &str) -> Result<Option<Self>> {
        let content = if image.starts_with('/') {
            if !options.enabled {
                let reason = "is a path, as of a checkpoint's archive; checkpoint.enabled in wharfd's configuration is \
                              not true";
                return Err(PodError::invalid(FIELD, format!("{image:?} {reason}")));
            }
            Content::Archive(open_archive(Path::new(image)).map_err(|reason| refused(image, reason))?)
        } else {
            match checkpoint_image(store, image)? {
                Some(directory) if options.images => Content::Directory(directory),
                _ => return Ok(None),
            }
        };
        Self::read(store, image, content).map(Some)
    }

    fn read(store: &Store, name: &str, mut content: Content) -> Result<Self> {
        let documents = [CONFIG_DUMP, SPEC_DUMP];
        let [config, spec] = content.documents(documents).map_err(|reason| refused(name, reason))?;
        let metadata: Metadata = parse(CONFIG_DUMP, &config).map_err(|reason| refused(name, reason))?;
        let spec: Value = parse(SPEC_DUMP, &spec).map_err(|reason| refused(name, reason))?;
        let is_outside =
            |mount: &&Value| mount["type"] == "bind" || has_option(mount, "bind") || has_option(mount, "rbind");
        let mounts = spec["mounts"].as_array().into_iter().flatten().filter(is_outside);
        let mounts = mounts.filter_map(|mount| mount["destination"].as_str().map(str::to_string)).collect();
        let base = base(store, &metadata).map_err(|reason| refused(name, reason))?;
        Ok(Self { name: name.into(), content, base, mounts })
    }

    /// Refuses a container that lacks a mount that the checkpointed one had: its processes may have files of it open.
    pub(crate) fn check_mounts<'a>(&self, destinations: impl Iterator<Item = &'a Path>) -> Result<()> {
        let destinations: Vec<_> = destinations.collect();
        match self.mounts.iter().find(|mount| !destinations.contains(&Path::new(mount))) {
            None => Ok(()),
            Some(missing) => {
                let reason = format!("has nothing for {missing:?}, where the container had a mount at its checkpoint");
                Err(PodError::invalid("config.mounts", reason))
            }
        }
    }
}

pub(super) fn refused(name: &str, reason: String) -> PodError {
    PodError::invalid(FIELD, format!("checkpoint {name:?}: {reason}"))
}

fn has_option(mount: &Value, option: &str) -> bool {
    mount["options"].as_array().is_some_and(|options| options.iter().any(|one| one == option))
}

fn open_archive(path: &Path) -> Result<File, String> {
    // Not blocking, should it be a fifo.
    let flags = (OFlags::NONBLOCK | OFlags::CLOEXEC).bits() as i32;
    let file = File::options().read(true).custom_flags(flags).open(path).map_err(|error| error.to_string())?;
    match file.metadata() {
        Ok(metadata) if metadata.is_file() => Ok(file),
        Ok(_) => Err("is no regular file".into()),
        Err(error) => Err(error.to_string()),
    }
}

/// The directory of an image's only layer, if the image says that it is a checkpoint.
fn checkpoint_image(store: &Store, name: &str) -> Result<Option<PathBuf>> {
    #[derive(Deserialize)]
    struct Manifest {
        #[serde(default)]
        annotations: Option<std::collections::BTreeMap<String, String>>,
    }
    let failed = |error: &dyn std::error::Error| PodError::internal(format!("look up image {name}"), chain(error));
    let Some(image) = store.resolve(name).map_err(|error| failed(&error))? else { return Ok(None) };
    let document = store.manifest_document(&image).map_err(|error| failed(&error))?;
    let manifest: Manifest = serde_json::from_slice(&document).map_err(|error| failed(&error))?;
    let annotations = manifest.annotations.unwrap_or_default();
    if !ANNOTATIONS.iter().any(|name| annotations.contains_key(*name)) {
        return Ok(None);
    }
    match store.layer_directories(&image).as_slice() {
        [only] => Ok(Some(only.clone())),
        layers => Err(refused(name, format!("the image has {} layers, expected one", layers.len()))),
    }
}

/// The image of a checkpoint, which the node must have: by its id where the archive knows it, as the name may have moved on.
fn base(store: &Store, metadata: &Metadata) -> Result<Image, String> {
    let names = [&metadata.rootfs_image_ref, &metadata.rootfs_image_name];
    let names: Vec<&str> = names.into_iter().map(String::as_str).filter(|name| !name.is_empty()).collect();
    for name in &names {
        // What is no reference names no image.
        if let Ok(Some(image)) = store.resolve(name) {
            return Ok(image);
        }
    }
    match names.last() {
        None => Err(format!("{CONFIG_DUMP}: names no image (rootfsImageRef, rootfsImageName)")),
        Some(name) => Err(format!("its image {name:?} is not on this node; pull it first")),
    }
}

fn parse<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, String> {
    serde_json::from_slice(text).map_err(|error| format!("{name}: {error}"))
}

impl Content {
    /// The text of two files, which must be there.
    fn documents(&mut self, wanted: [&'static str; 2]) -> Result<[Vec<u8>; 2], String> {
        let slots = wanted.map(|_| Slot::default());
        match self {
            Self::Directory(directory) => {
                for (name, slot) in wanted.iter().zip(&slots) {
                    let file = open_below(directory, name).map_err(|error| format!("{name}: {error}"))?;
                    let mut text = Vec::new();
                    let read = file.take(DOCUMENT_BYTES_MAX + 1).read_to_end(&mut text);
                    read.map_err(|error| format!("{name}: {error}"))?;
                    within(text.len() as u64, DOCUMENT_BYTES_MAX)?;
                    slot.0.replace(Some(text));
                }
            }
            Self::Archive(file) => {
                file.rewind().map_err(|error| error.to_string())?;
                let sink = |path: &[u8], length: u64| {
                    let Some(at) = wanted.iter().position(|name| name.as_bytes() == path) else { return Ok(None) };
                    within(length, DOCUMENT_BYTES_MAX)?;
                    slots[at].open().map(Some)
                };
                read_files(BufReader::new(&*file), Limits::default(), sink).map_err(|error| chain(&error))?;
            }
        }
        let [first, second] = slots;
        let text = |slot: Slot, name| slot.0.take().ok_or_else(|| format!("has no file {name}"));
        Ok([text(first, wanted[0])?, text(second, wanted[1])?])
    }
}

/// Opens a regular file of a layer, none of whose links are followed.
pub(super) fn open_below(directory: &Path, path: &str) -> io::Result<File> {
    let root = File::open(directory)?;
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let file = File::from(rustix::fs::openat2(&root, path, flags, Mode::empty(), resolve)?);
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::other("is no regular file")),
    }
}

pub(super) fn within(length: u64, limit: u64) -> Result<(), String> {
    match length > limit {
        true => Err(format!("has {length} bytes, at most {limit} are taken")),
        false => Ok(()),
    }
}

/// A file's text while an archive is read; `None` until it is there.
#[derive(Clone, Default)]
pub(super) struct Slot(pub(super) Rc<RefCell<Option<Vec<u8>>>>);

impl Slot {
    pub(super) fn open(&self) -> Result<Self, String> {
        match self.0.replace(Some(Vec::new())) {
            None => Ok(self.clone()),
            Some(_) => Err("is there twice".into()),
        }
    }
}

impl Write for Slot {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().get_or_insert_default().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
