//! `mounts` on a real kernel: where they lie, in which order they are made, what their options come to.

mod support;

use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use support::Bundle;

fn bind(source: &std::path::Path, destination: &str, options: &[&str]) -> Value {
    json!({"destination": destination, "type": "none", "source": source, "options": options})
}

/// With places that the container's root, who is nobody on the host, can get at but not make.
fn in_user_namespace(mut bundle: Bundle) -> Bundle {
    fs::set_permissions(bundle.scratch(), fs::Permissions::from_mode(0o711)).expect("chmod");
    for place in ["m", "final"] {
        fs::create_dir_all(bundle.rootfs().join(place)).expect("mkdir");
    }
    bundle.change("/linux/namespaces/-", json!({"type": "user"}));
    let map = json!([{"containerID": 0, "hostID": 100_000, "size": 65_536}]);
    bundle.change("/linux/uidMappings", map.clone());
    bundle.change("/linux/gidMappings", map);
    bundle
}

/// What the container sees of the options of the mount at a place.
fn options_at(bundle: &Bundle) -> Vec<String> {
    bundle.output().trim().split(',').map(str::to_string).collect()
}

const SHOW_M: &str =
    "while read -r _ place _ options _; do [ $place != /m ] || echo $options; done < /proc/self/mounts";

#[test]
fn a_container_without_a_mount_namespace_leaves_no_mount_on_the_host() {
    require_root!("a_container_without_a_mount_namespace_leaves_no_mount_on_the_host");
    let mut bundle = Bundle::new(&["sleep", "1000"]);
    fs::write(bundle.rootfs().join("mark"), "").expect("write");
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "mount");
    let mounted = || fs::read_to_string("/proc/self/mounts").expect("mounts");
    let rootfs = bundle.rootfs();
    let place = format!(" {} ", rootfs.display());
    assert_eq!(bundle.runw(&["run", "-d", &bundle.id]).code, Some(0));
    assert!(mounted().contains(&place));
    // What is executed later is in the same root.
    assert_eq!(bundle.runw(&["exec", &bundle.id, "ls", "/mark"]).stdout, "/mark\n");
    assert_eq!(bundle.runw(&["delete", "-f", &bundle.id]).code, Some(0));
    assert!(!mounted().contains(rootfs.to_str().expect("text")), "{}", mounted());
    bundle.assert_nothing_left();

    bundle.change("/process/args", json!(["no-such-program"]));
    assert_eq!(bundle.run().code, Some(1));
    assert!(!mounted().contains(rootfs.to_str().expect("text")), "{}", mounted());
    bundle.assert_nothing_left();
}

#[test]
fn a_source_in_the_root_is_what_earlier_mounts_have_put_there() {
    require_root!("a_source_in_the_root_is_what_earlier_mounts_have_put_there");
    bind_what_was_mounted_before(false);
}

#[test]
fn a_source_in_the_root_can_have_its_ids_mapped() {
    require_root!("a_source_in_the_root_can_have_its_ids_mapped");
    if let Some(reason) = support::no_id_maps() {
        println!("SKIP a_source_in_the_root_can_have_its_ids_mapped: {reason}");
        return;
    }
    bind_what_was_mounted_before(true);
}

fn bind_what_was_mounted_before(map_ids: bool) {
    for user_namespace in [false, true] {
        let mut bundle = Bundle::script("cat /final/inner/file");
        let hidden = bundle.scratch().join("hidden");
        let (outer, inner) = (hidden.join("outer"), hidden.join("inner"));
        fs::create_dir_all(outer.join("inner")).expect("mkdir");
        fs::create_dir_all(&inner).expect("mkdir");
        fs::write(inner.join("file"), "found\n").expect("write");
        fs::create_dir(bundle.rootfs().join("mnt")).expect("mkdir");
        // The container's root cannot get there by itself.
        fs::set_permissions(&hidden, fs::Permissions::from_mode(0o700)).expect("chmod");
        bundle.change("/mounts/-", bind(&outer, "/mnt", &["bind"]));
        bundle.change("/mounts/-", bind(&inner, "/mnt/inner", &["bind"]));
        let options: &[&str] = if map_ids { &["rbind", "idmap"] } else { &["rbind"] };
        let mut last = bind(&bundle.rootfs().join("mnt"), "/final", options);
        if map_ids {
            let map = json!([{"containerID": 0, "hostID": 0, "size": 65_536}]);
            last["uidMappings"] = map.clone();
            last["gidMappings"] = map;
        }
        bundle.change("/mounts/-", last);
        if user_namespace {
            bundle = in_user_namespace(bundle);
        }
        assert_eq!(bundle.output(), "found\n", "user namespace {user_namespace}");
        bundle.assert_nothing_left();
    }
}

