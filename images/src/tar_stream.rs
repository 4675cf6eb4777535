//! Reading a tar archive member by member from a stream: ustar, pax and GNU headers.
//!
//! The `tar` crate parses the 512-byte headers and the pax records. The framing is ours, because its reader
//! loads extension headers whole without a bound, and a layer is somebody else's data.

mod extensions;
mod sparse;

use std::io::{self, Read};

use extensions::Extensions;
use sparse::check_sparse_map;
use tar::{EntryType, Header};

use crate::one_line::one_line;

/// Long names and pax records of one member may not be larger (Linux' PATH_MAX is 4 KiB; xattrs reach 64 KiB).
const EXTENSION_MAX_BYTES: u64 = 1 << 20;
const BLOCK: usize = 512;
const BUFFER_BYTES: usize = 256 << 10;

/// What is wrong with an archive as such.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("read archive")]
    Read(#[source] io::Error),
    #[error("archive ends in the middle of {0}")]
    Truncated(&'static str),
    #[error("archive header at byte {offset}: {problem}")]
    Header { offset: u64, problem: String },
    #[error("archive header at byte {offset}: extension of {size} bytes, at most {EXTENSION_MAX_BYTES} are taken")]
    Extension { offset: u64, size: u64 },
    #[error("archive unpacks to more than {0} bytes")]
    TooLarge(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    Directory,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
}

/// One member, its extensions applied.
#[derive(Debug)]
pub(crate) struct Member {
    pub path: Vec<u8>,
    pub link: Vec<u8>,
    pub kind: Kind,
    pub mode: u32,
    pub uid: u64,
    pub gid: u64,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Bytes of the file when unpacked.
    pub size: u64,
    pub device: (u32, u32),
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Where the archived bytes belong in a sparse file: offset and length, ascending.
    pub sparse: Option<Vec<(u64, u64)>>,
}

impl Member {
    /// One that stands for the absence of what is at `path`.
    pub(crate) fn whiteout(path: &[u8]) -> Self {
        Self {
            path: path.to_vec(),
            link: Vec::new(),
            kind: Kind::CharDevice,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
            sparse: None,
        }
    }
}

/// Reads members from `R`; the data of a member is taken with [`TarStream::data`] before the next one.
pub(crate) struct TarStream<R> {
    input: R,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    /// Bytes consumed, for messages and the bound.
    offset: u64,
    limit: u64,
    /// Bytes of the current member still to come, and the padding behind them.
    remaining: u64,
    padding: u64,
}

impl<R: Read> TarStream<R> {
    /// Refuses to read more than `limit` bytes altogether.
    pub(crate) fn new(input: R, limit: u64) -> Self {
        Self {
            input,
            buffer: vec![0; BUFFER_BYTES].into_boxed_slice(),
            start: 0,
            end: 0,
            offset: 0,
            limit,
            remaining: 0,
            padding: 0,
        }
    }

    /// The next member, or `None` at the end of the archive.
    pub(crate) fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        let mut extensions = Extensions::default();
        loop {
            self.skip_data()?;
            let at = self.offset;
            let Some(block) = self.block(at)? else {
                return Ok(None);
            };
            let header = Header::from_byte_slice(&block);
            check_sum(header, at)?;
            let size = extension(header.entry_size(), at)?;
            match header.entry_type() {
                EntryType::XGlobalHeader => {
                    // Global records carry comments (git writes them); nothing in them describes a layer.
                    self.frame(size);
                }
                EntryType::XHeader => extensions.read_pax(&self.extension(size, at)?, at)?,
                EntryType::GNULongName => extensions.path = Some(self.long_name(size, at)?),
                EntryType::GNULongLink => extensions.link = Some(self.long_name(size, at)?),
                _ => return self.member(header, extensions, at).map(Some),
            }
        }
    }

    /// The next piece of the current member's archived bytes; empty at its end.
    pub(crate) fn data(&mut self) -> Result<&[u8], TarError> {
        if self.remaining == 0 {
            return Ok(&[]);
        }
        if self.start == self.end && !self.fill()? {
            return Err(TarError::Truncated("a file"));
        }
        let available = (self.end - self.start) as u64;
        let taken = available.min(self.remaining) as usize;
        let from = self.start;
        self.start += taken;
        self.offset += taken as u64;
        self.remaining -= taken as u64;
        Ok(&self.buffer[from..from + taken])
    }

    /// Reads on to the end of the input: what follows the archive's end belongs to the digests too.
    pub(crate) fn drain(&mut self) -> Result<(), TarError> {
        loop {
            self.offset += (self.end - self.start) as u64;
            self.start = self.end;
            if !self.fill()? {
                return Ok(());
            }
        }
    }

    fn member(&mut self, header: &Header, more: Extensions, at: u64) -> Result<Member, TarError> {
        let bad = |problem: &str| TarError::Header { offset: at, problem: problem.into() };
        let mut path = more.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                // Archives older than POSIX mark a directory by the slash alone.
                match path.ends_with(b"/") {
                    true => Kind::Directory,
                    false => Kind::File,
                }
            }
            EntryType::Directory => Kind::Directory,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(bad(&format!(
                    "member `{}`: type {:?} is not known",
                    one_line(&path),
                    char::from(other.as_byte())
                )));
            }
        };
        let archived = match kind {
            Kind::File => more.size.map_or_else(|| header.entry_size(), Ok),
            // Only files have data, whatever the size field says for the others (POSIX, "ustar Interchange").
            _ => Ok(0),
        };
        let archived = extension(archived, at)?;
        self.frame(archived);
        let mut size = archived;
        let mut sparse = None;
        if header.entry_type().is_gnu_sparse() {
            let (map, real) = self.gnu_sparse_map(header, at)?;
            (size, sparse) = (real, Some(map));
        } else if let Some(real) = more.sparse.real_size {
            path = more.sparse.name.clone().unwrap_or(path);
            let map = match more.sparse.major {
                Some(1) => self.pax_sparse_map(at)?,
                _ => more.sparse.numbers.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect(),
            };
            (size, sparse) = (real, Some(map));
        }
        if let Some(map) = &sparse {
            check_sparse_map(map, size, self.remaining, at)?;
        }
        let old = header.as_old();
        Ok(Member {
            path,
            link: more.link.or_else(|| header.link_name_bytes().map(|link| link.into_owned())).unwrap_or_default(),
            kind,
            mode: number(&old.mode, at, || header.mode())? & 0o7777,
            uid: more.uid.map_or_else(|| number(&old.uid, at, || header.uid()), Ok)?,
            gid: more.gid.map_or_else(|| number(&old.gid, at, || header.gid()), Ok)?,
            // Base-256 times before 1970 arrive as the two's complement.
            mtime: match more.mtime {
                Some(mtime) => mtime,
                None => (number(&old.mtime, at, || header.mtime())? as i64, 0),
            },
            size,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => (
                    number(&header.as_bytes()[329..337], at, || header.device_major())?.unwrap_or(0),
                    number(&header.as_bytes()[337..345], at, || header.device_minor())?.unwrap_or(0),
                ),
                _ => (0, 0),
            },
            xattrs: more.xattrs,
            sparse,
        })
    }

    /// Announces `size` bytes of data and the padding to the next block.
    fn frame(&mut self, size: u64) {
        self.remaining = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
    }

    fn skip_data(&mut self) -> Result<(), TarError> {
        while !self.data()?.is_empty() {}
        self.remaining = std::mem::take(&mut self.padding);
        while !self.data()?.is_empty() {}
        Ok(())
    }

    /// A header block; `None` at the end, which is a zero block or the end of the input.
    fn block(&mut self, at: u64) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        self.remaining = BLOCK as u64;
        while filled < BLOCK {
            if self.start == self.end && !self.fill()? {
                self.remaining = 0;
                return match filled {
                    0 => Ok(None),
                    _ => Err(TarError::Truncated("a header")),
                };
            }
            let piece = self.data()?;
            block[filled..filled + piece.len()].copy_from_slice(piece);
            filled += piece.len();
        }
        debug_assert_eq!(self.offset, at + BLOCK as u64);
        Ok(block.iter().any(|byte| *byte != 0).then_some(block))
    }

    fn extension(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        if size > EXTENSION_MAX_BYTES {
            return Err(TarError::Extension { offset: at, size });
        }
        self.frame(size);
        let mut bytes = Vec::with_capacity(size as usize);
        while self.remaining > 0 {
            bytes.extend_from_slice(self.data()?);
        }
        Ok(bytes)
    }

    fn long_name(&mut self, size: u64, at: u64) -> Result<Vec<u8>, TarError> {
        let mut name = self.extension(size, at)?;
        while name.last() == Some(&0) {
            name.pop();
        }
        Ok(name)
    }

    fn fill(&mut self) -> Result<bool, TarError> {
        (self.start, self.end) = (0, 0);
        let got = loop {
            match self.input.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other.map_err(TarError::Read)?,
            }
        };
        self.end = got;
        if self.offset + got as u64 > self.limit {
            return Err(TarError::TooLarge(self.limit));
        }
        Ok(got > 0)
    }
}

