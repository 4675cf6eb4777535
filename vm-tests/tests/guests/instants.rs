//! One node works while its disk is recorded; then the power fails at many instants of that, and this machine looks at
//! what is left: a boot for each would take half an hour.

use crate::power::{guest, seed};
use crate::support::ledger::Ledger;
use crate::support::{OnLine, kernel, turn};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use vm_tests::disk::Loss;
use vm_tests::random::Random;
use vm_tests::{Disk, Ending, Options, Vm, cargo};

/// So much is recorded after the node is set up.
const WRITES: u64 = 1500;
const LIMIT: Duration = Duration::from_secs(400);
const CUTS: u64 = 100;
/// Looks at the disk `$1` with the programs of `$2`, on mount points of its own, and prints the images that are listed.
const LOOK: &str = "
    set -e
    mount -t tmpfs none /mnt; mkdir /mnt/data /mnt/run; mount -o loop \"$1\" /mnt/data
    \"$2/wharf\" --root /mnt/data --state /mnt/run system check >&2
    for layer in /mnt/data/snapshots/*/fs; do
        [ ! -e \"$layer/SUMS\" ] || (cd \"$layer\" && sha256sum --quiet -c SUMS) >&2
    done
    [ ! -e /mnt/data/images/index.json ] || cat /mnt/data/images/index.json";

/// What the guest said of images, with the number of writes until then.
#[derive(Default)]
struct Story(Vec<(usize, String)>);

impl Story {
    /// What has to be there after a cut with that write. A line reaches this machine a little later than the writes
    /// that it tells of, so that the next two things to be done may be under way.
    fn until(&self, write: usize) -> Ledger {
        let mut ledger = Ledger::default();
        let (before, after): (Vec<_>, Vec<_>) = self.0.iter().partition(|(at, _)| *at < write);
        before.into_iter().for_each(|(_, line)| ledger.note(line));
        after
            .into_iter()
            .filter(|(_, line)| line.starts_with("begin "))
            .take(2)
            .for_each(|(_, line)| ledger.note(line));
        ledger
    }
}

fn look_at(media: &File, programs: &Path) -> Result<BTreeSet<String>, String> {
    let disk = format!("/proc/{}/fd/{}", std::process::id(), media.as_raw_fd());
    let mut command = Command::new("unshare");
    command.args(["--mount", "sh", "-c", LOOK, "sh", &disk]).arg(programs);
    let output = command.output().map_err(|error| format!("run unshare: {error}"))?;
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{}: {errors}", output.status));
    }
    if output.stdout.is_empty() {
        return Ok(BTreeSet::new());
    }
    let index: Value = serde_json::from_slice(&output.stdout).map_err(|error| format!("index.json: {error}"))?;
    let names = index["manifests"].as_array().into_iter().flatten();
    let names = names.filter_map(|it| it["annotations"]["org.opencontainers.image.ref.name"].as_str());
    // 127.0.0.1:5000/small/N:1
    Ok(names.filter_map(|name| Some(format!("image {}", name.split("/small/").nth(1)?.strip_suffix(":1")?))).collect())
}

#[test]
fn at_any_of_many_instants_a_power_cut_leaves_sound_stores() {
    const NAME: &str = "at_any_of_many_instants_a_power_cut_leaves_sound_stores";
    let Some(kernel) = kernel(NAME) else { return };
    if !rustix::process::geteuid().is_root() {
        println!("SKIP {NAME}: needs root to mount what is left of a disk");
        return;
    }
    let programs = cargo::programs().expect("build the programs").programs;
    let programs = programs[0].parent().expect("a directory");
    let seed = seed();
    let mut random = Random::new(seed);
    let mut image = guest(kernel);
    image.data("/seed", format!("{}\n", random.number() >> 34)).expect("seed");
    let _turn = turn();
    let start = Instant::now();
    let disk = Disk::ext4(256).expect("make a disk");
    let story = Mutex::new(Story::default());
    let mut output = OnLine::new(|line| {
        if line == "working" {
            disk.record().expect("record");
            disk.cut_after(WRITES, Loss::Nothing, Random::new(0));
        } else if line.contains(" image ") {
            story.lock().expect("the story").0.push((disk.recorded(), line.into()));
        }
    });
    let options = Options { timeout: LIMIT, ..Options::default() };
    let mut errors = Vec::new();
    let ended = Vm::new(&image, &options).with_disk(&disk).run(&mut output, &mut errors).expect("run the VM");
    assert_eq!(ended.ending, Ending::PowerCut, "{}\n{}", output.text(), ended.console_tail());
    drop(output);
    let film = disk.take_film().expect("a film");
    let story = story.into_inner().expect("the story");
    let recorded = start.elapsed().as_secs_f64();
    for cut in 0..CUTS {
        let write = 1 + random.below(film.writes() as u64) as usize;
        let loss = [Loss::Part, Loss::Part, Loss::Everything, Loss::Nothing][random.below(4) as usize];
        let told = format!("cut {cut} of seed {seed} with write {write}, which loses: {loss:?}");
        let media = film.cut_with(write, loss, random.clone()).expect("make the disk");
        random.number();
        let found = look_at(&media, programs).unwrap_or_else(|error| panic!("{told}: {error}"));
        let wrong = story.until(write).compare(&found);
        assert!(wrong.is_empty(), "{told}: {wrong:?}\n{:#?}", story.0);
    }
    println!(
        "guests: {CUTS} power cuts in {} writes and {} steps, seed {seed}: every store was sound ({recorded:.0} s of work, {:.0} s in all)",
        film.writes(),
        story.0.len(),
        start.elapsed().as_secs_f64()
    );
}
