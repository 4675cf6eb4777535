//! A node under systemd, installed by `make install`: its daemon comes and goes while pods run on, and the pods of its
//! manifests come back with the machine.

use crate::support::small_image::SmallImage;
use crate::support::{OnLine, kernel, turn};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};
use vm_tests::disk::Loss;
use vm_tests::random::Random;
use vm_tests::{Disk, Ending, Image, Kernel, Options, Vm, cargo, debian, host_program};

const LIMIT: Duration = Duration::from_secs(240);
const WATCHDOG: &str = "[Service]\nWatchdogSec=4s\n";

/// A directory that goes with this value.
struct Staging(PathBuf);

impl Staging {
    /// What `make install` puts on a machine.
    fn install(programs: &cargo::Programs) -> Self {
        let staging = Self(std::env::temp_dir().join(format!("wharf-vm-install-{}", std::process::id())));
        let built = programs.programs[0].parent().expect("a directory").display().to_string();
        let mut make = Command::new("make");
        make.args(["--silent", "--directory", concat!(env!("CARGO_MANIFEST_DIR"), "/.."), "install"]);
        make.arg(format!("DESTDIR={}", staging.0.display())).arg(format!("BUILT={built}"));
        let output = make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").output().expect("run make");
        assert!(output.status.success(), "make install: {}", String::from_utf8_lossy(&output.stderr));
        staging
    }

    fn add_to(&self, image: &mut Image) {
        let mut pending = vec![self.0.clone()];
        while let Some(directory) = pending.pop() {
            for entry in std::fs::read_dir(&directory).expect("list").flatten() {
                let path = entry.path();
                if path.is_dir() {
                    pending.push(path);
                } else {
                    let inside = Path::new("/").join(path.strip_prefix(&self.0).expect("a path inside"));
                    image.file(&path, &inside.to_string_lossy()).expect("add an installed file");
                }
            }
        }
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn guest(kernel: Kernel, programs: &cargo::Programs, staging: &Staging) -> Image {
    let archive = debian::archive(&[]).expect("make the root file system");
    let mut image = Image::debian(kernel, &programs.init, archive, None).expect("image");
    staging.add_to(&mut image);
    image.disk("/var/lib/wharf").expect("mount point");
    SmallImage::sleeping().add_archive(&mut image, "/archives/base.tar", "wharf.example/base:1");
    image.data("/etc/wharf/manifests/web.yaml", crate::support::deployment(2)).expect("manifest");
    image.data("/etc/systemd/system/wharfd.service.d/watchdog.conf", WATCHDOG).expect("drop-in");
    image.data("/guest.sh", include_str!("units/guest.sh")).expect("script");
    image.command(&["sh".into(), "/guest.sh".into()]).expect("command");
    image
}

#[test]
fn pods_outlive_their_daemon_and_come_back_after_a_reboot_and_a_reset() {
    const NAME: &str = "pods_outlive_their_daemon_and_come_back_after_a_reboot_and_a_reset";
    let Some(kernel) = kernel(NAME) else { return };
    if let Err(error) = host_program::find("mmdebstrap") {
        println!("SKIP {NAME}: {error:#}");
        return;
    }
    let programs = cargo::programs().expect("build the programs");
    let staging = Staging::install(&programs);
    let image = guest(kernel, &programs, &staging);
    let _turn = turn();
    let start = Instant::now();
    let disk = Disk::ext4(256).expect("make a disk");
    let options = Options { timeout: LIMIT, memory_mib: 2048, ..Options::default() };
    let vm = Vm::new(&image, &options).with_disk(&disk);
    let boot = |expected| {
        let mut output = OnLine::new(|line| {
            println!("guest: {line}");
            if line == "reset" {
                disk.cut_after(3, Loss::Part, Random::new(0));
            }
        });
        let mut errors = Vec::new();
        let ended = vm.run(&mut output, &mut errors).expect("run the VM");
        let errors = String::from_utf8_lossy(&errors);
        assert_eq!(ended.ending, expected, "{}{errors}\n{}", output.text(), ended.console_tail());
        output.text()
    };
    let output = boot(Ending::Reboot);
    for event in ["reload", "upgrade", "crash", "hang", "stop"] {
        assert!(output.contains(&format!("{event}: the containers run on\n")), "{output}");
    }
    assert!(boot(Ending::PowerCut).contains("after a reboot: the pods are back\n"));
    assert!(boot(Ending::Exit(0)).ends_with("after deletion: nothing is left\n"));
    println!("guests: a node under systemd, three boots: {:.0} s", start.elapsed().as_secs_f64());
}
