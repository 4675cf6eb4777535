//! The privileged tests of the runtime, of images and of whole nodes, in guests where systemd is process 1, under cgroup
//! v2 alone. Each guest is thrown away; the tests' own files are on a disk with a journal, as on a real machine.

use crate::support::{SuiteRun, kernel, turn};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vm_tests::cargo::{self, Suites};
use vm_tests::{Disk, Image, Options, debian, host_program};

/// Of one package, emulated, on a machine that is busy with other work.
const LIMIT: Duration = Duration::from_secs(2400);

/// The guest swaps to its disk.
const SWAP: &str = "fallocate -l 256M /tmp/swap; chmod 600 /tmp/swap; mkswap -q /tmp/swap; swapon /tmp/swap";

/// A guest with systemd, or nothing after saying why the test does not run.
pub fn guest(test: &str) -> Option<Image> {
    let kernel = kernel(test)?;
    if let Err(error) = host_program::find("mmdebstrap") {
        println!("SKIP {test}: {error:#}");
        return None;
    }
    let archive = debian::archive(&[]).expect("make the root file system");
    Some(Image::debian(kernel, &cargo::init().expect("build the init"), archive, None).expect("image"))
}

/// Peers and tools, as far as this machine has them; a test that misses one says so in the guest.
pub fn add_programs(image: &mut Image, programs: &[&str]) {
    for program in programs.iter().filter(|program| host_program::find(program).is_ok()) {
        image.host_program(program).expect("add a program");
    }
}

/// What suites read at its place in the source tree.
fn add_source(image: &mut Image, path: &Path) {
    let path = cargo::workspace().join(path);
    if path.is_dir() {
        for entry in std::fs::read_dir(&path).expect("list").flatten() {
            add_source(image, &entry.path());
        }
    } else {
        image.file(&path, &path.to_string_lossy()).expect("add a source");
    }
}

fn run(test: &str, mut image: Image, built: &Suites, wanted: impl Fn(&str) -> bool, picked: &str) {
    let mut first = format!("{SWAP}; export WHARF_CYCLES=24 WHARF_KILLS=5 WHARF_LAYER_FILES=10000");
    // As `scripts/test` builds it, to be installed.
    if let Some(runw) = std::env::var_os("WHARF_VM_RUNW") {
        image.file(Path::new(&runw), "/usr/bin/runw").expect("add runw");
        first += "; export WHARF_TEST_RUNW=/usr/bin/runw";
    }
    crate::support::add_suites(&mut image, &first, built, wanted, picked).expect("add the suites");
    image.disk("/tmp").expect("mount point");
    let disk = Disk::ext4(4096).expect("make a disk");
    let _turn = turn();
    let start = Instant::now();
    let options = Options { timeout: LIMIT, memory_mib: 4096, ..Options::default() };
    let run = SuiteRun::on(&image, &options, Some(&disk));
    run.print_counts(test, start.elapsed());
    run.assert_passed();
}

#[test]
fn the_runtime_passes_its_tests_under_systemd() {
    const NAME: &str = "the_runtime_passes_its_tests_under_systemd";
    let Some(mut image) = guest(NAME) else { return };
    let built = cargo::suites("runtime").expect("build the suites");
    add_programs(&mut image, &["runc"]);
    // Engines are tried on this machine, untrusted input asks nothing of a kernel, and the systemd driver has guests of
    // its own.
    run(NAME, image, &built, |name| !["engines", "untrusted_input", "runw_systemd"].contains(&name), "");
}

#[test]
fn images_pass_their_tests_under_systemd() {
    const NAME: &str = "images_pass_their_tests_under_systemd";
    let Some(mut image) = guest(NAME) else { return };
    let built = cargo::suites("images").expect("build the suites");
    for directory in ["images/Cargo.toml", "examples"] {
        add_source(&mut image, Path::new(directory));
    }
    add_programs(&mut image, &["docker-registry", "skopeo", "umoci", "zstd"]);
    // Registries, networks that break and untrusted input ask nothing of a kernel.
    let elsewhere = ["bad_registry", "push", "registries", "transfers", "untrusted_input"];
    run(NAME, image, &built, |name| !elsewhere.contains(&name), "");
}

/// Puts what whole nodes consist of into a guest, and gives back their suites.
pub fn add_node(image: &mut Image) -> Suites {
    let built = cargo::suites("supervisor").expect("build the suites");
    for directory in ["supervisor/Cargo.toml", "examples"] {
        add_source(image, Path::new(directory));
    }
    // The daemon looks for its shim beside itself.
    let programs = cargo::programs().expect("build the programs").programs;
    let shim = programs.iter().find(|path| path.ends_with("wharf-shim")).expect("a shim");
    // As it is installed where `scripts/test` has built that: emulated, it is many times as fast.
    let installed = std::env::var_os("WHARF_VM_SHIM").map_or_else(|| shim.clone(), PathBuf::from);
    image.file(&installed, &shim.to_string_lossy()).expect("add the shim");
    built
}

/// Two guests share the tests of nodes, which would take one half an hour: those with such a word in their names go to the
/// first.
const FIRST_WORDS: [&str; 6] = ["pod_", "dual_", "container", "services::", "volumes::", "network::"];

#[test]
fn nodes_pass_their_tests_under_systemd() {
    // What is picked by hand is all in this one.
    let words = if is_picked_by_hand() { String::new() } else { FIRST_WORDS.join(" ") };
    run_nodes("nodes_pass_their_tests_under_systemd", &words);
}

#[test]
fn nodes_pass_their_other_tests_under_systemd() {
    const NAME: &str = "nodes_pass_their_other_tests_under_systemd";
    if is_picked_by_hand() {
        println!("SKIP {NAME}: WHARF_VM_TESTS picks tests, and all that it picks run in another guest");
        return;
    }
    run_nodes(NAME, &FIRST_WORDS.map(|word| format!("--skip {word}")).join(" "));
}

fn is_picked_by_hand() -> bool {
    std::env::var("WHARF_VM_TESTS").is_ok_and(|words| !words.trim().is_empty())
}

fn run_nodes(test: &str, picked: &str) {
    let Some(mut image) = guest(test) else { return };
    let built = add_node(&mut image);
    add_programs(&mut image, &["docker-registry"]);
    // Kubernetes' clients are large programs that ask little of a kernel, and start for seconds where one is emulated;
    // CNI's plugins want iptables, whose modules no guest has. Their tests run on this machine.
    run(test, image, &built, |_| true, picked);
}
