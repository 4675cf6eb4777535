//! The archive's files, copied out and digested in one reading.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::path::{Path, PathBuf};

use super::{Load, LoadError};
use crate::digest::{Digest, Hasher};
use crate::layer::decompress;
use crate::layout::Session;
use crate::tar_stream::{Kind, TarError, TarStream};

/// An archive of images has a few files per layer.
const MEMBERS_MAX: usize = 10_000;

/// A file of the archive, in the session.
#[derive(Clone)]
pub(crate) struct Spooled {
    pub(crate) file: PathBuf,
    pub(super) digest: Digest,
    pub(super) size: u64,
}

/// The archive's files by name, links resolved, and by digest.
#[derive(Default)]
pub(crate) struct Spool {
    pub(super) by_name: HashMap<String, Spooled>,
    pub(crate) by_digest: HashMap<Digest, Spooled>,
}

impl Load {
    /// Puts every file of the archive into the session.
    pub(crate) fn spool(&self, session: &Session) -> Result<Spool, LoadError> {
        if self.path.is_dir() {
            return self.spool_directory(session);
        }
        let archive = |source| LoadError::Archive { path: self.path.clone(), source };
        let file = File::open(&self.path).map_err(self.io("open"))?;
        let content = decompress(BufReader::with_capacity(128 << 10, file)).map_err(self.io("read"))?;
        let mut stream = TarStream::new(content, self.store.inner.limits.layer_bytes);
        let (mut spool, mut links, mut count) = (Spool::default(), Vec::new(), 0);
        while let Some(member) = stream.next_member().map_err(archive)? {
            count += 1;
            if count > MEMBERS_MAX {
                return Err(self.io("read")(io::Error::other("more than 10000 members")));
            }
            let name = plain_name(&member.path, "");
            match member.kind {
                Kind::File => {
                    let path = session.scratch(&format!("member-{count}"));
                    let spooled = copy_out(&mut stream, &path).map_err(|error| match error {
                        Ok(source) => archive(source),
                        Err(source) => self.io("write")(source),
                    })?;
                    spool.by_digest.insert(spooled.digest, spooled.clone());
                    spool.by_name.insert(name, spooled);
                }
                // Older docker writes a layer that several images share once and links to it.
                Kind::Symlink => {
                    let parent = name.rsplit_once('/').map_or("", |(parent, _)| parent);
                    links.push((name.clone(), plain_name(&member.link, parent)));
                }
                Kind::HardLink => links.push((name, plain_name(&member.link, ""))),
                _ => {}
            }
        }
        for (name, target) in links {
            if let Some(spooled) = spool.by_name.get(&target).cloned() {
                spool.by_name.insert(name, spooled);
            }
        }
        Ok(spool)
    }
}

/// Writes the current member to `path`. The error is the archive's (`Ok`) or the disk's (`Err`).
pub(super) fn copy_out<R: Read>(
    stream: &mut TarStream<R>,
    path: &Path,
) -> Result<Spooled, Result<TarError, io::Error>> {
    let mut file = File::create(path).map_err(Err)?;
    let mut hasher = Hasher::default();
    loop {
        let piece = stream.data().map_err(Ok)?;
        if piece.is_empty() {
            break;
        }
        hasher.update(piece);
        file.write_all(piece).map_err(Err)?;
    }
    Ok(Spooled { file: path.to_owned(), size: hasher.bytes(), digest: hasher.finish() })
}

/// A member's name for looking up: without `.`, `..` resolved within the archive.
pub(super) fn plain_name(name: &[u8], parent: &str) -> String {
    let name = String::from_utf8_lossy(name);
    let mut parts: Vec<&str> = Vec::new();
    for part in parent.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
