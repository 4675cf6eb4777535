//! One layer's way into the store: a single pass through the blob's digest, decompression and the diff id on one
//! thread and extraction on another, with fixed buffers however large the layer is.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsFd;

use crate::digest::{Digest, Hasher};
use crate::layout::{Session, SnapshotRecord};
use crate::read_ahead::read_ahead;
use crate::unpack::{self, Limits, UnpackError};

/// zstd frames may ask for a window of at most this many bits: 128 MiB, zstd's own default bound.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// What is to be made of a layer's blob, and what it must turn out to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LayerJob {
    pub blob: Digest,
    /// Bytes of the blob, as the manifest says.
    pub size: u64,
    /// `None` for what is no layer of an image to be run here: a blob, whatever is in it.
    pub diff_id: Option<Digest>,
    /// Whether the blob itself is wanted (not if it is in the store already).
    pub keep_blob: bool,
    /// Whether its snapshot is wanted; never without a diff id.
    pub unpack: bool,
}

/// Why a layer was refused. The store is as it was before.
#[derive(Debug, thiserror::Error)]
pub enum LayerError {
    #[error("layer {layer}: transfer ended after {received} of {expected} bytes")]
    Transfer {
        layer: Digest,
        received: u64,
        expected: u64,
        #[source]
        source: io::Error,
    },
    #[error("layer {layer}: is {found} bytes long, the manifest says {expected}")]
    Size { layer: Digest, found: String, expected: u64 },
    #[error("layer {layer}: content has the digest {found}")]
    Digest { layer: Digest, found: Digest },
    #[error("layer {layer}: unpacked content has the diff id {found}, the config says {expected}")]
    DiffId { layer: Digest, found: Digest, expected: Digest },
    #[error("layer {layer}")]
    Unpack {
        layer: Digest,
        #[source]
        source: Box<UnpackError>,
    },
    #[error("layer {layer}: {operation}")]
    Store {
        layer: Digest,
        operation: &'static str,
        #[source]
        source: io::Error,
    },
}

impl LayerError {
    /// Whether what came was not what the manifest names; from elsewhere, or at the next try, it may be.
    pub(crate) fn is_transfers_fault(&self) -> bool {
        matches!(self, Self::Digest { .. } | Self::Size { .. })
    }
}

/// Streams `input` into the session. Blocking; takes one more thread while it unpacks.
pub(crate) fn ingest<R: Read + Send>(
    input: R,
    job: &LayerJob,
    session: &Session,
    limits: Limits,
) -> Result<(), LayerError> {
    let layer = job.blob;
    let store = |operation| move |source| LayerError::Store { layer, operation, source };
    let file = match job.keep_blob {
        true => Some(session.create_blob(&layer).map_err(store("create blob"))?),
        false => None,
    };
    let reader = BlobReader { input, file, limit: job.size, seen: BlobSeen::default() };
    let mut reader = BufReader::with_capacity(128 << 10, reader);
    let Some(expected) = job.diff_id else {
        let drained = io::copy(&mut reader, &mut io::sink()).map(|_| ());
        return check_blob(job, reader.into_inner().seen, drained);
    };
    let unpacked = decompress_and_unpack(&mut reader, job, expected, session, limits);
    let archive_fault = match &unpacked {
        Ok(_) => true,
        Err(Outcome::Layer(_)) => false,
        Err(Outcome::Unpack(error)) => error.is_archive_fault(),
    };
    // A damaged blob fails in many ways on the way to its end; that it is damaged is what a person must know.
    let drained = match archive_fault {
        true => io::copy(&mut reader, &mut io::sink()).map(|_| ()),
        false => Ok(()),
    };
    check_blob(job, reader.into_inner().seen, drained)?;
    match unpacked {
        Ok((diff_id, _)) if diff_id != expected => Err(LayerError::DiffId { layer, found: diff_id, expected }),
        Ok((_, record)) => record
            .map_or(Ok(()), |record| session.record_snapshot(&expected, &record).map_err(store("record snapshot"))),
        Err(Outcome::Layer(error)) => Err(error),
        Err(Outcome::Unpack(source)) => Err(LayerError::Unpack { layer, source: Box::new(source) }),
    }
}

