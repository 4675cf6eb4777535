//! What tests with guests have in common.

use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard};
use vm_tests::cargo::Suites;
use vm_tests::vm::Ended;
use vm_tests::{Image, Kernel, Options, Vm, host_program, kernel};

/// An emulated guest takes a core for itself: one after the other, or time limits mean nothing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The kernel, or nothing after saying why the test does not run.
pub fn kernel(test: &str) -> Option<Kernel> {
    let needs = ["qemu-system-x86_64", "setpriv", "busybox"].map(host_program::find);
    let result =
        needs.into_iter().collect::<Result<Vec<_>, _>>().and_then(|_| Kernel::of_package(kernel::DEFAULT_PACKAGE));
    result.inspect_err(|error| println!("SKIP {test}: {error:#}")).ok()
}

pub fn run(image: &Image, options: Options) -> (Ended, String, String) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let ended = Vm::new(image, &options).run(&mut output, &mut errors).expect("run the VM");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (ended, text(output), text(errors))
}

/// Puts those suites into a guest that `wanted` names, and makes running them its command.
pub fn add_suites(image: &mut Image, built: &Suites, wanted: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    let mut script = String::from("failed=0\n");
    for (name, file) in built.suites.iter().filter(|(name, _)| wanted(name)) {
        // One processor: more threads only add to the time a single test takes.
        writeln!(
            script,
            "echo suite {name}; /suites/{name} --test-threads=1 --show-output 2>&1 || {{ echo FAILED {name}; failed=1; }}"
        )?;
        image.file(file, &format!("/suites/{name}"))?;
    }
    for file in &built.binaries {
        image.file(file, &file.to_string_lossy())?;
    }
    image.command(&["sh".into(), "-c".into(), script + "exit $failed"])
}

/// As the suites said it, marked as the guest's: the summary of all tests counts a guest's as the one that it is here.
pub fn show(output: &str) {
    for line in output.lines() {
        println!("guest: {line}");
    }
}
