//! Loading images from files: `docker save` (docker-archive) and OCI image layouts in a tar (oci-archive), plain,
//! gzip or zstd.
//!
//! The archive is read once, front to back. Every file in it goes to a numbered file of the session while it is
//! digested, so no name in the archive ever becomes a path; then the documents say which files are an image.

mod directory;
mod error;
mod selection;
mod spool;

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use serde::Deserialize;

pub use error::LoadError;
pub(crate) use selection::Selection;
use selection::archive_name;
pub(crate) use spool::Spool;
use spool::{Spooled, plain_name};

use crate::adopt;
use crate::digest::Digest;
use crate::image::{ConfigDocument, Image};
use crate::layer::{LayerJob, ingest};
use crate::layout::{Needed, PublishError, Session};
use crate::manifest::{
    DOCUMENT_MAX_BYTES, Descriptor, Document, DocumentError, Index, Manifest, OCI_CONFIG, OCI_LAYER, OCI_LAYER_GZIP,
    OCI_LAYER_ZSTD, OCI_MANIFEST, Platform, from_object,
};
use crate::one_line::OneLine;
use crate::platform;
use crate::progress::{LayerState, ProgressFn, ProgressHub};
use crate::reference::Reference;
use crate::store::{INDEX, Store, set_name};
use crate::tree::Tree;

/// Layers unpacked at once.
const THREADS_MAX: usize = 4;

/// One image of the archive, ready to be unpacked.
pub(crate) struct Found {
    pub(crate) entry: Descriptor,
    /// The manifest's and config's digests.
    documents: Vec<Digest>,
    layers: Vec<Descriptor>,
    diff_ids: Vec<Digest>,
    pub(crate) names: Vec<Reference>,
    /// What else belongs to the index it was chosen from, if all of that is there.
    others: Vec<Digest>,
    is_wanted: bool,
}

/// An entry of docker's manifest.json.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Loads every image of the archive at `path` under the names it gives them. From a multi-platform index the
    /// image for this machine is unpacked; the others are kept if they are all there.
    pub async fn load(&self, path: &Path, progress: Option<ProgressFn>) -> Result<Vec<Image>, LoadError> {
        self.load_selected(path, Selection::default(), progress).await
    }

    /// [`Store::load`] of a part; `path` may be the directory of an OCI image layout too.
    pub(crate) async fn load_selected(
        &self,
        path: &Path,
        selection: Selection,
        progress: Option<ProgressFn>,
    ) -> Result<Vec<Image>, LoadError> {
        let path = path.to_owned();
        let load = Load::new(self, &path, selection, progress);
        tokio::task::spawn_blocking(move || load.run())
            .await
            .unwrap_or_else(|error| Err(LoadError::Io { path, operation: "unpack", source: io::Error::other(error) }))
    }
}

pub(crate) struct Load {
    store: Store,
    path: PathBuf,
    progress: ProgressHub,
    selection: Selection,
}

impl Load {
    pub(crate) fn new(store: &Store, path: &Path, selection: Selection, progress: Option<ProgressFn>) -> Self {
        let hub = ProgressHub::default();
        hub.add(progress);
        Self { store: store.clone(), path: path.to_owned(), progress: hub, selection }
    }