fn check_sum(header: &Header, at: u64) -> Result<(), TarError> {
    let bytes = header.as_bytes();
    let sum: u32 = bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
    match header.cksum() {
        Ok(found) if found == sum => Ok(()),
        _ => Err(TarError::Header {
            offset: at,
            problem: "checksum does not match, this is no tar archive or a damaged one".into(),
        }),
    }
}

fn extension<T>(value: io::Result<T>, at: u64) -> Result<T, TarError> {
    value.map_err(|error| TarError::Header { offset: at, problem: error.to_string() })
}

/// A field left empty is zero, as every other reader takes it.
fn number<T: Default>(field: &[u8], at: u64, parse: impl FnOnce() -> io::Result<T>) -> Result<T, TarError> {
    match field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        true => Ok(T::default()),
        false => extension(parse(), at),
    }
}

fn decimal(text: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(text).ok()?;
    match text.bytes().all(|byte| byte.is_ascii_digit()) {
        true => text.parse().ok(),
        false => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_extension_is_bounded() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_cksum();
        let endless = header.as_bytes().chain(io::repeat(b'a'));
        let mut stream = TarStream::new(endless, u64::MAX);
        assert!(matches!(stream.next_member(), Err(TarError::Extension { .. })));
    }

    #[test]
    fn what_is_no_archive_is_refused() {
        let mut text = TarStream::new(&[b'x'; 600][..], 1 << 20);
        assert!(matches!(text.next_member(), Err(TarError::Header { .. })));
        let mut short = TarStream::new(&[b'x'; 100][..], 1 << 20);
        assert!(matches!(short.next_member(), Err(TarError::Truncated("a header"))));
        assert!(TarStream::new(&[][..], 1 << 20).next_member().unwrap().is_none());
        let mut bomb = TarStream::new(io::repeat(0), 1 << 20);
        assert!(bomb.next_member().unwrap().is_none());
        assert!(matches!(bomb.drain(), Err(TarError::TooLarge(_))));
    }
}
