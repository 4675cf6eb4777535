//! `wharf-bench`: Wharf and its peers side by side. `make bench` runs it in a mount namespace of its own.
//!
//! | module | subject |
//! |---|---|
//! | [`comparison`] | one job, its contestants, alternating rounds |
//! | [`bound`] | what is expected of ours |
//! | [`peer`] | programs of others |
//! | [`measure`], [`statistics`] | a program's time and memory; medians and spread |
//! | [`filesystem`] | a fresh file system for each run |
//! | [`report`], [`picture`], [`machine`] | tables, JSON, SVG |
//! | [`api`] | benches of nodes that are told what shall run |
//! | [`cri`] | benches of nodes under a kubelet |
//! | [`images`] | benches of images |
//! | [`runtime`] | benches of OCI runtimes; `floor/` is what they are held against |
//!
//! A bench is a function that prepares a [`Comparison`](comparison::Comparison), and a line in [`BENCHES`].

mod api;
mod bound;
mod comparison;
mod cri;
mod filesystem;
mod images;
mod machine;
mod measure;
mod peer;
mod picture;
mod report;
mod runtime;
mod statistics;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser;

use comparison::Comparison;

/// Measures Wharf and its peers, side by side.
#[derive(Parser)]
struct Arguments {
    /// Benches, or the first words of their names; all without any
    names: Vec<String>,
    /// Lists the benches
    #[arg(long)]
    list: bool,
    /// Rounds that count, instead of each bench's own number
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=10_000))]
    rounds: Option<u16>,
    /// Where wharf, wharfd, runw and wharf-shim are
    #[arg(long, default_value = "target/release")]
    programs: PathBuf,
    /// Where images and the like are kept from run to run
    #[arg(long, default_value = "target/bench")]
    work: PathBuf,
    /// Where figures, pictures and their page go; WORK/results if not given
    #[arg(long)]
    results: Option<PathBuf>,
}

/// What a bench finds ready.
pub struct Context {
    /// Folder of our programs, absolute.
    pub programs: PathBuf,
    /// Folder for what is kept from run to run, absolute.
    pub work: PathBuf,
}

type Prepare = fn(&Context) -> anyhow::Result<Comparison>;

/// Names begin with their room's.
const BENCHES: &[(&str, Prepare)] = &[
    ("api-crowd", api::crowd),
    ("api-idle", api::idle),
    ("api-list", api::list),
    ("api-restart", api::restart),
    ("cri-daemon", cri::daemon),
    ("cri-end", cri::end),
    ("cri-growth", cri::growth),
    ("cri-idle", cri::idle),
    ("cri-list", cri::list),
    ("cri-logs", cri::logs),
    ("cri-many", cri::many),
    ("cri-memory", cri::memory),
    ("cri-start", cri::start),
    ("cri-stats", cri::stats),
    ("images-debian", images::debian),
    ("images-files", images::files),
    ("images-present", images::present),
    ("images-snapshot", images::snapshot),
    ("runtime-create", runtime::steps),
    ("runtime-eight", runtime::eight),
    ("runtime-exec", runtime::exec),
    ("runtime-memory", runtime::memory),
    ("runtime-rootless", runtime::rootless),
    ("runtime-run", runtime::run),
];

fn main() -> ExitCode {
    match bench(Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn bench(arguments: Arguments) -> anyhow::Result<()> {
    let chosen = choose(&arguments.names)?;
    if arguments.list {
        for (name, _) in chosen {
            println!("{name}");
        }
        return Ok(());
    }
    let folder = |path: &PathBuf| path.canonicalize().with_context(|| format!("folder `{}`", path.display()));
    std::fs::create_dir_all(&arguments.work)?;
    let context = Context { programs: folder(&arguments.programs)?, work: folder(&arguments.work)? };
    // Some benches leave this folder.
    let results = std::path::absolute(arguments.results.unwrap_or_else(|| context.work.join("results")))?;
    let machine = machine::Machine::here();
    println!("{machine}");
    let mut failed = Vec::new();
    for (name, prepare) in chosen {
        let outcome = prepare(&context).and_then(|comparison| {
            println!("\n{name}: {}", comparison.what);
            comparison.run(name, arguments.rounds.map(usize::from))
        });
        match outcome {
            Ok(outcome) => {
                print!("{}", report::tables(&outcome));
                report::write(&results, &machine, outcome)?;
            }
            // The others are measured all the same.
            Err(error) => {
                eprintln!("bench: {name}: {error:#}");
                failed.push(*name);
            }
        }
    }
    println!("\nfigures and pictures: {}", results.display());
    match failed.is_empty() {
        true => Ok(()),
        false => bail!("not measured: {}", failed.join(", ")),
    }
}

fn choose(names: &[String]) -> anyhow::Result<Vec<&'static (&'static str, Prepare)>> {
    let fits = |bench: &str, name: &String| {
        bench.strip_prefix(name.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    };
    if let Some(unknown) = names.iter().find(|name| !BENCHES.iter().any(|(bench, _)| fits(bench, name))) {
        let all: Vec<&str> = BENCHES.iter().map(|(name, _)| *name).collect();
        bail!("there is no bench `{unknown}`; there are {}", all.join(", "));
    }
    Ok(BENCHES.iter().filter(|(bench, _)| names.is_empty() || names.iter().any(|name| fits(bench, name))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn benches_are_chosen_by_the_first_words_of_their_names() {
        let chosen = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            choose(&names).map(|chosen| chosen.len())
        };
        assert_eq!(chosen(&["images-debian"]).unwrap(), 1);
        assert!(chosen(&["images"]).unwrap() >= 4);
        assert_eq!(chosen(&[]).unwrap(), BENCHES.len());
        let error = chosen(&["images", "imag"]).unwrap_err().to_string();
        assert!(error.starts_with(&format!("there is no bench `imag`; there are {}, ", BENCHES[0].0)), "{error}");
    }
}
