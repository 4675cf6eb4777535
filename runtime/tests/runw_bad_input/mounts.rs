//! `mounts`.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, require_root};
use serde_json::{Value, json};
use std::os::unix::fs::symlink;

fn bind(source: &str, destination: &str) -> Value {
    json!({"destination": destination, "source": source, "options": ["bind"]})
}

fn tmpfs(destination: &str, options: Value) -> Value {
    json!({"destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options})
}

#[test]
fn a_wrong_mount_is_named() {
    require_root!("a_wrong_mount_is_named");
    let bundle = Bundle::new(&["true"]);
    symlink("loop", bundle.rootfs().join("loop")).expect("symlink");
    let map = json!([{"containerID": 0, "hostID": 0, "size": 1}]);
    let with = |key: &str, value: Value| {
        let mut mount = bind("/etc", "/m");
        mount[key] = value;
        mount
    };
    assert_all_refused(
        bundle,
        &[
            ("/mounts/-", bind("/nonexistent", "/m"), &["mounts[7]", "open source /nonexistent", "ENOENT"]),
            ("/mounts/-", bind("a\0b", "/m"), &["mounts[7].source", "NUL"]),
            ("/mounts/-", json!({"destination": "/m", "options": ["bind"]}), &["mounts[7].source", "missing"]),
            ("/mounts/-", json!({"destination": "/m"}), &["mounts[7].type", "file system type"]),
            ("/mounts/-", json!({"type": "tmpfs"}), &["mounts[7]", "missing field \"destination\""]),
            ("/mounts/-", json!({"destination": 5, "type": "tmpfs"}), &["mounts[7].destination", "invalid type"]),
            ("/mounts/-", tmpfs("", json!([])), &["mounts[7].destination", "empty"]),
            ("/mounts/-", tmpfs("/a\0", json!([])), &["mounts[7].destination", "NUL"]),
            ("/mounts/-", tmpfs("/loop/x", json!([])), &["mounts[7]", "/loop/x", "ELOOP"]),
            ("/mounts/-", tmpfs("/bin/busybox/x", json!([])), &["mounts[7]", "/bin/busybox/x", "ENOTDIR"]),
            ("/mounts/-", tmpfs("/bin/busybox", json!([])), &["mounts[7]", "/bin/busybox", "ENOTDIR"]),
            ("/mounts/-", bind("/etc", "/bin/busybox"), &["mounts[7]", "/bin/busybox", "ENOTDIR"]),
            ("/mounts/-", bind("/etc/passwd", "/tmp"), &["mounts[7]", "/tmp", "EISDIR"]),
            (
                "/mounts/-",
                json!({"destination": "/m", "type": "nofs", "source": "x"}),
                &["mounts[7]", "nofs", "ENODEV"],
            ),
            ("/mounts/-", json!({"destination": "/m", "type": "a/b"}), &["mounts[7].type", "\"a/b\""]),
            ("/mounts/-", json!({"destination": "/m", "type": "a\0"}), &["mounts[7].type"]),
            ("/mounts/-", tmpfs("/m", json!(["nonsense"])), &["mounts[7]", "tmpfs on /m", "nonsense", "EINVAL"]),
            ("/mounts/-", tmpfs("/m", json!(["size=abc"])), &["mounts[7]", "tmpfs on /m", "size", "EINVAL"]),
            ("/mounts/-", tmpfs("/m", json!(["mode=\0"])), &["mounts[7].options[0]", "NUL"]),
            ("/mounts/-", tmpfs("/m", json!("ro")), &["mounts[7].options", "invalid type"]),
            ("/mounts/-", tmpfs("/m", json!(["ro", 7])), &["mounts[7].options[1]", "invalid type"]),
            ("/mounts/-", with("options", json!(["bind", "tmpcopyup"])), &["mounts[7].options", "only for type tmpfs"]),
            ("/mounts/-", with("options", json!(["bind", "idmap"])), &["mounts[7].options", "needs a user namespace"]),
            ("/mounts/-", with("uidMappings", map.clone()), &["mounts[7].gidMappings", "together"]),
            ("/mounts/-", with("uidMappings", json!({"hostID": 0})), &["mounts[7].uidMappings", "invalid type"]),
            (
                "/mounts/-",
                json!({"destination": "/m", "type": "tmpfs", "uidMappings": map, "gidMappings": map}),
                &["mounts[7].uidMappings", "only possible for bind mounts"],
            ),
        ],
    );
}

#[test]
fn a_wrong_id_mapping_of_a_mount_is_named() {
    require_root!("a_wrong_id_mapping_of_a_mount_is_named");
    let mapped = |map: Value| json!({"destination": "/m", "source": "/etc", "options": ["bind"], "uidMappings": map, "gidMappings": map});
    let entry = |container: u32, host: u32, size: u32| json!({"containerID": container, "hostID": host, "size": size});
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/mounts/-", mapped(json!([entry(0, 0, 0)])), &["mounts[7].uidMappings[0].size", "allowed: 1 and more"]),
            (
                "/mounts/-",
                mapped(json!([entry(0, 0, 10), entry(5, 100, 10)])),
                &["mounts[7].uidMappings[1]", "overlaps"],
            ),
            ("/mounts/-", mapped(json!([entry(u32::MAX, 0, 2)])), &["mounts[7].uidMappings[0]", "beyond"]),
        ],
    );
}

#[test]
fn nothing_is_mounted_in_proc_whatever_the_path() {
    require_root!("nothing_is_mounted_in_proc_whatever_the_path");
    let bundle = Bundle::new(&["true"]);
    symlink("proc", bundle.rootfs().join("linked")).expect("symlink");
    symlink("../../proc/../../../proc/self", bundle.rootfs().join("etc/deep")).expect("symlink");
    let inside = &["mounts[7]", "inside /proc"];
    assert_all_refused(
        bundle,
        &[
            ("/mounts/-", tmpfs("/proc", json!([])), inside),
            ("/mounts/-", tmpfs("/proc/self", json!([])), inside),
            ("/mounts/-", tmpfs("proc/1", json!([])), inside),
            ("/mounts/-", tmpfs("/x/../proc/sys", json!([])), inside),
            ("/mounts/-", tmpfs("/../proc", json!([])), inside),
            ("/mounts/-", tmpfs("/linked/self/attr", json!([])), inside),
            ("/mounts/-", tmpfs("/etc/deep/task", json!([])), inside),
            ("/mounts/-", bind("/etc", "/proc"), inside),
            ("/mounts/-", bind("/proc/../etc", "/proc"), inside),
            ("/mounts/-", bind("/proc/sys", "/proc"), inside),
            ("/mounts/-", bind("/etc/passwd", "/linked/self/attr/exec"), inside),
            ("/mounts/-", json!({"destination": "/linked/self", "type": "cgroup", "source": "cgroup"}), inside),
        ],
    );
}
