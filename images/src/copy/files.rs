//! Copies that end in files: everything is brought here first, then written at once.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use futures_util::stream::{self, TryStreamExt};

use super::{Copied, Copy, CopyError, Source};
use crate::content::Content;
use crate::digest::Digest;
use crate::image::ConfigDocument;
use crate::layout::Session;
use crate::manifest::{Descriptor, Document, Manifest, Platform, from_object};
use crate::platform;
use crate::progress::LayerState;
use crate::save::{ArchiveForm, Archived, write_archive};
use crate::tree::Tree;

/// Blobs fetched at once.
const PARALLEL_BLOBS: usize = 4;

/// Everything of an image or an index, in files.
pub(super) struct Files {
    pub(super) root: Digest,
    pub(super) media_type: &'static str,
    pub(super) files: HashMap<Digest, PathBuf>,
    /// Some of them are in it.
    _session: Session,
}

impl Files {
    pub(super) fn blob(&self, digest: &Digest) -> PathBuf {
        self.files.get(digest).cloned().unwrap_or_default()
    }
}

impl Copy<'_> {
    pub(super) async fn write_any_archive(
        &self,
        source: &Source<'_>,
        path: &Path,
        name: Option<&str>,
        form: ArchiveForm,
    ) -> Result<(), CopyError> {
        let archived = Archived::new(source.root, &source.tree, None, name.map(str::to_owned).into_iter().collect());
        let files = self.gather(source).await?;
        self.write_archive(path, archived, form, files).await
    }

    pub(super) async fn write_docker_archive(
        &self,
        source: &Source<'_>,
        path: &Path,
        name: Option<&str>,
    ) -> Result<Copied, CopyError> {
        let (digest, manifest) = self.only_image(source)?;
        let mut tree = Tree::of(digest);
        let document = source.tree.documents().iter().find(|document| document.digest == digest);
        tree.next();
        tree.add(digest, document.map(|document| document.bytes.clone()).unwrap_or_default()).map_err(self.failed())?;
        let whole =
            Source { root: digest, tree, content: Content::Files(HashMap::new()), is_part: false, repository: None };
        let files = self.gather_from(&source.content, &whole).await?;
        let config = files.blob(&manifest.config.digest);
        let config = std::fs::read(config).map_err(self.io("read config"))?;
        let config: ConfigDocument = from_object(&config).map_err(|error| self.io("read config")(error.into()))?;
        let diff_ids = config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let problem = format!("config names {} diff ids for {} layers", diff_ids.len(), manifest.layers.len());
            return Err(self.io("read config")(io::Error::other(problem)));
        }
        let names = name.map(str::to_owned).into_iter().collect();
        let archived = Archived::new(digest, &whole.tree, Some((manifest, diff_ids)), names);
        self.write_archive(path, archived, ArchiveForm::Docker, files).await?;
        Ok(Copied { digest, is_part: source.is_part || digest != source.root })
    }

    /// The image that a form without indexes can take.
    fn only_image(&self, source: &Source<'_>) -> Result<(Digest, Manifest), CopyError> {
        let document = |digest: Digest| {
            let found = source.tree.documents().iter().find(|document| document.digest == digest);
            let bytes = found.map_or(&[][..], |found| &found.bytes);
            Document::parse(bytes, digest).map_err(self.failed())
        };
        let index = match document(source.root)? {
            Document::Manifest(manifest) => return Ok((source.root, manifest)),
            Document::Index(index) => index,
        };
        let wanted = self.options.platform.clone().unwrap_or_else(Platform::host);
        let offered = || CopyError::Platform {
            from: self.from.to_string(),
            platform: wanted.clone(),
            offered: platform::offered(&index),
        };
        let chosen = platform::choose(&index, &wanted).ok_or_else(offered)?;
        match document(chosen.digest)? {
            Document::Manifest(manifest) => Ok((chosen.digest, manifest)),
            Document::Index(_) => Err(offered()),
        }
    }

    pub(super) async fn gather(&self, source: &Source<'_>) -> Result<Files, CopyError> {
        self.gather_from(&source.content, source).await
    }

    /// Brings everything of `source` into files.
    async fn gather_from(&self, content: &Content<'_>, source: &Source<'_>) -> Result<Files, CopyError> {
        let files = Mutex::new(HashMap::new());
        let bring = async |blob: &Descriptor| {
            let state = |state, done| self.progress.report(blob.digest, state, done, blob.size);
            state(LayerState::Transferring, 0);
            let path = content.file(blob).await.map_err(self.failed())?;
            state(LayerState::Complete, blob.size);
            files.lock().unwrap_or_else(PoisonError::into_inner).insert(blob.digest, path);
            Ok::<_, CopyError>(())
        };
        stream::iter(source.tree.blobs().iter().map(Ok)).try_for_each_concurrent(PARALLEL_BLOBS, bring).await?;
        // Documents are in memory; archives want files.
        let session = self.store.inner.layout.session().map_err(self.io("begin"))?;
        let mut files = files.into_inner().unwrap_or_else(PoisonError::into_inner);
        for document in source.tree.documents() {
            session.write_blob(&document.digest, &document.bytes).map_err(self.io("write manifest"))?;
            files.insert(document.digest, session.own_blob(&document.digest));
        }
        let documents = source.tree.bottom_up();
        let media_type = documents.last().map_or("", |document| document.media_type);
        Ok(Files { root: source.root, media_type, files, _session: session })
    }

    /// Under another name until it is whole: nobody shall take half an archive for a whole one, nor lose an older one.
    async fn write_archive(
        &self,
        path: &Path,
        archived: Archived,
        form: ArchiveForm,
        files: Files,
    ) -> Result<(), CopyError> {
        let mut part = path.file_name().unwrap_or_default().to_owned();
        part.push(format!(".part-{}", std::process::id()));
        let (path, part, name) = (path.to_owned(), path.with_file_name(part), self.from.to_string());
        let written = self.blocking(move || {
            let output = File::create_new(&part)?;
            let written = write_archive(&name, &[archived], form, &|digest| files.blob(digest), &output)
                .map_err(io::Error::other)
                .and_then(|()| output.sync_all())
                .and_then(|()| std::fs::rename(&part, &path));
            if written.is_err() {
                // The error that is returned says more.
                let _ = std::fs::remove_file(&part);
            }
            written
        });
        written.await
    }
}
