//! The manifest folder: what its files say, is.
//!
//! Each object made from a file carries the file's name as an annotation, so that it goes when its file, or its part
//! of it, goes; after a restart too. A file that cannot be read changes nothing.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use futures_util::StreamExt;
use inotify::{Inotify, WatchMask};
use serde_json::Value;
use wharf_specs::manifest::{self, MAX_MANIFEST_BYTES, Manifest};

use crate::api::kinds::{KINDS, Kind, text};
use crate::api::objects::{Half, Objects, Propagation};
use crate::api::status::ApiError;

pub(super) const FILE_ANNOTATION: &str = "wharf/manifest-file";

/// Follows the folder; ends at once where it is missing, with a warning.
pub async fn run(objects: Objects, folder: PathBuf) {
    let watch = || -> std::io::Result<_> {
        let inotify = Inotify::init()?;
        // Complete files only: written and closed, moved in, or gone.
        let mask = WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::MOVED_FROM | WatchMask::DELETE;
        inotify.watches().add(&folder, mask)?;
        inotify.into_event_stream([0; 4096])
    };
    let mut events = match watch() {
        Ok(events) => events,
        Err(error) => {
            tracing::warn!(folder = %folder.display(), %error, "watch the manifest folder: no manifest is read");
            return;
        }
    };
    loop {
        synchronise(&objects, &folder).await;
        if events.next().await.is_none() {
            return;
        }
    }
}

/// Identity of an object: kind, namespace, name.
type Id = (&'static str, String, String);

async fn synchronise(objects: &Objects, folder: &Path) {
    let mut wanted: BTreeSet<Id> = BTreeSet::new();
    let mut unreadable: BTreeSet<String> = BTreeSet::new();
    for path in manifest_files(folder) {
        let file = path.file_name().and_then(OsStr::to_str).unwrap_or_default().to_owned();
        match read(&path) {
            Ok(manifests) => {
                for manifest in manifests {
                    apply(objects, &file, manifest, &mut wanted).await;
                }
            }
            Err(error) => {
                tracing::error!(file = %path.display(), %error, "read manifest");
                unreadable.insert(file);
            }
        }
    }
    for kind in KINDS {
        for object in objects.list(kind, None).0 {
            let file = object["metadata"]["annotations"][FILE_ANNOTATION].as_str().unwrap_or_default();
            let (namespace, name) = (text(&object, "/metadata/namespace"), text(&object, "/metadata/name"));
            let gone = !file.is_empty()
                && !unreadable.contains(file)
                && !wanted.contains(&(kind.plural, namespace.into(), name.into()))
                && text(&object, "/metadata/deletionTimestamp").is_empty();
            if gone && let Err(error) = objects.delete(kind, namespace, name, Propagation::Background, None).await {
                tracing::error!(file, kind = kind.kind, namespace, name, %error, "delete what its manifest no longer names");
            }
        }
    }
}

/// Files named `*.yaml`, `*.yml` or `*.json`, in order; hidden ones are somebody's half-written copies.
fn manifest_files(folder: &Path) -> Vec<PathBuf> {
    let is_manifest = |path: &PathBuf| {
        let hidden = path.file_name().and_then(OsStr::to_str).is_none_or(|name| name.starts_with('.'));
        let extension = path.extension().and_then(OsStr::to_str).unwrap_or_default();
        !hidden && ["yaml", "yml", "json"].contains(&extension)
    };
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(is_manifest).collect();
    files.sort();
    files
}

fn read(path: &Path) -> Result<Vec<Manifest>, String> {
    let size = std::fs::metadata(path).map_err(|error| error.to_string())?.len();
    if size > MAX_MANIFEST_BYTES as u64 {
        return Err(format!("file is {size} bytes long, the limit is {MAX_MANIFEST_BYTES}"));
    }
    let text = std::fs::read_to_string(path).map_err(|error| error.to_string())?;
    manifest::parse(&text).map_err(|error| error.to_string())
}

async fn apply(objects: &Objects, file: &str, manifest: Manifest, wanted: &mut BTreeSet<Id>) {
    let Some(kind) = Kind::of_manifest(&manifest.api_version, &manifest.kind) else { return };
    let namespace = match kind.namespaced {
        true => manifest.namespace.clone().unwrap_or_else(|| "default".into()),
        false => String::new(),
    };
    let id = (kind.plural, namespace.clone(), manifest.name.clone());
    if !wanted.insert(id) {
        tracing::error!(
            file,
            kind = kind.kind,
            name = manifest.name,
            "named twice in the manifest folder: the first counts"
        );
        return;
    }
    let mut object = manifest.object;
    object["metadata"]["annotations"][FILE_ANNOTATION] = file.into();
    let result = match objects.get(kind, &namespace, &manifest.name) {
        Err(ApiError::NotFound { .. }) => objects.create(kind, &namespace, object).await,
        Err(error) => Err(error),
        Ok(_) => {
            objects
                .update(kind, &namespace, &manifest.name, Half::Desired, move |current| Ok(merged(current, object)))
                .await
        }
    };
    if let Err(error) = result {
        tracing::error!(file, line = manifest.line, kind = kind.kind, namespace, name = manifest.name, %error, "apply manifest");
    }
}

/// The manifest's half of the object, whole; the rest is the node's own.
fn merged(mut current: Value, manifest: Value) -> Value {
    for (field, value) in manifest.as_object().into_iter().flatten() {
        if field != "metadata" {
            current[field] = value.clone();
        }
    }
    for field in ["labels", "annotations"] {
        current["metadata"][field] = manifest["metadata"][field].clone();
    }
    current
}
