//! Copying images between registries, this store, archives and OCI image layouts. An index is copied whole; where
//! content only passes through, it is in the store's temporary directory for as long as that takes.

mod error;
mod files;
mod layout;
mod place;

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

pub use error::CopyError;
pub use place::{Place, PlaceError};

use crate::archive::{Load, Selection};
use crate::content::Content;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::layout::Session;
use crate::manifest::{Document, Platform};
use crate::outgoing::Platforms;
use crate::platform;
use crate::progress::{ProgressFn, ProgressHub};
use crate::pull::PullOptions;
use crate::push::{Mounts, Push, mounts_of};
use crate::reference::Reference;
use crate::registry::{self, Purpose};
use crate::save::ArchiveForm;
use crate::store::{Store, index_of};
use crate::tree::Tree;

/// How to copy.
#[derive(Clone, Default)]
pub struct CopyOptions {
    /// Only the image for this platform; without it the whole index, or what there is of it.
    pub platform: Option<Platform>,
    /// What the registries are shown; `None` for what the store's keychain has for each.
    pub source_credentials: Option<Credentials>,
    pub credentials: Option<Credentials>,
    /// Speak HTTP without TLS to registries that are not on this machine.
    pub plain_http: bool,
    pub progress: Option<ProgressFn>,
}

/// What has been copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Of the manifest or index; docker's archives have neither.
    pub digest: Digest,
    /// Whether that is an image out of an index that stayed behind.
    pub is_part: bool,
}

/// What is copied, and where its content is.
struct Source<'s> {
    root: Digest,
    tree: Tree,
    content: Content<'s>,
    is_part: bool,
    /// Of the registry it is from.
    repository: Option<Reference>,
}

struct Copy<'c> {
    store: &'c Store,
    from: &'c Place,
    to: &'c Place,
    options: &'c CopyOptions,
    progress: ProgressHub,
}

impl Store {
    /// Copies what `from` names to `to`. What was at `to` before stays if this fails.
    pub async fn copy(&self, from: &Place, to: &Place, options: &CopyOptions) -> Result<Copied, CopyError> {
        let progress = ProgressHub::default();
        progress.add(options.progress.clone());
        let copy = Copy { store: self, from, to, options, progress };
        if let Place::Store(name) = to {
            return copy.write_store(name).await;
        }
        // What passes through is in it, to the end.
        let session = Arc::new(self.inner.layout.session().map_err(copy.io("begin"))?);
        let source = copy.source(&session).await?;
        match to {
            Place::Registry(reference) => copy.write_registry(&source, reference).await?,
            Place::Layout(folder, name) => {
                let files = copy.gather(&source).await?;
                let (folder, name) = (folder.clone(), name.clone());
                copy.blocking(move || layout::write(&folder, name.as_deref(), &files)).await?;
            }
            Place::OciArchive(path, name) => {
                copy.write_any_archive(&source, path, name.as_deref(), ArchiveForm::Oci).await?
            }
            Place::DockerArchive(path, name) => {
                return copy.write_docker_archive(&source, path, name.as_deref()).await;
            }
            Place::Store(_) => {}
        }
        Ok(Copied { digest: source.root, is_part: source.is_part })
    }
}

