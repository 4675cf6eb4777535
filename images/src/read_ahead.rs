//! Reading on a thread of its own, so that what makes the bytes and what takes them use a processor each.

use std::io::{self, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

/// Bytes of a piece: few enough wake-ups beside what it takes to make them.
const PIECE_BYTES: usize = 128 << 10;
/// Pieces there are: one being made, one being taken, and some between them.
const PIECES: usize = 4;

/// A buffer and how much of it is filled.
type Piece = (Box<[u8]>, usize);

/// Gives `take` a reader of what a second thread reads from `input`, a bounded number of pieces ahead. Nothing is read
/// any more when this returns; `input` has been read to its end only if `take` did so.
///
/// Fails if there can be no further thread.
pub(crate) fn read_ahead<T>(input: impl Read + Send, take: impl FnOnce(ReadAhead) -> T) -> io::Result<T> {
    let (full, pieces) = sync_channel(PIECES);
    let (spare, empty) = sync_channel(PIECES);
    for _ in 0..PIECES {
        // There is room for all, and the receiver is here.
        let _ = spare.send(vec![0; PIECE_BYTES].into_boxed_slice());
    }
    thread::scope(|scope| {
        thread::Builder::new().name("read-ahead".into()).spawn_scoped(scope, move || fill(input, &empty, &full))?;
        Ok(take(ReadAhead { pieces, spare, current: Default::default(), taken: 0 }))
    })
}

/// Until the end, an error, or nobody takes more.
fn fill(mut input: impl Read, empty: &Receiver<Box<[u8]>>, full: &SyncSender<io::Result<Piece>>) {
    while let Ok(mut buffer) = empty.recv() {
        let mut filled = 0;
        let ended = loop {
            match input.read(&mut buffer[filled..]) {
                Ok(0) => break Some(Ok(())),
                Ok(count) => filled += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => break Some(Err(error)),
            }
            if filled == buffer.len() {
                break None;
            }
        };
        if full.send(Ok((buffer, filled))).is_err() {
            return;
        }
        match ended {
            None => {}
            Some(Ok(())) => return,
            Some(Err(error)) => {
                // Whoever does not take it has ended for a reason of its own.
                let _ = full.send(Err(error));
                return;
            }
        }
    }
}

/// The taking end.
pub(crate) struct ReadAhead {
    pieces: Receiver<io::Result<Piece>>,
    spare: SyncSender<Box<[u8]>>,
    current: Piece,
    /// Bytes of `current` that were taken.
    taken: usize,
}

impl Read for ReadAhead {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.taken == self.current.1 {
            let Ok(piece) = self.pieces.recv() else {
                return Ok(0);
            };
            let (used, _) = std::mem::replace(&mut self.current, piece?);
            self.taken = 0;
            if !used.is_empty() {
                // The other thread may have come to the end.
                let _ = self.spare.send(used);
            }
        }
        let count = (self.current.1 - self.taken).min(buffer.len());
        buffer[..count].copy_from_slice(&self.current.0[self.taken..self.taken + count]);
        self.taken += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_arrives_in_order() {
        let bytes: Vec<u8> = (0..5 * PIECE_BYTES + 17).map(|at| (at / 7) as u8).collect();
        let mut taken = Vec::new();
        read_ahead(&*bytes, |mut ahead| ahead.read_to_end(&mut taken)).unwrap().unwrap();
        assert!(taken == bytes);
    }

    #[test]
    fn an_error_comes_after_the_bytes_before_it() {
        struct Broken(usize);
        impl Read for Broken {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                let count = self.0.min(buffer.len());
                self.0 -= count;
                match count {
                    0 => Err(io::Error::other("cut off")),
                    count => Ok(count),
                }
            }
        }
        let mut taken = Vec::new();
        let outcome = read_ahead(Broken(PIECE_BYTES + 5), |mut ahead| ahead.read_to_end(&mut taken)).unwrap();
        assert_eq!(outcome.unwrap_err().to_string(), "cut off");
        assert_eq!(taken.len(), PIECE_BYTES + 5);
    }

    #[test]
    fn who_stops_taking_stops_the_reading() {
        let outcome = read_ahead(io::repeat(1), |mut ahead| ahead.read(&mut [0; 3])).unwrap();
        assert_eq!(outcome.unwrap(), 3);
    }
}