    fn run(self) -> Result<Vec<Image>, LoadError> {
        let session = self.store.inner.layout.session().map_err(self.io("begin"))?;
        let spool = self.spool(&session)?;
        let images = self.images(&spool, &session)?;
        let mut needed = Needed::default();
        for image in &images {
            needed.blobs.extend(&image.documents);
            needed.blobs.extend(image.layers.iter().map(|layer| layer.digest));
            needed.blobs.extend(&image.others);
            needed.snapshots.extend(&image.diff_ids);
        }
        for digest in &needed.blobs {
            if let Some(spooled) = spool.by_digest.get(digest).filter(|spooled| spooled.file.exists()) {
                session.adopt_blob(&spooled.file, digest).map_err(self.io("keep blob"))?;
            }
        }
        self.unpack(&images, &session)?;
        for image in &images {
            adopt::implied_directories(&session, &image.diff_ids).map_err(self.io("complete layers"))?;
        }
        let published = session.publish(&needed, |mut entries| {
            for image in &images {
                for name in &image.names {
                    entries = set_name(entries, image.entry.clone(), Some(&name.to_string()), None);
                }
                if image.names.is_empty() {
                    entries = set_name(entries, image.entry.clone(), None, None);
                }
            }
            entries
        });
        published.map_err(|error| match error {
            PublishError::Io(source) => self.io("publish")(source),
            // Only layers that were in the store already can be gone.
            gone => self.io("publish")(io::Error::other(gone)),
        })?;
        let mut loaded = Vec::new();
        for image in &images {
            let store_failed = |source| LoadError::Store { path: self.path.clone(), source: Box::new(source) };
            let documents = self.store.inner.documents(&image.entry.digest).map_err(store_failed)?;
            let id = documents.id.to_string();
            loaded.extend(self.store.resolve(&id).map_err(store_failed)?);
        }
        Ok(loaded)
    }

    /// The images that are wanted, under the names they get.
    pub(crate) fn images(&self, spool: &Spool, session: &Session) -> Result<Vec<Found>, LoadError> {
        let mut images = match (spool.by_name.get("index.json"), spool.by_name.get("manifest.json")) {
            // `docker save` writes both today; the index keeps the manifests' digests.
            (Some(index), _) => self.oci_images(spool, index)?,
            (None, Some(manifest)) => self.docker_images(spool, session, manifest)?,
            (None, None) => return Err(LoadError::NoImage(self.path.clone())),
        };
        if let Some(only) = &self.selection.only {
            let all = names_of(&images);
            images.retain(|image| image.is_wanted);
            if images.is_empty() {
                return Err(LoadError::NotThere { path: self.path.clone(), name: only.clone(), there: all });
            }
        }
        if let Some(name) = &self.selection.name {
            match images.as_mut_slice() {
                [one] => one.names = vec![name.clone()],
                many => return Err(LoadError::Several { path: self.path.clone(), there: names_of(many) }),
            }
        }
        Ok(images)
    }

    /// The only image that is wanted.
    pub(crate) fn one_image(&self, spool: &Spool, session: &Session) -> Result<Found, LoadError> {
        let mut images = self.images(spool, session)?;
        match images.len() {
            1 => Ok(images.remove(0)),
            _ => Err(LoadError::Several { path: self.path.clone(), there: names_of(&images) }),
        }
    }

    fn docker_images(&self, spool: &Spool, session: &Session, list: &Spooled) -> Result<Vec<Found>, LoadError> {
        let list = self.read(list, "manifest.json")?;
        let entries: Vec<DockerImage> = self.parse(serde_json::from_slice, &list, "manifest.json")?;
        if entries.is_empty() {
            return Err(LoadError::NoImage(self.path.clone()));
        }
        let mut images = Vec::new();
        for (number, image) in entries.iter().enumerate() {
            let member = |name: &String| {
                spool
                    .by_name
                    .get(&plain_name(name.as_bytes(), ""))
                    .ok_or_else(|| LoadError::Missing { path: self.path.clone(), member: name.clone() })
            };
            let config = member(&image.config)?;
            let mut layers = Vec::new();
            for name in &image.layers {
                let layer = member(name)?;
                layers.push(descriptor(layer_media_type(layer).map_err(self.io("read"))?, layer.digest, layer.size));
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: Some(OCI_MANIFEST.into()),
                config: descriptor(OCI_CONFIG, config.digest, config.size),
                layers,
            };
            let bytes = serde_json::to_vec(&manifest).map_err(|error| self.io("write manifest")(error.into()))?;
            let digest = Digest::of(&bytes);
            session.write_blob(&digest, &bytes).map_err(self.io("write manifest"))?;
            let mut names = Vec::new();
            for tag in image.repo_tags.iter().flatten() {
                names.push(tag.parse().map_err(|source| LoadError::Reference { path: self.path.clone(), source })?);
            }
            let entry = descriptor(OCI_MANIFEST, digest, bytes.len() as u64);
            let label = format!("config of image {}", number + 1);
            let config = self.read(config, &label)?;
            let is_wanted = self.selection.wants_any(&names);
            images.push(Found { is_wanted, ..self.found(entry, manifest, &config, names)? });
        }
        Ok(images)
    }

