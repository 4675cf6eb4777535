//! What reads other people's bytes, as functions of bytes: what the fuzz targets and their smoke test call. None of it
//! may panic, take long or reach out of its place, whatever the bytes are. Not part of the interface.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use crate::digest::Digest;
use crate::image::ConfigDocument;
use crate::layer::decompress;
use crate::manifest::{Document, from_object};
use crate::platform;
use crate::reference::Reference;
use crate::unpack::{Limits, unpack};
use crate::{Credentials, Platform};

/// Small enough for a fuzz target's memory file system.
const LIMITS: Limits = Limits { layer_bytes: 8 << 20, layer_members: 500 };

/// A reference, a digest, a platform and a login. True if one was taken; then it reads the same as it is written.
pub fn reference(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let _ = Credentials::from_base64(&text);
    let platform = text.parse::<Platform>();
    if let Ok(platform) = &platform {
        assert_eq!(platform.to_string().parse::<Platform>().as_ref(), Ok(platform));
    }
    let digest = text.parse::<Digest>();
    if let Ok(digest) = digest {
        assert_eq!(digest.to_string(), text);
    }
    let reference = match text.parse::<Reference>() {
        Ok(reference) => reference,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            return platform.is_ok() || digest.is_ok();
        }
    };
    assert_eq!(reference.to_string().parse::<Reference>().as_ref(), Ok(&reference));
    // It becomes part of a URL.
    let safe = |text: &str| text.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    assert!(safe(reference.repository()) && !reference.registry().contains(['/', '@', '?', '#']), "{reference}");
    true
}

/// A manifest, an index or a configuration. True if it was taken.
pub fn document(bytes: &[u8]) -> bool {
    let is_config = from_object::<ConfigDocument>(bytes).is_ok();
    match Document::parse(bytes, Digest::of(bytes)) {
        Ok(Document::Manifest(manifest)) => {
            // What is written into the store must be read again.
            let again = serde_json::to_vec(&manifest).map(|bytes| Document::parse(&bytes, Digest::of(&bytes)));
            let same = |again: &Result<Document, _>| match again {
                Ok(Document::Manifest(again)) => again.layers.len() == manifest.layers.len(),
                _ => false,
            };
            assert!(again.as_ref().is_ok_and(same), "{manifest:?}");
            true
        }
        Ok(Document::Index(index)) => {
            platform::choose(&index, &Platform::host());
            platform::offered(&index);
            true
        }
        Err(error) => {
            let line = error.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            is_config
        }
    }
}

/// The files of an archive, such as a checkpoint. True if it was taken.
pub fn files(bytes: &[u8]) -> bool {
    let sink = |path: &[u8], size: u64| {
        let plain = path.split(|byte| *byte == b'/').all(|part| !matches!(part, b"" | b"." | b".."));
        assert!(plain && !path.contains(&0), "{}", String::from_utf8_lossy(path));
        Ok((size < 4096).then(Vec::new))
    };
    match crate::changes::read_files(bytes, LIMITS, sink) {
        Ok(()) => true,
        Err(error) => {
            let line = error.to_string();
            assert!(!line.chars().any(char::is_control), "{line:?}");
            false
        }
    }
}

/// A layer, plain or compressed, unpacked below `directory`, which is empty before and after. True if it was taken.
pub fn layer(bytes: &[u8], directory: &Path) -> io::Result<bool> {
    let (root, guard) = (directory.join("root"), directory.join("guard"));
    fs::create_dir(&root)?;
    fs::write(&guard, b"guard")?;
    let root_fd = File::open(&root)?;
    let taken = decompress(bytes).map(|content| unpack(content, root_fd.as_fd(), LIMITS));
    if let Ok(Err(error)) = &taken {
        let line = error.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let mut left: Vec<_> = fs::read_dir(directory)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    left.sort();
    assert_eq!(left, ["guard", "root"], "a layer reached out of its root");
    assert_eq!(fs::read(&guard)?, b"guard", "a layer reached out of its root");
    fs::remove_file(&guard)?;
    fs::remove_dir_all(&root)?;
    Ok(taken.is_ok_and(|unpacked| unpacked.is_ok()))
}
