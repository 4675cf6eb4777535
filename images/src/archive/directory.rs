//! An OCI image layout in a directory, read as if it were an archive.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use super::spool::{Spool, Spooled};
use super::{Load, LoadError};
use crate::digest::{Digest, Hasher};
use crate::layout::Session;
use crate::manifest::{Index, from_object};
use crate::tree::Tree;

impl Load {
    /// Copies what the wanted entries of the index lead to into the session: the directory is somebody else's.
    pub(super) fn spool_directory(&self, session: &Session) -> Result<Spool, LoadError> {
        let mut spool = Spool::default();
        let index = self.copy(&self.path.join("index.json"), &session.scratch("index"))?;
        let document: Index = self.parse(from_object, &self.read(&index, "index.json")?, "index.json")?;
        spool.by_name.insert("index.json".into(), index);
        for entry in document.manifests.iter().filter(|entry| self.selection.wants(entry)) {
            let mut tree = Tree::of(entry.digest);
            while let Some(digest) = tree.next() {
                // Of an index, one image may be all there is.
                if !self.blob_path(&digest).exists() {
                    continue;
                }
                let spooled = self.copy_blob(&mut spool, &digest, session)?;
                let bytes = self.read(&spooled, &format!("blob {digest}"))?;
                tree.add(digest, bytes)
                    .map_err(|source| LoadError::Document { path: self.path.clone(), source: Box::new(source) })?;
            }
            for blob in tree.blobs().iter().filter(|blob| self.blob_path(&blob.digest).exists()) {
                self.copy_blob(&mut spool, &blob.digest, session)?;
            }
        }
        Ok(spool)
    }

    fn blob_path(&self, digest: &Digest) -> std::path::PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn copy_blob(&self, spool: &mut Spool, digest: &Digest, session: &Session) -> Result<Spooled, LoadError> {
        if let Some(known) = spool.by_digest.get(digest) {
            return Ok(known.clone());
        }
        let name = format!("member-{}", digest.hex());
        let spooled = self.copy(&self.blob_path(digest), &session.scratch(&name))?;
        match spooled.digest == *digest {
            true => {
                spool.by_digest.insert(*digest, spooled.clone());
                Ok(spooled)
            }
            false => {
                let (path, digest, found) = (self.path.clone(), *digest, spooled.digest);
                Err(LoadError::Damaged { path, digest, found })
            }
        }
    }

    fn copy(&self, from: &Path, to: &Path) -> Result<Spooled, LoadError> {
        let copied = (|| {
            let (mut input, mut output) = (File::open(from)?, File::create(to)?);
            let (mut hasher, mut buffer) = (Hasher::default(), vec![0; 128 << 10]);
            loop {
                match input.read(&mut buffer)? {
                    0 => break,
                    count => {
                        hasher.update(&buffer[..count]);
                        output.write_all(&buffer[..count])?;
                    }
                }
            }
            Ok::<_, io::Error>(Spooled { file: to.to_owned(), size: hasher.bytes(), digest: hasher.finish() })
        })();
        copied.map_err(|source| LoadError::Io { path: from.to_owned(), operation: "copy", source })
    }
}