    fn oci_images(&self, spool: &Spool, index: &Spooled) -> Result<Vec<Found>, LoadError> {
        let index: Index = self.parse(from_object, &self.read(index, "index.json")?, "index.json")?;
        let mut images = Vec::new();
        for top in &index.manifests {
            // Its content was left where it is.
            if !self.selection.wants(top) && !spool.by_digest.contains_key(&top.digest) {
                continue;
            }
            let mut entry = top.clone();
            let mut document = self.document(spool, &entry)?;
            let mut others = Vec::new();
            if let Document::Index(inner) = &document {
                others = self.whole(spool, top.digest)?;
                let wanted = self.selection.platform.clone().unwrap_or_else(Platform::host);
                let chosen = platform::choose(inner, &wanted).ok_or_else(|| LoadError::Platform {
                    path: self.path.clone(),
                    platform: wanted.clone(),
                    offered: platform::offered(inner),
                })?;
                entry = chosen.clone();
                document = self.document(spool, &entry)?;
            }
            let Document::Manifest(manifest) = document else {
                return Err(LoadError::NestedIndex { path: self.path.clone(), digest: top.digest });
            };
            let names: Vec<Reference> = archive_name(top).into_iter().collect();
            let config = self.read(self.blob(spool, &manifest.config.digest)?, "config")?;
            for layer in &manifest.layers {
                self.blob(spool, &layer.digest)?;
            }
            let index = (!others.is_empty()).then(|| [(INDEX.to_owned(), top.digest.to_string())].into());
            let entry = Descriptor {
                media_type: manifest.media_type.clone().unwrap_or_else(|| OCI_MANIFEST.into()),
                platform: entry.platform,
                annotations: index,
                ..descriptor("", entry.digest, entry.size)
            };
            let is_wanted = self.selection.wants(top);
            images.push(Found { others, is_wanted, ..self.found(entry, manifest, &config, names)? });
        }
        match images.is_empty() && self.selection.only.is_none() {
            true => Err(LoadError::NoImage(self.path.clone())),
            false => Ok(images),
        }
    }

    /// All that belongs to the index `root`, nothing if a part of it is not in the archive.
    fn whole(&self, spool: &Spool, root: Digest) -> Result<Vec<Digest>, LoadError> {
        let mut tree = Tree::of(root);
        while let Some(digest) = tree.next() {
            let Some(spooled) = spool.by_digest.get(&digest) else {
                return Ok(Vec::new());
            };
            let bytes = self.read(spooled, &format!("blob {digest}"))?;
            tree.add(digest, bytes)
                .map_err(|source| LoadError::Document { path: self.path.clone(), source: Box::new(source) })?;
        }
        let documents = tree.documents().iter().map(|document| document.digest);
        let all: Vec<Digest> = documents.chain(tree.blobs().iter().map(|blob| blob.digest)).collect();
        Ok(if all.iter().all(|digest| spool.by_digest.contains_key(digest)) { all } else { Vec::new() })
    }

