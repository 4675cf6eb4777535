//! What a container has changed, into a tar archive and out of one. Deletions are told apart from the archive, as podman and
//! CRI-O keep them in checkpoints (`rootfs-diff.tar` and `deleted.files`); out of an archive whiteouts are understood too.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufRead, Read, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{self, FileType, Mode, OFlags, ResolveFlags, Stat};
use rustix::io::Errno;
use tar::{Builder, EntryType, Header};

use crate::diff::{ChangeKind, DiffError};
use crate::layer::decompress;
use crate::merged::{joined, names_in};
use crate::one_line::one_line;
use crate::snapshot::{OverlayMount, SnapshotError};
use crate::store::Store;
use crate::tar_stream::{Kind, TarStream};
use crate::unpack::{Limits, UnpackError, clean, unpack_changes};
use crate::xattrs::xattrs;
use crate::{adopt, whiteout};

/// Why changes were not written or not applied.
#[derive(Debug, thiserror::Error)]
pub enum ChangesError {
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    #[error(transparent)]
    Diff(#[from] DiffError),
    #[error(transparent)]
    Unpack(#[from] UnpackError),
    #[error("container {0}: has no writable layer")]
    NoContainer(String),
    #[error("container {0}: stands on a copy of its image, in which changes cannot be told; that needs overlayfs")]
    Copied(String),
    #[error("container {container}: `{path}`: {problem}")]
    Refused { container: String, path: String, problem: String },
    #[error("container {container}: `{path}`: {operation}")]
    Io {
        container: String,
        path: String,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}

impl Store {
    /// Writes what the container has added and changed as a tar archive, and returns the paths it has deleted (`/etc/motd`).
    /// Blocking; the container must not run meanwhile.
    pub fn write_changes(&self, container_id: &str, output: impl Write) -> Result<Vec<Vec<u8>>, ChangesError> {
        let mount = self.writable_layer(container_id)?;
        let failed = |source| ChangesError::Io {
            container: container_id.into(),
            path: "/".into(),
            operation: "open writable layer",
            source,
        };
        let root = File::open(&mount.upper).map_err(failed)?;
        let mut archive = ChangesArchive {
            container: container_id,
            root: root.into(),
            tar: Builder::new(output),
            links: HashMap::new(),
            bytes: 0,
        };
        archive.write()?;
        let deleted = self.container_changes(container_id)?.into_iter();
        Ok(deleted.filter(|change| change.kind == ChangeKind::Deleted).map(|change| change.path).collect())
    }

    /// Fills the writable layer of a container that was [prepared](Store::prepare) just now from an archive, plain or
    /// compressed, and hides what `deleted` names.
    pub fn apply_changes(
        &self,
        container_id: &str,
        archive: impl BufRead + Send,
        deleted: &[Vec<u8>],
    ) -> Result<(), ChangesError> {
        let mount = self.writable_layer(container_id)?;
        let failed = |operation| {
            move |source| ChangesError::Io { container: container_id.into(), path: "/".into(), operation, source }
        };
        let upper = File::open(&mount.upper).map_err(failed("open writable layer"))?;
        let content = decompress(archive).map_err(failed("read changes for"))?;
        let record = unpack_changes(content, upper.as_fd(), Limits::default(), deleted)?;
        let lower = mount.lower.iter().map(File::open).collect::<io::Result<Vec<_>>>();
        let lower = lower.map_err(failed("open layers below"))?;
        adopt::from_below(&upper, &lower, record.implied).map_err(failed("set attributes"))
    }
}

impl Store {
    fn writable_layer(&self, container_id: &str) -> Result<OverlayMount, ChangesError> {
        let root = self.snapshot(container_id)?.ok_or_else(|| ChangesError::NoContainer(container_id.into()))?;
        root.overlay().cloned().ok_or_else(|| ChangesError::Copied(container_id.into()))
    }
}

/// Hands every regular file of a tar archive, plain or compressed, to `sink`: its cleaned path and its length in bytes, for
/// which it gives back where the content goes, or nothing. All that is no regular file is passed over.
pub fn read_files<W: Write>(
    archive: impl BufRead + Send,
    limits: Limits,
    mut sink: impl FnMut(&[u8], u64) -> Result<Option<W>, String>,
) -> Result<(), UnpackError> {
    let system = |member: &[u8], operation, error: &io::Error| UnpackError::System {
        member: one_line(member),
        operation,
        errno: Errno::from_io_error(error).unwrap_or(Errno::IO),
    };
    let content = decompress(archive).map_err(|error| system(b"", "read archive", &error))?;
    let mut stream = TarStream::new(content, limits.layer_bytes);
    let mut members = 0;
    while let Some(member) = stream.next_member()? {
        members += 1;
        if members > limits.layer_members {
            return Err(UnpackError::TooManyMembers(limits.layer_members));
        }
        if member.kind != Kind::File {
            continue;
        }
        let refused = |problem: String| UnpackError::Refused { member: one_line(&member.path), problem };
        let path = clean(&member.path).map_err(|problem| refused(problem.into()))?;
        let Some(mut output) = sink(&path, member.size).map_err(refused)? else { continue };
        if member.sparse.is_some() {
            return Err(refused("is archived as a sparse file, expected a plain one".into()));
        }
        loop {
            let piece = stream.data()?;
            if piece.is_empty() {
                break;
            }
            output.write_all(piece).map_err(|error| system(&path, "write", &error))?;
        }
    }
    Ok(())
}

/// An archive that is being written.
struct ChangesArchive<'a, W: Write> {
    container: &'a str,
    root: OwnedFd,
    tar: Builder<W>,
    /// Where a file with several names was seen first, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    bytes: u64,
}

impl<W: Write> ChangesArchive<'_, W> {
    fn write(&mut self) -> Result<(), ChangesError> {
        let mut pending = vec![Vec::new()];
        while let Some(path) = pending.pop() {
            let directory = self.open_directory(&path).map_err(self.failed(&path, "open directory"))?;
            let stat = fs::fstat(&directory).map_err(|error| self.failed(&path, "stat")(error.into()))?;
            self.append(&path, &stat, EntryType::Directory, Some(&directory), b"", io::empty())?;
            for name in names_in(&directory).map_err(self.failed(&path, "list"))? {
                let below = joined(&path, &name);
                if let Err(problem) = clean(&below) {
                    return Err(self.refused(&below, problem));
                }
                let found = whiteout::entry(directory.as_fd(), &name);
                match found.map_err(|error| self.failed(&below, "stat")(error.into()))? {
                    Some(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => pending.push(below),
                    Some(stat) => {
                        let is_whiteout = whiteout::is_whiteout(directory.as_fd(), &name, &stat);
                        if !is_whiteout.map_err(|error| self.failed(&below, "open")(error.into()))? {
                            self.other(&directory, &name, &below, &stat)?;
                        }
                    }
                    None => {}
                }
            }
        }
        self.tar.finish().map_err(self.failed(b"", "end archive"))
    }

    /// What is no directory.
    fn other(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8], stat: &Stat) -> Result<(), ChangesError> {
        if stat.st_nlink > 1 {
            if let Some(first) = self.links.get(&(stat.st_dev, stat.st_ino)) {
                let first = first.clone();
                return self.append(path, stat, EntryType::Link, None, &first, io::empty());
            }
            self.links.insert((stat.st_dev, stat.st_ino), path.to_vec());
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => return self.file(parent, name, path),
            FileType::Symlink => {
                let target = fs::readlinkat(parent, name, Vec::new());
                let target = target.map_err(|error| self.failed(path, "read link")(error.into()))?;
                return self.append(path, stat, EntryType::Symlink, None, target.as_bytes(), io::empty());
            }
            FileType::CharacterDevice => EntryType::Char,
            FileType::BlockDevice => EntryType::Block,
            FileType::Fifo => EntryType::Fifo,
            // Whoever listened there makes it again.
            _ => return Ok(()),
        };
        self.append(path, stat, kind, None, b"", io::empty())
    }

    fn file(&mut self, parent: &OwnedFd, name: &[u8], path: &[u8]) -> Result<(), ChangesError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let system = |operation| move |error: Errno| (operation, io::Error::from(error));
        let opened = fs::openat(parent, name, flags, Mode::empty()).map_err(system("open")).and_then(|file| {
            let stat = fs::fstat(&file).map_err(system("stat"))?;
            Ok((file, stat))
        });
        let (file, stat) = opened.map_err(|(operation, error)| self.failed(path, operation)(error))?;
        self.bytes = self.bytes.saturating_add(stat.st_size as u64);
        let limit = Limits::default().layer_bytes;
        if self.bytes > limit {
            return Err(self.refused(path, &format!("with it the changes take more than {limit} bytes")));
        }
        let content = File::from(file.try_clone().map_err(self.failed(path, "open"))?).take(stat.st_size as u64);
        self.append(path, &stat, EntryType::Regular, Some(&file), b"", content)
    }

