//! The top of the document: version, root, host names, annotations, hooks, other platforms.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, assert_refused, require_root};
use serde_json::json;
use std::fs;
use std::os::unix::fs::symlink;

#[test]
fn a_wrong_version_root_name_or_platform_is_named() {
    require_root!("a_wrong_version_root_name_or_platform_is_named");
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/ociVersion", json!("2.0.0"), &["ociVersion", "\"2.0.0\"", "allowed: 1.0.0"]),
            ("/ociVersion", json!(""), &["ociVersion", "\"\"", "allowed"]),
            ("/ociVersion", json!("1"), &["ociVersion", "\"1\"", "allowed"]),
            ("/ociVersion", json!(1.0), &["ociVersion", "invalid type"]),
            ("/root/path", json!("nowhere"), &["root.path", "nowhere", "ENOENT"]),
            ("/root/path", json!("config.json"), &["root.path", "is not a directory"]),
            ("/root/path", json!(""), &["root.path", "empty"]),
            ("/root/path", json!("a\0b"), &["root.path", "NUL"]),
            ("/root/readonly", json!("yes"), &["root.readonly", "invalid type"]),
            ("/root", json!("rootfs"), &["root", "invalid type"]),
            ("/hostname", json!("x".repeat(65)), &["hostname", "64 bytes"]),
            ("/hostname", json!(5), &["hostname", "invalid type"]),
            ("/domainname", json!("x".repeat(65)), &["domainname", "64 bytes"]),
            ("/annotations", json!({"key": 5}), &["annotations.key", "invalid type"]),
            ("/annotations", json!(["a"]), &["annotations", "invalid type"]),
            ("/windows", json!({"layerFolders": ["x"]}), &["windows", "another platform; allowed: linux"]),
            ("/solaris", json!({}), &["solaris", "another platform; allowed: linux"]),
            ("/vm", json!({"kernel": {"path": "/vmlinuz"}}), &["vm", "another platform; allowed: linux"]),
            ("/zos", json!({}), &["zos", "another platform; allowed: linux"]),
        ],
    );
}

#[test]
fn a_host_name_without_a_namespace_of_its_own_is_refused() {
    require_root!("a_host_name_without_a_namespace_of_its_own_is_refused");
    let mut bundle = Bundle::new(&["true"]).set("/hostname", json!("inside"));
    let namespaces = bundle.config["linux"]["namespaces"].as_array_mut().expect("namespaces");
    namespaces.retain(|namespace| namespace["type"] != "uts");
    assert_refused(&bundle, &bundle.run(), &["hostname", "no uts namespace"]);
    bundle.change("/linux/namespaces/-", json!({"type": "uts", "path": "/proc/self/ns/uts"}));
    assert_refused(&bundle, &bundle.run(), &["hostname", "would change the host"]);
}

#[test]
fn a_root_that_is_a_link_out_of_the_bundle_is_refused() {
    require_root!("a_root_that_is_a_link_out_of_the_bundle_is_refused");
    let bundle = Bundle::new(&["true"]);
    fs::rename(bundle.rootfs(), bundle.scratch().join("elsewhere")).expect("rename");
    for target in ["/", "../elsewhere", "rootfs"] {
        symlink(target, bundle.rootfs()).expect("symlink");
        assert_refused(&bundle, &bundle.run(), &["root.path", "symbolic link"]);
        fs::remove_file(bundle.rootfs()).expect("remove");
    }
}

#[test]
fn a_wrong_hook_is_named() {
    require_root!("a_wrong_hook_is_named");
    let hook = |kind: &str, hook: serde_json::Value| json!({kind: [{"path": "/bin/true"}, hook]});
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/hooks", hook("poststart", json!({"path": "relative"})), &["hooks.poststart[1].path", "absolute"]),
            ("/hooks", hook("prestart", json!({"args": ["x"]})), &["hooks.prestart[1]", "missing field \"path\""]),
            (
                "/hooks",
                hook("poststop", json!({"path": "/x", "timeout": 0})),
                &["hooks.poststop[1].timeout", "positive"],
            ),
            (
                "/hooks",
                hook("poststop", json!({"path": "/x", "timeout": -3})),
                &["hooks.poststop[1].timeout", "positive"],
            ),
            (
                "/hooks",
                hook("createContainer", json!({"path": "/x", "args": ["x", "a\0"]})),
                &["hooks.createContainer[1].args[1]", "NUL"],
            ),
            (
                "/hooks",
                hook("startContainer", json!({"path": "/x", "env": ["A=\0"]})),
                &["hooks.startContainer[1].env[0]", "NUL"],
            ),
            ("/hooks", hook("poststop", json!({"path": "/x\0"})), &["hooks.poststop[1].path", "NUL"]),
            ("/hooks", json!({"createRuntime": {"path": "/x"}}), &["hooks.createRuntime", "invalid type"]),
            (
                "/hooks",
                hook("createRuntime", json!({"path": "/no/such/hook"})),
                &["error running createRuntime hook #1: /no/such/hook", "ENOENT"],
            ),
        ],
    );
}
