//! The store: images by name and id, removal, and what it takes on disk.

mod names;
mod pins;
mod removal;

use std::collections::HashMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::io::Errno;
use wharf_specs::config::SnapshotMode;

use crate::credentials::Keychain;
use crate::digest::Digest;
use crate::image::{ConfigDocument, Image};
use crate::layout::Layout;
use crate::manifest::{Descriptor, Document, Manifest, Platform, from_object};
use crate::pull::{Flights, SharedBlobs};
use crate::reference::{Reference, ReferenceError};
use crate::registries::Registries;
use crate::registry::Registry;
use crate::transfers::Transfers;
use crate::tree::Tree;
use crate::unpack::Limits;

pub(crate) use names::{
    CONTAINERD_NAME, INDEX, REF_NAME, REPO_DIGEST, annotation, index_of, repo_digest_target, set_name,
};
use names::{entry_is_named, is_named, is_pinned, names};
pub use removal::{Pruned, Removed};

/// A store of images, shared by any number of handles, threads and processes.
///
/// All calls that are not `async` block, for well under a millisecond unless somebody is just publishing or layers have
/// to be copied for a container.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

/// What a store is opened with.
#[derive(Clone, Debug, Default)]
pub struct StoreOptions {
    /// What a layer may unpack to.
    pub limits: Limits,
    /// Whom registries are told we are, where a pull does not say.
    pub keychain: Keychain,
    /// Where registries are reached.
    pub registries: Registries,
    pub transfers: Transfers,
    /// How containers get their root file systems.
    pub snapshots: SnapshotMode,
}

pub(crate) struct Inner {
    pub(crate) layout: Layout,
    pub(crate) limits: Limits,
    pub(crate) keychain: Keychain,
    pub(crate) registries: Registries,
    pub(crate) registry: Registry,
    pub(crate) flights: Flights,
    pub(crate) shared_blobs: SharedBlobs,
    pub(crate) snapshots: SnapshotMode,
    /// Why overlayfs cannot be used here, once that was looked at.
    pub(crate) overlay_obstacle: OnceLock<Option<Errno>>,
    index: Mutex<IndexCache>,
    /// Documents by manifest digest; they cannot change.
    documents: Mutex<HashMap<Digest, Arc<Documents>>>,
}

/// index.json as it was when its file had this identity.
#[derive(Default)]
struct IndexCache {
    identity: Option<(u64, i64, i64)>,
    entries: Arc<Vec<Descriptor>>,
}

pub(crate) struct Documents {
    /// What the image is known by: its config's digest; an artifact, whose config says nothing, by its manifest's.
    pub id: Digest,
    pub manifest: Manifest,
    pub config: ConfigDocument,
}

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("{operation} {path}")]
    Io {
        operation: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("image `{0}`: not in the store")]
    NotFound(String),
    #[error("image id `{prefix}`: fits {count} images, give more digits")]
    Ambiguous { prefix: String, count: usize },
    #[error("image `{name}`: is not for {platform}, it is for {offered}")]
    Platform { name: String, platform: Platform, offered: String },
    #[error("image `{name}`: {missing} of it is not here; pull it again, all of an index with --all-platforms")]
    Incomplete { name: String, missing: Digest },
    #[error("image `{name}`: in use by {}", containers.join(", "))]
    InUse { name: String, containers: Vec<String> },
    #[error("image `{name}`: is pinned; `wharf unpin {name}` gives it free")]
    Pinned { name: String },
    #[error(transparent)]
    Reference(#[from] ReferenceError),
    #[error("image reference `{0}`: a tag cannot be set by digest")]
    TagByDigest(String),
}

/// What the store takes on disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs and unpacked layers, without the containers' writable layers.
    pub bytes: u64,
    pub inodes: u64,
}

impl Store {
    /// Opens the store below `root`, creating it if it is missing and taking away what a killed process left
    /// half done.
    pub fn open(root: &Path) -> Result<Self, StoreError> {
        Self::open_with(root, StoreOptions::default())
    }

    /// [`Store::open`] with bounds, logins and registries of your own.
    pub fn open_with(root: &Path, options: StoreOptions) -> Result<Self, StoreError> {
        let StoreOptions { limits, keychain, registries, transfers, snapshots } = options;
        let layout = Layout::open(root).map_err(at("open image store", root))?;
        layout.sweep().map_err(at("sweep image store", root))?;
        Ok(Self {
            inner: Arc::new(Inner {
                layout,
                limits,
                keychain,
                registries,
                registry: Registry::new(transfers),
                flights: Flights::default(),
                shared_blobs: SharedBlobs::default(),
                snapshots,
                overlay_obstacle: OnceLock::new(),
                index: Mutex::default(),
                documents: Mutex::default(),
            }),
        })
    }

