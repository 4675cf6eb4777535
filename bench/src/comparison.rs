//! One job, done by several contestants in alternating rounds.

use std::collections::BTreeMap;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::bound::{Bound, Verdict};
use crate::statistics::Summary;

/// What is measured of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Wall time, in seconds.
    Time,
    /// The largest resident set of a process that took part, in bytes; of a daemon, since it was started.
    PeakMemory,
    /// Proportional set size, in bytes: pages that several processes share count for each of them by its share.
    Memory,
    /// Processor time by wall time: 1 is a whole processor.
    Processor,
}

impl Metric {
    pub fn title(self) -> &'static str {
        match self {
            Self::Time => "time",
            Self::PeakMemory => "peak memory",
            Self::Memory => "memory",
            Self::Processor => "processor time",
        }
    }

    /// `1.23 s`, `4.56 ms`, `7.8 MiB`.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Time if value >= 1.0 => format!("{value:.2} s"),
            Self::Time if value >= 1e-3 => format!("{:.2} ms", value * 1e3),
            Self::Time => format!("{:.1} µs", value * 1e6),
            Self::Processor => format!("{:.2} %", value * 1e2),
            Self::Memory if value < f64::from(1 << 20) => format!("{:.0} KiB", value / f64::from(1 << 10)),
            Self::PeakMemory | Self::Memory => format!("{:.1} MiB", value / f64::from(1 << 20)),
        }
    }
}

/// What one run gave.
pub type Sample = BTreeMap<Metric, f64>;

/// One way to do the job.
pub struct Contestant {
    pub name: &'static str,
    /// Of the programs that do it, as they say themselves.
    pub version: String,
    /// What a person would type.
    pub command: String,
    /// Does the job once, what is not measured before and after it included. `Err`: why it cannot take part.
    pub run: Result<Box<dyn FnMut() -> anyhow::Result<Sample>>, String>,
}

impl Contestant {
    pub fn missing(name: &'static str, reason: impl Into<String>) -> Self {
        Self { name, version: String::new(), command: String::new(), run: Err(reason.into()) }
    }
}

/// One job, who does it, and what is expected of ours.
pub struct Comparison {
    /// What is done, in a sentence with the sizes.
    pub what: String,
    /// Ours first.
    pub contestants: Vec<Contestant>,
    pub bounds: Vec<Bound>,
    pub rounds: usize,
    pub warm_up: usize,
}

/// What a comparison showed.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outcome {
    pub name: String,
    pub what: String,
    pub rounds: usize,
    pub warm_up: usize,
    pub results: Vec<ContestantResult>,
    pub verdicts: Vec<Verdict>,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct ContestantResult {
    pub name: String,
    pub version: String,
    pub command: String,
    /// Why it did not take part.
    pub missing: Option<String>,
    pub summaries: BTreeMap<Metric, Summary>,
}

impl Comparison {
    /// Everybody in turn, warm-up first; who begins changes from round to round.
    ///
    /// # Errors
    /// A contestant that takes part could not do the job.
    pub fn run(mut self, name: &str, rounds: Option<usize>) -> anyhow::Result<Outcome> {
        let rounds = rounds.unwrap_or(self.rounds);
        let count = self.contestants.len();
        let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); count];
        for round in 0..self.warm_up + rounds {
            for turn in 0..count {
                let at = (turn + round) % count;
                let contestant = &mut self.contestants[at];
                let Ok(run) = &mut contestant.run else { continue };
                let sample = run().with_context(|| format!("{name}: {}", contestant.name))?;
                if round >= self.warm_up {
                    samples[at].push(sample);
                }
            }
        }
        let results: Vec<ContestantResult> = self.contestants.iter().zip(samples).map(result).collect();
        let verdicts = self.bounds.iter().map(|bound| bound.judge(&results)).collect();
        Ok(Outcome { name: name.into(), what: self.what, rounds, warm_up: self.warm_up, results, verdicts })
    }
}

fn result((contestant, samples): (&Contestant, Vec<Sample>)) -> ContestantResult {
    let mut by_metric: BTreeMap<Metric, Vec<f64>> = BTreeMap::new();
    for (metric, value) in samples.into_iter().flatten() {
        by_metric.entry(metric).or_default().push(value);
    }
    ContestantResult {
        name: contestant.name.into(),
        version: contestant.version.clone(),
        command: contestant.command.clone(),
        missing: contestant.run.as_ref().err().cloned(),
        summaries: by_metric.into_iter().filter_map(|(metric, values)| Some((metric, Summary::of(values)?))).collect(),
    }
}
