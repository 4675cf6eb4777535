//! An image with a `/proc` of its own, so that what the runtime writes for labels and kernel parameters would go astray
//! (CVE-2019-19921, CVE-2023-27561, CVE-2025-52881), and what covers masked files (CVE-2025-31133).

use crate::support::{self, Bundle};
use crate::{Victim, promptly, require_root};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

const PARAMETER: &str = "net/ipv4/ip_default_ttl";

fn with_sysctl(bundle: Bundle) -> Bundle {
    bundle.set("/linux/sysctl", json!({"net.ipv4.ip_default_ttl": "77"}))
}

/// The files that a runtime writes to, in the image.
fn fake(bundle: &Bundle, proc: &str) -> [std::path::PathBuf; 4] {
    let proc = bundle.rootfs().join(proc);
    let names = [&format!("sys/{PARAMETER}"), "self/attr/exec", "thread-self/attr/apparmor/exec", "1/oom_score_adj"];
    names.map(|name| {
        let path = proc.join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("mkdir");
        fs::write(&path, "fake").expect("write");
        path
    })
}

#[test]
fn kernel_parameters_are_written_whatever_the_image_has_in_proc() {
    require_root!("kernel_parameters_are_written_whatever_the_image_has_in_proc");
    let bundle = with_sysctl(Bundle::new(&["cat", "/proc/sys/net/ipv4/ip_default_ttl"]));
    let files = fake(&bundle, "proc");
    assert_eq!(bundle.output(), "77\n");
    for file in files {
        assert_eq!(fs::read_to_string(file).expect("read"), "fake");
    }
}

#[test]
fn a_proc_that_is_no_directory_is_refused() {
    require_root!("a_proc_that_is_no_directory_is_refused");
    for target in ["/fake", "fake", "../victim", "/proc", "proc"] {
        let bundle = with_sysctl(Bundle::new(&["true"]));
        let victim = Victim::new(&bundle);
        let files = fake(&bundle, "fake");
        fs::remove_dir_all(bundle.rootfs().join("proc")).expect("rmdir");
        symlink(target, bundle.rootfs().join("proc")).expect("symlink");
        let outcome = promptly(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{target}: {outcome:?}");
        assert!(files.iter().all(|file| fs::read_to_string(file).is_ok_and(|text| text == "fake")), "{target}");
        victim.assert_untouched();
        bundle.assert_nothing_left();
    }
}

#[test]
fn without_procfs_in_the_container_nothing_of_the_images_is_taken_for_it() {
    require_root!("without_procfs_in_the_container_nothing_of_the_images_is_taken_for_it");
    let mut bundle = with_sysctl(Bundle::new(&["true"]));
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/proc");
    let files = fake(&bundle, "proc");
    assert_eq!(bundle.run().code, Some(0));
    for file in files {
        assert_eq!(fs::read_to_string(file).expect("read"), "fake");
    }
}

#[test]
fn masked_files_are_covered_by_the_null_device_of_the_host() {
    require_root!("masked_files_are_covered_by_the_null_device_of_the_host");
    let script = "for file in /secret /linked/secret; do cat $file; stat -c '%F %t:%T' $file; done";
    let mut bundle = Bundle::script(script).set("/linux/maskedPaths", json!(["/secret", "/linked/secret", "/etc/dir"]));
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| {
        // The image's own /dev, in which null is a link to what the attacker would rather see in its place.
        !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev"))
    });
    bundle.change("/linux/devices", json!([{"path": "/dev/null", "type": "c", "major": 1, "minor": 3}]));
    let null = bundle.rootfs().join("dev/null");
    fs::write(bundle.rootfs().join("secret"), "secret").expect("write");
    fs::create_dir(bundle.rootfs().join("other")).expect("mkdir");
    fs::write(bundle.rootfs().join("other/secret"), "secret").expect("write");
    symlink("/other", bundle.rootfs().join("linked")).expect("symlink");
    assert_eq!(bundle.output(), "character special file 1:3\ncharacter special file 1:3\n");
    fs::remove_file(&null).expect("remove");
    symlink("/other/secret", &null).expect("symlink");
    let outcome = bundle.run();
    assert!(!outcome.stdout.contains("secret"), "{outcome:?}");
}
