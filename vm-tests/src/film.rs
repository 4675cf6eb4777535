//! All that was written to a disk, with its flushes: the disk can be made anew as a power cut at any of these instants
//! would have left it, as often as wanted and without another guest.

use crate::disk::{Loss, arrive, copy_data, nameless_file};
use crate::random::Random;
use anyhow::{Context, Result};
use std::fs::File;
use std::os::unix::fs::FileExt;

/// What happened to a disk since it was as it is at the beginning.
#[derive(Debug)]
pub struct Film {
    bytes: u64,
    beginning: File,
    writes: Vec<(u64, Vec<u8>)>,
    /// After how many writes the cache was flushed, in order.
    flushes: Vec<usize>,
}

impl Film {
    pub(crate) fn new(media: &File, bytes: u64) -> Result<Self> {
        let beginning = nameless_file(bytes)?;
        copy_data(media, &beginning, 0, bytes).context("copy the disk")?;
        Ok(Self { bytes, beginning, writes: Vec::new(), flushes: Vec::new() })
    }

    pub(crate) fn write(&mut self, offset: u64, bytes: &[u8]) {
        self.writes.push((offset, bytes.to_vec()));
    }

    pub(crate) fn flush(&mut self) {
        self.flushes.push(self.writes.len());
    }

    /// How many writes there are.
    pub fn writes(&self) -> usize {
        self.writes.len()
    }

    /// The disk after a power cut with that write (the first is 1), of whose cache `loss` tells what arrived. The file
    /// has no name.
    pub fn cut_with(&self, write: usize, loss: Loss, mut random: Random) -> Result<File> {
        let media = nameless_file(self.bytes)?;
        copy_data(&self.beginning, &media, 0, self.bytes).context("copy the disk")?;
        let write = write.min(self.writes.len());
        // A flush after that write did not happen any more.
        let flushed = self.flushes.iter().copied().take_while(|flush| *flush < write).last().unwrap_or_default();
        for (offset, bytes) in &self.writes[..flushed] {
            media.write_all_at(bytes, *offset).context("write to the disk")?;
        }
        for (offset, bytes) in &self.writes[flushed..write] {
            arrive(&media, *offset, bytes, loss, &mut random).context("write to the disk")?;
        }
        Ok(media)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::SECTOR;

    #[test]
    fn a_cut_keeps_what_was_flushed_before_it() {
        let mut film = Film::new(&nameless_file(1 << 20).expect("file"), 1 << 20).expect("film");
        for (number, byte) in [1, 2, 3].into_iter().enumerate() {
            film.write((number * SECTOR) as u64, &[byte; SECTOR]);
            if byte == 2 {
                film.flush();
            }
        }
        let found = |write, loss| {
            let file = film.cut_with(write, loss, Random::new(1)).expect("cut");
            [0, 1, 2].map(|number| {
                let mut byte = [0];
                file.read_exact_at(&mut byte, (number * SECTOR) as u64).expect("read");
                byte[0]
            })
        };
        assert_eq!(found(1, Loss::Everything), [0, 0, 0]);
        assert_eq!(found(2, Loss::Everything), [0, 0, 0], "its flush came later");
        assert_eq!(found(3, Loss::Everything), [1, 2, 0]);
        assert_eq!(found(3, Loss::Nothing), [1, 2, 3]);
    }
}
