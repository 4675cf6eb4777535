//! Sparse files: the old GNU map in header blocks, and the pax map at the start of the data.

use std::io::Read;

use tar::Header;

use super::{BLOCK, TarError, TarStream, decimal};

/// A sparse file's map may not have more pieces.
const SPARSE_MAX_PIECES: usize = 1 << 16;

impl<R: Read> TarStream<R> {
    /// Old GNU format: four pieces in the header, more in blocks behind it.
    pub(super) fn gnu_sparse_map(&mut self, header: &Header, at: u64) -> Result<(Vec<(u64, u64)>, u64), TarError> {
        let bad = || TarError::Header { offset: at, problem: "sparse map cannot be read".into() };
        let gnu = header.as_gnu().ok_or_else(bad)?;
        let real = gnu.real_size().map_err(|_| bad())?;
        let mut map = Vec::new();
        for piece in gnu.sparse.iter().filter(|piece| !piece.is_empty()) {
            map.push((piece.offset().map_err(|_| bad())?, piece.length().map_err(|_| bad())?));
        }
        let mut extended = gnu.is_extended();
        let (remaining, padding) = (self.remaining, self.padding);
        while extended {
            let offset = self.offset;
            let block = self.block(offset)?.ok_or_else(bad)?;
            for piece in block[..504].chunks_exact(24) {
                if piece[0] != 0 {
                    map.push((octal(&piece[..12]).ok_or_else(bad)?, octal(&piece[12..]).ok_or_else(bad)?));
                }
            }
            if map.len() > SPARSE_MAX_PIECES {
                return Err(bad());
            }
            extended = block[504] == 1;
        }
        (self.remaining, self.padding) = (remaining, padding);
        Ok((map, real))
    }

    /// pax format 1.0: decimal lines at the start of the data, padded to a block.
    pub(super) fn pax_sparse_map(&mut self, at: u64) -> Result<Vec<(u64, u64)>, TarError> {
        let bad = || TarError::Header { offset: at, problem: "sparse map cannot be read".into() };
        let (mut numbers, mut current, mut wanted) = (Vec::new(), Vec::new(), 1);
        while numbers.len() < wanted {
            let behind = self.remaining.checked_sub(BLOCK as u64).ok_or_else(bad)?;
            let padding = self.padding;
            let offset = self.offset;
            let block = self.block(offset)?.ok_or_else(bad)?;
            (self.remaining, self.padding) = (behind, padding);
            for byte in block {
                if numbers.len() == wanted {
                    break;
                }
                if byte != b'\n' {
                    current.push(byte);
                    continue;
                }
                let number = decimal(&current).ok_or_else(bad)?;
                current.clear();
                if numbers.is_empty() {
                    let pieces = usize::try_from(number).map_err(|_| bad())?;
                    if pieces > SPARSE_MAX_PIECES {
                        return Err(bad());
                    }
                    wanted = 1 + 2 * pieces;
                }
                numbers.push(number);
            }
            if current.len() > 20 {
                return Err(bad());
            }
        }
        Ok(numbers[1..].chunks_exact(2).map(|pair| (pair[0], pair[1])).collect())
    }
}

pub(super) fn check_sparse_map(map: &[(u64, u64)], size: u64, archived: u64, at: u64) -> Result<(), TarError> {
    let (mut end, mut total) = (0u64, 0u64);
    for (offset, length) in map {
        let piece_end = offset.checked_add(*length);
        match piece_end {
            Some(piece_end) if *offset >= end && piece_end <= size => end = piece_end,
            _ => {
                return Err(TarError::Header { offset: at, problem: "sparse map is not in order".into() });
            }
        }
        total += length;
    }
    match total == archived {
        true => Ok(()),
        false => Err(TarError::Header {
            offset: at,
            problem: format!("sparse map names {total} bytes, the archive has {archived}"),
        }),
    }
}

pub(super) fn octal(field: &[u8]) -> Option<u64> {
    if field[0] & 0x80 != 0 {
        let low: [u8; 8] = field[field.len() - 8..].try_into().ok()?;
        return Some(u64::from_be_bytes(low));
    }
    let text = std::str::from_utf8(field).ok()?;
    u64::from_str_radix(text.trim_matches(['\0', ' ']), 8).ok()
}