    fn append(
        &mut self,
        path: &[u8],
        stat: &Stat,
        kind: EntryType,
        attributes: Option<&OwnedFd>,
        link: &[u8],
        content: impl Read,
    ) -> Result<(), ChangesError> {
        let mut name = if path.is_empty() { b".".to_vec() } else { path.to_vec() };
        if kind == EntryType::Directory {
            name.push(b'/');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_mode(stat.st_mode & 0o7777);
        header.set_uid(stat.st_uid.into());
        header.set_gid(stat.st_gid.into());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(if kind == EntryType::Regular { stat.st_size as u64 } else { 0 });
        let written = (|| {
            if matches!(kind, EntryType::Char | EntryType::Block) {
                header.set_device_major(fs::major(stat.st_rdev))?;
                header.set_device_minor(fs::minor(stat.st_rdev))?;
            }
            let mut records = Vec::new();
            let old = header.as_old_mut();
            for (key, text, field) in [("path", &*name, &mut old.name), ("linkpath", link, &mut old.linkname)] {
                if text.len() > field.len() {
                    records.push((key.to_string(), text.to_vec()));
                }
                let length = text.len().min(field.len());
                field[..length].copy_from_slice(&text[..length]);
            }
            records.extend(attributes.map(extended).transpose()?.into_iter().flatten());
            if !records.is_empty() {
                self.extension(&records)?;
            }
            header.set_cksum();
            self.tar.append(&header, content)
        })();
        written.map_err(self.failed(path, "archive"))
    }

    /// A pax header (pax(1), "pax Extended Header") for the member that follows.
    fn extension(&mut self, records: &[(String, Vec<u8>)]) -> io::Result<()> {
        let mut text = Vec::new();
        for (key, value) in records {
            // The length counts its own digits.
            let rest = key.len() + value.len() + " =\n".len();
            let mut length = rest + 1;
            while length != rest + length.to_string().len() {
                length = rest + length.to_string().len();
            }
            text.extend(format!("{length} {key}=").into_bytes());
            text.extend(value);
            text.push(b'\n');
        }
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_path("pax")?;
        header.set_mode(0o600);
        header.set_size(text.len() as u64);
        header.set_cksum();
        self.tar.append(&header, &*text)
    }

    fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { b"." } else { path };
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        Ok(fs::openat2(&self.root, path, flags, Mode::empty(), resolve)?)
    }

    fn refused(&self, path: &[u8], problem: &str) -> ChangesError {
        ChangesError::Refused { container: self.container.into(), path: shown(path), problem: problem.into() }
    }

    fn failed(&self, path: &[u8], operation: &'static str) -> impl FnOnce(io::Error) -> ChangesError + use<W> {
        let (container, path) = (self.container.to_owned(), shown(path));
        move |source| ChangesError::Io { container, path, operation, source }
    }
}

fn shown(path: &[u8]) -> String {
    format!("/{}", one_line(path))
}

/// Extended attributes as pax records, without those that overlayfs keeps its own account in.
fn extended(file: &OwnedFd) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut records = Vec::new();
    for (name, value) in xattrs(file)? {
        if let b"trusted.overlay.redirect" | b"trusted.overlay.metacopy" = &*name {
            return Err(io::Error::other("is a reference to a layer below, which no archive can hold"));
        }
        if let (false, Ok(key)) = (whiteout::is_mark(&name), std::str::from_utf8(&name)) {
            records.push((format!("SCHILY.xattr.{key}"), value));
        }
    }
    Ok(records)
}
