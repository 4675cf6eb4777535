//! The CRI's own test suite in a guest, where systemd is process 1, groups are cgroup v2's alone and the kernel has
//! AppArmor: what of it this machine's kernel cannot show, or with `WHARF_VM_CRITEST=all` (`make vm-critest`) all of it.

use crate::suites::{add_node, add_programs, guest};
use crate::support::{SuiteRun, turn};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};
use vm_tests::{Disk, Image, Options, cargo, host_program};

/// All of it, emulated, on a machine that is busy with other work.
const LIMIT: Duration = Duration::from_secs(5400);

/// Specs about what kernels differ in.
const FOCUS: &str = "AppArmor|Container OOM|UserNamespaces";

/// Beside the node's programs; the first three are built or unpacked for the tests, the others are Debian's.
const TOOLS: [&str; 3] = ["critest", "ginkgo", "busybox"];
const PROGRAMS: [&str; 3] = ["docker-registry", "skopeo", "ipcmk"];

/// Where the guest has the tools.
const FOLDER: &str = "/tools";

fn tools(test: &str) -> Option<[PathBuf; 3]> {
    let folder = PathBuf::from(std::env::var_os("WHARF_TEST_TOOLS").unwrap_or_default());
    let tools = TOOLS.map(|name| folder.join(name));
    if let Some(missing) = tools.iter().find(|path| !path.is_file()) {
        println!("SKIP {test}: no {}: scripts/go-tools builds it; WHARF_TEST_TOOLS says where", missing.display());
        return None;
    }
    if let Some(missing) = PROGRAMS.iter().chain(&["gcc"]).find(|name| host_program::find(name).is_err()) {
        println!("SKIP {test}: no {missing}");
        return None;
    }
    Some(tools)
}

/// A program of the suite's images; guests have no compiler.
fn add_who(image: &mut Image) {
    let program = cargo::target_directory().join("vm/who");
    let source = cargo::workspace().join("supervisor/tests/node/who.c");
    let made = Command::new("gcc").args(["-static", "-s", "-o"]).args([&program, &source]).output().expect("run gcc");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    image.file(&program, &format!("{FOLDER}/who")).expect("add a program");
}

#[test]
fn critest_passes_under_systemd() {
    const NAME: &str = "critest_passes_under_systemd";
    let Some(tools) = tools(NAME) else { return };
    let Some(mut image) = guest(NAME) else { return };
    let all = std::env::var("WHARF_VM_CRITEST").is_ok_and(|which| which == "all");
    let built = add_node(&mut image);
    for (tool, name) in tools.iter().zip(TOOLS) {
        image.file(tool, &format!("{FOLDER}/{name}")).expect("add a tool");
    }
    add_who(&mut image);
    add_programs(&mut image, &PROGRAMS);
    let (_, suite) = built.suites.iter().find(|(name, _)| name == "node").expect("the suite of nodes");
    image.file(suite, "/suites/node").expect("add the suite");
    for file in &built.binaries {
        image.file(file, &file.to_string_lossy()).expect("add a program");
    }
    let focus = if all { "" } else { FOCUS };
    let processes = std::env::var("WHARF_CRITEST_PROCESSES").unwrap_or_else(|_| "4".into());
    // The disk's file system has mapped mounts, which a spec looks for in this folder.
    let script = format!(
        "set -e; mkdir /tmp/lib; mount --bind /tmp/lib /var/lib\n\
         export WHARF_TEST_TOOLS={FOLDER} WHARF_CRITEST_FOCUS='{focus}' WHARF_CRITEST_PROCESSES={processes}\n\
         echo suite critest; /suites/node --test-threads=1 --show-output critest:: 2>&1"
    );
    image.command(&["sh".into(), "-c".into(), script]).expect("command");
    image.disk("/tmp").expect("mount point");
    let disk = Disk::ext4(4096).expect("make a disk");
    let _turn = turn();
    let start = Instant::now();
    let options = Options { timeout: LIMIT, memory_mib: 4096, ..Options::default() };
    let run = SuiteRun::on(&image, &options, Some(&disk));
    run.print_counts(NAME, start.elapsed());
    run.assert_passed();
}
