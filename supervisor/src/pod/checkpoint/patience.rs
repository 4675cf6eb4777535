//! Whether somebody still waits for a checkpoint. Who gives up is told so at once, and finds nothing afterwards: an archive
//! is put into its place, or was given up, and never both.

use std::sync::atomic::{AtomicU8, Ordering};

#[derive(Debug, Default)]
pub(super) struct Patience(AtomicU8);

const WAITED_FOR: u8 = 0;
const GIVEN_UP: u8 = 1;
const PLACED: u8 = 2;

impl Patience {
    /// Nobody waits any more.
    pub(super) fn is_over(&self) -> bool {
        self.0.load(Ordering::Relaxed) == GIVEN_UP
    }

    /// Gives up; false where the archive is in its place already, or about to be.
    pub(super) fn give_up(&self) -> bool {
        self.become_one(GIVEN_UP)
    }

    /// The archive is put into its place next; false where it was given up.
    pub(super) fn place(&self) -> bool {
        self.become_one(PLACED)
    }

    fn become_one(&self, end: u8) -> bool {
        match self.0.compare_exchange(WAITED_FOR, end, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => true,
            Err(other) => other == end,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_decides() {
        let (placed, given_up) = (Patience::default(), Patience::default());
        assert!(!placed.is_over() && placed.place() && !placed.give_up() && !placed.is_over());
        assert!(given_up.give_up() && given_up.is_over() && !given_up.place() && given_up.give_up());
    }
}
