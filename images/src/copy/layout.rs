//! Writing into an OCI image layout of somebody else's (image-spec, "OCI Image Layout"): new, or with more images in it.

use std::fs::{self, File};
use std::io;
use std::path::Path;

use serde_json::{Value, json};

use super::files::Files;
use crate::manifest::{DOCUMENT_MAX_BYTES, OCI_INDEX};
use crate::store::REF_NAME;

/// Adds the image to the layout at `folder`, in the place of the one that had `name`. Blobs first, the index last.
pub(super) fn write(folder: &Path, name: Option<&str>, files: &Files) -> io::Result<()> {
    let blobs = folder.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    for (digest, file) in &files.files {
        let (to, part) = (blobs.join(digest.hex()), blobs.join(format!(".part-{}", std::process::id())));
        if !to.exists() {
            fs::copy(file, &part)?;
            File::open(&part)?.sync_all()?;
            fs::rename(&part, &to)?;
        }
    }
    File::open(&blobs)?.sync_all()?;
    let marker = folder.join("oci-layout");
    if !marker.exists() {
        crate::layout::write_synced(&marker, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    }
    let index_file = folder.join("index.json");
    let mut index = read_index(&index_file)?;
    let entries = index["manifests"].as_array_mut();
    let entries = entries.ok_or_else(|| io::Error::other("index.json: `manifests` is no list"))?;
    let is_named = |entry: &Value| entry["annotations"][REF_NAME].as_str() == name;
    // Without a name, an entry stands for its digest alone.
    entries.retain(|entry| !is_named(entry) || (name.is_none() && entry["digest"] != json!(files.root)));
    let size = fs::metadata(files.blob(&files.root))?.len();
    let mut entry = json!({"mediaType": files.media_type, "digest": files.root, "size": size});
    if let Some(name) = name {
        entry["annotations"] = json!({REF_NAME: name});
    }
    entries.push(entry);
    crate::layout::write_synced(&index_file, &serde_json::to_vec(&index).map_err(io::Error::other)?)
}

fn read_index(path: &Path) -> io::Result<Value> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok(json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []}));
        }
        Ok(metadata) if metadata.len() > DOCUMENT_MAX_BYTES => {
            return Err(io::Error::other(format!("index.json is longer than {DOCUMENT_MAX_BYTES} bytes")));
        }
        other => other?,
    };
    serde_json::from_slice(&fs::read(path)?).map_err(|error| io::Error::other(format!("index.json: {error}")))
}
