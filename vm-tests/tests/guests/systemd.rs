//! The systemd cgroup driver, in guests where systemd is process 1: as root and as an ordinary user, on v2 and on v1.

use crate::support::{SuiteRun, add_suites, kernel, turn};
use std::time::{Duration, Instant};
use vm_tests::{Hierarchy, Image, Options, cargo, debian, host_program};

/// The suite in an emulated guest, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(240);

fn the_suite_passes(test: &str, user: Option<&str>, hierarchy: Hierarchy) {
    let Some(kernel) = kernel(test) else { return };
    if let Err(error) = host_program::find("mmdebstrap") {
        println!("SKIP {test}: {error:#}");
        return;
    }
    let init = cargo::init().expect("build the init");
    let built = cargo::suites("runtime").expect("build the suites");
    let _turn = turn();
    let archive = debian::archive(&[]).expect("make the root file system");
    let start = Instant::now();
    let mut image = Image::debian(kernel, &init, archive, user).expect("image");
    add_suites(&mut image, "", &built, |name| name == "runw_systemd", "").expect("add the suite");
    let options = Options { timeout: LIMIT, hierarchy, memory_mib: 2048, ..Options::default() };
    let run = SuiteRun::on(&image, &options, None);
    run.print_counts(test, start.elapsed());
    run.assert_passed();
}

#[test]
fn the_systemd_driver_works_for_root() {
    the_suite_passes("the_systemd_driver_works_for_root", None, Hierarchy::Unified);
}

#[test]
fn the_systemd_driver_works_for_a_user() {
    the_suite_passes("the_systemd_driver_works_for_a_user", Some(debian::USER), Hierarchy::Unified);
}

#[test]
fn the_systemd_driver_works_on_a_hybrid_host() {
    the_suite_passes("the_systemd_driver_works_on_a_hybrid_host", None, Hierarchy::Hybrid);
}
