//! The names of images: annotations of the entries of index.json.

use crate::digest::Digest;
use crate::image::Image;
use crate::manifest::Descriptor;
use crate::reference::Reference;

/// The name an entry of index.json is found by (image-spec, "Pre-Defined Annotation Keys").
pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// The same, as containerd's tools look for it.
pub(crate) const CONTAINERD_NAME: &str = "io.containerd.image.name";
/// `repository@digest` the entry was pulled as, the digest being an index's if the reference led to one.
pub(crate) const REPO_DIGEST: &str = "dev.wharf.repo-digest";

/// The index that a tagged entry was chosen from, where no repository digest says so.
pub(crate) const INDEX: &str = "dev.wharf.index";

/// What has it is not removed to make room.
pub(crate) const PINNED: &str = "dev.wharf.pinned";

/// The new index: `name` (and `repo_digest`) lead to `entry`. What had the name keeps its place without it, so that
/// a container made from it can still find it by id.
pub(crate) fn set_name(
    entries: Vec<Descriptor>,
    mut entry: Descriptor,
    name: Option<&str>,
    repo_digest: Option<&str>,
) -> Vec<Descriptor> {
    let annotations = entry.annotations.get_or_insert_default();
    if let Some(name) = name {
        annotations.insert(REF_NAME.into(), name.into());
        annotations.insert(CONTAINERD_NAME.into(), name.into());
    }
    if let Some(repo_digest) = repo_digest {
        annotations.insert(REPO_DIGEST.into(), repo_digest.into());
    }
    if annotations.is_empty() {
        entry.annotations = None;
    }
    let mut kept: Vec<Descriptor> = Vec::with_capacity(entries.len() + 1);
    for mut old in entries {
        if name.is_some() && annotation(&old, REF_NAME) == name {
            // A pin is the name's.
            if let Some(pin) = old.annotations.as_mut().and_then(|annotations| annotations.remove(PINNED)) {
                entry.annotations.get_or_insert_default().insert(PINNED.into(), pin);
            }
            if old.digest == entry.digest && annotation(&old, REPO_DIGEST) == repo_digest {
                continue;
            }
            if let Some(annotations) = &mut old.annotations {
                annotations.remove(REF_NAME);
                annotations.remove(CONTAINERD_NAME);
            }
        }
        // Without any name an entry says nothing beside another of the same manifest.
        let nameless = is_nameless(&old);
        let said = |other: &Descriptor| old.digest == other.digest && old.annotations == other.annotations;
        if (nameless && old.digest == entry.digest) || said(&entry) || kept.iter().any(said) {
            continue;
        }
        kept.push(old);
    }
    if !is_nameless(&entry) || !kept.iter().any(|old| old.digest == entry.digest) {
        kept.push(entry);
    }
    kept
}

pub(crate) fn annotation<'a>(entry: &'a Descriptor, key: &str) -> Option<&'a str> {
    entry.annotations.as_ref()?.get(key).map(String::as_str)
}

pub(super) fn is_pinned(entry: &Descriptor) -> bool {
    annotation(entry, PINNED).is_some()
}

fn is_nameless(entry: &Descriptor) -> bool {
    annotation(entry, REF_NAME).is_none() && annotation(entry, REPO_DIGEST).is_none()
}

/// The index that the entry was chosen from.
pub(crate) fn index_of(entry: &Descriptor) -> Option<Digest> {
    let said = annotation(entry, INDEX).and_then(|digest| digest.parse().ok());
    said.or_else(|| repo_digest_target(entry)).filter(|index| *index != entry.digest)
}

/// The entry's tagged name and its name by digest. A reference with a digest is no tag.
pub(super) fn names(entry: &Descriptor) -> (Option<String>, Option<String>) {
    let name = annotation(entry, REF_NAME).filter(|name| !name.contains('@'));
    (name.map(str::to_owned), annotation(entry, REPO_DIGEST).map(str::to_owned))
}

/// The digest a pulled entry's reference led to: its own, or that of the index it was chosen from.
pub(crate) fn repo_digest_target(entry: &Descriptor) -> Option<Digest> {
    annotation(entry, REPO_DIGEST)?.rsplit_once('@')?.1.parse().ok()
}

pub(super) fn is_named(image: &Image, reference: &Reference) -> bool {
    match reference.digest() {
        // The tag beside a digest is a comment: the digest decides.
        Some(digest) => image.repo_digests.contains(&reference.with_digest(digest).to_string()),
        None => image.repo_tags.contains(&reference.to_string()),
    }
}

pub(super) fn entry_is_named(entry: &Descriptor, reference: &Reference) -> bool {
    let (tag, repo_digest) = names(entry);
    match reference.digest() {
        Some(digest) => repo_digest == Some(reference.with_digest(digest).to_string()),
        None => tag == Some(reference.to_string()),
    }
}
