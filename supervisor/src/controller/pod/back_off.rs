//! When something that failed may be tried again, as the kubelet does it: at once after the first failure, then after
//! 10 s, 20 s, … up to 300 s; forgotten after ten minutes of health.

use std::time::Duration;

/// Wait after the second failure in a row.
pub(crate) const INITIAL: Duration = Duration::from_secs(10);
/// No wait is longer.
pub(crate) const LONGEST: Duration = Duration::from_secs(300);
/// A run of this length clears the record.
pub(crate) const HEALTHY: Duration = Duration::from_secs(600);

/// The record of one container's failures.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct BackOff {
    /// `None`: the next try is free.
    wait: Option<Duration>,
}

impl BackOff {
    /// How long to wait after a failure; `ran` is how long the try before it lasted.
    pub(crate) fn wait_after(&mut self, ran: Duration) -> Duration {
        if ran >= HEALTHY {
            self.wait = None;
        }
        self.wait.unwrap_or(Duration::ZERO)
    }

    /// Takes note of a new try.
    pub(crate) fn tried(&mut self) {
        self.wait = Some(self.wait.map_or(INITIAL, |wait| (wait * 2).min(LONGEST)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The waits before each of `count` restarts of a container that runs for `ran` each time.
    fn waits(back_off: &mut BackOff, ran: Duration, count: usize) -> Vec<u64> {
        let mut waits = Vec::new();
        for _ in 0..count {
            waits.push(back_off.wait_after(ran).as_secs());
            back_off.tried();
        }
        waits
    }

    #[test]
    fn waits_double_from_ten_seconds_to_five_minutes() {
        let waits = waits(&mut BackOff::default(), Duration::from_secs(1), 9);
        assert_eq!(waits, [0, 10, 20, 40, 80, 160, 300, 300, 300]);
    }

    #[test]
    fn ten_minutes_of_health_clear_the_record() {
        let mut back_off = BackOff::default();
        waits(&mut back_off, Duration::from_secs(1), 5);
        assert_eq!(back_off.wait_after(HEALTHY - Duration::from_secs(1)).as_secs(), 160);
        assert_eq!(waits(&mut back_off, HEALTHY, 1), [0]);
        assert_eq!(back_off.wait_after(Duration::from_secs(1)), INITIAL);
    }
}
