//! The power fails while a node works: after it, every store opens, is sound, and holds what was said to be done.

use crate::support::ledger::Ledger;
use crate::support::small_image::SmallImage;
use crate::support::{OnLine, kernel, turn};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};
use vm_tests::disk::Loss;
use vm_tests::random::Random;
use vm_tests::{Disk, Ending, Image, Kernel, Options, Vm, cargo};

/// As many cuts as fit into this, where no number is asked for.
const BUDGET: Duration = Duration::from_secs(60);
/// One boot, with its check and its work.
const LIMIT: Duration = Duration::from_secs(180);
/// The latest write at which the power fails: some rounds of the guest's work.
const LAST_WRITE: u64 = 160;
const IMAGES: u64 = 4;

pub fn guest(kernel: Kernel) -> Image {
    let programs = cargo::programs().expect("build the programs");
    let mut image = Image::new(kernel, &programs.init).expect("image");
    image.programs(&programs).expect("programs");
    image.host_program("nft").expect("add nft");
    image.disk("/var/lib/wharf").expect("mount point");
    SmallImage::sleeping().add_archive(&mut image, "/archives/base.tar", "wharf.example/base:1");
    for number in 0..IMAGES {
        let small = SmallImage::new(number);
        small.add_archive(&mut image, &format!("/archives/{number}.tar"), &format!("127.0.0.1:5000/small/{number}:1"));
        small.add_to_registry(&mut image, "/registry".as_ref(), &format!("small/{number}"));
    }
    image.data("/web.yaml", crate::support::deployment(1)).expect("manifest");
    image.data("/guest.sh", include_str!("power/guest.sh")).expect("script");
    image.command(&["sh".into(), "/guest.sh".into()]).expect("command");
    image
}

/// From a seed of one's own, a failure can be repeated, but for what the guest's scheduler decides.
pub fn seed() -> u64 {
    let given = std::env::var("WHARF_POWER_SEED").ok().map(|text| text.parse().expect("WHARF_POWER_SEED is a number"));
    given.unwrap_or_else(|| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()))
}

#[test]
fn after_a_power_cut_every_store_opens_and_holds_what_was_done() {
    const NAME: &str = "after_a_power_cut_every_store_opens_and_holds_what_was_done";
    let Some(kernel) = kernel(NAME) else { return };
    let wanted = std::env::var("WHARF_POWER_CUTS").ok().map(|text| text.parse().expect("WHARF_POWER_CUTS is a number"));
    let mut image = guest(kernel);
    let _turn = turn();
    let (seed, start) = (seed(), Instant::now());
    let mut random = Random::new(seed);
    let disk = Disk::ext4(256).expect("make a disk");
    let options = Options { timeout: LIMIT, ..Options::default() };
    let ledger = Mutex::new(Ledger::default());
    // The first boot finds an empty disk; each later one checks what the cut before it left.
    let mut cuts = 0u64;
    while wanted.map_or_else(|| cuts < 2 || start.elapsed() < BUDGET, |wanted| cuts <= wanted) {
        let loss = [Loss::Part, Loss::Part, Loss::Everything, Loss::Nothing][random.below(4) as usize];
        let writes = 1 + random.below(LAST_WRITE);
        let cut = random.clone();
        image.data("/seed", format!("{}\n", random.number() >> 34)).expect("seed");
        let mut found = BTreeSet::new();
        let mut wrong = Vec::new();
        let mut output = OnLine::new(|line| {
            let mut ledger = ledger.lock().expect("the ledger");
            match line.strip_prefix("there ") {
                Some(thing) => drop(found.insert(thing.to_string())),
                None if line == "listed" => wrong = ledger.compare(&found),
                None if line == "working" => disk.cut_after(writes, loss, cut.clone()),
                None => ledger.note(line),
            }
        });
        let mut errors = Vec::new();
        let ended = Vm::new(&image, &options).with_disk(&disk).run(&mut output, &mut errors).expect("run the VM");
        let text = output.text();
        drop(output);
        let told = format!(
            "boot {cuts} of seed {seed}, then a cut with write {writes}, which loses: {loss:?}\n{text}{}{}",
            String::from_utf8_lossy(&errors),
            ended.console_tail()
        );
        assert_eq!(ended.ending, Ending::PowerCut, "{told}");
        assert!(wrong.is_empty(), "{wrong:?}\n{told}");
        disk.check_file_system().unwrap_or_else(|error| panic!("{error:#}\n{told}"));
        println!("boot {cuts}: write {writes} is the last, which loses: {loss:?}");
        cuts += 1;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("guests: {} power cuts in {seconds:.0} s, seed {seed}: every store opened and was sound", cuts - 1);
}
