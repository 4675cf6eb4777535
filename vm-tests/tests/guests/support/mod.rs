//! What tests with guests have in common.

pub mod ledger;
pub mod small_image;

use std::fmt::Write as _;
use std::io::{self, Write};
use std::num::NonZero;
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::Duration;
use vm_tests::cargo::Suites;
use vm_tests::vm::Ended;
use vm_tests::{Disk, Ending, Image, Kernel, Options, Vm, cargo, host_program, kernel};

/// Guests that run now.
static RUNNING: Mutex<usize> = Mutex::new(0);
static ONE_ENDED: Condvar = Condvar::new();

/// A processor for a guest until this is dropped.
pub struct Turn;

/// An emulated guest takes a processor for itself: it waits for one, or time limits mean nothing.
pub fn turn() -> Turn {
    let processors = std::thread::available_parallelism().map_or(1, NonZero::get);
    let running = RUNNING.lock().expect("the number of guests");
    *ONE_ENDED.wait_while(running, |running| *running >= processors).expect("the number of guests") += 1;
    Turn
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Also where the test panicked: the next may run.
        *RUNNING.lock().unwrap_or_else(PoisonError::into_inner) -= 1;
        ONE_ENDED.notify_one();
    }
}

/// The kernel that `WHARF_VM_KERNEL` names, else the usual one; or nothing after saying why the test does not run.
pub fn kernel(test: &str) -> Option<Kernel> {
    let name = std::env::var("WHARF_VM_KERNEL").unwrap_or_else(|_| kernel::DEFAULT.into());
    let needs = ["qemu-system-x86_64", "setpriv", "busybox"].map(host_program::find);
    let result = needs.into_iter().collect::<Result<Vec<_>, _>>().and_then(|_| Kernel::named(&name));
    result.inspect_err(|error| println!("SKIP {test}: {error:#}")).ok()
}

pub fn run(image: &Image, options: Options, disk: Option<&Disk>) -> (Ended, String, String) {
    let mut output = Vec::new();
    let (ended, errors) = boot(image, &options, disk, &mut output);
    (ended, String::from_utf8_lossy(&output).into_owned(), errors)
}

/// One boot: how it ended, and what the command wrote to its errors.
fn boot(image: &Image, options: &Options, disk: Option<&Disk>, output: &mut (dyn Write + Send)) -> (Ended, String) {
    let mut errors = Vec::new();
    let vm = Vm::new(image, options);
    let vm = if let Some(disk) = disk { vm.with_disk(disk) } else { vm };
    let ended = vm.run(output, &mut errors).expect("run the VM");
    (ended, String::from_utf8_lossy(&errors).into_owned())
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

/// Tests of a suite that run on this machine alone.
const ELSEWHERE: &[(&str, &str)] = &[
    ("runw_bad_input", "a_million_entries_take_no_more_than_linear_time"),
    ("node", "account_tokens::"),
    ("node", "api_identity::"),
    ("node", "api_paths::"),
    ("node", "api_requests::"),
    ("node", "api_tls::"),
    ("node", "jobs::"),
    ("node", "kube_client::"),
    ("node", "kube_controller::"),
    ("node", "kube_groups::"),
    ("node", "node_lease::"),
    ("node", "pod_neighbours::"),
    ("node", "pod_placement::"),
    ("node", "pod_priority::"),
    ("node", "pod_probes::"),
    ("node", "put_creates::"),
    ("node", "rights::"),
    ("node", "rollout_kills::"),
    ("node", "tls_revocation::"),
    ("node", "wharf_describe::"),
    ("node", "wharf_rollouts::"),
];

/// Puts those suites into a guest that `wanted` names, and makes running them its command, after what `first` does; of
/// their tests those that `picked` says in words for each.
pub fn add_suites(
    image: &mut Image,
    first: &str,
    built: &Suites,
    wanted: impl Fn(&str) -> bool,
    picked: &str,
) -> anyhow::Result<()> {
    let mut script = format!("set -e; {first}\nset +e; failed=0\n");
    // By hand, some tests alone: words of their names.
    let some = std::env::var("WHARF_VM_TESTS").unwrap_or_default();
    for (name, file) in built.suites.iter().filter(|(name, _)| wanted(name)) {
        let left_out = ELSEWHERE.iter().filter(|(suite, _)| suite == name).map(|(_, test)| test);
        let mut skips = String::new();
        for test in left_out {
            writeln!(
                script,
                "echo 'SKIP {test}: it asks nothing of a kernel, and takes minutes where one is emulated'"
            )?;
            write!(skips, " --skip {test}")?;
        }
        // One processor: more threads only add to the time a single test takes.
        writeln!(
            script,
            "echo suite {name}; /suites/{name} {some} {picked} --test-threads=1 --show-output{skips} 2>&1 || {{ echo FAILED {name}; failed=1; }}"
        )?;
        image.file(file, &format!("/suites/{name}"))?;
    }
    for file in &built.binaries {
        image.file(file, &file.to_string_lossy())?;
    }
    image.command(&["sh".into(), "-c".into(), script + "exit $failed"])
}

/// What suites did in a guest.
pub struct SuiteRun {
    ended: Ended,
    output: String,
    errors: String,
}

impl SuiteRun {
    /// Boots the guest and shows what its suites say as they say it, marked as the guest's: the summary of all tests
    /// counts a guest's as the one that it is here.
    pub fn on(image: &Image, options: &Options, disk: Option<&Disk>) -> Self {
        let mut output = OnLine::new(|line| println!("guest: {line}"));
        let (ended, errors) = boot(image, options, disk, &mut output);
        Self { ended, output: output.text(), errors }
    }

    /// A line for each suite: how many tests passed, failed, and said that they cannot run there.
    pub fn print_counts(&self, test: &str, duration: Duration) {
        println!("guests: {test}, {:.0} s", duration.as_secs_f64());
        let mut skipped = 0;
        let mut suite = "?";
        for line in self.output.lines() {
            if let Some(name) = line.strip_prefix("suite ") {
                (suite, skipped) = (name, 0);
            } else if line.starts_with("SKIP ") {
                skipped += 1;
            } else if let Some(result) = line.strip_prefix("test result: ") {
                let number = |of: &str| -> u32 {
                    let words: Vec<&str> = result.split([' ', ';']).collect();
                    let at = words.iter().position(|word| *word == of);
                    at.and_then(|at| words[at - 1].parse().ok()).unwrap_or_default()
                };
                // A test that cannot run says so and passes.
                let passed = number("passed").saturating_sub(skipped);
                println!("guests:   {suite}: {passed} passed, {} failed, {skipped} skipped", number("failed"));
            }
        }
    }

    pub fn assert_passed(&self) {
        // A test that hangs has no whole line yet.
        let last = self.output.rsplit('\n').next().unwrap_or_default();
        assert_eq!(self.ended.ending, Ending::Exit(0), "{last}\n{}\n{}", self.errors, self.ended.console_tail());
    }
}
