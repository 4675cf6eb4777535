//! `linux.seccomp`.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, require_root};
use serde_json::{Value, json};

#[test]
fn a_wrong_profile_is_named() {
    require_root!("a_wrong_profile_is_named");
    let profile = |key: &str, value: Value| json!({"defaultAction": "SCMP_ACT_ALLOW", key: value});
    let rule = |rule: Value| profile("syscalls", json!([rule]));
    let argument = |index: u32, op: &str| {
        rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "args": [{"index": index, "value": 0, "op": op}]}))
    };
    let action = "linux.seccomp.defaultAction";
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/linux/seccomp", json!({}), &["linux.seccomp", "missing field \"defaultAction\""]),
            (
                "/linux/seccomp",
                json!({"defaultAction": "SCMP_ACT_MAYBE"}),
                &[action, "SCMP_ACT_MAYBE", "SCMP_ACT_ALLOW"],
            ),
            ("/linux/seccomp", json!({"defaultAction": "SCMP_ACT_NOTIFY"}), &[action, "SCMP_ACT_NOTIFY"]),
            ("/linux/seccomp", profile("defaultErrnoRet", json!(5000)), &["linux.seccomp.defaultErrnoRet", "4095"]),
            (
                "/linux/seccomp",
                profile("defaultErrnoRet", json!(-1)),
                &["linux.seccomp.defaultErrnoRet", "invalid value"],
            ),
            (
                "/linux/seccomp",
                profile("architectures", json!(["SCMP_ARCH_X86_64", "SCMP_ARCH_VAX"])),
                &["linux.seccomp.architectures[1]", "SCMP_ARCH_VAX", "allowed"],
            ),
            (
                "/linux/seccomp",
                profile("flags", json!(["SECCOMP_FILTER_FLAG_X"])),
                &["linux.seccomp.flags[0]", "SECCOMP_FILTER_FLAG_X", "SECCOMP_FILTER_FLAG_LOG"],
            ),
            ("/linux/seccomp", rule(json!({"names": ["mkdir"]})), &["linux.seccomp.syscalls[0]", "\"action\""]),
            ("/linux/seccomp", rule(json!({"action": "SCMP_ACT_ERRNO"})), &["linux.seccomp.syscalls[0]", "\"names\""]),
            (
                "/linux/seccomp",
                rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 4096})),
                &["linux.seccomp.syscalls[0].errnoRet", "4096", "4095"],
            ),
            ("/linux/seccomp", argument(6, "SCMP_CMP_EQ"), &["linux.seccomp.syscalls[0].args[0].index", "0 to 5"]),
            ("/linux/seccomp", argument(0, "SCMP_CMP_X"), &["linux.seccomp.syscalls[0].args[0].op", "SCMP_CMP_EQ"]),
            (
                "/linux/seccomp",
                rule(json!({"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"})),
                &["linux.seccomp.listenerPath", "SCMP_ACT_NOTIFY"],
            ),
            (
                "/linux/seccomp",
                rule(json!({"names": ["write"], "action": "SCMP_ACT_NOTIFY"})),
                &["linux.seccomp.syscalls[0].names", "write"],
            ),
        ],
    );
}
