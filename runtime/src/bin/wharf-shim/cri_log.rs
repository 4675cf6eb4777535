//! The CRI log format: `<RFC 3339 time> <stream> <tag> <content>`, one record a line.
//!
//! Tag `F` ends a line of the container's output, `P` is a piece of a line that goes on in the next record of the
//! same stream. A record is handed to the kernel in one `write`, so a reader never sees half of one.

use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use wharf_runtime::time::rfc3339;

/// Longest piece of a line in one record, in bytes; the limit of the kubelet's own reader.
const MAX_RECORD_CONTENT_BYTES: usize = 16 * 1024;

/// Records are written once they take so much: of short lines many times what came.
const RECORDS_BYTES: usize = 512 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    fn name(self) -> &'static [u8] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }
}

/// The log of one container: a file, and the unfinished line of each stream.
pub(crate) struct CriLog {
    path: PathBuf,
    file: File,
    pending: [Vec<u8>; 2],
    /// Those of the last output; their room is kept for the next.
    records: Vec<u8>,
}

impl CriLog {
    /// Opens `path` for appending, creating it 0640 with the kubelet's reader in mind.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            file: open_append(path)?,
            pending: [Vec::new(), Vec::new()],
            records: Vec::new(),
        })
    }

    /// Starts a new file under the same name, after something else renamed the old one.
    pub(crate) fn reopen(&mut self) -> io::Result<()> {
        self.file = open_append(&self.path)?;
        Ok(())
    }

    /// Takes output of the container and writes every whole line, and pieces of lines that are too long.
    pub(crate) fn append(&mut self, stream: Stream, now_nanoseconds: i64, mut output: &[u8]) -> io::Result<()> {
        let pending = &mut self.pending[stream as usize];
        let prefixes = Prefixes::new(now_nanoseconds, stream);
        self.records.clear();
        while !output.is_empty() {
            let all = output;
            // Looks for the end of a line with the C library's widest registers; what is in memory does not fail.
            let piece = &all[..output.skip_until(b'\n')?];
            push_piece(&mut self.records, &prefixes, pending, piece);
            if self.records.len() >= RECORDS_BYTES {
                self.file.write_all(&self.records)?;
                self.records.clear();
            }
        }
        self.file.write_all(&self.records)
    }

    /// Gives up the room for records, which is made again with the next output.
    pub(crate) fn tidy_up(&mut self) {
        self.records = Vec::new();
        self.pending.iter_mut().for_each(Vec::shrink_to_fit);
    }

    /// Writes what stands unfinished when the stream has ended: a last line without its newline.
    pub(crate) fn finish(&mut self, now_nanoseconds: i64) -> io::Result<()> {
        for stream in [Stream::Stdout, Stream::Stderr] {
            let pending = std::mem::take(&mut self.pending[stream as usize]);
            if !pending.is_empty() {
                self.records.clear();
                push_record(&mut self.records, &Prefixes::new(now_nanoseconds, stream).partial, &pending, b"\n");
                self.file.write_all(&self.records)?;
            }
        }
        Ok(())
    }
}

fn open_append(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// How the records of one moment and stream begin.
struct Prefixes {
    partial: Vec<u8>,
    full: Vec<u8>,
}

impl Prefixes {
    fn new(now_nanoseconds: i64, stream: Stream) -> Self {
        let mut partial = rfc3339(now_nanoseconds).into_bytes();
        partial.push(b' ');
        partial.extend_from_slice(stream.name());
        let mut full = partial.clone();
        partial.extend_from_slice(b" P ");
        full.extend_from_slice(b" F ");
        Self { partial, full }
    }
}

/// Emits `pending` + `piece` as records; what is left of an unfinished line stays in `pending`. A piece has no newline but at
/// its end.
fn push_piece(records: &mut Vec<u8>, prefixes: &Prefixes, pending: &mut Vec<u8>, mut piece: &[u8]) {
    let ended = piece.ends_with(b"\n");
    while pending.len() + piece.len() - usize::from(ended) > MAX_RECORD_CONTENT_BYTES {
        let (head, rest) = piece.split_at(MAX_RECORD_CONTENT_BYTES - pending.len());
        push_record(records, &prefixes.partial, pending, head);
        records.push(b'\n');
        pending.clear();
        piece = rest;
    }
    if ended {
        push_record(records, &prefixes.full, pending, piece);
        pending.clear();
    } else {
        pending.extend_from_slice(piece);
    }
}

/// The end of the line comes with `rest`: most lines are one copy.
fn push_record(records: &mut Vec<u8>, prefix: &[u8], pending: &[u8], rest: &[u8]) {
    records.reserve(prefix.len() + pending.len() + rest.len());
    records.extend_from_slice(prefix);
    if !pending.is_empty() {
        records.extend_from_slice(pending);
    }
    records.extend_from_slice(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logged(chunks: &[(Stream, &[u8])]) -> Vec<(String, String, String)> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let mut log = CriLog::open(&path).unwrap();
        for (stream, chunk) in chunks {
            log.append(*stream, 0, chunk).unwrap();
        }
        log.finish(0).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        text.lines()
            .map(|line| {
                let mut fields = line.splitn(4, ' ').skip(1).map(str::to_owned);
                (fields.next().unwrap(), fields.next().unwrap(), fields.next().unwrap())
            })
            .collect()
    }

    fn record(stream: &str, tag: &str, content: &str) -> (String, String, String) {
        (stream.into(), tag.into(), content.into())
    }

    #[test]
    fn whole_lines_are_full_records() {
        assert_eq!(
            logged(&[(Stream::Stdout, b"one\ntwo\n"), (Stream::Stderr, b"\n")]),
            [record("stdout", "F", "one"), record("stdout", "F", "two"), record("stderr", "F", "")]
        );
    }

    #[test]
    fn a_line_that_comes_in_pieces_is_one_record_and_streams_do_not_mix() {
        assert_eq!(
            logged(&[(Stream::Stdout, b"he"), (Stream::Stderr, b"err\n"), (Stream::Stdout, b"llo\n")]),
            [record("stderr", "F", "err"), record("stdout", "F", "hello")]
        );
    }

    #[test]
    fn records_that_are_many_times_what_came_are_all_written() {
        let lines = RECORDS_BYTES / 16;
        assert_eq!(logged(&[(Stream::Stdout, "\n".repeat(lines).as_bytes())]).len(), lines);
    }

    #[test]
    fn a_last_line_without_newline_is_kept_as_partial() {
        assert_eq!(logged(&[(Stream::Stdout, b"tail")]), [record("stdout", "P", "tail")]);
    }

    #[test]
    fn a_line_beyond_the_limit_is_split_without_loss() {
        let long = vec![b'x'; MAX_RECORD_CONTENT_BYTES * 2 + 5];
        let records = logged(&[(Stream::Stdout, &long), (Stream::Stdout, b"\n")]);
        let tags: Vec<&str> = records.iter().map(|r| r.1.as_str()).collect();
        assert_eq!(tags, ["P", "P", "F"]);
        assert_eq!(records.iter().map(|r| r.2.len()).sum::<usize>(), long.len());
    }
}
