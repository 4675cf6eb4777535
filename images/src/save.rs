//! Saving images to archives: an OCI image layout in a tar (oci-archive), or what `docker save` writes
//! (docker-archive).

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Seek, Write};
use std::path::PathBuf;

use serde_json::json;

use crate::digest::{Digest, Hasher};
use crate::layer::decompress;
use crate::manifest::{Descriptor, Manifest, OCI_INDEX, OCI_MANIFEST};
use crate::outgoing::Platforms;
use crate::reference::Reference;
use crate::store::{CONTAINERD_NAME, REF_NAME, Store, StoreError};
use crate::tree::Tree;

/// What an archive looks like inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArchiveForm {
    /// An OCI image layout (image-spec, "OCI Image Layout"): manifests and compressed layers as they were pulled.
    Oci,
    /// `manifest.json` with uncompressed layers, as `docker save` writes it and `docker load` reads it.
    Docker,
}

/// Why an image was not saved. What was written of the archive is of no use.
#[derive(Debug, thiserror::Error)]
pub enum SaveError {
    #[error("save {name}: not in the store")]
    NotFound { name: String },
    #[error(
        "save {name}: layer {layer} unpacks to the diff id {found}, the config says {expected}; remove the image and pull it again"
    )]
    DiffId { name: String, layer: Digest, found: Digest, expected: Digest },
    #[error("save {name}: {object}")]
    Io {
        name: String,
        object: String,
        #[source]
        source: io::Error,
    },
    #[error("save {name}")]
    Store {
        name: String,
        #[source]
        source: Box<StoreError>,
    },
}

/// One image, or a whole index, under the names it has in the archive.
pub(crate) struct Archived {
    root: Digest,
    media_type: &'static str,
    /// Manifests, configs and layers.
    parts: Vec<Digest>,
    /// The image of it that docker's form takes, with its diff ids.
    image: Option<(Manifest, Vec<Digest>)>,
    names: Vec<String>,
}

impl Archived {
    pub(crate) fn new(root: Digest, tree: &Tree, image: Option<(Manifest, Vec<Digest>)>, names: Vec<String>) -> Self {
        let documents = tree.bottom_up();
        let media_type = documents.last().map_or(OCI_MANIFEST, |document| document.media_type);
        let parts = documents.iter().map(|document| document.digest);
        let parts = parts.chain(tree.blobs().iter().map(|blob| blob.digest)).collect();
        Self { root, media_type, parts, image, names }
    }
}

impl Store {
    /// Writes the images called `names` (as in [`Store::resolve`]) into one archive. An image that is given by a tag is
    /// in the archive under that tag, one given by id under all its tags. In OCI's form, an index is kept whole if all
    /// of it is here.
    pub async fn save<W>(&self, names: Vec<String>, form: ArchiveForm, output: W) -> Result<(), SaveError>
    where
        W: Write + Send + 'static,
    {
        let store = self.clone();
        let work = move || {
            let images = store.archived(&names)?;
            let layout = store.inner.layout.clone();
            write_archive(&names.join(", "), &images, form, &|digest| layout.blob(digest), output)
        };
        let lost =
            |error| SaveError::Io { name: "images".into(), object: "write".into(), source: io::Error::other(error) };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(lost(error)))
    }

    fn archived(&self, names: &[String]) -> Result<Vec<Archived>, SaveError> {
        let mut chosen: Vec<Archived> = Vec::new();
        for name in names {
            let failed = |source| SaveError::Store { name: name.clone(), source: Box::new(source) };
            let image =
                self.resolve(name).map_err(failed)?.ok_or_else(|| SaveError::NotFound { name: name.clone() })?;
            let tag = name.parse::<Reference>().ok().map(|reference| reference.to_string());
            let given = tag.filter(|tag| image.repo_tags.contains(tag));
            let names = given.map_or_else(|| image.repo_tags.clone(), |tag| vec![tag]);
            let outgoing = self.outgoing(name, &Platforms::Present).map_err(failed)?;
            match chosen.iter_mut().find(|other| other.root == outgoing.root) {
                Some(other) => other.names.extend(names),
                None => {
                    let documents = self.inner.documents(&image.manifest_digest).map_err(failed)?;
                    let whole = (documents.manifest.clone(), image.diff_ids.clone());
                    chosen.push(Archived::new(outgoing.root, &outgoing.tree, Some(whole), names));
                }
            }
        }
        for image in &mut chosen {
            image.names.sort();
            image.names.dedup();
        }
        Ok(chosen)
    }
}

/// Writes `images` into one archive. `name` is for messages, `file` says where each blob and document is.
pub(crate) fn write_archive<W: Write>(
    name: &str,
    images: &[Archived],
    form: ArchiveForm,
    file: &dyn Fn(&Digest) -> PathBuf,
    output: W,
) -> Result<(), SaveError> {
    let archive = tar::Builder::new(BufWriter::with_capacity(1 << 20, output));
    Save { name: name.to_owned(), blob: file, archive, written: HashSet::new() }.run(images, form)
}

