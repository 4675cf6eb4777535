//! `process`: program, environment, user, limits, scheduling.

use crate::support::{self, Bundle};
use crate::{assert_all_refused, require_root};
use serde_json::json;

#[test]
fn a_wrong_program_or_environment_is_named() {
    require_root!("a_wrong_program_or_environment_is_named");
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/process/args", json!([]), &["process.args", "missing or empty"]),
            ("/process/args", json!([""]), &["process.args[0]", "empty"]),
            ("/process/args", json!("sh"), &["process.args", "invalid type: string \"sh\""]),
            ("/process/args", json!([7]), &["process.args[0]", "invalid type: integer"]),
            ("/process/args", json!(["true", "a\0b"]), &["process.args[1]", "NUL"]),
            ("/process/args", json!(["no-such-program"]), &["process.args[0]", "executable file not found in $PATH"]),
            ("/process/args", json!(["/etc"]), &["process.args[0]", "find program /etc", "is a directory"]),
            ("/process/args", json!(["/proc/version"]), &["process.args[0]", "/proc/version", "permission denied"]),
            ("/process/args", json!(["/bin/sh/x"]), &["process.args[0]", "/bin/sh/x", "not a directory"]),
            ("/process/cwd", json!("tmp"), &["process.cwd", "\"tmp\"", "absolute path"]),
            ("/process/cwd", json!(""), &["process.cwd", "absolute path"]),
            ("/process/cwd", json!(["/"]), &["process.cwd", "invalid type"]),
            ("/process/cwd", json!("/a\0b"), &["process.cwd", "NUL"]),
            ("/process/cwd", json!("/no/such/directory"), &["process.cwd", "/no/such/directory", "ENOENT"]),
            ("/process/cwd", json!("/bin/busybox"), &["process.cwd", "/bin/busybox", "ENOTDIR"]),
            ("/process/env", json!(["PATH=/bin", "A"]), &["process.env[1]", "\"A\"", "NAME=value"]),
            ("/process/env", json!(["=x"]), &["process.env[0]", "\"=x\"", "NAME=value"]),
            ("/process/env", json!(["A=\0"]), &["process.env[0]", "NUL"]),
            ("/process/env", json!({"A": "x"}), &["process.env", "invalid type"]),
            ("/process/terminal", json!("yes"), &["process.terminal", "invalid type"]),
            ("/process/noNewPrivileges", json!(1), &["process.noNewPrivileges", "invalid type"]),
            ("/process/consoleSize", json!({"height": 70000, "width": 80}), &["process.consoleSize", "65535"]),
            (
                "/process/consoleSize",
                json!({"height": "x", "width": 80}),
                &["process.consoleSize.height", "invalid type"],
            ),
        ],
    );
}

#[test]
fn a_wrong_user_is_named() {
    require_root!("a_wrong_user_is_named");
    let (many, groups) = (vec![5; 65_537], "process.user.additionalGids");
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/process/user/uid", json!(-1), &["process.user.uid", "invalid value"]),
            ("/process/user/uid", json!(4_294_967_296u64), &["process.user.uid", "invalid value"]),
            ("/process/user/uid", json!(u32::MAX), &["process.user.uid", "4294967295", "allowed: 0 to 4294967294"]),
            ("/process/user/uid", json!("1000foo"), &["process.user.uid", "1000foo", "invalid type"]),
            ("/process/user/uid", json!("0"), &["process.user.uid", "invalid type"]),
            ("/process/user/uid", json!(1.5), &["process.user.uid", "1.5"]),
            ("/process/user/gid", json!(u32::MAX), &["process.user.gid", "allowed: 0 to 4294967294"]),
            ("/process/user/gid", json!("wheel"), &["process.user.gid", "\"wheel\""]),
            ("/process/user/additionalGids", json!([1, u32::MAX]), &["process.user.additionalGids[1]", "4294967294"]),
            ("/process/user/additionalGids", json!([-5]), &["process.user.additionalGids[0]", "invalid value"]),
            ("/process/user/additionalGids", json!(many), &[groups, "65537 groups", "allowed: up to 65536"]),
            ("/process/user/umask", json!(0o1000), &["process.user.umask", "0777"]),
            ("/process/user/umask", json!("022"), &["process.user.umask", "invalid type"]),
            ("/process/capabilities", json!(["CAP_CHOWN"]), &["process.capabilities"]),
            ("/process/capabilities/bounding", json!("CAP_CHOWN"), &["process.capabilities.bounding", "invalid type"]),
            ("/process/capabilities/effective", json!([5]), &["process.capabilities.effective"]),
        ],
    );
}