#[test]
fn a_user_namespace_keeps_what_the_hosts_mount_forbids() {
    require_root!("a_user_namespace_keeps_what_the_hosts_mount_forbids");
    let bundle = |options: &[&str]| {
        let bundle = Bundle::script(SHOW_M);
        let source = bundle.scratch().join("source");
        fs::create_dir(&source).expect("mkdir");
        // A mount of the test's own, in the namespace of the command: unshare(1) makes both.
        let mounted = bind(&source, "/m", options);
        in_user_namespace(bundle.set("/mounts/-", mounted))
    };
    let run = |bundle: &Bundle| {
        let source = bundle.scratch().join("source");
        let script = r#"mount -t tmpfs none "$0" && mount -o remount,bind,ro,nodev,noatime "$0" && exec "$@""#;
        let command = bundle.command(&["run", &bundle.id]);
        let mut outer = std::process::Command::new("unshare");
        outer.args(["-m", "sh", "-c", script]).arg(source).arg(command.get_program()).args(command.get_args());
        support::outcome(outer.current_dir(bundle.path()).output().expect("run unshare"))
    };
    let words = |text: &str| text.trim().split(',').map(str::to_string).collect::<Vec<_>>();
    // Named options are added; what is not named stays as it is on the host.
    let kept = bundle(&["bind", "nosuid"]);
    let outcome = run(&kept);
    let options = words(&outcome.stdout);
    for word in ["ro", "nodev", "noatime", "nosuid"] {
        assert!(options.contains(&word.to_string()), "{word}: {outcome:?}");
    }
    kept.assert_nothing_left();
    // What would take a lock away is refused.
    for option in ["rw", "dev", "strictatime"] {
        let refused = bundle(&["bind", option]);
        let outcome = run(&refused);
        assert_eq!(outcome.code, Some(1), "{option}: {outcome:?}");
        assert!(outcome.stderr.contains("error mounting") && outcome.stderr.contains("EPERM"), "{outcome:?}");
        refused.assert_nothing_left();
    }
}

#[test]
fn a_remount_changes_what_is_mounted_there() {
    require_root!("a_remount_changes_what_is_mounted_there");
    let tmpfs = json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "size=64k"]});
    let whole =
        json!({"destination": "/m", "type": "tmpfs", "source": "tmpfs", "options": ["remount", "ro", "size=128k"]});
    let options = options_at(&Bundle::script(SHOW_M).set("/mounts/-", tmpfs.clone()).set("/mounts/-", whole));
    assert!(options.contains(&"ro".into()) && options.contains(&"size=128k".into()), "{options:?}");
    assert!(!options.contains(&"nosuid".into()), "{options:?}");
    let mount_only =
        json!({"destination": "/m", "type": "none", "source": "x", "options": ["remount", "bind", "noexec"]});
    let options = options_at(&Bundle::script(SHOW_M).set("/mounts/-", tmpfs).set("/mounts/-", mount_only));
    assert!(options.contains(&"noexec".into()) && options.contains(&"size=64k".into()), "{options:?}");
    // There must be a mount.
    let nothing = json!({"destination": "/tmp", "type": "none", "source": "x", "options": ["remount", "bind", "ro"]});
    let outcome = Bundle::new(&["true"]).set("/mounts/-", nothing).run();
    assert_eq!(outcome.code, Some(1));
    assert!(outcome.stderr.contains("/tmp, mounting it anew"), "{outcome:?}");
}

#[test]
fn links_are_bound_themselves_where_the_options_say_so() {
    require_root!("links_are_bound_themselves_where_the_options_say_so");
    let bundle = Bundle::script("cat /link; readlink /link; readlink /there || cat /there");
    let (target, link) = (bundle.scratch().join("target"), bundle.scratch().join("link"));
    fs::write(&target, "content\n").expect("write");
    symlink("target", &link).expect("link");
    symlink("elsewhere", bundle.rootfs().join("link")).expect("link");
    fs::write(bundle.rootfs().join("elsewhere"), "elsewhere\n").expect("write");
    // The link of the root is covered by a file, and a link of the host covers a file.
    let over_link = bind(&target, "/link", &["bind", "dest-nofollow"]);
    let a_link = bind(&link, "/there", &["bind", "src-nofollow"]);
    let bundle = bundle.set("/mounts/-", over_link).set("/mounts/-", a_link);
    assert_eq!(bundle.output(), "content\ntarget\n");
    bundle.assert_nothing_left();
    let tmpfs = json!({"destination": "/m", "type": "tmpfs", "source": "x", "options": ["src-nofollow"]});
    let outcome = Bundle::new(&["true"]).set("/mounts/-", tmpfs).run();
    assert!(outcome.stderr.contains("src-nofollow is only for bind mounts"), "{outcome:?}");
}
