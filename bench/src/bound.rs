//! What is expected of ours: at most so many times what another one needs, or at most so much.

use serde::{Deserialize, Serialize};

use crate::comparison::{ContestantResult, Metric};

/// Medians are compared, where the limit says nothing else.
pub struct Bound {
    pub ours: &'static str,
    pub metric: Metric,
    pub at_most: Limit,
}

pub enum Limit {
    /// In the metric's unit.
    Absolute(f64),
    /// So many times the least of these.
    Times(f64, &'static [&'static str]),
    /// The 99th percentile, in the metric's unit.
    Tail(f64),
    /// The 95th percentile, as so many times the median.
    Spread(f64),
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Verdict {
    /// The bound as a sentence.
    pub bound: String,
    /// What was found.
    pub found: String,
    /// `None`: who it is held against took no part.
    pub is_met: Option<bool>,
}

impl Bound {
    pub(crate) fn judge(&self, results: &[ContestantResult]) -> Verdict {
        let median = |name: &str| {
            let result = results.iter().find(|result| result.name == name)?;
            Some(result.summaries.get(&self.metric)?.median)
        };
        let summary = || results.iter().find(|result| result.name == self.ours)?.summaries.get(&self.metric);
        let (ours, title) = (median(self.ours), self.metric.title());
        let (bound, measure, limit) = match &self.at_most {
            Limit::Absolute(limit) => {
                let bound = format!("{title} of {} at most {}", self.ours, self.metric.show(*limit));
                (bound, ours, *limit)
            }
            Limit::Tail(limit) => {
                let bound = format!("99th percentile of {title} of {} at most {}", self.ours, self.metric.show(*limit));
                (bound, summary().and_then(|summary| summary.percentile(0.99)), *limit)
            }
            Limit::Spread(times) => {
                let bound = format!("95th percentile of {title} of {} at most {times:.1} times its median", self.ours);
                (bound, summary().map(|summary| summary.p95 / summary.median), *times)
            }
            Limit::Times(times, others) => {
                let whose = match others {
                    [one] => format!("{one}'s"),
                    several => format!("that of the best of {}", several.join(", ")),
                };
                let bound = format!("{title} of {} at most {times:.2} times {whose}", self.ours);
                let best = others.iter().filter_map(|name| median(name)).min_by(f64::total_cmp);
                (bound, ours.zip(best).map(|(ours, best)| ours / best), *times)
            }
        };
        let found = match (&self.at_most, measure) {
            (_, None) => "not measured".into(),
            (Limit::Absolute(_) | Limit::Tail(_), Some(value)) => self.metric.show(value),
            (Limit::Times(..) | Limit::Spread(_), Some(ratio)) => format!("{ratio:.2} times"),
        };
        Verdict { bound, found, is_met: measure.map(|measure| measure <= limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::statistics::Summary;

    fn result(name: &str, seconds: Option<f64>) -> ContestantResult {
        let summary = seconds.and_then(|seconds| Summary::of(vec![seconds]));
        ContestantResult {
            name: name.into(),
            version: String::new(),
            command: String::new(),
            missing: None,
            summaries: summary.map(|summary| (Metric::Time, summary)).into_iter().collect(),
        }
    }

    #[test]
    fn a_bound_is_met_missed_or_open() {
        let results = [result("wharf", Some(1.0)), result("a", Some(4.0)), result("b", Some(1.5)), result("c", None)];
        let judge = |at_most| {
            let verdict = Bound { ours: "wharf", metric: Metric::Time, at_most }.judge(&results);
            (verdict.is_met, verdict.found)
        };
        assert_eq!(judge(Limit::Times(0.5, &["a"])), (Some(true), "0.25 times".into()));
        assert_eq!(judge(Limit::Times(0.5, &["a", "b"])), (Some(false), "0.67 times".into()));
        assert_eq!(judge(Limit::Times(0.5, &["c"])), (None, "not measured".into()));
        assert_eq!(judge(Limit::Absolute(1.0)), (Some(true), "1.00 s".into()));
    }
}