#[test]
fn wrong_limits_and_scheduling_are_named() {
    require_root!("wrong_limits_and_scheduling_are_named");
    let limit = |kind: &str, soft: i64, hard: i64| json!({"type": kind, "soft": soft, "hard": hard});
    assert_all_refused(
        Bundle::new(&["true"]),
        &[
            ("/process/rlimits", json!([limit("RLIMIT_X", 1, 1)]), &["process.rlimits[0].type", "RLIMIT_CPU"]),
            ("/process/rlimits", json!([limit("RLIMIT_CPU", 2, 1)]), &["process.rlimits[0].soft", "hard limit 1"]),
            ("/process/rlimits", json!([limit("RLIMIT_CPU", 1, -1)]), &["process.rlimits[0].hard", "invalid value"]),
            (
                "/process/rlimits",
                json!([limit("RLIMIT_CPU", 1, 1), limit("RLIMIT_CPU", 1, 1)]),
                &["process.rlimits[1].type", "RLIMIT_CPU", "twice"],
            ),
            ("/process/oomScoreAdj", json!(2000), &["process.oomScoreAdj", "2000", "-1000 to 1000"]),
            ("/process/oomScoreAdj", json!("x"), &["process.oomScoreAdj", "invalid type"]),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_BE", "priority": 9}),
                &["process.ioPriority.priority", "9", "0 to 7"],
            ),
            (
                "/process/ioPriority",
                json!({"class": "IOPRIO_CLASS_XX", "priority": 1}),
                &["process.ioPriority.class", "IOPRIO_CLASS_XX", "IOPRIO_CLASS_BE"],
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_OTHER", "nice": 99}),
                &["process.scheduler.nice", "99", "-20 to 19"],
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_X"}),
                &["process.scheduler.policy", "SCHED_X", "SCHED_FIFO"],
            ),
            ("/process/scheduler", json!({"nice": 1}), &["process.scheduler", "missing field \"policy\""]),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_OTHER", "priority": 5}),
                &["process.scheduler.priority", "only for SCHED_FIFO and SCHED_RR"],
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_FIFO", "priority": -1}),
                &["process.scheduler.priority", "-1 is negative"],
            ),
            ("/process/scheduler", json!({"policy": "SCHED_FIFO", "priority": 1000}), &["process.scheduler", "EINVAL"]),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_BATCH", "runtime": 1000}),
                &["process.scheduler.runtime", "only for SCHED_DEADLINE"],
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_DEADLINE", "runtime": 5, "deadline": 4, "period": 3}),
                &["process.scheduler", "EINVAL"],
            ),
            (
                "/process/scheduler",
                json!({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_X"]}),
                &["process.scheduler.flags[0]", "SCHED_FLAG_X", "allowed"],
            ),
            ("/process/execCPUAffinity", json!({"initial": "a"}), &["process.execCPUAffinity", "format: a"]),
            (
                "/process/execCPUAffinity",
                json!({"final": "3-1"}),
                &["process.execCPUAffinity.final", "\"3-1\"", "0-3,7"],
            ),
            ("/process/execCPUAffinity", json!({"final": "0-9999"}), &["process.execCPUAffinity.final", "8191"]),
            ("/process/execCPUAffinity", json!({"initial": 0}), &["process.execCPUAffinity.initial", "invalid type"]),
        ],
    );
}
