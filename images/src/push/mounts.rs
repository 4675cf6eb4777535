//! Repositories of a registry that have blobs of an image already, as the store's own names tell.

use std::collections::{HashMap, HashSet};

use crate::digest::Digest;
use crate::reference::Reference;
use crate::store::{Inner, REF_NAME, REPO_DIGEST, StoreError, annotation, index_of};
use crate::tree::Tree;

/// More are not worth asking for.
const REPOSITORIES_PER_BLOB: usize = 2;
/// A token names each of them.
const REPOSITORIES_MAX: usize = 8;

/// Where each blob may be mounted from.
#[derive(Default)]
pub(crate) struct Mounts(HashMap<Digest, Vec<String>>);

/// Which blobs of `wanted` images of the store have that come from other repositories of the registry `to` is at.
pub(crate) fn of(store: &Inner, to: &Reference, wanted: &Tree) -> Result<Mounts, StoreError> {
    let wanted: HashSet<Digest> = wanted.blobs().iter().map(|blob| blob.digest).collect();
    let mut mounts = Mounts::default();
    for entry in store.entries()?.iter() {
        let names = [annotation(entry, REPO_DIGEST), annotation(entry, REF_NAME)];
        let repositories = names.into_iter().flatten().filter_map(|name| name.parse::<Reference>().ok());
        let mut others =
            repositories.filter(|name| name.registry() == to.registry() && name.repository() != to.repository());
        let Some(other) = others.next() else {
            continue;
        };
        // A damaged image has nothing to offer.
        if let Ok(tree) = store.tree(index_of(entry).unwrap_or(entry.digest)) {
            for blob in tree.blobs().iter().filter(|blob| wanted.contains(&blob.digest)) {
                mounts.add(blob.digest, other.repository());
            }
        }
    }
    Ok(mounts)
}

impl Mounts {
    pub(crate) fn add(&mut self, blob: Digest, repository: &str) {
        let known = self.repositories();
        let all = self.0.entry(blob).or_default();
        let is_new = !known.iter().any(|other| other == repository);
        if all.len() < REPOSITORIES_PER_BLOB
            && !all.iter().any(|other| other == repository)
            && !(is_new && known.len() >= REPOSITORIES_MAX)
        {
            all.push(repository.into());
        }
    }

    pub(crate) fn of_blob(&self, blob: &Digest) -> &[String] {
        self.0.get(blob).map_or(&[], Vec::as_slice)
    }

    /// All of them, for the token that is asked for.
    pub(crate) fn repositories(&self) -> Vec<String> {
        let mut all: Vec<String> = self.0.values().flatten().cloned().collect();
        all.sort();
        all.dedup();
        all
    }
}
