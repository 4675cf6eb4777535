//! When single probes make a verdict.

/// Counts equal outcomes in a row.
#[derive(Debug, Clone)]
pub(super) struct Tally {
    successes: u32,
    failures: u32,
    last: Option<bool>,
    run: u32,
}

impl Tally {
    /// As many of either kind make a verdict; none means one.
    pub(super) fn new(successes: Option<i32>, failures: Option<i32>) -> Self {
        let at_least_one = |count: Option<i32>| count.and_then(|count| u32::try_from(count).ok()).unwrap_or(1).max(1);
        Self { successes: at_least_one(successes), failures: at_least_one(failures), last: None, run: 0 }
    }

    /// The verdict, as soon as enough outcomes in a row agree.
    pub(super) fn take(&mut self, passed: bool) -> Option<bool> {
        self.run = if self.last == Some(passed) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(passed);
        let needed = if passed { self.successes } else { self.failures };
        (self.run >= needed).then_some(passed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verdict_needs_its_number_of_outcomes_in_a_row() {
        let mut tally = Tally::new(Some(2), Some(3));
        let outcomes = [true, true, false, false, true, false, false, false, false, true, true];
        let verdicts: Vec<Option<bool>> = outcomes.into_iter().map(|passed| tally.take(passed)).collect();
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, yes, None, None, None, None, None, no, no, None, yes]);
    }

    #[test]
    fn one_outcome_is_enough_where_nothing_else_is_said() {
        let mut tally = Tally::new(None, Some(0));
        assert_eq!((tally.take(false), tally.take(true)), (Some(false), Some(true)));
    }
}
