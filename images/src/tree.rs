//! Everything that belongs to an image or to a multi-platform index, found document by document.

use std::collections::HashSet;

use crate::digest::Digest;
use crate::manifest::{
    DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, Document, DocumentError, OCI_INDEX, OCI_MANIFEST, TREE_DOCUMENTS_MAX,
};

/// What has been found so far. Whoever walks it brings the documents that [`Tree::next`] asks for.
#[derive(Default)]
pub(crate) struct Tree {
    /// Manifests and indexes, in the order in which they were found.
    documents: Vec<TreeDocument>,
    pending: Vec<Digest>,
    /// Those that were asked for.
    asked: HashSet<Digest>,
    /// Configs and layers, each once.
    blobs: Vec<Descriptor>,
    known_blobs: HashSet<Digest>,
}

/// A manifest or an index.
#[derive(Clone)]
pub(crate) struct TreeDocument {
    pub digest: Digest,
    pub media_type: &'static str,
    pub bytes: Vec<u8>,
    /// The manifests that an index names.
    children: Vec<Digest>,
}

impl Tree {
    pub(crate) fn of(root: Digest) -> Self {
        Self { pending: vec![root], asked: HashSet::from([root]), ..Self::default() }
    }

    /// The next document to be brought, or left out.
    pub(crate) fn next(&mut self) -> Option<Digest> {
        self.pending.pop()
    }

    /// Takes a document, whose digest the caller has checked.
    pub(crate) fn add(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), DocumentError> {
        let mut document = TreeDocument { digest, media_type: OCI_MANIFEST, bytes, children: Vec::new() };
        match Document::parse(&document.bytes, digest)? {
            Document::Manifest(manifest) => {
                if manifest.media_type.as_deref() == Some(DOCKER_MANIFEST) {
                    document.media_type = DOCKER_MANIFEST;
                }
                for blob in manifest.layers.into_iter().chain([manifest.config]) {
                    if self.known_blobs.insert(blob.digest) {
                        self.blobs.push(blob);
                    }
                }
            }
            Document::Index(index) => {
                document.media_type =
                    if index.media_type.as_deref() == Some(DOCKER_INDEX) { DOCKER_INDEX } else { OCI_INDEX };
                document.children = index.manifests.iter().map(|child| child.digest).collect();
                for child in &document.children {
                    if self.asked.insert(*child) {
                        self.pending.push(*child);
                    }
                }
                if self.asked.len() > TREE_DOCUMENTS_MAX {
                    return Err(DocumentError::TooManyManifests { digest, found: self.asked.len() });
                }
            }
        }
        self.documents.push(document);
        Ok(())
    }

    /// A document that was asked for and not brought.
    pub(crate) fn missing(&self) -> Option<Digest> {
        let has = |digest: &&Digest| self.documents.iter().any(|document| document.digest == **digest);
        self.asked.iter().find(|digest| !has(digest)).copied()
    }

    /// Whether `digest` is one of its manifests and indexes, be it here or not.
    pub(crate) fn names(&self, digest: &Digest) -> bool {
        self.asked.contains(digest)
    }

    pub(crate) fn documents(&self) -> &[TreeDocument] {
        &self.documents
    }

    pub(crate) fn blobs(&self) -> &[Descriptor] {
        &self.blobs
    }

    /// The documents, each behind all that it names: a registry takes no index before its manifests. The root is last.
    pub(crate) fn bottom_up(&self) -> Vec<&TreeDocument> {
        let mut order: Vec<&TreeDocument> = Vec::with_capacity(self.documents.len());
        let mut left: Vec<&TreeDocument> = self.documents.iter().rev().collect();
        while !left.is_empty() {
            // Digests cannot name each other in a circle, so there is always one.
            let waiting: HashSet<Digest> = left.iter().map(|document| document.digest).collect();
            let (ready, rest) = left
                .into_iter()
                .partition::<Vec<_>, _>(|document| !document.children.iter().any(|child| waiting.contains(child)));
            if ready.is_empty() {
                order.extend(rest);
                break;
            }
            order.extend(ready);
            left = rest;
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(children: &[&str]) -> String {
        let entry = |text: &&str| serde_json::json!({"digest": Digest::of(text.as_bytes()), "size": 1});
        serde_json::json!({"schemaVersion": 2, "manifests": children.iter().map(entry).collect::<Vec<_>>()}).to_string()
    }

    #[test]
    fn what_is_named_comes_before_what_names_it() {
        let blob = Digest::of(b"blob");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{{"digest":"{blob}","size":1}},"layers":[]}}"#);
        let inner = index(&[&manifest]);
        let outer = index(&[&manifest, &inner]);
        let all = [&manifest, &inner, &outer];
        let mut tree = Tree::of(Digest::of(outer.as_bytes()));
        while let Some(digest) = tree.next() {
            let text = all.iter().find(|text| Digest::of(text.as_bytes()) == digest).unwrap();
            tree.add(digest, text.as_bytes().to_vec()).unwrap();
        }
        let order: Vec<Digest> = tree.bottom_up().iter().map(|document| document.digest).collect();
        assert_eq!(order, all.map(|text| Digest::of(text.as_bytes())));
        assert_eq!(tree.blobs().len(), 1);
    }

    #[test]
    fn an_index_without_an_end_is_refused() {
        let names: Vec<String> = (0..=TREE_DOCUMENTS_MAX).map(|number| number.to_string()).collect();
        let text = index(&names.iter().map(String::as_str).collect::<Vec<_>>());
        let digest = Digest::of(text.as_bytes());
        let error = Tree::of(digest).add(digest, text.into_bytes()).unwrap_err().to_string();
        assert!(error.contains(&digest.to_string()) && error.contains("at most"), "{error}");
    }
}