enum Outcome {
    Layer(LayerError),
    Unpack(UnpackError),
}

fn decompress_and_unpack<R: BufRead + Send>(
    reader: &mut R,
    job: &LayerJob,
    diff_id: Digest,
    session: &Session,
    limits: Limits,
) -> Result<(Digest, Option<SnapshotRecord>), Outcome> {
    let broken = |error| Outcome::Unpack(UnpackError::Archive(crate::tar_stream::TarError::Read(error)));
    let content = decompress(reader).map_err(broken)?;
    let mut content = HashReader { input: content, hasher: Hasher::default() };
    let record = match job.unpack {
        true => {
            let store =
                |operation| move |source| Outcome::Layer(LayerError::Store { layer: job.blob, operation, source });
            let root = session.create_snapshot(&diff_id).map_err(store("create snapshot"))?;
            let unpacked = read_ahead(&mut content, |ahead| unpack::unpack(ahead, root.as_fd(), limits));
            Some(unpacked.map_err(store("start a thread"))?.map_err(Outcome::Unpack)?)
        }
        false => {
            let mut bounded = (&mut content).take(limits.layer_bytes);
            io::copy(&mut bounded, &mut io::sink()).map_err(broken)?;
            None
        }
    };
    Ok((content.hasher.finish(), record))
}

/// By the magic number: media types are wrong often enough, and the diff id decides in the end.
pub(crate) fn decompress<'a, R: BufRead + Send + 'a>(mut reader: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    const GZIP: [u8; 2] = [0x1f, 0x8b];
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    let start = reader.fill_buf()?;
    if start.starts_with(&GZIP) {
        return Ok(Box::new(flate2::bufread::MultiGzDecoder::new(reader)));
    }
    // 0x184D2A5x begins a skippable frame (RFC 8878, 3.1.2).
    let skippable = start.len() >= 4 && start[0] & 0xf0 == 0x50 && start[1..4] == [0x2a, 0x4d, 0x18];
    if start.starts_with(&ZSTD) || skippable {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(reader)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(decoder));
    }
    Ok(Box::new(reader))
}

fn check_blob(job: &LayerJob, seen: BlobSeen, drained: io::Result<()>) -> Result<(), LayerError> {
    let layer = job.blob;
    if let Some(source) = seen.write_error {
        return Err(LayerError::Store { layer, operation: "write blob", source });
    }
    if seen.too_long {
        return Err(LayerError::Size { layer, found: format!("more than {}", job.size), expected: job.size });
    }
    let received = seen.hasher.bytes();
    if let Some(source) = seen.read_error {
        return Err(LayerError::Transfer { layer, received, expected: job.size, source });
    }
    if drained.is_ok() && seen.ended {
        let found = seen.hasher.finish();
        if received != job.size {
            return Err(LayerError::Size { layer, found: received.to_string(), expected: job.size });
        }
        if found != layer {
            return Err(LayerError::Digest { layer, found });
        }
    }
    Ok(())
}

/// What went past, for the verdict at the end: decoders wrap errors of their input beyond recognition.
#[derive(Default)]
struct BlobSeen {
    hasher: Hasher,
    ended: bool,
    too_long: bool,
    read_error: Option<io::Error>,
    write_error: Option<io::Error>,
}

/// The blob as it comes in: counted, digested and written down.
struct BlobReader<R> {
    input: R,
    file: Option<File>,
    limit: u64,
    seen: BlobSeen,
}

impl<R: Read> Read for BlobReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let seen = &mut self.seen;
        let stop = || io::Error::other("the blob cannot be read to its end");
        let count = match self.input.read(buffer) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Err(error),
            Err(error) => {
                seen.read_error = Some(error);
                return Err(stop());
            }
        };
        seen.ended = count == 0;
        seen.hasher.update(&buffer[..count]);
        if seen.hasher.bytes() > self.limit {
            seen.too_long = true;
            return Err(stop());
        }
        if let Some(file) = &mut self.file
            && let Err(error) = file.write_all(&buffer[..count])
        {
            seen.write_error = Some(error);
            return Err(stop());
        }
        Ok(count)
    }
}

struct HashReader<R> {
    input: R,
    hasher: Hasher,
}

impl<R: Read> Read for HashReader<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.input.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
