//! The same attacks while the container is being made: somebody with a hand in the root file system exchanges a
//! directory with a link as fast as the kernel lets him (CVE-2021-30465, CVE-2025-52565, CVE-2025-52881).

use crate::support::{self, Bundle};
use crate::{Victim, attempts, promptly, require_root};
use rustix::fs::{CWD, RenameFlags, renameat_with};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

/// Containers made during each race.
fn rounds() -> u32 {
    attempts(25)
}

/// Makes containers while two entries of the root file system change places.
fn race(bundle: &Bundle, one: &Path, other: &Path, mut check: impl FnMut(support::Outcome)) {
    let (ended, swaps) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                renameat_with(CWD, one, CWD, other, RenameFlags::EXCHANGE).expect("exchange");
                swaps.fetch_add(1, Ordering::Relaxed);
            }
        });
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            (0..rounds()).for_each(|_| check(promptly(bundle, &["run", &bundle.id])));
        }));
        ended.store(true, Ordering::Relaxed);
        if let Err(panic) = result {
            std::panic::resume_unwind(panic);
        }
    });
    assert!(swaps.into_inner() > rounds() * 10, "hardly anything changed during the race");
    bundle.assert_nothing_left();
}

#[test]
fn a_mount_target_that_becomes_a_link_leads_nowhere() {
    require_root!("a_mount_target_that_becomes_a_link_leads_nowhere");
    for target in ["../victim", "/../../victim", "../../../../../.."] {
        let bundle = Bundle::new(&["true"])
            .set("/mounts/-", json!({"destination": "/race/deep/made", "type": "tmpfs", "source": "tmpfs"}))
            .set("/mounts/-", json!({"destination": "/race/file", "source": "/etc/hostname", "options": ["bind"]}));
        let victim = Victim::new(&bundle);
        let (directory, link) = (bundle.rootfs().join("race"), bundle.rootfs().join("other"));
        fs::create_dir(&directory).expect("mkdir");
        symlink(target, &link).expect("symlink");
        let mut made = 0;
        race(&bundle, &directory, &link, |outcome| made += u32::from(outcome.code == Some(0)));
        println!("{target}: {made} of {} were made", rounds());
        victim.assert_untouched();
        assert!(!Path::new("/race").exists() && !Path::new("/deep").exists());
    }
}

#[test]
fn devices_and_the_console_are_not_made_through_a_dev_that_becomes_a_link() {
    require_root!("devices_and_the_console_are_not_made_through_a_dev_that_becomes_a_link");
    let mut bundle = Bundle::new(&["true"]).set("/process/terminal", json!(true));
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/dev");
    let victim = Victim::new(&bundle);
    let (dev, link) = (bundle.rootfs().join("dev"), bundle.rootfs().join("other"));
    fs::create_dir(dev.join("pts")).expect("mkdir");
    symlink("../victim", &link).expect("symlink");
    race(&bundle, &dev, &link, |_| {});
    victim.assert_untouched();
}

#[test]
fn kernel_parameters_do_not_go_to_a_proc_that_takes_the_place_of_the_true_one() {
    require_root!("kernel_parameters_do_not_go_to_a_proc_that_takes_the_place_of_the_true_one");
    let bundle = Bundle::new(&["cat", "/proc/sys/net/ipv4/ip_default_ttl"])
        .set("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": "77"}));
    let fake = bundle.rootfs().join("fake/sys/net/ipv4");
    fs::create_dir_all(&fake).expect("mkdir");
    fs::write(fake.join("ip_default_ttl"), "fake").expect("write");
    let mut told = 0;
    race(&bundle, &bundle.rootfs().join("proc"), &bundle.rootfs().join("fake"), |outcome| {
        // A parameter is set, or the container is not made; that a program in it is shown the image's file is its own
        // affair, as the true procfs is mounted on whichever directory was there.
        assert!(matches!(outcome.stdout.as_str(), "77\n" | "fake" | ""), "{outcome:?}");
        told += u32::from(outcome.stdout == "77\n");
    });
    assert!(told > 0, "no container came about");
    for place in ["proc", "fake"] {
        let file = bundle.rootfs().join(place).join("sys/net/ipv4/ip_default_ttl");
        assert!(fs::read_to_string(file).map_or(true, |text| text == "fake"), "the image's file was written");
    }
}
