//! The attacks that container runtimes have fallen to, made on this one. Each test says what was tried; a comment
//! names the case it is known from.

mod descriptors;
mod dev;
mod exec;
mod own_binary;
mod proc;
mod races;
mod role;
mod state;
#[path = "../support/mod.rs"]
mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use support::Bundle;

/// Longer than any of these commands takes; what takes longer was made to hang.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often an attack is tried that chance decides. With one processor the container attacks by turns only: that is slow,
/// and shows what another machine's shows.
fn attempts(many: u32) -> u32 {
    if std::thread::available_parallelism().is_ok_and(|processors| processors.get() == 1) { many / 5 } else { many }
}

/// A directory outside of the root file system that the container wants to reach. It is beside the rootfs, so that
/// links lead to it as `../victim` from the root; [`Victim::assert_untouched`] at the end.
struct Victim {
    directory: PathBuf,
}

impl Victim {
    fn new(bundle: &Bundle) -> Self {
        let directory = bundle.path().join("victim");
        fs::create_dir(&directory).expect("mkdir");
        fs::write(directory.join("file"), "untouched").expect("write");
        Self { directory }
    }

    fn assert_untouched(&self) {
        let names: Vec<_> = fs::read_dir(&self.directory).expect("read").flatten().map(|e| e.file_name()).collect();
        assert_eq!(names, ["file"], "something was made outside of the root");
        assert_eq!(fs::read_to_string(self.directory.join("file")).expect("read"), "untouched");
    }
}

/// Waits for a command, killing it and failing if it hangs.
fn finish(mut child: Child) -> Output {
    let pidfd = wharf_sys::pidfd::open(child.id() as i32).expect("pidfd");
    let begun = Instant::now();
    let ended = wharf_sys::pidfd::poll_exit(std::os::fd::AsFd::as_fd(&pidfd), PATIENCE.as_millis() as i32);
    if !ended.expect("poll") {
        child.kill().expect("kill");
        panic!("the command hangs since {:?}: {:?}", begun.elapsed(), child.wait_with_output());
    }
    child.wait_with_output().expect("wait")
}

/// As [`Bundle::runw`], but a command that hangs fails the test. Not for what leaves a process behind.
fn promptly(bundle: &Bundle, arguments: &[&str]) -> support::Outcome {
    let mut command = bundle.command(arguments);
    let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("spawn");
    support::outcome(finish(child))
}

/// `runw` with descriptor 9 open on `directory`, as a caller that leaks one has it.
fn with_leaked_descriptor(bundle: &Bundle, directory: &Path, arguments: &[&str]) -> support::Outcome {
    let runw = bundle.command(arguments);
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 9<\"$0\"; exec \"$@\""]).arg(directory).arg(runw.get_program()).args(runw.get_args());
    support::outcome(shell.current_dir(bundle.path()).stdin(Stdio::null()).output().expect("sh"))
}
