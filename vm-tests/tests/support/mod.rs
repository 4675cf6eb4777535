//! What tests with guests have in common.

#![allow(dead_code, reason = "each test program uses its own part of this")]

pub mod ledger;
pub mod small_image;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard};
use vm_tests::cargo::Suites;
use vm_tests::vm::Ended;
use vm_tests::{Disk, Image, Kernel, Options, Vm, cargo, host_program, kernel};

/// An emulated guest takes a core for itself: one after the other, or time limits mean nothing.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

pub fn alone() -> MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// The kernel that `WHARF_VM_KERNEL` names, else the usual one; or nothing after saying why the test does not run.
pub fn kernel(test: &str) -> Option<Kernel> {
    let name = std::env::var("WHARF_VM_KERNEL").unwrap_or_else(|_| kernel::DEFAULT.into());
    let needs = ["qemu-system-x86_64", "setpriv", "busybox"].map(host_program::find);
    let result = needs.into_iter().collect::<Result<Vec<_>, _>>().and_then(|_| Kernel::named(&name));
    result.inspect_err(|error| println!("SKIP {test}: {error:#}")).ok()
}

pub fn run(image: &Image, options: Options, disk: Option<&Disk>) -> (Ended, String, String) {
    let (mut output, mut errors) = (Vec::new(), Vec::new());
    let vm = Vm::new(image, &options);
    let vm = if let Some(disk) = disk { vm.with_disk(disk) } else { vm };
    let ended = vm.run(&mut output, &mut errors).expect("run the VM");
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (ended, text(output), text(errors))
}

/// A guest in which a shell runs this script.
pub fn shell(kernel: Kernel, script: &str) -> Image {
    let mut image = Image::new(kernel, &cargo::init().expect("build the init")).expect("image");
    image.command(&["sh".into(), "-c".into(), script.into()]).expect("command");
    image
}

/// A manifest of pods of [`small_image::SmallImage::sleeping`], which end at once.
pub fn deployment(replicas: u32) -> String {
    format!(
        "\
apiVersion: apps/v1
kind: Deployment
metadata: {{name: web}}
spec:
  replicas: {replicas}
  selector: {{matchLabels: {{app: web}}}}
  template:
    metadata: {{labels: {{app: web}}}}
    spec:
      terminationGracePeriodSeconds: 0
      containers: [{{name: web, image: wharf.example/base:1, imagePullPolicy: Never}}]
"
    )
}

/// Keeps what a guest writes, and is told of each line while the guest runs on.
pub struct OnLine<F> {
    bytes: Vec<u8>,
    /// Where the first line begins that was not told of.
    told: usize,
    tell: F,
}

impl<F: FnMut(&str) + Send> OnLine<F> {
    pub fn new(tell: F) -> Self {
        Self { bytes: Vec::new(), told: 0, tell }
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

impl<F: FnMut(&str) + Send> Write for OnLine<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes.extend(bytes);
        while let Some(length) = self.bytes[self.told..].iter().position(|byte| *byte == b'\n') {
            let line = String::from_utf8_lossy(&self.bytes[self.told..self.told + length]).into_owned();
            self.told += length + 1;
            (self.tell)(&line);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
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
