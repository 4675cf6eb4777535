//! Bounds on transfers: how often, how long and how many at once.

use crate::registry::RegistryError;
use std::time::Duration;

/// Bounds on the transfers of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transfers {
    /// Layers received at once, by all pulls together.
    pub parallel: usize,
    /// How often a request is repeated that failed in passing: HTTP 429 and 5xx, a connection that broke, silence.
    /// Counted anew when a layer has got on.
    pub retries: u32,
    /// About how long to wait before the first repetition; each further one waits twice as long.
    pub first_wait: Duration,
    /// No wait is longer, whatever a registry's `Retry-After` says.
    pub longest_wait: Duration,
    /// A transfer that brings no byte for so long is taken for dead, and repeated.
    pub silence: Duration,
    /// Blobs up to this size are pushed by one request; larger ones in pieces of so many bytes. A piece is what is
    /// sent again to a registry that keeps no part of one when a connection breaks.
    pub piece: u64,
}

impl Default for Transfers {
    fn default() -> Self {
        Self {
            // Three pulls' worth: a registry that hangs must not keep the others waiting.
            parallel: 12,
            retries: 5,
            first_wait: Duration::from_millis(250),
            longest_wait: Duration::from_secs(60),
            silence: Duration::from_secs(30),
            piece: 16 << 20,
        }
    }
}

/// The waits between one request's repetitions.
#[derive(Clone, Debug)]
pub(crate) struct BackOff {
    bounds: Transfers,
    tries: u32,
}

impl BackOff {
    pub(crate) fn new(bounds: Transfers) -> Self {
        Self { bounds, tries: 0 }
    }

    /// Something came of the last try: count from the beginning.
    pub(crate) fn restart(&mut self) {
        self.tries = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The refusal itself, if it will not pass or there have been enough tries.
    pub(crate) async fn wait_after(&mut self, refusal: RegistryError) -> Result<(), RegistryError> {
        match refusal.is_passing() {
            true => self.wait_whatever(refusal).await,
            false => Err(refusal),
        }
    }

    /// Waits before another try even if the refusal itself will not pass: what follows is another request.
    ///
    /// # Errors
    /// The refusal itself, if there have been enough tries.
    pub(crate) async fn wait_whatever(&mut self, refusal: RegistryError) -> Result<(), RegistryError> {
        match self.next(refusal.retry_after(), chance()) {
            Some(wait) => tokio::time::sleep(wait).await,
            None => return Err(refusal),
        }
        Ok(())
    }

    /// How long to wait before the next try; `None` if there have been enough. `asked` is what the registry asks for.
    /// `chance` (any number) spreads those who failed together.
    fn next(&mut self, asked: Option<Duration>, chance: u64) -> Option<Duration> {
        if self.tries >= self.bounds.retries {
            return None;
        }
        let doubled = self.bounds.first_wait.saturating_mul(1u32.checked_shl(self.tries).unwrap_or(u32::MAX));
        self.tries += 1;
        // Between half of it and all of it; what the registry asked for is waited in full, and a little more.
        let half = doubled.min(self.bounds.longest_wait) / 2;
        let spread = half.mul_f64((chance % 1024) as f64 / 1023.0);
        Some(asked.map_or(half, |asked| asked.max(half)).saturating_add(spread).min(self.bounds.longest_wait))
    }
}

/// Any number.
fn chance() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness everybody waits equally long: a pity, no more.
    let _ = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::NONBLOCK);
    u64::from_ne_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Transfers = Transfers {
        parallel: 1,
        retries: 4,
        first_wait: Duration::from_secs(1),
        longest_wait: Duration::from_secs(6),
        silence: Duration::from_secs(1),
        piece: 1,
    };

    #[test]
    fn waits_double_up_to_the_longest_and_end() {
        let waits = |chance| {
            let mut back_off = BackOff::new(BOUNDS);
            std::iter::from_fn(|| back_off.next(None, chance)).map(|wait| wait.as_millis()).collect::<Vec<_>>()
        };
        assert_eq!(waits(0), [500, 1000, 2000, 3000]);
        assert_eq!(waits(1023), [1000, 2000, 4000, 6000]);
        let mut back_off = BackOff::new(Transfers { retries: 1, ..BOUNDS });
        assert!(back_off.next(None, 0).is_some() && back_off.next(None, 0).is_none());
        back_off.restart();
        assert_eq!(back_off.next(None, 0), Some(Duration::from_millis(500)));
    }

    #[test]
    fn what_the_registry_asks_for_is_waited_within_the_bound() {
        let wait =
            |asked, chance| BackOff::new(BOUNDS).next(Some(Duration::from_secs(asked)), chance).unwrap().as_millis();
        assert_eq!((wait(3, 0), wait(3, 1023), wait(0, 0), wait(3600, 5)), (3000, 3500, 500, 6000));
        let many = Transfers { retries: 100, ..BOUNDS };
        let mut back_off = BackOff { bounds: many, tries: 90 };
        assert_eq!(back_off.next(None, 0), Some(Duration::from_secs(3)));
    }
}