    /// Every image, sorted by id. An entry whose documents cannot be read is left out, with a warning.
    pub fn images(&self) -> Result<Vec<Image>, StoreError> {
        let entries = self.inner.entries()?;
        let mut by_id: HashMap<Digest, Image> = HashMap::new();
        for entry in entries.iter() {
            let documents = match self.inner.documents(&entry.digest) {
                Ok(documents) => documents,
                Err(error) => {
                    tracing::warn!(manifest = %entry.digest, %error, "image cannot be read");
                    continue;
                }
            };
            let id = documents.id;
            let image = by_id.entry(id).or_insert_with(|| image(entry, &documents));
            let (tag, digest) = names(entry);
            image.repo_tags.extend(tag);
            image.repo_digests.extend(digest);
            image.is_pinned |= is_pinned(entry);
        }
        let mut images: Vec<Image> = by_id.into_values().collect();
        for image in &mut images {
            image.repo_tags.sort();
            image.repo_tags.dedup();
            image.repo_digests.sort();
            image.repo_digests.dedup();
        }
        images.sort_by_key(|image| image.id);
        Ok(images)
    }

    /// Finds an image by reference (short names too, tag or digest), id, or a prefix of its id of at least four
    /// digits.
    pub fn resolve(&self, name: &str) -> Result<Option<Image>, StoreError> {
        let images = self.images()?;
        if let Ok(id) = name.parse::<Digest>() {
            return Ok(images.into_iter().find(|image| image.id == id));
        }
        if let Ok(reference) = name.parse::<Reference>() {
            let found = images.iter().find(|image| is_named(image, &reference));
            if let Some(image) = found {
                return Ok(Some(image.clone()));
            }
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        if prefix.len() < 4 || !prefix.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Ok(None);
        }
        let mut fits: Vec<Image> = images.into_iter().filter(|image| image.id.hex().starts_with(prefix)).collect();
        match fits.len() {
            0 | 1 => Ok(fits.pop()),
            count => Err(StoreError::Ambiguous { prefix: name.into(), count }),
        }
    }

    /// Gives the image `name` (as in [`Store::resolve`]) the further name `new`, taking it from whatever had it.
    pub fn tag(&self, name: &str, new: &Reference) -> Result<Image, StoreError> {
        if new.digest().is_some() {
            return Err(StoreError::TagByDigest(new.to_string()));
        }
        let not_found = || StoreError::NotFound(name.into());
        let _lock = self.inner.lock()?;
        let image = self.resolve(name)?.ok_or_else(not_found)?;
        let entries = self.inner.entries()?;
        let mut entry = self.inner.entry_of(&entries, name, &image).cloned().ok_or_else(not_found)?;
        let index = index_of(&entry).map(|index| (INDEX.to_owned(), index.to_string()));
        entry.annotations = index.map(|index| [index].into());
        let entries = set_name(entries.to_vec(), entry, Some(&new.to_string()), None);
        self.inner.write_index(&entries)?;
        self.resolve(&image.id.to_string())?.ok_or_else(not_found)
    }

    /// Bytes and inodes of blobs and snapshots.
    pub fn usage(&self) -> Result<Usage, StoreError> {
        let layout = &self.inner.layout;
        let images = layout.images();
        let mut usage = Usage::default();
        for (_, size) in layout.list_blobs().map_err(at("list blobs of", &images))? {
            usage.bytes += size;
            usage.inodes += 1;
        }
        for diff_id in layout.list_snapshots().map_err(at("list snapshots of", &images))? {
            // One that is being removed has no record any more.
            if let Ok(record) = layout.snapshot_record(&diff_id) {
                usage.bytes += record.bytes;
                usage.inodes += record.inodes;
            }
        }
        Ok(usage)
    }

    /// Waits until nothing is under way here: pulls that were cancelled have been cleared away.
    pub async fn idle(&self) {
        self.inner.layout.idle().await;
    }

    /// The OCI image layout: what `skopeo copy oci:<here>:<full name>` reads.
    pub fn image_layout(&self) -> PathBuf {
        self.inner.layout.images()
    }
}

impl Inner {
    pub(crate) fn lock(&self) -> Result<crate::layout::Lock, StoreError> {
        self.layout.lock().map_err(at("lock image store", &self.layout.images()))
    }

