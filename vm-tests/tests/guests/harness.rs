//! The harness itself: what comes out of a guest, however it ends.

use crate::support::{kernel, run, shell, turn};
use std::time::Duration;
use vm_tests::{Ending, Options};

/// For one boot and a moment's work, on a machine that is busy with other tests.
const SHORT: Duration = Duration::from_secs(120);

fn short() -> Options {
    Options { timeout: SHORT, ..Options::default() }
}

#[test]
fn output_errors_and_exit_code_of_the_command_come_out() {
    let Some(kernel) = kernel("output_errors_and_exit_code_of_the_command_come_out") else { return };
    let _turn = turn();
    // More than a pipe holds, a background process that outlives the command, and the guest's cgroups.
    let script = "sleep 1000 & seq 20000; stat -f -c %T /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.subtree_control;
        echo wrong > /dev/stderr; exit 7";
    let (ended, output, errors) = run(&shell(kernel, script), short(), None);
    assert_eq!(ended.ending, Ending::Exit(7), "{}", ended.console_tail());
    assert_eq!(errors, "wrong\n");
    let (numbers, rest) = output.split_at(output.find("20000\n").expect("the last number") + 6);
    assert_eq!(numbers.lines().count(), 20000);
    assert!(rest.contains("memory") && rest.contains("pids") && rest.contains("cpu"), "{rest}");
}

#[test]
fn a_panic_is_reported_with_the_console() {
    let Some(kernel) = kernel("a_panic_is_reported_with_the_console") else { return };
    let _turn = turn();
    // What was written needs a moment to reach the host: a crash takes along what is still in the guest.
    let (ended, output, _) =
        run(&shell(kernel, "echo before; sleep 2; echo c > /proc/sysrq-trigger; sleep 100"), short(), None);
    assert_eq!(ended.ending, Ending::Panic);
    assert_eq!(output, "before\n");
    assert!(ended.console_tail().contains("sysrq triggered crash"), "{}", ended.console_tail());
}

#[test]
fn a_hang_ends_at_the_time_limit_and_leaves_no_qemu() {
    let Some(kernel) = kernel("a_hang_ends_at_the_time_limit_and_leaves_no_qemu") else { return };
    let _turn = turn();
    let image = shell(kernel, "echo hanging > /dev/kmsg; sleep 1000");
    let limit = Duration::from_secs(25);
    // No other test's guest has so much.
    let memory_mib = 1021;
    let (ended, ..) = run(&image, Options { timeout: limit, memory_mib, ..Options::default() }, None);
    assert_eq!(ended.ending, Ending::TimedOut);
    assert!(ended.duration >= limit && ended.duration < limit + Duration::from_secs(10), "{:?}", ended.duration);
    let (own, memory) = (format!("/proc/{}/fd/", std::process::id()), format!(" -m {memory_mib} "));
    for entry in std::fs::read_dir("/proc").expect("read /proc").flatten() {
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        assert!(!(command.contains(&own) && command.contains(&memory)), "a QEMU is left: {command}");
    }
}