struct Save<'f, W: Write> {
    name: String,
    blob: &'f dyn Fn(&Digest) -> PathBuf,
    archive: tar::Builder<BufWriter<W>>,
    written: HashSet<String>,
}

impl<W: Write> Save<'_, W> {
    fn run(mut self, images: &[Archived], form: ArchiveForm) -> Result<(), SaveError> {
        match form {
            ArchiveForm::Oci => self.oci(images)?,
            ArchiveForm::Docker => self.docker(images)?,
        }
        let finished = self.archive.into_inner().and_then(|mut output| output.flush());
        finished.map_err(|source| SaveError::Io { name: self.name, object: "write the archive's end".into(), source })
    }

    fn oci(&mut self, images: &[Archived]) -> Result<(), SaveError> {
        self.member("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        let mut entries = Vec::new();
        for image in images {
            let mut size = 0;
            for digest in &image.parts {
                let (file, length) = self.open(digest)?;
                self.file(&format!("blobs/sha256/{}", digest.hex()), file, length)?;
                size = if *digest == image.root { length } else { size };
            }
            let entry = json!({"mediaType": image.media_type, "digest": image.root, "size": size});
            let named = |name: &String| {
                let mut entry = entry.clone();
                entry["annotations"] = json!({REF_NAME: name, CONTAINERD_NAME: name});
                entry
            };
            entries.extend(image.names.iter().map(named));
            if image.names.is_empty() {
                entries.push(entry);
            }
        }
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.member("index.json", index.to_string().as_bytes())
    }

    fn docker(&mut self, images: &[Archived]) -> Result<(), SaveError> {
        let mut entries = Vec::new();
        for image in images {
            let Some((manifest, diff_ids)) = &image.image else {
                continue;
            };
            let config = manifest.config.digest;
            let (file, length) = self.open(&config)?;
            self.file(&format!("{}.json", config.hex()), file, length)?;
            let mut layers = Vec::new();
            for (layer, diff_id) in manifest.layers.iter().zip(diff_ids) {
                let path = format!("{}/layer.tar", diff_id.hex());
                self.layer(&path, layer, diff_id)?;
                layers.push(path);
            }
            let config = format!("{}.json", config.hex());
            entries.push(json!({"Config": config, "RepoTags": image.names, "Layers": layers}));
        }
        self.member("manifest.json", json!(entries).to_string().as_bytes())
    }

    /// A layer, uncompressed. A tar says a member's length before the member: the layer is read twice, which also
    /// shows whether it is what the config says.
    fn layer(&mut self, path: &str, layer: &Descriptor, expected: &Digest) -> Result<(), SaveError> {
        if self.written.contains(path) {
            return Ok(());
        }
        let object = format!("read layer {}", layer.digest);
        let failed = |name: &str, source| SaveError::Io { name: name.into(), object: object.clone(), source };
        let (mut file, _) = self.open(&layer.digest)?;
        let mut hasher = Hasher::default();
        let mut buffer = vec![0; 256 << 10];
        let mut content = decompress(BufReader::new(&file)).map_err(|source| failed(&self.name, source))?;
        loop {
            match content.read(&mut buffer).map_err(|source| failed(&self.name, source))? {
                0 => break,
                count => hasher.update(&buffer[..count]),
            }
        }
        drop(content);
        let length = hasher.bytes();
        let found = hasher.finish();
        if found != *expected {
            return Err(SaveError::DiffId { name: self.name.clone(), layer: layer.digest, found, expected: *expected });
        }
        file.rewind().map_err(|source| failed(&self.name, source))?;
        let content = decompress(BufReader::new(file)).map_err(|source| failed(&self.name, source))?;
        self.file(path, content, length)
    }

    fn open(&self, digest: &Digest) -> Result<(File, u64), SaveError> {
        let path = (self.blob)(digest);
        let opened = File::open(&path).and_then(|file| file.metadata().map(|metadata| (file, metadata.len())));
        opened.map_err(|source| SaveError::Io {
            name: self.name.clone(),
            object: format!("read {}", path.display()),
            source,
        })
    }

    fn member(&mut self, path: &str, bytes: &[u8]) -> Result<(), SaveError> {
        self.file(path, bytes, bytes.len() as u64)
    }

    /// One member; the second of the same path is left out.
    fn file(&mut self, path: &str, content: impl Read, length: u64) -> Result<(), SaveError> {
        if !self.written.insert(path.to_owned()) {
            return Ok(());
        }
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(length);
        // The same image makes the same archive.
        header.set_mtime(0);
        let written = self.archive.append_data(&mut header, path, content);
        written.map_err(|source| SaveError::Io { name: self.name.clone(), object: format!("write {path}"), source })
    }
}
