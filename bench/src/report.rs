//! What is left of a run: a table for a person, JSON for programs, a picture, and a page with all of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::Context;
use serde::{Deserialize, Serialize};

use crate::comparison::{ContestantResult, Metric, Outcome};
use crate::machine::Machine;
use crate::picture;

/// One comparison's JSON file.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    machine: Machine,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Writes `NAME.json` and a picture for each metric into `folder`, and its page anew.
pub fn write(folder: &Path, machine: &Machine, outcome: Outcome) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder)?;
    for metric in metrics(&outcome) {
        let file = folder.join(picture_name(&outcome.name, metric));
        std::fs::write(&file, picture::draw(&outcome, metric)).with_context(|| format!("write {}", file.display()))?;
    }
    let file = folder.join(format!("{}.json", outcome.name));
    let record = Record { machine: machine.clone(), outcome };
    std::fs::write(&file, serde_json::to_string_pretty(&record)? + "\n")
        .with_context(|| format!("write {}", file.display()))?;
    write_page(folder)
}

/// All results that lie in `folder`, also those of earlier runs.
fn write_page(folder: &Path) -> anyhow::Result<()> {
    let mut records: BTreeMap<String, Record> = BTreeMap::new();
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = std::fs::read_to_string(&path)?;
            let record: Record = serde_json::from_str(&text).with_context(|| format!("read {}", path.display()))?;
            records.insert(record.outcome.name.clone(), record);
        }
    }
    let mut page = String::from(
        "# Benchmarks\n\nWritten by `make bench`; `make bench BENCH=NAME` runs one again. Times vary from machine to machine, ratios\n\
         hardly do. Spread is the distance of the quartiles as a share of the median.\n",
    );
    for record in records.values() {
        let Outcome { name, what, rounds, warm_up, .. } = &record.outcome;
        write!(page, "\n## {name}\n\n{what}\n\n")?;
        writeln!(page, "{}; {rounds} alternating rounds after {warm_up} to warm up.", record.machine)?;
        page += &tables(&record.outcome);
        for metric in metrics(&record.outcome) {
            writeln!(page, "\n![{name}, {}]({})", metric.title(), picture_name(name, metric))?;
        }
        let commands = record.outcome.results.iter().filter(|result| result.missing.is_none());
        page += "\n";
        for ContestantResult { name, version, command, .. } in commands {
            writeln!(page, "- {name} ({version}): `{command}`")?;
        }
    }
    Ok(std::fs::write(folder.join("README.md"), page)?)
}

fn picture_name(name: &str, metric: Metric) -> String {
    format!("{name}-{}.svg", metric.title().replace(' ', "-"))
}

fn metrics(outcome: &Outcome) -> Vec<Metric> {
    let mut metrics: Vec<Metric> = outcome.results.iter().flat_map(|result| result.summaries.keys().copied()).collect();
    metrics.sort();
    metrics.dedup();
    metrics
}

/// A table for each metric, as Markdown that is read without being rendered too, then who was missing and the bounds.
pub fn tables(outcome: &Outcome) -> String {
    let mut text = String::new();
    for metric in metrics(outcome) {
        let mut rows = vec![[metric.title(), "median", "spread", "least", "most", "to ours"].map(str::to_owned)];
        let ours = outcome.results.first().and_then(|ours| ours.summaries.get(&metric)).map(|ours| ours.median);
        for result in &outcome.results {
            let Some(summary) = result.summaries.get(&metric) else { continue };
            rows.push([
                result.name.clone(),
                metric.show(summary.median),
                format!("{:.0} %", summary.spread() * 100.0),
                metric.show(summary.least),
                metric.show(summary.most),
                ours.map_or_else(String::new, |ours| format!("{:.2}×", summary.median / ours)),
            ]);
        }
        text.push('\n');
        text += &aligned(&rows);
    }
    text.push('\n');
    for result in &outcome.results {
        if let Some(reason) = &result.missing {
            text += &format!("- without {}: {reason}\n", result.name);
        }
    }
    for verdict in &outcome.verdicts {
        let word = match verdict.is_met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "open",
        };
        text += &format!("- {word}: {} ({})\n", verdict.bound, verdict.found);
    }
    text
}

fn aligned<const COLUMNS: usize>(rows: &[[String; COLUMNS]]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let padding = " ".repeat(widths[column] - cell.chars().count());
            text += &match column {
                0 => format!("| {cell}{padding} |"),
                _ => format!(" {padding}{cell} |"),
            };
        }
        text.push('\n');
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                text += &match column {
                    0 => format!("|-{line}-|"),
                    _ => format!("-{line}:|"),
                };
            }
            text.push('\n');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bound::{Bound, Limit};
    use crate::comparison::{Comparison, Contestant, Sample};

    fn contestant(name: &'static str, seconds: f64) -> Contestant {
        let run = move || Ok(Sample::from([(Metric::Time, seconds)]));
        Contestant { name, version: format!("{name} 1"), command: format!("{name} run"), run: Ok(Box::new(run)) }
    }

    #[test]
    fn a_run_leaves_a_page_a_picture_and_figures_that_are_read_again() {
        let comparison = Comparison {
            what: "Nothing at all.".into(),
            contestants: vec![
                contestant("ours", 0.5),
                contestant("theirs", 1.0),
                Contestant::missing("third", "third is not installed"),
            ],
            bounds: vec![Bound { ours: "ours", metric: Metric::Time, at_most: Limit::Times(0.4, &["theirs"]) }],
            rounds: 3,
            warm_up: 1,
        };
        let folder = tempfile::tempdir().unwrap();
        let outcome = comparison.run("nothing", None).unwrap();
        assert_eq!(outcome.results[1].summaries[&Metric::Time].samples, [1.0; 3]);
        write(folder.path(), &Machine::here(), outcome).unwrap();
        // As another run does, which only finds the files.
        write_page(folder.path()).unwrap();
        let page = std::fs::read_to_string(folder.path().join("README.md")).unwrap();
        assert!(page.contains("| theirs |    1.00 s |"), "{page}");
        for line in [
            "- without third: third is not installed",
            "- MISSED: time of ours at most 0.40 times theirs's (0.50 times)",
        ] {
            assert!(page.contains(line), "{page}");
        }
        let picture = std::fs::read_to_string(folder.path().join("nothing-time.svg")).unwrap();
        assert!(
            picture.starts_with("<svg ") && picture.contains(">theirs<") && picture.contains("1.00 s"),
            "{picture}"
        );
    }

    #[test]
    fn a_contestant_that_fails_ends_the_run_by_name() {
        let mut failing = contestant("ours", 1.0);
        failing.run = Ok(Box::new(|| anyhow::bail!("no room")));
        let comparison =
            Comparison { what: String::new(), contestants: vec![failing], bounds: vec![], rounds: 1, warm_up: 0 };
        let error = comparison.run("nothing", None).unwrap_err();
        assert_eq!(format!("{error:#}"), "nothing: ours: no room");
    }
}
