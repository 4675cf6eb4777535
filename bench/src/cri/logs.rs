//! How fast a container's output comes into its log.

use std::fs::File;
use std::io::{BufRead as _, BufReader, BufWriter, Write as _};
use std::path::Path;
use std::process::Command;

use super::image::BUSYBOX;
use super::node::Node;
use super::{CONTAINERD, OURS, contestants};
use crate::Context;
use crate::bound::{Bound, Limit};
use crate::comparison::{Comparison, Contestant, Metric, Sample};
use crate::filesystem::FileSystem;
use crate::measure;

const CAT: &str = "cat";
const LINES: usize = 2_000_000;
/// With its end.
const LINE_BYTES: usize = 128;
const FILE: &str = "lines";

/// Writes the file that is logged.
fn write_lines(folder: &Path) -> anyhow::Result<()> {
    let mut file = BufWriter::new(File::create(folder.join(FILE))?);
    for number in 0..LINES {
        writeln!(file, "{number:0width$}", width = LINE_BYTES - 1)?;
    }
    Ok(file.flush()?)
}

fn logged(node: &mut Node) -> anyhow::Result<Sample> {
    let (taken, log) = node.write_log(&node.disk().join(FILE))?;
    let mut found = 0;
    for line in BufReader::new(File::open(&log)?).split(b'\n') {
        let (line, number) = (line?, format!("{found:0width$}", width = LINE_BYTES - 1));
        anyhow::ensure!(line.ends_with(number.as_bytes()), "line {found} is {}", String::from_utf8_lossy(&line));
        found += 1;
    }
    anyhow::ensure!(found == LINES, "the log has {found} lines of {LINES}");
    std::fs::remove_file(log)?;
    Ok(Sample::from([(Metric::Time, taken.as_secs_f64())]))
}

/// What the kernel needs for the bytes alone.
fn cat() -> anyhow::Result<Contestant> {
    // Written by the program that writes it in the container.
    let script = format!("{BUSYBOX} cat lines | cat >out");
    let disk = FileSystem::fresh()?;
    write_lines(&disk.path())?;
    let command = script.clone();
    let run = move || {
        let taken = measure::run(Command::new("sh").args(["-c", &script]).current_dir(disk.path()))?;
        std::fs::remove_file(disk.path().join("out"))?;
        Ok(Sample::from([(Metric::Time, taken.time.as_secs_f64())]))
    };
    Ok(Contestant { name: CAT, version: "coreutils".into(), command, run: Ok(Box::new(run)) })
}

/// From the start of a container to its end being told, all of its output being in the log.
pub(crate) fn logs(context: &Context) -> anyhow::Result<Comparison> {
    let mut all =
        contestants(context, "StartContainer, until it has exited", |node| write_lines(&node.disk()), logged)?;
    all.push(cat()?);
    Ok(Comparison {
        what: format!(
            "A container writes {LINES} lines of {LINE_BYTES} bytes, {} MB, to its standard output: until it has ended and all are in \
             its log.",
            LINES * LINE_BYTES / 1_000_000
        ),
        contestants: all,
        bounds: vec![
            Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Times(1.3, &[CAT]) },
            Bound { ours: OURS, metric: Metric::Time, at_most: Limit::Times(1.0, &[CONTAINERD]) },
        ],
        rounds: 10,
        warm_up: 1,
    })
}
