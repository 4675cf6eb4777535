//! Pushing: an image or a whole multi-platform index from the store to a registry.
//!
//! Blobs first, several at a time, each only if the registry neither has it nor can take it from another repository;
//! then the manifests, each before what names it; the reference last.

mod error;
mod mounts;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use futures_util::stream::{self, TryStreamExt};

pub use error::PushError;

use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::layout::Session;
use crate::manifest::{Descriptor, Platform};
use crate::progress::{LayerState, ProgressFn, ProgressHub};
use crate::reference::Reference;
use crate::registry::{self, Offered, Purpose, Pusher, Upload};
use crate::store::{INDEX, REF_NAME, Store, StoreError, annotation, index_of, set_name};
use crate::tree::Tree;
use crate::verify;

/// Blobs that one push offers and sends at once.
const PARALLEL_BLOBS: usize = 4;

/// How to push.
#[derive(Clone, Default)]
pub struct PushOptions {
    pub platforms: PushedPlatforms,
    /// What the registry is shown; `None` for what the store's keychain has for it.
    pub credentials: Option<Credentials>,
    /// Speak HTTP without TLS to a registry that is not on this machine.
    pub plain_http: bool,
    pub progress: Option<ProgressFn>,
}

/// What is pushed of a multi-platform image.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum PushedPlatforms {
    /// Its index if all of it is here, else the image that is.
    #[default]
    Present,
    /// Its index; an error if some of it is not here.
    All,
    /// One image of it.
    One(Platform),
}

/// What a registry has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the reference leads to there.
    pub digest: Digest,
    /// Whether that is an image out of an index that is not whole here and so was not pushed.
    pub is_part: bool,
}

/// What is to be pushed.
struct Plan {
    root: Digest,
    tree: Tree,
    is_part: bool,
}

impl Store {
    /// Pushes the image called `name` (as in [`Store::resolve`]) to where `to` says, bit by bit as it is here.
    ///
    /// Where the registry has it already, that costs one HEAD request.
    pub async fn push(&self, name: &str, to: &Reference, options: PushOptions) -> Result<Pushed, PushError> {
        let store_failed = |source| PushError::Store { reference: to.to_string(), source: Box::new(source) };
        let plan = self.push_plan(name, to, &options.platforms)?;
        let root = plan.root;
        if let Some(expected) = to.digest().filter(|expected| *expected != root) {
            return Err(PushError::Digest { reference: to.to_string(), expected, found: root });
        }
        let session = self.inner.layout.session().map_err(io_failed(to, "begin"))?;
        let session = Arc::new(session);
        let content = StoreContent { session: session.clone() };
        let inner = &self.inner;
        let mounts = mounts::of(inner, to, &plan.tree).map_err(store_failed)?;
        let remote = registry::Session::open(
            &inner.registry,
            to,
            &Purpose::Push { mounts: mounts.repositories() },
            (&inner.registries, options.plain_http),
            (&inner.keychain, options.credentials.as_ref()),
        )
        .map_err(|source| PushError::Setup { reference: to.to_string(), source: Box::new(source) })?;
        let progress = ProgressHub::default();
        progress.add(options.progress);
        let job = Push { to, remote: &remote, content: &content, mounts: &mounts, progress: &progress };
        job.run(root, &plan.tree).await?;
        self.name_pushed(name, to, root).map_err(store_failed)?;
        Ok(Pushed { digest: root, is_part: plan.is_part })
    }

    fn push_plan(&self, name: &str, to: &Reference, platforms: &PushedPlatforms) -> Result<Plan, PushError> {
        let store_failed = |source| PushError::Store { reference: to.to_string(), source: Box::new(source) };
        let image = self.resolve(name).map_err(store_failed)?;
        let image = image.ok_or_else(|| PushError::NotFound { name: name.into() })?;
        let entries = self.inner.entries().map_err(store_failed)?;
        let entry = self.inner.entry_of(&entries, name, &image);
        let entry = entry.ok_or_else(|| PushError::NotFound { name: name.into() })?;
        let index = index_of(entry);
        let whole = |root| -> Result<Result<Tree, Digest>, PushError> {
            let tree = self.inner.tree(root).map_err(store_failed)?;
            let layout = &self.inner.layout;
            let gone = tree.blobs().iter().map(|blob| blob.digest).find(|digest| !layout.blob(digest).exists());
            Ok(tree.missing().or(gone).map_or(Ok(tree), Err))
        };
        let incomplete = |missing| PushError::Incomplete { name: name.into(), missing };
        let (root, tree, is_part) = match (index, platforms) {
            (Some(index), PushedPlatforms::Present | PushedPlatforms::All) => match whole(index)? {
                Ok(tree) => (index, tree, false),
                Err(missing) if *platforms == PushedPlatforms::All => return Err(incomplete(missing)),
                Err(_) => (entry.digest, whole(entry.digest)?.map_err(incomplete)?, true),
            },
            (None, PushedPlatforms::Present | PushedPlatforms::All) => {
                (entry.digest, whole(entry.digest)?.map_err(incomplete)?, false)
            }
            (index, PushedPlatforms::One(platform)) => {
                let only = (entry.digest, &image.platform);
                let root = self.inner.manifest_for(name, index, platform, only).map_err(store_failed)?;
                (root, whole(root)?.map_err(incomplete)?, false)
            }
        };
        Ok(Plan { root, tree, is_part })
    }

