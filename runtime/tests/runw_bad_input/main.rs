//! Wrong input: one clear line on standard error, exit code 1, and nothing left.
//!
//! Each table has one line for a wrong value: where in `config.json` it stands, the value, and what the message must
//! say, beginning with the JSON path.

mod documents;
mod hostile;
mod linux;
mod mounts;
mod namespaces;
mod process;
mod resources;
mod seccomp;
#[path = "../support/mod.rs"]
mod support;
mod top;
mod wrong_state;

use serde_json::Value;
use support::{Bundle, Outcome};

/// JSON pointer, the value put there, words of the message.
type Row<'a> = (&'a str, Value, &'a [&'a str]);

fn problem(outcome: &Outcome, words: &[&str]) -> Option<String> {
    if outcome.code != Some(1) {
        return Some(format!("exit code 1 was expected: {outcome:?}"));
    }
    if outcome.stderr.lines().count() != 1 {
        return Some(format!("one line was expected: {outcome:?}"));
    }
    let missing = words.iter().find(|word| !outcome.stderr.contains(*word))?;
    Some(format!("{missing:?} is missing: {}", outcome.stderr))
}

fn assert_refused(bundle: &Bundle, outcome: &Outcome, words: &[&str]) {
    assert_eq!(problem(outcome, words), None);
    bundle.assert_nothing_left();
}

/// Runs the bundle once for each row, always from the configuration it has now.
fn assert_all_refused(mut bundle: Bundle, table: &[Row<'_>]) {
    let good = bundle.config.clone();
    let mut problems = Vec::new();
    for (pointer, value, words) in table {
        bundle.config = good.clone();
        bundle.change(pointer, value.clone());
        let outcome = bundle.run();
        let shown: String = value.to_string().chars().take(80).collect();
        println!("{pointer} = {shown}: {}", outcome.stderr.trim());
        problems.extend(problem(&outcome, words).map(|problem| format!("{pointer} = {shown}: {problem}")));
        bundle.assert_nothing_left();
    }
    assert!(problems.is_empty(), "{} of {} rows:\n{}", problems.len(), table.len(), problems.join("\n"));
}
