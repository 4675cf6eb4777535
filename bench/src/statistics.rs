//! Medians and spread of a few samples.

use serde::{Deserialize, Serialize};

/// What is said of the samples of one contestant, in the metric's unit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    pub median: f64,
    pub least: f64,
    pub most: f64,
    pub lower_quartile: f64,
    pub upper_quartile: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// In the order in which they were taken.
    pub samples: Vec<f64>,
}

impl Summary {
    /// `None` without samples.
    pub fn of(samples: Vec<f64>) -> Option<Self> {
        let mut sorted = samples.clone();
        sorted.sort_by(f64::total_cmp);
        let (least, most) = (*sorted.first()?, *sorted.last()?);
        let at = |share| quantile(&sorted, share);
        let (median, p95) = (at(0.5), at(0.95));
        Some(Self { median, least, most, lower_quartile: at(0.25), upper_quartile: at(0.75), p95, samples })
    }

    /// The value that `share` of the samples do not exceed; `None` without samples.
    pub fn percentile(&self, share: f64) -> Option<f64> {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        (!sorted.is_empty()).then(|| quantile(&sorted, share))
    }

    /// The quartiles' distance as a share of the median.
    pub fn spread(&self) -> f64 {
        (self.upper_quartile - self.lower_quartile) / self.median
    }
}

/// Between neighbours by their distance, as most tools do (R's type 7).
fn quantile(sorted: &[f64], share: f64) -> f64 {
    let position = share * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(sorted.len() - 1);
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_neighbours() {
        let summary = Summary::of(vec![4.0, 1.0, 3.0, 2.0]).unwrap();
        assert_eq!((summary.median, summary.least, summary.most), (2.5, 1.0, 4.0));
        assert_eq!((summary.lower_quartile, summary.upper_quartile), (1.75, 3.25));
        assert_eq!(summary.percentile(0.5), Some(2.5));
        assert_eq!(summary.spread(), 0.6);
        assert_eq!(Summary::of(vec![7.0]).unwrap().p95, 7.0);
        assert_eq!(Summary::of(Vec::new()), None);
    }
}