    /// An image that was pushed under its own name is known by its digest there from now on.
    fn name_pushed(&self, name: &str, to: &Reference, root: Digest) -> Result<(), StoreError> {
        let _lock = self.inner.lock()?;
        let entries = self.inner.entries()?;
        let tag = to.to_string();
        let named = |entry: &&Descriptor| annotation(entry, REF_NAME) == Some(tag.as_str());
        let Some(entry) = entries.iter().find(named) else {
            return Ok(());
        };
        // Another image may have got the name meanwhile, or had it all the time.
        if entry.digest != root && index_of(entry) != Some(root) {
            tracing::debug!(name, %tag, "what has the name here is another image");
            return Ok(());
        }
        let mut entry = entry.clone();
        let index = index_of(&entry).map(|index| (INDEX.to_owned(), index.to_string()));
        entry.annotations = index.map(|index| [index].into());
        let repo_digest = to.with_digest(root).to_string();
        self.inner.write_index(&set_name(entries.to_vec(), entry, Some(&tag), Some(&repo_digest)))
    }
}

/// Blobs of the store, kept from going away.
struct StoreContent {
    session: Arc<Session>,
}

impl StoreContent {
    /// A file that has the blob, whole and right.
    async fn file(&self, blob: &Descriptor, to: &Reference) -> Result<PathBuf, PushError> {
        let (session, digest) = (self.session.clone(), blob.digest);
        let checked = tokio::task::spawn_blocking(move || {
            let path = session.hold_blob(&digest)?;
            Ok((verify::digest_of(std::fs::File::open(&path)?)?, path))
        });
        let checked = checked.await.unwrap_or_else(|error| Err(io::Error::other(error)));
        let (found, path) = checked.map_err(|source| PushError::Io {
            reference: to.to_string(),
            operation: format!("read blob {digest}"),
            source,
        })?;
        match found == digest {
            true => Ok(path),
            false => Err(PushError::Damaged { reference: to.to_string(), blob: digest, found }),
        }
    }
}

struct Push<'p> {
    to: &'p Reference,
    remote: &'p registry::Session<'p>,
    content: &'p StoreContent,
    mounts: &'p mounts::Mounts,
    progress: &'p ProgressHub,
}

impl Push<'_> {
    async fn run(&self, root: Digest, tree: &Tree) -> Result<(), PushError> {
        let key = self.to.tag().map_or_else(|| root.to_string(), str::to_owned);
        let (pusher, there) = self.remote.pusher(&key).await?;
        if there == Some(root) {
            for blob in tree.blobs() {
                self.progress.report(blob.digest, LayerState::Present, 0, blob.size);
            }
            return Ok(());
        }
        for blob in tree.blobs() {
            self.progress.report(blob.digest, LayerState::Waiting, 0, blob.size);
        }
        stream::iter(tree.blobs().iter().map(Ok))
            .try_for_each_concurrent(PARALLEL_BLOBS, |blob| self.put_blob(&pusher, blob))
            .await?;
        for document in tree.bottom_up() {
            let own = document.digest.to_string();
            let key = if document.digest == root { &key } else { &own };
            pusher.put_manifest(key, document.media_type, &document.bytes).await?;
        }
        Ok(())
    }

    async fn put_blob(&self, pusher: &Pusher<'_>, blob: &Descriptor) -> Result<(), PushError> {
        let (digest, size) = (blob.digest, blob.size);
        match pusher.offer(digest, self.mounts.of_blob(&digest)).await? {
            Offered::Present => self.progress.report(digest, LayerState::Present, 0, size),
            Offered::Mounted(from) => {
                tracing::debug!(blob = %digest, from, "mounted");
                self.progress.report(digest, LayerState::Mounted, 0, size);
            }
            Offered::Wanted(begun) => {
                let file = self.content.file(blob, self.to).await?;
                let progress = self.progress.clone();
                let report = Arc::new(move |done| progress.report(digest, LayerState::Transferring, done, size));
                pusher.upload(&Upload { digest, size, file, report }, begun).await?;
                self.progress.report(digest, LayerState::Complete, size, size);
            }
        }
        Ok(())
    }
}

fn io_failed<'r>(reference: &'r Reference, operation: &'static str) -> impl Fn(io::Error) -> PushError + 'r {
    move |source| PushError::Io { reference: reference.to_string(), operation: operation.into(), source }
}