impl Copy<'_> {
    /// What is copied: documents are read, blobs stay where they are.
    async fn source(&self, session: &Arc<Session>) -> Result<Source<'_>, CopyError> {
        match self.from {
            Place::Registry(reference) => self.read_registry(reference, session).await,
            Place::Store(name) => {
                let platforms = self.options.platform.clone().map_or(Platforms::Present, Platforms::One);
                let outgoing = self.store.outgoing(name, &platforms).map_err(self.failed())?;
                let content = Content::Store(session.clone());
                let (root, tree, is_part) = (outgoing.root, outgoing.tree, outgoing.is_part);
                Ok(Source { root, tree, content, is_part, repository: None })
            }
            Place::Layout(path, name) | Place::OciArchive(path, name) | Place::DockerArchive(path, name) => {
                let selection = self.selection(name.as_ref());
                let load = Load::new(self.store, path, selection, None);
                let (session, whole) = (session.clone(), self.options.platform.is_none());
                let spooled = tokio::task::spawn_blocking(move || {
                    let spool = load.spool(&session)?;
                    let image = load.one_image(&spool, &session)?;
                    let root = index_of(&image.entry).filter(|_| whole).unwrap_or(image.entry.digest);
                    let mut files: HashMap<Digest, PathBuf> =
                        spool.by_digest.into_iter().map(|(digest, spooled)| (digest, spooled.file)).collect();
                    // Of docker's archives the manifest is our own.
                    files.entry(root).or_insert_with(|| session.own_blob(&root));
                    Ok((root, files))
                });
                let (root, files) = spooled
                    .await
                    .map_err(|error| self.io("read")(io::Error::other(error)))?
                    .map_err(|source| CopyError::Load { from: self.from.to_string(), source: Box::new(source) })?;
                let mut tree = Tree::of(root);
                while let Some(digest) = tree.next() {
                    let path = files.get(&digest).ok_or_else(|| self.io("read")(io::ErrorKind::NotFound.into()))?;
                    let bytes = std::fs::read(path).map_err(self.io("read"))?;
                    tree.add(digest, bytes).map_err(self.failed())?;
                }
                Ok(Source { root, tree, content: Content::Files(files), is_part: false, repository: None })
            }
        }
    }

    async fn read_registry(&self, reference: &Reference, session: &Arc<Session>) -> Result<Source<'_>, CopyError> {
        let remote = self.open(reference, &Purpose::Pull, self.options.source_credentials.as_ref())?;
        let mut served = remote.manifest(&reference.manifest_key()).await.map_err(self.failed())?;
        let document = Document::parse(&served.bytes, served.digest).map_err(self.failed())?;
        if let (Document::Index(index), Some(wanted)) = (&document, &self.options.platform) {
            let chosen = platform::choose(index, wanted).ok_or_else(|| CopyError::Platform {
                from: self.from.to_string(),
                platform: wanted.clone(),
                offered: platform::offered(index),
            })?;
            served = remote.manifest(&chosen.digest.to_string()).await.map_err(self.failed())?;
        }
        let root = served.digest;
        let mut tree = Tree::of(root);
        while let Some(digest) = tree.next() {
            let bytes = match digest == root {
                true => std::mem::take(&mut served.bytes),
                false => remote.manifest(&digest.to_string()).await.map_err(self.failed())?.bytes,
            };
            tree.add(digest, bytes).map_err(self.failed())?;
        }
        let content = Content::Registry(remote, session.clone());
        Ok(Source { root, tree, content, is_part: false, repository: Some(reference.clone()) })
    }

    async fn write_registry(&self, source: &Source<'_>, to: &Reference) -> Result<(), CopyError> {
        let mut mounts: Mounts = mounts_of(&self.store.inner, to, &source.tree).map_err(self.failed())?;
        if let Some(from) = source.repository.as_ref().filter(|from| from.registry() == to.registry()) {
            source.tree.blobs().iter().for_each(|blob| mounts.add(blob.digest, from.repository()));
        }
        let purpose = Purpose::Push { mounts: mounts.repositories() };
        let remote = self.open(to, &purpose, self.options.credentials.as_ref())?;
        let push = Push { to, remote: &remote, content: &source.content, mounts: &mounts, progress: &self.progress };
        push.check(source.root).map_err(self.failed())?;
        push.run(source.root, &source.tree).await.map_err(self.failed())
    }

    async fn write_store(&self, name: &str) -> Result<Copied, CopyError> {
        let tag: Reference = name.parse().map_err(self.failed())?;
        let image = match self.from {
            Place::Registry(reference) => {
                let options = PullOptions {
                    platform: self.options.platform.clone(),
                    all_platforms: self.options.platform.is_none(),
                    credentials: self.options.source_credentials.clone(),
                    plain_http: self.options.plain_http,
                    progress: self.options.progress.clone(),
                };
                let pulled = self.store.pull(reference, options).await;
                let image = pulled.map_err(|source| CopyError::Pull { to: self.to.to_string(), source })?;
                match tag == *reference {
                    true => image,
                    false => self.store.tag(&reference.to_string(), &tag).map_err(self.failed())?,
                }
            }
            Place::Store(from) => self.store.tag(from, &tag).map_err(self.failed())?,
            Place::Layout(path, name) | Place::OciArchive(path, name) | Place::DockerArchive(path, name) => {
                let selection = Selection { name: Some(tag), ..self.selection(name.as_ref()) };
                let loaded = self.store.load_selected(path, selection, self.options.progress.clone()).await;
                let failed = |source| CopyError::Load { from: self.from.to_string(), source: Box::new(source) };
                loaded.map_err(failed)?.pop().ok_or_else(|| self.io("load")(io::ErrorKind::NotFound.into()))?
            }
        };
        Ok(Copied { digest: image.manifest_digest, is_part: false })
    }

    fn selection(&self, name: Option<&String>) -> Selection {
        Selection { only: name.cloned(), name: None, platform: self.options.platform.clone() }
    }

    fn open<'r>(
        &'r self,
        reference: &Reference,
        purpose: &Purpose,
        credentials: Option<&Credentials>,
    ) -> Result<registry::Session<'r>, CopyError> {
        let inner = &self.store.inner;
        let access = (&inner.registries, self.options.plain_http);
        registry::Session::open(&inner.registry, reference, purpose, access, (&inner.keychain, credentials))
            .map_err(|source| CopyError::Setup { reference: reference.to_string(), source: Box::new(source) })
    }

    async fn blocking(&self, work: impl FnOnce() -> io::Result<()> + Send + 'static) -> Result<(), CopyError> {
        let done = tokio::task::spawn_blocking(work).await;
        done.unwrap_or_else(|error| Err(io::Error::other(error))).map_err(self.io("write"))
    }

    fn io(&self, operation: &'static str) -> impl Fn(io::Error) -> CopyError + '_ {
        move |source| CopyError::Io { from: self.from.to_string(), to: self.to.to_string(), operation, source }
    }

    fn failed<E: std::error::Error + Send + Sync + 'static>(&self) -> impl Fn(E) -> CopyError + '_ {
        |source| CopyError::Failed { from: self.from.to_string(), to: self.to.to_string(), source: Box::new(source) }
    }
}
