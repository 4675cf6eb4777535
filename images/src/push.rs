//! Pushing: an image or a whole multi-platform index from the store to a registry.
//!
//! Blobs first, several at a time, each only if the registry neither has it nor can take it from another repository;
//! then the manifests, each before what names it; the reference last.

mod error;
mod mounts;

use std::sync::Arc;

use futures_util::stream::{self, TryStreamExt};

pub use error::PushError;
pub(crate) use mounts::{Mounts, of as mounts_of};

use crate::content::Content;
use crate::credentials::Credentials;
use crate::digest::Digest;
use crate::manifest::Descriptor;
use crate::outgoing::Platforms;
use crate::progress::{LayerState, ProgressFn, ProgressHub};
use crate::reference::Reference;
use crate::registry::{self, Offered, Purpose, Pusher, Upload};
use crate::store::{INDEX, REF_NAME, Store, StoreError, annotation, index_of, set_name};
use crate::tree::Tree;

/// Blobs that one push offers and sends at once.
const PARALLEL_BLOBS: usize = 4;

/// How to push.
#[derive(Clone, Default)]
pub struct PushOptions {
    pub platforms: Platforms,
    /// What the registry is shown; `None` for what the store's keychain has for it.
    pub credentials: Option<Credentials>,
    /// Speak HTTP without TLS to a registry that is not on this machine.
    pub plain_http: bool,
    pub progress: Option<ProgressFn>,
}

/// What a registry has now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pushed {
    /// What the reference leads to there.
    pub digest: Digest,
    /// Whether that is an image out of an index that is not whole here and so was not pushed.
    pub is_part: bool,
}

impl Store {
    /// Pushes the image called `name` (as in [`Store::resolve`]) to where `to` says, bit by bit as it is here.
    ///
    /// Where the registry has it already, that costs one HEAD request.
    pub async fn push(&self, name: &str, to: &Reference, options: PushOptions) -> Result<Pushed, PushError> {
        let store_failed = |source| PushError::Store { reference: to.to_string(), source: Box::new(source) };
        let plan = self.outgoing(name, &options.platforms).map_err(store_failed)?;
        let root = plan.root;
        let begun = self.inner.layout.session();
        let session =
            begun.map_err(|source| PushError::Io { reference: to.to_string(), operation: "begin", source })?;
        let content = Content::Store(Arc::new(session));
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
        job.check(root)?;
        job.run(root, &plan.tree).await?;
        self.name_pushed(name, to, root).map_err(store_failed)?;
        Ok(Pushed { digest: root, is_part: plan.is_part })
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

/// One transfer of content to a repository.
pub(crate) struct Push<'p> {
    pub to: &'p Reference,
    pub remote: &'p registry::Session<'p>,
    pub content: &'p Content<'p>,
    pub mounts: &'p Mounts,
    pub progress: &'p ProgressHub,
}

impl Push<'_> {
    /// Whether `root` is what the destination names by digest.
    pub(crate) fn check(&self, root: Digest) -> Result<(), PushError> {
        match self.to.digest().filter(|expected| *expected != root) {
            Some(expected) => Err(PushError::Digest { reference: self.to.to_string(), expected, found: root }),
            None => Ok(()),
        }
    }

    pub(crate) async fn run(&self, root: Digest, tree: &Tree) -> Result<(), PushError> {
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
                let failed = |source| PushError::Content { reference: self.to.to_string(), source: Box::new(source) };
                let file = self.content.file(blob).await.map_err(failed)?;
                let progress = self.progress.clone();
                let report = Arc::new(move |done| progress.report(digest, LayerState::Transferring, done, size));
                let upload = Upload { digest, size, file, report };
                pusher.upload(&upload, begun).await?;
                self.content.release(&upload.file);
                self.progress.report(digest, LayerState::Complete, size, size);
            }
        }
        Ok(())
    }
}