    fn found(
        &self,
        entry: Descriptor,
        manifest: Manifest,
        config: &[u8],
        names: Vec<Reference>,
    ) -> Result<Found, LoadError> {
        let member = format!("config {}", manifest.config.digest);
        let config: ConfigDocument = self.parse(from_object, config, &member)?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            return Err(LoadError::Document {
                path: self.path.clone(),
                source: Box::new(DocumentError::LayerCount {
                    digest: entry.digest,
                    layers: manifest.layers.len(),
                    diff_ids: diff_ids.len(),
                }),
            });
        }
        Ok(Found {
            documents: vec![entry.digest, manifest.config.digest],
            entry,
            layers: manifest.layers,
            diff_ids,
            names,
            others: Vec::new(),
            is_wanted: true,
        })
    }

    /// Verifies and unpacks every layer, several at a time.
    fn unpack(&self, images: &[Found], session: &Session) -> Result<(), LoadError> {
        let mut jobs: Vec<LayerJob> = Vec::new();
        for image in images {
            for (layer, diff_id) in image.layers.iter().zip(&image.diff_ids) {
                if jobs.iter().any(|job| job.blob == layer.digest && job.diff_id == Some(*diff_id)) {
                    continue;
                }
                let planned = jobs.iter().any(|job| job.diff_id == Some(*diff_id));
                jobs.push(LayerJob {
                    blob: layer.digest,
                    size: layer.size,
                    diff_id: Some(*diff_id),
                    keep_blob: false,
                    // Read even if it is there already: that the archive is right must be known all the same.
                    unpack: !planned && !self.store.inner.layout.snapshot(diff_id).exists(),
                });
                self.progress.report(layer.digest, LayerState::Waiting, 0, layer.size);
            }
        }
        let next = AtomicUsize::new(0);
        let work = || {
            while let Some(job) = jobs.get(next.fetch_add(1, Ordering::Relaxed)) {
                let blob = session.open_blob(&job.blob).map_err(self.io("open layer"))?;
                self.progress.report(job.blob, LayerState::Transferring, 0, job.size);
                ingest(blob, job, session, self.store.inner.limits)
                    .map_err(|source| LoadError::Layer { path: self.path.clone(), source: Box::new(source) })?;
                self.progress.report(job.blob, LayerState::Complete, job.size, job.size);
            }
            Ok(())
        };
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..jobs.len().min(THREADS_MAX)).map(|_| scope.spawn(work)).collect();
            threads.into_iter().try_for_each(|thread| {
                let lost = |_| self.io("unpack")(io::Error::other("a thread panicked"));
                thread.join().map_err(lost)?
            })
        })
    }

    fn document(&self, spool: &Spool, descriptor: &Descriptor) -> Result<Document, LoadError> {
        let name = format!("blob {}", descriptor.digest);
        let bytes = self.read(self.blob(spool, &descriptor.digest)?, &name)?;
        Document::parse(&bytes, descriptor.digest)
            .map_err(|source| LoadError::Document { path: self.path.clone(), source: Box::new(source) })
    }

    fn blob<'a>(&self, spool: &'a Spool, digest: &Digest) -> Result<&'a Spooled, LoadError> {
        spool.by_digest.get(digest).ok_or_else(|| LoadError::Missing {
            path: self.path.clone(),
            member: format!("a file with the digest {digest}"),
        })
    }

    fn read(&self, spooled: &Spooled, name: &str) -> Result<Vec<u8>, LoadError> {
        if spooled.size > DOCUMENT_MAX_BYTES {
            let problem = format!("{name} is longer than {DOCUMENT_MAX_BYTES} bytes");
            return Err(self.io("read")(io::Error::other(problem)));
        }
        std::fs::read(&spooled.file).map_err(self.io("read"))
    }

    fn parse<'a, T>(
        &self,
        parse: impl FnOnce(&'a [u8]) -> serde_json::Result<T>,
        bytes: &'a [u8],
        member: &str,
    ) -> Result<T, LoadError> {
        parse(bytes).map_err(|source| LoadError::Json { path: self.path.clone(), member: member.into(), source })
    }

    fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> LoadError + '_ {
        move |source| LoadError::Io { path: self.path.clone(), operation, source }
    }
}

/// For a message.
fn names_of(images: &[Found]) -> String {
    let names: Vec<String> = images.iter().flat_map(|image| &image.names).map(ToString::to_string).collect();
    if names.is_empty() { "no names".into() } else { OneLine(&names.join(", ")).to_string() }
}

fn layer_media_type(layer: &Spooled) -> io::Result<&'static str> {
    let mut magic = [0; 4];
    let length = File::open(&layer.file)?.read(&mut magic)?;
    Ok(match magic[..length] {
        [0x1f, 0x8b, ..] => OCI_LAYER_GZIP,
        [0x28, 0xb5, 0x2f, 0xfd] => OCI_LAYER_ZSTD,
        _ => OCI_LAYER,
    })
}

fn descriptor(media_type: &str, digest: Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: media_type.into(),
        digest,
        size,
        platform: None,
        annotations: None,
        other: Default::default(),
    }
}
