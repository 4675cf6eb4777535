//! An image that has something else where the runtime makes devices, the console and mounts (CVE-2025-52565 and its
//! kin). Without a file system of its own on `/dev` the container's is the image's.

use crate::support::{self, Bundle};
use crate::{Victim, promptly, require_root};
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

/// Without the mounts on and below `/dev`.
fn without_dev(mut bundle: Bundle) -> Bundle {
    let mounts = bundle.config["mounts"].as_array_mut().expect("mounts");
    mounts.retain(|mount| !mount["destination"].as_str().is_some_and(|path| path.starts_with("/dev")));
    bundle
}

fn in_user_namespace(bundle: Bundle) -> Bundle {
    let map = json!([{"containerID": 0, "hostID": 0, "size": 65536}]);
    bundle
        .set("/linux/namespaces/-", json!({"type": "user"}))
        .set("/linux/uidMappings", map.clone())
        .set("/linux/gidMappings", map)
}

fn pipe(path: &std::path::Path) {
    assert!(Command::new("mkfifo").arg(path).status().expect("mkfifo").success());
}

#[test]
fn devices_are_not_made_through_links_of_the_image() {
    require_root!("devices_are_not_made_through_links_of_the_image");
    for user_namespace in [false, true] {
        for target in ["../victim", "../../victim", "/proc/self/cwd/../victim", "/../victim"] {
            let bundle = without_dev(Bundle::new(&["true"])).set("/root/readonly", json!(false));
            let bundle = if user_namespace { in_user_namespace(bundle) } else { bundle };
            let victim = Victim::new(&bundle);
            fs::remove_dir(bundle.rootfs().join("dev")).expect("rmdir");
            symlink(target, bundle.rootfs().join("dev")).expect("symlink");
            promptly(&bundle, &["run", &bundle.id]);
            victim.assert_untouched();
            bundle.assert_nothing_left();
        }
    }
}

#[test]
fn a_device_that_is_a_link_or_a_pipe_in_the_image_is_refused_without_waiting() {
    require_root!("a_device_that_is_a_link_or_a_pipe_in_the_image_is_refused_without_waiting");
    for user_namespace in [false, true] {
        for kind in ["link", "pipe", "file", "directory"] {
            let bundle = without_dev(Bundle::new(&["true"])).set("/root/readonly", json!(false));
            let bundle = if user_namespace { in_user_namespace(bundle) } else { bundle };
            let victim = Victim::new(&bundle);
            let null = bundle.rootfs().join("dev/null");
            match kind {
                "link" => symlink("../../victim/file", &null).expect("symlink"),
                "pipe" => pipe(&null),
                "file" => fs::write(&null, "the image's").expect("write"),
                _ => fs::create_dir(&null).expect("mkdir"),
            }
            let outcome = promptly(&bundle, &["run", &bundle.id]);
            // In a user namespace the host's device is bound over whatever file there is: that is as good.
            if !(user_namespace && matches!(kind, "pipe" | "file")) {
                assert_eq!(outcome.code, Some(1), "{kind}, {user_namespace}: {outcome:?}");
                assert!(outcome.stderr.contains("/dev/null"), "{outcome:?}");
            }
            victim.assert_untouched();
            bundle.assert_nothing_left();
        }
    }
}

fn with_terminal(bundle: Bundle) -> Bundle {
    bundle.set("/process/terminal", json!(true)).set("/root/readonly", json!(false))
}

#[test]
fn the_console_is_not_bound_through_a_link_of_the_image() {
    require_root!("the_console_is_not_bound_through_a_link_of_the_image");
    for target in ["../../victim/file", "/etc/target", "/proc/self/fd/0", "../../victim/made"] {
        let mut bundle = with_terminal(Bundle::new(&["cat", "/etc/target"]));
        // The devpts must be there for a terminal; /dev itself is the image's.
        bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/dev");
        let victim = Victim::new(&bundle);
        fs::write(bundle.rootfs().join("etc/target"), "the image's").expect("write");
        symlink(target, bundle.rootfs().join("dev/console")).expect("symlink");
        let outcome = promptly(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{target}: {outcome:?}");
        assert!(outcome.stderr.contains("/dev/console") && outcome.stderr.contains("ELOOP"), "{outcome:?}");
        victim.assert_untouched();
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_console_that_is_a_pipe_in_the_image_does_not_hold_the_runtime_up() {
    require_root!("a_console_that_is_a_pipe_in_the_image_does_not_hold_the_runtime_up");
    let mut bundle = with_terminal(Bundle::script("test -c /dev/console && echo console"));
    bundle.config["mounts"].as_array_mut().expect("mounts").retain(|mount| mount["destination"] != "/dev");
    pipe(&bundle.rootfs().join("dev/console"));
    let outcome = promptly(&bundle, &["run", &bundle.id]);
    assert_eq!((outcome.code, outcome.stdout.trim()), (Some(0), "console"), "{outcome:?}");
}

/// What pretends to be the multiplexer of pseudo terminals.
#[test]
fn a_terminal_comes_from_a_real_devpts_only() {
    require_root!("a_terminal_comes_from_a_real_devpts_only");
    type Make<'a> = &'a dyn Fn(&std::path::Path);
    let make: [(&str, Make<'_>); 4] = [
        ("pipe", &|path| pipe(path)),
        ("file", &|path| fs::write(path, "").expect("write")),
        ("link to the host's", &|path| symlink("/../dev/ptmx", path).expect("symlink")),
        ("device of another kind", &|path| {
            let made = Command::new("mknod").arg(path).args(["c", "1", "5"]).status().expect("mknod");
            assert!(made.success());
        }),
    ];
    for (kind, make) in make {
        let bundle = without_dev(with_terminal(Bundle::new(&["true"])));
        fs::create_dir(bundle.rootfs().join("dev/pts")).expect("mkdir");
        make(&bundle.rootfs().join("dev/pts/ptmx"));
        let outcome = promptly(&bundle, &["run", &bundle.id]);
        assert_eq!(outcome.code, Some(1), "{kind}: {outcome:?}");
        assert!(outcome.stderr.contains("/dev/pts/ptmx"), "{kind}: {outcome:?}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn mounts_stay_in_the_root_whatever_the_image_links_to() {
    require_root!("mounts_stay_in_the_root_whatever_the_image_links_to");
    let tmpfs = |path: &str| json!({"destination": path, "type": "tmpfs", "source": "tmpfs"});
    let file = |path: &str| json!({"destination": path, "source": "/etc/hostname", "options": ["bind"]});
    let mounts: [Value; 6] = [
        tmpfs("/out/made"),
        tmpfs("/../victim/made"),
        tmpfs("/a/../../../victim/made"),
        tmpfs("/dangling/made"),
        file("/out/made"),
        file("/dangling"),
    ];
    for mount in mounts {
        let bundle = Bundle::new(&["true"]).set("/mounts/-", mount.clone());
        let victim = Victim::new(&bundle);
        symlink("../victim", bundle.rootfs().join("out")).expect("symlink");
        symlink("../../../../victim/dangling", bundle.rootfs().join("dangling")).expect("symlink");
        promptly(&bundle, &["run", &bundle.id]);
        victim.assert_untouched();
        bundle.assert_nothing_left();
    }
}