    /// index.json, read again only when it was replaced.
    pub(crate) fn entries(&self) -> Result<Arc<Vec<Descriptor>>, StoreError> {
        let path = self.layout.index_file();
        let failed = at("read", &path);
        let mut cache = self.index.lock().unwrap_or_else(PoisonError::into_inner);
        let identity = |metadata: std::fs::Metadata| (metadata.ino(), metadata.mtime(), metadata.mtime_nsec());
        let now = Some(identity(std::fs::metadata(&path).map_err(&failed)?));
        if cache.identity != now {
            cache.entries = Arc::new(self.layout.read_index().map_err(&failed)?);
            cache.identity = now;
        }
        Ok(cache.entries.clone())
    }

    /// The entry by which `name` led to `image`; where it was no name, one that knows the image's index.
    pub(crate) fn entry_of<'e>(&self, entries: &'e [Descriptor], name: &str, image: &Image) -> Option<&'e Descriptor> {
        let reference = name.parse::<Reference>().ok();
        let ours = || entries.iter().filter(|entry| self.is_of(entry, image));
        let by_name = ours().find(|entry| reference.as_ref().is_some_and(|name| entry_is_named(entry, name)));
        by_name.or_else(|| ours().find(|entry| index_of(entry).is_some())).or_else(|| ours().next())
    }

    /// Whether an entry of index.json leads to `image`.
    pub(crate) fn is_of(&self, entry: &Descriptor, image: &Image) -> bool {
        entry.digest == image.manifest_digest
            || self.documents(&entry.digest).is_ok_and(|documents| documents.id == image.id)
    }

    /// Everything of the index or manifest `root` that is here.
    pub(crate) fn tree(&self, root: Digest) -> Result<Tree, StoreError> {
        let mut tree = Tree::of(root);
        while let Some(digest) = tree.next() {
            let path = self.layout.blob(&digest);
            match self.layout.read_blob(&digest) {
                Ok(bytes) => tree.add(digest, bytes).map_err(|error| at("parse", &path)(io::Error::other(error)))?,
                // Of an index, only the image for this machine need be here.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(at("read", &path)(error)),
            }
        }
        Ok(tree)
    }

    /// The exclusive lock must be held.
    pub(crate) fn write_index(&self, entries: &[Descriptor]) -> Result<(), StoreError> {
        let path = self.layout.index_file();
        self.layout.write_index(entries).map_err(at("write", &path))
    }

    /// Manifest and config of an image in the store.
    pub(crate) fn documents(&self, manifest: &Digest) -> Result<Arc<Documents>, StoreError> {
        let cached = |all: &HashMap<Digest, Arc<Documents>>| all.get(manifest).cloned();
        if let Some(documents) = cached(&self.documents.lock().unwrap_or_else(PoisonError::into_inner)) {
            return Ok(documents);
        }
        let read = |digest: &Digest| {
            let path = self.layout.blob(digest);
            self.layout.read_blob(digest).map_err(at("read", &path))
        };
        let invalid = |digest: &Digest, error: Box<dyn std::error::Error + Send + Sync>| {
            at("parse", &self.layout.blob(digest))(io::Error::other(error))
        };
        let parsed = match Document::parse(&read(manifest)?, *manifest) {
            Ok(Document::Manifest(parsed)) => parsed,
            Ok(Document::Index(_)) => return Err(invalid(manifest, "is an index".into())),
            Err(error) => return Err(invalid(manifest, error.into())),
        };
        let config = &parsed.config.digest;
        let documents = Arc::new(match parsed.is_artifact() {
            true => Documents { id: *manifest, config: ConfigDocument::of_artifact(*manifest), manifest: parsed },
            false => Documents {
                id: *config,
                config: from_object(&read(config)?).map_err(|error| invalid(config, error.into()))?,
                manifest: parsed,
            },
        });
        let mut all = self.documents.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(*manifest, documents.clone());
        Ok(documents)
    }
}

pub(crate) fn image(entry: &Descriptor, documents: &Documents) -> Image {
    let mut blobs: HashMap<Digest, u64> = HashMap::new();
    for part in documents.manifest.layers.iter().chain([&documents.manifest.config]) {
        blobs.insert(part.digest, part.size);
    }
    Image {
        id: documents.id,
        repo_tags: Vec::new(),
        repo_digests: Vec::new(),
        manifest_digest: entry.digest,
        size: blobs.values().sum(),
        config: documents.config.config.clone(),
        diff_ids: documents.config.rootfs.diff_ids.clone(),
        created: documents.config.created.clone(),
        platform: documents.config.platform(),
        is_pinned: false,
    }
}

pub(crate) fn at<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> StoreError + 'a {
    move |source| StoreError::Io { operation, path: path.to_owned(), source }
}
